"""What is known of one trial, in a form that tables, figures and files read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Trial:
    """One trial of a sweep.

    Attributes:
        point: Its place in the sweep, from 0; a trial that repeats an interrupted one has the same.
        state: ``running``; ``finished``; ``stopped`` early by hyperband; ``failed``; ``interrupted`` by the end of its
            supervisor (and repeated when the sweep goes on).
        values: Label of each parameter (:attr:`~framework.sweep.spec.Parameter.label`) to the value that it had.
        count: How many finite values of the metric were logged; 0 where that is not known any more.
        last: The last of them.
        value: The best of them, which is the trial's value in all that is shown and written, and in the search, as in
            W&B's; ``None`` without one.
        seconds: How long it ran.
        folder: Its run folder, if it has one.
        message: Why it failed, one line.
        worker: Which worker ran it, for the table: ``host:number``.
        log: File with what it printed.
    """

    point: int
    state: str = "running"
    values: dict[str, Any] = field(default_factory=dict)
    count: int = 0
    last: float | None = None
    value: float | None = None
    seconds: float = 0.0
    folder: str | None = None
    message: str = ""
    worker: str = ""
    log: str | None = None
