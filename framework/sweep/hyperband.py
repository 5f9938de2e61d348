"""Stops trials early by W&B's rule (its package ``sweeps``, ``hyperband_stopping.py``).

A band is a number of logged values of the metric, not an epoch or a step. At a band, the threshold is the value that
separates the best ``1 / eta`` of all trials that have reached it, this one included, from the rest; a trial that is
worse stops. This is not Optuna's Hyperband, which draws a bracket for each trial.

Reference:
    L. Li, K. Jamieson, G. DeSalvo, A. Rostamizadeh, A. Talwalkar, "Hyperband: A Novel Bandit-Based Approach to
    Hyperparameter Optimization", JMLR 18, 2018, https://arxiv.org/abs/1603.06560.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Real
from typing import Any

LONGEST = 10**9
"""Larger bands are ignored; no trial logs so many values."""


@dataclass(frozen=True)
class Hyperband:
    """W&B's ``early_terminate: {type: hyperband}``.

    Attributes:
        bands: Numbers of values after which trials are compared, ascending.
        eta: At each band at least the best ``1 / eta`` of the trials continue.
        strict: Whether the value at the band is compared; otherwise the best value so far.
    """

    bands: tuple[int, ...]
    eta: float
    strict: bool

    @classmethod
    def from_min_iter(cls, min_iter: int, eta: float = 3, strict: bool = True) -> Hyperband:
        """Returns bands at ``min_iter * eta ** k``, rounded down."""
        bands, band = set(), float(min_iter)
        for _ in range(100):  # as many as W&B makes
            if band > LONGEST:
                break
            bands.add(int(band))
            band *= eta
        return cls(tuple(sorted(bands)), eta, strict)

    @classmethod
    def from_max_iter(cls, max_iter: int, s: int, eta: float = 3, strict: bool = True) -> Hyperband:
        """Returns bands at ``max_iter / eta ** k`` for k from 1 to ``s``, rounded down, if at least 1."""
        bands, band = set(), float(max_iter)
        for _ in range(s):
            band /= eta
            if band < 1:
                break
            bands.add(int(band))
        return cls(tuple(sorted(bands)), eta, strict)

    def band(self, count: int) -> int | None:
        """Returns the last band that a trial with ``count`` values has reached, or ``None``."""
        place = bisect_right(self.bands, count)
        return self.bands[place - 1] if place else None

    def threshold(self, at_band: Iterable[float], maximize: bool = False) -> float:
        """Returns the worst value with which a trial continues.

        Args:
            at_band: Values of the metric at a band, of all trials that have reached it, in any state.
            maximize: Whether larger is better.

        Raises:
            ValueError: there are no values.
        """
        values = sorted(finite(at_band), reverse=maximize)
        if not values:
            raise ValueError("no value at this band")
        return values[int(1.0 / self.eta * len(values))]

    def stop(self, at_own: float, best: float, at_band: Iterable[float], maximize: bool = False) -> bool:
        """Returns whether a trial that has reached a band has to stop.

        Args:
            at_own: Its value at that band.
            best: Its best value so far, at all bands, between and after them.
            at_band: As for :meth:`threshold`; its own value is among them.
            maximize: Whether larger is better.
        """
        value, threshold = at_own if self.strict else best, self.threshold(at_band, maximize)
        return value < threshold if maximize else value > threshold


def finite(values: Iterable[Any]) -> list[float]:
    """Returns the finite numbers among the values; booleans are not numbers."""
    return [float(value) for value in values if isinstance(value, Real) and _is_finite(value)]


def _is_finite(value: Real) -> bool:
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer beyond the largest float
        return False
