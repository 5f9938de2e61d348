"""Naive Bayes with one diagonal covariance for all classes (Zheng et al. 2023): a linear rule in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from framework.errors import UserError
from framework.functional.linear_heads.rule import LinearRule
from framework.settings import at_least

FLOOR = 1e-9
"""Added to each class's variance, so that a constant feature does not divide by zero."""


@dataclass(frozen=True)
class ClassStatistics:
    """The statistics that naive Bayes needs; those of two sets of samples, or of several processes, can be merged.

    Attributes:
        counts: (K,) samples of each class, float64; 0 is allowed.
        means: (K, n) float64, 0 where there are no samples.
        squares: (K, n) float64, sums of squared distances from the class's mean.
    """

    counts: Tensor
    means: Tensor
    squares: Tensor

    @classmethod
    def zeros(cls, classes: int, features: int) -> ClassStatistics:
        """Returns the statistics of no samples.

        Raises:
            UserError: an argument is not accepted.
        """
        at_least(1, classes=classes, features=features)
        table = torch.zeros(classes, features, dtype=torch.float64)
        return cls(table.new_zeros(classes), table, table.clone())

    @classmethod
    def of(cls, x: Tensor, y: Tensor, classes: int) -> ClassStatistics:
        """Returns the statistics of samples x (m, n) with classes y (m,), in which classes may be missing.

        Raises:
            UserError: an argument is not accepted.
        """
        at_least(1, classes=classes)
        x = x.double()
        counts = torch.bincount(y, minlength=classes).double()
        sums = x.new_zeros(classes, x.shape[1]).index_add_(0, y, x)
        means = sums / counts.clamp(min=1)[:, None]
        squares = torch.zeros_like(sums).index_add_(0, y, (x - means[y]).square())
        return cls(counts, means, squares)

    def merged(self, other: ClassStatistics) -> ClassStatistics:
        """Returns the statistics of both sets of samples, by the parallel formula of Chan et al. for each class."""
        counts = self.counts + other.counts
        safe = counts.clamp(min=1)[:, None]
        shift = other.means - self.means
        means = self.means + shift * other.counts[:, None] / safe
        cross = shift.square() * (self.counts * other.counts)[:, None] / safe
        return ClassStatistics(counts, means, self.squares + other.squares + cross)

    def to(self, device: torch.device | str) -> ClassStatistics:
        """Returns them on a device."""
        return ClassStatistics(self.counts.to(device), self.means.to(device), self.squares.to(device))

    @property
    def priors(self) -> Tensor:
        """(K,) shares of the classes."""
        return self.counts / self.counts.sum()

    @property
    def variances(self) -> Tensor:
        """(n,) within classes, their biased variances weighted by the shares, each with :data:`FLOOR` added."""
        return self.squares.sum(0) / self.counts.sum() + FLOOR


def gaussian_head(statistics: ClassStatistics) -> LinearRule:
    """Returns the linear rule that maximises log p_k − ½ Σ_i (x_i − μ_ki)² / v_i.

    The part that all classes share is subtracted from the weights: μ̄/v, with μ̄ the mean over classes. Otherwise a
    constant feature would have a weight of the order of 1e9 for each class, too large for sums in float32.

    Raises:
        UserError: a class has no samples.
    """
    if (statistics.counts == 0).any():
        missing = (statistics.counts == 0).nonzero().flatten().tolist()
        raise UserError(f"naive Bayes: no samples of class {', '.join(map(str, missing))}; each class needs one")
    means, centre = statistics.means, statistics.means.mean(0)
    weight = (means - centre) / statistics.variances
    bias = statistics.priors.log() - 0.5 * (weight * (means + centre)).sum(1)
    return LinearRule(weight, bias)
