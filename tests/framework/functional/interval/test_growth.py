"""The schedule of eps: its ends, its slope, and degenerate lengths."""

import itertools

import pytest

from framework.functional.interval import smooth_eps


def test_ends_and_slope():
    values = [smooth_eps(step, 10, 50, 0.4) for step in range(60)]
    assert values[:11] == [0.0] * 11
    assert values[50:] == [0.4] * 10
    assert values == sorted(values)
    middle = 20  # a quarter of the way
    steps = [b - a for a, b in itertools.pairwise(values)]
    assert steps[middle] == pytest.approx(steps[30])  # linear
    assert steps[middle - 1] < steps[middle]
    assert smooth_eps(middle + 1e-6, 10, 50, 0.4) == pytest.approx(smooth_eps(middle - 1e-6, 10, 50, 0.4), rel=1e-5)
    # the slope at the quarter is that of the fourth power: 4 s (t − start)³
    before = values[middle] / 10
    assert steps[middle] == pytest.approx(4 * before, rel=1e-6)


def test_short_and_empty_ramps():
    assert smooth_eps(0, 0, 0, 0.3) == 0.3
    assert [smooth_eps(step, 0, 2, 0.3) for step in range(3)] == [0.0, 0.15, 0.3]
    assert smooth_eps(5, 7, 9, 0.3) == 0.0
