"""Interventions of both tasks against a slow evaluator of the algorithms, and their rates."""

from __future__ import annotations

import random

import pytest
import torch

from datamodules.interpretability.distributive_law import DistributiveLaw, distributive_interventions
from datamodules.interpretability.hierarchical_equality import HierarchicalEquality, equality_interventions
from datamodules.interpretability.interventions import InterventionSet
from framework.errors import UserError

COUNT, MANY = 10_000, 100_000


def vectors_of(row):
    return [tuple(row[i : i + 4]) for i in range(0, len(row), 4)]


def nodes_of(row, algorithm):
    """The values of an algorithm's inner nodes, by comparing the vectors of one input."""
    v = vectors_of(row)
    if algorithm == "both":
        return [v[0] == v[1], v[2] == v[3]]
    if algorithm == "left":
        return [v[0] == v[1]]
    if algorithm == "first":
        return [v[0]]
    e1, e2, e3 = (v[i] == v[i + 1] for i in (0, 2, 4))
    return [e1 and e2, e2 and e3] if algorithm == "and_or_and" else [e2, e1 or e3]


def answer_of(row, nodes, algorithm):
    """The algorithm's output for an input, given the values of its nodes."""
    v = vectors_of(row)
    if algorithm == "both":
        return nodes[0] == nodes[1]
    if algorithm == "left":
        return nodes[0] == (v[2] == v[3])
    if algorithm == "first":
        return (nodes[0] == v[1]) == (v[2] == v[3])
    return (nodes[0] or nodes[1]) if algorithm == "and_or_and" else (nodes[0] and nodes[1])


