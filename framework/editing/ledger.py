"""The ledger: the ordered list of a model's edits, and functions to save, repeat, undo and fold them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from framework.data.seeding import seeded
from framework.editing.names import all_names, nothing_matches
from framework.editing.plan import KEY, SCHEMA, Plan
from framework.editing.registry import find_technique
from framework.editing.snapshot import Snapshot
from framework.errors import UserError

_ATTRIBUTE = "_ledger"


class Ledger:
    """The plans of one model, in order; stored as an attribute of the model, not in its state dict.

    Attributes:
        plans: The plans.
        base: The structure before the first edit, as long as it can be restored.
        trainable: Names of the trainable parameters before the first edit.
    """

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.base: Snapshot | None = None
        self.trainable: list[str] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Ledger:
        """Copies the plans only: the original's ``base`` cannot restore a copy of the model."""
        copy = Ledger()
        copy.plans, copy.trainable = list(self.plans), list(self.trainable)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "base": None}

    def to_plain(self) -> dict[str, Any]:
        """Returns the plain data that a checkpoint stores."""
        return {"schema": SCHEMA, "plans": [plan.to_plain() for plan in self.plans]}


def ledger_of(model: nn.Module) -> Ledger:
    """Returns the model's ledger, an empty one if it has none yet."""
    return model.__dict__.setdefault(_ATTRIBUTE, Ledger())


def read_plans(checkpoint: Mapping[str, Any]) -> list[Plan]:
    """Returns the plans in a checkpoint, migrated to the current version; none if the model was never edited.

    Raises:
        UserError: the ledger's format is not known, or it names a technique that is not registered.
    """
    stored = checkpoint.get(KEY)
    if stored is None:
        return []
    if not isinstance(stored, dict) or not isinstance(stored.get("plans"), list):
        raise UserError(f"the checkpoint's {KEY!r} is not a ledger of edits")
    if stored.get("schema") != SCHEMA:
        raise UserError(f"the checkpoint's ledger has schema {stored.get('schema')!r}; this program reads {SCHEMA}")
    plans = []
    for data in stored["plans"]:
        plan = Plan.from_plain(data)
        technique = find_technique(plan.technique)
        if plan.version != technique.version:
            decision = technique.migrate(plan.decision, plan.version)
            plan = Plan(**{**vars(plan), "decision": decision, "version": technique.version})
        plans.append(plan)
    return plans


def trainable_names(model: nn.Module) -> list[str]:
    """Returns the names of the parameters that require gradients, each once."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def set_trainable(model: nn.Module, names: Iterable[str]) -> None:
    """Makes the named parameters trainable, and no others.

    Raises:
        UserError: a name is not that of a parameter.
    """
    wanted = set(names)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if missing := sorted(wanted - parameters.keys()):
        raise nothing_matches(missing[0], list(parameters), "trainable")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


@contextlib.contextmanager
def seeded_for(model: nn.Module, seed: int) -> Iterator[None]:
    """A context manager that seeds the global generators and those of the model's devices, and restores them."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices, enabled=bool(devices)), seeded(seed):
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def keeping_ties(model: nn.Module, what: str) -> Iterator[None]:
    """A context manager that refuses an edit after which a remaining tied parameter is no longer tied.

    Args:
        model: The model that is edited within the context.
        what: Name of the edit, for messages.

    Raises:
        UserError: a tie is lost; the message has both names.
    """
    before = {key: names for key, names in all_names(model).items() if len(names) > 1}
    yield
    if before:
        after = all_names(model)
        for key, names in before.items():
            if key in after and len(after[key]) < len(names):
                raise UserError(f"{what} would untie {' and '.join(names)}, which are one tensor; exclude them")


def apply_plan(model: nn.Module, plan: Plan) -> None:
    """Applies one plan: structure and trainability, no values."""
    ledger = ledger_of(model)
    if not ledger.plans:
        ledger.trainable = trainable_names(model)
    with seeded_for(model, plan.seed):
        find_technique(plan.technique).apply(model, plan.decision)
    if plan.trainable is not None:
        set_trainable(model, plan.trainable)
    ledger.plans.append(plan)


