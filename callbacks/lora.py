"""LoRA: trains low-rank updates of chosen layers and freezes everything else.

Paper: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv 2106.09685; rsLoRA: Kalajdzievski
2023, arXiv 2312.03732; DoRA: Liu et al. 2024, arXiv 2402.09353.

A layer's weight W becomes W + s·B·A with A (r, in), B (out, r) and s = alpha / r (alpha / sqrt(r) for rsLoRA); B is
initialised to zero, so that the model's output does not change at first. The layers and their initialisations are those
of the library ``peft``.

Works on Linear, Conv1d, Conv2d, Conv3d, Embedding and GPT-2's Conv1D layers of any module: timm, transformers, your
own. It works with every technique; ``kappa_tune`` chooses the layers if both are configured. ``framework.fold(model)``
merges the updates into plain layers, ``framework.editing.undo(model, "lora")`` removes them, :func:`disabled` switches
them off temporarily. It takes about 1 ms per layer, and a few seconds to import peft.

Limits: a layer whose weight is tied to another's is not adapted, since merging would change both; initialisations that
change the base weight (``pissa``, ``olora``, …) can be merged but not undone; if a model reads a layer's weight instead
of calling the layer, the adapter has no effect (torch's encoder layers do so in evaluation; this is prevented).
"""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from framework.editing import Context, Once, Plan, choose
from framework.editing.capabilities import ADAPTERS
from framework.editing.names import all_names, matches
from framework.editing.registry import find_technique
from framework.errors import UserError
from framework.settings import above, at_least, between, multiple_of, one_of

if TYPE_CHECKING:
    from peft.tuners.lora import LoraLayer

LayerClass = Literal["Linear", "Conv1d", "Conv2d", "Conv3d", "Embedding", "Conv1D"]
KINDS: tuple[LayerClass, ...] = get_args(LayerClass)
INITIALISATIONS = ("gaussian", "orthogonal", "olora", "pissa", "pissa_niter_[number of iterations]")
_OFFICIAL = (True, False)


def adaptable(model: nn.Module, classes: Sequence[str] = ("Linear", "Conv1D")) -> list[str]:
    """Returns the names of the layers of these classes that can be adapted: not tied, and not adapted already.

    Args:
        model: Any module.
        classes: Any of ``Linear``, ``Conv1d``, ``Conv2d``, ``Conv3d``, ``Embedding`` and ``Conv1D`` (GPT-2's).
    """
    tied = {id(p) for p in model.parameters()} & {key for key, names in all_names(model).items() if len(names) > 1}
    found = []
    for name, module in model.named_modules():
        inside = ".base_layer" in name or ".lora_" in name or hasattr(module, "base_layer")  # peft's layers
        if type(module).__name__ in classes and name and not inside and id(getattr(module, "weight", None)) not in tied:
            found.append(name)
    return found


def output_layers(model: nn.Module) -> list[str]:
    """Returns the names of a model's output layers: timm's classifier, transformers' output embeddings."""
    layers: list[nn.Module] = []
    for module in model.modules():
        for method in ("get_classifier", "get_output_embeddings"):
            get = getattr(module, method, None)
            if callable(get):
                with contextlib.suppress(NotImplementedError, AttributeError, TypeError):
                    layers.append(get())
    wanted = {id(part) for layer in layers if isinstance(layer, nn.Module) for part in layer.modules()}
    return [name for name, module in model.named_modules() if id(module) in wanted and name]


