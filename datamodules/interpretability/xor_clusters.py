"""XOR clusters: two informative coordinates of size one among thousands of small random ones (arXiv 2506.12284)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.interpretability.repeated import RepeatedData
from framework.settings import above, at_least, one_of

Dtype = Literal["float32", "float64"]


def xor_clusters(samples: int, dimensions: int, eps: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws X = [s | u], s uniform in {-1, 1}², u uniform in {-eps, eps}^(p - 2), and y = s₁ s₂.

    Args:
        samples: n.
        dimensions: p.
        eps: Size of the other coordinates.
        generator: Source of randomness.

    Returns:
        X (n, p) and y (n,), float32.
    """
    x = torch.randint(0, 2, (samples, dimensions), generator=generator).float().mul_(2).sub_(1)
    x[:, 2:] *= eps
    return x, x[:, 0] * x[:, 1]


class NoisyInputs(Dataset):
    """One batch of inputs with noise added in the coordinates from the third, when it is read.

    Args:
        x: (N, p).
        y: (N,).
        noise: (N, p - 2); several data sets share it.
        amplitude: Factor of the noise.
    """

    draws_random_numbers = False

    def __init__(self, x: Tensor, y: Tensor, noise: Tensor, amplitude: float) -> None:
        self.x, self.y, self.noise, self.amplitude = x, y, noise, amplitude

    def __len__(self) -> int:
        return 1

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the whole batch."""
        return torch.cat([self.x[:, :2], self.x[:, 2:].add(self.noise, alpha=self.amplitude)], 1), self.y


class XORClusters(RepeatedData):
    """XOR clusters, a fresh draw as the test set, and copies of that with noise in the uninformative coordinates.

    Batches are ``(x, y)``: ``x`` (n, p), ``y`` (n,) of -1 and 1, of the same type. Validation measures the test set,
    the training set, and each noisy copy (``val/accuracy_noise_<amplitude>``): the same noise N(0, 1), scaled.

    Reads: nothing.

    Args:
        inputs: p, number of coordinates.
        samples: n, in the training set and in the test set.
        eps: Size of the uninformative coordinates.
        amplitudes: Of the noise; by default 0.2, 0.4, 0.6, 0.8 and 1.
        dtype: ``float32`` or ``float64``.
        seed: Of the data.
        batch_size: Samples in a training batch; all for 0, as the authors'.
        passes: Passes over the data in an epoch of the Trainer; validation comes after it.

    Attributes:
        num_classes: 2.

    Raises:
        UserError: a setting is not accepted.
    """

    num_classes = 2

    def __init__(
        self,
        inputs: int = 4000,
        samples: int = 400,
        eps: float = 0.05,
        amplitudes: list[float] | None = None,
        dtype: Dtype = "float32",
        seed: int = 0,
        batch_size: int = 0,
        passes: int = 5,
    ) -> None:
        super().__init__(batch_size, passes)
        at_least(3, inputs=inputs)
        at_least(1, samples=samples)
        above(0, eps=eps, amplitudes=amplitudes)
        one_of(get_args(Dtype), dtype=dtype)
        self.inputs, self.samples, self.eps, self.dtype, self.seed = inputs, samples, eps, dtype, seed
        self.amplitudes = [0.2, 0.4, 0.6, 0.8, 1.0] if amplitudes is None else amplitudes

    def setup(self, stage: str | None = None) -> None:
        """Draws the data, once."""
        if self.train_set is not None:
            return
        generator = torch.Generator().manual_seed(self.seed)
        dtype = torch.float64 if self.dtype == "float64" else torch.float32
        (x, y), (z, w) = (
            tuple(part.to(dtype) for part in xor_clusters(self.samples, self.inputs, self.eps, generator))
            for _ in range(2)
        )
        noise = torch.randn(self.samples, self.inputs - 2, generator=generator).to(dtype)
        others = {f"noise_{size:g}": NoisyInputs(z, w, noise, size) for size in self.amplitudes}
        self.hold((x, y), (z, w), others)
