"""A mixture-of-experts or dense classifier, trained on one task and then fine-tuned on another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from framework.data.seeding import seeded
from framework.errors import UserError
from framework.module import Module, OptimizerConfig, ScheduleConfig
from framework.settings import at_least, at_most
from modules.pretrained import load_network, pretrain

PARTS = ("a", "b", "b_train")  # the validation loaders' data, in order


class ExpertLayer(nn.Module):
    """h + the outputs of the ``top_k`` best of E experts, each a two-layer network.

    All experts process all samples in one batched product, and the gates of those not chosen are zero: for a few dozen
    small experts this is faster than sorting the samples.

    Args:
        width: H, width of h.
        hidden: Of an expert.
        experts: E.
        top_k: Experts used by a sample.
    """

    def __init__(self, width: int, hidden: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(width, hidden), "down": nn.Linear(hidden, width)}) for _ in range(experts)
        )

    def forward(self, h: Tensor) -> Tensor:
        """Maps (B, H) to (B, H)."""
        logits, chosen = self.router(h).topk(self.top_k, dim=-1)
        gates = h.new_zeros(len(h), len(self.experts)).scatter(-1, chosen, logits.softmax(-1))
        layers: list[Any] = list(self.experts)
        up = torch.stack([expert["up"].weight for expert in layers])
        down = torch.stack([expert["down"].weight for expert in layers])
        first = torch.stack([expert["up"].bias for expert in layers])
        second = torch.stack([expert["down"].bias for expert in layers])
        inner = F.relu(torch.einsum("bh,efh->ebf", h, up) + first[:, None]) * gates.T[..., None]
        return h + torch.einsum("ebf,ehf->bh", inner, down) + gates @ second


class DenseLayer(nn.Module):
    """h + W2 relu(W1 h + b1) + b2.

    Args:
        width: Width of h.
        hidden: Width of the inner layer.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        """Maps (B, H) to (B, H)."""
        return h + self.down(F.relu(self.up(h)))


class ExpertNetwork(nn.Module):
    """A classifier of signals by residual layers of experts.

    Args:
        d_input: Values in a signal.
        num_classes: Classes.
        width: H.
        blocks: Residual layers.
        experts: Experts in each; 0 for dense layers.
        hidden: Width of an expert, or of a dense layer.
        top_k: Experts used by a sample.

    Raises:
        UserError: a size is not accepted.
    """

    def __init__(
        self,
        d_input: int = 40,
        num_classes: int = 10,
        width: int = 48,
        blocks: int = 2,
        experts: int = 12,
        hidden: int = 96,
        top_k: int = 2,
    ) -> None:
        super().__init__()
        at_least(1, d_input=d_input, num_classes=num_classes, width=width, hidden=hidden, top_k=top_k)
        at_least(0, experts=experts, blocks=blocks)
        if experts:
            at_most({"experts": experts}, top_k=top_k)
        self.input = nn.Linear(d_input, width)
        self.blocks = nn.ModuleList(
            ExpertLayer(width, hidden, experts, top_k) if experts else DenseLayer(width, hidden) for _ in range(blocks)
        )
        self.output = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps signals (B, d_input) to logits (B, num_classes)."""
        h = self.input(x.flatten(1))
        for block in self.blocks:
            h = block(h)
        return self.output(h)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Share of samples that are classified correctly.

    Args:
        model: Maps x to logits (N, C).
        x: (N, …).
        y: Classes (N,).
    """
    return float((model(x).argmax(-1) == y).double().mean())


