"""Checkpoint files: whole or not there, nothing but data, and errors that name the file."""

from __future__ import annotations

import errno
import os
import pickle
import signal
from enum import Enum
from pathlib import Path

import pytest
import torch
from resume_harness import fit, in_child

from framework.checkpoints.reading import open_checkpoint
from framework.checkpoints.writing import AtomicCheckpointIO, check_plain
from framework.errors import UserError

GOOD = {"state_dict": {"w": torch.arange(5000.0)}, "pytorch-lightning_version": "2.6"}


class Colour(Enum):
    RED = "red"


class Hostile:
    def __reduce__(self):
        return (os.system, ("touch executed",))


def save(path: Path, **more: object) -> Path:
    AtomicCheckpointIO().save_checkpoint({**GOOD, **more}, path)
    return path


def one_line(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_saved_is_read(tmp_path):
    path = save(tmp_path / "new" / "a.ckpt")
    assert torch.equal(open_checkpoint(path)["state_dict"]["w"], GOOD["state_dict"]["w"])
    assert [p.name for p in path.parent.iterdir()] == ["a.ckpt"]


def test_hyper_parameters_are_made_plain(tmp_path):
    path = save(tmp_path / "a.ckpt", hyper_parameters={"path": Path("x"), "colour": Colour.RED}, hparams_type=dict)
    assert open_checkpoint(path)["hyper_parameters"] == {"path": "x", "colour": "red"}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"callbacks": {"mine": {"path": Path("x")}}}, "checkpoint.callbacks.mine.path"),
        ({"a": [1, (2, Colour.RED)]}, "checkpoint.a[1][1]"),
        ({"a": {Colour.RED: 1}}, "checkpoint.a, key"),
        ({"a": lambda: 1}, "checkpoint.a"),
    ],
)
def test_what_is_not_plain_is_refused_before_writing(tmp_path, value, place):
    path = save(tmp_path / "a.ckpt")
    before = path.read_bytes()
    with pytest.raises(UserError) as caught:
        save(path, **value)
    assert place in str(caught.value)
    assert path.read_bytes() == before


def test_plain_data_passes():
    check_plain({"a": [1, 2.0, None, True, "x", b"y", 1j, (1,), {2}, torch.Size([1]), torch.float32], 3: {}})


@pytest.mark.parametrize("force", [False, True])
def test_a_hostile_file_is_refused_and_not_executed(tmp_path, monkeypatch, force):
    if force:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({**GOOD, "x": Hostile()}, tmp_path / "zip.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(Hostile(), protocol=2))
    assert "system" in one_line(tmp_path / "zip.ckpt")
    one_line(tmp_path / "bare.ckpt")
    with pytest.raises(UserError):
        AtomicCheckpointIO().load_checkpoint(tmp_path / "zip.ckpt", weights_only=False)
    assert not Path("executed").exists()


def test_what_is_not_a_checkpoint(tmp_path):
    whole = save(tmp_path / "a.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.ckpt").write_bytes(b"")
    (tmp_path / "text.ckpt").write_text("hello")
    torch.save([1], tmp_path / "list.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    assert "the rest is missing" in one_line(tmp_path / "cut.ckpt")
    assert "empty" in one_line(tmp_path / "empty.ckpt")
    assert "not a checkpoint" in one_line(tmp_path / "text.ckpt")
    assert "state_dict" in one_line(tmp_path / "list.ckpt")
    assert "pytorch-lightning_version" in one_line(tmp_path / "foreign.ckpt")
    assert "no such" in one_line(tmp_path / "none.ckpt")
    assert "folder" in one_line(tmp_path)


@pytest.mark.parametrize("place", ["write", "fsync", "replace"])
def test_a_full_disk(tmp_path, monkeypatch, place):
    path = save(tmp_path / "a.ckpt")
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if place == "write":

        class FullFile:
            def __init__(self, *args: object) -> None:
                self.file = open(*args)  # noqa: SIM115

            def __enter__(self):
                return self

            def __exit__(self, *args: object) -> None:
                self.file.close()

            def write(self, data: bytes) -> int:
                full()
                return 0

            def flush(self) -> None:
                self.file.flush()

        monkeypatch.setattr("framework.checkpoints.writing.open", FullFile, raising=False)
    else:
        monkeypatch.setattr(os, place, full)
    with pytest.raises(UserError) as caught:
        save(path)
    monkeypatch.undo()
    assert str(path) in str(caught.value)
    assert "No space left" in str(caught.value)
    assert "the previous file is kept" in str(caught.value)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        save(tmp_path / "file" / "a.ckpt")
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        with pytest.raises(UserError, match="Permission denied"):
            save(tmp_path / "closed" / "a.ckpt")


def test_training_on_a_full_disk_keeps_the_last_point(tmp_path, capfd):
    def run() -> None:
        count, real = [0], os.fsync

        def fsync(descriptor: int) -> None:
            count[0] += 1
            if count[0] > 20:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(descriptor)

        os.fsync = fsync
        fit(tmp_path)

    assert in_child(run) == 70
    error = capfd.readouterr().err
    assert "No space left" in error
    assert "UserError" in error
    assert open_checkpoint(tmp_path / "last.ckpt")["global_step"] > 3


def test_files_of_dead_processes_are_removed_and_of_living_ones_kept(tmp_path):
    assert in_child(lambda: fit(tmp_path, kill=("save", 3))) == 137
    (stale,) = tmp_path.glob(".last.ckpt.tmp.*")
    alive = stale.with_name(stale.name.rpartition(".")[0] + f".{os.getppid()}")
    alive.write_bytes(b"")
    foreign = tmp_path / ".last.ckpt.tmp.another-host.1"
    foreign.write_bytes(b"")
    save(tmp_path / "b.ckpt")
    assert not stale.exists()
    assert alive.exists()
    assert foreign.exists()


@pytest.mark.parametrize("seed", range(4))
def test_killed_while_saving_a_file_is_old_or_new(tmp_path, seed):
    """The kill comes from outside, at any moment."""
    import time

    from resume_harness import start_child, wait_for

    def save_for_ever() -> None:
        io, number = AtomicCheckpointIO(), 0
        while True:
            number += 1
            content = {**GOOD, "number": number, "big": torch.full((200_000,), float(number))}
            io.save_checkpoint(content, tmp_path / "a.ckpt")

    pid = start_child(save_for_ever)
    while not (tmp_path / "a.ckpt").exists():
        time.sleep(0.005)
    time.sleep(0.02 + 0.017 * seed)
    os.kill(pid, signal.SIGKILL)
    assert wait_for(pid) == 137
    checkpoint = open_checkpoint(tmp_path / "a.ckpt")
    assert bool((checkpoint["big"] == checkpoint["number"]).all())
