"""A training of a small language model with chosen techniques; and a module that is not a language model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import framework
from framework.errors import UserError

CONFIG = {
    "seed_everything": 0,
    "model": {
        "class_path": "modules.sequence.lightning_attention.TransNormerLM",
        "init_args": {
            "d_model": 16,
            "n_layers": 2,
            "n_heads": 2,
            "generation": {"max_new_tokens": 5, "temperature": 0.9},
        },
    },
    "data": {
        "class_path": "datamodules.sequence.tokens.TokenData",
        "init_args": {"length": 32, "batch_size": 4, "eval_windows": 4},
    },
    "trainer": {"max_epochs": 2, "limit_train_batches": 3, "accelerator": "cpu"},
    "wandb": {"mode": "disabled"},
}


def trained(root: Path, techniques: Mapping[str, Any]) -> framework.Experiment:
    experiment = framework.build({**CONFIG, "techniques": techniques, "run": {"root": str(root)}})
    experiment.fit()
    return experiment


def leaves_training_alone(root: Path, name: str, technique: Mapping[str, Any]) -> framework.Experiment:
    """Runs a training with the technique, and checks that the weights are the same as without it."""
    beside, without = trained(root / "a", {name: technique}), trained(root / "b", {})
    for one, other in zip(beside.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(one, other)
    return beside


def refuses_other_modules(root: Path, name: str, technique: Mapping[str, Any]) -> None:
    """Checks that the technique refuses a classifier and that the message has its name."""
    config = {
        **CONFIG,
        "model": {"class_path": "modules.sequence.s4d.S4DClassifier", "init_args": {"d_model": 4}},
        "data": {"class_path": "datamodules.sequence.images.SequentialImages", "init_args": {"source": "digits"}},
        "techniques": {name: technique},
        "run": {"root": str(root)},
    }
    with pytest.raises(UserError, match=f"{name}: S4DClassifier"):
        framework.build(config).fit()