def add_lora(
    model: nn.Module,
    targets: Sequence[str],
    *,
    rank: int = 8,
    alpha: float = 16.0,
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
    init: bool | str = True,
    target_parameters: Sequence[str] = (),
    adapter: str = "lora",
) -> None:
    """Adds adapters to layers, in place. The new tensors are trainable; other parameters keep their trainability.

    Args:
        model: Any module.
        targets: Full names of layers.
        rank: Rank r.
        alpha: The update is scaled by alpha / r.
        dropout: Probability of dropping an input of the update.
        rslora: Whether to scale by alpha / sqrt(r).
        dora: Whether to learn direction and magnitude separately (DoRA).
        init: As ``peft.LoraConfig.init_lora_weights``; uses the global generators.
        target_parameters: Full names of three-dimensional expert parameters, adapted as parameters.
        adapter: Name of the adapter within the layers.
    """
    from peft import LoraConfig, inject_adapter_in_model

    kinds = {type(model.get_submodule(name)).__name__ for name in targets}
    settings: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "use_rslora": rslora,
        "use_dora": dora,
        "init_lora_weights": init,
        "fan_in_fan_out": kinds == {"Conv1D"},
        "target_parameters": list(target_parameters) or None,
    }
    where, names = model, list(targets)
    if not target_parameters:  # peft iterates many times over its model: it only gets the layers, in the model's order
        wanted = set(targets)
        names = [name for name, _ in model.named_modules() if name in wanted]
        where = nn.ModuleList(map(model.get_submodule, names))
    # a pattern, because in a list "fc" would also match "blocks.0.fc"
    patterns = names if where is model else map(str, range(len(names)))
    settings["target_modules"] = "|".join(map(re.escape, patterns)) if names else []
    flags = [(parameter, parameter.requires_grad) for parameter in where.parameters()]
    others = {layer: list(layer.active_adapters) for layer in lora_layers(where).values()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(LoraConfig(**settings), where, adapter)
    if where is not model:
        for name, adapted in zip(names, where.children(), strict=True):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, adapted)
    elif hasattr(model, "peft_config"):
        del model.peft_config  # otherwise a second set of adapters would be treated as a change of this one
    for layer, active in others.items():
        layer.set_adapter(active)  # type: ignore[attr-defined] # peft switches to the newest adapter everywhere
    for parameter, flag in flags:
        parameter.requires_grad_(flag)
    _refuse_shortcuts(model)


def _refuse_shortcuts(model: nn.Module) -> None:
    """Prevents torch's encoder layers from using their bare weights in evaluation, without the adapters, by a hook.

    The hook is on the adapted layers, so it is removed with them.
    """
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            layers: list[Any] = list(lora_layers(module).values())
            for layer in layers:
                if not layer._forward_pre_hooks:
                    layer.register_forward_pre_hook(_nothing)


def _nothing(module: nn.Module, inputs: Any) -> None:
    """A hook that does nothing."""


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Returns the adapted layers by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


@contextlib.contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """A context manager in which the model computes exactly its output without the adapters."""
    layers: list[Any] = list(lora_layers(model).values())
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    was = [layer.disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer, off in zip(layers, was, strict=True):
            layer.enable_adapters(not off)
        for parameter, flag in flags:  # peft changes requires_grad together with the adapters
            parameter.requires_grad_(flag)


def unload(model: nn.Module, adapter: str | None = None) -> nn.Module:
    """Removes the adapters, in place; other layers that were trained keep their values."""
    return _remove(model, adapter, merge=False)


def merge(model: nn.Module, adapter: str | None = None) -> nn.Module:
    """Adds every update to its layer's weight and removes the adapters, in place.

    The output stays the same except for rounding. Raises:
        UserError: an update is not finite.
    """
    return _remove(model, adapter, merge=True)


def _remove(model: nn.Module, adapter: str | None, merge: bool) -> nn.Module:
    layers: dict[str, Any] = dict(lora_layers(model))
    for name, layer in reversed(layers.items()):
        if adapter is not None and adapter not in layer.lora_A and adapter not in layer.lora_embedding_A:
            continue
        base = layer.get_base_layer()
        if merge:
            flag = base.weight.requires_grad
            try:
                layer.merge(safe_merge=True)
            except ValueError as error:
                raise UserError(f"lora: {name} cannot be merged: {error}") from error
            base.weight.requires_grad_(flag)
        _put_back(model, name, layer, base)
    return model


def _put_back(model: nn.Module, name: str, layer: Any, base: nn.Module) -> None:
    if hasattr(layer, "unload_and_optionally_merge_module"):  # a parametrised parameter, not a layer
        base = layer.unload_and_optionally_merge_module(merge=False, safe_merge=False, adapter_names=None)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, base)


