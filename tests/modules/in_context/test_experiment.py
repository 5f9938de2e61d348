"""What in-context experiments share: an interrupted run, evaluation, predictions, and the command."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ensemble_harness import resumed_is_whole

from datamodules.in_context.prompts import Prompts
from framework.__main__ import main
from framework.errors import UserError
from framework.module import OptimizerConfig, ScheduleConfig
from modules.in_context.experiment import risk, trained
from modules.in_context.icl_linear_models import GPT2InContext, LinearModelsInContext

SMALL = {"batch_size": 8, "inner_steps": 5, "batches": 3, "eval_prompts": 32}
COSINE = ScheduleConfig("cosine", final=0.01)


@pytest.mark.parametrize("name", ["linear", "gpt2"])
def test_a_resumed_run_is_the_whole_one(tmp_path, name):
    adam = OptimizerConfig("adam", lr=1e-2, weight_decay=0.0)

    def make():
        if name == "gpt2":
            return GPT2InContext(width=8, layers=1, heads=1, positions=90, inner_steps=5, clip=1.0, optimizer=adam)
        return LinearModelsInContext(seeds=2, inner_steps=5, points=10, optimizer=adam, schedule=COSINE)

    resumed_is_whole(make, lambda: Prompts(**SMALL), tmp_path)


def test_the_schedule_comes_down_over_the_batches():
    few = ["--data.batch_size=8", "--data.batches=4", "--data.eval_prompts=32", "--trainer.max_epochs=1"]
    model, _ = trained("in_context/icl_linear_models", *few)
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.003 * 0.01)


def test_risk_is_the_mean_and_its_error():
    prompts = {"x": torch.zeros(1000, 3, 2), "y": torch.randn(1000, 3, 1)}
    found = risk(lambda x, y: torch.zeros(1, len(x), 1), prompts, chunk=300)
    squares = prompts["y"][:, -1, 0].square()
    assert found[0, 0] == pytest.approx(squares.mean().item(), rel=1e-6)
    assert found[1, 0] == pytest.approx(squares.std().item() / 1000**0.5, rel=1e-5)


def test_a_run_writes_its_tables_pictures_and_predictions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--data.batch_size=8", "--data.batches=2", "--data.eval_prompts=32", "--wandb.mode=disabled"]
    small += ["--run.name=one", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "--config", "in_context/icl_linear_models", *small, "--trainer.max_epochs=1"]) == 0
    folder = tmp_path / "runs" / "icl_linear_models" / "one"
    table = np.load(folder / "risk.npz")
    assert table["length"].tolist() == [3, 5, 10, 20, 40, 80, 160]
    assert table["risk"].shape == (7, 4)
    assert {path.name for path in (folder / "figures").iterdir()} == {"risk.png", "readout.png"}
    assert main(["test", "--ckpt_path", str(folder), "--data.law.scale=2.0", "--wandb.mode=disabled"]) == 0
    shifted = np.load(folder / "test" / "risk.npz")
    assert shifted["risk"][3].mean() > 3 * table["risk"][3].mean()
    assert main(["predict", "--ckpt_path", str(folder), "--wandb.mode=disabled"]) == 0
    import pyarrow.parquet as pq

    assert {"prediction_0", "target_0"} <= set(pq.read_table(folder / "predict" / "predictions.parquet").column_names)


FEW = ["--data.batch_size=8", "--data.batches=2", "--data.eval_prompts=32", "--trainer.max_epochs=1"]


def test_the_loss_is_that_at_the_length_of_training():
    model, data = trained("in_context/icl_linear_models", *FEW, "--data.eval_lengths=[3,80]")
    assert data.eval_lengths == [3, 80, 20]
    logged = model.trainer.logged_metrics
    assert logged["val/loss"] == logged["val/risk/20"] != logged["val/risk/3"]
    alone, _ = trained("in_context/icl_linear_models", *FEW, "--data.eval_lengths=[3,80,20]")
    assert alone.trainer.logged_metrics["val/risk/3"] == logged["val/risk/3"]  # the same prompts


def test_a_loss_at_another_length_is_refused():
    two = "--trainer.limit_val_batches=2"
    with pytest.raises(UserError, match=r"limit_val_batches: .* data.length 20, .* after the lengths 3, 5;"):
        trained("in_context/icl_linear_models", *FEW, two)
    model = LinearModelsInContext(inner_steps=5)
    data = Prompts(**SMALL)
    data.setup("fit")
    data.eval_lengths = [5]
    model.trainer = SimpleNamespace(datamodule=data, world_size=1)
    with pytest.raises(UserError, match=r"data.eval_lengths: \[5\] lacks data.length 20"):
        model.setup("fit")


def test_other_data_are_named():
    with pytest.raises(UserError, match="Circle has no regression prompts"):
        trained("in_context/icl_linear_models", "--data.class_path=datamodules.dynamics.circle.Circle", "--model.dim=5")
