"""Editing a model so that the edit survives a checkpoint: decide, record, apply."""

from framework.editing.engine import Editing, edit
from framework.editing.ledger import fold, ledger_of, replay, undo
from framework.editing.names import choose, matches, nothing_matches, unique_parameters
from framework.editing.opening import open_model
from framework.editing.plan import Plan
from framework.editing.technique import Context, Edit, Observer, Technique, Transform

__all__ = [
    "Context",
    "Edit",
    "Editing",
    "Observer",
    "Plan",
    "Technique",
    "Transform",
    "choose",
    "edit",
    "fold",
    "ledger_of",
    "matches",
    "nothing_matches",
    "open_model",
    "replay",
    "undo",
    "unique_parameters",
]
