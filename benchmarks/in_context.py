"""In-context learning: drawing prompts, one seed against a hand-written loop, and 32 seeds against 32 such loops.

Run: ``python benchmarks/in_context.py``, one thread. The plain loops draw the same prompts a step at a time, and do the
same forward and backward passes and Adam steps for one model. Times are the process's own; a ``fit`` is timed from its
first training step to its last.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator

import torch
from _fits import fitted, times
from _rows import Row, duration, report
from torch import Tensor, nn

from framework.claims import at_most
from framework.runs.quiet import quiet_lightning
from modules.in_context.experiment import prompts_of

STEPS, EVERY, REPEATS, SEEDS = 400, 50, 3, 32


def linear_attention() -> Callable[[], object]:
    """Returns one head of linear attention: d = 5, 20 examples, 1,024 prompts a step."""
    place = torch.arange(5.0)
    root = torch.linalg.cholesky(0.5 ** (place[:, None] - place).abs()).T

    def loop() -> object:
        value, key_query = (nn.Parameter(0.1 * torch.randn(*shape)) for shape in ((6,), (6, 6)))
        optimizer = torch.optim.Adam([value, key_query], lr=3e-3, fused=True)
        for _ in range(STEPS):
            x = torch.randn(1024, 21, 5) @ root
            y = x @ torch.randn(1024, 5, 1)
            z = torch.cat([x, y], 2)[:, :-1]
            query = torch.cat([x[:, -1], torch.zeros(1024, 1)], 1)
            gram = (z.mT @ z + query[:, :, None] * query[:, None]) / 20
            found = ((value @ gram) * (query @ key_query.T)).sum(1)
            loss = 0.5 * (found - y[:, -1, 0]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([value, key_query], 1.0)
            optimizer.step()
        return value

    return loop


def softmax_attention() -> Callable[[], object]:
    """Four heads of softmax attention: d = 5, 40 examples, 256 prompts a step."""

    def loop() -> object:
        query, key, mixed = (nn.Parameter(0.4 * torch.randn(4, 6, 6)) for _ in range(3))
        output = nn.Parameter(0.2 * torch.randn(4, 1, 6))
        optimizer = torch.optim.Adam([query, key, mixed, output], lr=5e-3, fused=True)
        for _ in range(STEPS):
            x = torch.randn(256, 41, 5)
            y = x @ (torch.randn(256, 5, 1) / 5**0.5) + 0.1**0.5 * torch.randn(256, 41, 1)
            z = torch.cat([x, y], 2)[:, :-1]
            asked = torch.einsum("hij,bj->bhi", (key.mT @ query)[..., :5] / 6**0.5, x[:, -1])
            attention = (asked @ z.mT).softmax(2)
            found = torch.einsum("bhi,hti->bt", attention @ z, output @ mixed)
            loss = (found - y[:, -1]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return query

    return loop


def drawing(config: str) -> float:
    """Seconds of drawing the prompts of all steps."""
    data = prompts_of(config, f"--data.inner_steps={EVERY}", f"--model.inner_steps={EVERY}")
    request: Tensor = next(iter(data.train_dataloader()))

    def draw() -> None:
        for _ in range(STEPS // EVERY):
            data.on_after_batch_transfer(request, 0)

    return statistics.median(times(draw, REPEATS))


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    quiet_lightning()
    cases = (
        ("linear attention, 1,024 x 20 x 5", "in_context/icl_linear_models", linear_attention()),
        ("softmax attention, 256 x 40 x 5, 4 heads", "in_context/icl_softmax_demystified", softmax_attention()),
    )
    with tempfile.TemporaryDirectory() as root:
        for name, config, loop in cases:
            steps = [f"--model.inner_steps={EVERY}", f"--data.inner_steps={EVERY}", f"--data.batches={STEPS // EVERY}"]
            steps += ["--data.eval_prompts=64", "--model.points=2"]
            plain = statistics.median(times(loop, REPEATS))
            drawn = drawing(config)
            one, many = (
                statistics.median(fitted(config, [*steps, f"--model.seeds={count}"], root) for _ in range(REPEATS))
                for count in (1, SEEDS)
            )
            took = f"{duration(plain / STEPS)} a step"
            yield Row(f"{name}: fit of one seed", "a plain loop", one / plain, took, at_most(1.2))
            yield Row(
                f"{name}: fit of {SEEDS} seeds", f"{SEEDS} plain loops", many / (SEEDS * plain), bound=at_most(0.125)
            )
            yield Row(f"{name}: drawing prompts", "a fit of one seed", drawn / one, bound=at_most(0.1))
            yield Row(f"{name}: drawing prompts", f"a fit of {SEEDS} seeds", drawn / many, bound=at_most(0.1))


if __name__ == "__main__":
    report(__file__, __doc__, rows)
