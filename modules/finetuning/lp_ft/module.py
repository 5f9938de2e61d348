"""A network pretrained on some classes and fine-tuned on a few examples of others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from framework.data.seeding import seeded
from framework.errors import UserError
from framework.module import OptimizerConfig, ScheduleConfig
from framework.settings import at_least
from modules.classifier import Classifier
from modules.finetuning.lp_ft.network import TransferMLP
from modules.pretrained import load_network, pretrain


class Transferred(Classifier):
    """A classifier that is tested on several sets: the test part, and others out of distribution.

    Logs ``test/accuracy`` and ``test/loss``, and of each further test loader ``test/<name>_accuracy`` and
    ``test/<name>_loss``, with the name from the datamodule's ``test_names``.
    """

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss and accuracy on one of the sets."""
        names = getattr(getattr(self.trainer, "datamodule", None), "test_names", ())
        prefix = f"{names[dataloader_idx]}_" if dataloader_idx else ""
        x, y = batch
        logits = self(x)
        right = (logits.argmax(-1) == y).float().mean()
        for name, value in {"accuracy": right, "loss": F.cross_entropy(logits, y)}.items():
            self.log(f"test/{prefix}{name}", value, batch_size=len(y), add_dataloader_idx=False, sync_dist=True)


class TransferClassifier(Transferred):
    """Learns new classes from a few examples, with features pretrained on other classes.

    Batches are ``(x, y)``: ``x`` float (B, …) of ``inputs`` numbers, ``y`` int64 (B,). Logs ``train/loss``,
    ``train/accuracy``, ``val/`` and ``test/`` the same, and for the shifted copy ``test/ood_loss`` and
    ``test/ood_accuracy``.

    Args:
        inputs: Numbers of an example.
        widths: Widths of φ's layers.
        num_classes: Number of classes for fine-tuning.
        pretrained: File with a state dict of the network (``.pt``). Without it the network is pretrained here on the
            datamodule's ``source``, deterministically by the seed, and gets a head with random weights.
        pretrain_epochs: Number of epochs of pretraining (Adam, batches of 64); 0 for none.
        pretrain_lr: Its learning rate.
        optimizer: The optimiser for the new classes.
        schedule: Its learning-rate schedule.

    Raises:
        UserError: a size is not accepted, or the file does not fit (in the constructor); there is no data for
            pretraining.
    """

    start_only = ("pretrained",)

    def __init__(
        self,
        inputs: int = 64,
        widths: Sequence[int] = (128, 128, 64),
        num_classes: int = 5,
        pretrained: str | Path | None = None,
        pretrain_epochs: int = 30,
        pretrain_lr: float = 1e-3,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(num_classes, optimizer, schedule)
        at_least(0, pretrain_lr=pretrain_lr, pretrain_epochs=pretrain_epochs)
        self.save_hyperparameters()
        self.net = TransferMLP(inputs, tuple(widths), num_classes)
        self._ready = pretrained is not None or not pretrain_epochs
        if pretrained is not None:
            load_network(self.net, pretrained)

    def configure_model(self) -> None:
        """Pretrains, once, if training starts without a file of weights.

        Raises:
            UserError: the datamodule has no data for pretraining.
        """
        trainer = self._trainer
        if trainer is None or trainer.state.fn != "fit" or self._ready:
            return
        self._ready = True
        data = getattr(trainer, "datamodule", None)
        source = getattr(data, "source", None)
        if not isinstance(source, dict):
            raise UserError(
                f"data: {type(data).__name__} has no source to pretrain on; use "
                "datamodules.finetuning.transfer_digits.TransferDigits, or model.pretrained"
            )
        epochs = 1 if getattr(trainer, "fast_dev_run", False) else self.hparams["pretrain_epochs"]
        rank_zero_info(f"pretraining on {len(source['y'])} examples of other classes: {epochs} epochs")
        seed = torch.initial_seed()
        assert isinstance(self.net, TransferMLP)
        with seeded(seed % 2**32):
            head, self.net.head = self.net.head, nn.Linear(self.net.head.in_features, int(source["y"].max()) + 1)
            pretrain(self.net, source["x"], source["y"], epochs, self.hparams["pretrain_lr"], 0.0, 64, seed)
            self.net.head = head
            head.reset_parameters()
