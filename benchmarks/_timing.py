"""Timing of calls that are compared: by turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch


def turns(calls: Iterable[Callable[[], object]], repeats: int, warmups: int = 1) -> list[list[float]]:
    """Seconds of each call in each of ``repeats`` rounds; the first ``warmups`` rounds do not count."""
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
    """Returns the least of each call's rounds: on a shared machine noise only adds."""
    return [min(found) for found in turns(calls, repeats, warmups)]
