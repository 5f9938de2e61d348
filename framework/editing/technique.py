"""The base classes of techniques, one for each kind.

- :class:`Observer` changes nothing.
- :class:`Edit` changes structure, trainability or values once, before the optimiser exists.
- :class:`Once` is an edit that may wait for an epoch, or until other techniques no longer change the structure.
- :class:`Transform` changes the model during training too, at moments that it declares.
- :class:`Writer` writes to the weights during training or evaluation.
- :class:`framework.editing.penalty.Penalty` adds a term to the training loss.

An edit has three steps. ``decide`` reads the model, the data and the run and returns plain data. ``apply`` makes
structure and trainability match such a decision; it needs nothing else, so that a checkpoint can be opened even if the
technique is not configured. ``initialise`` writes values; it is called when the edit is made, and not when a checkpoint
is opened, because values come from the checkpoint. The engine (:mod:`framework.editing.engine`) calls them; a technique
has no ``setup``.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from framework.editing.capabilities import PLAIN_LAYERS
from framework.editing.phases import PHASES, Phase, comes_before
from framework.editing.plan import Plan
from framework.errors import UserError
from framework.plain import plain_data
from framework.settings import one_of

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from torch import nn

Change = Literal["structure", "trainability", "values"]
Moment = Literal["start", "epoch", "step"]
OptimizerState = Literal["keep", "reset"]
_COLLECTIONS: dict[str, type[Any]] = {  # of names, which a class declares
    "offers": frozenset,
    "needs": frozenset,
    "changes": frozenset,
    "moments": frozenset,
    "after": tuple,
    "before": tuple,
}
IMPORTED: dict[str, type[Edit]] = {}  # maps a registered name to its class; filled when modules are imported


@dataclass
class Context:
    """The data that an edit may use besides the model.

    Attributes:
        trainer: The Trainer, or ``None`` outside one.
        at: ``start`` (before the optimiser exists), ``epoch`` (a training epoch starts) or ``step`` (a batch starts).
        epoch: Number of completed epochs.
        step: Number of optimiser steps so far.
        seed: Seed derived from the run's seed, the technique's name and how often it was applied. The global generators
            are seeded with it for ``decide``, ``apply`` and ``initialise``, and restored afterwards.
        plans: The earlier plans of the model, in order.
        techniques: Every configured technique by name, in the order of application.
    """

    trainer: pl.Trainer | None = None
    at: Moment = "start"
    epoch: int = 0
    step: int = 0
    seed: int = 0
    plans: Sequence[Plan] = ()
    techniques: Mapping[str, Technique] = field(default_factory=dict)

    @property
    def datamodule(self) -> Any:
        """The run's datamodule, or ``None``."""
        return getattr(self.trainer, "datamodule", None)

    def offering(self, capability: str, asking: Technique | None = None) -> list[Any]:
        """Returns the configured techniques that offer ``capability`` (:attr:`Technique.offers`), except ``asking``.

        With it a technique finds another one without knowing its name.
        """
        return [item for item in self.techniques.values() if capability in item.offers and item is not asking]

    def decided(self, *keys: str) -> Plan | None:
        """The latest plan whose decision holds one of ``keys``, or ``None``.

        With it a technique uses what an earlier one chose: ``target_modules`` are the modules that get adapters.
        """
        return next((p for p in reversed(self.plans) if any(p.decision.get(k) is not None for k in keys)), None)


