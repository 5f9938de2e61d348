"""What techniques ask of models of sequences: kernels, memory, rates that transfer, generated samples."""

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
class Generates(Protocol):
    """A language model that runs on from a decoding state."""

    vocab_size: int
    """How many tokens there are."""

    def extend(self, input_ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits of the tokens (B, T) that follow a state (``None`` at the start), and the state after them."""
        ...

    def generate(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts (B, P) and how they go on, (B, N)."""
        ...
