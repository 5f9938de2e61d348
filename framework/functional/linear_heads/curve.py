"""Learning curves of both heads on the same samples, which are drawn again until they contain every class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.functional.linear_heads.gaussian import ClassStatistics, gaussian_head
from framework.functional.linear_heads.logistic import as_rule, fit_logistic
from framework.functional.linear_heads.rule import RangeScaler
from framework.settings import between

NAIVE_BAYES = "naive Bayes"
DRAWS = 100_000


def draw_subset(y: Tensor, size: int, classes: int, generator: torch.Generator) -> Tensor:
    """Draws the indices (size,) of samples without replacement, again until they contain every class.

    Args:
        y: Classes (N,).
        size: Number of samples.
        classes: Number of classes K.
        generator: Source of randomness.

    Raises:
        UserError: there are too few samples, or ``size`` is so small that none of 100,000 draws had every class.
    """
    between(classes, len(y), samples=size)
    for _ in range(DRAWS if size < len(y) else 1):
        rows = torch.randperm(len(y), generator=generator)[:size]
        if torch.bincount(y[rows], minlength=classes).min() > 0:
            return rows
    raise UserError(f"samples: none of {DRAWS:,} draws of {size} samples holds all {classes} classes; give more")


@dataclass
class LearningCurve:
    """Errors of each head over the number of samples.

    Attributes:
        sizes: (S,) numbers of samples m.
        errors: Maps a head's name to its errors (S, R) of R draws.
    """

    sizes: np.ndarray
    errors: dict[str, np.ndarray] = field(default_factory=dict)

    def mean(self, head: str) -> np.ndarray:
        """Returns the mean (S,) over the draws."""
        return self.errors[head].mean(1)

    def discriminative(self) -> np.ndarray:
        """Errors (S,) of logistic regression at the best C for each number of samples, as if C had been tuned."""
        return np.min([self.mean(head) for head in self.errors if head != NAIVE_BAYES], axis=0)

    def crossover(self) -> float:
        """Returns the m from which logistic regression, at its best C, has the smaller error; NaN if there is none."""
        return crossover(self.sizes, self.mean(NAIVE_BAYES), self.discriminative())


def logistic_name(c: float) -> str:
    """Returns the name of logistic regression with this C."""
    return f"logistic, C = {c:g}"


def learning_curve(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    sizes: Sequence[int],
    repeats: int = 5,
    c: Sequence[float] = (1.0, 10.0),
    seed: int = 0,
    classes: int | None = None,
    scale: bool = True,
) -> LearningCurve:
    """Fits both heads to m samples, scaled to [0, 1] by their own range, and measures the error on all test samples.

    Args:
        train: Features (N, n) and classes (N,) to draw from.
        test: The same to measure on.
        sizes: The numbers of samples m; those above N are ignored.
        repeats: Number of draws for each.
        c: Values of C; with a single one, its choice may decide which head is better.
        seed: Seed of the draws.
        classes: K; by default one more than the largest class.
        scale: Whether features are scaled.

    Raises:
        UserError: there are fewer samples than classes, no size is possible, or a class is missing in the data.
    """
    x, y = train[0].double(), train[1]
    x_test, y_test = test[0].double(), test[1]
    classes = classes or int(max(y.max(), y_test.max())) + 1
    kept = [size for size in sizes if size <= len(y)]
    if not kept:
        raise UserError(f"sizes: {list(sizes)} are not accepted; there are {len(y)} samples")
    generator = torch.Generator().manual_seed(seed)
    names = [NAIVE_BAYES, *map(logistic_name, c)]
    curve = LearningCurve(np.array(kept), {name: np.full((len(kept), repeats), np.nan) for name in names})
    for row, size in enumerate(kept):
        for repeat in range(repeats):
            rows = draw_subset(y, size, classes, generator)
            inputs, labels, outside = x[rows], y[rows], x_test
            if scale:
                scaler = RangeScaler.of(inputs)
                inputs, outside = scaler(inputs), scaler(outside)
            rules = {NAIVE_BAYES: gaussian_head(ClassStatistics.of(inputs, labels, classes))}
            for value in c:
                # with so small a gradient of the mean loss the error does not change any more
                rules[logistic_name(value)] = as_rule(*fit_logistic(inputs, labels, classes, value, tolerance=1e-5))
            for name, rule in rules.items():
                curve.errors[name][row, repeat] = rule.error(outside, y_test)
    return curve


def crossover(sizes: np.ndarray, first: np.ndarray, second: np.ndarray) -> float:
    """Returns the m from which ``second`` stays smaller, interpolated linearly in log m; NaN if there is none.

    Args:
        sizes: (S,) ascending.
        first: (S,) errors of the head that is better for small m.
        second: (S,) errors of the other head.
    """
    gap = first - second
    behind = np.flatnonzero(gap <= 0)
    if not len(behind) or behind[-1] == len(gap) - 1:
        return math.nan
    last = int(behind[-1])
    low, high = np.log(sizes[last]), np.log(sizes[last + 1])
    return float(np.exp(low + (high - low) * -gap[last] / (gap[last + 1] - gap[last])))


def as_metrics(curve: LearningCurve) -> Mapping[str, float]:
    """Returns the metrics ``naive_bayes/<m>``, ``logistic/<m>`` (at the best C) and ``crossover``."""
    found = {f"naive_bayes/{size}": value for size, value in zip(curve.sizes, curve.mean(NAIVE_BAYES), strict=True)}
    found |= {f"logistic/{size}": value for size, value in zip(curve.sizes, curve.discriminative(), strict=True)}
    point = curve.crossover()
    return {name: float(value) for name, value in found.items()} | ({} if math.isnan(point) else {"crossover": point})
