"""The data of one trial, as used by tables, figures and files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Trial:
    """One trial of a sweep.

    Attributes:
        point: Its index in the sweep, from 0; a trial that repeats an interrupted one has the same index.
        state: ``running``; ``finished``; ``stopped`` early by hyperband; ``failed``; ``interrupted`` because its
            supervisor ended (and repeated when the sweep is resumed).
        values: Maps the label of each parameter (:attr:`~framework.sweep.spec.Parameter.label`) to its value.
        count: Number of finite values of the metric that were logged; 0 if not known.
        last: The last of them.
        value: The best of them, which is the trial's value in tables, files and the search, as in W&B; ``None`` without
            one.
        seconds: Its duration in seconds.
        folder: Its run folder, if it has one.
        message: Why it failed, one line.
        worker: Which worker ran it, for the table: ``host:number``.
        log: File with its output.
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
