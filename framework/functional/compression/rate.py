"""The rate: bits per weight when weights are rounded to a grid and coded by frequency.

Paper: BackSlash: Rate Constrained Optimized Training of Large Language Models (Wu, Wen & Han, ICML 2025, arXiv
2504.16968); It Takes a Good Model to Train a Good Model (Wu et al. 2025, arXiv 2506.00486).

Weights are rounded to levels q = round(w / step), step 2⁻¹³ in the paper. The distinct levels, sorted by decreasing
count, get the ranks r = 0, 1, …, and rank r the exp-Golomb code of 2 ⌊log2(r + 1)⌋ + 1 bits. The mean of these is the
rate (``eg``); the empirical entropy is a lower bound for every code of single levels; ⌈log2 levels⌉ is a code of fixed
length.

Only the counts are sorted, never the weights: 1e8 float32 weights take some seconds on one core.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.settings import above, at_least

STEP = 2.0**-13
"""The paper's step between two levels."""

_CHUNK = 1 << 20
_DENSE = 1 << 24  # largest range of levels with a count for each, 128 MiB


@dataclass(frozen=True)
class BitRate:
    """The bits per weight of some weights at one step.

    Attributes:
        eg: Mean bits of a weight in exp-Golomb codes of the levels' frequency ranks.
        entropy: Empirical entropy of the levels in bits.
        fixed: Bits of a code of fixed length.
        levels: Distinct levels that occur.
        count: Number of weights.
        sparsity: Share of weights that are rounded to 0.
    """

    eg: float
    entropy: float
    fixed: int
    levels: int
    count: int
    sparsity: float


def _tensors(weights: Tensor | Iterable[Tensor]) -> list[Tensor]:
    tensors = [weights] if isinstance(weights, Tensor) else list(weights)
    return [tensor.detach() for tensor in tensors if tensor.numel()]


def _scaled(part: Tensor, step: float) -> Tensor:
    """Returns ``part / step`` rounded half to even, in float32 or float64; exact for a step that is a power of two."""
    return (part.double() if part.dtype == torch.float64 else part.float()).div(step).round_()


@torch.no_grad()
def quantise(weights: Tensor, step: float = STEP) -> Tensor:
    """Rounds to levels q = round(w / step), half to even; returns int32 of the shape and on the device of ``weights``.

    Raises:
        UserError: a weight is NaN or infinite, or its level needs more than 32 bits.
    """
    above(0, step=step)
    flat = weights.detach().reshape(-1)
    levels = torch.empty(flat.shape, dtype=torch.int32, device=flat.device)
    for start in range(0, flat.numel(), _CHUNK):
        scaled = _scaled(flat[start : start + _CHUNK], step)
        _check_range(*torch.aminmax(scaled), step)
        levels[start : start + _CHUNK] = scaled
    return levels.view(weights.shape)


def _check_range(low: Tensor, high: Tensor, step: float) -> None:
    least, most = float(low), float(high)
    if not (math.isfinite(least) and math.isfinite(most)):
        raise UserError("the weights hold NaN or infinity, which have no level")
    if max(-least, most) >= 2**31 - 128:  # the largest float32 below 2³¹
        raise UserError(f"a weight of {max(-least, most) * step:g} needs more than 2³¹ levels of {step:g}")


@torch.no_grad()
def level_counts(weights: Tensor | Iterable[Tensor], step: float = STEP) -> tuple[np.ndarray, np.ndarray]:
    """Returns the distinct levels of some weights in ascending order, and how often each occurs; both int64.

    Several tensors count as one. Memory: 8 bytes for each level between the lowest and the highest, at most 128 MiB;
    beyond that the distinct levels are sorted out piece by piece.

    Raises:
        UserError: see :func:`quantise`.
    """
    above(0, step=step)
    tensors = _tensors(weights)
    if not tensors:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    ends = [torch.aminmax(tensor) for tensor in tensors]
    low = min(float(_scaled(least, step)) for least, _ in ends)
    high = max(float(_scaled(most, step)) for _, most in ends)
    for least, most in ends:  # min and max ignore NaN, so each is checked
        _check_range(_scaled(least, step), _scaled(most, step), step)
    first, span = int(low), int(high) - int(low) + 1
    if span > _DENSE:
        return _merged(np.unique(part.cpu().numpy(), return_counts=True) for part in _pieces(tensors, step, _CHUNK))
    total = torch.zeros(span, dtype=torch.int64)
    for part in _pieces(tensors, step, max(_CHUNK, span)):
        counted = torch.bincount(part.sub_(first), minlength=span)
        total += counted.cpu()
    levels = total.nonzero().view(-1)
    return (levels + first).numpy(), total[levels].numpy()


