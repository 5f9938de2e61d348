"""Protocols of datamodules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset


@runtime_checkable
class InRounds(Protocol):
    """A datamodule whose training data is revealed in rounds: each round has the earlier rounds' samples and more.

    The samples change with the next training loader that is made, so a Trainer must make one each epoch
    (``reload_dataloaders_every_n_epochs=1``). The round is part of the datamodule's state in a checkpoint.
    """

    round: int
    """The current round, from 0."""

    rounds: int
    """Number of rounds (known after ``setup``)."""

    def advance(self) -> bool:
        """Moves to the next round; returns whether there was one."""
        ...

    def samples_in(self, number: int) -> int:
        """Returns the number of training samples in round ``number``."""
        ...


@runtime_checkable
class HasTargetSignal(Protocol):
    """A datamodule whose data is one signal on a grid of coordinates, which a network learns."""

    def target_signal(self) -> Tensor:
        """Returns the target values (*grid, C) of the network, float32, on the CPU; known after ``setup``."""
        ...


@runtime_checkable
class HasNormalisation(Protocol):
    """A datamodule of pictures whose batches are (pixels - mean) / std, pixels from 0 to 1; known after ``setup``."""

    mean: tuple[float, ...]
    """Subtracted from each channel."""

    std: tuple[float, ...]
    """Divides each channel."""


@runtime_checkable
class HasExamples(Protocol):
    """A datamodule whose training set repeats or augments examples, and that can return each of them once, as it is."""

    def examples(self, part: str) -> Dataset:
        """Returns the data set of ``train``, ``val`` or ``test``, each example once; known after ``setup``."""
        ...


@runtime_checkable
class HasConcepts(Protocol):
    """A datamodule whose targets (B, k) are the values of k concepts, whole numbers from 0; known after ``setup``."""

    concepts: tuple[str, ...]
    """Names of the concepts, in the order of the targets' columns."""

    sizes: tuple[int, ...]
    """Number of values of each concept."""
