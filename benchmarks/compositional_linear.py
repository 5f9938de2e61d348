"""Free embeddings of all dimensions and seeds side by side against one plain training loop for each of them.

Run: ``python benchmarks/compositional_linear.py [--steps 200] [--repeats 3]``.
The cells of one k and n: d from 3 to 32, two seeds, 60 trainings in all, by autograd and fused Adam in the peer. Before
the times are measured both are compared. One thread; best time of a few repeats.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from _rows import Row, duration, report
from _timing import quietest
from torch import Tensor, nn

from datamodules.interpretability.concept_grid import ConceptGrid
from framework.claims import at_most
from modules.interpretability.compositional_linear import FreeEmbeddings
from modules.interpretability.compositional_linear.free import draw_member

DIMS, SEEDS = list(range(3, 33)), [0, 1]
CELLS = (((2, 2), "ce", "euclidean"), ((4, 2), "ce", "euclidean"), ((4, 2), "bce", "spherical"))
LARGER = (((2, 6), "ce", "euclidean"), ((3, 6), "ce", "euclidean"), ((2, 24), "bce", "spherical"))


def alone(labels: Tensor, values: int, d: int, seed: int, loss: str, space: str, steps: int) -> Tensor:
    """One training as one would write it."""
    concepts = labels.shape[1]
    z, w, b = (nn.Parameter(part) for part in draw_member(len(labels), concepts * values, d, seed))
    scale = nn.Parameter(torch.tensor(10.0))
    optimizer = torch.optim.Adam([z, w, b, *([scale] if space == "spherical" else [])], lr=0.1, fused=True)
    target = F.one_hot(labels, values).float()
    for _ in range(steps):
        optimizer.zero_grad()
        if space == "spherical":
            logits = scale * (F.normalize(z, dim=-1) @ F.normalize(w, dim=-1).T) + b
        else:
            logits = z @ w.T + b
        logits = logits.view(-1, concepts, values)
        if loss == "ce":
            total = F.cross_entropy(logits.flatten(0, 1), labels.flatten()) * concepts
        else:
            total = F.binary_cross_entropy_with_logits(logits, target) * concepts
        total.backward()
        optimizer.step()
    return z.detach()


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    for (concepts, values), loss, space in (*CELLS, *LARGER):
        data = ConceptGrid(concepts, values)
        data.setup("fit")
        batch = data.train_set.batch  # type: ignore[union-attr]
        small = values**concepts <= 16

        def ours(steps: int = options.steps) -> FreeEmbeddings:
            model = FreeEmbeddings(concepts, values, DIMS, SEEDS, space, loss)  # noqa: B023
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
            with torch.no_grad():
                model.advance(batch, steps, optimizer)  # noqa: B023
            return model

        def peer() -> None:
            for d in DIMS:
                for seed in SEEDS:
                    alone(batch["labels"], values, d, seed, loss, space, options.steps)  # noqa: B023

        model = ours(20)
        for number in (0, 31, 59):
            d, seed = model.members[number]
            error = float(
                (model.z[number, :, :d] - alone(batch["labels"], values, d, seed, loss, space, 20)).abs().max()
            )
            if error > 1e-2:
                raise SystemExit(f"a member differs from its own training by {error:.1e}")
        slow, fast = quietest([peer, ours], options.repeats if small else 1, warmups=0)
        what = f"60 trainings of {options.steps} steps, k = {concepts}, n = {values}, {loss}, {space}"
        yield Row(what, "one after the other", fast / slow, duration(slow), at_most(1 / 8) if small else None)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