class LoRA(Once):
    """Adds adapters to a model and trains only them.

    Args:
        rank: Rank r of the update.
        alpha: The update is scaled by alpha / rank.
        dropout: Probability of dropping an input of the update.
        target_modules: Names or patterns of layers (``attn.qkv``, ``blocks.*.mlp.fc1``). By default all of
            ``target_classes`` except the output layers; ``kappa_tune`` chooses them if it is configured.
        exclude_modules: Names or patterns of layers to leave out.
        target_classes: Any of ``Linear``, ``Conv1D`` (GPT-2's), ``Conv1d``, ``Conv2d``, ``Conv3d``, ``Embedding``. By
            default the first two, and convolutions in a model that has none of them except its output.
        use_rslora: Whether to scale by alpha / sqrt(rank).
        use_dora: Whether to learn direction and magnitude separately.
        init_lora_weights: ``true`` (A as a Linear layer's, B zero), ``gaussian``, ``orthogonal``, ``olora``, ``pissa``,
            ``pissa_niter_16``, or ``false`` (a random update, for tests).
        trainable_modules: Names or patterns of fully trained modules. By default the classifier of a timm model; ``[]``
            for none.
        epoch: Epoch before which it is done. By default at the start, or when earlier techniques leave plain layers.

    Raises:
        UserError: a setting is not accepted, or no layer of the model can be adapted.
    """

    technique: ClassVar[str] = "lora"
    changes: ClassVar[frozenset[str]] = frozenset({"structure", "trainability"})
    phase = "adapt"
    offers = frozenset({ADAPTERS})

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        target_modules: list[str] | None = None,
        exclude_modules: list[str] | None = None,
        target_classes: list[LayerClass] | None = None,
        use_rslora: bool = False,
        use_dora: bool = False,
        init_lora_weights: bool | str = True,
        trainable_modules: list[str] | None = None,
        epoch: int | None = None,
    ) -> None:
        above(0, alpha=alpha)
        at_least(0, epoch=epoch)
        at_least(1, rank=rank)
        between(0, 1, "[)", dropout=dropout)
        one_of(KINDS, target_classes=target_classes)
        text = str(init_lora_weights)
        if init_lora_weights not in _OFFICIAL and not re.fullmatch(
            r"gaussian|orthogonal|olora|pissa(_niter_\d+)?", text
        ):
            accepted = ", ".join(INITIALISATIONS)
            raise UserError(f"init_lora_weights: {text!r} is not accepted; true, false, {accepted}")
        if init_lora_weights == "orthogonal":
            multiple_of({"init_lora_weights: orthogonal": 2}, rank=rank)
        self.rank = rank
        self.alpha = alpha
        self.dropout = dropout
        self.target_modules = target_modules
        self.exclude_modules = exclude_modules or []
        self.target_classes = target_classes
        self.use_rslora = use_rslora
        self.use_dora = use_dora
        self.init_lora_weights = init_lora_weights
        self.trainable_modules = trainable_modules
        self.epoch = epoch
        self._looked = False

    def whole(self, model: nn.Module) -> list[str]:
        """Returns the names of the fully trained modules."""
        if self.trainable_modules is None:
            return [name for name in output_layers(model) if hasattr(_owner(model, name), "get_classifier")]
        modules = [name for name, _ in model.named_modules() if name]
        return choose(modules, self.trainable_modules, key=f"{self.name}.trainable_modules")

    def candidates(self, model: nn.Module) -> list[str]:
        """Returns the names of all layers that it could adapt; another technique may choose among them."""
        excluded = [*self.whole(model), *output_layers(model)]

        def of(classes: Sequence[str]) -> list[str]:
            names = adaptable(model, classes)
            return [n for n in names if not (_inside(n, excluded) or matches(n, self.exclude_modules))]

        if self.target_classes is not None:
            return of(self.target_classes)
        return of(("Linear", "Conv1D")) or of(("Conv1d", "Conv2d", "Conv3d"))

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Chooses the layers.

        Raises:
            UserError: a configured layer cannot be adapted, none is left, or another technique chooses them too.
        """
        whole = self.whole(model)
        chooser, parameters = context.decided("target_modules", "target_parameters"), []
        if chooser is not None:
            if self.target_modules is not None:
                raise UserError(
                    f"{self.name}.target_modules: {self.target_modules} is not accepted with {chooser.name}, which "
                    f"chooses the layers; leave it out, or use {chooser.name}'s include and exclude"
                )
            targets = list(chooser.decision.get("target_modules") or [])
            parameters = list(chooser.decision.get("target_parameters") or [])
        elif self.target_modules is None:
            targets = self.candidates(model)
        else:
            layers = [name for name, module in model.named_modules() if type(module).__name__ in KINDS and name]
            targets = choose(layers, self.target_modules, self.exclude_modules, key=f"{self.name}.target_modules")
            targets = [name for name in targets if not _inside(name, whole)]
        if refused := [name for name in targets if name not in adaptable(model, KINDS)]:
            raise UserError(
                f"{self.name}.target_modules: {refused[0]} is tied to another layer or adapted already; leave it out"
            )
        if not targets and not parameters:
            near = [n for n, m in model.named_modules() if n and any(True for _ in m.parameters(recurse=False))][:5]
            raise UserError(
                f"{self.name}.target_modules: no layer is left to adapt; accepted: {', '.join(KINDS)}; first "
                f"layers of the model: {', '.join(near) or 'none'}"
            )
        return {
            "adapter": self.name,
            "targets": targets,
            "parameters": parameters,
            "rank": self.rank,
            "alpha": self.alpha,
            "dropout": self.dropout,
            "rslora": self.use_rslora,
            "dora": self.use_dora,
            "changes_base": isinstance(self.init_lora_weights, str)
            and self.init_lora_weights[:5] in ("olora", "pissa"),
            "trainable": [*_parameters_of(model, whole), *_kept_trainable(context, model, targets, self.name)],
        }

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Adds the adapters, and freezes everything except them and the fully trained modules."""
        _add(model, decision, True)

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Initialises A, and B if it does not start at zero."""
        if self.init_lora_weights is not True:
            unload(model, decision["adapter"])
            _add(model, decision, self.init_lora_weights)

    @classmethod
    def keeps_trained(cls, plan: Plan) -> list[str]:
        """The adapters, and the other trained parameters."""
        return list(plan.trainable or ())

    @classmethod
    def undo(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Removes the adapters.

        Raises:
            UserError: their initialisation changed the layers' own weights.
        """
        if decision["changes_base"]:
            raise UserError("lora cannot be undone: its initialisation changed the layers' weights; fold it instead")
        unload(model, decision["adapter"])

    @classmethod
    def fold(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Merges the adapters."""
        merge(model, decision["adapter"])

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        """Refuses a loss that does not depend on any trained tensor; torch's own error does not name the cause.

        Raises:
            UserError: the loss does not depend on any trained tensor.
        """
        if not loss.requires_grad:
            raise UserError(
                f"{self.name}.target_modules: the loss does not depend on the adapters: the model reads the weights of "
                "the adapted layers instead of calling the layers; choose others"
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Makes the next step's gradients be checked."""
        self._looked = False

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Makes the next step's gradients be checked after an edit during training."""
        self._looked = False

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        """Warns once about adapters without a gradient."""
        if self._looked:
            return
        self._looked = True
        layers: dict[str, Any] = dict(lora_layers(pl_module))
        bypassed = [
            name
            for name, layer in layers.items()
            if all(p.grad is None for n, p in layer.named_parameters() if ".lora_" in f".{n}")
        ]
        if bypassed:
            rank_zero_warn(
                f"{self.name}: {len(bypassed)} adapters had no gradient ({', '.join(bypassed[:3])}): the model does "
                "not call these layers, or reads their weights itself"
            )

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints how many layers were adapted."""
        targets = plan.decision["targets"] + plan.decision["parameters"]
        shown = ", ".join(targets[:3]) + (", …" if len(targets) > 3 else "")
        print(f"{self.name}: rank {self.rank} on {len(targets)} layers ({shown})", file=sys.stderr)


def _add(model: nn.Module, decision: Mapping[str, Any], init: bool | str) -> None:
    adapter = decision["adapter"]
    before = {id(parameter) for parameter in model.parameters()}
    whole = {id(p) for p in (model.get_parameter(name) for name in decision["trainable"])}
    add_lora(
        model,
        decision["targets"],
        rank=decision["rank"],
        alpha=decision["alpha"],
        dropout=decision["dropout"],
        rslora=decision["rslora"],
        dora=decision["dora"],
        init=init,
        target_parameters=decision["parameters"],
        adapter=adapter,
    )
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) not in before or id(parameter) in whole)


def _parameters_of(model: nn.Module, modules: Sequence[str]) -> list[str]:
    owned = {id(p) for name in modules for p in model.get_submodule(name).parameters()}
    return [name for name, parameter in model.named_parameters() if id(parameter) in owned]


def _inside(name: str, modules: Sequence[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _kept_trainable(context: Context, model: nn.Module, targets: Sequence[str], name: str) -> list[str]:
    """Returns the tensors that an earlier technique chose for training, which stay trainable.

    Raises:
        UserError: one of them belongs to a layer that is adapted.
    """
    kept: list[str] = []
    for plan in context.plans:
        technique = find_technique(plan.technique)
        if technique.phase == LoRA.phase and plan.name not in context.techniques:
            continue  # adapters that the model had before this run are not changed
        chosen = technique.keeps_trained(plan)
        if both := [tensor for tensor in chosen if tensor.rpartition(".")[0] in targets]:
            raise UserError(f"{name} and {plan.name} both train {both[0]}; exclude it from one of them")
        kept += chosen
    return list(dict.fromkeys(kept))


def _owner(model: nn.Module, name: str) -> nn.Module | None:
    """Returns the innermost module above ``name`` that declares a layer as its classifier."""
    parts = name.split(".")
    for end in reversed(range(len(parts))):
        module = model.get_submodule(".".join(parts[:end]))
        if hasattr(module, "get_classifier") or hasattr(module, "get_output_embeddings"):
            return module
    return None
