"""Phases: the order in which techniques change a model, from its structure to the average of its weights.

A technique has a phase (:attr:`Technique.phase`) and so needs no list of the techniques that come before and after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from framework.editing.technique import Technique

Phase = Literal[
    "grow",
    "draw",
    "predict",
    "pattern",
    "carry",
    "noise",
    "convert",
    "probe",
    "select",
    "adapt",
    "remap",
    "update",
    "average",
]
MEANING: dict[Phase, str] = {
    "grow": "replaces layers by ones that grow in training",
    "draw": "draws fresh weights",
    "predict": "writes weights computed for this model from a result of earlier training",
    "pattern": "gives a structure to the existing weights",
    "carry": "loads saved weights, or shrinks and perturbs the existing ones",
    "noise": "adds noise to weights",
    "convert": "replaces layers by others with the same weights",
    "probe": "fits the head on the features of the other layers",
    "select": "chooses what is trained",
    "adapt": "adds small trainable layers",
    "remap": "remaps trained weights during training",
    "update": "takes part in every optimiser step, or in every evaluation",
    "average": "averages the weights after all other techniques",
}
PHASES: tuple[Phase, ...] = get_args(Phase)
_RANK: dict[Phase | None, int] = {phase: rank for rank, phase in enumerate(PHASES)}


def comes_before(one: type[Technique], other: type[Technique]) -> bool:
    """Whether ``one`` must be applied before ``other``: by their declarations, otherwise by their phases.

    ``average`` comes after every technique, with a phase or without. Two techniques of the same phase, or one
    without a phase, keep the order of the config.
    """
    if one is other:
        return False
    if other.technique in one.before or one.technique in other.after:
        return True
    if one.technique in other.before or other.technique in one.after:
        return False
    last = _last(other), _last(one)
    if last != (False, False):
        return last == (True, False)
    if "*" in one.before or "*" in other.before:
        return "*" in one.before and "*" not in other.before
    if one.phase is None or other.phase is None:
        return False
    return _RANK[one.phase] < _RANK[other.phase]


def _last(technique: type[Technique]) -> bool:
    return technique.phase == "average" or "*" in technique.after
