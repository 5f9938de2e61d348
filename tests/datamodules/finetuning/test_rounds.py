"""Data in rounds: who sees what when, and that a run killed in any round ends as if it had not been."""

import logging
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from resume_harness import Kill, assert_same_end, in_child, in_two_ranks, same, save_end
from torch import nn
from torchmetrics.classification import MulticlassAccuracy

from callbacks.accuracy_threshold import AccuracyThreshold
from callbacks.warm_start import WarmStart
from datamodules.finetuning.rounds import RoundData, round_sizes, take
from datamodules.sequence.mnist1d import Mnist1D
from datamodules.vision.small_images import SmallImages
from framework.checkpoints.reading import open_checkpoint
from framework.checkpoints.writing import AtomicCheckpointIO
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.protocols import InRounds
from framework.resume import ResumePoint
from framework.tracking.metrics_log import MetricsLog, read_metrics

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Base(DataModule):
    """Sixty samples whose input says which they are."""

    num_classes = 3

    def __init__(self, n: int = 60, path: str | None = None, noise: float = 0.0, **settings):
        super().__init__(**settings)
        self.n, self.path, self.noise = n, path, noise

    def setup(self, stage):
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(self.n, 5, generator=generator)
        x[:, 0] = torch.arange(self.n)
        y = torch.randint(0, 3, (self.n,), generator=generator)
        self.train_set = ArrayDataset(x, y, transform=self.augment if self.noise else None)
        self.val_set = self.test_set = ArrayDataset(x[:9], y[:9])

    def augment(self, x):
        return x + self.noise * torch.randn_like(x)


def rounds(**settings):
    data = RoundData(**{"base": Base, "per_round": 20, "batch_size": 8, **settings})
    data.setup()
    return data


def seen(data):
    return {int(i) for x, _ in data.train_dataloader() for i in x[:, 0]}


@pytest.mark.parametrize(
    ("samples", "per_round", "sizes"),
    [(60, 20, [20, 40, 60]), (50, 20, [20, 40, 50]), (9, 0.5, [4, 9]), (9, 1, [9]), (9, 100, [9]), (3, 0.01, [1, 3])],
)
def test_sizes_of_rounds(samples, per_round, sizes):
    assert round_sizes(samples, per_round) == sizes


def test_each_round_shows_what_the_earlier_ones_did_and_more():
    data = rounds()
    assert isinstance(data, InRounds)
    assert data.rounds == 3
    before: set[int] = set()
    for number in range(3):
        now = seen(data)
        assert len(now) == data.samples_in(number) == 20 * (number + 1)
        assert before < now
        before = now
        assert data.advance() == (number < 2)
    assert data.round == 2
    data.set_round(0)
    assert len(seen(data)) == 20
    with pytest.raises(UserError, match="no round 3"):
        data.set_round(3)


def test_the_order_is_a_matter_of_its_seed():
    assert seen(rounds(order_seed=1)) == seen(rounds(order_seed=1))
    assert seen(rounds(order_seed=1)) != seen(rounds(order_seed=2))
    torch.manual_seed(5)
    assert seen(rounds(order_seed=1)) == seen(rounds(order_seed=1))


def test_a_third_held_out_is_never_trained_on():
    data = rounds(holdout=1 / 3, per_round=0.5)
    data.set_round(1)
    held = {int(i) for x, _ in data.test_dataloader() for i in x[:, 0]}
    assert len(held) == 20
    assert held | seen(data) == set(range(60))
    assert not held & seen(data)
    assert data.val_set is data.test_set


def test_held_out_samples_are_not_augmented():
    data = rounds(base=Base(noise=5.0), holdout=0.5)
    x, _ = next(iter(data.test_dataloader()))
    assert torch.equal(x[:, 0], x[:, 0].round())
    x, _ = next(iter(data.train_dataloader()))
    assert not torch.equal(x[:, 0], x[:, 0].round())


