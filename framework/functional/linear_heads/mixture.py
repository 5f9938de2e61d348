"""A mixture of Gaussians with one covariance, where naive Bayes needs far fewer samples than logistic regression."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.functional.linear_heads.rule import LinearRule
from framework.settings import at_least, multiple_of, one_of

Kind = Literal["easy", "hard"]


@dataclass(frozen=True)
class MixtureLaw:
    """K equally frequent Gaussian classes in n dimensions (the simulation of Zheng et al. 2023).

    Class k has the mean c_k (1, …, 1) with c = −1, 1, 2, 4, 8, …; the first half of the coordinates has the variance n,
    the other 1. ``hard`` adds correlations, the off-diagonal entries of AᵀA with A uniform in [−1, 1]; this is not a
    covariance in general, so the eigenvalues' absolute values are used, as in ``numpy``'s sampler. With more than two
    classes x becomes (x − s)/s, s = 2^(K−3).

    Attributes:
        classes: K, at least 2.
        dimension: n, even.
        kind: ``easy`` or ``hard``.

    Raises:
        UserError: a value is not accepted.
    """

    classes: int
    dimension: int
    kind: Kind = "easy"

    def __post_init__(self) -> None:
        at_least(2, classes=self.classes)
        multiple_of(2, dimension=self.dimension)
        one_of(get_args(Kind), kind=self.kind)

    @property
    def scale(self) -> float:
        """s, 1 for two classes."""
        return 2.0 ** (self.classes - 3) if self.classes > 2 else 1.0

    @property
    def levels(self) -> Tensor:
        """The coordinate value (K,) of each class's mean, float64."""
        raw = torch.tensor([-1.0, *(2.0**k for k in range(self.classes - 1))], dtype=torch.float64)
        return (raw - self.scale) / self.scale if self.classes > 2 else raw

    @property
    def means(self) -> Tensor:
        """(K, n)."""
        return self.levels[:, None].expand(self.classes, self.dimension)

    @property
    def variances(self) -> Tensor:
        """The variances (n,) of the coordinates within a class, as drawn (for ``hard`` not n and 1)."""
        if self.kind == "hard":
            return self.factor.square().sum(0)
        half = self.dimension // 2
        values = [float(self.dimension)] * half + [1.0] * half
        return torch.tensor(values, dtype=torch.float64) / self.scale**2

    @cached_property
    def factor(self) -> Tensor:
        """The factor L (n, n) of the noise z L, with z standard normal; for ``hard``."""
        half = self.dimension // 2
        a = np.random.default_rng(0).uniform(-1, 1, (self.dimension, self.dimension))
        covariance = a.T @ a
        np.fill_diagonal(covariance, [self.dimension] * half + [1] * half)
        values, vectors = np.linalg.eigh(covariance)
        return torch.from_numpy(np.sqrt(np.abs(values))[:, None] * vectors.T / self.scale)

    def sample(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draws points (m, n) of given classes (m,), float64."""
        noise = torch.randn(len(labels), self.dimension, dtype=torch.float64, generator=generator)
        noise = noise * self.variances.sqrt() if self.kind == "easy" else noise @ self.factor
        return self.levels[labels][:, None] + noise

    def bayes_error(self) -> float:
        """Returns the exact smallest error of any rule; for ``easy``, where the means are on a line.

        Raises:
            UserError: the mixture is ``hard``.
        """
        if self.kind != "easy":
            raise UserError("kind: 'hard' is not accepted for the Bayes error; easy")
        levels = self.levels / (1 / self.variances).sum().rsqrt()
        tails = [math.erfc(float(gap) / 2 / math.sqrt(2)) / 2 for gap in levels.diff()]
        return 2 * sum(tails) / self.classes  # errors on both sides of each boundary

    def two_class_error(self, rule: LinearRule) -> float:
        """Returns the exact error of a linear rule on new points, for two classes.

        Raises:
            UserError: there are more classes.
        """
        if self.classes != 2:
            raise UserError(f"classes: {self.classes} is not accepted for the exact error; 2")
        direction, offset = rule.weight[1] - rule.weight[0], rule.bias[1] - rule.bias[0]
        if self.kind == "easy":
            deviation = (direction.square() @ self.variances).sqrt()
        else:
            deviation = (self.factor @ direction).norm()
        margins = (self.means @ direction + offset) / deviation
        wrong = torch.stack([margins[0], -margins[1]])  # a negative score means class 0
        return float(torch.special.ndtr(wrong).mean())
