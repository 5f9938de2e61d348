"""DeepShape: remaps the histogram of trained weights to a narrower, more peaked generalised Gaussian.

Paper: It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs (Wu et al. 2025,
arXiv 2506.00486, versions 1 to 3).

1. All weights as one sample are rounded to levels of 2⁻¹³.
2. M is the smallest positive level that at most ``adj_minnum`` weights have. Weights beyond ±M are not changed.
3. The shape ν, scale α and mean μ of the others are fitted (:mod:`framework.functional.generalized_gaussian`).
4. Target: ν' = 0.8 ν, α' = 0.6 α.
5. Each level x from μ − M to μ + M gets a share of the weights, exp(−(|x − μ|/α')^ν') normalised; the shares are
   rounded down, and the remaining weights go to the largest fractions, so that every weight gets a level.
6. The sorted weights get the levels in order: the order of any two is kept, of equal ones by their position.

The paper's program rounds all shares down and so leaves some of the largest weights unchanged; this one does not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from framework.functional import generalized_gaussian as gg
from framework.functional.compression.rate import STEP, level_counts, quantise
from framework.settings import above, at_least

MINNUM = 1000
"""The paper's ``adj_minnum``."""

_PER_WEIGHT = 1e-6  # share of all weights, used instead of MINNUM for fewer than 1e9 weights


@dataclass(frozen=True)
class Remapped:
    """The result of a remapping.

    Attributes:
        count: Number of weights.
        kept: Number of weights that were remapped.
        cutoff: M, in levels.
        shape: ν of the remapped weights before.
        alpha: Their α before, in the weights' unit.
        mean: Their μ before.
        target_shape: ν'.
        target_alpha: α'.
        std_before: √(Σw²/n) of the remapped weights.
        std_after: The same after the remapping.
    """

    count: int
    kept: int
    cutoff: int
    shape: float
    alpha: float
    mean: float
    target_shape: float
    target_alpha: float
    std_before: float
    std_after: float

    def text(self) -> str:
        """Returns the result in one line."""
        return (
            f"deep_shape: {self.kept:,} of {self.count:,} weights remapped (to level {self.cutoff}), shape "
            f"{self.shape:.2f} to {self.target_shape:.2f}, std {self.std_before:.3g} to {self.std_after:.3g}"
        )


def check_settings(shape_scale: float, std_scale: float, adj_minnum: int | None, step: float) -> None:
    """Checks the settings.

    Args:
        shape_scale: ν'/ν.
        std_scale: α'/α.
        adj_minnum: Largest number of weights on the level M; ``None`` for the default.
        step: Distance between two levels.

    Raises:
        UserError: a scale is not a number above 0, or ``adj_minnum`` is below 0.
    """
    above(0, shape_scale=shape_scale, std_scale=std_scale, step=step)
    at_least(0, adj_minnum=adj_minnum)


def shares(count: int, cutoff: int, centre: int, mean: float, alpha: float, shape: float) -> np.ndarray:
    """Returns how many of ``count`` weights each level from ``centre − cutoff`` to ``centre + cutoff`` gets: int64.

    Args:
        count: Number of weights.
        cutoff: M.
        centre: The level nearest to the mean.
        mean: μ, in levels.
        alpha: α', in levels.
        shape: ν'.
    """
    distance = np.abs(np.arange(centre - cutoff, centre + cutoff + 1) - mean)
    logs = -((distance / alpha) ** shape)
    density = np.exp(logs - logs.max())
    wanted = count * (density / density.sum())
    found = np.floor(wanted).astype(np.int64)
    left = count - int(found.sum())
    found[np.argsort(found - wanted, kind="stable")[:left]] += 1
    return found


