"""The base class of every datamodule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from framework.data.loader import ExactLoader
from framework.errors import UserError
from framework.settings import at_least


class DataModule(pl.LightningDataModule):
    """A LightningDataModule that makes its loaders from the data sets that ``setup`` assigns.

    A subclass sets ``train_set``, ``val_set``, ``test_set`` and, if it differs from the test set, ``predict_set`` in
    ``setup(stage)``; and ``collate_fn`` if the default does not fit. A data set with ``__getitems__`` returns a whole,
    already collated batch (see :class:`framework.data.arrays.ArrayDataset`), which is fastest for small data. Random
    augmentation draws from torch's, numpy's or Python's global generator, which the loader seeds for each batch.

    Args:
        batch_size: Number of samples in a training batch, per process.
        eval_batch_size: Number of samples in a validation, test or predict batch; ``batch_size`` by default.
        num_workers: Number of loader processes.
        drop_last: Whether training drops an incomplete last batch.

    Raises:
        UserError: a size is not accepted.
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
        at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        at_least(0, num_workers=num_workers)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size or batch_size
        self.num_workers = num_workers
        self.drop_last = drop_last

    def _ranks(self) -> tuple[int, int]:
        trainer = self.trainer
        return (1, 0) if trainer is None else (trainer.world_size, trainer.global_rank)

    def _loader(self, dataset: Dataset | None, train: bool) -> Any:
        """Returns a loader of ``dataset``.

        Map-style data gets an :class:`~framework.data.loader.ExactLoader`. An iterable data set, which decides its own
        order, gets a plain ``DataLoader``, and a run on it cannot be resumed within an epoch.

        Raises:
            UserError: there is no such data set.
        """
        if dataset is None:
            what = "train_set" if train else "data set for this stage"
            raise UserError(f"{type(self).__name__} has no {what}: its setup did not set one")
        batch_size = self.batch_size if train else self.eval_batch_size
        if isinstance(dataset, IterableDataset):
            return DataLoader(
                dataset,
                batch_size=batch_size,
                num_workers=self.num_workers,
                drop_last=train and self.drop_last,
                collate_fn=self.collate_fn,
            )
        seed = torch.initial_seed()
        overfit = False
        if self.trainer is not None:
            overfit = bool(getattr(self.trainer, "overfit_batches", 0))
            if self.trainer.world_size > 1:  # without a seed ranks would differ, but they must have the same order
                seed = self.trainer.strategy.broadcast(seed)
        return ExactLoader(
            dataset,
            batch_size=batch_size,
            shuffle=train and not overfit,
            num_workers=self.num_workers,
            drop_last=train and self.drop_last,
            collate_fn=self.collate_fn,
            seed=seed,
            per_epoch=train,
            ranks=self._ranks,
        )

    def train_dataloader(self) -> Any:
        """Returns shuffled batches of ``train_set``."""
        return self._loader(self.train_set, train=True)

    def val_dataloader(self) -> Any:
        """Returns batches of ``val_set`` in order; without one an empty list, so that validation is skipped."""
        return [] if self.val_set is None else self._loader(self.val_set, train=False)

    def test_dataloader(self) -> Any:
        """Returns batches of ``test_set`` in order."""
        return self._loader(self.test_set, train=False)

    def predict_dataloader(self) -> Any:
        """Returns batches of ``predict_set`` in order, by default those of the test set."""
        return self._loader(self.predict_set or self.test_set, train=False)
