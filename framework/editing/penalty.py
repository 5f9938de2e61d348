"""The base class of penalties: techniques that add a term to the training loss of any LightningModule.

``training_step`` of the module is wrapped, on the instance and in training only. The term becomes part of the loss that
it returns, so it is treated like the rest of the loss: accumulation, precision, clipping, reduction over ranks.
``train/loss``, which the module logs itself, stays without it.

Where a penalty looks at the network's output or differentiates by its input, :mod:`framework.editing.capture` watches
the step's own forward pass.
"""

from __future__ import annotations

import inspect
import os
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from framework.editing.capture import Capture, Captured, mistakes_of, refuse_compiled, submodule
from framework.editing.plan import Plan
from framework.editing.technique import Context, Edit, Technique
from framework.errors import UserError
from framework.protocols import second_derivatives
from framework.settings import at_least

if TYPE_CHECKING:
    from torch import nn


class Penalty(Technique):
    """Adds ``weight`` times :meth:`penalty` to the training loss; logs what is added as ``train/<name>``.

    With weight 0 nothing is wrapped, hooked or drawn. Several penalties share one wrapper and the hooks on a network.

    Attributes:
        captures: What is seen of the step's forward pass: ``nothing``, ``outputs`` (of the network), or ``inputs`` too,
            by which the penalty then differentiates (:meth:`Captured.gradient`). For ``inputs`` attention is computed
            by PyTorch's unfused kernel within the step, because the fused ones have no second derivative.

    Args:
        weight: Of the term, 0 or more.
        net: Name of the network, a submodule that ``training_step`` calls once; by default the module itself.
        embed: Name of the submodule whose output counts as the network's input: for tokens their embedding.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module uses manual optimisation, is compiled, or
            has no such submodule (before training); the network is called twice or never, or has no second derivative
            (in the first step).
    """

    captures: ClassVar[Literal["nothing", "outputs", "inputs"]] = "nothing"

    def __init__(self, weight: float, net: str | None = None, embed: str | None = None) -> None:
        at_least(0, weight=weight)
        self.weight, self.net, self.embed = weight, net, embed
        self._batches = 0
        self._seed: tuple[int, ...] = (0,)

    def penalty(self, module: pl.LightningModule, batch: Any, outputs: Any, captured: Captured) -> Tensor:
        """The term without its weight, a scalar with a graph.

        Args:
            module: The LightningModule.
            batch: As ``training_step`` got it.
            outputs: What ``training_step`` returned: the loss, or a mapping with ``loss``; without any penalty.
            captured: What was seen of the forward pass, and a generator to draw from.
        """
        raise NotImplementedError

    def network(self, module: nn.Module) -> str | None:
        """The name of the network whose call is captured, a submodule; ``None`` for the module itself."""
        return self.net

    def look_up(self, module: pl.LightningModule) -> None:
        """Called before the first step and after each edit in mid-training: a subclass finds its parameters here."""

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses modules that cannot be penalised; names that an edit or the module may still create are
        checked when training starts.

        Raises:
            UserError: the module uses manual optimisation, is compiled, or has no such submodule.
        """
        if not getattr(model, "automatic_optimization", True):
            raise UserError(
                f"techniques.{self.name} and manual optimisation cannot be combined: {type(model).__name__} calls "
                "backward itself (automatic_optimization is False), so nothing can be added to its loss"
            )
        if self.captures != "nothing":
            refuse_compiled(model, f"techniques.{self.name}")
            edited = any(isinstance(other, Edit) for other in context.techniques.values())
            if not edited and not any(is_overridden(hook, model) for hook in ("setup", "configure_model")):
                submodule(model, self.network(model), f"techniques.{self.name}.net")
                submodule(model, self.embed, f"techniques.{self.name}.embed")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Starts the count of batches, which a resumed run continues."""
        super().setup(trainer, pl_module, stage)
        self._batches = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wraps the module's ``training_step``."""
        if self.weight:
            run = int(os.environ.get("PL_GLOBAL_SEED", 0))
            self._seed = run, zlib.crc32(self.name.encode()), trainer.global_rank
            _PenalisedStep.of(pl_module).add(self)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batches: each has its own random numbers, the same if its loss is computed several times."""
        self._batches += 1

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Finds modules and parameters in the edited model."""
        wrapper = _PenalisedStep.on(pl_module)
        if wrapper is not None:
            wrapper.look_up()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the wrapper off."""
        self._leave(pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Takes the wrapper off."""
        self._leave(pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the wrapper off."""
        self._leave(pl_module)

    def _leave(self, module: pl.LightningModule) -> None:
        wrapper = _PenalisedStep.on(module)
        if wrapper is not None:
            wrapper.remove(self)

    def state_dict(self) -> dict[str, Any]:
        """Returns the number of batches, the same on all ranks, and the weight."""
        return {"batches": self._batches, "weight": self.weight}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the count; reports a weight that is not the checkpoint's."""
        self._batches = state_dict["batches"]
        if state_dict["weight"] != self.weight:
            rank_zero_info(
                f"techniques.{self.name}.weight: {self.weight:g} now, {state_dict['weight']:g} in the checkpoint"
            )

    @property
    def seed(self) -> tuple[int, ...]:
        """Numbers that fix the random draws for the current batch: of the run, the penalty, the rank and the batch."""
        return (*self._seed, self._batches)


class _Replaced:
    """A method of one module instead of its own one; a copy of the module has its own one again."""

    def __init__(
        self, module: pl.LightningModule, name: str, function: Callable[..., Any], penalised: _PenalisedStep
    ) -> None:
        self.__wrapped__ = inspect.unwrap(getattr(module, name))  # Lightning reads the signature one wrapper deep
        self.module, self.name, self.function, self.penalised = module, name, function, penalised

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:  # called while the copy has no attributes yet, so this is its own method
        return getattr, (self.module, self.name)


class _PenalisedStep:
    """Replaces ``training_step`` and ``backward`` of one module while penalties are added to its loss."""

    def __init__(self, module: pl.LightningModule) -> None:
        self.module = module
        self.penalties: list[Penalty] = []
        self.captures: dict[tuple[str | None, str | None], Capture] = {}
        self.twice: list[str] = []  # the penalties that differentiate a gradient
        step, backward = module.training_step, module.backward
        self._before = {name: vars(module).get(name) for name in ("training_step", "backward")}

        def training_step(batch: Any, *args: Any, **kwargs: Any) -> Any:
            with ExitStack() as stack:
                if self.twice:
                    stack.enter_context(second_derivatives())
                with ExitStack() as hooks:
                    for capture in self.captures.values():
                        hooks.enter_context(capture.watching())
                    outputs = step(batch, *args, **kwargs)
                return self._with_penalties(batch, outputs)

        def penalised_backward(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            if not self.twice:
                return backward(loss, *args, **kwargs)
            with second_derivatives(), mistakes_of(", ".join(self.twice)):  # checkpointed layers compute again here
                backward(loss, *args, **kwargs)

        self._own = {
            "training_step": _Replaced(module, "training_step", training_step, self),
            "backward": _Replaced(module, "backward", penalised_backward, self),
        }
        for name, method in self._own.items():
            setattr(module, name, method)

    @staticmethod
    def on(module: pl.LightningModule) -> _PenalisedStep | None:
        """The module's, if there is one."""
        return getattr(module.training_step, "penalised", None)

    @classmethod
    def of(cls, module: pl.LightningModule) -> _PenalisedStep:
        """The module's; it is made if there is none."""
        return cls.on(module) or cls(module)

    def add(self, penalty: Penalty) -> None:
        self.penalties.append(penalty)
        self.look_up()

    def remove(self, penalty: Penalty) -> None:
        """Restores the module's own methods if there are no penalties."""
        if penalty not in self.penalties:
            return
        self.penalties.remove(penalty)
        self.look_up()
        if self.penalties:
            return
        for name, method in self._own.items():
            if vars(self.module).get(name) is not method:
                continue  # it was wrapped by other code since, so it stays and only calls the original
            delattr(self.module, name)
            if self._before[name] is not None:
                setattr(self.module, name, self._before[name])

    def look_up(self) -> None:
        """Finds the modules to watch, and lets each penalty find its own."""
        self.captures, self.twice = {}, []
        for penalty in self.penalties:
            penalty.look_up(self.module)
            if penalty.captures == "nothing":
                continue
            place, key = (penalty.network(self.module), penalty.embed), f"techniques.{penalty.name}"
            inputs = penalty.captures == "inputs"
            if inputs:
                self.twice.append(key)
            if place not in self.captures or inputs:
                self.captures[place] = Capture(self.module, *place, inputs=inputs, key=key)

    def _with_penalties(self, batch: Any, outputs: Any) -> Any:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, Tensor):
            for penalty in self.penalties:
                term = self._term(penalty, batch, outputs)
                loss = loss + term
            outputs = {**outputs, "loss": loss} if isinstance(outputs, Mapping) else loss
        for capture in self.captures.values():
            capture.forget()
        return outputs

    def _term(self, penalty: Penalty, batch: Any, outputs: Any) -> Tensor:
        """The weighted term, which is logged."""
        if penalty.captures == "nothing":
            captured = Captured(penalty.seed)
        else:
            place = penalty.network(self.module), penalty.embed
            captured = self.captures[place].captured(penalty.seed)
        found: Any = penalty.penalty(self.module, batch, outputs, captured)
        if not isinstance(found, Tensor) or found.ndim:
            what = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"{type(penalty).__name__}.penalty must return a scalar tensor, not {what}")
        term = penalty.weight * found
        size = len(captured.output) if captured.output is not None and captured.output.ndim else 1
        self.module.log(f"train/{penalty.name}", term.detach(), batch_size=size)
        return term
