"""Edits a model in a way that a checkpoint can repeat: decide, record, apply."""

from framework.editing.engine import Editing, edit
from framework.editing.ledger import fold, ledger_of, replay, undo
from framework.editing.names import choose, matches, matrices, nothing_matches, unique_parameters
from framework.editing.plan import Plan
from framework.editing.stage import Stage, stage_of
from framework.editing.technique import Context, Edit, Observer, Once, OptimizerState, Technique, Transform, Writer

__all__ = [
    "Context",
    "Edit",
    "Editing",
    "Observer",
    "Once",
    "OptimizerState",
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
    "undo",
    "unique_parameters",
]