def replay(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Gives ``model`` the structure and trainability of the checkpoint, so that its weights load strictly.

    Calling it twice is the same as calling it once. If the model was edited differently before, its edits are undone
    first.

    Args:
        model: A model from its constructor, or an edited one.
        checkpoint: A checkpoint from :func:`framework.open_checkpoint` or ``torch.load(path, weights_only=True)``.

    Raises:
        UserError: the ledger cannot be read, or the model's edits cannot be undone.
    """
    plans = read_plans(checkpoint)
    ledger = ledger_of(model)
    mine, theirs = _lasting(ledger.plans), _lasting(plans)
    if any(not same_edit(a, b) for a, b in zip(mine, theirs, strict=False)) or len(mine) > len(theirs):
        names = ", ".join(plan.name for plan in ledger.plans)
        if ledger.base is None:
            raise UserError(
                f"the model was edited by {names} already, and the checkpoint by other plans; build a new model"
            )
        rank_zero_warn(
            f"{names}: undone, because the checkpoint was edited by {', '.join(p.name for p in plans) or 'none'}"
        )
        ledger.base.restore()
        ledger.plans.clear()
        mine = []
    if ledger.base is None and not ledger.plans and plans:
        ledger.base = Snapshot(model)
        ledger.trainable = trainable_names(model)
    for plan in theirs[len(mine) :]:
        apply_plan(model, plan)
    ledger.plans[:] = plans


def _lasting(plans: Iterable[Plan]) -> list[Plan]:
    """Returns the plans that changed more than values; values come from the checkpoint."""
    return [p for p in plans if p.trainable is not None or find_technique(p.technique).changes - {"values"}]


def same_edit(a: Plan, b: Plan) -> bool:
    """Returns whether two plans lead to the same structure and trainability."""
    return (a.technique, a.decision, a.trainable) == (b.technique, b.decision, b.trainable)


def undo(model: nn.Module, name: str) -> None:
    """Undoes an edit of structure or trainability: the model computes the same as before the edit.

    Raises:
        UserError: there is no such edit, a later one depends on it, or it overwrote values.
    """
    ledger = ledger_of(model)
    index = next((i for i in reversed(range(len(ledger.plans))) if ledger.plans[i].name == name), None)
    if index is None:
        done = ", ".join(plan.name for plan in ledger.plans) or "none"
        raise UserError(f"there is no edit {name!r} to undo; edits: {done}")
    plan, technique = ledger.plans[index], find_technique(ledger.plans[index].technique)
    for later in ledger.plans[index + 1 :]:
        if find_technique(later.technique).changes & {"structure", "trainability"}:
            raise UserError(f"{name!r} cannot be undone: {later.name!r} depends on it; undo that first")
    if "values" in technique.changes:
        raise UserError(f"{name!r} cannot be undone: it overwrote values")
    if "structure" in technique.changes:
        technique.undo(model, plan.decision)
    earlier = [plan.trainable for plan in ledger.plans[:index] if plan.trainable is not None]
    set_trainable(model, earlier[-1] if earlier else ledger.trainable)
    del ledger.plans[index]


def fold(model: nn.Module) -> nn.Module:
    """Turns an edited model into a plain one that computes the same, in place; every parameter keeps its trainability.

    Returns:
        The model; its ``state_dict`` has the names of the unedited model.

    Raises:
        UserError: a technique's structure cannot be folded.
    """
    ledger = ledger_of(model)
    for plan in reversed(ledger.plans):
        find_technique(plan.technique).fold(model, plan.decision)
    ledger.plans.clear()
    ledger.base = None
    return model


def store(model: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Adds the model's ledger to a checkpoint."""
    ledger = ledger_of(model)
    if ledger.plans:
        checkpoint[KEY] = ledger.to_plain()


def configure(module: Any) -> None:
    """Calls ``configure_model`` if a module has one, and prevents a later call from building the layers again."""
    if is_overridden("configure_model", module):
        module.configure_model()
        module.configure_model = _nothing


def _nothing() -> None:
    pass


def attach(module: Any) -> None:
    """Makes a LightningModule save its ledger in checkpoints and replay it, whatever hooks its class has."""
    if _ATTRIBUTE not in module.__dict__ or "on_load_checkpoint" not in module.__dict__:
        ledger_of(module)
        module.on_save_checkpoint = functools.partial(_save, module)
        module.on_load_checkpoint = functools.partial(_load, module)


def _save(module: Any, checkpoint: dict[str, Any]) -> None:
    type(module).on_save_checkpoint(module, checkpoint)
    store(module, checkpoint)


def _load(module: Any, checkpoint: dict[str, Any]) -> None:
    replay(module, checkpoint)
    type(module).on_load_checkpoint(module, checkpoint)
