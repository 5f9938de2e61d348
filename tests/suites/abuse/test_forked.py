"""What the fuzz counts on: a capped child that runs out of memory says so, and one in a long step ends at SIGTERM."""

from __future__ import annotations

from pathlib import Path

from abuse.bases import DIGITS, SWITCHES
from abuse.forked import run

SLOW = """
import time
from modules.vision.image_classifier import ImageClassifier
class Slow(ImageClassifier):
    def training_step(self, batch, i):
        print("in the step", flush=True)
        time.sleep(120)
"""


def test_memory_that_runs_out_is_said_with_the_settings(tmp_path: Path) -> None:
    huge = ["--model.backbone=mlp", "--model.backbone_args={width: 100000000}"]
    outcome = run(["fit", "--config", DIGITS, *huge, *SWITCHES], tmp_path / "run", 60)
    assert outcome.code == 2, outcome.said
    assert "error: out of memory: 25.6 GB could not be allocated; " in outcome.said
    assert "the largest settings: model.backbone_args.width = 100000000, " in outcome.said


def test_a_long_step_ends_at_sigterm(tmp_path: Path) -> None:
    (tmp_path / "slow_model.py").write_text(SLOW)
    model = ["--model=slow_model.Slow", "--model.num_classes=10", "--model.image_size=8", "--model.in_chans=1"]
    command = ["fit", "--config", DIGITS, *model, "--model.backbone=mlp", *SWITCHES]
    outcome = run(command, tmp_path, 60, until="in the step")
    assert "in the step" in outcome.said
    assert outcome.stopped is not None
    assert outcome.stopped < 5
    assert outcome.code == 143
