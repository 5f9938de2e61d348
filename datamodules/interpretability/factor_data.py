"""Samples whose targets are the values of several concepts, split by combinations of these.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from framework.data import DataModule
from framework.errors import UserError
from framework.functional.linear_factors import split_combinations
from framework.settings import between


class FactorData(DataModule):
    """The base class; a subclass reads its data in ``setup`` and calls :meth:`divide`.

    Batches are ``(x, y)``, ``y`` int64 (B, k): the values of the concepts. Training data are a part of the combinations
    of values, validation and test data are of others; every value occurs in training.

    Args:
        train_fraction: Share of the combinations to train on.
        val_fraction: Share of the other combinations that is for validation; the rest is for the test.
        split_seed: Seed of both splits.
        batch_size: Samples in a training batch, per process.
        eval_batch_size: Samples in an evaluation batch.
        num_workers: Loader processes.

    Attributes:
        concepts: Names of the concepts (after ``setup``).
        sizes: Number of values of each (after ``setup``).
        values: The values of each, as they are in the data (after ``setup``).
        labels: Of all samples (N, k) (after ``setup``).
        samples: The data set of all samples in order (after ``setup``).
        fingerprint: Of the files and settings that the samples are made of (after ``setup``).

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        train_fraction: float = 0.5,
        val_fraction: float = 0.5,
        split_seed: int = 0,
        batch_size: int = 64,
        eval_batch_size: int | None = 500,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        between(0, 1, "()", train_fraction=train_fraction, val_fraction=val_fraction)
        self.train_fraction, self.val_fraction, self.split_seed = train_fraction, val_fraction, split_seed
        self.concepts: tuple[str, ...] = ()
        self.sizes: tuple[int, ...] = ()
        self.values: tuple[np.ndarray, ...] = ()
        self.labels = np.empty((0, 0), np.int64)
        self.samples: Dataset | None = None
        self.fingerprint = ""

    def divide(self, columns: Mapping[str, np.ndarray], make: Callable[[np.ndarray, np.ndarray], Dataset]) -> None:
        """Splits the samples.

        Args:
            columns: Values (N,) of each concept, of any type; concepts with one value are left out.
            make: Makes a data set of the positions and the labels (M, k) of its samples.

        Raises:
            UserError: no concept has two values, or there are too few combinations to split.
        """
        found = {name: np.unique(column, return_inverse=True) for name, column in columns.items()}
        kept = {name: (ids, index.reshape(-1)) for name, (ids, index) in found.items() if len(ids) > 1}
        if not kept:
            raise UserError(f"{type(self).__name__}: every concept ({', '.join(columns)}) has one value only")
        self.concepts, self.values = tuple(kept), tuple(ids for ids, _ in kept.values())
        self.sizes = tuple(len(ids) for ids in self.values)
        self.labels = np.stack([index for _, index in kept.values()], 1).astype(np.int64)
        member = np.unique(self.labels, axis=0, return_inverse=True)[1]
        try:
            train = split_combinations(self.labels, self.train_fraction, self.split_seed)
        except UserError as error:
            raise UserError(f"train_{error}") from None
        others = np.unique(member.reshape(-1)[~train])
        order = np.random.default_rng([self.split_seed, 1]).permutation(others)
        count = min(max(round(self.val_fraction * len(others)), 1), max(len(others) - 1, 1))
        val = np.isin(member.reshape(-1), order[:count])
        test = ~train & ~val if len(others) > 1 else val
        parts = [np.flatnonzero(mask) for mask in (np.ones_like(train), train, val, test)]
        self.samples, self.train_set, self.val_set, self.test_set = (make(rows, self.labels[rows]) for rows in parts)


def fingerprint(files: Iterable[Path], *settings: Any) -> str:
    """Returns a hash of names, sizes and times of files, and of settings.

    Args:
        files: The files.
        *settings: Anything with a ``repr``.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        found = file.stat()
        digest.update(f"{file.resolve()}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    return digest.hexdigest()
