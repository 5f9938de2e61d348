"""What a technique may ask of a module or a datamodule, as protocols that either side can meet without the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KernelData:
    """What one layer convolves with, on the CPU.

    Attributes:
        name: Of the layer, for a title.
        kernel: (H, L), one kernel a row, over L samples.
        basis: (M, L), basis functions of one channel.
        modes: (M',) complex, the continuous-time spectrum of the layer.
        steps: (H,) step sizes Δ, in samples.
    """

    name: str
    kernel: Tensor
    basis: Tensor
    modes: Tensor
    steps: Tensor


@runtime_checkable
class HasKernels(Protocol):
    """A module whose layers are convolutions with long kernels."""

    def kernel_data(self, length: int) -> list[KernelData]:
        """The kernels of each layer over ``length`` samples."""
        ...


@runtime_checkable
class HasMemory(Protocol):
    """A module whose layers keep a state that past inputs can be read from."""

    def memory_curves(self, delays: list[int], samples: int) -> dict[str, list[float]]:
        """For each layer, R² of a linear reading of the input ``d`` samples ago, for each delay."""
        ...


@runtime_checkable
class RateTransferable(Protocol):
    """A module that can run on an input sampled more coarsely than in training, without retraining."""

    def metrics_at_rate(self, batch: Any, rate: int) -> dict[str, Tensor]:
        """Scores (scalars, means over the batch) on every ``rate``-th sample of a batch's input."""
        ...


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
