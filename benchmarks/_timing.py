"""Times calls that are compared, alternately, so that other load on the machine affects all of them equally."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch


def turns(calls: Iterable[Callable[[], object]], repeats: int, warmups: int = 1) -> list[list[float]]:
    """Returns the seconds of each call in each of ``repeats`` rounds, after ``warmups`` rounds that are not counted."""
    calls = list(calls)
    times: list[list[float]] = [[] for _ in calls]
    for number in range(warmups + repeats):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number >= warmups:
                found.append(time.perf_counter() - start)
    return times


def medians(calls: Iterable[Callable[[], object]], repeats: int, warmups: int = 1) -> list[float]:
    """Returns the median of each call's rounds."""
    return [statistics.median(found) for found in turns(calls, repeats, warmups)]


def quietest(calls: Iterable[Callable[[], object]], repeats: int, warmups: int = 0) -> list[float]:
    """Returns the minimum of each call's rounds: on a shared machine noise only adds time."""
    return [min(found) for found in turns(calls, repeats, warmups)]


def several(step: Callable[[], object], count: int) -> Callable[[], None]:
    """Returns a call of so many steps, for steps that are too short to be timed alone."""

    def run() -> None:
        for _ in range(count):
            step()

    return run
