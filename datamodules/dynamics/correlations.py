"""Correlations of inputs and outputs: all that a linear network learns from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from framework.data import DataModule
from framework.data.arrays import WholeBatch
from framework.errors import UserError

KINDS = ("tree", "digits")


def tree_features(depth: int, features: int, flip: float, generator: torch.Generator) -> Tensor:
    """Features (F, 2^depth) of the leaves of a binary tree: each is ±1 at the root, and every child flips its parent's
    value with probability ``flip``."""
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
    MNIST's ``x_train`` and ``y_train``; images of bytes are divided by 255, labels become one-hot. Of a folder it reads
    ``mnist.npz``.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    expected = ".npz with X (N_in, P) and Y (N_out, P), or images (P, …) and labels (P,), or x_train and y_train"
    path = path / "mnist.npz" if path.is_dir() else path
    if not path.is_file():
        raise UserError(f"path: {path} not found; {expected} is expected")
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"path: {path} cannot be read ({error}); {expected} is expected") from None
    if {"X", "Y"} <= set(arrays):
        x, y = (torch.as_tensor(np.asarray(arrays[name], dtype=np.float64)) for name in "XY")
        if x.ndim == y.ndim == 2 and x.shape[1] == y.shape[1]:
            return x, y
    for images, labels in (("images", "labels"), ("x_train", "y_train")):
        if {images, labels} <= set(arrays) and len(arrays[images]) == arrays[labels].size:
            raw = arrays[images]
            x = torch.as_tensor(raw.reshape(len(raw), -1).astype(np.float64)).T
            x = x / 255 if raw.dtype == np.uint8 else x
            kinds = torch.as_tensor(arrays[labels].astype(np.int64).reshape(-1))
            return x, torch.nn.functional.one_hot(kinds).double().T
    raise UserError(f"path: {path} holds { {n: a.shape for n, a in arrays.items()} }; {expected} is expected")


def whitened(x: Tensor) -> Tensor:
    """X (N_in, P) mapped to its principal axes with X Xᵀ = I; directions without variance are dropped."""
    _u, s, vt = torch.linalg.svd(x, full_matrices=False)
    kept = s > 1e-8 * s[0]
    return vt[kept]


class Correlations(DataModule):
    """Correlations of a data set; each batch is all of them.

    ``s11`` Σ11 (N_in, N_in), ``s31`` Σ31 (N_out, N_in) and ``syy`` tr Σyy.

    Args:
        path: The user's file (:func:`read_pairs`).
        source: Without a path: ``tree`` (the paper's hierarchical data, one-hot inputs) or ``digits``.
        depth: Of the tree; 2^depth items.
        features: Outputs of the tree.
        flip: Probability that a child differs from its parent.
        mean: Whether Σ are means over examples rather than sums.
        whiten: Whether inputs are whitened first, Σ11 = I.
        seed: Of the tree.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | None = None,
        source: str = "tree",
        depth: int = 5,
        features: int = 1000,
        flip: float = 0.1,
        mean: bool = False,
        whiten: bool = False,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        if source not in KINDS:
            raise UserError(f"source: {source!r} is not one of {', '.join(KINDS)}")
        for name, value in (("depth", depth), ("features", features), ("passes", passes)):
            if value < 1:
                raise UserError(f"{name}: {value} is not accepted; at least 1")
        if not 0 <= flip <= 0.5:
            raise UserError(f"flip: {flip} is not accepted; from 0 to 0.5")
        self.path, self.source, self.depth, self.features, self.flip = path, source, depth, features, flip
        self.mean, self.whiten, self.seed, self.passes = mean, whiten, seed, passes

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
            x = whitened(x)
        count = x.shape[1] if self.mean else 1
        batch = {"s11": x @ x.T / count, "s31": y @ x.T / count, "syy": y.square().sum() / count}
        self.train_set = WholeBatch(batch, self.passes)
