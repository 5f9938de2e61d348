"""The decay of a curve: the rate of an exponential, the exponent of a power law, and which of the two fits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from framework.settings import at_least


class DecayRate(NamedTuple):
    """A straight line through logarithms.

    Attributes:
        rate: Of e^(−rate · t), or of t^(−rate).
        residual: Root mean square of the residuals of log y.
        points: Number of points in the window.
    """

    rate: float
    residual: float
    points: int


def _line(x: np.ndarray, y: np.ndarray) -> DecayRate:
    if len(x) < 2:
        return DecayRate(float("nan"), float("nan"), len(x))
    slope, offset = np.polyfit(x, y, 1)
    return DecayRate(-float(slope), float(np.sqrt(np.mean((y - slope * x - offset) ** 2))), len(x))


def _window(t: ArrayLike, y: ArrayLike, low: float, high: float, first: float, last: float) -> tuple[np.ndarray, ...]:
    t, y = np.asarray(t, dtype=float), np.asarray(y, dtype=float)
    inside = (y > low) & (y < high) & (t >= first) & (t <= last)
    return t[inside], y[inside]


def exponential_rate(
    t: ArrayLike,
    y: ArrayLike,
    low: float = 0.0,
    high: float = np.inf,
    first: float = -np.inf,
    last: float = np.inf,
) -> DecayRate:
    """Returns −d log y / dt by least squares over a window, ``low < y < high`` and ``first <= t <= last``.

    Args:
        t: Times (N,).
        y: Values (N,), above 0 within the window.
        low: Lower bound of y, exclusive.
        high: Upper bound of y, exclusive.
        first: First time.
        last: Last time.

    Returns:
        The line; NaN if there are fewer than two points in the window.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, low=low)
    t, y = _window(t, y, low, high, first, last)
    return _line(t, np.log(y))


def power_exponent(
    t: ArrayLike, y: ArrayLike, low: float = 0.0, high: float = np.inf, first: float = 0.0, last: float = np.inf
) -> DecayRate:
    """Returns −d log y / d log t by least squares, over the same window; t above 0.

    Args:
        t: Times (N,).
        y: Values (N,), above 0 within the window.
        low: Lower bound of y, exclusive.
        high: Upper bound of y, exclusive.
        first: First time; times at or below 0 are ignored.
        last: Last time.

    Returns:
        The line; NaN if there are fewer than two points in the window.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(0, low=low)
    t, y = _window(t, y, low, high, max(first, np.finfo(float).tiny), last)
    return _line(np.log(t), np.log(y))
