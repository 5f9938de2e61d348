"""The generalised Gaussian's sampler and shape estimator against scipy's ``gennorm``.

Run: ``python benchmarks/generalized_gaussian.py [--weights 10000000] [--fitted 100000]``. Both sides in one process on
one thread; best time of a few repeats, the two sides taking turns.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import torch
from _rows import Row, duration, report
from _timing import quietest
from scipy import stats

from framework.claims import at_most
from framework.functional import generalized_gaussian as gg


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    weights = torch.empty(options.weights)
    for shape in (0.5, 0.8, 1.0, 1.5, 2.0, 3.0):
        alpha = gg.scale_of_std(0.02, shape)
        ours, peer = quietest(
            [
                lambda: gg.fill_(weights, shape, alpha, 0),  # noqa: B023 - called within the loop
                lambda: stats.gennorm.rvs(shape, scale=alpha, size=options.weights, random_state=0),  # noqa: B023
            ],
            options.repeats,
        )
        text = f"{options.weights:.0e} draws, ν = {shape}"
        yield Row(text, "scipy.stats.gennorm.rvs", ours / peer, duration(peer), at_most(0.5))
    for shape in (0.8, 1.5):
        data = gg.sample((options.fitted,), shape, 0.02)
        array = data.double().numpy()
        if (
            abs(gg.fit(data).shape - stats.gennorm.fit(array, floc=0)[0]) > 0.05
        ):  # makes the table too, once in a process
            raise SystemExit("the two shapes differ")
        ours, peer = quietest(
            [lambda: gg.fit(data), lambda: stats.gennorm.fit(array, floc=0)],  # noqa: B023
            options.repeats,
        )
        text = f"shape of {options.fitted:.0e} weights, ν = {shape}"
        yield Row(text, "scipy.stats.gennorm.fit", ours / peer, duration(peer), at_most(0.1))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=int, default=10_000_000)
    parser.add_argument("--fitted", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
