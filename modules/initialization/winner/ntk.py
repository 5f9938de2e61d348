"""The eigenvalues and the spectrum of a network's empirical tangent kernel, which show what it learns quickly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework.functional import ntk


def tangent_kernel(model: nn.Module, x: Tensor, chunk: int = 64) -> Tensor:
    """K = J Jᵀ / N², with J the derivatives of the output at N points by all parameters; channels are summed over.

    The derivatives of one parameter tensor are in memory at a time.

    Args:
        model: Gives (N, C) for (N, d).
        x: (N, d).
        chunk: Points that are differentiated together.

    Returns:
        (N, N), float64, symmetric and positive semi-definite.
    """
    return ntk.tangent_kernel(model, x, chunk=chunk) / len(x) ** 2


def kernel_spectrum(kernel: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, and Σ_i λ_i |FFT(v_i)|² / N: the share of the kernel at each frequency.

    Args:
        kernel: (N, N), of points in order.

    Returns:
        (N,) eigenvalues from the largest, and (N // 2 + 1,) masses of rfft's bins, whose two-sided sum is the trace.
    """
    n = len(kernel)
    values, vectors = torch.linalg.eigh((kernel + kernel.T) / 2)
    power = torch.fft.rfft(vectors, dim=0).abs().square() / n
    return values.flip(0), power @ values.clamp(min=0)


def mass_above(spectrum: Tensor, fraction: float = 0.5) -> float:
    """Share of a spectrum over rfft's bins above a fraction of Nyquist's frequency."""
    bins = torch.arange(len(spectrum)) / (len(spectrum) - 1)
    return float(spectrum[bins > fraction].sum() / spectrum.sum())


@torch.no_grad()
def activation_spectra(model: nn.Module, x: Tensor, pre: bool = True) -> list[Tensor]:
    """Power spectral density of each layer's (pre-)activations over points in order, mean over its units.

    Args:
        model: A :class:`~modules.initialization.winner.backbones.CoordinateNetwork`.
        x: (N, 1).
        pre: Whether to use the activation's inputs instead of its outputs.

    Returns:
        (N // 2 + 1,) for each layer but the last: |rfft|² / N.
    """
    found = model.activations(x)  # type: ignore[operator]
    chosen = [(a if pre else h).double() for a, h in found]
    return [torch.fft.rfft(values, dim=0).abs().square().mean(1) / len(values) for values in chosen]
