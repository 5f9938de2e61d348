"""Protocols of sequence models: kernels, memory, sampling rates, generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KernelData:
    """The convolution kernels of one layer, on the CPU.

    Attributes:
        name: Name of the layer, for a title.
        kernel: (H, L), one kernel per row, over L samples.
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
        """Returns the kernels of each layer over ``length`` samples."""
        ...


@runtime_checkable
class HasMemory(Protocol):
    """A module whose layers keep a state that past inputs can be read from."""

    def memory_curves(self, delays: list[int], samples: int) -> dict[str, list[float]]:
        """Returns for each layer and delay ``d`` the R² of a linear readout of the input ``d`` samples ago."""
        ...


@runtime_checkable
class RateTransferable(Protocol):
    """A module that can run on an input sampled more coarsely than in training, without retraining."""

    def metrics_at_rate(self, batch: Any, rate: int) -> dict[str, Tensor]:
        """Returns scores (scalars, means over the batch) on every ``rate``-th sample of a batch's input."""
        ...


@runtime_checkable
class Generates(Protocol):
    """A language model that continues from a decoding state."""

    vocab_size: int
    """Number of tokens in the vocabulary."""

    def extend(self, input_ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Returns the logits of tokens (B, T) after a state (``None`` at the start), and the state after them."""
        ...

    def generate(self, prompt: Tensor) -> tuple[Tensor, Tensor]:
        """Returns prompts (B, P) and their continuations (B, N)."""
        ...
