"""The reader of W&B's offline file, against files that the installed wandb writes: whole, cut, damaged, growing."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import struct
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from resume_harness import in_child
from wandb_runs import offline_runs

from framework.errors import UserError
from framework.tracking.wandb_file import BLOCK, HEADER, WandbFile, WandbTail, read
from framework.tracking.wandb_run import SETTINGS

CONFIG = {"lr": 0.1, "a.b": 3, "nest": {"x": {"y": None}}, "list": [1, "ü"], "gone": 1}
LONG = "x" * 100_000


def start(folder: Path, **options: Any) -> Any:
    import wandb

    known = wandb.Settings.model_fields
    settings = {key: value for key, value in SETTINGS.items() if key in known}
    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(mode="offline", dir=str(folder), settings=wandb.Settings(**settings, sweep_id="s1"), **options)


def write_run(folder: Path) -> None:
    run = start(folder, id="abc", project="p", entity="e", group="g", name="n", tags=["t"], config=CONFIG)
    run.config["later"] = {"u": True}
    run.config.update({"lr": 0.2}, allow_val_change=True)
    run.log({"a": 1, "b": {"c": 2, "d": {"e": 3.5}}, "x.y": 7, "text": 'ü\n"', "none": None, "inf": math.inf}, step=0)
    run.log({"nan": math.nan, "yes": True, "list": [1, 2], "small": 1e-300, "big": 2**60}, step=1)
    run.log({"long": LONG}, step=2)
    run.log({"a": 4, "long": LONG[:32_700]}, step=5)
    for step in range(10, 40):
        run.log({"a": step / 7}, step=step)
    run.summary["by hand"] = {"q": 1}
    run.finish(exit_code=3)


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    assert in_child(lambda: write_run(folder)) == 0
    (path,) = folder.glob("wandb/offline-run-*/run-abc.wandb")
    return path


@pytest.fixture(scope="module")
def whole(path) -> WandbFile:
    return read(path)


def logged(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("_step", "_timestamp", "_runtime")}


def test_what_wandb_wrote_is_read(whole):
    assert (whole.run_id, whole.project, whole.entity, whole.group) == ("abc", "p", "e", "g")
    assert (whole.name, whole.sweep_id, whole.tags, whole.exit_code) == ("n", "s1", ["t"], 3)
    config = {name: value for name, value in whole.config.items() if name != "_wandb"}
    assert config == CONFIG | {"lr": 0.2, "later": {"u": True}}
    first, second, third, fourth, *rest = whole.history
    assert logged(first) == {
        "a": 1, "b.c": 2, "b.d.e": 3.5, "x.y": 7, "text": 'ü\n"', "none": None, "inf": math.inf}  # fmt: skip
    assert math.isnan(second["nan"])
    assert logged(second) | {"nan": 0} == {"nan": 0, "yes": True, "list": [1, 2], "small": 1e-300, "big": 2**60}
    assert logged(third) == {"long": LONG}
    assert logged(fourth) == {"a": 4, "long": LONG[:32_700]}
    assert [logged(row) for row in rest] == [{"a": step / 7} for step in range(10, 40)]
    assert [row["_step"] for row in whole.history] == [0, 1, 2, 5, *range(10, 40)]
    assert whole.summary["a"] == 39 / 7
    assert whole.summary["b.c"] == 2
    assert whole.summary["by hand"] == {"q": 1}


def test_the_file_spans_blocks(path):
    assert path.stat().st_size > 4 * BLOCK  # or the test above would not have met a split record


def test_the_runs_of_a_folder(path, whole, tmp_path):
    assert repr(offline_runs(path.parents[2])) == repr([whole])  # nan is not equal to itself
    assert offline_runs(tmp_path) == []


def pack(payloads: list[bytes]) -> bytes:
    """The file format written from its description, as the other side of the reader."""
    data = bytearray(HEADER)
    for payload in payloads:
        kind = 1
        while True:
            left = BLOCK - len(data) % BLOCK
            if left < 7:
                data += bytes(left)
                left = BLOCK
            part, payload = payload[: left - 7], payload[left - 7 :]
            code = (1 if kind == 1 else 4) if not payload else (2 if kind == 1 else 3)
            data += struct.pack("<IHB", zlib.crc32(bytes([code]) + part), len(part), code) + part
            kind = code
            if not payload:
                break
    return bytes(data)


def history(step: int, text: str = "") -> bytes:
    from wandb.proto import wandb_internal_pb2

    record = wandb_internal_pb2.Record()
    item = record.history.item.add()
    item.key, item.value_json = "n", str(step)
    if text:
        item = record.history.item.add()
        item.nested_key.extend(["t", "u"])
        item.value_json = f'"{text}"'
    return record.SerializeToString()


@pytest.mark.parametrize("gap", range(12))
def test_a_record_at_every_distance_from_the_end_of_a_block(tmp_path, gap):
    file = tmp_path / "a.wandb"
    fill = BLOCK - len(HEADER) - 7 - gap - len(history(0, "x" * 30_000)) + 30_000
    file.write_bytes(pack([history(0, "x" * fill), history(1), history(2, "y" * 3 * BLOCK), history(3)]))
    rows = read(file).history
    assert [row["n"] for row in rows] == [0, 1, 2, 3]
    assert rows[2]["t.u"] == "y" * 3 * BLOCK
    assert len(rows[0]["t.u"]) == fill


def test_a_cut_never_raises_and_never_gives_a_wrong_row(path, whole, tmp_path):
    """Every cut in the last kilobyte of the real file, in its header, and around each block's end."""
    data = path.read_bytes()
    file = tmp_path / "cut.wandb"
    borders = [edge + shift for edge in range(BLOCK, len(data), BLOCK) for shift in range(-9, 10)]
    seen, counts = set(), []
    for end in sorted({*range(30), *borders, *range(len(data) - 1000, len(data))}):
        file.write_bytes(data[:end])
        cut = read(file)
        assert repr(cut.history) == repr(whole.history[: len(cut.history)])
        assert cut.exit_code is None
        seen.add(len(cut.history))
        counts.append(len(cut.history))
    assert counts == sorted(counts)
    assert len(seen) > 6
    file.write_bytes(data + bytes(5000))  # lengthened before it was filled
    assert repr(read(file)) == repr(whole)


