"""Processes that torchrun starts are one training, the same as those that Lightning starts itself.

Of torchrun's two ranks one is started for real, and imports for seconds; the other and both of Lightning's are forked, but
before a release.
"""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from checkout import PYTHONPATH
from forked_processes import ForkedPopen, forked_by, run_python, warm_up
from lightning.pytorch.strategies.launchers import subprocess_script
from resume_harness import same
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from framework.__main__ import main

FIT = ["fit", "--config", "vision/image_classifier_digits", "--trainer.max_epochs=2",
       "--trainer.limit_train_batches=4", "--data.batch_size=64", "--data.augment=crop", "--trainer.accelerator=cpu",
       "--trainer.log_every_n_steps=1", "--trainer.enable_model_summary=false", "--wandb.mode=offline"]  # fmt: skip
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp"]


class HalfForked(ForkedPopen):
    """Forks rank 0 and starts the others for real."""

    def _execute_child(self, *given: Any) -> None:
        names = inspect.signature(subprocess.Popen._execute_child).parameters
        env = dict(zip(names, (self, *given), strict=True))["env"]
        (super() if env["LOCAL_RANK"] == "0" else super(ForkedPopen, self))._execute_child(*given)


def run(module: str, *arguments: str, root: str) -> Path:
    """The one run folder that ``python -m MODULE ...`` leaves."""
    assert run_python([sys.executable, "-m", module, *arguments, *FIT, *TWO, f"--run.root={root}"]) == 0
    (folder,) = Path(root, "image_classifier_digits").iterdir()
    return folder


@pytest.mark.slow
def test_torchrun_trains_what_lightnings_own_launcher_does(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setattr(subprocess_handler, "Popen", HalfForked)
    torchrun = ["--standalone", "--nproc-per-node=2", "-m", "framework"]
    warm_up(*FIT)
    with forked_by(subprocess_script):
        mine = run("torch.distributed.run", *torchrun, root="torchrun")
        reference = run("framework", root="lightning")
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
    assert main([*FIT, "--run.root=alone"]) == 2
    assert "--trainer.strategy=ddp --trainer.devices=2 --trainer.num_nodes=2" in capsys.readouterr().err
    assert not Path("alone").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main([*FIT, "--run.root=alone", "--trainer.fast_dev_run=true"]) == 0
