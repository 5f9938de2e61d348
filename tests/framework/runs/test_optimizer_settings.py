"""A command that goes on with other settings of the optimiser, and with a run that has ended by itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from forked_processes import warm_up
from resume_harness import in_child, same

from framework.__main__ import main
from framework.tracking.metrics_log import read_metrics

FIT = ["fit", "--config", "vision/image_classifier_digits", "--trainer.limit_train_batches=3", "--wandb.mode=disabled",
       "--trainer.limit_val_batches=1", "--model.backbone_args={width: 16, depth: 1}", "--trainer.log_every_n_steps=1",
       "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false"]  # fmt: skip
STOP = ["--techniques.stop.class_path=lightning.pytorch.callbacks.EarlyStopping", "--techniques.stop.monitor=val/loss",
        "--techniques.stop.min_delta=5", "--techniques.stop.patience=1"]  # fmt: skip


def command(*arguments: str) -> int:
    return in_child(lambda: sys.exit(main(list(arguments))))


def last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """``constant`` and ``cosine`` have ended after an epoch, ``stopped`` after two of four by early stopping."""
    warm_up(*FIT)
    root = tmp_path_factory.mktemp("runs")
    ends = {"constant": ["--model.schedule=null"], "cosine": [], "stopped": [*STOP, "--trainer.max_epochs=4"]}
    for name, options in ends.items():
        extra = ["--run.method=m", f"--run.root={root}", f"--run.name={name}", "--trainer.max_epochs=1", *options]
        assert command(*FIT, *extra) == 0
    return root / "m"


def go_on(runs: Path, name: str, new: str, *options: str) -> tuple[int, Path]:
    return command("fit", f"--ckpt_path={runs / name}", f"--run.name={new}", *options), runs / new


def test_the_configs_rate_is_used_and_all_else_goes_on(runs, capfd):
    code, folder = go_on(runs, "constant", "fast", "--trainer.max_epochs=2", "--model.optimizer.lr=0.5")
    assert code == 0
    said = capfd.readouterr().err
    assert "model.optimizer.lr: the checkpoint has 0.003, the config 0.5; the config's is used" in said
    assert "learning rate: 0.003 in the checkpoint, 0.5 from here on" in said
    (group,) = last(folder)["optimizer_states"][0]["param_groups"]
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.01)
    code, slow = go_on(runs, "constant", "slow", "--trainer.max_epochs=2")
    assert "learning rate" not in capfd.readouterr().err
    first = [read_metrics(run)[0]["train/loss"] for run in (folder, slow)]
    assert first[0] == first[1], "the step before the new rate can have shown"
    assert not same(last(folder)["state_dict"], last(slow)["state_dict"])


def test_a_finished_schedule_is_taken_away_or_made_longer(runs):
    assert last(runs / "cosine")["optimizer_states"][0]["param_groups"][0]["lr"] == 0
    code, folder = go_on(runs, "cosine", "without", "--trainer.max_epochs=2", "--model.schedule=null")
    assert (code, last(folder)["optimizer_states"][0]["param_groups"][0]["lr"]) == (0, 0.003)
    code, longer = go_on(runs, "cosine", "longer", "--trainer.max_epochs=2", "--run.resume_every_n_steps=1")
    assert code == 0
    assert not same(last(longer)["state_dict"], last(runs / "cosine")["state_dict"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model.optimizer.name=sgd"], "model.optimizer.name: the checkpoint has adamw, the config sgd"),
        (["--model.optimizer.args={amsgrad: true}"], "amsgrad: the checkpoint has False, the config True"),
        (["--model.schedule.name=plateau"], "model.schedule.name: the checkpoint has cosine, the config plateau"),
    ],
)
def test_what_cannot_go_on_is_refused_and_leaves_nothing(runs, capfd, options, said):
    before = files(runs / "cosine")
    assert command("fit", f"--ckpt_path={runs / 'cosine'}", "--trainer.max_epochs=2", *options) == 2
    assert said in capfd.readouterr().err
    assert files(runs / "cosine") == before
    code, folder = go_on(runs, "cosine", "refused", "--trainer.max_epochs=2", *options)
    assert (code, folder.exists()) == (2, False)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("cosine", ["--model.optimizer.lr=0.1"], "trainer.max_epochs 1 is reached; a larger trainer.max_epochs"),
        ("cosine", ["--trainer.max_epochs=9", "--trainer.max_steps=3"], "trainer.max_steps 3 is reached"),
        ("stopped", ["--trainer.max_epochs=9"], "EarlyStopping ended it after 2 epochs of trainer.max_epochs 9"),
    ],
)
def test_a_finished_run_says_so_and_stays_as_it_is(runs, capfd, name, options, said):
    before = files(runs / name)
    assert command("fit", f"--ckpt_path={runs / name}", *options) == 0
    assert f"nothing was trained, the run is finished: {said}" in capfd.readouterr().err
    assert files(runs / name) == before


@pytest.mark.parametrize(
    ("new", "option", "epochs"),
    [("off", "--techniques.stop=null", 4), ("patient", "--techniques.stop.patience=2", 3)],
)
def test_what_stopped_itself_trains_on_without_its_reason(runs, new, option, epochs):
    code, folder = go_on(runs, "stopped", new, option)
    assert code == 0
    assert last(folder)["global_step"] == 3 * epochs
    assert [row["step"] for row in read_metrics(folder) if "train/loss" in row] == list(range(6, 3 * epochs))
