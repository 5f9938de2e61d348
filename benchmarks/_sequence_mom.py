"""MoM: the cost of k of M memories and the shared one against k + 1 single ones; its forms; its delta rule.

Run: ``python benchmarks/_sequence_mom.py``; ``benchmarks/sequence.py`` calls :func:`rows`. Forward and backward pass.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from _timing import Row, medians
from torch import Tensor, nn

from modules.sequence.delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule
from modules.sequence.mom import MoMLayer


def passes(layers: list[nn.Module], x: Tensor) -> Callable[[], object]:
    """Forward and backward through layers side by side."""
    parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]

    def step() -> object:
        total = sum((layer(x).square().mean() for layer in layers), torch.zeros(()))
        return torch.autograd.grad(total, parameters, allow_unused=True)

    return step


def layers(rule: str, width: int, length: int, batch: int) -> list[Row]:
    """2 of 4 memories and the shared one against three layers of a single memory, and the forms against each other."""
    x = torch.randn(batch, length, width)
    mixture = {name: MoMLayer(width, 4, rule=rule, backend=name) for name in ("varlen", "masked")}
    single: list[nn.Module] = [MoMLayer(width, 4, num_memories=1, topk=1, shared=False, rule=rule) for _ in range(3)]
    calls = {"three single": passes(single, x)} | {name: passes([layer], x) for name, layer in mixture.items()}
    took = dict(zip(calls, medians(calls.values(), 5, warmups=2), strict=True))
    what = f"{rule}, width {width}, {batch} x {length} tokens"
    return [
        (f"2 of 4 + shared / three single memories, {what}", took["varlen"] / took["three single"], "at most 1.3"),
        (f"masked form / sorted form, {what}", took["masked"] / took["varlen"], ""),
    ]


def delta_rule(length: int) -> Row:
    """The chunked gated delta rule against its recurrence."""
    q, k, v = (torch.randn(1, 4, length, 32, requires_grad=True) for _ in range(3))
    beta, decay = torch.rand(1, 4, length), -torch.rand(1, 4, length)
    unit = nn.functional.normalize

    def call(form: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(form(unit(q, dim=-1), unit(k, dim=-1), v, beta, decay)[0].sum(), (q, k, v))

    chunks, steps = medians([call(chunk_gated_delta_rule), call(recurrent_gated_delta_rule)], 5, warmups=2)
    return (f"gated delta rule, step recurrence / chunks, n = {length}", steps / chunks, "")


def rows() -> list[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    found: list[Row] = []
    for rule in ("linear", "gated_deltanet"):
        found += layers(rule, 256, 1024, 4)
    return [*found, delta_rule(512), delta_rule(2048)]


if __name__ == "__main__":
    for label, value, bound in rows():
        print(f"{label:80} {value:8.3f}  {bound}")
