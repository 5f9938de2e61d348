"""One tiny run by the real command, in forked children that can be killed at a named moment of the code."""

from __future__ import annotations

import builtins
import fcntl
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from resume_harness import in_child, same

from framework.__main__ import main

# 10 batches an epoch and three epochs, a point every second step: some 20 checkpoints in half a second
CONFIG = """
model: {class_path: resume_harness.Net}
data: {class_path: resume_harness.Data}
trainer:
  max_epochs: 3
  log_every_n_steps: 1
  accelerator: cpu
  devices: 1
  enable_model_summary: false
  enable_progress_bar: false
run: {monitor: val/loss, resume_every_n_steps: 2}
wandb: {mode: disabled}
"""
METHOD = "tiny"


def write_config(folder: Path) -> Path:
    path = folder / f"{METHOD}.yaml"
    path.write_text(CONFIG)
    return path


def command(*arguments: str, before: Callable[[], Any] | None = None) -> int:
    """Runs a command in a fork; its exit code, 128 + n if signal n ended it."""

    def run() -> None:
        if before is not None:
            before()
        sys.exit(main(list(arguments)))

    return in_child(run)


def opens(path: Path) -> dict[str, Any] | None:
    """The checkpoint, which must be whole; ``None`` if there is none."""
    return torch.load(path, weights_only=True) if path.exists() else None


def assert_same_run(a: Path, b: Path) -> None:
    """Two run folders hold the same weights, optimiser, step and metrics, and nothing is left of a killed process."""
    first, second = opens(a / "checkpoints" / "last.ckpt"), opens(b / "checkpoints" / "last.ckpt")
    assert first is not None
    assert second is not None
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(first[key], second[key]), key
    for name in ("metrics.jsonl", "metrics.csv"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    for folder in (a, b):
        left = [p for p in folder.rglob(".*") if p.is_file() and "wandb" not in p.parts]
        assert not left, f"left behind: {left}"


class Moment:
    """A place in the code at whose n-th visit the process is to be killed.

    ``when`` is ``before``, ``after`` or, for writes to a file, ``within``: when half of the bytes are in it.
    """

    def __init__(self, place: str, count: int, when: str = "before", signum: int = signal.SIGKILL) -> None:
        self.place, self.left, self.when, self.signum = place, count, when, signum

    def __repr__(self) -> str:
        return f"{signal.Signals(self.signum).name} {self.when} visit {self.left} of {self.place}"

    def strike(self) -> None:
        os.kill(os.getpid(), self.signum)

    def arm(self) -> None:
        """To be called in the process that is to die."""
        if self.place in FILES:
            self._arm_writes(FILES[self.place])
            return
        owner, name = CALLS[self.place]
        real = getattr(owner, name)

        def hooked(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == 0 and self.when == "before":
                self.strike()
            result = real(*args, **kwargs)
            if self.left == 0 and self.when == "after":
                self.strike()
            return result

        setattr(owner, name, hooked)

    def _arm_writes(self, part: str) -> None:
        real = builtins.open

        def opened(file: Any, *args: Any, **kwargs: Any) -> Any:
            handle = real(file, *args, **kwargs)
            return Dying(handle, self) if part in str(file) and handle.writable() else handle

        builtins.open = opened


class Dying:
    """A file that takes half of a write and then kills the process, when its moment has come."""

    def __init__(self, file: Any, moment: Moment) -> None:
        self.file, self.moment = file, moment

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> Dying:
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()

    def write(self, data: Any) -> int:
        self.moment.left -= 1
        if self.moment.left == 0:
            half = self.file.write(data[: len(data) // 2])
            self.file.flush()
            self.moment.strike()
            return half + self.file.write(data[half:])  # after a signal that does not kill
        return self.file.write(data)


FILES = {"a checkpoint's bytes": ".ckpt.tmp", "a metrics row": "metrics.jsonl"}
CALLS: dict[str, tuple[Any, str]] = {
    "os.fsync": (os, "fsync"),
    "os.replace": (os, "replace"),
    "os.mkdir": (os, "mkdir"),
    "the lock": (fcntl, "lockf"),
    "torch.save": (torch, "save"),
    "an optimiser's step": (torch.optim.AdamW, "step"),
    "removing a file": (os, "unlink"),
}


def set_up(folder: Path) -> Sequence[str]:
    """What starts the run in ``folder``."""
    return ["fit", "--config", str(write_config(folder)), f"--run.root={folder}", "--run.name=x"]


def run_folder(folder: Path) -> Path:
    return folder / METHOD / "x"
