"""What a sweep costs beside its trainings.

Throughput: trials a minute of `sweep` with two workers, its start included, against a fresh process for each trial, two
at a time, as W&B's agents run them (whose own polling is left out); a training takes about a second. Overhead: the time
from one trial's beginning to the next's in a sweep with one worker, against the same trainings one after another in a
process that calls `framework.build(...).run()`; a training takes about five seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

FIT = ["fit", "--config", "vision/image_classifier_digits", "--trainer.accelerator=cpu", "--wandb.mode=offline"]
PARAMETER = "model.optimizer.weight_decay"  # does not change how long a training takes
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
ONE_PROCESS = """
import json, sys, framework
from framework.commands import quiet_lightning
quiet_lightning()
for arguments in json.loads(sys.argv[1]):
    framework.build([], arguments).run()
"""


def values(count: int) -> list[float]:
    return [round(0.001 * (1 + index), 3) for index in range(count)]


def trainings(count: int, epochs: int) -> list[list[str]]:
    """The arguments of each, from the subcommand on."""
    return [[*FIT, f"--trainer.max_epochs={epochs}", f"--{PARAMETER}={value}"] for value in values(count)]


def sweep(folder: str, trials: int, workers: int, epochs: int) -> float:
    """Seconds of the whole command."""
    command = ["${env}", "${interpreter}", "-m", "framework", *FIT, f"--trainer.max_epochs={epochs}", "${args}"]
    lines = ["method: grid", "metric: {name: val/accuracy, goal: maximize}", "parameters:"]
    lines += [f"  {PARAMETER}: {{values: {values(trials)}}}", "command:", *(f"  - {item}" for item in command)]
    Path(folder, "sweep.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    whole = [sys.executable, "-m", "framework", "sweep", "sweep.yaml", f"--workers={workers}", "--folder=swept"]
    start = time.perf_counter()
    subprocess.run(whole, check=True, cwd=folder, env=ENVIRONMENT, capture_output=True)
    seconds = time.perf_counter() - start
    done = len(list(Path(folder, "swept", "trials").glob("*/checkpoints/last.ckpt")))
    if done != trials:
        raise RuntimeError(f"{done} of {trials} trials left a checkpoint")
    return seconds


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


def one_process(folder: str, trials: int, epochs: int) -> None:
    arguments = json.dumps([training[1:] for training in trainings(trials, epochs)])
    command = [sys.executable, "-c", ONE_PROCESS, arguments]
    subprocess.run(command, check=True, cwd=folder, env=ENVIRONMENT, capture_output=True)


def periods(runs: Path) -> list[float]:
    """Seconds between the beginnings of trainings, the first one, which warms up, left out."""
    begun = sorted(path.stat().st_mtime for path in runs.glob("*/provenance.json"))
    return [later - earlier for earlier, later in pairwise(begun[1:])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=60, help="of one second, in the sweep with two workers")
    parser.add_argument("--fresh", type=int, default=8, help="trials in fresh processes")
    parser.add_argument("--epochs", type=int, default=5, help="of a training of about one second")
    parser.add_argument("--long", type=int, default=6, help="trials of five seconds, in each run")
    parser.add_argument("--long-epochs", type=int, default=40, help="of a training of about five seconds")
    parser.add_argument("--runs", type=int, default=3, help="runs of the second comparison, in turn")
    parser.add_argument("--only-fresh", action="store_true", help="the fresh processes alone")
    given = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        fresh = 60 * given.fresh / fresh_processes(folder, given.fresh, 2, given.epochs)
    print(f"{'trials of about 1 s, two at a time':<50} {'a minute':>9} {'ratio':>7} {'bound':>7}")
    print(f"{f'a fresh process each ({given.fresh} trials)':<50} {fresh:>9.1f} {1:>7.2f}")
    if given.only_fresh:
        return
    with tempfile.TemporaryDirectory() as folder:
        swept = 60 * given.trials / sweep(folder, given.trials, 2, given.epochs)
    label = f"sweep --workers 2 ({given.trials} trials, start included)"
    print(f"{label:<50} {swept:>9.1f} {swept / fresh:>7.2f}    >= 8")

    plain: list[float] = []
    worker: list[float] = []
    for _ in range(given.runs):
        with tempfile.TemporaryDirectory() as folder:
            one_process(folder, given.long, given.long_epochs)
            plain += periods(Path(folder, "runs", "image_classifier_digits"))
        with tempfile.TemporaryDirectory() as folder:
            sweep(folder, given.long, 1, given.long_epochs)
            worker += periods(Path(folder, "swept", "trials"))
    alone, within = statistics.median(plain), statistics.median(worker)
    print(f"\n{f'trials of about 5 s, one at a time, {len(plain)} each':<50} {'median s':>9} {'above':>7} {'bound':>7}")
    print(f"{'framework.build(...).run() in one process':<50} {alone:>9.2f}")
    print(f"{'sweep --workers 1':<50} {within:>9.2f} {(within - alone) / alone:>7.1%}   <= 5%")


if __name__ == "__main__":
    main()
