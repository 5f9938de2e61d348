"""Reads the codes of a part of the data, in the same batches on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset

from framework.data.loader import ExactLoader
from framework.data.seeding import seeded
from framework.errors import UserError
from framework.functional.neural_code import CodeReader, VaryingColumns, hash_codes, pack_bits
from framework.observing.probe import pair_of
from framework.protocols import HasExamples


@dataclass(frozen=True)
class Read:
    """What was read of one part, the same on all processes.

    Attributes:
        total: Number of examples in the data set.
        ids: Index of each example in its data set, (n,).
        hashes: Of their codes, int64 (n, 2).
        labels: Classes (n,); -1 if the data has none.
        kept: Positions in ``ids`` of the examples whose codes were kept, (k,).
        packed: Those codes, uint8 (k, ⌈D/8⌉).
        columns: Which columns vary.
    """

    total: int
    ids: np.ndarray
    hashes: np.ndarray
    labels: np.ndarray
    kept: np.ndarray
    packed: np.ndarray
    columns: VaryingColumns

    @property
    def distinct(self) -> int:
        """m, the number of distinct codes."""
        return len(np.unique(self.hashes, axis=0))


def dataset_of(trainer: pl.Trainer, part: str, key: str) -> tuple[Any, Callable[[Any], Any] | None, int]:
    """Returns the data set of a part, its collate function and the number of workers.

    Args:
        trainer: The run's Trainer.
        part: ``train``, ``val`` or ``test``.
        key: The setting, for messages.

    Raises:
        UserError: there is none, or it has no length.
    """
    data = getattr(trainer, "datamodule", None)
    workers = getattr(data, "num_workers", 0)
    if isinstance(data, HasExamples):
        return data.examples(part), getattr(data, "collate_fn", None), workers
    found, collate = getattr(data, f"{part}_set", None), getattr(data, "collate_fn", None)
    if found is None:
        if part == "val" and trainer.state.fn == "fit" and trainer.val_dataloaders is None:
            trainer.fit_loop.epoch_loop.val_loop.setup_data()  # Lightning does it before the first validation
        loaders = trainer.train_dataloader if part == "train" else getattr(trainer, f"{part}_dataloaders", None)
        loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
        found, collate = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
    if found is None:
        raise UserError(f"{key}: there is no {part} data whose codes could be read")
    if isinstance(found, IterableDataset) or not hasattr(found, "__len__"):
        raise UserError(f"{key}: the {part} data has no length; codes are read from data sets of numbered examples")
    return found, collate, workers


def choose_rows(total: int, most: int | None, seed: int = 0) -> np.ndarray:
    """Returns the numbers 0 to ``total`` − 1 in order or, of more than ``most``, that many drawn at random.

    Args:
        total: Number of examples.
        most: Largest number to return; ``None`` for all.
        seed: Seed of the draw.
    """
    if most is None or total <= most:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, most, replace=False))


def own_batches(count: int, size: int, world: int) -> Tensor:
    """Returns positions such that process r of ``world``, reading every ``world``-th, gets whole batches of ``size``.

    The batches are those of one process; the last ones are filled up with the last example, so that all have one size.

    Args:
        count: Number of examples.
        size: Examples in a batch.
        world: Number of processes.
    """
    batches = -(-count // (size * world))
    turn, rank = torch.arange(batches * size)[:, None], torch.arange(world)[None]
    return ((turn // size * world + rank) * size + turn % size).clamp(max=count - 1).flatten()


@contextmanager
def first_rank_buffers(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """A context manager in which all processes have the buffers of the first; its own are put back afterwards.

    Between two steps the running averages of batch norm differ, and codes must be those of one network.
    """
    if trainer.world_size == 1:
        yield
        return
    buffers = list(module.buffers())
    own = [buffer.clone() for buffer in buffers]
    first = trainer.strategy.broadcast([buffer.cpu() for buffer in buffers])
    try:
        with torch.no_grad():
            for buffer, value in zip(buffers, first, strict=True):
                buffer.copy_(value)
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, own, strict=True):
                buffer.copy_(value)


class PartReader:
    """Reads codes of the run's data.

    Args:
        trainer: The run's Trainer.
        module: The module.
        make: Makes the reader of codes from some inputs.
        batch_size: Examples in a batch.
        key: Name of the technique, for messages.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        make: Callable[[Tensor], CodeReader],
        batch_size: int,
        key: str,
    ) -> None:
        self.trainer, self.module, self.make, self.size, self.key = trainer, module, make, batch_size, key
        self.codes: CodeReader | None = None

    def read(self, part: str, most: int | None, keep: int | None) -> Read:
        """Reads one part; on several processes each reads its share, and all get the whole.

        Args:
            part: ``train``, ``val`` or ``test``.
            most: Largest number of examples; ``None`` for all.
            keep: Largest number of codes to keep; ``None`` for all.

        Raises:
            UserError: there is no such data, or a batch has another form.
        """
        dataset, collate, workers = dataset_of(self.trainer, part, f"{self.key}.parts")
        ids = choose_rows(len(dataset), most)
        if not len(ids):
            raise UserError(f"{self.key}.parts: the {part} data is empty")
        kept = np.isin(np.arange(len(ids)), choose_rows(len(ids), keep, seed=1))
        world, rank = self.trainer.world_size, self.trainer.global_rank
        positions = own_batches(len(ids), self.size, world)
        loader = ExactLoader(
            Subset(dataset, ids[positions.numpy()].tolist()),
            self.size,
            num_workers=workers,
            collate_fn=collate,
            seed=0,
            ranks=lambda: (world, rank),
        )
        own = positions[rank::world].numpy()
        return self._gathered(len(dataset), ids, kept, *self._pass(loader, own, kept))

    def _pass(self, loader: ExactLoader, own: np.ndarray, kept: np.ndarray) -> tuple[Any, ...]:
        hashes = np.empty((len(own), 2), np.int64)
        labels = np.full(len(own), -1, np.int64)
        packed: list[np.ndarray] = []
        columns: VaryingColumns | None = None
        with seeded(0):  # for modules that draw random numbers in evaluation too
            for number, batch in enumerate(loader):
                rows = slice(number * self.size, (number + 1) * self.size)
                x, y = pair_of(batch, self.key)
                if len(x) != self.size:
                    raise UserError(
                        f"{self.key}: {self.size} examples were read at once, and the data set returned {len(x)}; "
                        "codes need a data set of single examples"
                    )
                if self.codes is None:
                    self.codes = self.make(x)
                if columns is None:
                    columns = VaryingColumns(self.codes.bits)
                code = pack_bits(self.codes(x))
                columns.update(code)  # what fills up a batch changes no column
                hashes[rows] = hash_codes(code)
                if y.ndim == 1 and not y.is_floating_point():
                    labels[rows] = y.cpu().numpy()
                packed.append(code[kept[own[rows]]])
        assert columns is not None
        return own, hashes, labels, np.concatenate(packed), columns

    def _gathered(
        self,
        total: int,
        ids: np.ndarray,
        kept: np.ndarray,
        own: np.ndarray,
        hashes: np.ndarray,
        labels: np.ndarray,
        packed: np.ndarray,
        columns: VaryingColumns,
    ) -> Read:
        """Puts the shares of all processes in the order of one; of repeated examples one stays."""
        count, world = len(ids), self.trainer.world_size
        positions = own_batches(count, self.size, world).numpy().reshape(-1, world).T  # (world, share)
        mine = [kept[row] for row in positions]
        longest = max(int(row.sum()) for row in mine)
        filled = np.zeros((longest, packed.shape[1]), np.uint8)
        filled[: len(packed)] = packed
        all_hashes, all_labels, all_packed = (self._all(array) for array in (hashes, labels, filled))
        sides = self._all(np.stack([columns.ones, columns.zeros]))
        columns.ones, columns.zeros = np.bitwise_or.reduce(sides, axis=0)
        flat = positions.reshape(-1)
        found_hashes, found_labels = np.empty((count, 2), np.int64), np.empty(count, np.int64)
        found_hashes[flat], found_labels[flat] = all_hashes.reshape(-1, 2), all_labels.reshape(-1)
        codes = np.empty((int(kept.sum()), packed.shape[1]), np.uint8)
        place = np.cumsum(kept) - 1
        for row, chosen, part in zip(positions, mine, all_packed, strict=True):
            codes[place[row[chosen]]] = part[: int(chosen.sum())]
        return Read(total, ids, found_hashes, found_labels, np.flatnonzero(kept), codes, columns)

    def _all(self, array: np.ndarray) -> np.ndarray:
        """Returns the arrays of all processes, (world, …)."""
        if self.trainer.world_size == 1:
            return array[None]
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.module.device)
        found: Any = self.trainer.strategy.all_gather(tensor)
        return found.cpu().numpy()