def test_later_rounds_may_have_batches_of_their_own():
    data = rounds(later_batch_size=30)
    assert [len(x) for x, _ in data.train_dataloader()] == [8, 8, 4]
    data.advance()
    assert [len(x) for x, _ in data.train_dataloader()] == [30, 10]
    data.set_round(0)
    assert data.train_dataloader().batch_size == 8


def test_any_datamodule_of_ours_by_its_path():
    data = RoundData("datamodules.vision.small_images.SmallImages", {"source": "digits"}, per_round=100, max_rounds=3)
    data.setup("fit")
    assert (data.rounds, data.num_classes, data.channels) == (3, 10, 1)
    assert next(iter(data.train_dataloader()))[0].shape == (100, 1, 8, 8)
    assert type(data.base) is SmallImages
    assert rounds(base=Mnist1D(samples=40), per_round=0.5).samples_in(0) == 16
    assert RoundData(Base, path="somewhere").base.path == "somewhere"


def test_other_data_sets_are_subsets():
    whole = torch.utils.data.TensorDataset(torch.arange(6))
    part = take(whole, torch.tensor([4, 2]))
    assert [int(part[i][0]) for i in range(2)] == [4, 2]

    class Augmented(torch.utils.data.Dataset):
        draws_random_numbers = True

    with pytest.raises(UserError, match="augmentation would be part of the test"):
        take(Augmented(), torch.tensor([0]), like=whole)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"per_round": 0}, "per_round: 0"),
        ({"per_round": 1.5}, "per_round: 1.5"),
        ({"holdout": 1}, "holdout: 1"),
        ({"max_rounds": 0}, "max_rounds: 0"),
        ({"later_batch_size": 0}, "later_batch_size: 0"),
        ({"base_args": {"noize": 1}}, "Base takes no 'noize'; nearest: noise"),
        ({"base": "datamodules.nothing.Here"}, "base: no class"),
        ({"base": "torch.nn.Linear"}, "not a datamodule"),
        ({"base": Base(), "path": "x"}, "not accepted if base is an instance"),
        ({"base": "datamodules.images.labelled.LabelledImages"}, "not a datamodule"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        RoundData(**{"base": Base, **settings})


def test_a_trainer_that_keeps_its_loader_is_refused(tmp_path):
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, default_root_dir=tmp_path, accelerator="cpu")
    with pytest.raises(UserError, match="reload_dataloaders_every_n_epochs: 0"):
        trainer.fit(Net(), datamodule=RoundData(Base))


def test_another_cut_than_the_checkpoints_is_refused():
    data = rounds()
    data.advance()
    state = data.state_dict()
    again = rounds()
    again.load_state_dict(state)
    assert again.round == 1
    assert seen(again) == seen(data)
    for settings in ({"per_round": 30}, {"order_seed": 4}, {"base": Base(n=70)}):
        with pytest.raises(UserError, match="the checkpoint's rounds were made with"):
            rounds(**settings).load_state_dict(state)


