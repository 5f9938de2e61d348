"""Runs a trial that is any program, as W&B's agent would; its metric is read from the file that W&B writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.errors import UserError

if TYPE_CHECKING:
    from framework.sweep.channel import Channel
    from framework.sweep.job import Job
    from framework.tracking.trial_report import TrialReport

POLL_SECONDS = 0.1
STOP_SECONDS = 30.0
"""Seconds between SIGTERM to a program and SIGKILL, as with W&B's agent."""
PARAMETERS = "config-defaults.yaml"


def run(job: Job, heard: TrialReport, channel: Channel) -> None:
    """Runs the job's command to its end, or until the sweep stops it.

    Args:
        job: The trial.
        heard: The trial's report, which gets the rows of the file that W&B writes.
        channel: The pipes to the supervisor; if they close, the program is killed.

    Raises:
        UserError: the program cannot be started, or it ended with an error.
        SystemExit: the worker got SIGTERM.
    """
    from framework.tracking.wandb_file import read

    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {name: {"value": value} for name, value in job.parameters.items()}
    # the file that wandb.init() reads under an agent; JSON is also YAML
    (folder / PARAMETERS).write_text(json.dumps({"wandb_version": 1, **defaults}), encoding="utf-8")
    before = _files(folder)  # files of an interrupted attempt
    print("$", " ".join(job.command), file=sys.stderr, flush=True)
    try:
        process = subprocess.Popen(job.command, env={**os.environ, **job.environment}, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise UserError(f"{job.command[0]} cannot be started: {error.strerror}") from error
    channel.on_end = process.kill
    told = _Told()
    try:
        _follow(process, folder, before, heard, told)
    finally:
        channel.on_end = None
        told.restore()
        if process.poll() is None:
            process.kill()
            process.wait()
    if told.signum:
        raise SystemExit(128 + told.signum)
    code = process.returncode
    if code and not heard.stop:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise UserError(f"the program {how}")
    if heard.watch.metric is not None and not heard.history:
        for path in _files(folder, before):  # as with W&B, the summary counts too; the run may have nothing else
            heard.add_row(read(path).summary)


class _Told:
    """Records whether the worker got SIGTERM."""

    def __init__(self) -> None:
        self.signum = 0
        self._before = signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, signum: int, frame: Any) -> None:
        self.signum = signum

    def restore(self) -> None:
        signal.signal(signal.SIGTERM, self._before)


def _follow(
    process: subprocess.Popen[bytes], folder: Path, before: Collection[Path], heard: TrialReport, told: _Told
) -> None:
    from framework.tracking.wandb_file import WandbTail

    tails: dict[Path, WandbTail] = {}
    stopping = 0.0
    while True:
        ended = process.poll() is not None  # checked first, so that no row written before the end is missed
        if heard.watch.metric is not None:
            for path in _files(folder, before):
                tail = tails.setdefault(path, WandbTail(path))
                for row in tail.new_rows():
                    if not heard.stop:
                        heard.add_row(row)
        if ended:
            return
        if (heard.stop or told.signum) and not stopping:
            process.terminate()
            stopping = time.monotonic()
        elif stopping and time.monotonic() - stopping > STOP_SECONDS:
            process.kill()
        time.sleep(POLL_SECONDS)


def _files(folder: Path, before: Collection[Path] = ()) -> list[Path]:
    return sorted(set(folder.glob("wandb/*run-*/run-*.wandb")).difference(before))
