"""Liger's parts: the chunked recurrence against the loop, a layer against softmax attention, a decoding step.

Run: ``python benchmarks/liger.py``, one thread. The two that are compared take turns, and of each the median time
counts.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator

import torch
from _rows import Row, duration, report
from _timing import medians

from callbacks.liger import linearize
from framework.claims import at_most
from framework.functional.gated_linear_attention import chunk_gla, recurrent_gla
from modules.sequence.attention import KeysValues, SoftmaxAttention

WIDTH, HEADS = 256, 4


def recurrence(length: int, repeats: int) -> Row:
    """Returns the chunked form against the loop over tokens, forward and backward."""
    q, k, v = torch.randn(3, 1, HEADS, length, 64).requires_grad_()
    gate = -torch.rand(1, HEADS, length, 64) / 8

    def run(form: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(form(q, k, v, gate)[0].sum(), [q, k, v])

    slow, fast = medians([run(recurrent_gla), run(chunk_gla)], repeats)
    text = f"gated linear attention in chunks, T = {length:,}, d = 64, forward and backward"
    return Row(text, "a loop over tokens", fast / slow, duration(slow), at_most(1.0))


def layer(length: int, repeats: int) -> Row:
    """Returns a layer of softmax attention against the same layer linearised, forward and backward."""
    softmax = SoftmaxAttention(WIDTH, HEADS)
    linear = linearize(torch.nn.Sequential(copy.deepcopy(softmax)))[0]  # type: ignore[index]
    x = torch.randn(1, length, WIDTH, requires_grad=True)
    slow, fast = medians(
        [lambda: torch.autograd.grad(softmax(x).sum(), x), lambda: torch.autograd.grad(linear(x).sum(), x)], repeats
    )
    text = f"linearised layer, D = {WIDTH}, H = {HEADS}, w = 64, T = {length:,}, forward and backward"
    return Row(text, "softmax (SDPA)", fast / slow, duration(slow))


@torch.no_grad()
def decoding(position: int, repeats: int) -> Iterator[Row]:
    """Decodes one token after a number of tokens: softmax attention with a cache against the linearised layer."""
    softmax = SoftmaxAttention(WIDTH, HEADS)
    linear = linearize(torch.nn.Sequential(copy.deepcopy(softmax)))[0]  # type: ignore[index]
    x = torch.randn(1, 1, WIDTH)
    cache = KeysValues(*torch.randn(2, 1, HEADS, position, WIDTH // HEADS))
    state = linear.extend(torch.randn(1, position, WIDTH))[1]
    slow, fast = medians([lambda: softmax.extend(x, cache), lambda: linear.extend(x, state)], repeats)
    kept = state.memory.nbytes + state.recent.keys.nbytes + state.recent.values.nbytes
    text = f"decoding step, D = {WIDTH}, H = {HEADS}, after {position:,} tokens"
    cached = cache.keys.nbytes + cache.values.nbytes
    yield Row(text, "softmax with a cache", fast / slow, duration(slow))
    yield Row(text, "softmax with a cache", kept / cached, f"{cached / 1e6:.1f} MB", unit="bytes of the state")


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for length, repeats in ((256, 5), (1024, 3), (4096, 2)):
        yield recurrence(length, repeats)
    for length, repeats in ((1024, 5), (4096, 3), (16384, 1)):
        yield layer(length, repeats)
    for position in (1024, 4096, 16384):
        yield from decoding(position, 20)


if __name__ == "__main__":
    report(__file__, __doc__, rows)
