"""What a trial tells its sweep while it trains: each value of the metric, and whether it is to stop.

A worker sets the environment variable before it trains. The processes that a strategy launches inherit it, and take
part in the decision to stop. Only the worker's own process, rank 0, has a channel to the supervisor.
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
"""Between two messages about values that decide nothing."""


@dataclass
class Watch:
    """What is watched in a trial.

    Attributes:
        metric: Name of the metric; ``None`` for a sweep without one.
        maximize: Whether more of it is better.
        bands: Numbers of values after which hyperband decides.
        parameters: The trial's parameters, label to value, for W&B's config.
    """

    metric: str | None = None
    maximize: bool = False
    bands: tuple[int, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        """For the environment."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Watch:
        """From the environment."""
        facts = json.loads(text)
        return cls(**{**facts, "bands": tuple(facts["bands"])})


class TrialReport:
    """The values of one trial's metric so far.

    Args:
        watch: What is watched.
        send: Sends a message to the supervisor; ``None`` in a process that has no channel.
        ask: Sends a message and waits for the answer, whether to stop; needed where there are bands.
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
        """Takes the values that were logged before training was interrupted."""
        self.history = [number for value in values if (number := _finite(value)) is not None]

    def add_row(self, row: Mapping[str, Any]) -> None:
        """Takes what was logged at once, of which the metric may be a part."""
        self.names.update(row)
        if self.watch.metric is not None and self.watch.metric in row:
            self.add(row[self.watch.metric])

    def add(self, value: Any) -> None:
        """Takes a value as it was logged; what is no finite number does not count, as with W&B."""
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
        """What to say of a training that has ended without a value, with the names that it logged instead."""
        metric = str(self.watch.metric)
        if metric in self.names:
            return f"{metric} was never logged as a finite number"
        names = sorted(name for name in self.names if not name.startswith("_"))  # those are W&B's own
        near = get_close_matches(metric, names, n=1, cutoff=0.7)
        if near:
            return f"{metric} was never logged; did you mean {near[0]}?"
        return f"{metric} was never logged; logged: {', '.join(names) or 'nothing'}"

    def message(self, kind: str) -> dict[str, Any]:
        """How far the trial is."""
        last = self.history[-1] if self.history else None
        return {"kind": kind, "count": len(self.history), "last": last, "best": self.best}


def best_value(values: Iterable[float], maximize: bool) -> float | None:
    """The largest value, or the smallest; NaN and infinities are none, ``None`` without any."""
    return (max if maximize else min)(filter(math.isfinite, values), default=None)


def _finite(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


_active: TrialReport | None = None


def activate(report: TrialReport | None) -> None:
    """Makes ``report`` the one that the next training reports to; ``None`` for none."""
    global _active
    _active = report
    if report is None:
        os.environ.pop(VARIABLE, None)
    else:
        os.environ[VARIABLE] = report.watch.text()


def active() -> TrialReport | None:
    """The report of the trial that this process is part of, if it is one."""
    global _active
    if _active is None and (text := os.environ.get(VARIABLE)):
        _active = TrialReport(Watch.read(text))
    return _active


def parameters() -> dict[str, Any]:
    """The parameters of the trial that this process is part of."""
    report = active()
    return {} if report is None else report.watch.parameters
