"""Costs of the generalised-Gaussian parts, each beside something well known, in one process on one thread.

Run: ``python benchmarks/gg_prior.py [--weights 10000000] [--threads 1]``. BackSlash's step beside the optimiser's step
that it follows; RF8 beside a copy of the weights; rates and entropy codes in time and in bits; DeepShape beside a sort.
Best of a few repeats, the sides taking turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from callbacks.backslash import backslash_step, estimate_shapes
from framework import generalized_gaussian as gg
from framework.compression import rf8
from framework.compression.entropy_code import decode_ranks, decode_rans, encode_ranks, encode_rans
from framework.compression.histogram import deep_shape_
from framework.compression.rate import bits_per_weight, level_counts, quantise

NETS = {
    "12 x (1000, 1000)": [(1000, 1000)] * 12,
    "200 x (32, 32)": [(32, 32)] * 200,
    "perceptron 64-128-128-10": [(128, 64), (128,), (128, 128), (128,), (10, 128), (10,)],
}


def race(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def steps(repeats: int) -> None:
    print(f"{'a step, ms':28}{'AdamW':>9}{'fused':>9}{'BackSlash':>11}{'of it ν':>9}{'over AdamW':>12}")
    for name, sizes in NETS.items():
        parameters = [nn.Parameter(gg.sample(size, 0.8, 0.02, i)) for i, size in enumerate(sizes)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        found = race(
            {
                "adamw": torch.optim.AdamW(parameters).step,
                "fused": torch.optim.AdamW(parameters, fused=True).step,
                "backslash": lambda: backslash_step(parameters, per_weight_step=1e-9),  # noqa: B023
                "shape": lambda: estimate_shapes(parameters),  # noqa: B023
            },
            repeats,
        )
        ms = {key: 1e3 * value for key, value in found.items()}
        print(
            f"{name:28}{ms['adamw']:9.2f}{ms['fused']:9.2f}{ms['backslash']:11.2f}{ms['shape']:9.2f}"
            f"{found['backslash'] / found['adamw']:12.2f}",
            flush=True,
        )


def size_of(code: Any) -> int:
    return sum(size_of(part) if isinstance(part, dict) else getattr(part, "nbytes", 8) for part in code.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    steps(options.repeats)
    w = gg.sample((options.weights,), 0.8, 0.02)
    encoded = rf8.encode(w)
    found = race(
        {
            "copy": w.clone,
            "rf8 encode": lambda: rf8.encode(w),
            "rf8 decode": lambda: rf8.decode(encoded),
            "rf8 values": lambda: rf8.round_to_rf8(w),
            "rate": lambda: bits_per_weight(w),
        },
        options.repeats,
    )
    print(f"\n{options.weights:.0e} float32 weights{'s':>13}{'over a copy':>13}")
    for name, seconds in found.items():
        print(f"{name:28}{seconds:9.3f}{seconds / found['copy']:13.2f}")
    symbols, counts, rate = quantise(w).numpy(), level_counts(w), bits_per_weight(w)
    print(f"\n{'entropy codes':28}{'encode s':>9}{'decode s':>10}{'bits':>8}{'entropy':>9}{'over it':>9}")
    for name, encode, decode in (("exp-Golomb", encode_ranks, decode_ranks), ("rANS", encode_rans, decode_rans)):
        start = time.perf_counter()
        code = encode(symbols, *counts)
        middle = time.perf_counter()
        back = decode(code)
        end = time.perf_counter()
        assert np.array_equal(back, symbols)
        bits = 8 * size_of(code) / len(symbols)
        seconds = f"{middle - start:9.2f}{end - middle:10.2f}"
        print(f"{name:28}{seconds}{bits:8.3f}{rate.entropy:9.3f}{bits / rate.entropy:9.3f}", flush=True)
    found = race({"sort": lambda: w.argsort(stable=True), "deep_shape": lambda: deep_shape_([w.clone()])}, 2)
    ratio = found["deep_shape"] / found["sort"]
    print(f"\nDeepShape {found['deep_shape']:.2f} s, a stable sort of the indices {found['sort']:.2f} s ({ratio:.2f})")


if __name__ == "__main__":
    main()
