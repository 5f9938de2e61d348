"""Stages: parts of one training, each started by an edit, with its own optimiser settings and schedule."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from torch import nn

from framework.editing.ledger import ledger_of

KEY = "stage"


@dataclass(frozen=True)
class Stage:
    """The optimiser settings and schedule after an edit; stored in its decision under ``stage`` (:meth:`to_plain`).

    The latest decision with a stage is used, so that a resumed run builds the same optimiser.

    Attributes:
        epoch: Its first epoch.
        epochs: Number of its epochs; ``None`` for all remaining ones.
        optimizer: Fields of :class:`framework.optim.OptimizerConfig` that it changes.
        schedule: Fields of :class:`framework.optim.ScheduleConfig` that it changes.
    """

    epoch: int = 0
    epochs: int | None = None
    optimizer: dict[str, Any] = field(default_factory=dict)
    schedule: dict[str, Any] = field(default_factory=dict)

    def to_plain(self) -> dict[str, Any]:
        """Returns it as plain data for a decision."""
        return asdict(self)


def stage_of(model: nn.Module) -> Stage:
    """Returns the model's current stage; one over the whole training if no edit started another."""
    stages = [plan.decision[KEY] for plan in ledger_of(model).plans if plan.decision.get(KEY) is not None]
    return Stage(**stages[-1]) if stages else Stage()