def test_a_flipped_byte_is_an_error(tmp_path):
    data = pack([history(step) for step in range(30)])
    last = len(pack([history(step) for step in range(29)]))
    file = tmp_path / "flipped.wandb"
    for place in range(last):
        for flip in (0x01, 0x80, 0xFF):
            file.write_bytes(data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :])
            with pytest.raises(UserError, match=r"flipped\.wandb: (damaged near byte|not the file of)"):
                read(file)


def test_a_flipped_byte_in_the_real_file_is_an_error(path, tmp_path):
    data = path.read_bytes()
    file = tmp_path / "flipped.wandb"
    for place in range(7, len(data) - 3000, 997):
        file.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        with pytest.raises(UserError, match="damaged near byte"):
            read(file)
        with pytest.raises(UserError, match="damaged near byte"):
            WandbTail(file).new_rows()


def test_a_length_beyond_the_block_does_not_keep_a_tail_waiting(tmp_path):
    data = bytearray(pack([history(step) for step in range(30)]))
    data[len(HEADER) + 5] = 0xFF
    (tmp_path / "a.wandb").write_bytes(data)
    with pytest.raises(UserError, match="no record starts here"):
        WandbTail(tmp_path / "a.wandb").new_rows()


@pytest.mark.parametrize("kinds", [[3], [4], [2, 1], [2, 2], [1, 4]])
def test_parts_in_a_wrong_order_are_an_error(tmp_path, kinds):
    part = history(0)
    parts = [struct.pack("<IHB", zlib.crc32(bytes([kind]) + part), len(part), kind) + part for kind in kinds]
    (tmp_path / "a.wandb").write_bytes(HEADER + b"".join(parts))
    with pytest.raises(UserError, match="a part of a record is missing"):
        read(tmp_path / "a.wandb")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"PAR1", "not the file of a W&B offline run"),
        (b":W&B\xe1\xbe\x07", "of a version that is not known"),
        (pack([b"\xff\xff\xff"]), "a record cannot be read by the installed wandb"),
        (pack([history(0, '"')]), "a value is not JSON"),
    ],
)
def test_what_is_not_such_a_file(tmp_path, content, message):
    file = tmp_path / "a.wandb"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(file)


