"""Liger's parts: the chunked recurrence against the loop, a layer against softmax attention, a decoding step.

Run: ``python benchmarks/_sequence_liger.py``; ``benchmarks/sequence.py`` calls :func:`rows`. The two that are compared
take turns, and of each the median time counts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from _timing import Row, medians

from callbacks.liger import linearize
from framework.gated_linear_attention import chunk_gla, recurrent_gla
from modules.sequence.attention import KeysValues, SoftmaxAttention

WIDTH, HEADS = 256, 4


def recurrence(length: int, repeats: int) -> Row:
    """The chunked form against the loop over tokens, forward and backward."""
    q, k, v = torch.randn(3, 1, HEADS, length, 64).requires_grad_()
    gate = -torch.rand(1, HEADS, length, 64) / 8

    def run(form: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(form(q, k, v, gate)[0].sum(), [q, k, v])

    slow, fast = medians([run(recurrent_gla), run(chunk_gla)], repeats)
    return (
        f"gated linear attention, T={length:,}, d=64: loop over tokens / chunks",
        slow / fast,
        "x, forward and backward",
    )


def layer(length: int, repeats: int) -> Row:
    """A layer of softmax attention against the same layer linearised, forward and backward."""
    softmax = SoftmaxAttention(WIDTH, HEADS)
    linear = linearize(torch.nn.Sequential(copy.deepcopy(softmax)))[0]  # type: ignore[index]
    x = torch.randn(1, length, WIDTH, requires_grad=True)
    slow, fast = medians(
        [lambda: torch.autograd.grad(softmax(x).sum(), x), lambda: torch.autograd.grad(linear(x).sum(), x)], repeats
    )
    return (
        f"layer, D={WIDTH}, H={HEADS}, w=64, T={length:,}: softmax (SDPA) / Liger",
        slow / fast,
        "x, forward and backward",
    )


@torch.no_grad()
def decoding(position: int, repeats: int) -> list[Row]:
    """One more token after so many: softmax attention with its cache against the linearised layer with its state."""
    softmax = SoftmaxAttention(WIDTH, HEADS)
    linear = linearize(torch.nn.Sequential(copy.deepcopy(softmax)))[0]  # type: ignore[index]
    x = torch.randn(1, 1, WIDTH)
    cache = KeysValues(*torch.randn(2, 1, HEADS, position, WIDTH // HEADS))
    state = linear.extend(torch.randn(1, position, WIDTH))[1]
    slow, fast = medians([lambda: softmax.extend(x, cache), lambda: linear.extend(x, state)], repeats)
    kept = state.memory.nbytes + state.recent.keys.nbytes + state.recent.values.nbytes
    what = f"decoding step, D={WIDTH}, H={HEADS}, after {position:,} tokens: softmax / Liger"
    return [
        (what, slow / fast, "x, time"),
        (what, (cache.keys.nbytes + cache.values.nbytes) / kept, "x, bytes of the state"),
    ]


def rows() -> list[Row]:
    """Every comparison: label, ratio (above 1 where ours is better), unit."""
    torch.manual_seed(0)
    found = [recurrence(length, repeats) for length, repeats in ((256, 5), (1024, 3), (4096, 2))]
    found += [layer(length, repeats) for length, repeats in ((1024, 5), (4096, 3), (16384, 1))]
    for position in (1024, 4096, 16384):
        found += decoding(position, 20)
    return found


if __name__ == "__main__":
    for label, value, unit in rows():
        print(f"{label:80}{value:8.2f} {unit}", flush=True)
