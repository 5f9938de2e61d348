"""Computes the features of images with a frozen encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.finetuning.encoders import encoded, open_encoder
from datamodules.finetuning.small_encoder import train_small_encoder
from datamodules.images.batch_transforms import BatchPreprocess
from datamodules.images.labelled import LabelledImages, stratified_split
from datamodules.images.sources import SOURCES, Source, load_splits
from datamodules.vision.small_images import channel_statistics
from framework.errors import UserError
from framework.settings import at_most


@dataclass(frozen=True)
class EncodedImages:
    """Which images, and which encoder; the arguments of ``FrozenFeatures`` say what each is."""

    source: Source
    path: str | Path | None
    encoder: str
    encoder_source: Source | None
    encoder_samples: int
    encoder_epochs: int
    weights: str | Path | None
    arguments: dict[str, Any]
    layer: str | None
    image_size: int | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    channels: int | None
    max_train: int | None
    max_test: int | None
    seed: int

    def features(self) -> dict[str, np.ndarray]:
        """Returns ``X_train`` and ``X_test`` float32 (N, n), ``y_train`` and ``y_test`` int64 (N,).

        Raises:
            UserError: a file is missing or broken, the encoder does not fit, or there are too few images.
        """
        splits = load_splits(self.source, self.path, 0.0, self.seed)
        train, test = splits.train, splits.test
        own = None
        if self.encoder == "cnn" and self.encoder_source is None:
            at_most({"all training images but one": len(train) - 1}, encoder_samples=self.encoder_samples)
            rest, chosen = stratified_split(train.labels, self.encoder_samples / len(train), self.seed)
            own, train = train.take(chosen), train.take(rest)
        train, test = _at_most(train, self.max_train, self.seed), _at_most(test, self.max_test, self.seed)
        size = self.image_size or train.images.shape[2]
        mean, std = channel_statistics((own or train).images)
        channels = self.channels or SOURCES[self.source].channels
        prepare = BatchPreprocess(size, channels, tuple(self.mean or mean), tuple(self.std or std))

        if self.encoder == "cnn":
            if size < 11:
                raise UserError(f"image_size: {size} is too small for encoder 'cnn'; at least 11")
            taught = own or load_splits(self.encoder_source or self.source, None, 0.0, self.seed).train
            x, y = prepare(torch.from_numpy(taught.images)), torch.from_numpy(taught.labels)
            network = train_small_encoder(x, y, len(taught.class_names), self.encoder_epochs, seed=self.seed)
            encode = open_encoder(network, channels, self.layer)
        else:
            encode = open_encoder(self.encoder, channels, self.layer, self.weights, self.arguments)
        found: dict[str, np.ndarray] = {}
        for part, images in (("train", train), ("test", test)):
            raw = torch.from_numpy(images.images)

            def prepared(rows: slice, raw: Tensor = raw) -> Tensor:
                return prepare(raw[rows])

            found |= {f"X_{part}": encoded(encode, prepared, len(images)).numpy(), f"y_{part}": images.labels}
        return found


def _at_most(images: LabelledImages, count: int | None, seed: int) -> LabelledImages:
    if count is None or count >= len(images):
        return images
    return images.take(stratified_split(images.labels, count / len(images), seed)[1])
