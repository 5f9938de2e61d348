"""The generalised Gaussian's sampler and shape estimator against scipy's ``gennorm``.

Run: ``python benchmarks/generalized_gaussian.py [--weights 10000000] [--fitted 100000]``. Both sides in one process on
one thread; best time of a few repeats, the two sides taking turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from scipy import stats

from framework import generalized_gaussian as gg


def race(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> tuple[float, float]:
    best = [float("inf"), float("inf")]
    for _ in range(repeats):
        for side, run in enumerate((ours, peer)):
            start = time.perf_counter()
            run()
            best[side] = min(best[side], time.perf_counter() - start)
    return best[0], best[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=int, default=10_000_000)
    parser.add_argument("--fitted", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'what':32}{'scipy s':>10}{'ours s':>10}{'ratio':>9}")
    weights = torch.empty(options.weights)
    for shape in (0.5, 0.8, 1.0, 1.5, 2.0, 3.0):
        alpha = gg.scale_of_std(0.02, shape)
        ours, peer = race(
            lambda: gg.fill_(weights, shape, alpha, 0),  # noqa: B023 - called within the loop
            lambda: stats.gennorm.rvs(shape, scale=alpha, size=options.weights, random_state=0),  # noqa: B023
            options.repeats,
        )
        print(
            f"{f'draw {options.weights:.0e}, shape {shape}':32}{peer:10.3f}{ours:10.3f}{peer / ours:9.1f}", flush=True
        )
    for shape in (0.8, 1.5):
        data = gg.sample((options.fitted,), shape, 0.02)
        array = data.double().numpy()
        gg.fit(data)  # makes the table, once in a process
        ours, peer = race(lambda: gg.fit(data), lambda: stats.gennorm.fit(array, floc=0), options.repeats)  # noqa: B023
        found, theirs = gg.fit(data).shape, stats.gennorm.fit(array, floc=0)[0]
        label = f"fit {options.fitted:.0e}, shape {shape}"
        print(
            f"{label:32}{peer:10.3f}{ours:10.5f}{peer / ours:9.0f}   found {found:.2f}, scipy {theirs:.3f}", flush=True
        )


if __name__ == "__main__":
    main()
