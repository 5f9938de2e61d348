"""Paired bootstrap (as in arXiv 2603.01098): one matrix of resamples, with which models and numbers are measured alike.

Two numbers of the same resample can be subtracted, so that the interval of a difference is that of paired samples. The
hash of the matrix, stored beside results, tells whether two of them were measured on the same resamples.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass

import numpy as np

from framework.settings import at_least


def resample_indices(count: int, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """Returns positions of samples drawn with replacement, int64 (resamples, count).

    They depend on the arguments alone.

    Args:
        count: Number of samples N.
        resamples: Number of resamples R.
        seed: Seed of the draw.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, count=count, resamples=resamples)
    at_least(0, seed=seed)
    return np.random.default_rng(seed).integers(0, count, (resamples, count))


def indices_hash(indices: np.ndarray) -> str:
    """Returns the SHA-256 (hexadecimal) of a matrix of indices and its shape, the same on every machine."""
    shape = np.array(indices.shape, "<i8").tobytes()
    return hashlib.sha256(shape + np.ascontiguousarray(indices, "<i8").tobytes()).hexdigest()


def sample_counts(indices: np.ndarray) -> np.ndarray:
    """Returns how often each sample is in each resample, float64 (R, N), of indices (R, N)."""
    rows, count = indices.shape
    flat = indices + count * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


@dataclass(frozen=True)
class Interval:
    """A number and its distribution over resamples.

    Attributes:
        point: The number on the samples themselves.
        mean: Mean over resamples.
        sd: Standard deviation over resamples.
        low: 2.5th percentile.
        high: 97.5th percentile.
        skipped: Number of resamples in which it is not defined; they are left out of the others.
    """

    point: float
    mean: float
    sd: float
    low: float
    high: float
    skipped: int = 0

    @classmethod
    def of(cls, point: float, values: np.ndarray) -> Interval:
        """Summarises the values (R,) of resamples, NaN where the number is not defined."""
        known = values[np.isfinite(values)]
        skipped = len(values) - len(known)
        if not len(known):
            return cls(float(point), math.nan, math.nan, math.nan, math.nan, skipped)
        low, high = np.percentile(known, [2.5, 97.5])
        return cls(float(point), float(known.mean()), float(known.std()), float(low), float(high), skipped)

    def as_dict(self) -> dict[str, float | int | None]:
        """Returns plain data for a JSON file, where NaN is null."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


def paired_p(first: np.ndarray, second: np.ndarray) -> float:
    """Returns p = 1 - (share of resamples in which the first number is larger); 0.05 or less is called significant.

    Resamples in which one of the values (R,) is not defined are left out; NaN if none is left.
    """
    known = np.isfinite(first) & np.isfinite(second)
    return 1 - float((first[known] > second[known]).mean()) if known.any() else math.nan