def test_a_removed_name_is_gone(tmp_path):
    from wandb.proto import wandb_internal_pb2

    first, second = wandb_internal_pb2.Record(), wandb_internal_pb2.Record()
    for name in ("kept", "gone"):
        item = first.config.update.add()
        item.key, item.value_json = name, "1"
    second.config.remove.add().key = "gone"
    (tmp_path / "a.wandb").write_bytes(pack([first.SerializeToString(), second.SerializeToString()]))
    assert read(tmp_path / "a.wandb").config == {"kept": 1}


def test_a_file_that_grows_byte_by_byte(tmp_path):
    data = pack([history(0), history(1, "x" * 40_000), history(2), history(3)])
    file = tmp_path / "a.wandb"
    tail = WandbTail(file)
    assert tail.new_rows() == []  # not there yet
    rows: list[dict[str, Any]] = []
    steps = [*range(120), *range(120, len(data) - 120, 1009), *range(len(data) - 120, len(data) + 1)]
    with open(file, "wb", buffering=0) as growing:
        done = 0
        for end in steps:
            growing.write(data[done:end])
            done = end
            rows += tail.new_rows()
            file_rows = read(file).history
            assert rows == file_rows
    assert [row["n"] for row in rows] == [0, 1, 2, 3]
    assert tail.new_rows() == []


def test_a_tail_reads_only_what_is_new(tmp_path, monkeypatch):
    file = tmp_path / "a.wandb"
    file.write_bytes(pack([history(step) for step in range(1000)]))
    tail = WandbTail(file)
    assert len(tail.new_rows()) == 1000
    log = tail._log
    parsed = []
    parse = log.parse
    monkeypatch.setattr(log, "parse", lambda payload: parsed.append(payload) or parse(payload))
    with monkeypatch.context() as context:
        context.setattr("framework.tracking.wandb_file.open", None, raising=False)  # unchanged, it is not even opened
        assert tail.new_rows() == []
    file.write_bytes(pack([history(step) for step in range(1001)]))
    assert tail.new_rows() == [{"n": 1000}]
    assert len(parsed) == 1


def write_until_killed(folder: Path, times: Path) -> None:
    run = start(folder, id="killed")
    with open(times, "w") as file:
        for step in range(10_000):
            run.log({"n": step}, step=step)
            file.write(f"{time.time()}\n")
            file.flush()
            time.sleep(0.1)


def test_a_killed_writer_has_lost_two_seconds_at_most_and_was_followed(tmp_path):
    """With the flush interval of one second that our runs ask for."""
    import wandb

    if "x_transaction_log_flush_interval" not in wandb.Settings.model_fields:
        pytest.skip("this wandb has no such setting")
    times = tmp_path / "times"
    process = multiprocessing.get_context("fork").Process(
        target=write_until_killed, args=(tmp_path, times), daemon=True
    )
    process.start()
    deadline = time.monotonic() + 60
    tail, rows, first = None, [], 0.0
    while time.monotonic() < deadline and not (first and time.monotonic() > first + 4.0):
        time.sleep(0.05)
        if tail is None:
            tail = next(map(WandbTail, tmp_path.glob("wandb/offline-run-*/*.wandb")), None)
        else:
            rows += tail.new_rows()
            first = first or (time.monotonic() if times.exists() else 0.0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    killed = time.time()
    (path,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    result = read(path)
    process.join()
    logged_at = [float(line) for line in times.read_text().split()]
    old = sum(moment < killed - 2.0 for moment in logged_at)
    print(f"logged {len(logged_at)}, kept {len(result.history)}, older than 2 s {old}, followed {len(rows)}")
    assert old >= 5
    assert len(result.history) >= old
    assert [row["n"] for row in result.history] == list(range(len(result.history)))
    assert rows == result.history[: len(rows)]
    assert len(rows) >= sum(moment < killed - 2.5 for moment in logged_at)
    assert result.exit_code is None
    assert result.run_id == "killed"
