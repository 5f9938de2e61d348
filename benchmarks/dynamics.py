"""Learning dynamics: through the framework against a hand-written loop of one seed, and 32 seeds against 32 such loops.

Run: ``python benchmarks/dynamics.py``, one thread. The plain loops do the same arithmetic for one seed on plain
matrices, and measure the same at the same steps. A whole ``fit`` is timed from its first step to its last, its start-up
left out. Times are the process's own, so that what else the machine does hardly shows. What 32 seeds can gain at most
is what the matrix products of a step leave over: the ratio of 32 plain loops to 32 seeds' products alone.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from _fits import fitted, times
from _rows import Row, duration, report
from torch import Tensor

from framework.claims import at_most
from framework.runs.quiet import quiet_lightning
from modules.dynamics.generalization_dynamics import theory
from modules.ensemble import record_points

STEPS, EVERY, REPEATS, SEEDS = 10_000, 1000, 3, 32


class Case(NamedTuple):
    """One method at one size."""

    name: str
    config: str
    options: list[str]
    members: str  # the option that counts them
    loop: Callable[[], object]
    products: Callable[[], object]  # of one step of all seeds


def stack(*shape: int) -> Tensor:
    """Random matrices, one a seed."""
    return torch.randn(SEEDS, *shape, dtype=torch.float64)


def seconds(case: Case, members: int, root: str) -> float:
    """Seconds of the training steps of a ``fit``."""
    steps = [f"--model.inner_steps={EVERY}", f"--data.passes={STEPS // EVERY}", f"{case.members}={members}"]
    return fitted(case.config, [*case.options, *steps], root)


def descent(
    start: Callable[[], list[Tensor]],
    gradients: Callable[[list[Tensor]], list[Tensor]],
    measure: Callable[[list[Tensor], int], list[float]],
    rate: float,
    points: int,
) -> Callable[[], object]:
    """Gradient descent of one seed, as one would write it."""
    due = set(record_points(STEPS, points))

    def loop() -> object:
        weights, seen = start(), []
        for step in range(STEPS):
            if step in due:
                seen.append(measure(weights, step))
            found = gradients(weights)
            weights = [w - rate * g for w, g in zip(weights, found, strict=True)]
        return seen

    return loop


def sensing(n: int) -> Case:
    """Asymmetric matrix sensing without an operator."""
    m = torch.randn(n, 3, dtype=torch.float64) @ torch.randn(3, n, dtype=torch.float64) / n
    first: list[Tensor] = []

    def start() -> list[Tensor]:
        f, g = (torch.randn(n, 5, dtype=torch.float64) / n**0.5 for _ in range(2))
        first[:] = [f.T @ f - g.T @ g]
        return [f, g]

    def gradients(weights: list[Tensor]) -> list[Tensor]:
        f, g = weights
        d = f @ g.T - m
        return [d @ g, d.T @ f]

    def measure(weights: list[Tensor], step: int) -> list[float]:
        f, g = weights
        error = f @ g.T - m
        change = (f.T @ f - g.T @ g - first[0]).norm() / first[0].norm()
        return [float(error.square().sum() / 2), float(error.norm()), float(change)]

    options = [f"--data.rows={n}", "--data.measurements=0", "--model.alpha=[0.5]"]
    loop = descent(start, gradients, measure, 0.1, 200)
    left, right, d = stack(n, 5), stack(n, 5), stack(n, n)

    def products() -> None:
        torch.bmm(left, right.mT), torch.bmm(d, right), torch.bmm(d.mT, left)

    name = f"matrix sensing, {n} x {n}, k = 5"
    return Case(name, "dynamics/matrix_sensing", options, "--model.seeds", loop, products)


def linear(depth: int, outputs: int) -> Case:
    """Returns a linear network of two layers on hierarchical data."""
    n = 2**depth
    s31, s11 = torch.randn(outputs, n, dtype=torch.float64), torch.eye(n, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(s31, full_matrices=False)
    first: list[Tensor] = []

    def start() -> list[Tensor]:
        a, b = (0.01 * torch.randn(shape, n, dtype=torch.float64) for shape in (n, outputs))
        first[:] = [b.T @ b - a @ a.T]
        return [a, b]

    def gradients(weights: list[Tensor]) -> list[Tensor]:
        a, b = weights
        error = b @ a @ s11 - s31
        return [b.T @ error, error @ a.T]

    def measure(weights: list[Tensor], step: int) -> list[float]:
        a, b = weights
        w = b @ a
        loss = 0.5 * (float(n) - 2 * (w * s31).sum() + ((w @ s11) * w).sum())
        inside = u.T @ w @ vt.T
        crossed = (inside - torch.diag(inside.diagonal())).abs().max()
        drift = (b.T @ b - a @ a.T - first[0]).norm() / (a @ a.T).norm()
        return [float(loss), float(inside[0, 0]), float(crossed), float(drift)]

    options = [f"--data.depth={depth}", f"--data.features={outputs}", f"--model.inputs={n}", f"--model.hidden={n}"]
    options += ["--model.init=small", "--model.track=[1]"]
    loop = descent(start, gradients, measure, 5e-4, 200)
    first_layer, second_layer, error, inputs = stack(n, n), stack(outputs, n), stack(outputs, n), stack(n, n)

    def products() -> None:
        torch.bmm(second_layer, first_layer), torch.bmm(error, inputs)
        torch.bmm(second_layer.mT, error), torch.bmm(error, first_layer.mT)

    name = f"deep linear, {n}-{n}-{outputs}"
    return Case(name, "dynamics/deep_linear", options, "--model.seeds", loop, products)


def regression(inputs: int) -> Case:
    """Returns a linear student with as many examples as inputs, beside the theory."""
    x = torch.randn(inputs, inputs, dtype=torch.float64) / inputs**0.5
    teacher = 5**0.5 * torch.randn(inputs, dtype=torch.float64)
    y = teacher @ x + torch.randn(inputs, dtype=torch.float64)
    values, basis = torch.linalg.eigh(x @ x.T)
    empty = basis[:, values <= 1e-10 * values[-1]]

    def start() -> list[Tensor]:
        return [torch.zeros(inputs, dtype=torch.float64)]

    def gradients(weights: list[Tensor]) -> list[Tensor]:
        return [(weights[0] @ x - y) @ x.T]

    def measure(weights: list[Tensor], step: int) -> list[float]:
        w, t = weights[0], step * 0.01
        errors = [float((teacher - w).square().mean()) + 1, float((y - w @ x).square().mean())]
        predicted = [theory.generalization_error(t, 1.0, 5.0, 0.0), theory.training_error(t, 1.0, 5.0, 0.0)]
        return [t, *errors, float((empty.T @ w).norm()), *map(float, predicted)]

    options = [f"--data.inputs={inputs}", "--data.alpha=1.0"]
    loop = descent(start, gradients, measure, 0.01, 100)
    many, row = stack(inputs, inputs), stack(1, inputs)

    def products() -> None:
        torch.bmm(row, many), torch.bmm(row, many.mT)

    name = f"regression, {inputs} inputs"
    return Case(name, "dynamics/generalization_dynamics", options, "--data.draws", loop, products)


def rows(options: argparse.Namespace) -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    quiet_lightning()
    for case in (sensing(10), sensing(50), linear(3, 10), linear(5, 100), regression(20)):
        ones, manys, most, plains = [], [], [], []
        with tempfile.TemporaryDirectory() as root:
            for _ in range(REPEATS):  # by turns, so that what else the machine does falls on all alike
                (plain,) = times(case.loop, 1)
                ones.append(seconds(case, 1, root) / plain)
                manys.append(seconds(case, SEEDS, root) / (SEEDS * plain))
                most.append(statistics.median(times(case.products, 200)) * STEPS / (SEEDS * plain))
                plains.append(plain)
        took = f"{duration(statistics.median(plains) / STEPS)} a step"
        yield Row(f"{case.name}: fit of one seed", "a plain loop", statistics.median(ones), took, at_most(1.2))
        text = f"{case.name}: fit of {SEEDS} seeds"
        yield Row(text, f"{SEEDS} plain loops", statistics.median(manys), bound=at_most(0.125))
        text = f"{case.name}: the matrix products of {SEEDS} seeds alone"
        yield Row(text, f"{SEEDS} plain loops", statistics.median(most))


if __name__ == "__main__":
    report(__file__, __doc__, rows)
