"""Small sets that are trained on for thousands of passes, in batches that are sliced once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.data.loader import ExactLoader
from framework.errors import UserError
from framework.settings import at_least


class RepeatedBatches(Dataset):
    """Batches of a set in order, several times: reading one is an index into a list, nothing is copied.

    Args:
        x: Inputs (N, …).
        y: Targets (N,).
        batch_size: Samples in a batch; the last one may be smaller.
        passes: Number of passes in an epoch of the loader.
    """

    draws_random_numbers = False

    def __init__(self, x: Tensor, y: Tensor, batch_size: int, passes: int) -> None:
        self.batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True))
        self.passes = passes

    def __len__(self) -> int:
        return len(self.batches) * self.passes

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.batches[index % len(self.batches)]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the batch at the only index."""
        return self.batches[indices[0] % len(self.batches)]


class RepeatedData(DataModule):
    """The base class: each epoch of the Trainer has ``passes`` passes over the training set.

    A subclass calls :meth:`hold` in its ``setup``. Validation then has two loaders or more: the test samples, all
    training samples (so that both accuracies are of one moment), and further ones; ``val_metrics`` names the accuracy
    of each.

    Args:
        batch_size: Samples in a training batch; all for 0.
        passes: Passes over the data in an epoch of the Trainer.
        shuffle: Whether batches are drawn anew for each pass; with one pass in an epoch only.
        num_workers: Loader processes.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(self, batch_size: int = 0, passes: int = 1, shuffle: bool = False, num_workers: int = 0) -> None:
        at_least(0, batch_size=batch_size)
        super().__init__(batch_size or 1, num_workers=num_workers)
        at_least(1, passes=passes)
        if shuffle and passes > 1:
            raise UserError(f"passes: {passes} is not accepted with shuffle; 1")
        self.batch_size, self.passes, self.shuffle = batch_size, passes, shuffle
        self.val_metrics: tuple[str, ...] = ()
        self.test_metrics: tuple[str, ...] = ()
        self.others: Mapping[str, Dataset] = {}

    def hold(
        self, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], others: Mapping[str, Dataset] | None = None
    ) -> None:
        """Makes the data sets.

        Args:
            train: Inputs and targets.
            test: The same; validation measures these too.
            others: Further sets by the end of their metric's name (``accuracy_<name>``).
        """
        self.train_set = (
            ArrayDataset(*train)
            if self.shuffle
            else RepeatedBatches(*train, self.batch_size or len(train[1]), self.passes)
        )
        self.val_set = self.test_set = RepeatedBatches(*test, len(test[1]), 1)
        self.others = others or {}
        self._whole = RepeatedBatches(*train, len(train[1]), 1)
        self.val_metrics = ("val/accuracy", "train/accuracy", *(f"val/accuracy_{name}" for name in self.others))
        self.test_metrics = ("test/accuracy", *(f"test/accuracy_{name}" for name in self.others))

    def _plain(self, dataset: Dataset, train: bool = False) -> ExactLoader:
        return ExactLoader(
            dataset,
            batch_size=1,
            shuffle=False,
            num_workers=self.num_workers if train else 0,
            seed=torch.initial_seed(),
            per_epoch=train,
            ranks=self._ranks,
        )

    def train_dataloader(self) -> Any:
        """Returns the batches, in order unless they are shuffled."""
        if self.shuffle or self.train_set is None:
            return super().train_dataloader()
        return self._plain(self.train_set, train=True)

    def val_dataloader(self) -> Any:
        """Returns a loader of the test samples, of the training samples and of each other set, in batches of all."""
        if self.val_set is None:
            return []
        return [self._plain(part) for part in (self.val_set, self._whole, *self.others.values())]

    def test_dataloader(self) -> Any:
        """Returns a loader of the test samples and of each other set."""
        if self.test_set is None:
            return super().test_dataloader()
        return [self._plain(part) for part in (self.test_set, *self.others.values())]

    def predict_dataloader(self) -> Any:
        """Returns a loader of the test samples."""
        return super().predict_dataloader() if self.test_set is None else self._plain(self.test_set)
