"""A clock that is put back: the last run is still the last one, no time is negative, and rows stay in order."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from abuse.runs import METHOD, assert_same_run, command, run_folder, set_up
from framework.checkpoints.finding import find_checkpoint
from framework.tracking.metrics_log import read_metrics

HOUR = 3600


def put_forward(folder: Path) -> None:
    """As if the run had been written an hour from now: since then the clock has been put back."""
    path = folder / "checkpoints" / "last.ckpt"
    ahead = path.stat().st_mtime_ns + HOUR * 10**9
    os.utime(path, ns=(ahead, ahead))


def last(root: Path) -> Path:
    return find_checkpoint("last", root, METHOD).parent.parent


def test_put_back_between_runs(tmp_path):
    start = set_up(tmp_path)[:-1]
    for name in ("a", "b"):
        assert command(*start, f"--run.name={name}") == 0
        assert last(tmp_path).name == name
        put_forward(tmp_path / METHOD / name)
    assert command(*start, "--run.name=c", "--trainer.max_epochs=1") == 0
    assert last(tmp_path).name == "c"
    assert command("fit", f"--ckpt_path={tmp_path / METHOD / 'a'}", "--trainer.max_epochs=4") == 0
    assert last(tmp_path).name == "a", "the run that went on last"


class PutBack(pl.Callback):
    """Puts every clock but the monotonic one back by an hour at a step."""

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == 13:
            real, utime = time.time, os.utime
            time.time = lambda: real() - HOUR
            time.time_ns = lambda: int(time.time() * 1e9)
            replace = os.replace

            def replaced(source: Any, target: Any) -> None:
                replace(source, target)
                past = os.stat(target).st_mtime_ns - HOUR * 10**9
                utime(target, ns=(past, past))

            os.replace = replaced


def test_put_back_in_training(tmp_path):
    (tmp_path / "reference").mkdir()
    assert command(*set_up(tmp_path / "reference")) == 0
    start = set_up(tmp_path)
    assert command(*start[:-1], "--run.name=before") == 0
    put_back = "--techniques.clock={class_path: abuse.test_clocks.PutBack}"
    assert command(*start, put_back) == 0
    folder = run_folder(tmp_path)
    assert last(tmp_path) == folder, "though its clock says that it is an hour older"
    assert_same_run(run_folder(tmp_path / "reference"), folder)
    steps = [row["step"] for row in read_metrics(folder) if "train/step" in row]
    assert steps == sorted(steps) == list(range(30))
    assert all(
        value >= 0 for row in read_metrics(folder) for name, value in row.items() if "seconds" in name or "time" in name
    )
