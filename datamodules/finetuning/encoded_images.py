"""Computes the features of images with a frozen encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.finetuning.encoders import encoded, open_encoder
from datamodules.finetuning.small_encoder import train_small_encoder
from datamodules.images.batch_transforms import BatchPreprocess
from datamodules.images.labelled import LabelledImages, stratified_split
from datamodules.images.sources import SOURCES, Source, check_source, load_splits
from datamodules.vision.small_images import channel_statistics
from framework.errors import UserError
from framework.settings import above, at_least, at_most, finite, one_of


@dataclass(frozen=True)
class EncoderConfig:
    """What turns images into features.

    Attributes:
        name: ``cnn`` for a small network that is trained here on ``samples`` images, which serve for nothing else;
            ``pixels`` for no encoder; ``timm:NAME``; a checkpoint of ours or a run folder; or the path of an
            ``nn.Module``'s class.
        source: Images that ``cnn`` is trained on: a source that needs no path (all of its training part); by default
            those that are encoded.
        samples: How many of the own training images ``cnn`` is trained on.
        epochs: Passes over them.
        weights: A file of weights for timm and for a class.
        args: Arguments of these two's constructor.
        layer: Layer whose output the features are; by default what the last layer with weights gets.

    Raises:
        UserError: a setting is not accepted.
    """

    name: str = "cnn"
    source: Source | None = None
    samples: int = 1500
    epochs: int = 10
    weights: str | Path | None = None
    args: dict[str, Any] | None = None
    layer: str | None = None

    def __post_init__(self) -> None:
        at_least(1, **{"encoder.samples": self.samples, "encoder.epochs": self.epochs})
        one_of(get_args(Source), **{"encoder.source": self.source})
        if self.source is not None and self.name != "cnn":
            raise UserError(f"encoder.source: {self.source!r} given, but encoder {self.name!r} is not trained here")
        if self.source is not None:
            check_source(self.source, None)


@dataclass(frozen=True)
class ImageConfig:
    """How images are prepared for an encoder, and how many of them there are.

    Attributes:
        size: Side in pixels that they are resized to; their own by default.
        mean: Subtracted from each channel, white being 1; by default their own mean.
        std: Divides each channel; by default their own deviation. With ``mean: [0.0]`` and ``std: [1.0]`` they are in
            [0, 1].
        channels: 3 repeats grey images; by default their own.
        max_train: Training images, at most, so many of each class as their shares say.
        max_test: Test images, likewise.

    Raises:
        UserError: a setting is not accepted.
    """

    size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None
    max_train: int | None = None
    max_test: int | None = None

    def __post_init__(self) -> None:
        sizes = ("size", "channels", "max_train", "max_test")
        at_least(1, **{f"images.{name}": getattr(self, name) for name in sizes})
        finite(**{"images.mean": self.mean})
        above(0, **{"images.std": self.std})


@dataclass(frozen=True)
class EncodedImages:
    """Images and their encoder.

    Attributes:
        source: Of the images, see ``datamodules.images.sources``.
        path: Their folder, where the source needs one.
        encoder: The encoder.
        images: How they are prepared.
        seed: Of the encoder and of the choice of images.
    """

    source: Source
    path: str | Path | None
    encoder: EncoderConfig
    images: ImageConfig
    seed: int

    def features(self) -> dict[str, np.ndarray]:
        """Returns ``X_train`` and ``X_test`` float32 (N, n), ``y_train`` and ``y_test`` int64 (N,).

        Raises:
            UserError: a file is missing or broken, the encoder does not fit, or there are too few images.
        """
        splits = load_splits(self.source, self.path, 0.0, self.seed)
        train, test = splits.train, splits.test
        own = None
        encoder, settings = self.encoder, self.images
        if encoder.name == "cnn" and encoder.source is None:
            at_most({"all training images but one": len(train) - 1}, **{"encoder.samples": encoder.samples})
            rest, chosen = stratified_split(train.labels, encoder.samples / len(train), self.seed)
            own, train = train.take(chosen), train.take(rest)
        train, test = _at_most(train, settings.max_train, self.seed), _at_most(test, settings.max_test, self.seed)
        size = settings.size or train.images.shape[2]
        mean, std = channel_statistics((own or train).images)
        channels = settings.channels or SOURCES[self.source].channels
        prepare = BatchPreprocess(size, channels, tuple(settings.mean or mean), tuple(settings.std or std))

        if encoder.name == "cnn":
            if size < 11:
                raise UserError(f"images.size: {size} is too small for encoder 'cnn'; at least 11")
            taught = own or load_splits(encoder.source or self.source, None, 0.0, self.seed).train
            x, y = prepare(torch.from_numpy(taught.images)), torch.from_numpy(taught.labels)
            network = train_small_encoder(x, y, len(taught.class_names), encoder.epochs, seed=self.seed)
            encode = open_encoder(network, channels, encoder.layer)
        else:
            encode = open_encoder(encoder.name, channels, encoder.layer, encoder.weights, encoder.args or {})
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
