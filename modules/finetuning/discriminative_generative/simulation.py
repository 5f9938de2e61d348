"""The number of samples that each head needs on a mixture of Gaussians for an error near the smallest possible."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.functional.linear_heads import ClassStatistics, LinearRule, RangeScaler, fit_logistic, gaussian_head
from framework.functional.linear_heads.logistic import as_rule
from framework.functional.linear_heads.mixture import MixtureLaw

EXCESS = 0.01
TEST_POINTS = 10_000

Fit = Callable[[Tensor, Tensor], LinearRule]


def naive_bayes_fit(classes: int) -> Fit:
    """Returns the closed form."""
    return lambda x, y: gaussian_head(ClassStatistics.of(x, y, classes))


def logistic_fit(classes: int, c: float = 1.0) -> Fit:
    """Logistic regression that starts from the last solution: the minimum is the same, with fewer iterations."""
    last: list[tuple[Tensor, Tensor]] = []

    def fit(x: Tensor, y: Tensor) -> LinearRule:
        found = fit_logistic(x, y, classes, c, start=last[-1] if last else None)
        last[:] = [found]
        return as_rule(*found)

    return fit


def scaled(fit: Fit) -> Fit:
    """Returns the same on coordinates scaled to [0, 1] by the points; the rule is one of the unscaled ones."""

    def inner(x: Tensor, y: Tensor) -> LinearRule:
        scaler = RangeScaler.of(x)
        rule = fit(scaler(x), y)
        weight = rule.weight / scaler.width
        return LinearRule(weight, rule.bias - weight @ scaler.low)

    return inner


def even_grid(law: MixtureLaw, largest: int | None = None) -> list[int]:
    """Numbers from 2K below 100 n, in steps of ⌈ln n⌉."""
    return list(range(2 * law.classes, largest or 100 * law.dimension, math.ceil(math.log(law.dimension))))


def geometric_grid(law: MixtureLaw, largest: int, ratio: float = 1.1, first: int | None = None) -> list[int]:
    """Returns numbers of samples that grow by a constant factor.

    Args:
        law: The mixture; its K classes set the default of ``first``.
        largest: The last number.
        ratio: The factor, above 1.
        first: The first number; by default 2K.
    """
    first = first or 2 * law.classes
    count = max(2, 1 + round(math.log(largest / first) / math.log(ratio)))
    return np.unique(np.geomspace(first, largest, count).round().astype(int)).tolist()


def drawn_points(law: MixtureLaw, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns points (size, n) and classes (size,); the first 2K contain every class.

    Both heads, for every m, use the first of the same points, so that their difference does not come from the draw.

    Args:
        law: The mixture from which they are drawn.
        size: Number of points.
        seed: Seed of the draw.
    """
    generator = torch.Generator().manual_seed(seed)
    first = 2 * law.classes
    while True:
        labels = torch.randint(law.classes, (size,), generator=generator)
        if len(labels[:first].unique()) == law.classes:
            return law.sample(labels, generator), labels


def error_of(law: MixtureLaw, seed: int = 12345) -> Callable[[LinearRule], float]:
    """Returns the error on new points: exact for two classes, else on 10,000 of them, equally many of each class."""
    if law.classes == 2:
        return law.two_class_error
    labels = torch.arange(law.classes).repeat_interleave(TEST_POINTS // law.classes)
    x = law.sample(labels, torch.Generator().manual_seed(seed))
    return lambda rule: rule.error(x, labels)


def samples_needed(
    law: MixtureLaw,
    fit: Callable[[], Fit],
    grid: Sequence[int],
    seeds: Sequence[int],
    excess: float = EXCESS,
) -> list[int]:
    """m*: the first m of a grid at which the error is within ``excess`` of the smallest possible, for each seed.

    Args:
        law: The mixture, ``easy``.
        fit: Returns a function that fits a rule to points; called once for each seed.
        grid: Numbers of samples, ascending.
        seeds: Of the points.
        excess: Allowed difference from the Bayes error.

    Raises:
        UserError: the error stays above that for the whole grid.
    """
    target, error = law.bayes_error() + excess, error_of(law)
    found = []
    for seed in seeds:
        x, y = drawn_points(law, grid[-1], seed)
        once = fit()
        m = next((m for m in grid if error(once(x[:m], y[:m])) < target), None)
        if m is None:
            raise UserError(f"grid: {grid[-1]} samples do not bring the error below {target:.4f}; give more")
        found.append(m)
    return found


def log_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Returns the exponent of a power law through the points, by least squares of the logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
