"""Processes that torchrun starts are one training, the same as those that Lightning starts itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from resume_harness import same

from framework.__main__ import main

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
FIT = ["-m", "framework", "fit", "--config", "vision/image_classifier_digits", "--trainer.max_epochs=2",
       "--trainer.limit_train_batches=4", "--data.batch_size=64", "--data.augment=crop", "--trainer.accelerator=cpu",
       "--trainer.log_every_n_steps=1", "--trainer.enable_model_summary=false", "--wandb.mode=offline"]  # fmt: skip
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


def run(launcher: list[str], root: str) -> Path:
    """The one run folder that a command leaves."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, *FIT, *TWO, f"--run.root={root}"], env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (folder,) = Path(root, "image_classifier_digits").iterdir()
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)  # ten processes one after another, each of which imports
def test_torchrun_trains_what_lightnings_own_launcher_does():
    mine, reference = run(TORCHRUN, "torchrun"), run([sys.executable], "lightning")
    rows = (mine / "metrics.jsonl").read_text()
    assert rows == (reference / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in rows.splitlines() if "train/loss" in line] == list(range(8))
    first, second = (torch.load(f / "checkpoints" / "last.ckpt", weights_only=True) for f in (mine, reference))
    assert same(first["state_dict"], second["state_dict"])
    (copy,) = (mine / "wandb").glob("offline-run-*/*.wandb")  # by rank 0 alone
    assert copy.stat().st_size > 0


def test_processes_that_would_each_train_alone_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert main([*FIT[2:], "--run.root=alone"]) == 2
    assert "--trainer.strategy=ddp --trainer.devices=2 --trainer.num_nodes=2" in capsys.readouterr().err
    assert not Path("alone").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main([*FIT[2:], "--run.root=alone", "--trainer.fast_dev_run=true"]) == 0
