"""MoM: the cost of k of M memories and the shared one against k + 1 single ones; its forms; its delta rule.

Run: ``python benchmarks/mom.py``, one thread. Forward and backward pass.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from _rows import Row, duration, report
from _timing import medians
from torch import Tensor, nn

from framework.claims import at_most
from modules.sequence.mom import Memories, MoMLayer
from modules.sequence.mom.delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule


def passes(layers: list[nn.Module], x: Tensor) -> Callable[[], object]:
    """Forward and backward through layers side by side."""
    parameters = [p for layer in layers for p in layer.parameters() if p.requires_grad]

    def step() -> object:
        total = sum((layer(x).square().mean() for layer in layers), torch.zeros(()))
        return torch.autograd.grad(total, parameters, allow_unused=True)

    return step


def layers(rule: str, width: int, length: int, batch: int) -> Iterator[Row]:
    """2 of 4 memories and the shared one against three layers of a single memory, and the forms against each other."""
    x = torch.randn(batch, length, width)
    mixture = {name: MoMLayer(width, 4, memory=Memories(rule=rule, backend=name)) for name in ("varlen", "masked")}
    alone = Memories(num_memories=1, topk=1, shared=False, rule=rule)
    single: list[nn.Module] = [MoMLayer(width, 4, memory=alone) for _ in range(3)]
    calls = {"three single": passes(single, x)} | {name: passes([layer], x) for name, layer in mixture.items()}
    took = dict(zip(calls, medians(calls.values(), 5, warmups=2), strict=True))
    what = f"{rule}, width {width}, {batch} x {length} tokens"
    three = took["three single"]
    text = f"2 of 4 memories and a shared one, {what}"
    yield Row(text, "three layers of one memory", took["varlen"] / three, duration(three), at_most(1.3))
    yield Row(f"sorted form, {what}", "masked form", took["varlen"] / took["masked"], duration(took["masked"]))


def delta_rule(length: int) -> Row:
    """Returns the chunked gated delta rule against its recurrence."""
    q, k, v = (torch.randn(1, 4, length, 32, requires_grad=True) for _ in range(3))
    beta, decay = torch.rand(1, 4, length), -torch.rand(1, 4, length)
    unit = nn.functional.normalize

    def call(form: Callable[..., tuple[Tensor, Tensor]]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(form(unit(q, dim=-1), unit(k, dim=-1), v, beta, decay)[0].sum(), (q, k, v))

    chunks, steps = medians([call(chunk_gated_delta_rule), call(recurrent_gated_delta_rule)], 5, warmups=2)
    text = f"gated delta rule in chunks, n = {length:,}"
    return Row(text, "its step recurrence", chunks / steps, duration(steps), at_most(1.0))


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for rule in ("linear", "gated_deltanet"):
        yield from layers(rule, 256, 1024, 4)
    for length in (512, 2048):
        yield delta_rule(length)


if __name__ == "__main__":
    report(__file__, __doc__, rows)