def _pieces(tensors: list[Tensor], step: float, size: int) -> Iterator[Tensor]:
    for tensor in tensors:
        for part in tensor.reshape(-1).split(size):
            yield _scaled(part, step).to(torch.int32)


def _merged(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    levels, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for more, times in parts:
        levels, places = np.unique(np.concatenate([levels, more.astype(np.int64)]), return_inverse=True)
        sums = np.zeros(len(levels), np.int64)
        np.add.at(sums, places, np.concatenate([counts, times]))
        counts = sums
    return levels, counts


def by_frequency(levels: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sorts levels by rank: most frequent first; of equally frequent ones the one nearer to 0, then the lower."""
    return levels[np.lexsort((levels, np.abs(levels), -counts))]


def exp_golomb_lengths(ranks: np.ndarray, order: int = 0) -> np.ndarray:
    """Returns the bits of the exp-Golomb code of each integer from 0: 2 ⌊log2(r / 2^k + 1)⌋ + 1 + k, k the order.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, order=order)
    _, exponents = np.frexp((np.asarray(ranks, np.int64) >> order) + 1.0)  # exact below 2⁵³
    return 2 * exponents.astype(np.int64) - 1 + order


def rate_of_counts(counts: np.ndarray, order: int = 0, zeros: int = 0) -> BitRate:
    """Returns the rate of weights whose levels occur ``counts`` times each (in any order), ``zeros`` of them at 0.

    Args:
        counts: Whole numbers (levels,); those of 0 do not count.
        order: k of the exp-Golomb code.
        zeros: Weights at level 0, for the rate's share of them.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, order=order, zeros=zeros)
    counts = np.sort(np.asarray(counts, np.int64)[np.asarray(counts) > 0])[::-1]
    total = int(counts.sum())
    if not total:
        return BitRate(math.nan, math.nan, 0, 0, 0, math.nan)
    lengths = exp_golomb_lengths(np.arange(len(counts)), order)
    shares = counts / total
    entropy = max(0.0, float(-(shares * np.log2(shares)).sum()))
    fixed = (len(counts) - 1).bit_length()
    return BitRate(float((counts * lengths).sum() / total), entropy, fixed, len(counts), total, zeros / total)


def bits_per_weight(weights: Tensor | Iterable[Tensor], step: float = STEP, order: int = 0) -> BitRate:
    """Returns the rate of some weights as one sample.

    Args:
        weights: A tensor, or several.
        step: Between two levels.
        order: Of the exp-Golomb code; 0 is the paper's.

    Raises:
        UserError: the step is not accepted, or a weight is not finite.
    """
    levels, counts = level_counts(weights, step)
    return rate_of_counts(counts, order, int(counts[levels == 0].sum()))


@torch.no_grad()
def sqnr(weights: Tensor | Iterable[Tensor], rounded: Tensor | Iterable[Tensor]) -> float:
    """Returns the signal-to-quantisation-noise ratio 10 log10(Σw² / Σ(w − q)²) in dB; infinite without changes."""
    signal = noise = 0.0
    pair = ([weights], [rounded]) if isinstance(weights, Tensor) else (weights, rounded)
    for w, q in zip(*pair, strict=True):
        for a, b in zip(w.detach().reshape(-1).split(_CHUNK), q.detach().reshape(-1).split(_CHUNK), strict=True):
            a = a.double()
            difference = a - b
            signal += float(a.dot(a))
            noise += float(difference.dot(difference))
    if not noise:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf
