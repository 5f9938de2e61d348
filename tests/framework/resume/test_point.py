"""Killed with SIGKILL and resumed, a run ends with the same bits as one that was never stopped."""

from __future__ import annotations

import logging
import random
import subprocess
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from resume_harness import assert_same_end, fit, in_child, in_two_ranks, same

from framework.checkpoints.reading import open_checkpoint
from framework.tracking.metrics_log import read_metrics

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

RARE = {"point": {"every_n_seconds": None, "every_n_steps": 4}}  # so that steps and rows are done again
KINDS = {
    "plain": {},
    "rare": RARE,
    "stopping": {"stopping": 2, "max_epochs": 6},
    "half_epochs": {"val_check_interval": 0.5, "stopping": 9},
    "accumulate": {"accumulate_grad_batches": 3},
    "max_steps": {"max_steps": 23, "max_epochs": -1},
    "max_steps_at_epoch_end": {"max_steps": 30, "max_epochs": -1, "val_check_interval": 0.5},
    "limited": {"limit_train_batches": 7},
    "seldom_logged": {"log_every_n_steps": 3, **RARE},
    "every_third_validation": {"check_val_every_n_epoch": 3, **RARE},
    "by_epoch": {"by_epoch": "step"},
    "plateau": {"by_epoch": "plateau"},
    "workers": {"workers": 2, "arrays": False, **RARE},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The end of the run of each kind, made once."""
    done: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in done:
            folder = tmp_path_factory.mktemp(kind)
            assert in_child(lambda: fit(folder, **KINDS[kind])) == 0
            done[kind] = folder
        return done[kind]

    return get


def killed_and_resumed(folder: Path, kind: str, *kills: tuple[str, int]) -> None:
    for kill in kills:
        code = in_child(lambda kill=kill: fit(folder, kill=kill, resume=True, **KINDS[kind]))
        assert code == 137, f"the kill at {kill} did not come before the end"
    assert not (folder / "end.pt").exists()
    assert in_child(lambda: fit(folder, resume=True, **KINDS[kind])) == 0


@pytest.mark.parametrize(
    ("kind", "kills"),
    [
        ("plain", [("on_train_batch_start", 1), ("on_train_batch_start", 14)]),
        ("plain", [("save", 13), ("on_before_optimizer_step", 3), ("on_train_epoch_end", 1)]),
        ("plain", [("on_validation_batch_start", 4), ("on_train_batch_end", 4)]),
        ("plain", [("on_before_zero_grad", 17), ("on_validation_end", 1), ("on_train_epoch_start", 1)]),
        ("rare", [("on_train_batch_start", 2), ("on_train_batch_end", 15)]),  # the first before any point
        ("rare", [("on_validation_batch_start", 5)]),
        ("stopping", [("on_validation_end", 2), ("on_train_batch_start", 6)]),
        ("stopping", [("on_train_epoch_end", 2)]),
        ("half_epochs", [("on_train_batch_start", 6), ("on_validation_batch_start", 5)]),  # right after a validation
        ("half_epochs", [("on_train_batch_start", 17)]),
        ("accumulate", [("on_before_optimizer_step", 5), ("on_train_batch_start", 7)]),
        ("max_steps", [("on_train_batch_start", 11), ("on_train_batch_start", 12)]),  # the first of the second epoch
        ("max_steps_at_epoch_end", [("on_validation_batch_start", 9), ("on_train_batch_start", 7)]),
        ("by_epoch", [("on_train_batch_start", 5), ("on_train_batch_start", 9)]),
        ("plateau", [("on_train_batch_start", 5), ("on_train_batch_start", 9)]),
        ("limited", [("on_train_batch_start", 8), ("on_train_batch_start", 5)]),
        ("seldom_logged", [("on_train_batch_start", 18)]),
        ("every_third_validation", [("on_train_batch_start", 24)]),
        ("workers", [("on_validation_batch_start", 4), ("on_train_batch_start", 7)]),
    ],
    ids=lambda value: value if isinstance(value, str) else ", ".join(f"{hook} {count}" for hook, count in value),
)
def test_killed_at(tmp_path, uninterrupted, kind, kills):
    """Each kill at the n-th run of a hook in its process."""
    killed_and_resumed(tmp_path, kind, *kills)
    assert_same_end(uninterrupted(kind), tmp_path)


@pytest.mark.parametrize("kind", ["rare", "half_epochs", pytest.param("max_steps", marks=pytest.mark.release)])
def test_three_kills_in_one_run(tmp_path, uninterrupted, kind):
    killed_and_resumed(
        tmp_path, kind, ("on_train_batch_start", 6), ("on_before_optimizer_step", 7), ("on_train_batch_end", 5)
    )
    assert_same_end(uninterrupted(kind), tmp_path)


@pytest.mark.parametrize("number", [*range(3), *(pytest.param(n, marks=pytest.mark.release) for n in range(3, 12))])
def test_random_places(tmp_path, uninterrupted, number):
    draw = random.Random(number)
    kind = draw.choice(["plain", "rare", "stopping", "accumulate"])
    hooks = ["on_train_batch_start", "on_after_backward", "on_before_zero_grad", "on_train_batch_end"]
    killed_and_resumed(
        tmp_path, kind, (draw.choice(hooks), draw.randint(1, 10)), (draw.choice(hooks), draw.randint(1, 9))
    )
    assert_same_end(uninterrupted(kind), tmp_path)


def test_workers_change_nothing(tmp_path, uninterrupted):
    assert in_child(lambda: fit(tmp_path, arrays=False, workers=0, **RARE)) == 0
    assert_same_end(uninterrupted("workers"), tmp_path)


def test_a_point_changes_nothing(tmp_path, uninterrupted):
    never = {"every_n_seconds": None, "every_n_steps": None, "handle_signals": False}
    assert in_child(lambda: fit(tmp_path, point=never)) == 0
    assert_same_end(uninterrupted("plain"), tmp_path)


def test_another_seed_in_the_resumed_process(tmp_path, uninterrupted):
    assert in_child(lambda: fit(tmp_path, kill=("on_train_batch_start", 15), **RARE)) == 137
    assert in_child(lambda: fit(tmp_path, resume=True, seed=99, **RARE)) == 0
    assert_same_end(uninterrupted("rare"), tmp_path)


def test_killed_in_sanity_or_early_leaves_a_run_that_starts(tmp_path, uninterrupted):
    killed_and_resumed(tmp_path, "plain", ("on_train_start", 1))
    assert_same_end(uninterrupted("plain"), tmp_path)


def test_a_finished_run_has_nothing_left_to_do(tmp_path, uninterrupted):
    before = (uninterrupted("stopping") / "metrics.jsonl").read_bytes()
    folder = tmp_path / "again"
    subprocess.run(["cp", "-r", uninterrupted("stopping"), folder], check=True)
    assert in_child(lambda: fit(folder, resume=True, **KINDS["stopping"])) == 0
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_longer_training_goes_on_from_the_end(tmp_path, uninterrupted):
    assert in_child(lambda: fit(tmp_path, max_epochs=2)) == 0
    (tmp_path / "end.pt").unlink()
    assert in_child(lambda: fit(tmp_path, max_epochs=3, resume=True)) == 0
    assert_same_end(uninterrupted("plain"), tmp_path)


def test_early_stopping_really_stopped(uninterrupted):
    end = torch.load(uninterrupted("stopping") / "end.pt")
    assert end["epoch"] < 6
    assert len(end["best"]) == 2


def test_the_point_holds_the_run_id_and_opens_as_plain_data(uninterrupted):
    checkpoint = open_checkpoint(uninterrupted("plain") / "last.ckpt")
    assert checkpoint["resume_point"]["run_id"] == "r"
    assert checkpoint["resume_point"]["at"] == "epoch"
    assert checkpoint["resume_point"]["log_length"] == (uninterrupted("plain") / "metrics.jsonl").stat().st_size


def test_the_log_has_one_row_a_step(uninterrupted):
    steps = [row["step"] for row in read_metrics(uninterrupted("plain")) if "train/step" in row]
    assert steps == list(range(30))


def test_no_temporary_file_is_left(tmp_path):
    assert in_child(lambda: fit(tmp_path, kill=("save", 5))) == 137
    assert list(tmp_path.glob(".last.ckpt.tmp.*"))
    assert in_child(lambda: fit(tmp_path, resume=True)) == 0
    assert not list(tmp_path.glob(".*tmp*"))


def test_the_same_trainer_fits_twice(tmp_path):
    def twice() -> None:
        trainer = fit(tmp_path / "run", max_epochs=1, callbacks=[EarlyStopping("val/loss", patience=50)])
        trainer.fit_loop.max_epochs = 2
        trainer.fit(trainer.lightning_module, datamodule=trainer.datamodule)
        assert trainer.current_epoch == 2
        assert "on_advance_end" not in vars(trainer.fit_loop)

    assert in_child(twice) == 0


RANKS = {"strategy": "ddp", "devices": 2, "arrays": False, **RARE}


def test_two_ranks(tmp_path):
    """Two gloo processes, killed together within an epoch."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert in_two_ranks(lambda: fit(whole, **RANKS)) == [0, 0]
    assert in_two_ranks(lambda: fit(killed, kill=("on_train_batch_start", 9), **RANKS)) == [137, 137]
    assert in_two_ranks(lambda: fit(killed, resume=True, **RANKS)) == [0, 0]
    assert_same_end(whole, killed)
    left, right = (torch.load(folder / "rank1.pt") for folder in (whole, killed))
    assert same(left, right)
    assert len(open_checkpoint(killed / "last.ckpt")["resume_point"]["ranks"]) == 2


def test_another_number_of_ranks_goes_on_from_an_epochs_end(tmp_path, capfd):
    assert in_two_ranks(lambda: fit(tmp_path, max_epochs=1, **RANKS)) == [0, 0]
    assert in_child(lambda: fit(tmp_path, max_epochs=2, resume=True, arrays=False)) == 0
    assert torch.load(tmp_path / "end.pt")["step"] == 15  # five with two ranks, ten with one
