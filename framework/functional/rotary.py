"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) that rotates the two halves, as in Llama."""

from __future__ import annotations

import torch
from torch import Tensor


def angles(positions: Tensor, dim: int, base: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns cosine and sine, (T, dim) each, of the rotation angle of each channel.

    Args:
        positions: Positions (T,) of the tokens.
        dim: Number of channels of a head, even.
        base: The longest wavelength is 2π times nearly this many tokens.
        dtype: Type of the result; the angles are float32.
    """
    frequency = base ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float32) / dim)
    angle = (positions[:, None].float() * frequency).repeat(1, 2)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates vectors by angles.

    Args:
        x: (…, T, d).
        cos: Cosine of the angles, broadcast to ``x``.
        sin: Sine of the angles, broadcast to ``x``.

    Returns:
        (…, T, d).
    """
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin
