"""Cost of the penalty on a decoder's Jacobian, forward and backward, beside one forward pass of the decoder.

Run: ``python benchmarks/dependency_sparsity.py [--repeats 15]``. In one process on one thread, the quietest of rounds
in which the sides take turns. The decoder is the VAE's of the claims, d-64-64-d, on batches of 256. Exact at d = 10 the
penalty takes at most 3 (1 + d) passes; with m of d columns it is linear in m: the cost of each further column of 64, of
8 to 32, is at most that of a column of the first 8.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from _rows import Row, duration, report
from _timing import quietest
from torch import Tensor, nn

from framework.claims import at_most
from framework.functional.dependency import dependency_sparsity
from modules.interpretability.diverse_dictionary.network import perceptron

BATCH, ROUNDS = 256, 20


def penalised(decoder: nn.Module, z: Tensor, columns: int | None = None) -> Callable[[], None]:
    """Penalty and its gradient, some times."""

    def run() -> None:
        for _ in range(ROUNDS):
            dependency_sparsity(decoder, z, columns=columns).backward()

    return run


def passes(decoder: nn.Module, z: Tensor) -> Callable[[], None]:
    """Forward passes with a graph, as many times."""

    def run() -> None:
        for _ in range(ROUNDS):
            decoder(z)

    return run


def by_loops(decoder: nn.Module, z: Tensor) -> Callable[[], None]:
    """The same, one JVP after the other."""

    def run() -> None:
        for _ in range(ROUNDS):
            along = torch.eye(z.shape[1])
            found = [torch.func.jvp(decoder, (z,), (row.expand_as(z),))[1] for row in along]
            (torch.stack(found).abs().sum() / len(z)).backward()

    return run


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for d in (3, 5, 10, 20):
        decoder, z = perceptron([d, 64, 64, d]), torch.randn(BATCH, d)
        sides = [passes(decoder, z), penalised(decoder, z), by_loops(decoder, z)]
        one, ours, loops = (seconds / ROUNDS for seconds in quietest(sides, options.repeats, 2))
        bound = at_most(3 * (1 + d)) if d == 10 else None
        yield Row(f"the exact penalty, d = {d}", "one forward pass", ours / one, duration(one), bound)
        yield Row(f"the exact penalty, d = {d}", "one JVP after the other", ours / loops, duration(loops))
    decoder, z = perceptron([64, 64, 64, 64]), torch.randn(BATCH, 64)
    sides = [penalised(decoder, z, m) for m in (8, 16, 32)]
    eight, sixteen, many = (seconds / ROUNDS for seconds in quietest(sides, options.repeats, 2))
    yield Row("16 of 64 columns", "8 of 64", sixteen / eight, duration(eight), at_most(2.2))
    yield Row("32 of 64 columns", "8 of 64", many / eight, duration(eight), at_most(4.4))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=15)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
