"""Lightning Attention against the forms it replaces; on a GPU also fla and the authors' kernels, if installed.

Run: ``python benchmarks/lightning_attention.py``; on a CPU one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from _rows import Row, duration, report
from _timing import medians
from torch import Tensor

from framework.claims import at_most
from modules.sequence.lightning_attention import alibi_slopes, lightning_attention
from modules.sequence.lightning_attention.reference import left_product, recurrence, right_product


def inputs(length: int, width: int, heads: int, device: str, dtype: torch.dtype) -> list[Tensor]:
    shape = (1, heads, length, width)
    return [torch.randn(shape, device=device, dtype=dtype, requires_grad=True) for _ in range(3)]


def both(call: Callable[..., Tensor], parts: list[Tensor]) -> Callable[[], object]:
    """Forward and backward pass."""
    return lambda: torch.autograd.grad(call(*parts).sum(), parts)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    yield from cpu_rows()
    if torch.cuda.is_available():
        yield from gpu_rows()


def cpu_rows() -> Iterator[Row]:
    """One thread, b1 h4 d64 float32, forward and backward."""
    torch.set_num_threads(1)
    slopes = alibi_slopes(4)
    tiled: dict[int, float] = {}
    for length in (512, 1024, 2048, 4096, 8192, 16384):
        parts = inputs(length, 64, 4, "cpu", torch.float32)
        calls = {
            "tiled": both(lambda q, k, v: lightning_attention(q, k, v, slopes), parts),  # type: ignore[arg-type,return-value]
            "softmax (SDPA)": both(lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), parts),
        }
        if length <= 2048:
            calls["left product"] = both(lambda q, k, v: left_product(q, k, v, slopes), parts)
            calls["right product"] = both(right_product, parts)
            calls["step recurrence"] = both(lambda q, k, v: recurrence(q, k, v, slopes)[0], parts)
        if length > 8192:
            del calls["softmax (SDPA)"]
        took = dict(zip(calls, medians(calls.values(), 3 if length > 2048 else 5, warmups=2), strict=True))
        tiled[length] = took.pop("tiled")
        for name, seconds in took.items():
            bound = at_most(0.2) if (name, length) == ("left product", 2048) else None
            text = f"tiles, b1 h4 d64, n = {length:,}, forward and backward"
            yield Row(text, name, tiled[length] / seconds, duration(seconds), bound)
    lengths = [length for length in tiled if length >= 1024]
    x, y = [math.log(n) for n in lengths], [math.log(tiled[n]) for n in lengths]
    slope = statistics.linear_regression(x, y).slope
    yield Row(
        "time of the tiles, n = 1,024 to 16,384: its exponent", "linear in n", slope, "", at_most(1.15), "exponent"
    )


def gpu_rows() -> Iterator[Row]:
    """b1 h16 d128 bfloat16, forward and backward."""
    speed: dict[int, float] = {}
    slopes = alibi_slopes(16).cuda()
    for length in (1024, 4096, 16384, 32768, 65536):
        parts = inputs(length, 128, 16, "cuda", torch.bfloat16)
        calls = {
            "ours": both(lambda q, k, v: lightning_attention(q, k, v, slopes), parts),  # type: ignore[arg-type,return-value]
            "flash attention (SDPA)": both(
                lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True), parts
            ),
        }
        try:
            from fla.ops.simple_gla import chunk_simple_gla

            calls["fla"] = both(
                lambda q, k, v: chunk_simple_gla(*(x.transpose(1, 2) for x in (q, k, v)), g_gamma=-slopes, scale=1.0)[
                    0
                ],
                parts,
            )
        except ImportError:
            pass
        try:
            from lightning_attn.ops import lightning_attn_func

            calls["the authors' kernel"] = both(
                lambda q, k, v: lightning_attn_func(q, k, v, slopes[:, None, None].float()), parts
            )
        except ImportError:
            pass
        took = dict(zip(calls, medians(calls.values(), 7, warmups=2), strict=True))
        ours = took.pop("ours")
        speed[length] = length / ours
        bound = at_most(1.1) if 4096 <= length <= 32768 else None
        for name, seconds in took.items():
            text = f"on the GPU, b1 h16 d128 bfloat16, n = {length:,}, forward and backward"
            yield Row(text, name, ours / seconds, duration(seconds), bound)
    text = "on the GPU: time of a token at n = 65,536"
    yield Row(text, "at n = 1,024", speed[1024] / speed[65536])


if __name__ == "__main__":
    report(__file__, __doc__, rows)
