from __future__ import annotations

from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from framework.module import Module, OptimizerConfig, ScheduleConfig
from framework.tracking.metrics_log import MetricsLog, read_metrics


class Line(Module):
    def __init__(self, optimizer=None, schedule=None):
        super().__init__(optimizer, schedule)
        self.save_hyperparameters()
        self.net = torch.nn.Linear(2, 1)
        self.taken = []

    def training_step(self, batch, batch_idx):
        loss = self.net(batch[0]).square().mean()
        self.log("train/loss", loss)
        self.log("train/mean", loss, on_step=False, on_epoch=True)
        if self.records_step:
            self.taken.append(self.global_step)
        return loss


def train(tmp_path, model, **settings):
    trainer = pl.Trainer(
        default_root_dir=tmp_path, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, logger=MetricsLog(tmp_path), **settings,
    )  # fmt: skip
    data = TensorDataset(torch.randn(14, 2, generator=torch.Generator().manual_seed(0)))
    trainer.fit(model, DataLoader(data, 2))
    return trainer


def test_a_steps_value_is_taken_when_it_is_recorded_and_the_record_is_the_same(tmp_path):
    torch.manual_seed(0)
    model = Line()
    trainer = train(tmp_path / "ours", model, max_epochs=2, log_every_n_steps=3)
    assert model.taken == [0, 2, 5, 6, 8, 11, 13]  # every third, the first, each epoch's last

    class Plain(Line):
        records_step = True  # as Lightning: every step

    torch.manual_seed(0)
    other = train(tmp_path / "plain", Plain(), max_epochs=2, log_every_n_steps=3)
    assert read_metrics(tmp_path / "ours") == read_metrics(tmp_path / "plain")
    assert trainer.callback_metrics == other.callback_metrics


def test_the_last_step_is_taken_wherever_it_falls(tmp_path):
    model = Line()
    trainer = train(tmp_path, model, max_steps=5)
    assert model.taken == [0, 4]
    assert "train/loss" in trainer.callback_metrics


@pytest.mark.parametrize("schedule", [None, {"name": "cosine", "warmup": 2}, ScheduleConfig("step", milestones=(1,))])
def test_settings_come_as_mappings_or_dataclasses_and_survive_a_checkpoint(tmp_path, schedule):
    model = Line(OptimizerConfig("sgd", lr=0.5), schedule)
    trainer = train(tmp_path, model, max_epochs=1)
    assert type(trainer.optimizers[0]).__name__ == "SGD"
    assert len(trainer.lr_scheduler_configs) == (schedule is not None)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.load(tmp_path / "a.ckpt", weights_only=True)
    loaded = Line.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert loaded.optimizer_config == model.optimizer_config
    assert loaded.schedule_config == model.schedule_config


def test_hyper_parameters_are_plain_so_that_lightnings_loggers_take_them(tmp_path):
    model = Line(optimizer=OptimizerConfig(lr=0.3))
    assert model.hparams["optimizer"]["lr"] == model.hparams_initial["optimizer"]["lr"] == 0.3
    logger = CSVLogger(tmp_path)
    logger.log_hyperparams(model.hparams)
    logger.save()
    assert "lr: 0.3" in (Path(logger.log_dir) / "hparams.yaml").read_text()
