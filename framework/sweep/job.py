"""The message with which a supervisor starts a trial in a worker."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

COMMAND = "_worker"
"""The subcommand of ``python -m framework`` that runs a worker."""


@dataclass
class Job:
    """One trial to run.

    Attributes:
        command: The whole command line, as an agent would run it.
        arguments: The arguments after ``framework``, if the trial runs within the worker; ``None`` for a program.
        name: Name of the trial's folder and W&B run.
        folder: The trial's folder.
        log: File for the trial's output.
        watch: What the trial reports, as :class:`~framework.tracking.trial_report.Watch`.
        environment: Environment variables for a program.
        parameters: The trial's parameters in W&B's form, for a program that reads them from W&B.
    """

    command: list[str]
    arguments: list[str] | None
    name: str
    folder: str
    log: str
    watch: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, Any] = field(default_factory=dict)

    def line(self) -> bytes:
        """Returns the line for the worker's standard input."""
        return (json.dumps({"kind": "job", **asdict(self)}) + "\n").encode()
