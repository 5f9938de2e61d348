"""The base class of every datamodule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader, Dataset


class DataModule(pl.LightningDataModule):
    """A LightningDataModule that makes its loaders from four data sets which ``setup`` fills in.

    A subclass sets ``train_set``, ``val_set``, ``test_set`` and, where it differs from the test set, ``predict_set``
    in ``setup(stage)``; and ``collate_fn`` where the default does not fit. A data set with ``__getitems__`` returns a
    whole, already collated batch (see :class:`framework.data.arrays.ArrayDataset`), which is what small data needs.
    Random augmentation draws from torch's, numpy's or Python's global generator: the loader seeds them per batch.

    Args:
        batch_size: Samples in a training batch, per process.
        eval_batch_size: Samples in a validation, test or predict batch; ``batch_size`` by default.
        num_workers: Loader processes.
        drop_last: Whether training leaves out an incomplete last batch.
    """

    train_set: Dataset | None = None
    val_set: Dataset | None = None
    test_set: Dataset | None = None
    predict_set: Dataset | None = None
    collate_fn: Callable[[list[Any]], Any] | None = None

    def __init__(
        self, batch_size: int = 64, eval_batch_size: int | None = None, num_workers: int = 0, drop_last: bool = False
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.drop_last = drop_last

    def _loader(self, dataset: Dataset | None, train: bool) -> DataLoader:
        return DataLoader(
            dataset,
            batch_size=self.batch_size if train else self.eval_batch_size,
            shuffle=train,
            num_workers=self.num_workers,
            drop_last=train and self.drop_last,
            collate_fn=self.collate_fn,
        )

    def train_dataloader(self) -> DataLoader:
        """Shuffled batches of ``train_set``."""
        return self._loader(self.train_set, train=True)

    def val_dataloader(self) -> DataLoader:
        """Batches of ``val_set`` in order."""
        return self._loader(self.val_set, train=False)

    def test_dataloader(self) -> DataLoader:
        """Batches of ``test_set`` in order."""
        return self._loader(self.test_set, train=False)

    def predict_dataloader(self) -> DataLoader:
        """Batches of ``predict_set`` in order, by default the test set's."""
        return self._loader(self.predict_set or self.test_set, train=False)
