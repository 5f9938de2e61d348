"""Evaluated on two ranks, everything that is logged is what one process finds."""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from resume_harness import in_two_ranks
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, SubsetRandomSampler, TensorDataset
from torchmetrics import CatMetric, MetricCollection
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassF1Score

from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.runs.ranks import AsOneProcess


def arrays(samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(samples, 5, generator=generator), torch.randint(0, 3, (samples,), generator=generator)


class Net(pl.LightningModule):
    """Logs in all ways: means, sums and extremes, metrics as objects, in groups and with lists as states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(5, 3)
        self.accuracy, self.auroc, self.losses = MulticlassAccuracy(3, average="micro"), BinaryAUROC(), CatMetric()
        self.group = MetricCollection([MulticlassAccuracy(3), MulticlassF1Score(3)])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.net(x)
        each = nn.functional.cross_entropy(logits, y, reduction="none")
        self.log("given", each.mean(), sync_dist=True, batch_size=len(y))
        self.log("inferred", each.mean(), sync_dist=True, on_step=True, on_epoch=True)
        for name in ("sum", "min", "max"):
            self.log(name, getattr(each, name)(), sync_dist=True, reduce_fx=name)
        self.accuracy(logits, y)
        self.auroc.update(logits.softmax(1)[:, 0], (y == 0).long())  # of logits it would judge batch by batch
        self.log_dict({"accuracy": self.accuracy, "auroc": self.auroc})
        self.group.update(logits, y)
        self.losses.update(each)

    def on_validation_epoch_end(self) -> None:
        losses = self.losses.compute()
        self.log_dict({**self.group.compute(), "spread": losses.std(correction=0), "count": float(losses.numel())})
        self.group.reset(), self.losses.reset()

    test_step, on_test_epoch_end = validation_step, on_validation_epoch_end

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


class Ours(DataModule):
    def __init__(self, samples: int, batch_size: int) -> None:
        super().__init__(batch_size=batch_size)
        self.samples = samples

    def setup(self, stage: str) -> None:
        self.train_set, self.val_set = ArrayDataset(*arrays(10)), ArrayDataset(*arrays(self.samples))
        self.test_set = self.val_set


class Foreign(pl.LightningDataModule):
    """Plain loaders, sharded by Lightning."""

    def __init__(self, samples: int, batch_size: int) -> None:
        super().__init__()
        self.samples, self.batch_size = samples, batch_size

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*arrays(10)), self.batch_size)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*arrays(self.samples)), self.batch_size)

    test_dataloader = val_dataloader


class Wrapped(Foreign):
    """With a sampler that Lightning wraps."""

    def val_dataloader(self) -> Any:
        sampler = SubsetRandomSampler(range(self.samples), torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(*arrays(self.samples)), self.batch_size, sampler=sampler)

    test_dataloader = val_dataloader


class Sharded(Foreign):
    """With the user's own distributed sampler."""

    def val_dataloader(self) -> Any:
        data = TensorDataset(*arrays(self.samples))
        alone = self.trainer.world_size == 1
        return DataLoader(data, self.batch_size, sampler=None if alone else DistributedSampler(data, shuffle=False))

    test_dataloader = val_dataloader


KINDS = {"ours": Ours, "foreign": Foreign, "wrapped": Wrapped, "sharded": Sharded}
CASES = [
    *(("test", kind, *sizes) for kind in ("ours", "foreign") for sizes in product((1, 2, 3, 5), (1, 2))),
    *(("test", kind, *sizes) for kind in ("wrapped", "sharded") for sizes in ((1, 1), (3, 1), (5, 3))),
    *(("fit", kind, *sizes) for kind in ("ours", "foreign") for sizes in ((3, 1), (5, 3))),
]


def logged(ranks: int, what: str, kind: str, samples: int, batch_size: int) -> dict[str, float]:
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=ranks,
        strategy="ddp" if ranks > 1 else "auto",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[AsOneProcess()],
    )
    module, data = Net(), KINDS[kind](samples, batch_size)
    if what == "test":
        trainer.test(module, datamodule=data, verbose=False)
    else:
        trainer.fit(module, datamodule=data)
    return {name: float(value) for name, value in trainer.callback_metrics.items() if not name.endswith("_step")}


@pytest.fixture(scope="module")
def on_two(tmp_path_factory) -> list[dict[str, float]]:
    path: Path = tmp_path_factory.mktemp("ranks") / "logged.json"

    def rank() -> None:
        found = [logged(2, *case) for case in CASES]
        if os.environ["LOCAL_RANK"] == "0":
            path.write_text(json.dumps(found))

    assert in_two_ranks(rank) == [0, 0]
    return json.loads(path.read_text())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_ranks_log_what_one_process_does(on_two, case):
    found, expected = on_two[CASES.index(case)], logged(1, *case)
    if case[0] == "fit":  # with more batches than samples for each rank some are trained on twice
        assert 10 % (2 * case[3]) == 0 or found.pop("train/loss") != expected.pop("train/loss")
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
