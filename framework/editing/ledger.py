"""The ordered list of edits that a model went through, and what can be done with it."""

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
    """The plans of one model, in order. It lives beside the model's tensors, not among them.

    Attributes:
        plans: What was done.
        base: The structure before the first edit, while it can still be gone back to.
        trainable: Names of the trainable parameters before the first edit.
    """

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.base: Snapshot | None = None
        self.trainable: list[str] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Ledger:
        """A copy of the model has its structure, but cannot go back with the original's."""
        copy = Ledger()
        copy.plans, copy.trainable = list(self.plans), list(self.trainable)
        return copy

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "base": None}

    def to_plain(self) -> dict[str, Any]:
        """What a checkpoint stores."""
        return {"schema": SCHEMA, "plans": [plan.to_plain() for plan in self.plans]}


def ledger_of(model: nn.Module) -> Ledger:
    """The model's ledger, an empty one if it has none yet."""
    return model.__dict__.setdefault(_ATTRIBUTE, Ledger())


def read_plans(checkpoint: Mapping[str, Any]) -> list[Plan]:
    """The plans in a checkpoint, migrated to what this program writes; none if the model was never edited.

    Raises:
        UserError: the ledger has another form than this program knows, or names a technique that is not registered.
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
    """Names of the parameters that require gradients, each once."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def set_trainable(model: nn.Module, names: Iterable[str]) -> None:
    """Makes exactly the named parameters trainable.

    Raises:
        UserError: a name is not a parameter's.
    """
    wanted = set(names)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    if missing := sorted(wanted - parameters.keys()):
        raise nothing_matches(missing[0], list(parameters), "trainable")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


@contextlib.contextmanager
def seeded_for(model: nn.Module, seed: int) -> Iterator[None]:
    """Seeds the global generators, and those of the devices that the model is on, and puts them back."""
    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices, enabled=bool(devices)), seeded(seed):
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def keeping_ties(model: nn.Module, what: str) -> Iterator[None]:
    """Refuses an edit after which a tied parameter that is still there is tied no longer.

    Args:
        model: What is edited within.
        what: The edit, as messages call it.

    Raises:
        UserError: a tie is lost; both names are told.
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
    """Makes the structure and trainability of ``model`` those of the checkpoint, so that its weights load strictly.

    Doing it twice equals doing it once. A model that was edited in another way before is taken back first.

    Args:
        model: As its constructor leaves it, or edited.
        checkpoint: As :func:`framework.open_checkpoint` or ``torch.load(path, weights_only=True)`` gives it.

    Raises:
        UserError: the ledger cannot be read, or the model cannot be taken back.
    """
    plans = read_plans(checkpoint)
    ledger = ledger_of(model)
    mine, theirs = _lasting(ledger.plans), _lasting(plans)
    if any(not same_edit(a, b) for a, b in zip(mine, theirs, strict=False)) or len(mine) > len(theirs):
        names = ", ".join(plan.name for plan in ledger.plans)
        if ledger.base is None:
            raise UserError(
                f"the model was edited by {names} already, and the checkpoint by other plans; build it anew"
            )
        rank_zero_warn(
            f"{names}: taken back, for the checkpoint was edited by {', '.join(p.name for p in plans) or 'none'}"
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
    """Those that changed more than values, which a checkpoint brings."""
    return [p for p in plans if p.trainable is not None or find_technique(p.technique).changes - {"values"}]


def same_edit(a: Plan, b: Plan) -> bool:
    """Whether two plans lead to the same structure and trainability."""
    return (a.technique, a.decision, a.trainable) == (b.technique, b.decision, b.trainable)


def undo(model: nn.Module, name: str) -> None:
    """Takes an edit of structure or trainability back: the model computes what it did before it.

    Raises:
        UserError: there is no such edit, a later one stands on it, or it wrote over values.
    """
    ledger = ledger_of(model)
    index = next((i for i in reversed(range(len(ledger.plans))) if ledger.plans[i].name == name), None)
    if index is None:
        done = ", ".join(plan.name for plan in ledger.plans) or "none"
        raise UserError(f"there is no edit {name!r} to take back; done: {done}")
    plan, technique = ledger.plans[index], find_technique(ledger.plans[index].technique)
    for later in ledger.plans[index + 1 :]:
        if find_technique(later.technique).changes & {"structure", "trainability"}:
            raise UserError(f"{name!r} cannot be taken back: {later.name!r} stands on it; take that back first")
    if "values" in technique.changes:
        raise UserError(f"{name!r} cannot be taken back: it wrote over values")
    if "structure" in technique.changes:
        technique.undo(model, plan.decision)
    earlier = [plan.trainable for plan in ledger.plans[:index] if plan.trainable is not None]
    set_trainable(model, earlier[-1] if earlier else ledger.trainable)
    del ledger.plans[index]


def fold(model: nn.Module) -> nn.Module:
    """Turns an edited model into a plain one that computes the same, in place; every parameter keeps its trainability.

    Returns:
        The model; its ``state_dict`` has the names that its constructor gives.

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
    """Puts the model's ledger into a checkpoint."""
    ledger = ledger_of(model)
    if ledger.plans:
        checkpoint[KEY] = ledger.to_plain()


def configure(module: Any) -> None:
    """Calls ``configure_model`` where a module has one, and sees to it that no later call builds the layers anew."""
    if is_overridden("configure_model", module):
        module.configure_model()
        module.configure_model = _nothing


def _nothing() -> None:
    pass


def attach(module: Any) -> None:
    """Makes any LightningModule's checkpoints carry its ledger and replay it, whatever hooks its class has."""
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
