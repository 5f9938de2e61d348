"""A classifier of several binary labels, started from weights that were trained on public data (arXiv 2603.01098)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.data.seeding import seeded
from framework.errors import UserError
from framework.functional.ranking import MacroAUROC
from framework.observing.embeddings import find_projection
from framework.observing.linear_probe import find_head
from framework.settings import above, at_least
from modules.pretrained import pretrain
from modules.vision.image_classifier import build_backbone
from modules.vision.weights import load_weights

BALANCED = "balanced"


class MultiLabelClassifier(Module):
    """Classifies images by K binary labels, with any timm backbone and a fresh linear head.

    Batches are ``(x, y)``: ``x`` float ``(B, in_chans, image_size, image_size)``, ``y`` ``(B, num_labels)`` of 0 and 1.
    The loss is binary cross-entropy of the logits, a positive of label k weighted by ``pos_weight[k]``. Logs
    ``train/loss``, and under ``val/`` and ``test/`` ``loss`` and ``auroc``, the mean AUROC of the labels.

    The initialisation is the backbone's own; or ``weights``; or, if the datamodule has a ``source`` of public images
    (``x`` and classes ``y``), supervised training on them. The head is always a new linear layer with PyTorch's
    initialisation, the same for all initialisations of the same seed.

    Args:
        num_labels: K.
        backbone: A model of timm, or ``group_norm_cnn``, ``mlp``, ``cnn``.
        image_size: Side of the images in pixels.
        in_chans: Channels of the images.
        weights: Local file with pretrained weights of the backbone; its head is not used. A checkpoint of a run has the
            weights and does not need this file.
        backbone_args: Further arguments of the backbone's constructor.
        pos_weight: Weight of the positives of each label; ``balanced`` computes (negatives / positives) on the training
            labels, which no guarantee of private training covers; by default 1.
        pretrain_epochs: Passes over the datamodule's public images (AdamW, batches of 128); 0 for none.
        pretrain_lr: Learning rate of that training.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted or the weights do not fit (in the constructor); the datamodule's labels,
            channels or image size differ (in ``setup``).
    """

    start_only = ("weights",)
    pos_weight: Tensor

    def __init__(
        self,
        num_labels: int = 5,
        backbone: str = "group_norm_cnn",
        image_size: int = 28,
        in_chans: int = 1,
        weights: str | Path | None = None,
        backbone_args: dict[str, Any] | None = None,
        pos_weight: list[float] | Literal["balanced"] | None = None,
        pretrain_epochs: int = 6,
        pretrain_lr: float = 2e-3,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        at_least(1, num_labels=num_labels, image_size=image_size, in_chans=in_chans)
        at_least(0, pretrain_epochs=pretrain_epochs)
        above(0, pretrain_lr=pretrain_lr)
        if isinstance(pos_weight, str):
            if pos_weight != BALANCED:
                raise UserError(f"pos_weight: {pos_weight!r} is not accepted; a number for each label, or {BALANCED}")
        elif pos_weight is not None:
            above(0, pos_weight=pos_weight)
            if len(pos_weight) != num_labels:
                raise UserError(f"pos_weight: {len(pos_weight)} numbers for {num_labels} labels")
        self.save_hyperparameters()
        self.num_labels, self.image_size, self.in_chans = num_labels, image_size, in_chans
        self.backbone = build_backbone(backbone, num_labels, image_size, in_chans, backbone_args=backbone_args)
        if weights is not None:
            load_weights(self.backbone, weights, "skip")
        find = find_head if num_labels > 1 else find_projection  # the former refuses a layer of one output
        self._head = find(self.backbone, key="model.backbone")
        head: Any = self.backbone.get_submodule(self._head)
        if not isinstance(head, nn.Linear):
            raise UserError(f"model.backbone: {backbone} ends in a {type(head).__name__}; a linear head is needed")
        head.reset_parameters()
        given = [1.0] * num_labels if pos_weight is None or isinstance(pos_weight, str) else list(pos_weight)
        self.register_buffer("pos_weight", torch.tensor(given))
        self._start = pos_weight == BALANCED, weights is None and pretrain_epochs > 0
        self.val_auroc, self.test_auroc = MacroAUROC(), MacroAUROC()

    def setup(self, stage: str) -> None:
        """Compares the datamodule's labels, channels and image size with the model's.

        Raises:
            UserError: they differ.
        """
        data = getattr(self.trainer, "datamodule", None)
        for name, theirs in (("num_labels", "num_labels"), ("in_chans", "channels"), ("image_size", "image_size")):
            found, own = getattr(data, theirs, None), getattr(self, name)
            if found is not None and found != own:
                raise UserError(f"model.init_args.{name}: {own}, but {theirs} of {type(data).__name__} is {found}")

    def configure_model(self) -> None:
        """Trains on the datamodule's public images, and weights the positives, once, where training starts."""
        trainer = self._trainer
        if trainer is None or trainer.state.fn != "fit":
            return
        (balanced, pretraining), self._start = self._start, (False, False)
        data = getattr(trainer, "datamodule", None)
        if balanced:
            self._balance(getattr(data, "train_set", None))
        source = getattr(data, "source", None)
        if not pretraining or not isinstance(source, dict) or not source:
            return
        self.setup("fit")  # a wrong size is reported as such, not by a layer
        epochs = 1 if getattr(trainer, "fast_dev_run", False) else self.hparams["pretrain_epochs"]
        rank_zero_info(f"pretraining on {len(source['y'])} public images, {epochs} epochs")
        self.pretrain(source["x"], source["y"], epochs)

    def pretrain(self, x: Tensor, y: Tensor, epochs: int) -> None:
        """Trains the backbone, with a head of its own that is dropped, to classify public images.

        Args:
            x: Images (N, in_chans, image_size, image_size).
            y: Classes (N,).
            epochs: Passes over them.
        """
        parent, _, name = self._head.rpartition(".")
        owner, head = self.backbone.get_submodule(parent), self.backbone.get_submodule(self._head)
        seed = torch.initial_seed() % 2**32
        with seeded(seed):
            setattr(owner, name, nn.Linear(head.in_features, int(y.max()) + 1))  # type: ignore[arg-type]
            try:
                with torch.enable_grad():
                    pretrain(self.backbone, x, y, epochs, self.hparams["pretrain_lr"], 0.01, 128, seed)
            finally:
                setattr(owner, name, head)

    def _balance(self, train_set: Any) -> None:
        targets = getattr(train_set, "targets", None)
        if not isinstance(targets, Tensor) or targets.shape[1:] != (self.num_labels,):
            raise UserError(
                f"pos_weight: {BALANCED} is not accepted: {type(train_set).__name__} has no targets "
                f"(N, {self.num_labels}) to count"
            )
        positives = targets.sum(0).clamp(min=1)
        self.pos_weight.copy_((len(targets) - positives) / positives)
        shown = ", ".join(f"{value:.3g}" for value in self.pos_weight.tolist())
        rank_zero_warn(
            f"pos_weight: [{shown}] was computed on the training labels; no guarantee of private training covers it. "
            "Give numbers that are known without them"
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(B, in_chans, image_size, image_size)`` to logits ``(B, num_labels)``."""
        return self.backbone(x)

    def _loss(self, logits: Tensor, y: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, y.to(logits.dtype), pos_weight=self.pos_weight)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the weighted binary cross-entropy of a batch."""
        x, y = batch
        loss = self._loss(self(x), y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], part: str) -> None:
        x, y = batch
        logits = self(x)
        metric = getattr(self, f"{part}_auroc")
        metric.update(logits, y)
        self.log(f"{part}/loss", self._loss(logits, y), batch_size=len(y), sync_dist=True)
        self.log(f"{part}/auroc", metric, prog_bar=part == "val", batch_size=len(y))

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and AUROC of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and AUROC of a batch."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Probabilities ``(B, num_labels)`` and, where the batch has them, targets ``(B, num_labels)``."""
        x, y = batch if isinstance(batch, tuple | list) else (batch, None)
        found = {"probabilities": self(x).sigmoid()}
        return found if y is None else {**found, "target": y}
