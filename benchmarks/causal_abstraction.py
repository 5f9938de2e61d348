"""Causal abstraction: steps with cached hidden states against steps that run the host again, and data without loops.

Run: ``python benchmarks/causal_abstraction.py``, one thread. A step is loss, gradients of the alignment map and Adam,
on 1,280 interventions; both kinds give the same loss. The host that outweighs its map is a perceptron of 12 blocks of
256 units, changed in its last but one; the other one is the paper's. The loop draws and labels one intervention at a
time, as the authors' code does.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from _rows import Row, duration, report
from _timing import quietest
from torch import Tensor

from datamodules.interpretability.hierarchical_equality import equality_interventions
from datamodules.interpretability.interventions import InterventionSet
from framework.claims import at_most
from modules.interpretability.causal_abstraction import (
    BlockMLP,
    Interchange,
    InterchangeModel,
    MapConfig,
    build_map,
    contiguous,
)
from modules.interpretability.causal_abstraction.cache import HiddenCache

BATCH, COUNT = 1280, 6400


def step_of(model: InterchangeModel, data: InterventionSet, cached: bool) -> Callable[[], Tensor]:
    """Returns a function that takes one training step on the next batch, and returns its loss."""
    optimizer = torch.optim.Adam(model.alignment.parameters(), lr=0.0, fused=True)
    cache = HiddenCache(data.pools, 1e9)
    batches = [data.__getitems__(rows.tolist()) for rows in torch.arange(COUNT).split(BATCH)]
    turn = [0]

    def step() -> Tensor:
        batch = batches[turn[0] % len(batches)]
        turn[0] += 1
        hidden: tuple[Tensor | None, Tensor | None] = (None, None)
        if cached:
            used = batch["nodes"].bool()
            hidden = (
                cache.get("base", batch["base_rows"], lambda new: model.base_output(batch["base"][new])),
                cache.get(
                    "sources", batch["source_rows"][used], lambda new: model.activity_of(batch["sources"][used][new])
                ),
            )
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch["base"], batch["sources"], batch["nodes"], hidden), batch["y"])
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def loop(count: int) -> list[tuple[list[float], list[list[float]], int]]:
    """Draws interventions of both equalities one after the other."""

    def pair(same: bool) -> list[float]:
        first = [random.uniform(-0.5, 0.5) for _ in range(4)]
        return [*first, *(first if same else [random.uniform(-0.5, 0.5) for _ in range(4)])]

    found = []
    for _ in range(count):
        on = random.choice([(True, False), (False, True), (True, True)])
        bits = [random.random() < 0.5 for _ in range(2)]
        base = [*pair(bits[0]), *pair(bits[1])]
        sources = []
        for node in range(2):
            own = [random.random() < 0.5 for _ in range(2)]
            sources.append([*pair(own[0]), *pair(own[1])])
            bits[node] = own[node] if on[node] else bits[node]
        found.append((base, sources, int(bits[0] == bits[1])))
    return found


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    hosts = {
        "12 blocks of 256 units": (BlockMLP(256, 12), "blocks.10", MapConfig(depth=1, width=16), at_most(1 / 1.5)),
        "the paper's host, RevNet 10x16": (BlockMLP(16), "blocks.2", MapConfig(depth=10, width=16), at_most(1.05)),
        "the paper's host, orthogonal": (BlockMLP(16), "blocks.2", MapConfig("orthogonal"), at_most(1.05)),
    }
    for name, (host, layer, config, bound) in hosts.items():
        torch.manual_seed(0)
        width = host.head.in_features
        data = equality_interventions(COUNT, "both", torch.Generator().manual_seed(0))
        if width > 16:
            data.bases, data.sources = (F.pad(x, (0, width - 16)) for x in (data.bases, data.sources))
        where = Interchange(layer, contiguous(2, width // 2))
        model = InterchangeModel(host, build_map(config, width), where)
        ours, peer = (step_of(model, data, cached) for cached in (True, False))
        for _ in range(COUNT // BATCH):  # fills the cache
            torch.testing.assert_close(ours(), peer(), atol=1e-4, rtol=1e-3)
        our_time, peer_time = quietest([ours, peer], 40, 3)
        yield Row(f"a step, {name}", "the host run again", our_time / peer_time, duration(peer_time), bound)
    generator = torch.Generator().manual_seed(0)
    our_time, peer_time = quietest(
        [lambda: equality_interventions(20_000, "both", generator), lambda: loop(2000)], 5, 1
    )
    yield Row("20,000 interventions", "a loop", our_time / (10 * peer_time), duration(10 * peer_time), at_most(0.05))


if __name__ == "__main__":
    report(__file__, __doc__, rows)
