"""What is read from a program's W&B files, made by hand, and what is said where the metric is not in them."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from wandb.proto import wandb_internal_pb2

from framework.sweep import program
from framework.sweep.job import Job
from framework.tracking.trial_report import TrialReport, Watch
from framework.tracking.wandb_file import HEADER, PART


def write_file(path: Path, rows: list[dict[str, float]], summary: dict[str, float]) -> Path:
    """A run's file that fits into one block."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = HEADER
    for kind, values in [*(("history", row) for row in rows), ("summary", summary)]:
        record = wandb_internal_pb2.Record()
        into = record.history.item if kind == "history" else record.summary.update
        for key, value in values.items():
            into.add(key=key, value_json=json.dumps(value))
        payload = record.SerializeToString()
        data += struct.pack(PART.format, zlib.crc32(payload, zlib.crc32(b"\1")), len(payload), 1) + payload
    path.write_bytes(data)
    return path


def run(folder: Path, new: Path, metric: str = "loss") -> TrialReport:
    """Runs a program that logs what is in the file ``new``."""
    heard = TrialReport(Watch(metric=metric))
    place = folder / "wandb/offline-run-2-new"
    command = ["sh", "-c", f"mkdir -p '{place}' && cp '{new}' '{place}/run-new.wandb'"]
    job = Job(command, None, "0000", str(folder), str(folder / "log"), vars(heard.watch))
    program.run(job, heard, SimpleNamespace(on_end=None))
    return heard


def test_what_an_interrupted_attempt_logged_does_not_count(tmp_path):
    write_file(tmp_path / "trial/wandb/offline-run-1-old/run-old.wandb", [{"loss": 0.0}], {"loss": 0.0, "top": 9.0})
    new = write_file(tmp_path / "new.wandb", [{"loss": 3.0}, {"loss": 2.0}], {"loss": 2.0})
    assert run(tmp_path / "trial", new).history == [3.0, 2.0]
    assert run(tmp_path / "trial", new, "top").history == []


def test_a_metric_that_is_in_the_summary_only(tmp_path):
    new = write_file(tmp_path / "new.wandb", [{"loss": 3.0}], {"loss": 3.0, "top": 0.5})
    assert run(tmp_path / "trial", new, "top").history == [0.5]


@pytest.mark.parametrize(
    ("metric", "row", "message"),
    [
        ("los", {"loss": 1.0, "epoch": 0}, "los was never logged; did you mean loss?"),
        ("val/acc", {"val/accuracy": 1.0, "val/loss": 1.0}, "val/acc was never logged; did you mean val/accuracy?"),
        ("val/loss", {"train/loss": 1.0}, "val/loss was never logged; logged: train/loss"),
        ("auc", {"loss": 1.0, "epoch": 0, "_step": 0}, "auc was never logged; logged: epoch, loss"),
        ("loss", {"loss": float("nan")}, "loss was never logged as a finite number"),
        ("loss", {}, "loss was never logged; logged: nothing"),
    ],
)
def test_a_metric_without_a_value_is_told_with_what_was_logged(metric, row, message):
    heard = TrialReport(Watch(metric=metric))
    heard.add_row(row)
    assert heard.history == []
    assert heard.missing == message
