"""A loader whose order and augmentation depend only on (seed, epoch, position), so that it can resume anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from framework.data.arrays import ArrayDataset
from framework.data.seeding import mix, seed_generators, seeded
from framework.errors import UserError


def draws_random_numbers(dataset: Any) -> bool:
    """Returns whether reading ``dataset`` may draw from a global generator.

    A data set can declare it by an attribute ``draws_random_numbers``; without one, only classes known to be plain
    indexing are treated as not random.
    """
    said = getattr(dataset, "draws_random_numbers", None)
    if said is not None:
        return bool(said)
    if type(dataset) is Subset:
        return draws_random_numbers(dataset.dataset)
    if type(dataset) is ArrayDataset:
        return dataset.transform is not None
    return type(dataset) is not TensorDataset


def process_ranks() -> tuple[int, int]:
    """Returns ``(world size, rank)`` of this process in torch's default process group; ``(1, 0)`` without one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


class _Seeded(Dataset):
    """Reads one batch, ``(seed, indices)``, with the global generators seeded; collates it."""

    def __init__(self, dataset: Any, collate_fn: Callable[[Any], Any] | None, random: bool, restore: bool) -> None:
        self.dataset = dataset
        self.collate_fn = collate_fn
        self.random = random
        self.restore = restore  # a worker's generators have no other use, so restoring them there would only take time
        self.whole = callable(getattr(dataset, "__getitems__", None))

    def read(self, indices: Any) -> Any:
        if not self.whole:
            return (self.collate_fn or default_collate)([self.dataset[index] for index in indices])
        batch = self.dataset.__getitems__(indices)
        if self.collate_fn is not None:
            return self.collate_fn(batch)
        # torch's own data sets (Subset) return a list of samples, so a list still needs collating
        return default_collate(batch) if type(batch) is list else batch

    def __getitems__(self, request: tuple[int, Any]) -> Any:
        seed, indices = request
        if self.restore and self.random:
            with seeded(seed):
                return self.read(indices)
        if self.restore:
            return self.read(indices)
        if self.random:
            seed_generators(seed)
        try:
            return self.read(indices)
        except UserError as error:  # torch would replace its message by the worker's traceback
            return _Refused(str(error))


@dataclass
class _Refused:
    """A worker's error, passed on instead of a batch."""

    message: str


def _as_is(batch: Any) -> Any:
    return batch


class EpochBatches:
    """The batch sampler of an :class:`ExactLoader`: yields the indices of each batch of this rank's share.

    Lightning looks for ``set_epoch`` in the attribute ``sampler``.
    """

    def __init__(self, loader: ExactLoader) -> None:
        self.sampler = loader

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[int]]:
        for _, indices in self.sampler.requests(0):
            yield indices.tolist()


