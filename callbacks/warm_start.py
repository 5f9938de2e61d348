"""Warm start: starts training, or each round of it, from earlier weights, shrunk and perturbed.

Paper: Ash & Adams, 2020, "On Warm-Starting Neural Network Training", NeurIPS, arXiv 1910.08475.

θ = λ θ_old + γ θ_new, with λ = ``shrink``, γ = ``perturb`` and θ_new freshly initialised weights of the same model, for
every trainable parameter, including biases and norms; or γ times Gaussian noise of standard deviation ``sigma`` (the
paper's own formula, with γ = 1). Buffers of batch norm and the optimiser are reset. (λ, γ) = (1, 0) is a plain warm
start, (0, 1) a random initialisation; λ = 0.6 is the paper's choice, (0.4, 0.1) the default of its code.

The old weights are the model's own, or those of a file: a checkpoint of this project or of another Lightning module, a
state dict, safetensors. The tensors of a file that fit and that do not fit are listed.

Expected numbers: on MNIST-1D in two rounds, shrinking by 0.6 needs about three quarters of the epochs of a random
initialisation and reaches its accuracy; a plain warm start loses one to two points (``reproduce warm_start``).

Cost: one more model on the CPU during an edit; nothing per step.

With other techniques: fresh weights are drawn by the techniques that draw weights, if they are configured. With LoRA
only the second factor B is shrunk, because shrinking both would multiply their product by λ²; noise is added to A;
frozen weights are not changed. A submodule whose weight is a product of parameters names the other factors in
``second_factors``; they are not changed. KappaTune ranks weights after they were loaded: with shrinking or noise these
are no longer the pretrained ones, so this is refused unless forced. Averages of weights start again after each edit.

Limits: λ applies in every round, so after r rounds the first weights have a factor of λ^r. A file whose weights belong
to an edited structure (adapters, grown layers) must be folded first.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from framework.checkpoints.finding import find_checkpoint
from framework.checkpoints.weights_file import file_sha256, read_weights_file
from framework.editing import Context, Plan, Transform, choose, matches, unique_parameters
from framework.editing.capabilities import FRESH_WEIGHTS, NOISE, RANKING, TRAINED_WEIGHTS
from framework.editing.ledger import read_plans, same_edit, seeded_for
from framework.editing.registry import find_technique
from framework.errors import UserError
from framework.functional.matching import compare_tensors, match_prefix, shortened
from framework.settings import above, at_least, between, not_empty, one_of

if TYPE_CHECKING:
    from framework.functional.matching import WeightsMatch

Source = Literal["fresh", "gaussian"]
When = Literal["start", "rounds"]
_PRETRAINED = ("weights", "pretrained", "checkpoint", "ckpt_path")  # arguments that load pretrained weights
_KEPT = ("lora_embedding_B", "lora_magnitude_vector")  # factors of a product whose other factor is shrunk


def role(name: str) -> str:
    """Returns what is done to a parameter: ``both``, ``shrink`` (LoRA's B), ``perturb`` (its A) or ``none``.

    The update of LoRA is B A, and DoRA's magnitude multiplies it once more: shrinking one factor shrinks the product.
    """
    parts = name.split(".")
    if any(part in _KEPT for part in parts):
        return "none"
    if "lora_B" in parts or "lora_embedding_A" in parts:
        return "shrink"
    return "perturb" if "lora_A" in parts else "both"


def second_factors(module: nn.Module) -> set[int]:
    """Returns the parameters (by identity) that a submodule names in ``second_factors``: they multiply its others."""
    return {id(getattr(part, name)) for part in module.modules() for name in getattr(part, "second_factors", ())}


def targets(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, nn.Parameter]:
    """Returns the parameters to shrink or perturb: trainable, floating-point, each once under its first name.

    Args:
        module: Any module.
        include: Patterns of parameter names; all for ``None``.
        exclude: Patterns of parameter names to leave out.

    Raises:
        UserError: a pattern of ``include`` matches nothing, or nothing is left.
    """
    skipped = second_factors(module)
    candidates = {
        name: parameter
        for name, parameter in unique_parameters(module).items()
        if parameter.requires_grad
        and (parameter.is_floating_point() or parameter.is_complex())
        and id(parameter) not in skipped
        and role(name) != "none"
    }
    chosen = choose(candidates, include, exclude, "warm_start.include")
    if not chosen:
        raise UserError("warm_start: no trainable parameter is left to shrink; see include, exclude and what is frozen")
    return {name: candidates[name] for name in chosen}


def owners(module: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
    """Returns the submodules that directly contain the named parameters, each once, in the order of the model."""
    wanted = {name.rpartition(".")[0] for name in names}
    return ((name, part) for name, part in module.named_modules() if name in wanted)


def fresh_copy(module: nn.Module, names: Sequence[str] | None = None) -> nn.Module:
    """Returns a model like ``module`` with newly initialised named parameters, from the global generators.

    A LightningModule is built again from its saved arguments, with defaults for those that name pretrained weights, if
    that gives the same parameters. Any other model, and one whose structure was edited, is copied, and
    ``reset_parameters()`` of every submodule that owns a named parameter is called.

    Raises:
        UserError: a submodule that owns a named parameter has no ``reset_parameters``.
    """
    names = list(unique_parameters(module)) if names is None else list(names)
    shapes = {name: module.get_parameter(name).shape for name in names}
    rebuilt = _rebuilt(module)
    built = {} if rebuilt is None else dict(rebuilt.named_parameters(remove_duplicate=False))
    known = {name for name, shape in shapes.items() if name in built and built[name].shape == shape}
    if rebuilt is not None and len(known) == len(shapes):
        return rebuilt
    fresh = copy.deepcopy(module)
    for name, part in owners(fresh, [name for name in names if name not in known and role(name) != "shrink"]):
        reset = getattr(part, "reset_parameters", None)
        if not callable(reset):
            raise UserError(
                f"warm_start: {name or 'the model'} ({type(part).__name__}) owns parameters and has no "
                "reset_parameters(); give the function a factory, exclude it, or take source: gaussian"
            )
        reset()
    with torch.no_grad():
        for name in known:
            fresh.get_parameter(name).copy_(built[name])
    return fresh


def _rebuilt(module: nn.Module) -> nn.Module | None:
    if not isinstance(module, LightningModule) or not module.hparams:
        return None
    parameters = inspect.signature(type(module).__init__).parameters
    anything = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    arguments = {
        str(key): copy.deepcopy(value)
        for key, value in module.hparams.items()
        if not str(key).startswith("_") and (anything or key in parameters) and key not in _PRETRAINED
    }
    state = torch.get_rng_state()
    try:
        fresh = type(module)(**arguments)
        if type(module).configure_model is not LightningModule.configure_model:
            fresh.configure_model()
        return fresh
    except Exception:  # not all of its arguments were saved: it is copied
        torch.set_rng_state(state)
        return None


@torch.no_grad()
def shrink_perturb(
    module: nn.Module,
    shrink: float = 0.6,
    perturb: float = 0.1,
    source: Source = "fresh",
    sigma: float = 0.01,
    fresh: nn.Module | Callable[[], nn.Module] | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    reset_buffers: bool = True,
    seed: int | None = None,
) -> list[str]:
    """Writes θ = shrink · θ + perturb · θ_new into the trainable parameters of ``module`` (Ash & Adams 2020, sec. 5).

    Tied parameters are changed once, frozen ones are not changed; see :func:`role` for adapters. The caller should make
    a new optimiser.

    Args:
        module: Any module.
        shrink: λ; 1 keeps the old weights, 0 forgets them.
        perturb: γ; 0 adds nothing.
        source: θ_new: ``fresh`` weights of the model, or ``gaussian`` noise.
        sigma: Standard deviation of the Gaussian noise, which is also multiplied by ``perturb``.
        fresh: A freshly initialised module of the same kind, or a function that makes one (called with ``seed`` set);
            by default see :func:`fresh_copy`.
        include: Patterns of parameter names (see :func:`framework.editing.choose`); all for ``None``.
        exclude: Patterns of parameter names that are not changed.
        reset_buffers: Whether running statistics of norms are reset.
        seed: Seed of the fresh weights or the noise; without one the global generators are used.

    Returns:
        The names of the parameters that were written.

    Raises:
        UserError: a setting is not accepted, a pattern matches nothing, or fresh weights cannot be made or do not fit.
    """
    check_factors(shrink, perturb, source, sigma)
    chosen = targets(module, include, exclude)
    _write(module, chosen, shrink, perturb, source, sigma, fresh, seed)
    if reset_buffers:
        for part in running_statistics(module, include, exclude).values():
            part.reset_running_stats()  # type: ignore[operator]
    return list(chosen)


@torch.no_grad()
def _write(
    module: nn.Module,
    chosen: Mapping[str, nn.Parameter],
    shrink: float,
    perturb: float,
    source: Source,
    sigma: float,
    fresh: nn.Module | Callable[[], nn.Module] | None,
    seed: int | None,
) -> None:
    new: dict[str, Tensor] = {}
    if perturb:
        with contextlib.nullcontext() if seed is None else seeded_for(module, seed):
            new = _noise(chosen, sigma) if source == "gaussian" else _fresh_values(module, chosen, fresh)
    for name, parameter in chosen.items():
        kind = role(name)
        factor = 1.0 if kind == "perturb" else shrink
        # not 0 * θ, which would keep NaN
        value = factor * parameter if factor else torch.zeros_like(parameter)
        if name in new and kind != "shrink":
            value = value + perturb * new[name] if factor else perturb * new[name]
        parameter.copy_(value)


def _noise(chosen: Mapping[str, nn.Parameter], sigma: float) -> dict[str, Tensor]:
    """Draws noise on the CPU, so that every device gets the same values."""
    return {
        name: (sigma * torch.randn(parameter.shape, dtype=parameter.dtype)).to(parameter.device)
        for name, parameter in chosen.items()
    }


def _fresh_values(
    module: nn.Module, chosen: Mapping[str, nn.Parameter], fresh: nn.Module | Callable[[], nn.Module] | None
) -> dict[str, Tensor]:
    needed = {name: parameter for name, parameter in chosen.items() if role(name) != "shrink"}
    if fresh is None:
        model = fresh_copy(module, list(needed))
    elif isinstance(fresh, nn.Module):
        model = fresh
    else:
        model = fresh()
    found = dict(model.named_parameters(remove_duplicate=False))
    for name, parameter in needed.items():
        if name not in found or found[name].shape != parameter.shape:
            what = f"of shape {tuple(found[name].shape)}" if name in found else "missing"
            raise UserError(f"warm_start: {name} is {what} in the fresh model, {tuple(parameter.shape)} in this one")
    return {name: found[name].detach().to(parameter) for name, parameter in needed.items()}


def running_statistics(
    module: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] = ()
) -> dict[str, nn.Module]:
    """Returns the submodules with running statistics that match patterns and are not frozen, by name.

    Args:
        module: Any module.
        include: Patterns of names of parameters or buffers; all for ``None``.
        exclude: Patterns of names of parameters or buffers to leave out.
    """
    found = {}
    for name, part in module.named_modules():
        own = list(part.parameters(recurse=False))
        names = [f"{name}.{buffer}".lstrip(".") for buffer, _ in part.named_buffers(recurse=False)]
        names += [f"{name}.{parameter}".lstrip(".") for parameter, _ in part.named_parameters(recurse=False)]
        if not callable(getattr(part, "reset_running_stats", None)) or getattr(part, "running_mean", None) is None:
            continue
        if own and not any(parameter.requires_grad for parameter in own):
            continue
        if (include is None or any(matches(n, include) for n in names)) and not any(matches(n, exclude) for n in names):
            found[name] = part
    return found


def check_factors(shrink: float, perturb: float, source: Source, sigma: float) -> None:
    """Checks the factors.

    Args:
        shrink: λ, from 0 to 1.
        perturb: γ, from 0 to 10.
        source: ``fresh`` or ``gaussian``.
        sigma: Standard deviation of the Gaussian noise, above 0.

    Raises:
        UserError: an argument is not accepted; the message names it.
    """
    between(0, 1, shrink=shrink)
    between(0, 10, perturb=perturb)
    one_of(get_args(Source), source=source)
    above(0, sigma=sigma)


class WarmStart(Transform):
    """Starts from earlier weights, shrunk and perturbed: at the start, in every round, or at given epochs.

    Args:
        checkpoint: File with the old weights (``.ckpt``, ``.pt``, ``.pth``, ``.safetensors``), or a run folder for its
            ``last.ckpt``; without one, the model's own current weights. Only with ``when: start``.
        shrink: λ, the factor of the old weights.
        perturb: γ, the factor of the new ones.
        source: ``fresh`` weights of the model, or ``gaussian`` noise.
        sigma: Deviation of the Gaussian noise.
        when: ``start``; ``rounds``, at each round after the first of data that arrives in rounds; or a list of epochs,
            before each of which it is done.
        include: Patterns of the parameters to shrink and perturb; all trainable ones by default.
        exclude: Patterns of parameters that are not changed; a file's values are still loaded into them.
        strict: Whether every tensor of the model and of the file must fit; otherwise those that fit are loaded, and the
            model's other tensors keep their values.
        prefix: Prefix to remove from the names in the file; found automatically by default.
        reset_buffers: Whether running statistics of norms are reset.
        seed: Seed of the fresh weights, to which the round is added; by default derived from the run's seed.
        force: Whether to shrink and perturb although KappaTune ranks the result.

    Raises:
        UserError: a setting is not accepted (in the constructor); the file does not fit or has weights of an edited
            structure, or the data has no rounds (in ``decide``); KappaTune is configured (in ``check``).
    """

    technique = "warm_start"
    changes = frozenset({"values"})
    moments = frozenset({"start", "epoch"})
    optimizer = "reset"
    phase = "carry"
    from_weights = (
        "--techniques.warm_start.checkpoint={path} --techniques.warm_start.shrink=1 --techniques.warm_start.perturb=0"
    )

    def __init__(
        self,
        checkpoint: str | Path | None = None,
        shrink: float = 0.6,
        perturb: float = 0.1,
        source: Source = "fresh",
        sigma: float = 0.01,
        when: When | list[int] = "start",
        include: list[str] | None = None,
        exclude: list[str] | None = None,
        strict: bool = True,
        prefix: str | None = None,
        reset_buffers: bool = True,
        seed: int | None = None,
        force: bool = False,
    ) -> None:
        check_factors(shrink, perturb, source, sigma)
        if isinstance(when, str):
            one_of(get_args(When), when=when)
        else:
            not_empty(when=when)
            at_least(0, when=when)
        if checkpoint is not None and when != "start":
            raise UserError(f"when: {when!r} is not accepted with a checkpoint; start is needed")
        if checkpoint is not None and Path(checkpoint).is_dir():
            checkpoint = str(find_checkpoint(str(checkpoint)))
        self.checkpoint = None if checkpoint is None else str(checkpoint)
        self.shrink, self.perturb, self.sigma = float(shrink), float(perturb), float(sigma)
        self.source = source
        self.when = when if isinstance(when, str) else [int(epoch) for epoch in when]
        self.include, self.exclude = include, list(exclude or [])
        self.strict, self.prefix, self.reset_buffers = strict, prefix, reset_buffers
        self.seed, self.force = seed, force
        self._fit: WeightsMatch | None = None

    @property
    def _changes(self) -> bool:
        return (self.shrink, self.perturb) != (1, 0)

    @property
    def offers(self) -> frozenset[str]:  # type: ignore[override] # what it offers depends on its settings
        """Trained weights and noise, if it starts from a file."""
        return frozenset() if self.checkpoint is None else frozenset({TRAINED_WEIGHTS, NOISE})

    def noised(self, model: nn.Module) -> list[str]:
        """Names of the parameters that it shrinks or perturbs after loading the file."""
        return [*targets(model, self.include, self.exclude)] if self._changes else []

    def due(self, context: Context) -> bool:
        """Returns true at the start, or in a round or before an epoch in which it was not done yet."""
        mine = [plan.decision for plan in context.plans if plan.name == self.name]
        if self.when == "start":
            training = context.trainer is None or context.trainer.state.fn == "fit"
            return context.at == "start" and training and not mine
        if context.at != "epoch":
            return False
        if self.when == "rounds":
            number = _round(context)
            return number > 0 and all(decision["round"] != number for decision in mine)
        return context.epoch in self.when and all(decision["epoch"] != context.epoch for decision in mine)

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses to overwrite weights that another technique ranks.

        Raises:
            UserError: it would shrink or perturb weights that are ranked.
        """
        for other in context.offering(RANKING, self):
            if not self.force and self._changes:
                raise UserError(
                    f"warm_start.shrink: {self.shrink:g} with perturb {self.perturb:g} is not accepted with "
                    f"{other.name}, which would rank weights that are no longer the pretrained ones; shrink: 1 and "
                    "perturb: 0, or force: true"
                )

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns what is shrunk and perturbed, by how much, from which file and with which seed."""
        number = _round(context) if self.when == "rounds" else None
        decision: dict[str, Any] = {
            "checkpoint": self.checkpoint,
            "sha256": None,
            "shrink": self.shrink,
            "perturb": self.perturb,
            "source": self.source,
            "sigma": self.sigma,
            "seed": context.seed if self.seed is None else self.seed + (number or 0),
            "round": number,
            "epoch": context.epoch,
        }
        names = list(targets(model, self.include, self.exclude))
        if self.checkpoint is not None:
            _, fit = self._read(model, context)
            self._fit = fit
            decision |= {"sha256": file_sha256(self.checkpoint), "loaded": fit.loaded, "missing": fit.missing}
            decision |= {"unexpected": fit.unexpected, "reshaped": [*fit.reshaped]}
            # tensors that the file lacks are newly initialised already
            aliases = _names_by_parameter(model)
            names = [name for name in names if any(alias in fit.loaded for alias in aliases[name])]
        decision["tensors"] = names
        decision["buffers"] = (
            sorted(running_statistics(model, self.include, self.exclude)) if self.reset_buffers else []
        )
        return decision

    def _read(self, model: nn.Module, context: Context) -> tuple[dict[str, Tensor], WeightsMatch]:
        """Returns the file's tensors under the model's names, and how they fit."""
        assert self.checkpoint is not None
        state, around = read_weights_file(self.checkpoint, "warm_start.checkpoint")
        self._check_edits(around, context)
        own = model.state_dict()
        state = match_prefix(own, state, self.prefix, "warm_start.checkpoint")
        fit = compare_tensors(own, state)
        if not fit.loaded:
            raise UserError(
                f"warm_start.checkpoint: nothing of {self.checkpoint} fits {type(model).__name__}:\n  "
                + shortened(fit.problems(own, state))
            )
        if self.strict and not fit.complete:
            raise UserError(
                f"warm_start.checkpoint: {self.checkpoint} does not fit {type(model).__name__} (strict: false takes "
                f"what fits):\n  {shortened(fit.problems(own, state))}"
            )
        return state, fit

    def _check_edits(self, around: Mapping[str, Any], context: Context) -> None:
        mine = list(context.plans)
        for plan in read_plans(around):
            if "structure" in find_technique(plan.technique).changes and not any(same_edit(plan, p) for p in mine):
                raise UserError(
                    f"warm_start.checkpoint: {self.checkpoint} holds weights whose structure was edited by "
                    f"{plan.name!r} ({plan.technique}), which this model's was not; fold or export it first, and start "
                    "from that file"
                )

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Loads the file, if there is one, then shrinks and perturbs."""
        if decision["checkpoint"] is not None:
            state, fit = self._read(model, context)
            own = model.state_dict()
            with torch.no_grad():
                for name in fit.loaded:
                    own[name].copy_(state[name])
        if decision["tensors"] and (decision["shrink"], decision["perturb"]) != (1, 0):
            names = list(decision["tensors"])
            drawn = [plan for plan in context.plans if _draws(context, plan)]

            def fresh() -> nn.Module:
                made = fresh_copy(model, names)
                for plan in drawn:
                    context.techniques[plan.name].initialise(made, plan.decision, context)  # type: ignore[attr-defined]
                return made

            parameters = unique_parameters(model)
            _write(
                model,
                {name: parameters[name] for name in names},
                decision["shrink"],
                decision["perturb"],
                decision["source"],
                decision["sigma"],
                fresh,
                decision["seed"],
            )
        for name in decision["buffers"]:
            model.get_submodule(name).reset_running_stats()  # type: ignore[operator]

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Prints the tensors that were loaded from the file, and a line on what was done."""
        if self._fit is not None:
            print(f"{self.name}: {plan.decision['checkpoint']}\n{self._fit.table()}", file=sys.stderr)
            self._fit = None
        where = f"round {plan.decision['round']}" if plan.decision["round"] is not None else f"epoch {plan.epoch}"
        print(
            f"{self.name}: {where}: {len(plan.decision['tensors'])} tensors, {plan.decision['shrink']:g} x old + "
            f"{plan.decision['perturb']:g} x {plan.decision['source']}",
            file=sys.stderr,
        )


def _names_by_parameter(model: nn.Module) -> dict[str, list[str]]:
    """Maps the first name of each parameter to all of its names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return {group[0]: group for group in names.values()}


def _draws(context: Context, plan: Plan) -> bool:
    technique = context.techniques.get(plan.name)
    return technique is not None and FRESH_WEIGHTS in technique.offers


def _round(context: Context) -> int:
    number = getattr(context.datamodule, "round", None)
    if not isinstance(number, int):
        kind = type(context.datamodule).__name__ if context.datamodule is not None else "no datamodule"
        raise UserError(
            f"warm_start.when: 'rounds' is not accepted with {kind}, whose data does not arrive in rounds; wrap it in "
            "datamodules.finetuning.rounds.RoundData, or give start or a list of epochs"
        )
    return number
