"""Metrics of a fitted signal: PSNR, and the error in bands of the spectrum."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torchmetrics import Metric


def psnr(mse: float, peak: float = 2.0) -> float:
    """10 log₁₀(peak² / mse) in dB; infinite for 0.

    Args:
        mse: Mean squared error.
        peak: Range of the values: 2 for [-1, 1]. The paper uses 1, which gives 6.02 dB less.
    """
    return 10 * math.log10(peak**2 / mse) if mse > 0 else math.inf


class PSNR(Metric):
    """PSNR in dB of all values seen, over batches and processes.

    Args:
        peak: See :func:`psnr`.
    """

    full_state_update = False
    squares: Tensor
    count: Tensor

    def __init__(self, peak: float = 2.0) -> None:
        super().__init__()
        self.peak = peak
        self.add_state("squares", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Adds values of equal shape."""
        self.squares += (prediction.detach().float() - target.float()).square().sum().to(self.squares)
        self.count += target.numel()

    def compute(self) -> Tensor:
        """Returns the PSNR; NaN before the first value."""
        return (10 * torch.log10(self.peak**2 * self.count / self.squares)).float()


def band_errors(prediction: Tensor, target: Tensor, bands: int = 4) -> list[float]:
    """Energy of the error divided by that of the target in equal bands from 0 to Nyquist's frequency: 1 for zero
    output.

    In several dimensions the frequency is the largest of those along the axes.

    Args:
        prediction: (*grid, C).
        target: The same.
        bands: Number of bands.

    Returns:
        One ratio for each band; NaN if the target has less than 1e-12 of its energy there.
    """
    axes = tuple(range(target.ndim - 1))
    error, signal = (
        torch.fft.fftn(values.double(), dim=axes).abs().square().sum(-1) for values in (prediction - target, target)
    )
    along = [torch.fft.fftfreq(n, dtype=torch.float64).abs() * 2 for n in signal.shape]
    frequency = torch.stack(torch.meshgrid(*along, indexing="ij")).amax(0)
    band = (frequency * bands).long().clamp(max=bands - 1)
    total, ratios = float(signal.sum()), []
    for index in range(bands):
        energy = float(signal[band == index].sum())
        wrong = float(error[band == index].sum())
        ratios.append(wrong / energy if energy > 1e-12 * total else math.nan)
    return ratios
