"""Hierarchical equality: whether two pairs of vectors are alike, with three algorithms (arXiv 2507.08802).

The task and its generators are those of the paper's appendix I; Geiger et al. 2024 (arXiv 2303.02536) introduced it.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.interpretability.interventions import (
    VECTOR,
    AlgorithmData,
    InterventionSet,
    Sample,
    coins,
    pairs_of,
    vectors,
)
from framework.settings import one_of

EqualityAlgorithm = Literal["both", "left", "first"]
_NODES = {None: 0, "both": 2, "left": 1, "first": 1}


def equality_samples(count: int, generator: torch.Generator) -> Sample:
    """Draws x (N, 16) and y = [(x1 == x2) == (x3 == x4)] (N,); each pair of vectors is equal with probability 1/2."""
    same = coins(count, 2, generator=generator)
    return pairs_of(same, generator), (same[:, 0] == same[:, 1]).long()


def equality_interventions(count: int, algorithm: EqualityAlgorithm, generator: torch.Generator) -> InterventionSet:
    """Draws interventions of one of the task's algorithms.

    - ``both``: η1 = [x1 == x2], η2 = [x3 == x4]; on η1, on η2 or on both, each with probability 1/3.
    - ``left``: η1 = [x1 == x2], always.
    - ``first``: η1 = x1, always; with probability 1/2 the source's x1 is the base's x2, else new.

    Args:
        count: N.
        algorithm: The algorithm.
        generator: Source of randomness.

    Raises:
        UserError: there is no such algorithm.
    """
    one_of(get_args(EqualityAlgorithm), algorithm=algorithm)
    same = coins(count, 2, generator=generator)
    base, base_y = pairs_of(same, generator), (same[:, 0] == same[:, 1]).long()
    if algorithm == "first":
        keep, equal, other = (coins(count, generator=generator) for _ in range(3))
        x1 = torch.where(keep[:, None], base[:, VECTOR : 2 * VECTOR], vectors(count, generator))
        x2 = torch.where(equal[:, None], x1, vectors(count, generator))
        source = torch.cat([x1, x2, pairs_of(other[:, None], generator)], 1)
        return InterventionSet(base, source, _always(count), y=(keep == same[:, 1]).long(), base_y=base_y)
    nodes = _NODES[algorithm]
    bits = coins(count, nodes, 2, generator=generator)
    sources = pairs_of(bits.flatten(0, 1), generator)
    which = torch.randint(1, 4, (count,), generator=generator) if algorithm == "both" else torch.ones(count).long()
    intervened = torch.stack([(which & 1 << node) > 0 for node in range(nodes)], 1)
    mixed = same.clone()
    for node in range(nodes):
        mixed[:, node] = torch.where(intervened[:, node], bits[:, node, node], same[:, node])
    y = (mixed[:, 0] == mixed[:, 1]).long()
    return InterventionSet(base, sources, intervened, y=y, base_y=base_y)


def _always(count: int) -> Tensor:
    return torch.ones(count, 1, dtype=torch.bool)


class HierarchicalEquality(AlgorithmData):
    """x in ℝ^16, y = [(x1 == x2) == (x3 == x4)] for its four vectors; or interventions of an algorithm of it.

    Batches are ``(x, y)``, or with an algorithm those of :class:`InterventionSet`.

    Reads: nothing.

    Args:
        algorithm: ``both`` (both equalities), ``left`` (the first one), ``first`` (the identity of x1), see
            :func:`equality_interventions`; without one the task itself.
        train_samples: Number of samples, or of interventions, to train on.
        val_samples: For validation.
        test_samples: For the test.
        host_samples: Samples of the task for a host that the method trains before.
        seed: Of the data.
        batch_size: Samples in a training batch, per process.
        eval_batch_size: Samples in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.

    Attributes:
        inputs: 16.
        num_classes: 2.
        nodes: Nodes of the algorithm, 0 without one.

    Raises:
        UserError: a setting is not accepted.
    """

    inputs = 4 * VECTOR

    def __init__(
        self,
        algorithm: EqualityAlgorithm | None = None,
        train_samples: int = 128_000,
        val_samples: int = 10_000,
        test_samples: int = 10_000,
        host_samples: int = 2**19,
        seed: int = 0,
        batch_size: int = 1280,
        eval_batch_size: int | None = 10_000,
        num_workers: int = 0,
    ) -> None:
        one_of(get_args(EqualityAlgorithm), algorithm=algorithm)
        super().__init__(
            algorithm,
            _NODES[algorithm],
            train_samples,
            val_samples,
            test_samples,
            host_samples,
            seed,
            batch_size,
            eval_batch_size,
            num_workers,
        )

    def samples(self, count: int, generator: torch.Generator) -> Sample:
        """See :func:`equality_samples`."""
        return equality_samples(count, generator)

    def interventions(self, count: int, generator: torch.Generator) -> InterventionSet:
        """See :func:`equality_interventions`."""
        assert self.algorithm is not None
        return equality_interventions(count, self.algorithm, generator)  # type: ignore[arg-type]
