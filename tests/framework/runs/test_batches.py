"""Data that gives no batch, or a last one of a single sample under batch normalisation, is refused before training."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from resume_harness import in_two_ranks
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.runs.batches import Batches


class Net(pl.LightningModule):
    """Trains on rows, or on images of ``side`` pixels."""

    def __init__(self, side: int = 0) -> None:
        super().__init__()
        self.side = side
        self.net = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()) if side else nn.BatchNorm1d(3)
        self.last = nn.Linear(3 * max(1, side) ** 2, 1)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        x = batch[0]
        x = x[:, :, None, None].expand(-1, -1, self.side, self.side) if self.side else x
        return self.last(self.net(x)).mean()

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("loss", self.last(self.net(batch[0])).mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


class Ours(DataModule):
    def __init__(self, samples: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.train_set = self.test_set = ArrayDataset(torch.randn(samples, 3))


class Foreign(pl.LightningDataModule):
    def __init__(self, samples: int, batch_size: int, drop_last: bool = False) -> None:
        super().__init__()
        self.loader = DataLoader(TensorDataset(torch.randn(samples, 3)), batch_size, drop_last=drop_last)

    def train_dataloader(self) -> Any:
        return self.loader

    test_dataloader = train_dataloader


def make_trainer(**given: Any) -> pl.Trainer:
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **given,
        },
        callbacks=[Batches()],
    )


def refused(data: Any, net: Net | None = None, stage: str = "fit", **given: Any) -> str:
    trainer, net = make_trainer(**given), net or Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(UserError) as said:
        getattr(trainer, stage)(net, datamodule=data)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_pre_hooks for module in net.modules())
    return str(said.value)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Ours, Foreign])
def test_no_batch(kind):
    said = refused(kind(5, batch_size=6, drop_last=True))
    assert said == (
        "batch_size: 6 is not accepted, with drop_last it leaves no batch of 5 samples; at most 5, or drop_last: false"
    )
    assert refused(kind(0, batch_size=6)) == "data: the data set is empty, 0 samples"
    assert refused(kind(0, batch_size=6), stage="test") == "data: the data set is empty, 0 samples"
    assert "limit_train_batches: 0 is not accepted, it leaves nothing to fit" in refused(
        kind(5, 2), limit_train_batches=0
    )
    assert "limit_test_batches: 0 is not accepted" in refused(kind(5, 2), stage="test", limit_test_batches=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Ours, Foreign])
def test_one_sample_under_batch_normalisation(kind):
    said = refused(kind(5, batch_size=4))
    assert said.startswith(
        "batch_size: an epoch's last batch of 5 samples would have one sample, and net (BatchNorm1d)"
    )
    assert "each batch of 5 samples" in refused(kind(5, batch_size=1))
    assert "BatchNorm2d" in refused(kind(5, batch_size=4), Net(side=1))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [Ours, Foreign])
def test_what_can_be_trained_is(kind):
    make_trainer().fit(Net(side=2), datamodule=kind(5, batch_size=4))  # four values per channel
    make_trainer(limit_train_batches=1).fit(Net(), datamodule=kind(5, batch_size=4))  # the last batch is left out
    make_trainer().fit(Net(), datamodule=kind(5, batch_size=4, drop_last=True))
    frozen = Net()
    frozen.net.eval()
    make_trainer().fit(frozen, datamodule=kind(5, batch_size=4))


def two_ranks() -> None:
    given = {"devices": 2, "strategy": "ddp"}
    said = refused(Ours(1, batch_size=1, drop_last=True), **given)
    assert said.endswith("no batch of the 0 of 1 samples that a rank has; drop_last: false, or fewer ranks")
    assert "of 5 samples would have one sample" in refused(Ours(9, batch_size=4), **given)


def test_ranks_have_shares():
    assert in_two_ranks(two_ranks) == [0, 0]
