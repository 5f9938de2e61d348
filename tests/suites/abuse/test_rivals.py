"""Two processes at once: their names differ, and one folder is never written by both."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from other_processes import wait_until
from resume_harness import start_child, wait_for

from abuse.runs import METHOD, Moment, assert_same_run, command, run_folder, set_up
from framework.__main__ import main
from framework.errors import UserError
from framework.runs import experiment
from framework.runs.folder import NameTaken, Run
from framework.runs.lock import FolderLock

SLOW = "--techniques.wait={class_path: abuse.test_rivals.Wait}"


class Wait(pl.Callback):
    """Waits at the twelfth step until a file ``go`` is there."""

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == 12:
            Path("waits").touch()
            wait_until(Path("go").exists)


@pytest.fixture
def busy(tmp_path):
    """A run that is under way, in another process, until it may go on."""
    pid = start_child(lambda: sys.exit(main([*set_up(tmp_path), SLOW])))
    wait_until(Path("waits").exists)
    yield pid
    Path("go").touch()
    assert wait_for(pid) == 0


def test_a_run_in_progress_is_left_alone(tmp_path, busy, capfd):
    folder = run_folder(tmp_path)
    before = (folder / "metrics.jsonl").read_bytes(), (folder / "config.yaml").stat().st_mtime_ns
    for arguments in (["fit", f"--ckpt_path={folder}"], ["fit", "--ckpt_path=last", f"--run.root={tmp_path}", f"--run.method={METHOD}"],
                      list(set_up(tmp_path))):  # fmt: skip
        capfd.readouterr()
        assert command(*arguments) == 2
        error = capfd.readouterr().err
        assert "Traceback" not in error
        if arguments[1].startswith("--ckpt"):
            assert f"in use by process {busy} on " in error
    assert ((folder / "metrics.jsonl").read_bytes(), (folder / "config.yaml").stat().st_mtime_ns) == before
    assert command("validate", f"--ckpt_path={folder}") == 0, "looking at it is no harm"


def test_two_that_go_on_at_the_same_moment(tmp_path, capfd):
    """One does, one is refused, and the run ends as if there had been one only."""
    (tmp_path / "reference").mkdir()
    assert command(*set_up(tmp_path / "reference")) == 0
    assert command(*set_up(tmp_path), before=Moment("an optimiser's step", 20).arm) == 137
    folder = run_folder(tmp_path)
    codes = [start_child(lambda: sys.exit(main(["fit", f"--ckpt_path={folder}", SLOW]))) for _ in range(2)]
    Path("go").touch()
    codes = [wait_for(pid) for pid in codes]
    assert sorted(codes) in ([0, 2], [0, 0]), "both only if one had ended before the other asked"
    if 2 in codes:  # "another process", if the first has the lock and has not written its name yet
        assert re.search(r"is in use by (another process|process \d+ on )", capfd.readouterr().err)
    assert_same_run(run_folder(tmp_path / "reference"), folder)


def test_names_that_are_made_up_in_the_same_second(tmp_path):
    """Even where the random parts are the same too."""
    start = list(set_up(tmp_path))[:-1]

    def unlucky() -> None:
        names = iter(["same", "same", "other"] if os.environ.get("SECOND") else ["same"])
        experiment.new_name = lambda: next(names)

    assert command(*start, before=unlucky) == 0
    first = (tmp_path / METHOD / "same" / "metrics.jsonl").read_bytes()
    built = Run(tmp_path / METHOD / "same", "same", "id", fresh=True)
    with pytest.raises(NameTaken, match="has just been made by another process"):
        built.hold(trains=True)

    def second() -> None:
        os.environ["SECOND"] = "1"
        unlucky()
        experiment.refuse_if_kept = lambda folder: None  # as if the other had no checkpoint yet

    assert command(*start, before=second) == 0
    assert (tmp_path / METHOD / "other" / "metrics.jsonl").read_bytes() == first
    assert sorted(p.name for p in (tmp_path / METHOD).iterdir()) == ["other", "same"]


def test_evaluations_of_one_run_at_the_same_time(tmp_path):
    assert command(*set_up(tmp_path)) == 0
    pids = [start_child(lambda: sys.exit(main(["validate", f"--ckpt_path={run_folder(tmp_path)}"]))) for _ in range(3)]
    assert [wait_for(pid) for pid in pids] == [0, 0, 0]
    found = sorted(path.parent.name for path in run_folder(tmp_path).glob("validate*/metrics.jsonl"))
    assert found == ["validate", "validate-2", "validate-3"]


def test_a_killed_process_holds_nothing(tmp_path):
    """Not even where processes that it has forked live on, as a loader's workers do for a while."""
    read, write = os.pipe()

    def hold_and_fork() -> None:
        held = FolderLock(tmp_path)
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
        os.write(write, f"{child}\n".encode())
        time.sleep(30)
        held.release()

    pid = start_child(hold_and_fork)
    orphan = int(os.read(read, 100))
    with pytest.raises(UserError, match=f"{tmp_path} is in use by process {pid} on "):
        FolderLock(tmp_path)
    os.kill(pid, signal.SIGKILL)
    assert wait_for(pid) == 137
    lock = FolderLock(tmp_path)
    os.kill(orphan, 0)  # it lives
    with pytest.raises(UserError, match="in use by this process"):
        FolderLock(tmp_path)
    lock.release()
    lock.release()
    assert list(tmp_path.iterdir()) == []
    os.kill(orphan, signal.SIGKILL)


def test_a_lock_that_was_let_go_and_one_that_the_system_refuses(tmp_path, monkeypatch):
    """A file that its owner removes in between locks nothing; a file system without locks is no reason to stop."""
    import fcntl

    real, removed = fcntl.lockf, []

    def removed_first(file: Any, flags: int) -> None:
        if not removed:
            removed.append((tmp_path / ".lock").unlink())
        real(file, flags)

    monkeypatch.setattr(fcntl, "lockf", removed_first)
    lock = FolderLock(tmp_path)
    assert removed
    assert (tmp_path / ".lock").exists()
    lock.release()

    def no_locks(file: Any, flags: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    FolderLock(tmp_path).release()


def test_what_is_refused_leaves_no_folder(tmp_path):
    (tmp_path / "root").mkdir()
    run = Run(tmp_path / "root" / "method" / "name", "name", "id", fresh=True)
    run.hold(trains=True)
    assert run.held
    run.release()
    assert [p.name for p in tmp_path.iterdir()] == ["root"]
    assert list((tmp_path / "root").iterdir()) == []
