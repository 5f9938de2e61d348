"""What a sweep costs beside its trainings.

Throughput: trials a minute of `sweep` with two workers against a fresh process for each trial, two at a time, as W&B's
agents run them (whose own polling is left out); a training takes about a second. Overhead: the time from one trial's
beginning to the next's in a sweep with one worker, against the same trainings one after another in a process that calls
`framework.build(...).run()`; a training takes about five seconds, both run in turn, and the quietest of each counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from _rows import Row, duration, report

from framework.claims import at_most

FIT = ["fit", "--config", "vision/image_classifier_digits", "--trainer.accelerator=cpu", "--wandb.mode=offline"]
PARAMETER = "model.optimizer.weight_decay"  # does not change how long a training takes
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ONE_PROCESS = """
import json, sys, framework
from framework.commands.train import quiet_lightning
quiet_lightning()
for arguments in json.loads(sys.argv[1]):
    framework.build([], arguments).run()
"""


def values(count: int) -> list[float]:
    return [round(0.001 * (1 + index), 3) for index in range(count)]


def trainings(count: int, epochs: int) -> list[list[str]]:
    """Returns the arguments of each, from the subcommand on."""
    return [[*FIT, f"--trainer.max_epochs={epochs}", f"--{PARAMETER}={value}"] for value in values(count)]


def run(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-1000:]}")


def sweep(folder: str, trials: int, workers: int, epochs: int) -> tuple[float, list[float]]:
    """Seconds of the whole command, and when each training started."""
    command = ["${env}", "${interpreter}", "-m", "framework", *FIT, f"--trainer.max_epochs={epochs}", "${args}"]
    lines = ["method: grid", "metric: {name: val/accuracy, goal: maximize}", "parameters:"]
    lines += [f"  {PARAMETER}: {{values: {values(trials)}}}", "command:", *(f"  - {item}" for item in command)]
    Path(folder, "sweep.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole = [sys.executable, "-m", "framework", "sweep", "sweep.yaml", f"--workers={workers}", "--folder=swept"]
    start = time.perf_counter()
    run(whole, folder)
    seconds = time.perf_counter() - start
    if len(list(Path(folder, "swept", "trials").glob("*/checkpoints/last.ckpt"))) != trials:
        raise RuntimeError("a trial left no checkpoint")
    return seconds, beginnings(Path(folder, "swept", "trials"))


def beginnings(runs: Path) -> list[float]:
    """When the trainings of a folder started, in order, in seconds."""
    return sorted(path.stat().st_mtime for path in runs.glob("*/provenance.json"))


def fresh_processes(folder: str, trials: int, at_once: int, epochs: int) -> float:
    """Seconds until all are done."""
    waiting = [[sys.executable, "-m", "framework", *training] for training in trainings(trials, epochs)]
    running: list[subprocess.Popen[bytes]] = []
    start = time.perf_counter()
    while waiting or running:
        while waiting and len(running) < at_once:
            nowhere = subprocess.DEVNULL
            process = subprocess.Popen(waiting.pop(0), cwd=folder, env=ENVIRONMENT, stdout=nowhere, stderr=nowhere)
            running.append(process)
        for process in [process for process in running if process.poll() is not None]:
            if process.returncode:
                raise RuntimeError(f"a training ended with exit code {process.returncode}")
            running.remove(process)
        time.sleep(0.01)
    return time.perf_counter() - start


def one_process(folder: str, trials: int, epochs: int) -> list[float]:
    """When each training started."""
    arguments = json.dumps([training[1:] for training in trainings(trials, epochs)])
    command = [sys.executable, "-c", ONE_PROCESS, arguments]
    run(command, folder)
    return beginnings(Path(folder, "runs", "image_classifier_digits"))


def periods(begun: list[float]) -> list[float]:
    """Seconds between them, without the first training, which warms up."""
    return [later - earlier for earlier, later in pairwise(begun[1:])]


def rows(options: argparse.Namespace) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        fresh = fresh_processes(folder, options.fresh, 2, options.epochs) / options.fresh
    with tempfile.TemporaryDirectory() as folder:
        seconds, begun = sweep(folder, options.trials, 2, options.epochs)
    whole = seconds / options.trials
    at_work = (begun[-1] - begun[2]) / (options.trials - 3)  # from the second trial of a worker on
    peer, size = "a fresh process for each, two at a time", f"{60 / fresh:.0f} a minute"
    text = f"sweep --workers 2, {options.trials} trials of about 1 s"
    yield Row(f"{text}, its start included", peer, whole / fresh, size)
    yield Row(f"{text}, once it has started", peer, at_work / fresh, size, at_most(0.125))

    plain: list[float] = []
    worker: list[float] = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            plain += periods(one_process(folder, options.long, options.long_epochs))
        with tempfile.TemporaryDirectory() as folder:
            worker += periods(sweep(folder, options.long, 1, options.long_epochs)[1])
    alone, within = min(plain), min(worker)
    text = "sweep --workers 1, a trial of about 5 s"
    yield Row(text, "framework.build(...).run() in one process", within / alone, duration(alone), at_most(1.05))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=60, help="of one second, in the sweep with two workers")
    parser.add_argument("--fresh", type=int, default=8, help="trials in fresh processes")
    parser.add_argument("--epochs", type=int, default=20, help="of a training of about one second")
    parser.add_argument("--long", type=int, default=6, help="trials of five seconds, in each run")
    parser.add_argument("--long-epochs", type=int, default=105, help="of a training of about five seconds")
    parser.add_argument("--runs", type=int, default=3, help="runs of the second comparison, in turn")


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