class ExactLoader:
    """Batches of a map-style data set, the same whether or not the run was interrupted, with any number of workers.

    The order of an epoch is a permutation drawn from (seed, epoch); torch's, numpy's and Python's global generators
    are seeded from (seed, epoch, position) while a batch is read and collated, and given back as they were. Nothing
    is drawn from the global generators. ``set_epoch`` is called by Lightning; without it, every complete pass has an
    order of its own too.

    With several ranks each gets an equal number of batches, of disjoint samples. Training shares are padded to equal
    length by samples from the start of the order; evaluation shares only where a rank would otherwise have a batch
    less than the others.

    A data set with ``__getitems__`` reads a batch in one call: it returns a whole batch, which is used as it is, or a
    list of samples, which is collated. ``collate_fn``, where given, is applied to either.

    Args:
        dataset: A map-style data set. Reading it must depend on nothing but the index and the global generators.
        batch_size: Number of samples in a batch, per rank.
        shuffle: Whether each epoch has a random order.
        num_workers: Number of processes that read batches; 0 reads in this process.
        drop_last: Whether to drop an incomplete last batch.
        collate_fn: Makes a batch from a list of samples; torch's default by default.
        seed: Seed of order and augmentation; ``torch.initial_seed()`` by default. It must be the same on all ranks.
        per_epoch: Whether augmentation differs between epochs; ``shuffle`` by default, so that a random transform of
            evaluation data returns the same samples every time.
        ranks: Returns ``(world size, rank)``; read when an iteration starts.

    Raises:
        ValueError: the batch size is not positive.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 1,
        shuffle: bool = False,
        num_workers: int = 0,
        drop_last: bool = False,
        collate_fn: Callable[[Any], Any] | None = None,
        seed: int | None = None,
        per_epoch: bool | None = None,
        ranks: Callable[[], tuple[int, int]] = process_ranks,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.collate_fn = collate_fn
        self.seed = torch.initial_seed() if seed is None else seed
        self.per_epoch = shuffle if per_epoch is None else per_epoch
        self.ranks = ranks
        self.batch_sampler = EpochBatches(self)
        self.epoch = 0
        self.lap = 0  # complete passes since set_epoch, if the loader is cycled within an epoch
        self.position = 0  # batches yielded in this pass
        self._start = 0

    def __len__(self) -> int:
        share = self.share_length(self.ranks()[0])
        return share // self.batch_size if self.drop_last else -(-share // self.batch_size)

    def share_length(self, world: int) -> int:
        """Number of samples of the rank with the most samples."""
        samples = len(self.dataset)
        return samples // world if self.drop_last else -(-samples // world)

    def share(self, world: int, rank: int) -> Tensor:
        """Returns the indices that ``rank`` of ``world`` reads in this pass, in order, not yet split into batches."""
        samples = len(self.dataset)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix(self.seed, self.epoch, self.lap))
            order = torch.randperm(samples, generator=generator)
        else:
            order = torch.arange(samples)
        if world == 1 or samples == 0:
            return order
        length = self.share_length(world)
        own = order[rank::world]
        if self.drop_last:
            return own[:length]
        # in evaluation a sample read twice would count twice, so only a missing *batch* is filled
        short = self.shuffle or -(-len(own) // self.batch_size) < -(-length // self.batch_size)
        if len(own) < length and short:
            return torch.cat([own, order[:1] if rank >= samples else order[rank % samples][None]])
        return own

    def fills_up(self, position: int) -> bool:
        """Returns whether an evaluation batch only repeats another rank's sample, to have equally many batches."""
        world, rank = self.ranks()
        own = len(range(rank, len(self.dataset), world))
        return not (self.shuffle or self.drop_last) and position * self.batch_size >= own

    def requests(self, start: int) -> Iterator[tuple[int, Tensor]]:
        """Yields ``(seed, indices)`` of each batch of this pass, from batch ``start``."""
        world, rank = self.ranks()
        share = self.share(world, rank)
        epoch, lap = (self.epoch, self.lap) if self.per_epoch else (0, 0)
        base = mix(self.seed, epoch, lap, 1)
        for position in range(start, len(self)):
            indices = share[position * self.batch_size : (position + 1) * self.batch_size]
            yield mix(base, position * world + rank), indices

    def __iter__(self) -> Iterator[Any]:
        # A generator: Lightning calls iter() before set_epoch, and a different number of times on a resume. Nothing
        # happens until the first batch is requested.
        start, self._start = self._start, 0
        self.position = start
        random = self.collate_fn is not None or draws_random_numbers(self.dataset)
        source = _Seeded(self.dataset, self.collate_fn, random, restore=self.num_workers == 0)
        batches = self._here(source, start) if self.num_workers == 0 else self._workers(source, start)
        for batch in batches:
            self.position += 1  # before the yield: code after it runs only when the next batch is requested
            yield batch
        self.lap += 1
        self.position = 0

    def _here(self, source: _Seeded, start: int) -> Iterator[Any]:
        # a tensor of indices saves two conversions, if the data set is known to accept one
        as_tensor = type(self.dataset) is ArrayDataset
        for seed, indices in self.requests(start):
            yield source.__getitems__((seed, indices if as_tensor else indices.tolist()))

    def _workers(self, source: _Seeded, start: int) -> Iterator[Any]:
        requests = [(seed, indices.tolist()) for seed, indices in self.requests(start)]
        batches = DataLoader(
            source,
            batch_sampler=cast(Any, requests),
            num_workers=self.num_workers,
            collate_fn=_as_is,
            generator=torch.Generator().manual_seed(self.seed),  # otherwise each pass would draw from the global one
        )
        for batch in batches:
            if isinstance(batch, _Refused):
                raise UserError(batch.message)
            yield batch

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of ``epoch``, from its start; does nothing if the epoch is the same."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.lap = self.position = self._start = 0

    def state_dict(self) -> dict[str, int]:
        """Returns the loader's position; to be saved between two batches."""
        done = self.position >= len(self)
        world, _ = self.ranks()
        return {
            "seed": self.seed,
            "epoch": self.epoch,
            "lap": self.lap + done,
            "position": 0 if done else self.position,
            "samples": len(self.dataset),
            "global_batch_size": self.batch_size * world,
        }

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resumes at the position of :meth:`state_dict`, with its seed.

        Raises:
            UserError: the state is within an epoch, and the size of the data set or of the batches has changed.
        """
        now = {"samples": len(self.dataset), "global_batch_size": self.batch_size * self.ranks()[0]}
        for key, value in now.items():
            if state["position"] and state.get(key, value) != value:
                raise UserError(
                    f"the checkpoint is within an epoch with {key} = {state[key]}, now it is {value}: the rest of "
                    "the epoch cannot be resumed; use the old value, or resume from a checkpoint of an epoch's end"
                )
        self.seed, self.epoch, self.lap = state["seed"], state["epoch"], state["lap"]
        self.position = self._start = state["position"]
