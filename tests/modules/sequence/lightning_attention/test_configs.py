"""The shipped configs: the quick ones train, the paper's builds at its size and reads its kind of files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import framework
from modules.sequence.lightning_attention import TransNormerLM

CONFIGS = Path(__file__).parents[4] / "configs" / "sequence"
SHRUNK = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--wandb.mode=disabled"]


@pytest.mark.parametrize("name", ["lightning_attention", "transformer"])
def test_the_quick_config_trains(name, tmp_path):
    small = ["--model.d_model=16", "--data.length=16", "--techniques=null", f"--run.root={tmp_path}"]
    experiment = framework.build(f"sequence/{name}", overrides=[*SHRUNK, *small])
    experiment.fit()
    assert experiment.trainer.global_step == 2


def test_the_papers_config_builds_at_its_size_on_meta():
    config = yaml.safe_load((CONFIGS / "lightning_attention_paper.yaml").read_text())
    given = {**config["model"]["init_args"], "vocab_size": config["data"]["init_args"]["vocab_size"]}
    with torch.device("meta"):
        model = TransNormerLM(**given)
    attention, units, lrpe = 5 * 1024**2, 3 * 1024 * 2816, 1024
    assert sum(p.numel() for p in model.parameters()) == 24 * (attention + units) + lrpe + 2 * 64000 * 1024


def test_a_narrowed_copy_of_it_reads_files_of_its_format(tmp_path):
    rng = np.random.default_rng(0)
    for split, size in {"train": 400, "val": 100}.items():
        rng.integers(0, 64000, size).astype(np.uint16).tofile(tmp_path / f"{split}.bin")
        (tmp_path / f"{split}.json").write_text(json.dumps({"dtype": "uint16", "vocab_size": 64000}))
    narrow = [
        "--model.d_model=16",
        "--model.n_layers=2",
        "--model.n_heads=2",
        "--data.length=32",
        "--data.num_workers=0",
    ]
    narrow += [f"--data.path={tmp_path}", f"--run.root={tmp_path / 'runs'}", "--trainer.accelerator=cpu"]
    steps = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--wandb.mode=disabled"]
    experiment = framework.build("sequence/lightning_attention_paper", overrides=[*narrow, *steps])
    experiment.fit()
    assert 10 < float(experiment.trainer.callback_metrics["val/loss"]) < 12  # ln 64000 = 11.07
