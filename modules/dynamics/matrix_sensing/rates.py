"""The decay of a curve: the rate of an exponential, the exponent of a power law, and which of the two fits."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class DecayRate(NamedTuple):
    """A straight line through logarithms.

    Attributes:
        rate: Of e^(−rate · t), or of t^(−rate).
        residual: Root mean square of what is left of log y.
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
        low: Lower bound of y, itself outside.
        high: Upper bound of y, itself outside.
        first: First time.
        last: Last time.

    Returns:
        The line, NaN where fewer than two points are in the window.
    """
    t, y = _window(t, y, low, high, first, last)
    return _line(t, np.log(y))


def power_exponent(
    t: ArrayLike, y: ArrayLike, low: float = 0.0, high: float = np.inf, first: float = 0.0, last: float = np.inf
) -> DecayRate:
    """Returns −d log y / d log t by least squares, over the same window; t above 0.

    Args:
        t: Times (N,).
        y: Values (N,), above 0 within the window.
        low: Lower bound of y, itself outside.
        high: Upper bound of y, itself outside.
        first: First time; of those at or below 0 none counts.
        last: Last time.

    Returns:
        The line, NaN where fewer than two points are in the window.
    """
    t, y = _window(t, y, low, high, max(first, np.finfo(float).tiny), last)
    return _line(np.log(t), np.log(y))