class Net(pl.LightningModule):
    """With dropout and batch norm, so that generators and buffers matter."""

    def __init__(self, width: int = 12):
        super().__init__()
        self.save_hyperparameters()
        self.net = nn.Sequential(
            nn.Linear(5, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.3), nn.Linear(width, 3)
        )
        self.accuracy = MulticlassAccuracy(3)

    def training_step(self, batch, index):
        logits = self.net(batch[0] / torch.tensor([60.0, 1, 1, 1, 1]))
        loss = nn.functional.cross_entropy(logits, batch[1])
        self.accuracy.update(logits, batch[1])
        self.log("train/accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, index):
        self.log("val/loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.02)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.8)]


def fit(folder: Path, kill=None, resume=False, **settings):
    """Three rounds of 3, 5 and 8 batches, two epochs each: 6, 10 and 16 steps."""
    pl.seed_everything(3, verbose=False)
    techniques = [WarmStart(shrink=0.5, perturb=0.3, when="rounds"), AccuracyThreshold(1.0, max_epochs=2)]
    point = ResumePoint(folder, every_n_seconds=None, every_n_steps=3)
    trainer = pl.Trainer(
        max_epochs=-1,
        accelerator="cpu",
        log_every_n_steps=1,
        num_sanity_val_steps=1,
        reload_dataloaders_every_n_epochs=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        default_root_dir=folder,
        logger=[MetricsLog(folder)],
        callbacks=[point, *techniques, *([Kill(*kill)] if kill else [])],
        plugins=[AtomicCheckpointIO()],
        **{"devices": 1, **settings},
    )
    path = folder / "last.ckpt"
    data = RoundData(Base(noise=0.1), per_round=20, batch_size=8)
    trainer.fit(Net(), datamodule=data, ckpt_path=str(path) if resume and path.exists() else None)
    assert data.round == 2
    save_end(trainer, folder)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert in_child(lambda: fit(folder)) == 0
    return folder


def test_rounds_in_a_trainer(uninterrupted):
    end = torch.load(uninterrupted / "end.pt")
    assert (end["step"], end["epoch"]) == (32, 6)
    rows = [row for row in read_metrics(uninterrupted) if "round/number" in row]
    assert [row["round/number"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert [row["round/samples"] for row in rows] == [20, 20, 40, 40, 60, 60]
    assert [row["round/epochs"] for row in rows] == [1, 2, 1, 2, 1, 2]
    plans = open_checkpoint(uninterrupted / "last.ckpt")["editing"]["plans"]
    assert [(plan["decision"]["round"], plan["epoch"], plan["step"]) for plan in plans] == [(1, 2, 6), (2, 4, 16)]
    assert plans[0]["decision"]["seed"] != plans[1]["decision"]["seed"]


@pytest.mark.parametrize(
    "kills",
    [
        [("on_train_batch_start", 9)],  # round 1
        [("on_train_batch_end", 20)],  # round 2, mid-epoch
        [("on_train_batch_start", 30)],  # its last epoch
        [("on_train_epoch_start", 3)],  # round 1 begins, its weights are written or not
        [("on_train_epoch_end", 4)],  # round 1 ends
        [("on_train_batch_start", 8), ("on_train_batch_start", 12)],
    ],
    ids=str,
)
def test_killed_and_resumed_in_a_round(tmp_path, uninterrupted, kills):
    for kill in kills:
        assert in_child(lambda kill=kill: fit(tmp_path, kill=kill, resume=True)) == 137
    assert not (tmp_path / "end.pt").exists()
    assert in_child(lambda: fit(tmp_path, resume=True)) == 0
    assert_same_end(uninterrupted, tmp_path)
    ledgers = [open_checkpoint(folder / "last.ckpt")["editing"] for folder in (uninterrupted, tmp_path)]
    assert ledgers[0] == ledgers[1]


def test_two_ranks(tmp_path):
    """Both advance together, and their weights are shrunk alike."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    two = {"strategy": "ddp", "devices": 2}
    assert in_two_ranks(lambda: fit(whole, **two)) == [0, 0]
    assert in_two_ranks(lambda: fit(killed, kill=("on_train_batch_start", 7), **two)) == [137, 137]
    assert in_two_ranks(lambda: fit(killed, resume=True, **two)) == [0, 0]
    assert_same_end(whole, killed)
    assert torch.load(whole / "end.pt")["step"] == 18  # 2, 3 and 4 batches a rank, twice each
    left, right = torch.load(whole / "end.pt")["weights"], torch.load(whole / "rank1.pt")
    parameters = [name for name in left if "running" not in name and "tracked" not in name]
    assert all(torch.equal(left[name], right[name]) for name in parameters)
    assert same(torch.load(whole / "rank1.pt"), torch.load(killed / "rank1.pt"))
