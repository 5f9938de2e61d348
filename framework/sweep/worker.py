"""A process that runs one trial after another and imports libraries only once.

It reads jobs from its standard input and answers on a separate pipe, a line of JSON each. A trial's output goes to the
trial's log. When the supervisor ends, standard input is closed and the worker ends immediately.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from framework.errors import UserError
from framework.sweep.channel import Channel
from framework.sweep.job import Job
from framework.tracking import trial_report as report
from framework.tracking.trial_report import TrialReport, Watch

INTERRUPTED = (128 + signal.SIGINT, 128 + signal.SIGTERM)


def main(arguments: Sequence[str]) -> int:
    """Runs ``_worker FD``: runs jobs until standard input is closed."""
    channel = Channel(int(arguments[0]))
    warm = False
    while True:
        job = channel.receive()
        channel.send({"kind": "begun"})
        if job.arguments is not None and not warm:
            warm = True
            channel.send({"kind": "importing"})
            _import(job.arguments)
            gc.collect()
            gc.freeze()  # half a million objects of the libraries, which every later collection would scan
            channel.send({"kind": "imported"})
        end = _run(job, channel)
        channel.send({"kind": "end", **end})
        if end["retire"]:
            return 0


def _import(arguments: Sequence[str]) -> None:
    """Imports what every training needs and the first job's classes, before the first trial's time starts."""
    import matplotlib.figure  # noqa: F401
    import wandb  # noqa: F401

    from framework.config.compose import read_command_line
    from framework.runs.preparing import prepare

    with suppress(Exception):  # the trial itself will report it
        prepare(read_command_line(arguments[1:]), arguments[0])


@contextmanager
def _printing_to(path: str) -> Iterator[None]:
    """Redirects the process's output to a file, including native code's."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in enumerate(kept, start=1):
            os.dup2(old, number)
            os.close(old)


def _run(job: Job, channel: Channel) -> dict[str, Any]:
    watch = Watch(**{**job.watch, "bands": tuple(job.watch["bands"])})
    heard = TrialReport(watch, channel.send, channel.ask if watch.bands else None)
    state, message, retire = "finished", "", False
    began = time.monotonic()
    with _printing_to(job.log):
        try:
            if job.arguments is None:
                from framework.sweep.program import run

                run(job, heard, channel)
            else:
                _train(job, heard)
        except UserError as error:
            state, message = "failed", str(error)
            print(f"error: {error}", file=sys.stderr)
        except SystemExit as stop:
            retire = stop.code in INTERRUPTED
            state = "interrupted" if retire else "failed" if stop.code else "finished"
            message = f"ended with exit code {stop.code}" if state == "failed" else ""
        except BaseException as error:
            state, message = "failed", f"{type(error).__name__}: {error}".strip()
            traceback.print_exc()
        if job.arguments is not None:
            retire = _clean(failed=state == "failed") or retire
    seconds = time.monotonic() - began
    if state == "finished" and heard.stop:
        state = "stopped"
    if state == "finished" and watch.metric is not None and not heard.history:
        state, message = "failed", heard.missing
    first = next((line for line in message.splitlines() if line.strip()), "").strip()
    return {**heard.message("end"), "state": state, "message": first[:500], "seconds": seconds, "retire": retire}


def _train(job: Job, heard: TrialReport) -> None:
    from framework.config.compose import read_command_line
    from framework.runs.experiment import run_to_end

    assert job.arguments is not None
    subcommand, *arguments = job.arguments
    with _as_it_was():
        _fresh_randomness()
        # a strategy that launches processes runs this process's command line
        sys.argv[1:] = [subcommand, *arguments]
        report.activate(heard)
        try:
            code = run_to_end(read_command_line(arguments), subcommand, ["framework", subcommand, *arguments])
            if code:
                raise SystemExit(code)
        finally:
            report.activate(None)


def _fresh_randomness() -> None:
    """Seeds the generators at random, so that a trial without a seed does not depend on the one before it."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed(random.getrandbits(32))  # noqa: NPY002 - the global generator is what others use
    torch.seed()


@contextmanager
def _as_it_was() -> Iterator[None]:
    """Restores the process-wide state that a training may change."""
    import torch

    environment, argv, folder = dict(os.environ), list(sys.argv), os.getcwd()
    threads = torch.get_num_threads()
    switches: list[tuple[Callable[[Any], Any], Any]] = [
        (torch.set_default_dtype, torch.get_default_dtype()),
        (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
        (torch.autograd.set_detect_anomaly, torch.is_anomaly_enabled()),
        (torch.set_grad_enabled, torch.is_grad_enabled()),
    ]
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = {name: getattr(torch.backends.cudnn, name) for name in ("benchmark", "deterministic")}
    try:
        yield
    finally:
        for put_back, value in switches:
            put_back(value)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        for name, value in cudnn.items():
            setattr(torch.backends.cudnn, name, value)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        os.chdir(folder)
        sys.argv[:] = argv
        for key in os.environ.keys() - environment.keys() - {"WANDB_SERVICE"}:
            del os.environ[key]
        os.environ.update({key: value for key, value in environment.items() if os.environ.get(key) != value})


def _clean(failed: bool) -> bool:
    """Frees the trial's memory; returns whether the process cannot run another trial."""
    import torch

    gc.collect()
    used_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    if used_gpu:
        torch.cuda.empty_cache()
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed or (failed and used_gpu)  # a process group cannot be made twice; a GPU error may persist
