"""Reports each value of a trial's metric to its sweep, and asks whether the trial has to stop.

A worker sets the environment variable before it trains. The processes that a strategy launches inherit it, and stop
together. Only the worker's own process, rank 0, has a channel to the supervisor.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

VARIABLE = "FRAMEWORK_TRIAL"
SECONDS = 0.25
"""Seconds between two messages with values that hyperband does not use."""


@dataclass
class Watch:
    """What a trial reports.

    Attributes:
        metric: Name of the metric; ``None`` for a sweep without one.
        maximize: Whether larger is better.
        bands: Numbers of values after which hyperband decides.
        parameters: Maps the labels of the trial's parameters to values, for W&B's config.
    """

    metric: str | None = None
    maximize: bool = False
    bands: tuple[int, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """Returns it as text, for the environment variable."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Watch:
        """Reads it from the environment variable."""
        facts = json.loads(text)
        return cls(**{**facts, "bands": tuple(facts["bands"])})


class TrialReport:
    """The values of one trial's metric so far.

    Args:
        watch: What the trial reports.
        send: Sends a message to the supervisor; ``None`` in a process that has no channel.
        ask: Sends a message and returns the answer, whether to stop; needed if there are bands.
    """

    def __init__(
        self,
        watch: Watch,
        send: Callable[[Mapping[str, Any]], None] | None = None,
        ask: Callable[[Mapping[str, Any]], bool] | None = None,
    ) -> None:
        self.watch = watch
        self.history: list[float] = []
        self.names: set[str] = set()
        self.stop = False
        self.on_stop: Callable[[], None] | None = None
        self._send, self._ask = send, ask
        self._sent = 0.0
        self._bands = frozenset(watch.bands)

    def go_on(self, values: Iterable[Any]) -> None:
        """Adds the values that were logged before training was interrupted."""
        self.history = [number for value in values if (number := _finite(value)) is not None]

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Adds a logged row, which may contain the metric."""
        self.names.update(row)
        if self.watch.metric is not None and self.watch.metric in row:
            self.add(row[self.watch.metric])

    def add(self, value: Any) -> None:
        """Adds a logged value; values that are not finite numbers are ignored, as in W&B."""
        number = _finite(value)
        if number is None:
            return
        self.history.append(number)
        if self._ask is not None and len(self.history) in self._bands:
            self.stop = self._ask(self.message("band")) or self.stop
            if self.stop and self.on_stop is not None:
                self.on_stop()
        elif self._send is not None and (now := time.monotonic()) - self._sent > SECONDS:
            self._sent = now
            self._send(self.message("value"))

    @property
    def best(self) -> float | None:
        """The best value so far."""
        return best_value(self.history, self.watch.maximize)

    @property
    def missing(self) -> str:
        """The message for a training that ended without a value, with the names that it logged."""
        metric = str(self.watch.metric)
        if metric in self.names:
            return f"{metric} was never logged as a finite number"
        names = sorted(name for name in self.names if not name.startswith("_"))  # those are internal to W&B
        near = get_close_matches(metric, names, n=1, cutoff=0.7)
        if near:
            return f"{metric} was never logged; did you mean {near[0]}?"
        return f"{metric} was never logged; logged: {', '.join(names) or 'nothing'}"

    def message(self, kind: str) -> dict[str, Any]:
        """Returns the message with the trial's progress."""
        last = self.history[-1] if self.history else None
        return {"kind": kind, "count": len(self.history), "last": last, "best": self.best}


def best_value(values: Iterable[float], maximize: bool) -> float | None:
    """Returns the largest or smallest finite value; ``None`` without one."""
    return (max if maximize else min)(filter(math.isfinite, values), default=None)


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


_active: TrialReport | None = None


def activate(report: TrialReport | None) -> None:
    """Makes the next training report to ``report``; ``None`` for none."""
    global _active
    _active = report
    if report is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = report.watch.text()


def active() -> TrialReport | None:
    """Returns the report of this process's trial, ``None`` if it is not part of one."""
    global _active
    if _active is None and (text := os.environ.get(VARIABLE)):
        _active = TrialReport(Watch.read(text))
    return _active


def parameters() -> dict[str, Any]:
    """Returns the parameters of this process's trial."""
    report = active()
    return {} if report is None else report.watch.parameters