class Engine(Callback):
    """The base class of the engine, which makes all edits in a Trainer; techniques import only this base.

    Attributes:
        chosen: The class that is added to a Trainer without an engine, :class:`framework.editing.engine.Editing`.
    """

    chosen: ClassVar[type[Engine]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if Engine in cls.__bases__:
            Engine.chosen = cls


def callbacks_of(trainer: pl.Trainer) -> list[Callback]:
    """Returns the Trainer's own list of callbacks."""
    return trainer.callbacks  # type: ignore[attr-defined] # set in its constructor by a connector


def engine_of(trainer: pl.Trainer) -> Engine:
    """Returns the Trainer's engine; one is added to its callbacks if there is none."""
    found = next((callback for callback in callbacks_of(trainer) if isinstance(callback, Engine)), None)
    if found is None:
        found = Engine.chosen()
        callbacks_of(trainer).append(found)
    return found


class Technique(Callback):
    """A callback with a name and a position in the order.

    Attributes:
        technique: Registered name; by default the class's name in snake case.
        phase: When it is applied (:mod:`framework.editing.phases`); without one, the config's order holds.
        offers: Capabilities that other techniques may ask for (:mod:`framework.editing.capabilities`). A property where
            they depend on the settings.
        needs: Capabilities that it needs when it is applied.
        after: Registered names of techniques that are applied before this one if both are configured; ``*`` for all.
            Only where the phase does not say it.
        before: The same for techniques that come later.
        conflicts: Registered names of techniques that this one cannot be combined with, with the reason. Only where
            capabilities do not say it.
    """

    technique: ClassVar[str] = "technique"
    phase: ClassVar[Phase | None] = None
    offers: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    after: ClassVar[tuple[str, ...]] = ()
    before: ClassVar[tuple[str, ...]] = ()
    conflicts: ClassVar[Mapping[str, str]] = {}

    _name: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        one_of(PHASES, **{f"{cls.__name__}.phase": cls.phase})
        for key, kind in _COLLECTIONS.items():
            value = getattr(cls, key, kind())
            if not isinstance(value, kind | property):  # of text, `in` would find parts of names
                raise UserError(f"{cls.__name__}.{key}: {value!r} is not accepted; a {kind.__name__} of names")
        if "technique" not in cls.__dict__:
            cls.technique = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", cls.__name__).lower()

    @property
    def name(self) -> str:
        """The name under which it is configured: the key in ``techniques``, else the registered name."""
        return self._name or self.technique

    @name.setter
    def name(self, value: str) -> None:
        self._name = value
        self.__dict__.pop("state_key", None)

    @cached_property  # Lightning reads it at every hook
    def state_key(self) -> str:
        """The key of its state in a checkpoint, different for two techniques of one class."""
        return f"{type(self).__qualname__}.{self.name}"

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Lets the engine make all techniques' edits in order; a subclass that overrides it must call it."""
        engine_of(trainer).setup(trainer, pl_module, stage)

    def check(self, model: nn.Module, context: Context) -> None:
        """Called before a run writes or trains anything, with the module as configured.

        Raises:
            UserError: it cannot be used with this module, this run, or another technique with these settings.
        """

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Called on every technique after one edited the model, and its optimiser, during training."""

    def settings(self) -> dict[str, Any]:
        """Returns the constructor's arguments as plain data; each must be stored in an attribute of the same name."""
        parameters = list(inspect.signature(type(self).__init__).parameters.values())[1:]
        names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        return {name: plain_data(getattr(self, name), f"{self.name}.{name}") for name in names}


class Observer(Technique):
    """A technique that changes nothing in the model."""


class Writer(Technique):
    """A technique that writes to the weights during training or evaluation, apart from edits.

    Like an edit, it is refused if a process has only a part of each weight.
    """


class Edit(Technique):
    """A technique that changes the model once, before the optimiser exists.

    Attributes:
        changes: Which of ``structure``, ``trainability`` and ``values`` it changes.
        version: Version of its decision format; increased when that changes, with a :meth:`migrate` for older ones.
        from_weights: Command-line options with which it starts a training from the weights in the file ``{path}``, for
            the message if a run cannot be resumed from that file; empty if it cannot do so.
    """

    changes: ClassVar[frozenset[str]] = frozenset()
    version: ClassVar[int] = 1
    from_weights: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        one_of(get_args(Change), **{f"{cls.__name__}.changes": cls.changes})
        IMPORTED[cls.technique] = cls

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns a decision: plain data (numbers, text, lists, dicts), with exact names instead of patterns.

        Args:
            model: The LightningModule, as earlier edits left it. Names are relative to it.
            context: The context of the run.

        Raises:
            UserError: nothing can be decided; if nothing matches, the message lists the nearest names.
        """
        raise NotImplementedError

    @classmethod
    def apply(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Makes structure and ``requires_grad`` match a decision; values do not matter."""

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Writes values after ``apply``."""

    @classmethod
    def keeps_trained(cls, plan: Plan) -> list[str]:
        """Names of the parameters that this plan chose for training, which later techniques must not freeze."""
        return []

    @classmethod
    def undo(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Restores the structure: the model computes the same as before the edit.

        Raises:
            UserError: it cannot be undone.
        """
        raise UserError(f"{cls.technique} cannot be undone")

    @classmethod
    def fold(cls, model: nn.Module, decision: Mapping[str, Any]) -> None:
        """Turns the edited module into a plain one with the same output, for an export; does nothing by default.

        A technique that changes the structure must override it.

        Raises:
            UserError: it changes the structure and cannot be folded.
        """
        if "structure" in cls.changes:
            raise UserError(f"{cls.technique} cannot be folded into a plain module")

    @classmethod
    def migrate(cls, decision: dict[str, Any], version: int) -> dict[str, Any]:
        """Converts a decision of an older version to the current one.

        Raises:
            UserError: that version is no longer supported.
        """
        raise UserError(
            f"{cls.technique}: the checkpoint's plan has version {version}, this program reads version {cls.version}"
        )

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Called once on rank 0 after an edit was made and recorded, to print, log or draw the decision."""


class Transform(Edit):
    """A technique that changes the model during training.

    Attributes:
        moments: When :meth:`due` is called: any of ``start``, ``epoch``, ``step``.
        optimizer: Whether the optimiser's state is kept for remaining parameters (``keep``) or reset (``reset``).
        settles_by: Name of the argument that decides from when it no longer changes the structure, for a message.
    """

    moments: ClassVar[frozenset[str]] = frozenset({"epoch"})
    optimizer: OptimizerState = "keep"
    settles_by: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        one_of(get_args(Moment), **{f"{cls.__name__}.moments": cls.moments})

    def in_training(self, context: Context) -> bool:
        """Whether it can edit after the start, given its settings and the techniques of this run."""
        return True

    def settled(self, context: Context) -> int | None:
        """Returns the epoch from which names and shapes no longer change; ``None`` for never."""
        return 0

    def due(self, context: Context) -> bool:
        """Returns whether to edit now; called once at each moment. ``context.plans`` has the earlier edits."""
        raise NotImplementedError


class Once(Transform):
    """An edit that is made once: at the start, or before an epoch where other techniques change the structure first.

    A subclass has the constructor argument ``epoch``: ``None`` for the start, or for the epoch from which every
    technique before it no longer changes the structure (:meth:`Transform.settled`). A subclass that does not need the
    model's plain layers removes ``plain_layers`` from ``needs``, and never waits.
    """

    moments = frozenset({"start", "epoch"})
    needs = frozenset({PLAIN_LAYERS})
    epoch: int | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses an epoch at which another technique still changes the structure, and one that is never reached."""
        self.first_epoch(context)

    def first_epoch(self, context: Context) -> int:
        """Returns the epoch before which it is made.

        Raises:
            UserError: a technique changes the structure later, or the training ends before.
        """
        first: int = 0
        for name, other in context.techniques.items():
            if PLAIN_LAYERS not in self.needs or not isinstance(other, Transform) or not self._waits_for(other):
                continue
            settled = other.settled(context)
            if settled is None and not other.settles_by:
                raise UserError(
                    f"techniques.{self.name} and techniques.{name} cannot be combined: {self.name} acts on the layers "
                    f"that {name} leaves in the end, and {name} never ends"
                )
            if settled is None:
                raise UserError(
                    f"{name}.{other.settles_by}: None is not accepted with {self.name}, which acts on the layers "
                    f"that {name} leaves in the end; an epoch before trainer.max_epochs"
                )
            if self.epoch is not None and self.epoch < settled:
                raise UserError(
                    f"{self.name}.epoch: {self.epoch} is not accepted with {name}, which is done at epoch {settled}; "
                    f"{settled} or more, or null"
                )
            first = max(first, settled)
        first = first if self.epoch is None else self.epoch
        last = getattr(context.trainer, "max_epochs", None)
        if getattr(context.trainer, "fast_dev_run", False):
            return first  # with one epoch (a trial run) settings do not matter
        if first and last is not None and 0 <= last <= first:
            raise UserError(f"{self.name}.epoch: {first} is not reached, trainer.max_epochs is {last}")
        return first

    def _waits_for(self, other: Transform) -> bool:
        if isinstance(other, Once):
            return comes_before(type(other), type(self))
        return other is not self and not comes_before(type(self), type(other))

    def settled(self, context: Context) -> int | None:
        """Returns the epoch before which it is made."""
        return self.first_epoch(context)

    def in_training(self, context: Context) -> bool:
        """Whether it is not made at the start."""
        return self.first_epoch(context) > 0

    def due(self, context: Context) -> bool:
        """Returns true at its epoch, unless it was made already."""
        if any(plan.name == self.name for plan in context.plans):
            return False
        first = self.first_epoch(context)
        return first == 0 if context.at == "start" else context.at == "epoch" and 0 < first <= context.epoch
