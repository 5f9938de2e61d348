"""Protocols of models with memories that they route to or look up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn


class Routing(NamedTuple):
    """A router's choice for each token of a batch.

    Attributes:
        probabilities: (B, T, M) float32, before the choice; each row sums to 1.
        selected: (B, T, M) boolean, the choice; all false for padding.
        weights: (B, T, M) float32, weights of the chosen ones; 0 elsewhere.
    """

    probabilities: Tensor
    selected: Tensor
    weights: Tensor


@runtime_checkable
class HasRouters(Protocol):
    """A module that sends tokens to some of several parts of a layer: memories or experts."""

    def routers(self) -> Mapping[str, nn.Module]:
        """Maps a layer's name to its router, a submodule whose ``forward`` returns a :class:`Routing`."""
        ...


@dataclass(frozen=True)
class TableRead:
    """The rows that a layer has read from its table for some tokens; detached.

    Attributes:
        slots: (T, m) int64, below the layer's number of slots.
        scores: (T, m) weights of the rows.
    """

    slots: Tensor
    scores: Tensor


@runtime_checkable
class ReadsTable(Protocol):
    """A layer that reads a few rows of a large table for each token."""

    slots: int
    """Number of rows of the table."""

    last_read: TableRead | None
    """The rows read in the last forward pass."""


@runtime_checkable
class HasCoreSpectrum(Protocol):
    """A module with layers that retrieve by the leading singular vectors of a small core."""

    def core_spectrum(self) -> Tensor:
        """Returns the singular values (layers, rank) of the cores, in descending order; no rows if there are none."""
        ...
