"""Protocols of modules with two heads of the same shape, the second of which starts as a copy of the first."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class HasClusterHead(Protocol):
    """A module that is trained in two stages: first its feature head, then a cluster head beside it too."""

    def head_names(self) -> tuple[str, str]:
        """Returns the names of the submodules: the feature head, and the cluster head."""
        ...

    def begin_clustering(self) -> None:
        """Makes the second stage's loss that of the following training steps; a checkpoint keeps this."""
        ...