class TwoTaskClassifier(Module):
    """Learns task B with the trainable parameters, and measures the forgetting of task A.

    Batches are ``(x, y)``: ``x`` float ``(B, d_input)``, ``y`` int64 ``(B,)``, of B in training. Validation loaders are
    A, B and, optionally, B's training part. Logs ``train/loss``; ``val/accuracy`` (of B), ``val/accuracy_a``,
    ``val/forgetting`` (accuracy on A after pre-training minus now), ``val/loss``, ``val/loss_a``, ``val/loss_train``
    (of B's training part), and ``test/`` the same; ``model/trainable_fraction``.

    Args:
        d_input: Values in a signal.
        num_classes: Classes of both tasks.
        width: Width of the residual stream.
        blocks: Residual layers.
        experts: Experts in each layer; 0 for dense layers.
        hidden: Width of an expert.
        top_k: Experts used by a sample.
        pretrained: File with a state dict of the network (``.pt``) that can do task A. Without it, the network is
            pre-trained here on the datamodule's ``task_a``, deterministically by the seed.
        pretrain_epochs: Number of epochs of pre-training; 0 for none.
        pretrain_lr: Its learning rate (AdamW).
        pretrain_weight_decay: Its weight decay.
        pretrain_batch_size: Its batch size.
        optimizer: The optimiser for task B.
        schedule: Its learning-rate schedule.

    Raises:
        UserError: a size is not accepted, or the file does not fit (in the constructor); there is no task A to
            pre-train on.
    """

    def __init__(
        self,
        d_input: int = 40,
        num_classes: int = 10,
        width: int = 48,
        blocks: int = 2,
        experts: int = 12,
        hidden: int = 96,
        top_k: int = 2,
        pretrained: str | Path | None = None,
        pretrain_epochs: int = 20,
        pretrain_lr: float = 2e-3,
        pretrain_weight_decay: float = 0.05,
        pretrain_batch_size: int = 100,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        at_least(
            0,
            pretrain_epochs=pretrain_epochs,
            pretrain_lr=pretrain_lr,
            pretrain_weight_decay=pretrain_weight_decay,
        )
        at_least(1, pretrain_batch_size=pretrain_batch_size)
        self.save_hyperparameters()
        self.network = ExpertNetwork(d_input, num_classes, width, blocks, experts, hidden, top_k)
        # The accuracy before task B, as a buffer, so that a resumed run and a test have it.
        self.register_buffer("accuracy_before", torch.tensor(float("nan")))
        self.accuracy_before: Tensor
        self._ready = pretrained is not None
        if pretrained is not None:
            load_network(self.network, pretrained)

    def configure_model(self) -> None:
        """Pre-trains on task A, once, if training starts without a file of weights.

        Raises:
            UserError: the datamodule has no task A.
        """
        trainer = self._trainer
        if trainer is None or trainer.state.fn != "fit" or not torch.isnan(self.accuracy_before):
            return
        task = getattr(getattr(trainer, "datamodule", None), "task_a", None)
        if not task:
            raise UserError(
                f"data: {type(getattr(trainer, 'datamodule', None)).__name__} has no task_a to pre-train on and to "
                "measure; use datamodules.finetuning.two_task.TwoTask, or one with that attribute"
            )
        settings = self.hparams
        if not self._ready and settings["pretrain_epochs"]:
            rank_zero_info(f"pre-training on task A: {settings['pretrain_epochs']} epochs")
            seed = torch.initial_seed()
            with seeded(seed % 2**32):
                pretrain(
                    self.network,
                    task["x"],
                    task["y"],
                    1 if getattr(trainer, "fast_dev_run", False) else settings["pretrain_epochs"],
                    settings["pretrain_lr"],
                    settings["pretrain_weight_decay"],
                    settings["pretrain_batch_size"],
                    seed,
                )
        self.accuracy_before.fill_(accuracy(self.network, task["x_test"], task["y_test"]))

    def on_fit_start(self) -> None:
        """Prints which parameters are trained."""
        parameters = list(self.parameters())
        self.trained = sum(p.numel() for p in parameters if p.requires_grad) / sum(p.numel() for p in parameters)

    def forward(self, x: Tensor) -> Tensor:
        """Maps signals (B, d_input) to logits (B, num_classes)."""
        return self.network(x)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy of a batch of task B."""
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], stage: str, loader: int) -> None:
        x, y = batch
        logits = self(x)
        part = PARTS[loader]
        options: dict[str, Any] = {"batch_size": len(y), "add_dataloader_idx": False, "sync_dist": True}
        suffix = {"a": "_a", "b": "", "b_train": "_train"}[part]
        self.log(f"{stage}/loss{suffix}", F.cross_entropy(logits, y), **options)
        if part == "b_train":
            return
        right = (logits.argmax(-1) == y).float().mean()
        self.log(f"{stage}/accuracy{suffix}", right, prog_bar=True, **options)
        if part == "a":
            self.log(f"{stage}/forgetting", self.accuracy_before - right, prog_bar=True, **options)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss and accuracy on one of the tasks."""
        self._evaluate(batch, "val", dataloader_idx)

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Loss and accuracy on one of the tasks."""
        self._evaluate(batch, "test", dataloader_idx)

    def on_train_epoch_end(self) -> None:
        """Logs the share of the parameters that is trained."""
        self.log("model/trainable_fraction", self.trained)

    def predict_step(self, batch: tuple[Tensor, Tensor], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Probabilities (B, num_classes) and targets (B,)."""
        x, y = batch
        return {"probabilities": self(x).softmax(-1), "target": y}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Removes the path of the pretrained weights, so that the checkpoint opens without that file."""
        super().on_save_checkpoint(checkpoint)
        if self.CHECKPOINT_HYPER_PARAMS_KEY in checkpoint:
            checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY]["pretrained"] = None
