"""Scores that are fitted and measured on disjoint samples, over several random splits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.settings import at_least


@dataclass(frozen=True)
class OverSplits:
    """A score over random splits.

    Attributes:
        values: Of each split; NaN where it is not defined.
    """

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return float(np.mean(self.values))

    @property
    def low(self) -> float:
        """The lower end of the interval that has 95 % of them."""
        return float(np.quantile(self.values, 0.025))

    @property
    def high(self) -> float:
        """Its upper end."""
        return float(np.quantile(self.values, 0.975))

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for a JSON file; NaN is written as null."""
        return {
            name: value if np.isfinite(value) else None
            for name, value in (("mean", self.mean), ("low", self.low), ("high", self.high))
        }


def halves(
    samples: int, splits: int, seed: int = 0, most: int | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the samples to fit to and those to score on, disjoint.

    Args:
        samples: N.
        splits: Number of splits.
        seed: Of the draws.
        most: Largest number of samples in each half.

    Raises:
        UserError: there is no split, or there are fewer than four samples.
    """
    at_least(1, splits=splits)
    at_least(4, samples=samples)
    generator = np.random.default_rng(seed)
    half = min(samples // 2, most or samples)
    for _ in range(splits):
        order = generator.permutation(samples)
        yield order[:half], order[half : 2 * half]


def paired(z_true: Any, z_hat: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns latents and their estimates as float64, (N, d) and (N, e).

    Args:
        z_true: (N, d) or (N,), numbers in any form that numpy reads.
        z_hat: (N, e) or (N,).

    Raises:
        UserError: they are no matrices of equal length, or have values that are not finite.
    """
    found = []
    for name, given in (("z_true", z_true), ("z_hat", z_hat)):
        array = np.asarray(given, np.float64)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or not array.size:
            raise UserError(f"{name}: the shape {array.shape} is not accepted; (samples, latents) is expected")
        if not np.isfinite(array).all():
            raise UserError(f"{name}: has entries that are not finite; finite numbers are accepted")
        found.append(array)
    if len(found[0]) != len(found[1]):
        raise UserError(f"z_hat: {len(found[1])} samples are not accepted; z_true has {len(found[0])}")
    return found[0], found[1]


def summary(values: Sequence[float]) -> OverSplits:
    """Returns the scores of some splits as one."""
    return OverSplits(tuple(map(float, values)))
