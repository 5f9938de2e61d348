"""Chooses the scale of an axis with numbers of very different size, so that the good ones can be distinguished."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from framework.sweep.labels import value_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 100.0
"""Ratio of largest to smallest value from which an axis is logarithmic."""
FENCE = 3.0
"""Distance from the quartiles, in interquartile ranges, from which a bad value is an outlier."""
MARGIN = 0.04


@dataclass(frozen=True)
class Scale:
    """The scale of an axis.

    Attributes:
        kind: ``linear``, ``log`` or ``symlog``.
        low: Smallest value shown.
        high: Largest value shown.
        threshold: For ``symlog``: below it, the axis is about linear.
    """

    kind: str
    low: float
    high: float
    threshold: float = 1.0

    def forward(self, value: float) -> float:
        """Transforms a value to the units in which the axis is linear."""
        if self.kind == "log":
            return math.log10(value) if value > 0 else -math.inf
        if self.kind == "symlog":
            return math.copysign(math.log10(1 + abs(value) / self.threshold), value)
        return value

    def fraction(self, value: float) -> float:
        """Returns the value's position on the axis, from 0 to 1; values that are not shown are at an end."""
        low, high = self.forward(self.low), self.forward(self.high)
        if high <= low:
            return 0.5
        return min(1.0, max(0.0, (self.forward(value) - low) / (high - low)))

    def shows(self, value: float) -> bool:
        """Returns whether the value is on the axis."""
        return self.low <= value <= self.high

    def ticks(self, count: int = 5) -> list[float]:
        """Returns a few round values on the axis."""
        from matplotlib.ticker import MaxNLocator

        if self.low == self.high:
            return [self.low]
        if self.kind == "log" and self.high / self.low >= WIDE:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, math.ceil((last - first + 1) / count))
            return [10.0**power for power in range(first, last + 1, step)]
        if self.kind == "symlog":
            largest = max(abs(self.low), abs(self.high))
            first, last = math.ceil(math.log10(3 * self.threshold)), math.floor(math.log10(largest) + 1e-9)
            powers = [10.0**power for power in range(first, last + 1, max(1, math.ceil((last - first + 1) / count)))]
            found = [-power for power in reversed(powers)] + [0.0] + powers
            return [tick for tick in found if self.shows(tick)]
        slack = 1e-9 * (self.high - self.low)
        ticks = MaxNLocator(count, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        return [float(tick) for tick in ticks if self.low - slack <= tick <= self.high + slack]

    def apply(self, axes: Axes, which: str = "y") -> None:
        """Sets this scale and its limits, with a margin, on an axis of a plot."""
        from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

        place = axes.yaxis if which == "y" else axes.xaxis
        options = {"linthresh": self.threshold} if self.kind == "symlog" else {}
        (axes.set_yscale if which == "y" else axes.set_xscale)(self.kind, **options)
        low, high = self.forward(self.low), self.forward(self.high)
        room = MARGIN * (high - low)
        if room > 0:
            (axes.set_ylim if which == "y" else axes.set_xlim)(self._backward(low - room), self._backward(high + room))
        if self.kind == "symlog":
            place.set_major_locator(FixedLocator(self.ticks()))
        elif self.kind == "log" and self.high / self.low < WIDE:
            place.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            place.set_major_formatter(FuncFormatter(lambda value, _: value_text(float(value))))
            place.set_minor_formatter(FuncFormatter(lambda value, _: ""))

    def _backward(self, place: float) -> float:
        if self.kind == "log":
            return 10.0**place
        if self.kind == "symlog":
            return math.copysign((10.0 ** abs(place) - 1) * self.threshold, place)
        return place


def parameter_scale(values: Sequence[float], log: bool) -> Scale:
    """Returns a scale for all of ``values``, logarithmic if requested and possible."""
    return Scale("log" if log and 0 < min(values) < max(values) else "linear", min(values), max(values))


def metric_scale(values: Iterable[float], maximize: bool) -> Scale:
    """Returns a scale for the finite ``values`` that shows every good value, but not bad outliers.

    Args:
        values: The values, at least one of them finite.
        maximize: Whether large values are good.
    """
    shown = sorted(value for value in values if math.isfinite(value))
    scale = _choose(shown)
    if len(shown) >= 5:
        places = [scale.forward(value) for value in shown]
        low, high = _fences(places)
        bad = (lambda place: place < low) if maximize else (lambda place: place > high)
        kept = [value for value, place in zip(shown, places, strict=True) if not bad(place)]
        spread = scale.forward(kept[-1]) - scale.forward(kept[0])
        if places[-1] - places[0] > 3 * spread:
            shown = kept
            scale = _choose(shown)
    return scale


def _choose(values: Sequence[float]) -> Scale:
    """Returns the kind of scale that shows all of the sorted ``values``."""
    low, high = values[0], values[-1]
    if low > 0:
        return Scale("log" if high / low > WIDE else "linear", low, high)
    sizes = sorted(abs(value) for value in values if value)
    if low == 0:
        wide = bool(sizes) and high / sizes[0] > WIDE
        return Scale("symlog", low, high, sizes[0]) if wide else Scale("linear", low, high)
    middle = sizes[len(sizes) // 2]
    return Scale("symlog", low, high, middle) if sizes[-1] > 10 * WIDE * middle else Scale("linear", low, high)


def _fences(places: Sequence[float]) -> tuple[float, float]:
    count = len(places)
    first, middle, third = places[count // 4], places[count // 2], places[-1 - count // 4]
    width = third - first or places[-1 - count // 20] - places[count // 20] or abs(middle) / 10 or 1.0
    return first - FENCE * width, third + FENCE * width
