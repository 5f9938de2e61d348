"""The distributive law: (e1 and e2) or (e2 and e3) of three equalities, with two algorithms (arXiv 2507.08802)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from datamodules.interpretability.interventions import VECTOR, AlgorithmData, InterventionSet, Sample, coins, pairs_of
from framework.settings import one_of

DistributiveAlgorithm = Literal["and_or_and", "and_or"]
TRIPLES = torch.cartesian_prod(*[torch.tensor([False, True])] * 3)
"""All values of (e1, e2, e3), (8, 3)."""
SETS = torch.tensor([[True, False], [False, True], [True, True]])
"""Which of the two nodes are intervened on, each with probability 1/3."""


def node_values(bits: Tensor, algorithm: DistributiveAlgorithm) -> Tensor:
    """Returns the nodes (…, 2) of bits (…, 3).

    ``and_or_and``: η1 = e1 and e2, η2 = e2 and e3; ``and_or``: η1 = e2, η2 = e1 or e3.
    """
    e1, e2, e3 = bits.unbind(-1)
    return torch.stack([e1 & e2, e2 & e3] if algorithm == "and_or_and" else [e2, e1 | e3], -1)


def output_of(nodes: Tensor, algorithm: DistributiveAlgorithm) -> Tensor:
    """Returns the output (…) of nodes (…, 2): η1 or η2, and η1 and η2."""
    first, second = nodes.unbind(-1)
    return first | second if algorithm == "and_or_and" else first & second


OUTPUTS = output_of(node_values(TRIPLES, "and_or"), "and_or")
WEIGHTS = torch.where(OUTPUTS, 0.5 / OUTPUTS.sum(), 0.5 / (~OUTPUTS).sum()).double()
"""Of each triple in the task: true and false outputs are equally likely."""


def distributive_samples(count: int, generator: torch.Generator) -> Sample:
    """Draws x (N, 24) and y (N,); y is true with probability 1/2, and given y all (e1, e2, e3) are equally likely."""
    which = _draw(WEIGHTS, count, generator)
    return pairs_of(TRIPLES[which], generator), OUTPUTS[which].long()


def _draw(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns indices (count,) with probabilities in proportion to ``weights`` (n,)."""
    ends = weights.cumsum(0)
    return torch.searchsorted(ends, torch.rand(count, generator=generator, dtype=ends.dtype) * ends[-1], right=True)


def distributive_interventions(
    count: int, algorithm: DistributiveAlgorithm, generator: torch.Generator
) -> InterventionSet:
    """Draws interventions of which half change the output of the base.

    For each the intervened nodes and whether the output changes are drawn first. Bases that cannot give this are left
    out, the others are as likely as in the task; so are the sources among all that give it. That is the authors'
    rejection sampling, without its loop.

    Args:
        count: N.
        algorithm: ``and_or_and`` or ``and_or``, see :func:`node_values`.
        generator: Source of randomness.

    Raises:
        UserError: there is no such algorithm.
    """
    one_of(get_args(DistributiveAlgorithm), algorithm=algorithm)
    which = torch.randint(len(SETS), (count,), generator=generator)
    flips = coins(count, generator=generator)
    values = node_values(TRIPLES, algorithm)
    # the output of each base with each pair of sources: nodes (base, source 1, source 2, 2)
    pairs = (WEIGHTS[:, None] * WEIGHTS).flatten()
    grid = [torch.cartesian_prod(*[torch.arange(8)] * 3)[:, i].view(8, 8, 8) for i in range(3)]
    base, first, second = torch.empty(count).long(), torch.empty(count).long(), torch.empty(count).long()
    for number, nodes in enumerate(SETS):
        sources = torch.stack([values[grid[1]][..., 0], values[grid[2]][..., 1]], -1)
        mixed = output_of(torch.where(nodes, sources, values[grid[0]]), algorithm)
        changed = (mixed != OUTPUTS[:, None, None]).flatten(1)
        for flip in (False, True):
            accepted = changed == flip
            rows = ((which == number) & (flips == flip)).nonzero()[:, 0]
            base[rows] = _draw(WEIGHTS * accepted.any(1), len(rows), generator)
            for triple in range(8):
                own = rows[base[rows] == triple]
                if len(own):
                    drawn = _draw(pairs * accepted[triple], len(own), generator)
                    first[own], second[own] = drawn // 8, drawn % 8
    intervened = SETS[which]
    sources = torch.stack([values[first][:, 0], values[second][:, 1]], 1)
    y = output_of(torch.where(intervened, sources, values[base]), algorithm).long()
    inputs = pairs_of(TRIPLES[torch.stack([first, second], 1).flatten()], generator)
    return InterventionSet(pairs_of(TRIPLES[base], generator), inputs, intervened, y=y, base_y=OUTPUTS[base].long())


class DistributiveLaw(AlgorithmData):
    """x in ℝ^24, y = (e1 and e2) or (e2 and e3) for the equalities of its three pairs; or interventions.

    Batches are ``(x, y)``, or with an algorithm those of :class:`InterventionSet`.

    Reads: nothing.

    Args:
        algorithm: ``and_or_and`` or ``and_or``, see :func:`node_values`; without one the task itself.
        train_samples: Number of samples, or of interventions, to train on.
        val_samples: For validation.
        test_samples: For the test.
        host_samples: Samples of the task for a host that the method trains before.
        seed: Of the data.
        batch_size: Samples in a training batch, per process.
        eval_batch_size: Samples in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.

    Attributes:
        inputs: 24.
        num_classes: 2.
        nodes: Nodes of the algorithm, 0 without one.

    Raises:
        UserError: a setting is not accepted.
    """

    inputs = 6 * VECTOR

    def __init__(
        self,
        algorithm: DistributiveAlgorithm | None = None,
        train_samples: int = 128_000,
        val_samples: int = 10_000,
        test_samples: int = 10_000,
        host_samples: int = 2**19,
        seed: int = 0,
        batch_size: int = 1280,
        eval_batch_size: int | None = 10_000,
        num_workers: int = 0,
    ) -> None:
        one_of(get_args(DistributiveAlgorithm), algorithm=algorithm)
        super().__init__(
            algorithm,
            0 if algorithm is None else 2,
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
        """See :func:`distributive_samples`."""
        return distributive_samples(count, generator)

    def interventions(self, count: int, generator: torch.Generator) -> InterventionSet:
        """See :func:`distributive_interventions`."""
        assert self.algorithm is not None
        return distributive_interventions(count, self.algorithm, generator)  # type: ignore[arg-type]
