"""UltraMemV2's parts: the optimiser's step on a large table, a training step with tables, retrieval.

Run: ``python benchmarks/ultramem_v2.py``, one thread. Those that are compared take turns, and of each the median time
counts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import torch
from _rows import Row, duration, report
from _timing import medians
from torch import nn

from framework.optim import OptimizerConfig, build_optimizer
from framework.optim.row_adamw import RowAdamW
from modules.sequence.ultramem_v2.layers import MemoryConfig
from modules.sequence.ultramem_v2.module import UltraMemLM
from modules.sequence.ultramem_v2.tables import MemoryRows, read_dense, row_products, row_sum
from modules.sequence.ultramem_v2.tdqkr import exhaustive, leading_pairs, tdqkr


def optimiser(size: int, width: int, read: int, repeats: int) -> Iterator[Row]:
    """A step on a table of which a batch has read some rows: row-wise, dense AdamW, torch's SparseAdam."""
    ids = torch.randint(size, (1, read)).unique()[None]
    gradient = torch.sparse_coo_tensor(ids, torch.randn(ids.shape[1], width), (size, width), check_invariants=False)
    gradient = gradient.coalesce()
    makers: list[tuple[Callable[..., torch.optim.Optimizer], bool]] = [
        (lambda p: RowAdamW([p], weight_decay=0.1), True),
        (lambda p: RowAdamW([p], weight_decay=0.1, untouched="catch_up"), True),
        (lambda p: torch.optim.SparseAdam([p]), True),
        (lambda p: torch.optim.AdamW([p], weight_decay=0.1, fused=True), False),
        (lambda p: torch.optim.AdamW([p], weight_decay=0.1), False),
    ]
    steps = []
    for make, sparse in makers:
        table = nn.Parameter(torch.randn(size, width))
        table.grad = gradient if sparse else gradient.to_dense()
        steps.append(make(table).step)
    ours, catching, theirs, fused, dense = medians(steps, repeats)
    what = f"step of row_adamw, table of {size:,} x {width}, {ids.shape[1]:,} rows read"
    peers = {"AdamW": dense, "AdamW, fused": fused, "torch.optim.SparseAdam": theirs, "itself with catch_up": catching}
    for name, seconds in peers.items():
        yield Row(what, name, ours / seconds, duration(seconds))


def training_step(n_keys: int, repeats: int) -> Iterator[Row]:
    """A whole step of a small language model with tables, row-wise and dense, against the same model without."""
    tokens = torch.randint(256, (8, 128))
    steps, parameters = [], []
    for kind, name, hidden in (
        ("none", "adamw", 512),
        ("ultramem_v2", "row_adamw", 416),
        ("ultramem_v2", "adamw", 416),
    ):
        torch.manual_seed(0)
        memory = MemoryConfig(kind, n_keys=n_keys, init="released")
        model = UltraMemLM(256, 128, 4, 4, hidden, memory, optimizer=OptimizerConfig(name))
        optimizer = build_optimizer(model, model.optimizer_config)
        parameters.append(sum(p.numel() for p in model.parameters()) / 1e6)

        def step(model: UltraMemLM = model, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        steps.append(step)
    plain, row_wise, dense = medians(steps, repeats)
    what = f"training step, {parameters[1]:.1f} M with 4 tables of {n_keys}² slots"
    peer = f"{parameters[0]:.1f} M without, of equal multiply-adds"
    yield Row(what, peer, row_wise / plain, duration(plain))
    yield Row(what, "the same with dense AdamW", row_wise / dense, duration(dense))


def retrieval(n_keys: int, tokens: int, repeats: int) -> Row:
    """TDQKR against scoring all slots."""
    scores = [torch.randn(2, tokens, n_keys) for _ in range(2)]
    cores = torch.rand(1, 2, 2)
    u, t, _ = leading_pairs(cores, torch.zeros(1, 2), torch.zeros(1, 2))
    fast, slow = medians(
        [lambda: tdqkr(*scores, cores, u[0], t[0], 16), lambda: exhaustive(*scores, cores, 16)],  # type: ignore[call-arg]
        repeats,
    )
    return Row(f"best 16 of {n_keys}² slots, {tokens} tokens", "scoring all slots", fast / slow, duration(slow))


def reading(size: int, tokens: int, repeats: int) -> Row:
    """Returns the weighted sum of values, forward and backward, against gathering all rows with a dense gradient."""
    values, pre = MemoryRows(size, 64, sparse=True), MemoryRows(size, 64, sparse=True)
    ids, scores = torch.randint(size, (tokens, 16)), torch.randn(tokens, 16, 2, requires_grad=True)
    x = torch.randn(tokens, 64, requires_grad=True)

    def fast() -> None:
        values.weight.grad = pre.weight.grad = None
        row_sum(scores * row_products(x, pre, ids).unsqueeze(-1), values, ids).sum().backward()

    def slow() -> None:
        values.weight.grad = pre.weight.grad = None
        read_dense(scores, ids, values.weight, x, pre.weight).sum().backward()

    ours, plain = medians([fast, slow], repeats)
    text = f"reading {tokens:,} x 16 of {size:,} rows, forward and backward"
    return Row(text, "gathering them, dense gradients", ours / plain, duration(plain))


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield from optimiser(1_000_000, 32, 16_384, options.repeats)
    for n_keys in (64, 256):
        yield from training_step(n_keys, options.repeats)
    yield retrieval(256, 256, options.repeats)
    yield reading(262_144, 2048, options.repeats)


if __name__ == "__main__":
    report(__file__, __doc__, rows, lambda parser: parser.add_argument("--repeats", type=int, default=7))
