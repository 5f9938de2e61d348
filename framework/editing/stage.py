"""Stages: parts of one training that an edit starts, each with its own optimiser settings and schedule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from framework.editing.ledger import ledger_of

KEY = "stage"


@dataclass(frozen=True)
class Stage:
    """What an edit wants of the optimiser from now on; a decision carries it under ``stage`` (:meth:`to_plain`).

    The latest decision that has one counts, so that a resumed run builds the same optimiser.

    Attributes:
        epoch: The first of its epochs.
        epochs: How many it has; ``None`` for all that are left.
        optimizer: Fields of :class:`framework.optim.OptimizerConfig` that differ.
        schedule: Fields of :class:`framework.optim.ScheduleConfig` that differ.
    """

    epoch: int = 0
    epochs: int | None = None
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """As a decision holds it."""
        return asdict(self)


def stage_of(model: nn.Module) -> Stage:
    """The stage that a model is in; one over the whole training where no edit started another."""
    stages = [plan.decision[KEY] for plan in ledger_of(model).plans if plan.decision.get(KEY) is not None]
    return Stage(**stages[-1]) if stages else Stage()
