"""A command that is killed or interrupted and goes on with ``--ckpt_path last`` ends as one that was left alone."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import torch
from forked_processes import warm_up
from resume_harness import in_child, same
from wandb_runs import offline_runs

from framework.__main__ import main
from framework.tracking.metrics_log import read_metrics

FIT = ["fit", "--config", "vision/image_classifier_digits", "--trainer.max_epochs=3", "--trainer.limit_train_batches=6",
       "--data.augment=crop", "--model.backbone_args={width: 32, depth: 2, drop_rate: 0.1}", "--trainer.log_every_n_steps=1",
       "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--run.resume_every_n_steps=2", "--wandb.mode=offline"]  # fmt: skip


def command(*arguments: str) -> int:
    """Runs a command in a forked process; its exit code, 128 + n if signal n ended it."""
    return in_child(lambda: sys.exit(main(list(arguments))))


def only_run(root: str) -> Path:
    (folder,) = Path(root, "image_classifier_digits").iterdir()
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    warm_up(*FIT)
    root = tmp_path_factory.mktemp("whole")
    assert command(*FIT, f"--run.root={root}") == 0
    return only_run(str(root))


@pytest.mark.parametrize(
    ("signum", "step", "code"), [(signal.SIGKILL, 9, 137), (signal.SIGINT, 4, 130), (signal.SIGTERM, 13, 143)]
)
def test_it_goes_on_exactly(whole, signum, step, code):
    technique = {
        "class_path": "resume_harness.Kill",
        "hook": "on_train_batch_start",
        "count": step,
        "signum": int(signum),
    }
    assert command(*FIT, "--run.root=stopped", f"--techniques.stop={technique}") == code
    folder = only_run("stopped")
    stopped_at = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert 0 < stopped_at < 18, "it was stopped half-way"
    assert command("fit", "--ckpt_path=last", "--run.root=stopped", "--techniques.stop=null") == 0
    assert only_run("stopped") == folder, "it goes on in its own folder"
    first = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    second = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
        assert same(first[key], second[key]), key
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (folder / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    best = [torch.load(f / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"] for f in (whole, folder)]
    assert same(*best)


def test_the_offline_wandb_run_holds_the_same_numbers(whole):
    rows = read_metrics(whole)
    sent = []
    for run in offline_runs(whole):
        assert run.exit_code == 0
        assert run.config["model"]["init_args"]["backbone_args"]["width"] == 32
        sent += [row for row in run.history if "trainer/global_step" in row]
    assert [row["_step"] for row in sent] == list(range(len(rows)))
    for row, copy in zip(rows, sent, strict=True):
        assert {key: copy["trainer/global_step" if key == "step" else key] for key in row} == row


def test_the_best_checkpoint_reproduces_the_logged_metric(whole):
    """In plain PyTorch, without any of the command."""
    from datamodules.vision.small_images import SmallImages
    from modules.vision.image_classifier import ImageClassifier

    model = ImageClassifier.load_from_checkpoint(whole / "checkpoints" / "best.ckpt", map_location="cpu").eval()
    data = SmallImages(source="digits", image_size=8, channels=1)
    data.setup()
    x, y = data.val_set.__getitems__(range(len(data.val_set)))
    with torch.no_grad():
        accuracy = (model(x).argmax(-1) == y).float().mean().item()
    assert accuracy == pytest.approx(
        max(row["val/accuracy"] for row in read_metrics(whole) if "val/accuracy" in row), abs=1e-6
    )
