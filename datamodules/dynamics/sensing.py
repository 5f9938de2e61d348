"""Matrices of low rank and linear measurements of them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.errors import UserError
from framework.readers.arrays import check_arrays, read_arrays
from framework.settings import at_least, at_most, one_of

Source = Literal["gaussian", "digits", "image"]


def low_rank(n1: int, n2: int, rank: int, condition: float, generator: torch.Generator, symmetric: bool) -> Tensor:
    """Returns a matrix with singular values evenly from 1 to 1/condition; positive semi-definite if symmetric.

    Args:
        n1: Rows.
        n2: Columns; equal to the rows if it is symmetric.
        rank: Number of singular values.
        condition: Largest singular value divided by the smallest.
        generator: Source of randomness.
        symmetric: Whether left and right singular vectors are the same.

    Returns:
        (n1, n2), float64.
    """
    values = torch.linspace(1, 1 / condition, rank, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(n1, rank, dtype=torch.float64, generator=generator))[0]
    if symmetric:
        return (left * values) @ left.mT
    return (left * values) @ torch.linalg.qr(torch.randn(n2, rank, dtype=torch.float64, generator=generator))[0].mT


def gaussian_operator(measurements: int, n1: int, n2: int, generator: torch.Generator, symmetric: bool) -> Tensor:
    """Returns a (m, n1 · n2) with entries N(0, 1/m), float64, so that A*A is the identity on average.

    Args:
        measurements: m.
        n1: Rows.
        n2: Columns.
        generator: Source of randomness.
        symmetric: Whether each A_i is replaced by its symmetric part. This makes no difference for symmetric matrices;
            others cannot be recovered then.
    """
    a = torch.randn(measurements, n1, n2, dtype=torch.float64, generator=generator) / measurements**0.5
    if symmetric:
        a = (a + a.mT) / 2
    return a.flatten(1)


def truncated(matrix: Tensor, rank: int) -> Tensor:
    """Returns the best approximation of the given rank, divided by its largest singular value."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    return (u[:, :rank] * (s[:rank] / s[0])) @ vt[:rank]


def digits_covariance(rank: int) -> Tensor:
    """Returns the best approximation of a rank of the covariance (64, 64) of scikit-learn's digits (pixels over 16)."""
    from sklearn.datasets import load_digits

    return truncated(torch.as_tensor(np.cov(load_digits().data / 16, rowvar=False)), rank)


def sample_image(rank: int, rows: int = 48, columns: int = 64) -> Tensor:
    """Returns the best approximation of a rank of a grey picture of scikit-learn's, downsampled by averaging.

    Args:
        rank: Rank of the result.
        rows: Pixels.
        columns: Pixels.

    Returns:
        (rows, columns), of largest singular value 1.
    """
    from sklearn.datasets import load_sample_image

    grey = torch.as_tensor(load_sample_image("china.jpg").mean(-1) / 255)[None, None]
    return truncated(torch.nn.functional.adaptive_avg_pool2d(grey, (rows, columns))[0, 0], rank)


def read_measurements(path: Path) -> dict[str, Tensor]:
    """Reads ``.npz`` with ``A`` (m, n1, n2), ``y`` (m,) and, optionally, ``M`` (n1, n2); or ``.npy`` with M alone.

    Raises:
        UserError: there is no such file, it has other contents, or values that are not finite.
    """
    expected = ".npz with A (m, n1, n2) and y (m,), optionally M (n1, n2), or .npy with M (n1, n2)"
    found = {"M" if name == "array" else name: value for name, value in read_arrays(path, expected, np.float64).items()}
    shapes = {"A": "m n1 n2", "y": "m"} if {"A", "y"} & set(found) or "M" not in found else {}
    check_arrays(found, shapes | ({"M": "n1 n2"} if "M" in found else {}), path, expected)
    return {name: torch.as_tensor(value) for name, value in found.items()}


class MatrixSensing(WholeData):
    """Noiseless linear measurements of a matrix; each batch has all of them.

    A batch has ``matrix`` M (n1, n2) if it is known, ``y`` (m,), and ``operator`` A (m, n1 · n2); with ``measurements:
    0`` the operator is the identity, and a batch has no ``y`` and no ``operator``.

    Reads: ``.npz`` of measurements, ``.npy`` of a matrix; finite numbers only. Without a path: a generated matrix, or
        an approximation of a real one.

    Args:
        path: The user's ``.npz`` or ``.npy`` (:func:`read_measurements`).
        source: Without a path: ``gaussian`` (random singular vectors, as in the paper), ``digits`` (approximation of a
            covariance, symmetric) or ``image`` (approximation of a picture).
        rows: n1, for ``gaussian``.
        columns: n2; by default n1.
        rank: r of the matrix.
        condition: Largest singular value divided by the smallest, for ``gaussian``.
        measurements: m; 0 for the limit of infinitely many.
        symmetric: Whether the matrix is symmetric and positive semi-definite.
        symmetric_operator: Whether each A_i is made symmetric.
        seed: Seed of the matrix and the measurements.
        passes: Batches in an epoch.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        source: Source = "gaussian",
        rows: int = 50,
        columns: int | None = None,
        rank: int = 3,
        condition: float = 1.0,
        measurements: int = 1500,
        symmetric: bool = True,
        symmetric_operator: bool = False,
        seed: int = 0,
        passes: int = 10,
    ) -> None:
        super().__init__(batch_size=1)
        at_least(1, condition=condition)
        one_of(get_args(Source), source=source)
        at_least(1, rows=rows, rank=rank, passes=passes, condition=condition)
        at_least(0, measurements=measurements)
        columns = rows if columns is None else columns
        at_most({"the smaller side": min(rows, columns)}, rank=rank)
        if symmetric and (columns != rows or source == "image"):
            raise UserError("symmetric: a matrix that is not square cannot be symmetric; set it to false")
        self.path, self.source, self.rows, self.columns, self.rank = path, source, rows, columns, rank
        self.condition, self.measurements, self.symmetric = condition, measurements, symmetric
        self.symmetric_operator, self.seed, self.passes = symmetric_operator, seed, passes

    def setup(self, stage: str) -> None:
        """Reads or draws the matrix and the measurements."""
        generator = torch.Generator().manual_seed(self.seed)
        found: dict[str, Tensor] = {}
        if self.path is not None:
            found = read_measurements(Path(self.path).expanduser())
        elif self.source == "digits":
            found["M"] = digits_covariance(self.rank)
        elif self.source == "image":
            found["M"] = sample_image(self.rank)
        else:
            found["M"] = low_rank(self.rows, self.columns, self.rank, self.condition, generator, self.symmetric)
        batch = {"matrix": found["M"]} if "M" in found else {}
        if "A" in found:
            batch |= {"operator": found["A"].flatten(1), "y": found["y"]}
        elif self.measurements:
            n1, n2 = found["M"].shape
            batch["operator"] = gaussian_operator(self.measurements, n1, n2, generator, self.symmetric_operator)
            batch["y"] = batch["operator"] @ found["M"].flatten()
        self.train_set = WholeBatch(batch, self.passes)
