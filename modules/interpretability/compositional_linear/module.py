"""The training of one linear probe for each concept, on an encoder that is trained with them or frozen."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework import Module, OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.module import as_dataclass
from framework.settings import at_least, not_empty
from modules.interpretability.compositional_linear.encoders import (
    ImageEncoderConfig,
    build_encoder,
    embedding_size,
    embeddings_of,
)

ADAM = OptimizerConfig("adam", lr=1e-3, weight_decay=0.0)
COSINE = ScheduleConfig("cosine")


def _head(encoder: nn.Module) -> Any:
    """What is behind the features of an encoder with timm's methods."""
    return encoder.get_classifier() if hasattr(encoder, "forward_features") else None  # type: ignore[operator]


class CompositionalLinear(Module):
    """One linear probe for each concept on an encoder's embeddings, trained together by the sum of cross-entropies.

    Batches are ``(x, y)``, ``y`` int64 (B, k). Logs ``train/loss``, and under ``val/`` and ``test/``, which are of
    combinations that are not trained on, ``loss``, ``accuracy``, the mean over concepts, and ``accuracy_<concept>``.

    Args:
        sizes: Number of values of each concept.
        encoder: The encoder; a frozen one stays in ``eval`` mode.
        image_size: Side of the images in pixels; of a file of embeddings their dimension.
        in_chans: Channels of the images.
        optimizer: The optimiser; by default Adam, rate 1e-3, without weight decay.
        schedule: The schedule; by default a cosine to 0.

    Raises:
        UserError: a setting is not accepted, or the weights do not fit; the data have other concepts (in ``setup``).
    """

    def __init__(
        self,
        sizes: list[int],
        encoder: ImageEncoderConfig | None = None,
        image_size: int = 32,
        in_chans: int = 3,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(ADAM if optimizer is None else optimizer, COSINE if schedule is None else schedule)
        not_empty(sizes=sizes)
        at_least(2, sizes=sizes)
        at_least(1, image_size=image_size, in_chans=in_chans)
        self.save_hyperparameters()
        self.sizes, self.image_size = tuple(sizes), image_size
        self.encoder_config = as_dataclass(ImageEncoderConfig, encoder)
        self.encoder = build_encoder(self.encoder_config, image_size, in_chans)
        known = self.encoder_config.name == "embeddings"
        features = self.encoder_config.features
        width = image_size if known else embedding_size(self.encoder, features, image_size, in_chans)
        self.heads = nn.Linear(width, sum(sizes))
        if self.encoder_config.frozen:
            self.encoder.requires_grad_(False)
        elif features == "pre" and isinstance(head := _head(self.encoder), nn.Module):
            head.requires_grad_(False)  # it is not called, and processes side by side wait for every gradient
        self._fits = False  # whether the targets of a batch were compared with the sizes

    def get_classifier(self) -> nn.Module:
        """Returns the probes, under timm's name for a last layer."""
        return self.heads

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leaves out the file of the encoder's weights, which are in the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        saved = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {})
        if isinstance(saved.get("encoder"), dict):
            saved["encoder"] = {**saved["encoder"], "weights": None}

    def train(self, mode: bool = True) -> CompositionalLinear:
        """Sets the mode, but leaves a frozen encoder in ``eval``."""
        super().train(mode)
        if self.encoder_config.frozen:
            self.encoder.eval()
        return self

    def setup(self, stage: str) -> None:
        """Compares the datamodule's concepts with the model's.

        Raises:
            UserError: they differ.
        """
        data = getattr(self.trainer, "datamodule", None)
        found, names = getattr(data, "sizes", None), getattr(data, "concepts", ())
        if found and tuple(found) != self.sizes:
            shown = ", ".join(f"{name} {size}" for name, size in zip(names, found, strict=True))
            raise UserError(f"model.init_args.sizes: {list(self.sizes)}, but the data has {list(found)}: {shown}")
        size = getattr(data, "image_size", None)
        if size is not None and size != self.image_size:
            raise UserError(f"model.init_args.image_size: {self.image_size}, but the data has {size}")

    def embed(self, x: Tensor) -> Tensor:
        """Maps inputs to embeddings (B, d)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encoder_config.frozen):
            return embeddings_of(self.encoder, x, self.encoder_config.features)

    def forward(self, x: Tensor) -> Tensor:
        """Maps inputs to the logits of all concepts side by side (B, Σ n_i)."""
        return self.heads(self.embed(x))

    def _targets(self, y: Tensor) -> Tensor:
        """Returns targets (B, k), checked at the first batch; (B,) are those of one concept."""
        y = y[:, None] if y.ndim == 1 else y
        if not self._fits:
            sizes = torch.tensor(self.sizes, device=y.device)
            if y.is_floating_point() or y.ndim != 2 or y.shape[1] != len(sizes) or (y < 0).any() or (y >= sizes).any():
                raise UserError(
                    f"model.init_args.sizes: {list(self.sizes)}, but the data has targets of {y.dtype} and shape "
                    f"{tuple(y.shape)} from {y.min():g} to {y.max():g}; whole numbers (B, {len(sizes)}) from 0, below "
                    "the sizes"
                )
            self._fits = True
        return y

    def losses(self, logits: Tensor, y: Tensor) -> list[Tensor]:
        """Returns the cross-entropy of each concept."""
        parts = logits.split(list(self.sizes), 1)
        return [F.cross_entropy(part, y[:, i]) for i, part in enumerate(parts)]

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the sum of the concepts' cross-entropies."""
        x, y = batch[0], self._targets(batch[1])
        loss = torch.stack(self.losses(self(x), y)).sum()
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(y), sync_dist=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], part: str) -> None:
        x, y = batch[0], self._targets(batch[1])
        logits = self(x)
        right = [(own.argmax(1) == y[:, i]).float().mean() for i, own in enumerate(logits.split(list(self.sizes), 1))]
        names = getattr(getattr(self.trainer, "datamodule", None), "concepts", ()) or range(len(right))
        found = {
            "loss": torch.stack(self.losses(logits, y)).sum(),
            "accuracy": torch.stack(right).mean(),
            **{f"accuracy_{name}": value for name, value in zip(names, right, strict=True)},
        }
        for name, value in found.items():
            self.log(f"{part}/{name}", value, batch_size=len(y), sync_dist=True, prog_bar=name == "accuracy")

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the scores of a batch."""
        self._evaluate(batch, "val")

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Logs the scores of a batch."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        """Returns the predicted values of the concepts (B, k) and, where the batch has them, the targets (B, k)."""
        x, y = batch if isinstance(batch, tuple | list) else (batch, None)
        guesses = torch.stack([part.argmax(1) for part in self(x).split(list(self.sizes), 1)], 1)
        return {"values": guesses} if y is None else {"values": guesses, "target": y}
