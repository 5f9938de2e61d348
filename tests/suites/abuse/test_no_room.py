"""A disk that is full and a folder that takes no writes: one message, exit code 2, and what was saved stands."""

from __future__ import annotations

import builtins
import errno
import os
import resource
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest

from abuse.runs import METHOD, Dying, Moment, assert_same_run, command, opens, run_folder, set_up, write_config
from framework.errors import UserError
from framework.tracking.metrics_log import MetricsLog, read_metrics

DRAW = "--techniques.draw={class_path: abuse.test_no_room.Draw}"


class Full(Moment):
    """In the place of a kill, the disk is full from the n-th write on to files of a name; the first half is taken."""

    def __init__(self, part: str, count: int, number: int = errno.ENOSPC) -> None:
        super().__init__("", count, "within")
        self.part, self.number = part, number

    def arm(self) -> None:
        self._arm_writes(self.part)

    def strike(self) -> None:
        self.left = 1  # and so on
        raise OSError(self.number, os.strerror(self.number))


def failed(folder: Path, capfd: Any, before: Any, *more: str) -> str:
    """The message of a run that has to fail with exit code 2."""
    capfd.readouterr()
    assert command(*set_up(folder), *more, before=before) == 2
    lines = capfd.readouterr().err.splitlines()
    assert not any("Traceback" in line for line in lines)
    (error,) = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    return "\n".join(lines[error:])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert command(*set_up(folder)) == 0
    return run_folder(folder)


@pytest.mark.parametrize(
    ("part", "count", "file"),
    [
        (".last.ckpt.tmp", 300, "checkpoints/last.ckpt"),
        (".best.ckpt.tmp", 1, "checkpoints/best.ckpt"),
        ("metrics.jsonl", 9, "metrics.jsonl"),
        (".metrics.csv", 1, "metrics.csv"),
    ],
)
def test_it_goes_on_when_there_is_room(whole, tmp_path, capfd, part, count, file):
    message = failed(tmp_path, capfd, Full(part, count).arm)
    folder = run_folder(tmp_path)
    assert f"{folder / file}: " in message
    assert "No space left on device" in message
    point = opens(folder / "checkpoints" / "last.ckpt")
    assert point is not None
    assert f"{folder / 'checkpoints' / 'last.ckpt'}, of step {point['global_step']}, was saved" in message
    assert f"fit --ckpt_path {folder}" in message
    assert read_metrics(folder), "no half row spoils the log"
    assert command("fit", f"--ckpt_path={folder}") == 0
    assert_same_run(whole, folder)


def test_rows_that_the_disk_did_not_take_are_written_later(tmp_path):
    """Each once, and no half of one before them."""
    log = MetricsLog(tmp_path)
    log.log_metrics({"a": 1.0}, 0)
    log.flush()
    log._file = Dying(log._file, once := Full("", 1))  # type: ignore[assignment]
    log.log_metrics({"a": 2.0}, 1)
    with pytest.raises(UserError, match="No space left on device"):
        log.flush()
    once.left = 0
    log.log_metrics({"a": 3.0}, 2)
    log.close()
    assert [row["a"] for row in read_metrics(tmp_path)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("name", ["config.yaml", "provenance.json"])
def test_at_the_start(whole, tmp_path, capfd, name):
    """``Path.write_text`` opens by another way than the rest."""
    real = Path.write_text

    def write_text(self: Path, *args: Any, **kwargs: Any) -> int:
        if f".{name}." in self.name:
            real(self, "half", encoding="utf-8")
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        return real(self, *args, **kwargs)

    message = failed(tmp_path, capfd, lambda: setattr(Path, "write_text", write_text))
    assert f"{run_folder(tmp_path) / name}: cannot be written: Disk quota exceeded" in message
    assert "\n" not in message
    assert not list(run_folder(tmp_path).rglob("*.tmp.*"))
    assert command(*set_up(tmp_path)) == 0
    assert_same_run(whole, run_folder(tmp_path))


def test_a_limit_on_the_size_of_files(tmp_path, capfd):
    """The system's own refusal: a checkpoint is larger than 20 kB."""
    message = failed(tmp_path, capfd, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000)))
    assert "checkpoints/last.ckpt: cannot be written: File too large" in message
    assert "no checkpoint was written yet" in message
    assert command(*set_up(tmp_path)) == 0


class Draw(pl.Callback):
    """Draws at the second epoch's end."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        from framework.figures import log_figure, new_figure

        if trainer.current_epoch == 1:
            log_figure(trainer, "picture", new_figure())


def test_in_a_figure(tmp_path, capfd):
    message = failed(tmp_path, capfd, Full(".picture.png", 1).arm, DRAW)
    assert f"{run_folder(tmp_path) / 'figures' / 'picture.png'}: cannot be written: No space left" in message
    assert "was saved; to resume: fit --ckpt_path" in message
    assert command("fit", f"--ckpt_path={run_folder(tmp_path)}") == 0
    assert (run_folder(tmp_path) / "figures" / "picture.png").stat().st_size > 1000


def test_a_technique_that_writes_by_itself(tmp_path, capfd):
    """What says no file's name is still no bug."""

    class Write(Draw):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "own.json")

    message = failed(tmp_path, capfd, lambda: globals().update(Draw=Write), DRAW)
    assert "own.json cannot be written: No space left" in message


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_below_a_file(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    before = [*listing(tmp_path), f"{METHOD}.yaml"]
    message = failed(tmp_path, capfd, None, f"--run.root={tmp_path / 'file' / 'runs'}")
    assert f"run folder {tmp_path / 'file' / 'runs' / METHOD / 'x'}: cannot be " in message
    assert listing(tmp_path) == sorted(before)


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_takes_no_writes(tmp_path, capfd, number):
    def refuse() -> None:
        real = os.mkdir

        def mkdir(path: Any, *args: Any, **kwargs: Any) -> None:
            if METHOD in str(path):
                raise OSError(number, os.strerror(number), str(path))
            real(path, *args, **kwargs)

        os.mkdir = mkdir

    message = failed(tmp_path, capfd, refuse)
    assert os.strerror(number) in message
    assert str(run_folder(tmp_path)) in message
    assert "\n" not in message
    assert listing(tmp_path) == [f"{METHOD}.yaml"]


def test_an_existing_run_that_belongs_to_someone_else(tmp_path, capfd):
    """Evaluating it needs a folder inside; nothing is written when that cannot be."""
    assert command(*set_up(tmp_path)) == 0
    folder = run_folder(tmp_path)
    before = listing(tmp_path)

    def refuse() -> None:
        real = builtins.open

        def opened(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if str(file).startswith((str(folder), os.path.relpath(folder))) and set(mode) & set("wa+x"):
                raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(file))
            return real(file, mode, *args, **kwargs)

        builtins.open = opened

    capfd.readouterr()
    assert command("validate", f"--ckpt_path={folder}", before=refuse) == 2
    error = capfd.readouterr().err
    assert "Permission denied" in error
    assert "Traceback" not in error
    assert listing(tmp_path) == before


def test_it_is_a_dying_file_that_the_others_write_to(tmp_path):
    """The tests above stand on it: half of the bytes are in the file when the moment comes."""
    with open(tmp_path / "a", "wb") as file, pytest.raises(OSError):
        Dying(file, Full("a", 1)).write(b"12345678")
    assert (tmp_path / "a").read_bytes() == b"1234"
    assert write_config(tmp_path).exists()
