from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from framework.sweep.hyperband import Hyperband, finite

CASES = json.loads((Path(__file__).parent / "wandb" / "hyperband.json").read_text())
"""W&B's own decisions; ``wandb/make.py`` wrote them."""


def rule(settings: dict) -> Hyperband:
    settings = {key: value for key, value in settings.items() if key != "type"}
    return Hyperband.from_min_iter(**settings) if "min_iter" in settings else Hyperband.from_max_iter(**settings)


def stops(hyperband: Hyperband, history: list, at, maximize: bool = False) -> bool:
    """Whether it stops a trial with these values, by the last band that the trial has come to: W&B asks again and again,
    and between two bands the same band goes on deciding, by the same value of a strict rule."""
    values = finite(history)
    band = hyperband.band(len(values))
    if band is None:
        return False
    return hyperband.stop(values[band - 1], max(values) if maximize else min(values), at(band), maximize)


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_decides_as_wandb(case):
    hyperband, histories = rule(case["early_terminate"]), [finite(history) for history in case["histories"]]

    def at(band):
        return [history[band - 1] for history in histories if len(history) >= band]

    maximize = case["goal"] == "maximize"
    assert [stops(hyperband, history, at, maximize) for history in case["histories"]] == case["stop"]


def test_the_cases_hold_every_side_of_the_rule():
    rules = [case["early_terminate"] for case in CASES]
    decisions = [stop for case in CASES for stop in case["stop"]]
    assert 0.1 < sum(decisions) / len(decisions) < 0.9
    assert {"max_iter" in settings for settings in rules} == {True, False}
    assert {settings.get("strict", True) for settings in rules} == {True, False}
    assert {case["goal"] for case in CASES} == {"minimize", "maximize"}
    assert any(isinstance(value, str) for case in CASES for history in case["histories"] for value in history)


def test_bands():
    assert Hyperband.from_min_iter(3, eta=2).bands[:5] == (3, 6, 12, 24, 48)
    assert Hyperband.from_min_iter(2, eta=1.5).bands[:6] == (2, 3, 4, 6, 10, 15)
    assert Hyperband.from_min_iter(1, eta=1.2).bands[:4] == (1, 2, 3, 4)  # those that round to one number are one
    assert Hyperband.from_max_iter(27, s=2).bands == (3, 9)
    assert Hyperband.from_max_iter(30, s=9, eta=4).bands == (1, 7)
    assert Hyperband.from_max_iter(2, s=3).bands == ()
    assert Hyperband.from_min_iter(1, eta=1e300).bands == (1,)


def test_the_band_that_decides():
    hyperband = Hyperband((3, 9), 3, True)
    assert [hyperband.band(count) for count in (0, 2, 3, 8, 9, 500)] == [None, None, 3, 3, 9, 9]
    assert not stops(hyperband, [5.0, 5.0], lambda band: pytest.fail("no band to ask about"))


def test_asked_once_at_each_band():
    """The five trials of the example in W&B's package, bands 1 and 2, one trial after the other."""
    hyperband = Hyperband.from_max_iter(5, s=2, eta=2)
    assert hyperband.bands == (1, 2)
    reports: dict[int, list[float]] = {1: [], 2: []}
    stopped = []
    for history in ([10, 6, 6], [10, 7, 7], [10, 8, 8], [10, 10, 9], [10, 9]):
        for count, value in enumerate(history, start=1):
            if hyperband.band(count) == count:
                reports[count].append(value)
                if hyperband.stop(value, min(history[:count]), reports[count]):
                    stopped.append((count, value))
                    break
    # at 2 the thresholds are 6 of (6); 7 of (6, 7); 7 of (6, 7, 8); 8 of (6, 7, 8, 10); 8 of (6, 7, 8, 9, 10)
    assert stopped == [(2, 8), (2, 10), (2, 9)]
    assert hyperband.threshold(reports[2]) == 8
    assert not hyperband.stop(8, 8, reports[2])  # a tie goes on


def test_strict_takes_the_value_at_the_band_and_the_other_the_best_so_far():
    strict, lenient = Hyperband((2,), 2, True), Hyperband((2,), 2, False)
    assert strict.stop(5.0, 1.0, [2.0, 3.0, 5.0])
    assert not lenient.stop(5.0, 1.0, [2.0, 3.0, 5.0])
    assert strict.stop(0.1, 0.9, [0.1, 0.5, 0.8], maximize=True)
    assert not lenient.stop(0.1, 0.9, [0.1, 0.5, 0.8], maximize=True)


def test_after_the_last_band_it_goes_on_deciding():
    history = [5.0, 4.0, 3.0, 0.5]
    at = {2: [4.0, 1.0, 1.0]}.__getitem__
    assert stops(Hyperband((2,), 2, True), history, at)  # by the 4.0 at the band, whatever came later
    assert not stops(Hyperband((2,), 2, False), history, at)  # by the 0.5


def test_what_is_no_finite_number_does_not_count():
    values = [1, 2.5, np.float32(0.5), np.int64(3), True, np.True_, None, "4", math.nan, math.inf, 10**400, 1j]
    assert finite(values) == [1.0, 2.5, 0.5, 3.0]
    assert Hyperband((1,), 2, True).threshold([math.nan, 2.0, math.inf, 1.0]) == 2.0
    with pytest.raises(ValueError, match="no value"):
        Hyperband((1,), 2, True).threshold([math.nan])
