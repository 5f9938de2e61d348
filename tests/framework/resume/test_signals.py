"""SIGINT and SIGTERM: a point is saved, the loggers are closed, and the exit code is the shell's for the signal."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from forked_processes import forked_by, run_python
from lightning.pytorch.strategies.launchers import subprocess_script
from resume_harness import Kill, Net, assert_same_end, fit, in_child, in_two_ranks

from framework.checkpoints.reading import open_checkpoint
from framework.data.arrays import ArrayDataset
from framework.data.loader import ExactLoader
from framework.resume import Interrupted, ResumePoint, exit_code
from framework.tracking.metrics_log import MetricsLog, read_metrics

NEVER = {"point": {"every_n_seconds": None}}


class Hang(pl.Callback):
    """Signals its own process, then does not come to rest."""

    def __init__(self, signum: int, again: int = 0, at: int = 8) -> None:
        self.signum, self.again, self.left = signum, again, at

    def on_train_batch_start(self, *args: object) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signum)
            if self.again:
                os.kill(os.getpid(), self.again)
            time.sleep(30)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert in_child(lambda: fit(folder, **NEVER)) == 0
    return folder


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("at", [("on_train_batch_start", 14), ("on_validation_batch_start", 4)])
def test_a_signal_saves_and_the_run_goes_on_exactly(whole, tmp_path, capfd, signum, code, at):
    stopped = tmp_path
    assert in_child(lambda: fit(stopped, callbacks=[Kill(*at, signum)], **NEVER)) == code
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("SIG")]
    assert "--ckpt_path last" in line
    assert (stopped / "metrics.csv").exists()
    step = open_checkpoint(stopped / "last.ckpt")["global_step"]
    assert step == (14 if at[0] == "on_train_batch_start" else 20)
    assert in_child(lambda: fit(stopped, resume=True, **NEVER)) == 0
    assert_same_end(whole, stopped)


def test_a_signal_after_the_last_point_still_ends_the_process(tmp_path):
    kill = Kill("on_train_end", 1, signal.SIGTERM)
    assert in_child(lambda: fit(tmp_path, max_epochs=1, callbacks=[kill], **NEVER)) == 143
    assert (tmp_path / "last.ckpt").exists()


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_without_rest_the_last_point_stands(tmp_path, capfd, signum, code):
    start = time.monotonic()
    point = {"every_n_seconds": None, "every_n_steps": 4, "grace": 0.3}
    assert in_child(lambda: fit(tmp_path, callbacks=[Hang(signum)], point=point)) == code
    assert time.monotonic() - start < 15
    assert "no resume point could be written within 0.3 s" in capfd.readouterr().err
    assert open_checkpoint(tmp_path / "last.ckpt")["global_step"] == 4
    assert [row["step"] for row in read_metrics(tmp_path) if "train/step" in row] == list(range(7))


def test_a_second_signal_ends_at_once(tmp_path):
    start = time.monotonic()
    hang = Hang(signal.SIGTERM, again=signal.SIGINT)
    assert in_child(lambda: fit(tmp_path, callbacks=[hang], **NEVER)) == 130
    assert time.monotonic() - start < 15


def test_two_ranks_stop_together(tmp_path):
    ranks = {"strategy": "ddp", "devices": 2, "arrays": False, **NEVER}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert in_two_ranks(lambda: fit(whole, **ranks)) == [0, 0]

    def one_is_told() -> None:
        told = os.environ["LOCAL_RANK"] == "1"
        fit(stopped, callbacks=[Kill("on_train_batch_start", 7, signal.SIGTERM)] if told else [], **ranks)

    assert in_two_ranks(one_is_told) == [143, 0]  # a rank that only helps ends with 0
    assert open_checkpoint(stopped / "last.ckpt")["global_step"] == 7
    assert in_two_ranks(lambda: fit(stopped, resume=True, **ranks)) == [0, 0]
    assert_same_end(whole, stopped)


def test_lightnings_own_launcher(tmp_path, monkeypatch, capfd):
    """The processes that Lightning starts stop with rank 0, and its exit code is the signal's."""
    for name in ("PL_GLOBAL_SEED", "MASTER_PORT", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    script = Path(__file__).with_name("signal_script.py")
    with forked_by(subprocess_script):
        assert run_python([sys.executable, str(script), str(tmp_path), "7", str(int(signal.SIGTERM))]) == 143
    assert "stopped at step 7" in capfd.readouterr().err
    assert open_checkpoint(tmp_path / "last.ckpt")["global_step"] == 7


def test_handlers_are_given_back():
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[ResumePoint(".")],
    )  # fmt: skip
    seen = []

    class Look(Net):
        def on_train_epoch_start(self) -> None:
            seen.append(signal.getsignal(signal.SIGTERM))

    loader = ExactLoader(ArrayDataset(torch.zeros(4, 5), torch.zeros(4, dtype=torch.long)), 2)
    trainer.fit(Look(), loader, loader)
    assert seen != [before[1]]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_in_a_thread_signals_are_left_alone(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=lambda: fit(tmp_path, max_epochs=1))
    thread.start()
    thread.join()
    assert (tmp_path / "last.ckpt").exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_exit_codes():
    assert exit_code(Interrupted(signal.SIGINT)) == 130
    assert exit_code(Interrupted(signal.SIGTERM)) == 143
    assert exit_code(Interrupted(signal.SIGTERM, 0)) == 0
    assert exit_code(SystemExit()) == 0
    assert exit_code(SystemExit("no")) == 1
    try:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)  # as Lightning does
    except SystemExit as error:
        caught = error
    assert exit_code(caught) == 130


def test_the_log_of_an_interrupted_run_is_closed(tmp_path):
    log = MetricsLog(tmp_path)
    log.log_metrics({"a": 1.0}, 0)
    log.close(130)
    assert read_metrics(tmp_path) == [{"a": 1.0, "step": 0}]
