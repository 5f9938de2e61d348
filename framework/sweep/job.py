"""What a supervisor asks of a worker."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

COMMAND = "_worker"
"""The subcommand of ``python -m framework`` that a worker is."""


@dataclass
class Job:
    """One trial to run.

    Attributes:
        command: The whole command line, as an agent would run it.
        arguments: What follows ``framework``, if it is ours and is run within the worker; ``None`` for a program.
        name: The trial's name: of its folder and its W&B run.
        folder: The trial's folder.
        log: File that takes what the trial prints.
        watch: What is watched, as :class:`~framework.tracking.trial_report.Watch`.
        environment: Variables for a program.
        parameters: The trial's parameters in W&B's form, for a program that asks W&B for them.
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
        """For the worker's standard input."""
        return (json.dumps({"kind": "job", **asdict(self)}) + "\n").encode()
