"""What techniques ask of a datamodule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@runtime_checkable
class InRounds(Protocol):
    """A datamodule whose training data is revealed in rounds: each shows what the earlier ones did, and more.

    What it shows changes with the next training loader that is asked for, so a Trainer must ask for one each epoch
    (``reload_dataloaders_every_n_epochs=1``). The round is part of the datamodule's state in a checkpoint.
    """

    round: int
    """The round under way, from 0."""

    rounds: int
    """How many there are (known after ``setup``)."""

    def advance(self) -> bool:
        """Goes on to the next round; returns whether there was one."""
        ...

    def samples_in(self, number: int) -> int:
        """Training samples that round ``number`` shows."""
        ...


@runtime_checkable
class HasTargetSignal(Protocol):
    """A datamodule whose data is one signal on a grid of coordinates, which a network is to fit."""

    def target_signal(self) -> Tensor:
        """(*grid, C) the values as the network is to give them, float32, on the CPU; known after ``setup``."""
        ...
