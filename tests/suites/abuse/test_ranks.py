"""A rank that dies ends the whole run in seconds, says which it was, and leaves no process behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from checkout import PYTHONPATH
from forked_processes import ForkedPopen, forked_by, python, warm_up
from lightning.pytorch.strategies.launchers import subprocess_script
from other_processes import alive, wait_until
from resume_harness import in_child

from abuse.runs import assert_same_run, opens, run_folder, set_up
from framework.runs import launcher, starter

TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.arrays=false"]


class Die(pl.Callback):
    """A rank dies at a step (``-1``: before it has met the others); ``how`` may be to raise; others may be stuck."""

    def __init__(self, rank: int, at: int, how: str = "kill", stuck: bool = False) -> None:
        self.rank, self.at, self.how, self.stuck = rank, at, how, stuck
        self.own = int(os.environ.get("LOCAL_RANK", 0))
        Path(f"pid{self.own}").write_text(str(os.getpid()))
        if at < 0:
            self._strike()

    def _strike(self) -> None:
        if self.own != self.rank:
            if self.stuck:
                time.sleep(600)
        elif self.how == "raise":
            raise KeyError("a bug of one rank")
        else:
            os.kill(os.getpid(), signal.SIGKILL)

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.at:
            self._strike()


def in_two(*arguments: str, grace: float = 15.0, popen: type[subprocess.Popen] = ForkedPopen) -> tuple[int, float]:
    """Runs a command whose second rank is forked instead of started; exit code and seconds."""

    def run() -> None:
        launcher.GRACE_SECONDS = grace
        os.environ.pop("MASTER_PORT", None)
        python([sys.executable, "-m", "framework", *arguments])

    with forked_by(subprocess_script, popen=popen):
        start = time.monotonic()
        code = in_child(run)
        return code, time.monotonic() - start


def assert_nothing_is_left() -> None:
    pids = [int(path.read_text()) for path in Path().glob("pid*")]
    assert len(pids) == 2
    wait_until(lambda: not any(map(alive, pids)), 20, lambda: [pid for pid in pids if alive(pid)])


def die(**arguments: Any) -> str:
    return f"--techniques.die={{class_path: abuse.test_ranks.Die, init_args: {arguments}}}"


def errors(capfd: Any) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    warm_up(*set_up(folder), *TWO)
    assert in_two(*set_up(folder), *TWO)[0] == 0
    return run_folder(folder)


@pytest.mark.slow
def test_a_helper_is_killed_in_training(whole, tmp_path, capfd):
    code, seconds = in_two(*set_up(tmp_path), *TWO, die(rank=1, at=6))
    assert code == 3
    assert seconds < 60
    assert_nothing_is_left()
    (error,) = errors(capfd)
    assert "rank 1 (process " in error
    assert "was ended by SIGKILL" in error
    point = opens(run_folder(tmp_path) / "checkpoints" / "last.ckpt")
    assert point is not None
    assert 0 < point["global_step"] <= 6
    assert in_two("fit", f"--ckpt_path={run_folder(tmp_path)}", "--techniques.die=null")[0] == 0
    assert_same_run(whole, run_folder(tmp_path))


@pytest.mark.slow
def test_rank_zero_is_killed_in_training(tmp_path, capfd):
    code, seconds = in_two(*set_up(tmp_path), *TWO, die(rank=0, at=6))
    assert code == 137
    assert seconds < 60
    assert_nothing_is_left()
    (error,) = errors(capfd)
    assert "rank 0 (process " in error
    assert "has died, so rank 1 ends too" in error


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_other_one_is_stuck(tmp_path, capfd, rank):
    """No connection breaks where it could notice, as in a collective of a GPU."""
    code, seconds = in_two(*set_up(tmp_path), *TWO, die(rank=rank, at=6, stuck=True), grace=1.0)
    assert code == (3 if rank else 137)
    assert seconds < 60
    assert_nothing_is_left()
    (error,) = errors(capfd)
    assert f"rank {rank} (process " in error


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_before_they_have_met(tmp_path, capfd, rank):
    """The helper dies on its way up; or the starter does while the helper is on its way."""
    technique = die(rank=1, at=-1) if rank else "--techniques.die={class_path: abuse.test_ranks.OrphanAtStart}"
    code, seconds = in_two(*set_up(tmp_path), *TWO, technique, grace=1.0)
    assert code == (3 if rank else 137)
    assert seconds < 60
    assert_nothing_is_left()
    (error,) = errors(capfd)
    assert f"rank {rank} (process " in error
    assert not list(tmp_path.rglob("*.ckpt"))


class OrphanAtStart(Die):
    """The helper kills its starter, before they have met, and is slow itself."""

    def __init__(self) -> None:
        super().__init__(rank=2, at=0)
        if self.own:
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)


@pytest.mark.slow
def test_a_bug_in_one_rank_shows_its_trace(tmp_path, capfd):
    code, seconds = in_two(*set_up(tmp_path), *TWO, die(rank=1, at=6, how="raise"))
    assert code == 3
    assert seconds < 60
    assert_nothing_is_left()
    text = capfd.readouterr().err
    assert "a bug of one rank" in text
    assert text.count("Traceback") == 1
    assert "rank 1 (process " in text
    assert "ended with exit code 1, so the run ends; its own error is above" in text


@pytest.mark.slow
def test_a_rank_that_is_started_for_real(tmp_path, monkeypatch, capfd):
    """As ``python -m framework`` starts it, which imports everything itself."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    code, _ = in_two(*set_up(tmp_path), *TWO, die(rank=1, at=6), popen=subprocess.Popen)
    assert code == 3
    text = capfd.readouterr().err
    assert "rank 1 (process " in text
    assert "Traceback" not in text
    assert_nothing_is_left()
    point = opens(run_folder(tmp_path) / "checkpoints" / "last.ckpt")
    assert point is not None
    assert 0 < point["global_step"] <= 6


def test_only_what_was_started_watches(monkeypatch):
    """Neither a process on its own nor one that torchrun has started."""
    monkeypatch.delenv(starter.VARIABLE, raising=False)
    assert starter.pid() is None
    assert not starter.is_gone()
    monkeypatch.setenv(starter.VARIABLE, str(os.getppid()))
    assert not starter.is_gone()
    monkeypatch.setenv(starter.VARIABLE, "1")
    assert starter.is_gone() == (os.getppid() != 1)
