"""Edits a model in a way that a checkpoint can repeat: decide, record, apply."""

from framework.editing.capture import Captured
from framework.editing.engine import Editing, edit
from framework.editing.ledger import fold, ledger_of, replay, undo
from framework.editing.names import choose, matches, matrices, nothing_matches, trained_parameters, unique_parameters
from framework.editing.penalty import Penalty
from framework.editing.plan import Plan
from framework.editing.stage import Stage, stage_of
from framework.editing.technique import Context, Edit, Observer, Once, OptimizerState, Technique, Transform, Writer

__all__ = [
    "Captured",
    "Context",
    "Edit",
    "Editing",
    "Observer",
    "Once",
    "OptimizerState",
    "Penalty",
    "Plan",
    "Stage",
    "Technique",
    "Transform",
    "Writer",
    "choose",
    "edit",
    "fold",
    "ledger_of",
    "matches",
    "matrices",
    "nothing_matches",
    "replay",
    "stage_of",
    "trained_parameters",
    "undo",
    "unique_parameters",
]
