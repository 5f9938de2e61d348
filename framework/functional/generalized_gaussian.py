"""The generalised Gaussian distribution of weights: moments, density, sampler and the estimator of its shape.

Paper: It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs (Wu et al. 2025,
arXiv 2506.00486).

With location 0, scale α and shape ν,

    p(w) = ν / (2 α Γ(1/ν)) · exp(−(|w| / α)^ν),

so that ν = 2 is the normal distribution (α = √2 σ), ν = 1 Laplace's, and ν → ∞ the uniform one on (−α, α). Below 2 it
has a sharper peak and heavier tails.

    Var w = α² Γ(3/ν) / Γ(1/ν),   E|w| = α Γ(2/ν) / Γ(1/ν),   ρ(ν) = Var w / (E|w|)² = Γ(1/ν) Γ(3/ν) / Γ(2/ν)²

ρ decreases strictly with ν; the estimator looks up n Σw² / (Σ|w|)² in a table of it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.settings import above, at_least, finite

LOWEST, HIGHEST, RESOLUTION = 0.10, 3.00, 0.01
"""Ends of the estimator's table of shapes, which has 291 entries."""

_CHUNK = 1 << 16  # samples drawn at a time: they fit in the cache
_SIGN: dict[np.dtype, Any] = {np.dtype(np.float32): np.uint32(1 << 31), np.dtype(np.float64): np.uint64(1 << 63)}


def _exp(x: float) -> float:
    """Returns eˣ, infinite where it is too large for a float."""
    return math.exp(x) if x < math.log(sys.float_info.max) else math.inf


def variance(alpha: float, shape: float) -> float:
    """Returns the variance α² Γ(3/ν) / Γ(1/ν).

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, alpha=alpha)
    above(0, shape=shape)
    return alpha**2 * _exp(math.lgamma(3 / shape) - math.lgamma(1 / shape))


def entropy(alpha: float, shape: float) -> float:
    """Returns the differential entropy 1/ν − ln(ν / (2 α Γ(1/ν))), in nats.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, alpha=alpha, shape=shape)
    return 1 / shape - math.log(shape / (2 * alpha)) + math.lgamma(1 / shape)


def ratio(shape: float) -> float:
    """Returns ρ(ν) = Var w / (E\\|w\\|)², strictly decreasing from ∞ to 4/3; ρ(1) = 2, ρ(2) = π/2.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, shape=shape)
    return _exp(math.lgamma(1 / shape) + math.lgamma(3 / shape) - 2 * math.lgamma(2 / shape))


def scale_of_std(std: float, shape: float) -> float:
    """Returns the scale α of the distribution with this standard deviation.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, std=std)
    above(0, shape=shape)
    return std * math.exp(0.5 * (math.lgamma(1 / shape) - math.lgamma(3 / shape)))


def log_density(w: Tensor, alpha: float, shape: float, mean: float = 0.0) -> Tensor:
    """Returns ln p(w) of each element, with the shape and type of ``w``.

    Args:
        w: Weights of any shape.
        alpha: Scale α, above 0.
        shape: ν, above 0.
        mean: Location.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, alpha=alpha, shape=shape)
    finite(mean=mean)
    constant = math.log(shape / (2 * alpha)) - math.lgamma(1 / shape)
    return constant - ((w - mean).abs() / alpha) ** shape


def density(w: Tensor, alpha: float, shape: float, mean: float = 0.0) -> Tensor:
    """Returns p(w) of each element, with the shape and type of ``w``.

    Args:
        w: Weights of any shape.
        alpha: Scale α, above 0.
        shape: ν, above 0.
        mean: Location.
    """
    return log_density(w, alpha, shape, mean).exp()


@torch.no_grad()
def fill_(tensor: Tensor, shape: float, alpha: float, seed: int | list[int]) -> Tensor:
    """Fills a tensor in place with samples s α g^(1/ν), g ~ Gamma(1/ν), s a random sign.

    Since g has the distribution of g' u^ν, g' ~ Gamma(1 + 1/ν), u uniform on (0, 1), they are drawn as α g'^(1/ν) u
    with u
    on (-1, 1): this includes the sign, and a Gamma variable with a shape above 1 is fast to draw.

    The values depend only on ``seed``, the number of elements and whether the tensor is float64, not on the device or a
    global generator. Smaller types than float32 are drawn as float32, then rounded.

    Args:
        tensor: A tensor of a floating type, on any device.
        shape: ν.
        alpha: Scale α.
        seed: An integer from 0, or several.

    Returns:
        ``tensor``.

    Raises:
        UserError: the shape is not accepted.
    """
    above(0, shape=shape)
    at_least(0, alpha=alpha)
    if tensor.is_meta or tensor.numel() == 0:
        return tensor
    dtype = np.dtype(np.float64 if tensor.dtype == torch.float64 else np.float32)
    straight = tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.dtype in (torch.float32, torch.float64)
    flat = tensor.detach().view(-1).numpy() if straight else np.empty(tensor.numel(), dtype)
    generator = np.random.Generator(np.random.SFC64(seed))
    for start in range(0, len(flat), _CHUNK):
        _draw(flat[start : start + _CHUNK], shape, alpha, generator)
    if not straight:
        tensor.copy_(torch.from_numpy(flat).view(tensor.shape))
    return tensor


def _draw(out: np.ndarray, shape: float, alpha: float, generator: np.random.Generator) -> None:
    dtype = out.dtype
    if shape == 2:
        generator.standard_normal(dtype=dtype, out=out)  # type: ignore[call-overload]
        out *= dtype.type(alpha * math.sqrt(0.5))
        return
    if shape in (0.5, 1):  # g is a sum of 1/ν exponentials
        generator.standard_exponential(dtype=dtype, out=out)  # type: ignore[call-overload]
        if shape == 0.5:
            out += generator.standard_exponential(len(out), dtype=dtype)  # type: ignore[call-overload]
            out *= out
        out *= dtype.type(alpha)
        sign = _SIGN[dtype]
        bits = out.view(sign.dtype)
        bits |= np.frombuffer(generator.bytes(out.nbytes), sign.dtype) & sign
        return
    generator.standard_gamma(1 + 1 / shape, dtype=dtype, out=out)  # type: ignore[call-overload]
    torch.from_numpy(out).pow_(1 / shape)  # torch's power is vectorised
    uniform = generator.random(len(out), dtype=dtype)  # type: ignore[call-overload]
    uniform -= dtype.type(0.5)
    uniform *= dtype.type(2 * alpha)
    out *= uniform


def sample(
    size: tuple[int, ...],
    shape: float,
    std: float = 1.0,
    seed: int | list[int] = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Draws a tensor (see :func:`fill_`).

    Args:
        size: Shape of the tensor.
        shape: ν.
        std: Standard deviation.
        seed: An integer from 0, or several.
        dtype: A floating type.

    Raises:
        UserError: ν is not a positive finite number.
    """
    above(0, shape=shape)
    return fill_(torch.empty(size, dtype=dtype), shape, scale_of_std(std, shape), seed)


