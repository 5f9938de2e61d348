"""Interchange interventions as a data set, and the base class of the data of an algorithm (arXiv 2507.08802)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.data.seeding import mix
from framework.settings import at_least

VECTOR = 4
"""Numbers in each vector that is compared."""

Sample = tuple[Tensor, Tensor]


class InterventionSet(Dataset):
    """Interventions by reference to inputs: reading a batch is a few index operations.

    A batch is a mapping: ``base`` (B, …), ``sources`` (B, m, …), ``nodes`` (B, m) of 0 and 1, ``base_rows`` (B,) and
    ``source_rows`` (B, m), and the columns (B,).

    Args:
        bases: Inputs (P, …).
        sources: Inputs (Q, …); may be the same tensor.
        nodes: Which nodes are intervened on, (N, m).
        base_rows: Which input each intervention has, (N,); the first N by default.
        source_rows: Which source each node has, (N, m); by default the first N m, in order.
        **columns: Further columns (N,): ``y`` and ``base_y``, the output with and without the intervention.

    Attributes:
        pools: Number of inputs, by name.
    """

    draws_random_numbers = False

    def __init__(
        self,
        bases: Tensor,
        sources: Tensor,
        nodes: Tensor,
        base_rows: Tensor | None = None,
        source_rows: Tensor | None = None,
        **columns: Tensor,
    ) -> None:
        self.bases, self.sources, self.nodes = bases, sources, nodes
        self.base_rows = torch.arange(len(nodes)) if base_rows is None else base_rows
        self.source_rows = torch.arange(nodes.numel()).view(nodes.shape) if source_rows is None else source_rows
        self.columns = columns
        self.pools = {"base": len(bases), "sources": len(sources)}

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Returns the batch at ``indices``."""
        rows = torch.as_tensor(indices)
        base, sources = self.base_rows[rows], self.source_rows[rows]
        found = {name: value[rows] for name, value in self.columns.items()}
        own = self.sources.index_select(0, sources.flatten()).unflatten(0, sources.shape)  # faster than [sources]
        found |= {"base": self.bases.index_select(0, base), "sources": own, "nodes": self.nodes[rows].long()}
        return {**found, "base_rows": base, "source_rows": sources}


def vectors(count: int, generator: torch.Generator) -> Tensor:
    """Returns random vectors (count, 4), each number from U(-0.5, 0.5)."""
    return torch.rand(count, VECTOR, generator=generator) - 0.5


def coins(*shape: int, generator: torch.Generator) -> Tensor:
    """Returns fair bits."""
    return torch.rand(*shape, generator=generator) < 0.5


def pairs_of(same: Tensor, generator: torch.Generator) -> Tensor:
    """Returns pairs of vectors that are equal where the bits (N, k) are true, else independent: (N, 8 k)."""
    first, second = (torch.rand(*same.shape, VECTOR, generator=generator) - 0.5 for _ in range(2))
    return torch.stack([first, torch.where(same[..., None], first, second)], 2).flatten(1)


class AlgorithmData(DataModule):
    """The base class: samples of a task, or interventions of an algorithm that computes it.

    Without an algorithm batches are ``(x, y)`` for the training of a network, float32 (B, inputs) and int64 (B,); with
    one they are those of :class:`InterventionSet`. A subclass defines :meth:`samples` and :meth:`interventions`.

    Args:
        algorithm: The algorithm, or ``None``.
        nodes: Its number of nodes; 0 without one.
        train_samples: Number of samples, or of interventions, to train on.
        val_samples: For validation.
        test_samples: For the test.
        host_samples: Samples of the task for a host that the method trains before.
        seed: Of the data.
        batch_size: Samples in a training batch, per process.
        eval_batch_size: Samples in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.

    Attributes:
        inputs: Numbers in an input.
        num_classes: 2.
        nodes: Nodes of the algorithm.

    Raises:
        UserError: a setting is not accepted.
    """

    inputs: int
    num_classes = 2

    def __init__(
        self,
        algorithm: str | None,
        nodes: int,
        train_samples: int,
        val_samples: int,
        test_samples: int,
        host_samples: int,
        seed: int,
        batch_size: int,
        eval_batch_size: int | None,
        num_workers: int,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        at_least(1, train_samples=train_samples, val_samples=val_samples, test_samples=test_samples)
        at_least(1, host_samples=host_samples)
        self.algorithm, self.nodes = algorithm, nodes
        self.counts = {"train": train_samples, "val": val_samples, "test": test_samples}
        self.host_samples, self.seed = host_samples, seed

    def generator(self, part: str) -> torch.Generator:
        """Returns the source of randomness of a part, which is independent of the sizes of the others."""
        number = ("train", "val", "test", "host", "host_val").index(part)
        return torch.Generator().manual_seed(mix(self.seed, number))

    def samples(self, count: int, generator: torch.Generator) -> Sample:
        """Draws inputs (count, inputs) and outputs (count,) of the task."""
        raise NotImplementedError

    def interventions(self, count: int, generator: torch.Generator) -> InterventionSet:
        """Draws interventions of the algorithm."""
        raise NotImplementedError

    def task(self) -> tuple[Sample, Sample]:
        """Returns samples of the task to train a host on, and 10,000 to evaluate it."""
        return (
            self.samples(self.host_samples, self.generator("host")),
            self.samples(10_000, self.generator("host_val")),
        )

    def setup(self, stage: str | None = None) -> None:
        """Draws the data, once."""
        if self.train_set is not None:
            return
        draw: Any = (lambda n, g: ArrayDataset(*self.samples(n, g))) if self.algorithm is None else self.interventions
        self.train_set, self.val_set, self.test_set = (
            draw(count, self.generator(part)) for part, count in self.counts.items()
        )
