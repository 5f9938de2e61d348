"""Transfer between classes: some for pretraining, a few examples of others for fine-tuning, a shifted copy to test."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.readers.arrays import check_arrays, labels_of, read_arrays
from framework.settings import at_least

EXPECTED = "x (N, H, W) and y (N,), images with values from 0 to 1 and their classes"


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels, from 0 to 1, and their classes."""
    from sklearn.datasets import load_digits

    found = load_digits()
    return found.images / 16, found.target


def shifted(x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Images rolled one pixel to the right, with Gaussian noise, clipped to [0, 1].

    Args:
        x: (N, H, W), pixels in [0, 1].
        noise: Standard deviation of the noise.
        generator: Source of randomness.

    Returns:
        (N, H, W).
    """
    return (x.roll(1, -1) + noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)


class TransferDigits(DataModule):
    """Digits 5-9 for pretraining, 150 labels of 0-4 for fine-tuning, the others for evaluation, and a shifted copy.

    Batches are ``(x, y)``: ``x`` float32 (B, H, W), ``y`` int64 (B,), the index of the class among the target classes.
    There are two test loaders: the test part, and an out-of-distribution copy of it, rolled one pixel to the right and
    noisy.

    Reads: ``.npz`` of images from 0 to 1 and classes. Without a path: scikit-learn's digits, pretrained on five
        classes, fine-tuned on the others.

    Args:
        path: ``.npz`` with ``x`` (N, H, W), from 0 to 1, and ``y`` (N,); scikit-learn's digits by default.
        source_classes: Classes for pretraining.
        target_classes: Classes for fine-tuning; disjoint from ``source_classes``.
        train_rows: Number of labels for fine-tuning, stratified by class.
        val_rows: Number of validation samples; the rest is the test part.
        noise: Standard deviation of the copy's noise.
        split_seed: Seed of the split and of the noise.
        num_classes: If given, checked against the data; a config can pass it on to the model.
        inputs: Number of pixels; checked in the same way.
        batch_size: Number of samples in a training batch, per process.
        eval_batch_size: Number of samples in an evaluation batch.

    Attributes:
        source: ``x`` and ``y`` for pretraining (after ``setup``).
        test_names: Names of the test loaders.

    Raises:
        UserError: a setting is not accepted (in the constructor); the file is missing, broken or too small (in
            ``setup``).
    """

    test_names = ("test", "ood")

    def __init__(
        self,
        path: str | Path | None = None,
        source_classes: list[int] | None = None,
        target_classes: list[int] | None = None,
        train_rows: int = 150,
        val_rows: int = 100,
        noise: float = 0.25,
        split_seed: int = 0,
        num_classes: int | None = None,
        inputs: int | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = 512,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        at_least(1, inputs=inputs)
        source, target = list(source_classes or range(5, 10)), list(target_classes or range(5))
        if set(source) & set(target) or len(set(target)) < 2 or len(set(source)) < 2:
            raise UserError(f"source_classes {source}, target_classes {target}: two or more each, none in both")
        at_least({"the target classes": len(target)}, train_rows=train_rows, val_rows=val_rows)
        at_least(0, noise=noise)
        if num_classes not in (None, len(target)):
            raise UserError(f"num_classes: {num_classes} declared, target_classes has {len(target)}")
        self.path, self.source_classes, self.target_classes = path, source, target
        self.train_rows, self.val_rows, self.noise, self.split_seed = train_rows, val_rows, noise, split_seed
        self.num_classes, self.inputs = len(target), inputs
        self.source: dict[str, Tensor] = {}
        self.shifted_set: ArrayDataset | None = None
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using the digits of scikit-learn")

    def setup(self, stage: str | None = None) -> None:
        """Reads and splits, once.

        Raises:
            UserError: the file is missing or broken, images do not have ``inputs`` pixels, or no test samples are left.
        """
        if self.train_set is not None:
            return
        from sklearn.model_selection import train_test_split

        x, y = digits() if self.path is None else self._read(Path(self.path).expanduser())
        pixels = int(np.prod(x.shape[1:]))
        if self.inputs not in (None, pixels):
            raise UserError(f"inputs: {self.inputs} declared, an image has {pixels} pixels")
        self.inputs = pixels
        self.source = dict(zip("xy", self._of(x, y, self.source_classes), strict=True))
        images, labels = self._of(x, y, self.target_classes)
        counts = torch.bincount(labels, minlength=self.num_classes)
        if int(counts.min()) < 3 or len(labels) < self.train_rows + self.val_rows + self.num_classes:
            raise UserError(
                f"train_rows: {self.train_rows} and val_rows {self.val_rows} leave no test of the {len(labels)} "
                f"examples ({counts.tolist()} of each class)"
            )
        seed = self.split_seed
        train, rest = train_test_split(
            np.arange(len(labels)), train_size=self.train_rows, stratify=labels.numpy(), random_state=seed
        )
        val, test = train_test_split(rest, train_size=self.val_rows, stratify=labels[rest].numpy(), random_state=seed)
        generator = torch.Generator().manual_seed(seed)
        self.train_set, self.val_set, self.test_set = (
            ArrayDataset(images[part], labels[part]) for part in (train, val, test)
        )
        self.shifted_set = ArrayDataset(shifted(images[test], self.noise, generator), labels[test])

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        arrays = read_arrays(path, EXPECTED)
        check_arrays(arrays, {"x": "N H W", "y": "N"}, path, EXPECTED)
        x, y = arrays["x"], labels_of(arrays["y"], "y", path)
        if x.min() < 0 or x.max() > 1:
            raise UserError(f"{path}: x has values from {x.min():.4g} to {x.max():.4g}; expected {EXPECTED}")
        return x, y

    def _of(self, x: np.ndarray, y: np.ndarray, classes: list[int]) -> tuple[Tensor, Tensor]:
        chosen = np.isin(y, classes)
        if missing := [label for label in classes if not (y == label).any()]:
            raise UserError(f"path: {self.path or 'the digits'} has no example of class {missing[0]}")
        places = np.searchsorted(np.sort(classes), y[chosen])
        return torch.as_tensor(x[chosen], dtype=torch.float32), torch.as_tensor(places, dtype=torch.int64)

    def test_dataloader(self) -> list[object]:
        """Returns the test part, and its shifted copy."""
        return [self._loader(self.test_set, train=False), self._loader(self.shifted_set, train=False)]
