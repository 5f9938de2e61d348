"""What techniques ask of models with memories that they route to or look up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class Routing(NamedTuple):
    """Where a router sends each token of a batch.

    Attributes:
        probabilities: (B, T, M) before the choice, float32, each row with sum 1.
        selected: (B, T, M) boolean, the choice; all false for padding.
        weights: (B, T, M) float32, what the chosen ones count for; 0 elsewhere.
    """

    probabilities: Tensor
    selected: Tensor
    weights: Tensor


@runtime_checkable
class HasRouters(Protocol):
    """A module that sends tokens to some of several parts of a layer: memories or experts."""

    def routers(self) -> Mapping[str, nn.Module]:
        """A layer's name to its router, a submodule whose ``forward`` returns a :class:`Routing`."""
        ...


@dataclass(frozen=True)
class TableRead:
    """What a layer has read from its table for some tokens; detached.

    Attributes:
        slots: (T, m) int64, below the layer's number of slots.
        scores: (T, m) what the rows were weighted with.
    """

    slots: Tensor
    scores: Tensor


@runtime_checkable
class ReadsTable(Protocol):
    """A layer that reads a few rows of a large table for each token."""

    slots: int
    """How many it can read."""

    last_read: TableRead | None
    """In the last forward pass."""


@runtime_checkable
class HasCoreSpectrum(Protocol):
    """A module with layers that retrieve by the leading singular vectors of a small core."""

    def core_spectrum(self) -> Tensor:
        """(layers, rank) singular values of the cores, in descending order; no rows if there are none."""
        ...
