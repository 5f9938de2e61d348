"""The metrics log: what is logged is read back, to the last bit, whatever happened to the process."""

from __future__ import annotations

import csv
import errno
import math
import os
import random

import pytest
import torch

from framework.errors import UserError
from framework.tracking import close_loggers
from framework.tracking.metrics_log import MetricsLog, columns, read_metrics, series, write_table


def filled(folder, rows: int = 3) -> MetricsLog:
    log = MetricsLog(folder)
    for step in range(rows):
        log.log_metrics({"b": step / 3, "a": 1, "epoch": 0}, step)
    return log


def test_rows_come_back_with_all_their_digits(tmp_path):
    log = MetricsLog(tmp_path)
    draw = random.Random(0)
    values = [draw.uniform(-1, 1) * 10 ** draw.randint(-300, 300) for _ in range(200)]
    for step, value in enumerate([*values, math.inf, -math.inf, math.nan, 0.1 + 0.2]):
        log.log_metrics({"x": value}, step)
    log.flush()
    found = series(read_metrics(tmp_path), "x")[1]
    assert found[:200] == values
    assert found[200:202] == [math.inf, -math.inf]
    assert math.isnan(found[202])
    assert found[203] == 0.1 + 0.2


def test_lines_are_sorted_and_whole(tmp_path):
    filled(tmp_path, 1).flush()
    assert (tmp_path / "metrics.jsonl").read_text() == '{"a": 1, "b": 0.0, "epoch": 0, "step": 0}\n'


def test_tensors_are_numbers(tmp_path):
    log = MetricsLog(tmp_path)
    log.log_metrics({"a": torch.tensor(2.5), "b": torch.tensor(3)}, 1)
    log.flush()
    assert read_metrics(tmp_path) == [{"a": 2.5, "b": 3, "step": 1}]


def test_half_a_line_is_not_read_and_is_cut_before_appending(tmp_path):
    filled(tmp_path, 2).flush()
    whole = (tmp_path / "metrics.jsonl").read_bytes()
    for rest in (b"{", b'{"a": 1, "b"' * 9000):  # longer than the block in which the newline is looked for
        (tmp_path / "metrics.jsonl").write_bytes(whole + rest)
        assert len(read_metrics(tmp_path)) == 2
        MetricsLog(tmp_path).flush()
        assert (tmp_path / "metrics.jsonl").read_bytes() == whole
    (tmp_path / "metrics.jsonl").write_bytes(b'{"a"')
    assert read_metrics(tmp_path) == []
    filled(tmp_path, 1).flush()
    assert len(read_metrics(tmp_path)) == 1


def test_a_second_process_appends(tmp_path):
    filled(tmp_path, 2).flush()
    filled(tmp_path, 2).flush()
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 0, 1]


def test_cut(tmp_path):
    log = filled(tmp_path, 2)
    length = log.flush(sync=True)
    log.log_metrics({"c": 1}, 9)
    log.flush()
    log.log_metrics({"c": 1}, 10)
    log.cut(length)
    log.log_metrics({"d": 1}, 2)
    log.flush()
    assert [row["step"] for row in read_metrics(tmp_path)] == [0, 1, 2]
    assert log.rows_from(length) == [{"d": 1, "step": 2}]
    with pytest.raises(UserError, match="rows are missing"):
        log.cut(10**6)


def test_a_broken_line_is_an_error_with_its_number(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"a": 1}\nnonsense\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(tmp_path)


def test_no_log_is_no_rows(tmp_path):
    assert read_metrics(tmp_path) == []
    MetricsLog(tmp_path / "new").close()
    assert not (tmp_path / "new").exists()


def test_table(tmp_path):
    log = filled(tmp_path, 2)
    log.log_metrics({"c": math.nan}, 2)
    close_loggers([log, object()])
    rows = list(csv.reader((tmp_path / "metrics.csv").open()))
    assert rows[0] == ["step", "epoch", "a", "b", "c"]
    assert rows[1] == ["0", "0", "1", "0.0", ""]
    assert rows[3] == ["2", "", "", "", "nan"]
    assert write_table(tmp_path) == tmp_path / "metrics.csv"


def test_columns():
    table = columns([{"step": 0, "b": 1}, {"step": 1, "a": 2}])
    assert table == {"step": [0, 1], "a": [None, 2], "b": [1, None]}
    assert list(table) == ["step", "a", "b"]


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    log = filled(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"metrics\.jsonl.*No space left"):
        log.flush(sync=True)


def test_only_rank_zero_writes(tmp_path, monkeypatch):
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

    monkeypatch.setattr(rank_zero_only, "rank", 1)
    log = filled(tmp_path)
    log.close()
    assert list(tmp_path.iterdir()) == []


def test_hyper_parameters_are_not_its_business(tmp_path):
    log = MetricsLog(tmp_path)
    log.log_hyperparams({"a": 1})
    assert (log.name, log.version, log.save_dir) == ("metrics", "", str(tmp_path))
