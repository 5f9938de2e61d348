"""Protocols of models that are trained on interval bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor, nn

    from framework.functional.interval import Bounds


@dataclass(frozen=True)
class BoundedStep:
    """The bounds that a training step computed of its batch.

    Attributes:
        bounds: With gradients; ``None`` if the step needed none.
        eps: Largest change of a pixel in this step, in [0, 1] units.
        final_eps: The value that eps grows to.
        growing: Whether eps still grows.
    """

    bounds: Bounds | None
    eps: float
    final_eps: float
    growing: bool


@runtime_checkable
class HasBoundedStep(Protocol):
    """A classifier whose training step propagates boxes."""

    bounded_step: BoundedStep | None
    """Of the last training step."""


@runtime_checkable
class HasBoundedNetwork(Protocol):
    """A classifier of inputs in [0, 1] by a network ``net`` through which boxes can be propagated."""

    net: nn.Module
    test_eps: float
    """Largest change of a pixel in evaluation."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs (B, …) to logits (B, C)."""
        ...
