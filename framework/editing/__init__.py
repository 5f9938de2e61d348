"""Editing a model so that the edit survives a checkpoint: decide, record, apply."""

from framework.editing.names import choose, matches, nothing_matches, unique_parameters
from framework.editing.plan import Plan
from framework.editing.technique import Context, Edit, Observer, Technique, Transform

__all__ = [
    "Context",
    "Edit",
    "Observer",
    "Plan",
    "Technique",
    "Transform",
    "choose",
    "matches",
    "nothing_matches",
    "unique_parameters",
]
