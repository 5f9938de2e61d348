"""The axis for a metric: every good value is on it, bad ones far off are not, and it is logarithmic where it must be."""

from __future__ import annotations

import math
import random

import pytest

from framework.sweep.scale import Scale, metric_scale, parameter_scale

RANDOM = random.Random(0)
NEAR = [0.3 + 0.02 * i for i in range(30)]


@pytest.mark.parametrize(
    ("values", "maximize", "kind", "low", "high"),
    [
        (NEAR, False, "linear", NEAR[0], NEAR[-1]),
        ([*NEAR, 4e5], False, "linear", NEAR[0], NEAR[-1]),  # bad, and a million times larger
        ([*NEAR, 1.9], False, "linear", NEAR[0], 1.9),  # no need to leave it out
        ([*NEAR, 4e5, 1e9, 3e4], False, "linear", NEAR[0], NEAR[-1]),
        ([*NEAR, 1e-7], True, "linear", NEAR[0], NEAR[-1]),
        ([*NEAR, 4e5], True, "log", NEAR[0], 4e5),  # good: it is shown
        ([*NEAR, 1e-7], False, "log", 1e-7, NEAR[-1]),
        ([-value for value in NEAR] + [-4e5], True, "linear", -NEAR[-1], -NEAR[0]),
        ([10.0**-power for power in range(9)], False, "log", 1e-8, 1.0),
        ([0.0, *(10.0**-power for power in range(6))], False, "symlog", 0.0, 1.0),
        ([-3.0, 0.0, 2.0, 1.0], False, "linear", -3.0, 2.0),
        ([0.5], False, "linear", 0.5, 0.5),
        ([0.5] * 20 + [1e6], False, "linear", 0.5, 0.5),
        ([0.1, 0.2, 1e6], False, "log", 0.1, 1e6),  # too few to tell
        ([math.nan, 1.0, math.inf, 2.0], False, "linear", 1.0, 2.0),
    ],
)
def test_the_axis(values, maximize, kind, low, high):
    scale = metric_scale(values, maximize)
    assert (scale.kind, scale.low, scale.high) == (kind, low, high)


def test_the_best_value_is_on_the_axis_whatever_the_values():
    for _ in range(500):
        count = RANDOM.randrange(1, 40)
        values = [RANDOM.choice((1, -1, 1)) * 10 ** RANDOM.gauss(0, RANDOM.choice((0.1, 1, 4))) for _ in range(count)]
        for maximize in (False, True):
            scale = metric_scale(values, maximize)
            best = (max if maximize else min)(values)
            assert scale.shows(best)
            assert sum(map(scale.shows, values)) >= count / 2
            places = [scale.fraction(value) for value in sorted(values)]
            assert places == sorted(places)
            assert 0 <= places[0] <= places[-1] <= 1
            ticks = scale.ticks()
            assert ticks == sorted(ticks)
            assert all(scale.low - 1e-6 * abs(t) <= t <= scale.high + 1e-6 * abs(t) for t in ticks)
            assert len(ticks) <= 15


def test_places_on_a_log_axis():
    scale = Scale("log", 1e-4, 1.0)
    assert scale.fraction(1e-2) == pytest.approx(0.5)
    assert (scale.fraction(1e-9), scale.fraction(0.0), scale.fraction(9.0)) == (0.0, 0.0, 1.0)
    assert scale.ticks() == pytest.approx([1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_matplotlib_gets_the_same_axis():
    from framework.figures import new_figure

    for scale in (Scale("linear", -1.0, 3.0), Scale("log", 1e-5, 1.0), Scale("symlog", -1e4, 1e6, 1.0)):
        (axes,) = new_figure().axes
        scale.apply(axes)
        assert axes.get_yscale() == scale.kind
        low, high = axes.get_ylim()
        assert low < scale.low < scale.high < high
        shown = scale.forward(scale.high) - scale.forward(scale.low)
        assert scale.forward(high) - scale.forward(low) == pytest.approx(1.08 * shown)


def test_the_axis_of_a_parameter():
    assert parameter_scale([1e-4, 1e-2], True).kind == "log"
    assert parameter_scale([0.0, 1e-2], True).kind == "linear"  # rounded to 0
    assert parameter_scale([1.0, 2.0], False) == Scale("linear", 1.0, 2.0)
