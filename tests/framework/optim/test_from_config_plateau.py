"""The plateau schedule: stepped after validations with their loss, exact after a kill, refused where it cannot be."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from composition.probes import Probe, ProbeData
from resume_harness import Kill, in_child, same

import framework
from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.optim import build_schedule


def optimizer(lr=0.1):
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)


def test_it_is_torchs():
    ours, theirs = optimizer(), optimizer()
    settings = ScheduleConfig("plateau", gamma=0.5, patience=2, min_lr=0.02)
    schedule = build_schedule(ours, settings, total=100)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, factor=0.5, patience=2, min_lr=0.02)
    rates = []
    for loss in (3.0, 2.0, 2.0, 2.5, 2.1, 1.9, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0):
        schedule.step(loss)
        oracle.step(loss)
        rates.append(ours.param_groups[0]["lr"])
        assert rates[-1] == theirs.param_groups[0]["lr"]
    assert rates[0] == 0.1
    assert rates[-1] == 0.02


@pytest.mark.parametrize("values", [{"warmup": 5}, {"gamma": 1.0}, {"patience": -1}, {"min_lr": -1.0}])
def test_settings_that_are_not_accepted(values):
    with pytest.raises(UserError, match="for plateau gamma is between 0 and 1"):
        build_schedule(optimizer(), ScheduleConfig("plateau", **values), total=10)


class Rates(pl.Callback):
    def __init__(self):
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def fit(folder, callbacks=(), schedule=None, **settings):
    torch.manual_seed(0)
    model = Probe("mlp", OptimizerConfig(lr=1.0), ScheduleConfig("plateau", gamma=0.5, patience=0, **(schedule or {})))
    rates = Rates()
    trainer = pl.Trainer(
        **{"max_epochs": 6, "logger": False, **settings},
        accelerator="cpu",
        callbacks=[rates, *callbacks],
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=folder,
        num_sanity_val_steps=0,
    )
    losses = []
    original = model.validation_step

    def validation_step(batch, batch_idx):
        original(batch, batch_idx)
        losses.append(float(torch.nn.functional.cross_entropy(model(batch[0]), batch[1])))

    model.validation_step = validation_step
    trainer.fit(model, datamodule=ProbeData("mlp"))
    return rates.seen, losses


@pytest.mark.parametrize(("interval", "every"), [(1.0, 1), (0.4, 1), (1.0, 2)])
def test_it_follows_the_validation_loss(tmp_path, interval, every):
    """Five batches an epoch; every validation has one batch."""
    rates, losses = fit(tmp_path, val_check_interval=interval, check_val_every_n_epoch=every)
    oracle = optimizer(1.0)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(oracle, factor=0.5, patience=0)
    expected, left = [], iter(losses)
    for epoch in range(6):
        for batch in range(1, 6):
            expected.append(oracle.param_groups[0]["lr"])
            if (batch in (2, 4) if interval == 0.4 else batch == 5) and (epoch + 1) % every == 0:
                schedule.step(next(left))
    assert rates == expected
    assert len(set(rates)) > 1


def test_where_it_cannot_be(tmp_path):
    with pytest.raises(UserError, match="this training has no validation"):
        fit(tmp_path, limit_val_batches=0)
    with pytest.raises(UserError, match=r"check_val_every_n_epoch, val_check_interval: schedule 'plateau'"):
        fit(tmp_path, val_check_interval=7, check_val_every_n_epoch=None)


def config(root):
    return {
        "seed_everything": 3,
        "model": {
            "class_path": "composition.probes.Probe",
            "init_args": {
                "architecture": "mlp",
                "optimizer": {"lr": 0.5},
                "schedule": {"name": "plateau", "gamma": 0.5, "patience": 0},
            },
        },
        "data": {"class_path": "composition.probes.ProbeData", "init_args": {"architecture": "mlp"}},
        "techniques": {"lora": {"class_path": "callbacks.lora.LoRA", "init_args": {"rank": 2, "epoch": 3}}},
        "trainer": {
            "max_epochs": 6,
            "val_check_interval": 0.4,
            "accelerator": "cpu",
            "log_every_n_steps": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
        "run": {"root": str(root), "method": "probe", "name": "run", "resume_every_n_seconds": 0.0},
        "wandb": {"mode": "disabled"},
    }


def train(root, kill=None, resume=False):
    overrides = [f"--ckpt_path={root / 'probe' / 'run'}"] if resume else []
    experiment = framework.build(config(root), overrides)
    if kill is not None:
        experiment.trainer.callbacks.append(Kill(*kill))
    experiment.run()
    trainer = experiment.trainer
    schedule = trainer.lr_scheduler_configs[0].scheduler.state_dict()
    state = {"weights": trainer.lightning_module.state_dict(), "optimizer": trainer.optimizers[0].state_dict()}
    torch.save({**state, "schedule": schedule}, root / "end.pt")


@pytest.mark.parametrize("kill", [("on_train_batch_end", 22)])
def test_killed_and_resumed_is_never_stopped_an_edit_between(tmp_path, kill):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    straight.mkdir(), stopped.mkdir()
    assert in_child(lambda: train(straight)) == 0
    assert in_child(lambda: train(stopped, kill=kill)) == 137
    assert in_child(lambda: train(stopped, resume=True)) == 0
    ends = [torch.load(folder / "end.pt", weights_only=True) for folder in (straight, stopped)]
    assert same(*ends)
    assert ends[0]["optimizer"]["param_groups"][0]["lr"] < 0.5
    logs = [(folder / "probe" / "run" / "metrics.jsonl").read_bytes() for folder in (straight, stopped)]
    assert logs[0] == logs[1]
