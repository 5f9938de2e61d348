"""An image classifier with a network of timm or of this project."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from framework.errors import UserError
from framework.figures import new_figure
from framework.module import Module, OptimizerConfig, ScheduleConfig
from framework.settings import at_least, between
from modules.classifier import predictions
from modules.vision.group_norm_cnn import GroupNormCNN
from modules.vision.mlp import MLP
from modules.vision.onet import ONet
from modules.vision.small_cnn import SmallCNN
from modules.vision.weights import WeightsHead, load_weights

# Backbones that timm does not have, by their name in configs.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "cnn": SmallCNN,
    "group_norm_cnn": GroupNormCNN,
    "onet": ONet,
}


def build_backbone(
    name: str,
    num_classes: int,
    image_size: int = 224,
    in_chans: int = 3,
    drop_rate: float = 0.0,
    drop_path_rate: float = 0.0,
    backbone_args: dict[str, Any] | None = None,
) -> nn.Module:
    """Builds a classifier of images ``(B, in_chans, image_size, image_size)`` with random weights.

    Args:
        name: A model of timm, or a name in :data:`BACKBONES`.
        num_classes: Outputs.
        image_size: Side of the images in pixels; passed to models that accept it.
        in_chans: Channels of the images.
        drop_rate: Probability of the model's dropout.
        drop_path_rate: Rate of stochastic depth.
        backbone_args: Further arguments of the model's constructor, such as ``{patch_size: 4, embed_dim: 64}``.

    Raises:
        UserError: there is no such backbone (the five nearest are named), an argument is not accepted, or the image
            size is not a multiple of its patch size.
    """
    given = dict(backbone_args or {})
    arguments: dict[str, Any] = {"num_classes": num_classes, "in_chans": in_chans, "drop_rate": drop_rate}
    if drop_path_rate:
        arguments["drop_path_rate"] = drop_path_rate
    if name in BACKBONES:
        try:
            return BACKBONES[name](image_size=image_size, **{**arguments, **given})
        except TypeError as error:
            raise UserError(f"backbone {name!r} refused its arguments: {error}") from error
    import timm  # here, because importing it costs seconds

    # A name with a scheme (hf-hub:) would make timm look for a download; a tag after a dot names weights only.
    if ":" in name or not timm.is_model(name):
        near = get_close_matches(name, [*BACKBONES, *timm.list_models()], n=5, cutoff=0.0)
        raise UserError(
            f"backbone: {name!r} is not a model of timm (nor {', '.join(BACKBONES)}); nearest: {', '.join(near)}"
        )
    arguments = {"img_size": image_size, **arguments, **given}
    try:
        try:
            model = timm.create_model(name, pretrained=False, **arguments)
        except TypeError as error:
            if "'img_size'" not in str(error) or "img_size" in given:
                raise
            arguments.pop("img_size")  # a convolutional model, which accepts images of any size
            model = timm.create_model(name, pretrained=False, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"backbone {name!r} refused its arguments {arguments}: {error}") from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    sides = patch if isinstance(patch, tuple | list) else (patch,)
    if any(isinstance(side, int) and image_size % side for side in sides):
        raise UserError(
            f"image_size: {image_size} is not a multiple of the patch size {sides[0]} of {name!r}; "
            "give another image_size, or backbone_args.patch_size"
        )
    return model


class ImageClassifier(Module):
    """Image classifier with any timm backbone.

    Batches are ``(x, y)``: ``x`` float ``(B, in_chans, image_size, image_size)``, ``y`` int64 ``(B,)``. Logs
    ``train/loss``, ``train/accuracy``, and ``val/`` and ``test/`` with ``loss``, ``accuracy`` and, with ten classes or
    more, ``accuracy_top5``; plots the confusion matrix after a test.

    Args:
        backbone: A model of timm by name, ``mlp``, ``cnn``, ``group_norm_cnn`` or ``onet``.
        num_classes: Classes.
        image_size: Side of the images in pixels.
        in_chans: Channels of the images.
        weights: Local file with pretrained weights of the backbone (``.pth``, ``.pt``, ``.ckpt``, ``.safetensors``).
            A checkpoint of a run contains the weights and does not need this file.
        weights_head: Whether the file's classifier head is used: ``if_fits``, ``skip`` or ``strict``; all other
            tensors must fit exactly.
        drop_rate: Probability of the backbone's dropout.
        drop_path_rate: Rate of stochastic depth.
        label_smoothing: Share of the target spread evenly over the classes, in training.
        mixup: Alpha of mixup's Beta distribution; 0 for none.
        cutmix: Alpha of CutMix's; 0 for none. With both, one of them is chosen for each batch.
        mix_probability: Share of the batches that are mixed.
        backbone_args: Further arguments of the backbone's constructor, such as ``{patch_size: 4, embed_dim: 64}``.
        optimizer: The optimiser; those of timm by name too.
        schedule: The learning-rate schedule.

    Raises:
        UserError: there is no such backbone, one of its arguments is not accepted, a rate is out of its range, or the
            weights do not fit (in the constructor); the datamodule's classes, channels or image size differ (in
            ``setup``).
    """

    start_only = ("weights",)

    def __init__(
        self,
        backbone: str = "vit_tiny_patch16_224",
        num_classes: int = 10,
        image_size: int = 224,
        in_chans: int = 3,
        weights: str | Path | None = None,
        weights_head: WeightsHead = "if_fits",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mix_probability: float = 1.0,
        backbone_args: dict[str, Any] | None = None,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        at_least(0, mixup=mixup, cutmix=cutmix)
        self.save_hyperparameters()
        between(0, 1, "[)", drop_rate=drop_rate, drop_path_rate=drop_path_rate, label_smoothing=label_smoothing)
        between(0, 1, mix_probability=mix_probability)
        at_least(1, num_classes=num_classes, image_size=image_size, in_chans=in_chans)
        self.num_classes, self.image_size, self.in_chans = num_classes, image_size, in_chans
        self.label_smoothing = label_smoothing
        self.backbone = build_backbone(
            backbone, num_classes, image_size, in_chans, drop_rate, drop_path_rate, backbone_args
        )
        if weights is not None:
            kept = load_weights(self.backbone, weights, weights_head)
            if kept:
                rank_zero_info(f"weights: {weights} loaded except the head ({', '.join(kept)}), which starts random")
        self._mix = self._build_mix(mixup, cutmix, mix_probability)
        self.val_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(num_classes, average="micro")
        self.top5 = num_classes >= 10
        if self.top5:
            self.val_accuracy_top5 = MulticlassAccuracy(num_classes, average="micro", top_k=5)
            self.test_accuracy_top5 = MulticlassAccuracy(num_classes, average="micro", top_k=5)
        self.test_confusion = MulticlassConfusionMatrix(num_classes)

    def _build_mix(self, mixup: float, cutmix: float, probability: float) -> Callable | None:
        if not (mixup or cutmix):
            return None
        from timm.data import Mixup

        return Mixup(
            mixup_alpha=mixup,
            cutmix_alpha=cutmix,
            prob=probability,
            label_smoothing=self.label_smoothing,
            num_classes=self.num_classes,
        )

    def setup(self, stage: str) -> None:
        """Compares the datamodule's classes, channels and image size with the model's.

        Raises:
            UserError: they differ.
        """
        data = getattr(self.trainer, "datamodule", None)
        for name, theirs in (("num_classes", "num_classes"), ("in_chans", "channels"), ("image_size", "image_size")):
            found, own = getattr(data, theirs, None), getattr(self, name)
            if found is not None and found != own:
                raise UserError(
                    f"model.init_args.{name}: {own}, but {theirs} of {type(data).__name__} is {found}; "
                    f"set it to {found}, or to ${{data.init_args.{theirs}}} where the config gives that"
                )

    def forward(self, x: Tensor) -> Tensor:
        """Maps images ``(B, in_chans, image_size, image_size)`` to logits ``(B, num_classes)``."""
        return self.backbone(x)

    def objective(self, x: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Returns the training loss; here cross-entropy.

        Args:
            x: Images ``(B, in_chans, image_size, image_size)``, as the model saw them.
            logits: ``(B, num_classes)``.
            target: Classes ``(B,)``, or, if images were mixed, their shares ``(B, num_classes)``, already smoothed.
        """
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        return F.cross_entropy(logits, target, label_smoothing=smoothing)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the training loss of a batch, mixed if mixup or CutMix is on."""
        x, y = batch
        # mixing pairs images, so an odd last batch is not mixed
        x, target = self._mixed(x, y) if self._mix is not None and len(x) % 2 == 0 else (x, y)
        logits = self(x)
        loss = self.objective(x, logits, target)
        self.log("train/loss", loss, prog_bar=True)
        if self.records_step:
            self.log("train/accuracy", (logits.detach().argmax(-1) == y).float().mean(), prog_bar=True)
        return loss

    def _mixed(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        # timm draws from numpy's global generator. Seeded from torch's, whose state a checkpoint has anyway, a resumed
        # run mixes as an uninterrupted one.
        assert self._mix is not None
        state = np.random.get_state()  # noqa: NPY002
        np.random.seed(int(torch.randint(2**31 - 1, (), device="cpu")))  # noqa: NPY002
        try:
            return self._mix(x.clone(), y)  # it mixes in place
        finally:
            np.random.set_state(state)  # noqa: NPY002

    def _evaluate(self, batch: tuple[Tensor, Tensor], part: str) -> tuple[Tensor, Tensor]:
        x, y = batch
        logits = self(x)
        loss = F.cross_entropy(logits, y)
        self.log(f"{part}/loss", loss, prog_bar=part == "val", batch_size=len(y), sync_dist=True)
        for name in ("accuracy", "accuracy_top5") if self.top5 else ("accuracy",):
            metric = getattr(self, f"{part}_{name}")
            metric.update(logits, y)
            self.log(f"{part}/{name}", metric, prog_bar=part == "val" and name == "accuracy", batch_size=len(y))
        return logits, y

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss and accuracy of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Loss, accuracy and confusions of a batch."""
        logits, y = self._evaluate(batch, "test")
        self.test_confusion.update(logits, y)

    def on_test_epoch_end(self) -> None:
        """Draws the confusion matrix over the whole test set."""
        counts = self.test_confusion.compute().cpu()  # on every rank: it gathers
        self.test_confusion.reset()
        if not self.trainer.is_global_zero:
            return
        given = getattr(getattr(self.trainer, "datamodule", None), "class_names", None)
        names = [str(name) for name in given or range(self.num_classes)]
        side = 4.0 if self.num_classes <= 12 else 7.0
        figure = new_figure(size=(side + 1, side))
        axes = figure.axes[0]
        shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
        image = axes.imshow(shares.numpy(), vmin=0, vmax=1, cmap="viridis")
        figure.colorbar(image, ax=axes, label="share of the true class")
        if self.num_classes <= 30:
            axes.set_xticks(range(self.num_classes), names, rotation=90)
            axes.set_yticks(range(self.num_classes), names)
        if self.num_classes <= 12:
            for row, column in counts.nonzero().tolist():
                colour = "black" if shares[row, column] > 0.6 else "white"
                axes.text(column, row, str(counts[row, column].item()), ha="center", va="center", color=colour, size=7)
        axes.set(xlabel="predicted", ylabel="true", title=f"test, {int(counts.sum())} images")
        self.log_figure("confusion", figure)

    def predict_step(self, batch: tuple[Tensor, Tensor] | Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Probabilities ``(B, num_classes)`` and, if the batch has them, targets ``(B,)``."""
        return predictions(self, batch)
