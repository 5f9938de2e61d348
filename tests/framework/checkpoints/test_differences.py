from __future__ import annotations

from enum import Enum
from pathlib import Path

import lightning.pytorch as pl
from jsonargparse import Namespace

from framework.checkpoints.differences import report_differences
from framework.config import explain


class Colour(Enum):
    RED = "red"


class Toy(pl.LightningModule):
    start_only = ("start",)


def test_what_differs_is_said_and_what_is_the_same_in_another_form_is_not(monkeypatch):
    monkeypatch.setattr(explain, "find_class", lambda path, base: Toy)
    saved = {"sizes": (1, 2), "where": "a/b", "colour": "red", "parts": [{"a": (1,)}], "inner": {"lr": 1}, "start": 1}
    given = {"sizes": [1, 2], "where": Path("a/b"), "colour": Colour.RED, "parts": [{"a": [1]}], "inner": {"lr": 2}, "start": 2}  # fmt: skip
    settings = Namespace(model=Namespace(class_path="Toy", init_args=Namespace(**given)))
    assert report_differences({"hyper_parameters": saved}, settings) == [
        "model.inner.lr: the checkpoint has 1, the config 2; the config's is used"
    ]