def in_order(weights: Tensor, times: np.ndarray) -> Tensor:
    """Returns the list index that each weight gets when the sorted weights fill a list in order: int64 (n,).

    Equal to numbering a stable argsort, but only values are sorted, which is many times faster than sorting indices.

    Args:
        weights: (n,).
        times: Number of weights for each index; they sum to n.
    """
    values = np.sort(weights.numpy())
    ends = np.cumsum(times)
    inner = ends[:-1][ends[:-1] < len(values)]
    first = torch.from_numpy(values[inner])  # the weight after each boundary
    places = torch.bucketize(weights, first, right=True)
    if not len(inner):
        return places
    # weights equal to the one after a boundary can be on both sides of it; they are distinguished by their position
    tied = torch.nonzero((first[(places - 1).clamp_(min=0)] == weights) & (places > 0)).view(-1)
    found = weights[tied].numpy()
    order = np.argsort(found, kind="stable")
    run = np.searchsorted(found[order], found[order])
    ranks = np.searchsorted(values, found[order]) + np.arange(len(order)) - run
    places[tied[torch.from_numpy(order)]] = torch.from_numpy(np.searchsorted(inner, ranks, side="right"))
    return places


@torch.no_grad()
def deep_shape_(
    model: nn.Module | Iterable[Tensor],
    shape_scale: float = 0.8,
    std_scale: float = 0.6,
    adj_minnum: int | None = None,
    step: float = STEP,
) -> Remapped:
    """Remaps weights in place (see the module's docstring).

    Args:
        model: A module, all floating parameters of which are one sample, each once; or tensors.
        shape_scale: ν' / ν.
        std_scale: α' / α.
        adj_minnum: Largest number of weights on the level M; by default the paper's 1,000, or a millionth of all
            weights if that is less: with fewer weights 1,000 on a level are not few, and most of the distribution would
            be beyond M.
        step: Distance between two levels.

    Raises:
        UserError: a setting is not accepted, or a weight is not finite.
    """
    check_settings(shape_scale, std_scale, adj_minnum, step)
    if isinstance(model, nn.Module):
        model = [p for p in model.parameters() if p.is_floating_point()]
    tensors = [tensor.detach() for tensor in model if tensor.numel()]
    total = sum(tensor.numel() for tensor in tensors)
    if not total:
        return Remapped(0, 0, 0, *[math.nan] * 7)
    least = min(MINNUM, math.ceil(total * _PER_WEIGHT)) if adj_minnum is None else adj_minnum
    kind = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    weights = torch.cat([tensor.reshape(-1).to("cpu", kind) for tensor in tensors])
    levels, counts = level_counts(weights, step)
    cutoff = _cutoff(levels, counts, least)
    inside = quantise(weights, step).abs_() <= cutoff
    kept = weights[inside]
    fit, mean = gg.fit(kept), float(kept.double().mean())
    target_shape, target_alpha = shape_scale * fit.shape, std_scale * fit.alpha
    if not fit.alpha > 0:  # all weights are 0
        return Remapped(total, 0, cutoff, fit.shape, fit.alpha, mean, target_shape, target_alpha, 0.0, 0.0)
    centre = round(mean / step)
    times = shares(len(kept), cutoff, centre, mean / step, target_alpha / step, target_shape)
    grid = torch.arange(centre - cutoff, centre + cutoff + 1, dtype=torch.float64).mul_(step).to(kind)
    kept = grid[in_order(kept, times)]
    weights[inside] = kept
    for tensor, flat, changed in zip(
        tensors,
        weights.split([t.numel() for t in tensors]),
        inside.split([t.numel() for t in tensors]),
        strict=True,
    ):
        place = changed.view(tensor.shape).to(tensor.device)
        tensor.copy_(torch.where(place, flat.view(tensor.shape).to(tensor.device, tensor.dtype), tensor))
    after = gg.moments(kept).std
    return Remapped(total, len(kept), cutoff, fit.shape, fit.alpha, mean, target_shape, target_alpha, fit.std, after)


def _cutoff(levels: np.ndarray, counts: np.ndarray, least: int) -> int:
    """Returns the smallest positive level with at most ``least`` weights, which may be 0."""
    positive = levels > 0
    many = levels[positive][counts[positive] > least]
    gaps = np.flatnonzero(many != np.arange(1, len(many) + 1))
    return int(gaps[0]) + 1 if len(gaps) else len(many) + 1
