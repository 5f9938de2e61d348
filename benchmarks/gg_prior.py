"""Costs of the generalised-Gaussian parts, each beside something well known, in one process on one thread.

Run: ``python benchmarks/gg_prior.py [--weights 10000000] [--threads 1]``. BackSlash's step beside the optimiser's step
that it follows; RF8 beside a copy of the weights; rates and entropy codes in time and in bits; DeepShape beside a sort.
Best of a few repeats, the sides taking turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _rows import Row, duration, report
from _timing import quietest
from torch import nn

from callbacks.backslash import backslash_step, estimate_shapes
from framework.claims import at_most
from framework.functional import generalized_gaussian as gg
from framework.functional.compression import rf8
from framework.functional.compression.entropy_code import decode_ranks, decode_rans, encode_ranks, encode_rans
from framework.functional.compression.histogram import deep_shape_
from framework.functional.compression.rate import bits_per_weight, level_counts, quantise

NETS = {
    "12 x (1000, 1000)": [(1000, 1000)] * 12,
    "200 x (32, 32)": [(32, 32)] * 200,
    "perceptron 64-128-128-10": [(128, 64), (128,), (128, 128), (128,), (10, 128), (10,)],
}


def size_of(code: Any) -> int:
    return sum(size_of(part) if isinstance(part, dict) else getattr(part, "nbytes", 8) for part in code.values())


def steps(repeats: int) -> Iterator[Row]:
    """BackSlash after the optimiser's step."""
    for name, sizes in NETS.items():
        parameters = [nn.Parameter(gg.sample(size, 0.8, 0.02, i)) for i, size in enumerate(sizes)]
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter)
        ours, shape, adamw, fused = quietest(
            [
                lambda: backslash_step(parameters, per_weight_step=1e-9),  # noqa: B023
                lambda: estimate_shapes(parameters),  # noqa: B023
                torch.optim.AdamW(parameters).step,
                torch.optim.AdamW(parameters, fused=True).step,
            ],
            repeats,
        )
        yield Row(f"BackSlash's step, {name}", "AdamW's step", ours / adamw, duration(adamw))
        yield Row(f"BackSlash's step, {name}", "AdamW's step, fused", ours / fused, duration(fused))
        yield Row(f"shapes of all tensors, {name}", "AdamW's step", shape / adamw, duration(adamw))


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(options.threads)
    yield from steps(options.repeats)
    w = gg.sample((options.weights,), 0.8, 0.02)
    encoded, many = rf8.encode(w), f"{options.weights:.0e} weights"
    sides: dict[str, Callable[[], object]] = {
        "RF8 encode": lambda: rf8.encode(w),
        "RF8 decode": lambda: rf8.decode(encoded),
        "values rounded to RF8": lambda: rf8.round_to_rf8(w),
        "bits a weight by exp-Golomb and entropy": lambda: bits_per_weight(w),
    }
    *found, copied = quietest([*sides.values(), w.clone], options.repeats)
    for name, seconds in zip(sides, found, strict=True):
        yield Row(f"{name}, {many}", "a copy of the weights", seconds / copied, duration(copied))
    symbols, counts, rate = quantise(w).numpy(), level_counts(w), bits_per_weight(w)
    for name, encode, decode in (("exp-Golomb", encode_ranks, decode_ranks), ("rANS", encode_rans, decode_rans)):
        start = time.perf_counter()
        code = encode(symbols, *counts)
        middle = time.perf_counter()
        back = decode(code)
        end = time.perf_counter()
        assert np.array_equal(back, symbols)
        yield Row(f"{name} encode, {many}", "a copy of the weights", (middle - start) / copied, duration(copied))
        yield Row(f"{name} decode, {many}", "a copy of the weights", (end - middle) / copied, duration(copied))
        bits, bound = 8 * size_of(code) / len(symbols), at_most(1.01) if name == "rANS" else None
        yield Row(f"{name}, {many}", "their entropy", bits / rate.entropy, f"{rate.entropy:.2f} bits", bound, "bits")
    ours, sort = quietest([lambda: deep_shape_([w.clone()]), lambda: w.argsort(stable=True)], 2)
    yield Row(f"DeepShape, {many}", "a stable sort of their indices", ours / sort, duration(sort))


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)


if __name__ == "__main__":
    report(__file__, __doc__, rows, arguments)
