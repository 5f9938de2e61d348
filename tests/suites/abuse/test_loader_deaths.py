"""A loader's process that dies ends the run in seconds, with what happened and the last good checkpoint."""

from __future__ import annotations

import multiprocessing.reduction
import os
import signal
import time
from typing import Any

import pytest
from resume_harness import Data, Samples

from abuse.runs import command, opens, run_folder, set_up
from framework.errors import UserError


def dies_handing_over(code: int | None) -> None:
    """Breaks the connection on which the next tensor is handed over, and dies a moment later: torch, which has lost the
    tensor by then, finds the process alive."""

    def send_handle(connection: Any, *_: Any) -> None:
        connection.close()
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL) if code is None else os._exit(code)

    multiprocessing.reduction.send_handle = send_handle


DIES = {
    "exit": lambda: os._exit(0),
    "fail": lambda: os._exit(1),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "exit handing over": lambda: dies_handing_over(0),
    "fail handing over": lambda: dies_handing_over(1),
    "kill handing over": lambda: dies_handing_over(None),
}


class Mortal(Samples):
    """Its process dies, or raises, when it reads the fortieth sample."""

    def __init__(self, how: str, *data: Any) -> None:
        super().__init__(*data)
        self.how, self.left = how, 40

    def __getitem__(self, index: int) -> Any:
        self.left -= 1
        if self.left == 0:
            if self.how == "mistake":
                raise UserError("sounds/17.wav: not a sound file")
            if self.how == "bug":
                raise KeyError("no such sample")
            DIES[self.how]()
        return super().__getitem__(index)


class MortalData(Data):
    def __init__(self, how: str, num_workers: int = 2) -> None:
        super().__init__(arrays=False, num_workers=num_workers)
        self.how = how

    def setup(self, stage: str) -> None:
        super().setup(stage)
        assert isinstance(self.train_set, Samples)
        self.train_set = Mortal(self.how, self.train_set.x, self.train_set.y)


def fails(tmp_path: Any, capfd: Any, how: str, workers: int = 2) -> tuple[int, str]:
    data = f"--data={{class_path: abuse.test_loader_deaths.MortalData, init_args: {{how: '{how}', num_workers: {workers}}}}}"
    start = time.monotonic()
    code = command(*set_up(tmp_path), data)
    assert time.monotonic() - start < 60, "it hung"
    error = capfd.readouterr().err
    point = opens(run_folder(tmp_path) / "checkpoints" / "last.ckpt")
    assert point is not None
    assert f"of step {point['global_step']}, was saved; to resume: fit --ckpt_path" in error
    return code, error


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("exit", "exited unexpectedly"),
        ("fail", "exited unexpectedly"),
        ("kill", "killed by signal: Killed"),
        ("exit handing over", "exited unexpectedly with exit code 0"),
        ("fail handing over", "exited unexpectedly with exit code 1"),
        ("kill handing over", "killed by signal: Killed"),
    ],
)
def test_a_dead_worker(tmp_path, capfd, how, said):
    code, error = fails(tmp_path, capfd, how)
    assert code == 3, error
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert said in line
    assert "/dev/shm" in line
    assert "data.num_workers" in line
    assert "Traceback" not in error


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_data_keeps_its_message(tmp_path, capfd, workers):
    """In a worker too, where torch makes a trace of it."""
    code, error = fails(tmp_path, capfd, "mistake", workers)
    assert code == 2
    assert "error: sounds/17.wav: not a sound file\n" in error
    assert "Traceback" not in error


def test_a_bug_in_a_worker_keeps_its_trace(tmp_path, capfd):
    code, error = fails(tmp_path, capfd, "bug")
    assert code == 70, "as the harness counts an exception that nobody caught"
    assert "in __getitem__" in error
    assert "no such sample" in error