def draw(algorithm, count=COUNT, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if algorithm in ("both", "left", "first"):
        return equality_interventions(count, algorithm, generator)
    return distributive_interventions(count, algorithm, generator)


ALGORITHMS = ("both", "left", "first", "and_or_and", "and_or")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_labels_by_a_slow_evaluator(algorithm):
    """Check 5: every label of 10,000 interventions."""
    batch = draw(algorithm).__getitems__(list(range(COUNT)))
    lists = {name: value.tolist() for name, value in batch.items()}
    for base, sources, nodes, y, base_y in zip(
        *(lists[name] for name in ("base", "sources", "nodes", "y", "base_y")), strict=True
    ):
        own = nodes_of(base, algorithm)
        mixed = [
            nodes_of(source, algorithm)[i] if on else own[i]
            for i, (on, source) in enumerate(zip(nodes, sources, strict=True))
        ]
        assert answer_of(base, mixed, algorithm) == bool(y)
        assert answer_of(base, own, algorithm) == bool(base_y)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_rates(algorithm):
    """Check 5, on as many that 0.01 is six standard deviations."""
    data = draw(algorithm, MANY)
    columns, nodes = data.columns, data.nodes
    flipped = float((columns["y"] != columns["base_y"]).double().mean())
    if nodes.shape[1] == 2:
        kinds = (nodes * torch.tensor([1, 2])).sum(1).bincount(minlength=4)
        assert kinds[0] == 0
        assert all(abs(float(kind) / MANY - 1 / 3) < 0.01 for kind in kinds[1:])
    if algorithm in ("both", "left", "first"):
        assert 0.48 <= float(columns["y"].double().mean()) <= 0.52
    else:
        assert abs(flipped - 0.5) < 0.01


@pytest.mark.parametrize("algorithm", ["and_or_and", "and_or"])
def test_the_distribution_is_that_of_rejection_sampling(algorithm):
    """60,000 draws without a loop against 10,000 of the loop."""
    rng = random.Random(1)

    def bits():  # of a sample of the task: the output first, then triples until it fits
        wanted = rng.random() < 0.5
        while True:
            e1, e2, e3 = (rng.random() < 0.5 for _ in range(3))
            if (e2 and (e1 or e3)) == wanted:
                return e1, e2, e3

    def values(e1, e2, e3):
        return [e1 and e2, e2 and e3] if algorithm == "and_or_and" else [e2, e1 or e3]

    def output(nodes):
        return (nodes[0] or nodes[1]) if algorithm == "and_or_and" else (nodes[0] and nodes[1])

    def reachable(own, on, flip):
        others = [v for v in ([a, b] for a in (False, True) for b in (False, True))]
        return any(
            (output([o if i else b for i, o, b in zip(on, v, own, strict=True)]) != output(own)) == flip for v in others
        )

    counts = torch.zeros(3, 2, 2, dtype=torch.float64)
    for _ in range(10_000):
        which = rng.randrange(3)
        on = [(True, False), (False, True), (True, True)][which]
        flip = rng.random() < 0.5
        own = values(*bits())
        while not reachable(own, on, flip):
            own = values(*bits())
        while True:
            mixed = [values(*bits())[i] if on[i] else own[i] for i in range(2)]
            if (output(mixed) != output(own)) == flip:
                break
        counts[which, int(own[0]), int(own[1])] += 1
    slow = counts / counts.sum()
    data = draw(algorithm, 60_000)
    batch = data.__getitems__(list(range(60_000)))
    base = batch["base"].view(-1, 3, 2, 4)
    e1, e2, e3 = (base[:, :, 0] == base[:, :, 1]).all(-1).T
    own = torch.stack([e1 & e2, e2 & e3] if algorithm == "and_or_and" else [e2, e1 | e3], 1).long()
    which = (batch["nodes"] * torch.tensor([1, 2])).sum(1) - 1
    fast = torch.zeros(3, 2, 2, dtype=torch.float64)
    fast.index_put_((which, own[:, 0], own[:, 1]), torch.ones(60_000).double() / 60_000, accumulate=True)
    assert float((fast - slow).abs().max()) < 0.015


def test_the_first_argument_is_what_changes():
    batch = draw("first", 200).__getitems__(list(range(200)))
    keeps = (batch["sources"][:, 0, :4] == batch["base"][:, 4:8]).all(1)
    assert 60 < int(keeps.sum()) < 140
    assert float(batch["base"].abs().max()) <= 0.5


def test_sets_are_seeded_and_independent_of_each_other():
    first, again, other = (HierarchicalEquality("both", 50, 20, 20, seed=seed) for seed in (0, 0, 1))
    longer = HierarchicalEquality("both", 90, 20, 20)
    for data in (first, again, other, longer):
        data.setup()
    assert torch.equal(first.train_set.bases, again.train_set.bases)
    assert not torch.equal(first.train_set.bases, other.train_set.bases)
    assert torch.equal(first.val_set.bases, longer.val_set.bases)
    assert not torch.equal(first.val_set.bases, first.test_set.bases)


@pytest.mark.parametrize("data", [HierarchicalEquality, DistributiveLaw])
def test_the_task_itself(data):
    module = data(train_samples=4000, val_samples=20, test_samples=20, host_samples=30)
    module.setup()
    x, y = module.train_set.tensors
    assert x.shape == (4000, module.inputs)
    assert 0.46 < float(y.double().mean()) < 0.54
    algorithm = "both" if data is HierarchicalEquality else "and_or_and"
    for row, label in zip(x[:200].tolist(), y[:200].tolist(), strict=True):
        assert answer_of(row, nodes_of(row, algorithm), algorithm) == bool(label)
    (train_x, _), (val_x, _) = module.task()
    assert (len(train_x), len(val_x)) == (30, 10_000)
    assert module.nodes == 0


def test_a_batch_refers_to_inputs():
    inputs = torch.arange(12.0).view(6, 2)
    nodes = torch.tensor([[1, 0], [1, 1]])
    data = InterventionSet(
        inputs, inputs, nodes, torch.tensor([5, 0]), torch.tensor([[1, 2], [3, 3]]), y=torch.tensor([1, 0])
    )
    batch = data[1]
    assert torch.equal(batch["base"], inputs[0])
    assert torch.equal(batch["sources"], inputs[[3, 3]])
    assert (int(batch["base_rows"]), batch["source_rows"].tolist(), len(data)) == (0, [3, 3], 2)
    assert data.pools == {"base": 6, "sources": 6}


def test_what_is_refused():
    with pytest.raises(UserError, match="algorithm: 'right' is not one of both, left, first"):
        HierarchicalEquality("right")
    with pytest.raises(UserError, match="algorithm: 'and' is not one of and_or_and, and_or"):
        DistributiveLaw("and")
    with pytest.raises(UserError, match="train_samples: 0 is not accepted"):
        DistributiveLaw(train_samples=0)