@dataclass(frozen=True)
class Moments:
    """The sums over weights that the estimator needs; they can be added over tensors, shards and ranks.

    Attributes:
        count: Number of weights n.
        absolute: Σ\\|w\\|.
        square: Σw².
    """

    count: int = 0
    absolute: float = 0.0
    square: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.absolute + other.absolute, self.square + other.square)

    @property
    def ratio(self) -> float:
        """n Σw² / (Σ\\|w\\|)², the estimate of ρ; NaN if all weights are 0."""
        return self.count * self.square / self.absolute / self.absolute if self.absolute else math.nan

    @property
    def std(self) -> float:
        """√(Σw² / n); the mean is assumed to be 0."""
        return math.sqrt(self.square / self.count) if self.count else math.nan


@torch.no_grad()
def moments(weights: Tensor | Iterable[Tensor]) -> Moments:
    """Computes the sums over one or several tensors, in float64."""
    if not isinstance(weights, Tensor):
        return sum((moments(tensor) for tensor in weights), Moments())
    absolute = square = 0.0
    for part in weights.detach().reshape(-1).split(1 << 18):  # to avoid a float64 copy of a large tensor
        part = part.double()
        absolute += float(part.abs().sum())
        square += float(part.dot(part))
    return Moments(weights.numel(), absolute, square)


@dataclass(frozen=True)
class ShapeFit:
    """A fitted distribution.

    Attributes:
        shape: ν, on the table's grid; NaN if all weights are 0, or one is not finite.
        alpha: Scale of the distribution with that shape and the weights' standard deviation.
        std: √(Σw² / n).
        count: Number of weights.
        saturated: Whether the weights' ratio is beyond the table's ends.
    """

    shape: float
    alpha: float
    std: float
    count: int
    saturated: bool


@cache
def shape_table() -> tuple[Tensor, Tensor]:
    """Returns the shapes 0.10, 0.11, …, 3.00 and ρ of each, float64."""
    shapes = [round(LOWEST + RESOLUTION * k, 2) for k in range(round((HIGHEST - LOWEST) / RESOLUTION) + 1)]
    return torch.tensor(shapes, dtype=torch.float64), torch.tensor([ratio(nu) for nu in shapes], dtype=torch.float64)


def fit(weights: Tensor | Iterable[Tensor] | Moments) -> ShapeFit:
    """Fits the shape as in the paper: the entry of the table whose ρ is nearest to n Σw² / (Σ\\|w\\|)².

    Several tensors are treated as one sample (the paper's global estimate); a mixture of scales then appears as a
    smaller ν. The mean is assumed to be 0. The resolution is 0.01; an estimate of 0.1 or 3.0 may be the end of the
    table.
    """
    sums = weights if isinstance(weights, Moments) else moments(weights)
    if not 0 < sums.absolute < math.inf:
        return ShapeFit(math.nan, math.nan, sums.std, sums.count, False)
    shapes, ratios = shape_table()
    found = float(shapes[(ratios - sums.ratio).abs().argmin()])
    beyond = not float(ratios[-1]) <= sums.ratio <= float(ratios[0])
    return ShapeFit(found, scale_of_std(sums.std, found), sums.std, sums.count, beyond)
