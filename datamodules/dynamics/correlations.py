"""Correlations of inputs and outputs, the only data that a linear network's training depends on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.images.idx import read_part
from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.errors import UserError
from framework.readers.arrays import check_arrays, labels_of, read_arrays, shapes_of
from framework.settings import at_least, between, one_of

Source = Literal["tree", "digits"]
MOST_CLASSES = 10_000  # one-hot labels of more are not meant, or do not fit into memory
EXPECTED = ".npz with X (N_in, P) and Y (N_out, P), or images (P, …) and labels (P,), or x_train and y_train"


def tree_features(depth: int, features: int, flip: float, generator: torch.Generator) -> Tensor:
    """Features of the leaves of a binary tree: each is ±1 at the root, and every child may flip its parent's value.

    Args:
        depth: Of the tree.
        features: F.
        flip: Probability of a flip.
        generator: Source of randomness.

    Returns:
        (F, 2^depth), float64.
    """
    values = torch.randint(2, (features, 1), generator=generator) * 2 - 1
    for _ in range(depth):
        values = values.repeat_interleave(2, dim=1)
        flips = torch.rand(values.shape, generator=generator, dtype=torch.float64) < flip
        values = torch.where(flips, -values, values)
    return values.double()


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: X (64, 1797) of pixels over 16, and Y (10, 1797), one-hot."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.as_tensor(found.data / 16).T.contiguous()
    return x, torch.nn.functional.one_hot(torch.as_tensor(found.target), 10).double().T.contiguous()


def read_pairs(path: Path) -> tuple[Tensor, Tensor]:
    """Reads ``.npz`` with ``X`` (N_in, P) and ``Y`` (N_out, P), or with ``images`` (P, …) and ``labels`` (P,), or
    MNIST's ``x_train`` and ``y_train``; images of whole numbers (0 to 255) are divided by 255,
    labels become one-hot. In a folder it reads
    ``mnist.npz``, or else MNIST's training images and labels in IDX (:func:`datamodules.images.idx.find_idx`).

    Raises:
        UserError: there is no such file, it has other contents, or values that are not finite.
    """
    if path.is_dir() and not os.path.lexists(path / "mnist.npz"):
        images, labels, _, _ = read_part(path, "train")
        return _flat(images / 255, labels)
    path = path / "mnist.npz" if path.is_dir() else path
    arrays = read_arrays(path, EXPECTED)
    if {"X", "Y"} <= set(arrays):
        check_arrays(arrays, {"X": "N_in P", "Y": "N_out P"}, path, EXPECTED)
        x, y = (torch.as_tensor(arrays[name].astype(np.float64)) for name in "XY")
        return x, y
    for images_name, labels_name in (("images", "labels"), ("x_train", "y_train")):
        if {images_name, labels_name} <= set(arrays):
            images, labels = arrays[images_name], arrays[labels_name]
            labels = labels.reshape(-1) if labels.ndim == 2 and 1 in labels.shape else labels
            found = {images_name: images, labels_name: labels}
            check_arrays(found, {images_name: "P ...", labels_name: "P"}, path, EXPECTED)
            return _flat(_scaled(images, images_name, path), labels_of(labels, labels_name, path, MOST_CLASSES))
    raise UserError(f"{path}: holds {shapes_of(arrays)}; expected {EXPECTED}")


def _flat(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    """Pixels (N_in, P) and one-hot labels (N_out, P)."""
    x = torch.as_tensor(images.reshape(len(images), -1).astype(np.float64)).T
    return x, torch.nn.functional.one_hot(torch.as_tensor(labels)).double().T


def _scaled(images: np.ndarray, name: str, path: Path) -> np.ndarray:
    """Returns whole numbers over 255, and others as they are."""
    if images.dtype.kind not in "iu":
        return images
    low, high = int(images.min()), int(images.max())
    if low < 0 or high > 255:
        raise UserError(f"{path}: {name} has whole numbers from {low} to {high}; 0 to 255, or floats, are expected")
    return images / 255


def whitened(x: Tensor) -> Tensor:
    """Returns X (N_in, P) mapped to its principal axes with X Xᵀ = I; directions without variance are dropped."""
    _u, s, vt = torch.linalg.svd(x, full_matrices=False)
    kept = s > 1e-8 * s[0]
    return vt[kept]


class Correlations(WholeData):
    """Correlations of a data set; each batch has all of them.

    ``s11`` Σ11 (N_in, N_in), ``s31`` Σ31 (N_out, N_in) and ``syy`` tr Σyy; with ``examples`` also ``x`` (N_in, P),
    ``y`` (N_out, P) and ``count``, the divisor of sums over them.

    Reads: ``.npz`` of X and Y, or images (0 to 255 become 0 to 1) and labels; MNIST's IDX files; finite numbers only.
        Without a path: hierarchical data, scikit-learn's digits.

    Args:
        path: The user's file (:func:`read_pairs`).
        source: Without a path: ``tree`` (the paper's hierarchical data, one-hot inputs) or ``digits``.
        depth: Depth of the tree, which has 2^depth items.
        features: Outputs of the tree.
        flip: Probability that a child differs from its parent.
        mean: Whether Σ11 and Σ31 are means over examples instead of sums.
        whiten: Whether inputs are whitened first, so that Σ11 = I, of sums or of means.
        examples: Whether batches also have the examples, which nonlinear networks need.
        seed: Seed of the tree.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        source: Source = "tree",
        depth: int = 5,
        features: int = 1000,
        flip: float = 0.1,
        mean: bool = False,
        whiten: bool = False,
        examples: bool = False,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        one_of(get_args(Source), source=source)
        at_least(1, depth=depth, features=features, passes=passes)
        between(0, 0.5, flip=flip)
        self.path, self.source, self.depth, self.features, self.flip = path, source, depth, features, flip
        self.mean, self.whiten, self.examples, self.seed, self.passes = mean, whiten, examples, seed, passes

    def setup(self, stage: str) -> None:
        """Reads or draws the data and forms the correlations."""
        if self.path is not None:
            x, y = read_pairs(Path(self.path).expanduser())
        elif self.source == "digits":
            x, y = digits()
        else:
            y = tree_features(self.depth, self.features, self.flip, torch.Generator().manual_seed(self.seed))
            x = torch.eye(y.shape[1], dtype=torch.float64)
        if self.whiten:
            x = whitened(x) * (x.shape[1] if self.mean else 1) ** 0.5
        count = x.shape[1] if self.mean else 1
        batch = {"s11": x @ x.T / count, "s31": y @ x.T / count, "syy": y.square().sum() / count}
        if self.examples:
            batch |= {"x": x, "y": y, "count": torch.tensor(float(count), dtype=torch.float64)}
        self.train_set = WholeBatch(batch, self.passes)
