"""A classifier with a body and a head, its data, and a training of it with callbacks."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch import nn

from framework import OptimizerConfig
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.module import Module


class Net(Module):
    def __init__(self):
        super().__init__(OptimizerConfig("adam", lr=0.02, weight_decay=0.0))
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    test_step = validation_step


class Data(DataModule):
    def __init__(self):
        super().__init__(batch_size=12, eval_batch_size=7)

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(90, 4, generator=generator)
        y = (x[:, 0] + 0.6 * torch.randn(90, generator=generator)).argsort().argsort() * 3 // 90
        self.train_set, self.val_set = ArrayDataset(x[:48], y[:48]), ArrayDataset(x[48:70], y[48:70])
        self.test_set = ArrayDataset(x[70:], y[70:])


def trained(root, *callbacks, epochs=2, ckpt=None):
    torch.manual_seed(0)
    model, data = Net(), Data()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=list(callbacks),
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return model, trainer, data


def leaves_training_alone(root, technique, figure):
    """Checks that a training with ``technique`` gives the same weights as without it, and that ``figure`` is drawn."""
    plain, _, _ = trained(root / "plain")
    seen, _, _ = trained(root, technique)
    for a, b in zip(plain.parameters(), seen.parameters(), strict=True):
        assert torch.equal(a, b)
    assert (root / "figures" / f"{figure}.png").stat().st_size > 5000
