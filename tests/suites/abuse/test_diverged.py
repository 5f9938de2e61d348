"""A loss that is NaN or infinite ends the run with the step, the metric and the last good checkpoint; exit code 3."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from resume_harness import Data, Net, in_two_ranks

from abuse.runs import command, opens, run_folder, set_up
from framework.checkpoints.writing import AtomicCheckpointIO
from framework.errors import RunFailed, UserError
from framework.resume import ResumePoint
from framework.runs.divergence import SKIPPED, StopAtNaN
from framework.runs.folder import RunConfig
from modules.ensemble import Ensemble


class Diverging(Net):
    """From a training step on, something is not finite."""

    def __init__(self, at: int = 13, what: str = "loss", value: str = "nan") -> None:
        super().__init__()
        self.at, self.what, self.value, self.seen = at, what, float(value), 0

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = super().training_step(batch, batch_idx)
        self.seen = self.trainer.global_step
        return loss * self.value if self.what == "loss" and self.seen >= self.at else loss

    def on_after_backward(self) -> None:
        if self.what == "gradient" and self.seen == self.at:
            self.net[0].weight.grad.fill_(math.inf)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        bad = self.what == "validation" and self.seen >= self.at
        self.log("val/loss", torch.tensor(self.value if bad else 1.0))
        self.log("val/score", torch.tensor(self.value if self.what == "score" and self.seen >= self.at else 1.0))


def model(**arguments: Any) -> str:
    return f"--model={{class_path: abuse.test_diverged.Diverging, init_args: {arguments}}}"


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_the_run_stops_and_says_where(tmp_path, capfd, value):
    assert command(*set_up(tmp_path), model(at=13, value=value)) == 3
    error = capfd.readouterr().err
    folder = run_folder(tmp_path)
    assert f"error: train/loss is {value} at step 13 (epoch 1)" in error
    assert f"{folder / 'checkpoints' / 'last.ckpt'}, of step 12, was saved" in error
    assert "Traceback" not in error
    point = opens(folder / "checkpoints" / "last.ckpt")
    assert point is not None
    assert all(bool(v.isfinite().all()) for v in point["state_dict"].values() if v.is_floating_point())
    assert command("fit", f"--ckpt_path={folder}", "--model.at=1000") == 0


def test_weights_are_looked_at_before_they_are_kept(tmp_path, capfd):
    """The loss of the step whose gradient overflows is fine; the point after it would not be."""
    assert command(*set_up(tmp_path), model(at=13, what="gradient")) == 3
    assert "the parameter net.0.weight is not finite after step 13" in capfd.readouterr().err
    point = opens(run_folder(tmp_path) / "checkpoints" / "last.ckpt")
    assert point is not None
    assert point["global_step"] == 12


@pytest.mark.parametrize(("what", "more"), [("validation", ""), ("score", "--run.monitor=val/score")])
def test_the_validation_too(tmp_path, capfd, what, more):
    arguments = [more] if more else ["--run.monitor=null"]
    assert command(*set_up(tmp_path), model(at=13, what=what), *arguments) == 3
    name = {"validation": "val/loss", "score": "val/score"}[what]
    assert f"{name} is nan after step 19" in capfd.readouterr().err


def test_a_score_that_nothing_hangs_on_may_be_nan(tmp_path):
    assert command(*set_up(tmp_path), model(at=13, what="score")) == 0


def test_ignored_if_asked_for(tmp_path):
    assert command(*set_up(tmp_path), model(at=13), "--run.on_nan=ignore") == 0
    with pytest.raises(UserError, match=r"run\.on_nan: 'never' is not one of stop, ignore"):
        RunConfig(on_nan="never")


def test_members_of_an_ensemble_may_diverge():
    assert Ensemble.may_diverge


def trainer(folder: Path, **options: Any) -> pl.Trainer:
    point = ResumePoint(folder, every_n_seconds=None, every_n_steps=1)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(
        **{"max_epochs": 3, "accelerator": "cpu", "devices": 1, "use_distributed_sampler": False, **quiet, **options},
        callbacks=[StopAtNaN(), point], plugins=[AtomicCheckpointIO()],
    )  # fmt: skip


def test_where_losses_stay_on_the_device_the_step_is_named_all_the_same(tmp_path, monkeypatch):
    looks: list[int] = []
    real = StopAtNaN._look

    def look(self: StopAtNaN, trainer: pl.Trainer) -> None:
        looks.append(len(self._losses))
        real(self, trainer)

    monkeypatch.setattr(StopAtNaN, "_look", look)
    monkeypatch.setattr("framework.runs.divergence.stands_on_device", lambda loss: True)
    run = trainer(tmp_path, log_every_n_steps=8)
    run.callbacks = [c for c in run.callbacks if not isinstance(c, ResumePoint)]
    with pytest.raises(RunFailed, match=r"train/loss is nan at step 13 \(epoch 1\)"):
        run.fit(Diverging(at=13), Data())
    assert looks == [8, 8], "each eight steps"


@pytest.mark.parametrize("bad", [SKIPPED, SKIPPED + 1])
def test_steps_that_a_gradient_scaler_skips_do_not_count(bad):
    class Scaled:
        scaler = object()

    guard = StopAtNaN()
    steps = [torch.tensor(math.inf)] * bad + [torch.tensor(1.0)] * 3

    class FakeTrainer:
        precision_plugin, world_size, current_epoch, global_step = Scaled(), 1, 0, bad

    guard._losses, guard._steps = steps, list(range(len(steps)))
    if bad > SKIPPED:
        with pytest.raises(RunFailed, match=f"at step {SKIPPED} "):
            guard._look(FakeTrainer())
    else:
        guard._look(FakeTrainer())


def test_all_ranks_stop_when_one_diverges(tmp_path):
    def rank() -> None:
        at = 5 if os.environ["LOCAL_RANK"] == "1" else 10**9
        run = trainer(tmp_path, strategy="ddp", devices=2, log_every_n_steps=4)
        with pytest.raises(RunFailed) as caught:
            run.fit(Diverging(at=at), Data(arrays=False))
        (tmp_path / f"said{os.environ['LOCAL_RANK']}").write_text(str(caught.value))

    assert in_two_ranks(rank) == [0, 0]
    assert "train/loss is nan at step 5" in (tmp_path / "said1").read_text()
    assert "another rank" in (tmp_path / "said0").read_text()
    point = opens(tmp_path / "last.ckpt")
    assert point is not None
    assert point["global_step"] == 5
