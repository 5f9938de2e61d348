"""Coordinates of a regular grid, and the spectral centroid of a signal on it (WINNER, arXiv 2509.09719)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from framework.errors import UserError
from framework.settings import at_least, one_of

Centroid = Literal["ravel", "rows", "axes"]


def grid_coordinates(shape: Sequence[int]) -> Tensor:
    """Returns the coordinates of a grid's points, row-major: ``linspace(-1, 1, n)`` along each axis, with both ends.

    Args:
        shape: Number of points along each of d axes.

    Returns:
        (∏ shape, d), float32. The coordinate of an axis with one point is 0.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, shape=list(shape))
    axes = [torch.linspace(-1, 1, n, dtype=torch.float64) if n > 1 else torch.zeros(1).double() for n in shape]
    return torch.stack([grid.reshape(-1) for grid in torch.meshgrid(*axes, indexing="ij")], -1).float()


def _centroid(rows: Tensor) -> Tensor:
    """Returns Σ f |Y_f| / Σ |Y_f| over rfft's bins of real signals along the last dimension; f in cycles per sample."""
    amplitudes = torch.fft.rfft(rows).abs()
    frequencies = torch.fft.rfftfreq(rows.shape[-1], dtype=torch.float64)
    total = amplitudes.sum(-1)
    return torch.where(total > 0, (amplitudes * frequencies).sum(-1) / total.clamp(min=1e-300), 0.0)


def channel_centroids(signal: Any, mode: Centroid = "ravel") -> Tensor:
    """Returns the amplitude-weighted mean frequency of each channel, in cycles per sample (0 to 0.5).

    Args:
        signal: ``(*grid, C)``, real; an array or a tensor. The centroid of a zero signal is 0.
        mode: ``ravel`` uses all points row by row as one signal, as the authors' program for the published numbers
            does; ``rows`` averages over the signals along the grid's last axis; ``axes`` does so along each axis.

    Returns:
        ``(C,)`` float64; for ``axes`` ``(d, C)``.

    Raises:
        UserError: a value is not finite, there is no point, or the mode is not known.
    """
    one_of(get_args(Centroid), centroid=mode)
    values = torch.as_tensor(signal).detach().to("cpu", torch.float64)
    if values.ndim < 2 or not values.numel():
        raise UserError(f"a signal of shape {tuple(values.shape)} is not accepted; (*grid, channels) is expected")
    if not bool(torch.isfinite(values).all()):
        raise UserError("the target signal has values that are not finite")
    if mode == "ravel":
        return _centroid(values.reshape(-1, values.shape[-1]).T.contiguous())
    along = [
        _centroid(values.movedim(axis, -1)).reshape(-1, values.shape[-1]).mean(0) for axis in range(values.ndim - 1)
    ]
    return torch.stack(along) if mode == "axes" else along[-1]


def spectral_centroid(signal: Any, mode: Centroid = "ravel") -> float | list[float]:
    """Returns ψ = 2 mean_c(ψ_c) / C of WINNER (Chandravamsi et al. 2025), with ψ_c from :func:`channel_centroids`.

    Between 0 and 1 for one channel: white noise has ½, a tone at the Nyquist frequency 1. The weights are the
    amplitudes |rfft|, not the power.

    Args:
        signal: ``(*grid, C)``.
        mode: See :func:`channel_centroids`.

    Returns:
        ψ; for ``axes`` a list, one for each axis.

    Raises:
        UserError: see :func:`channel_centroids`.
    """
    centroids = channel_centroids(signal, mode)
    psi = 2 * centroids.mean(-1) / centroids.shape[-1]
    return [float(value) for value in psi] if mode == "axes" else float(psi)
