"""What is said where a config differs from the checkpoint's hyper-parameters."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import lightning.pytorch as pl
import pytest
from jsonargparse import Namespace

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.checkpoints.differences import refuse_other_optimizer, report_differences
from framework.errors import UserError
from framework.plain import plain_data


class Ours(Module):
    def __init__(self, width=1, sizes=(1, 2), optimizer=None, schedule=None):
        super().__init__(optimizer, schedule or ScheduleConfig("step", every=2))
        self.save_hyperparameters()


class Foreign(pl.LightningModule):
    def __init__(self, lr=0.1):
        super().__init__()


def compared(model, saved, configured):
    path = f"{type(model).__module__}.{type(model).__name__}"
    settings = Namespace(model=Namespace(class_path=path, init_args=Namespace(**configured)))
    checkpoint = {"hyper_parameters": plain_data(saved)}
    refuse_other_optimizer(checkpoint, settings, model)
    return report_differences(checkpoint, settings, model)


def test_equal_settings_say_nothing():
    config = OptimizerConfig(args={"betas": [0.9, 0.99]})
    saved = {"sizes": (1, 2), "optimizer": OptimizerConfig(args={"betas": (0.9, 0.99)}), "schedule": None}
    assert compared(Ours(optimizer=config), saved, {"sizes": [1, 2], "optimizer": config, "schedule": None}) == []
    saved = {"optimizer": OptimizerConfig(), "schedule": ScheduleConfig("step", every=2)}
    assert compared(Ours(), saved, {"optimizer": None, "schedule": None}) == [], "left out, they are the defaults"


def test_each_difference_has_both_values():
    new = Ours(2, optimizer=OptimizerConfig(lr=0.5, args={"eps": 1.0}), schedule=ScheduleConfig("linear"))
    saved = {"width": 1, "optimizer": OptimizerConfig(lr=0.1), "schedule": ScheduleConfig("cosine")}
    assert compared(new, saved, {"width": 2}) == [
        "model.optimizer.args.eps: the checkpoint has nothing, the config 1.0; the config's is used",
        "model.optimizer.lr: the checkpoint has 0.1, the config 0.5; the config's is used",
        "model.schedule.name: the checkpoint has cosine, the config linear; the config's is used",
        "model.width: the checkpoint has 1, the config 2; the config's is used",
    ]


def test_of_a_foreign_module_nothing_is_said_that_may_be_false():
    (line,) = compared(Foreign(), {"lr": 0.1}, {"lr": 0.5})
    assert line == "model.lr: the checkpoint has 0.1, the config 0.5; the module is built with the config's"


def test_another_optimiser_is_refused_whatever_its_case():
    saved = {"optimizer": OptimizerConfig("AdamW")}
    compared(Ours(optimizer=OptimizerConfig("adamw")), saved, {})
    with pytest.raises(UserError, match=r"model\.optimizer\.name: the checkpoint has AdamW, the config sgd"):
        compared(Ours(optimizer=OptimizerConfig("sgd")), saved, {})


class Colour(Enum):
    RED = "red"


class Parts(pl.LightningModule):
    start_only = ("start",)


def test_the_same_in_another_form_is_no_difference():
    saved = {"sizes": (1, 2), "where": "a/b", "colour": "red", "parts": [{"a": (1,)}], "inner": {"lr": 1}, "start": 1}
    given = {"sizes": [1, 2], "where": Path("a/b"), "colour": Colour.RED, "parts": [{"a": [1]}], "inner": {"lr": 2}, "start": 2}  # fmt: skip
    (line,) = compared(Parts(), saved, given)
    assert line.startswith("model.inner.lr: the checkpoint has 1, the config 2")
