"""Features of a frozen encoder, computed once, of which a few labelled ones train a head."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.finetuning.encoded_images import EncodedImages, EncoderConfig, ImageConfig
from datamodules.finetuning.feature_files import EXPECTED, read_features, write_features
from datamodules.images.labelled import stratified_split
from datamodules.images.sources import Source, check_source
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.functional.linear_heads import RangeScaler, draw_subset
from framework.module import as_dataclass
from framework.settings import at_least, between, one_of

ALL = 100_000


class FrozenFeatures(DataModule):
    """Serves features (B, n) float32 and classes (B,) of images that an encoder has seen once, in evaluation mode.

    Training has ``samples`` of them, drawn until they hold every class, and they alone set the scale: each feature's
    range over them becomes [0, 1], in the other parts too, where nothing is clipped. The whole training part is in
    ``pool``, not scaled.

    Reads: ``.npz`` or two ``.npy`` of features, finite numbers only; or images (IDX and CIFAR, of bytes; embedded
        digits) through a small CNN, timm, a checkpoint of ours or any class.

    Args:
        source: Images by the names of ``datamodules.vision.small_images``: ``mnist5k``, ``digits``, ``idx``,
            ``cifar10``, ``cifar100``; or ``features`` for features from a file.
        path: Folder of the images; of ``features`` an ``.npz`` with X_train, y_train, X_test, y_test, or a folder
            with ``train.npy`` and ``test.npy``, whose rows end with the label.
        encoder: What turns images into features: by default a small network that is trained here.
        images: How the images are prepared for the encoder.
        samples: m, in the training set; by default all there are.
        scale: Whether features are scaled.
        val_fraction: Share of the training part held out for validation.
        seed: Seed of the encoder, of all splits and of the drawing of the m samples.
        cache: An ``.npz`` that the features are written to, and read from if it is there.
        num_classes: Checked against the data where given, so that a config can pass it on to the model.
        features: The same for n.
        batch_size: Number of samples in a training batch; the default is all of them.
        eval_batch_size: Number of samples in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest.
        drop_last: Whether training leaves out an incomplete last batch.

    Attributes:
        pool: Features (N, n) and classes (N,) of the training part, not scaled (after ``setup``).
        outside: The same of the test part.

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, the encoder does not
            fit, or the data is not what was declared (in ``setup``).
    """

    moved: ClassVar[dict[str, str]] = {
        "encoder": "encoder.name",
        **{f"encoder_{name}": f"encoder.{name}" for name in ("source", "samples", "epochs", "weights", "args")},
        "layer": "encoder.layer",
        "image_size": "images.size",
        **{name: f"images.{name}" for name in ("mean", "std", "channels", "max_train", "max_test")},
    }

    def __init__(
        self,
        source: Source | Literal["features"] = "mnist5k",
        path: str | Path | None = None,
        encoder: EncoderConfig = EncoderConfig(),
        images: ImageConfig = ImageConfig(),
        samples: int | None = None,
        scale: bool = True,
        val_fraction: float = 0.1,
        seed: int = 0,
        cache: str | Path | None = None,
        num_classes: int | None = None,
        features: int | None = None,
        batch_size: int = ALL,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, num_classes=num_classes, features=features, samples=samples)
        one_of([*get_args(Source), "features"], source=source)
        between(0, 1, "()", val_fraction=val_fraction)
        encoder, images = as_dataclass(EncoderConfig, encoder), as_dataclass(ImageConfig, images)
        self.source, self.path, self.encoder, self.cache = source, path, encoder, cache
        self.samples, self.scale, self.val_fraction, self.seed = samples, scale, val_fraction, seed
        self._declared = {"num_classes": num_classes, "features": features}
        self.num_classes, self.features = num_classes, features
        self.pool: tuple[Tensor, Tensor] | None = None
        self.outside: tuple[Tensor, Tensor] | None = None
        self.images: EncodedImages | None = None
        if source == "features":
            if path is None:
                raise UserError(f"path: source 'features' needs one: {EXPECTED}")
            return
        known = check_source(source, path)
        self.images = EncodedImages(source, path, encoder, images, seed)
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using {known.description}")

    def setup(self, stage: str | None = None) -> None:
        """Reads or computes the features and draws, once.

        Raises:
            UserError: a source is missing or broken, a class has no training sample, or the data is not as declared.
        """
        if self.train_set is not None:
            return
        arrays = self._arrays()
        tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
        labels = arrays["y_train"]
        classes = int(max(labels.max(), arrays["y_test"].max())) + 1
        if (missing := np.setdiff1d(np.arange(classes), labels)).size:
            raise UserError(f"data: no training sample of class {', '.join(map(str, missing))} of {classes}")
        found = {"num_classes": classes, "features": arrays["X_train"].shape[1]}
        for key, declared in self._declared.items():
            if declared is not None and declared != found[key]:
                raise UserError(f"data.{key}: {declared} was given, the data has {found[key]}")
        self.num_classes, self.features = found["num_classes"], found["features"]
        self.pool = tensors["X_train"], tensors["y_train"]
        self.outside = tensors["X_test"], tensors["y_test"]
        first, second = stratified_split(labels, self.val_fraction, self.seed)
        x, y = self.pool[0][first], self.pool[1][first]
        if self.samples is not None:
            rows = draw_subset(y, self.samples, classes, torch.Generator().manual_seed(self.seed))
            x, y = x[rows], y[rows]
        scaler = RangeScaler.of(x) if self.scale else None
        held = self.pool[0][second], self.pool[1][second]
        parts = [(x, y), held, self.outside]
        sets = [ArrayDataset(scaler(a) if scaler is not None else a, b) for a, b in parts]
        self.train_set, self.val_set, self.test_set = sets

    def _arrays(self) -> dict[str, np.ndarray]:
        if self.cache is not None and Path(self.cache).expanduser().is_file():
            return read_features(self.cache)
        if self.images is None:
            return read_features(str(self.path))
        arrays = self.images.features()
        if self.cache is not None:
            write_features(self.cache, arrays, self.encoder.name)
        return arrays
