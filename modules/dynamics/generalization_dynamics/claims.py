"""What the theory of generalization over training time predicts, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from framework.claims import Claim, Reproduction, at_least, at_most, within
from modules.dynamics.ensemble import Batch, prepared
from modules.dynamics.generalization_dynamics import theory
from modules.dynamics.generalization_dynamics.lightning import LinearStudent
from modules.dynamics.generalization_dynamics.plots import double_descent_figure, errors_figure
from modules.dynamics.generalization_dynamics.students import FROZEN, decompose, flow, random_features

CONFIG = "dynamics/generalization_dynamics"
# (SNR, α): t_opt, E_g there, the best ridge's, and at the end.
TABLE = {
    (1, 0.5): (0.6965, 1.78359, 1.78078, 2.5),
    (1, 1): (0.6810, 1.62459, 1.61803, math.inf),
    (1, 2): (0.6185, 1.42323, 1.41421, 2),
    (5, 0.5): (2.7072, 4.13033, 4.10850, 4.5),
    (5, 1): (3.0671, 2.83758, 2.79129, math.inf),
    (5, 2): (2.3935, 1.77036, 1.74166, 2),
    (100, 0.5): (19.941, 51.97768, 51.96224, 52),
    (100, 1): (60.400, 10.77936, 10.51249, math.inf),
    (100, 2): (13.253, 1.99017, 1.98058, 2),
}
TIMES = (0.1, 0.5, 2.0, 10.0, 100.0)
DIGITS_WIDTHS = (30, 100, 200, 270, 300, 330, 400, 600, 1500)
TEACHER_WIDTHS = (30, 100, 200, 280, 300, 320, 400, 600, 1200)
EXAMPLES = 300


def model_of(*overrides: str) -> tuple[LinearStudent, Batch]:
    """The shipped experiment with other settings."""
    model, batch = prepared(CONFIG, *overrides)
    assert isinstance(model, LinearStudent)
    return model, batch


def claims(run: Reproduction) -> Iterator[Claim]:
    """The closed forms, simulation against them, and students of random features."""
    yield from closed_forms()
    yield from simulation(run)
    yield from features(run)
    yield from decomposition()


def closed_forms() -> Iterator[Claim]:
    """The table of stopping times and errors, and the growth at α = 1."""
    worst = dict.fromkeys(("t_opt", "E_g", "ridge", "end"), 0.0)
    for (snr, alpha), (t, least, ridge, end) in TABLE.items():
        found_t, found = theory.optimal_stop(alpha, snr)
        worst["t_opt"] = max(worst["t_opt"], abs(found_t / t - 1))
        worst["E_g"] = max(worst["E_g"], abs(found - least))
        worst["ridge"] = max(worst["ridge"], abs(theory.ridge_error(alpha, snr) - ridge))
        if math.isfinite(end):
            worst["end"] = max(worst["end"], abs(theory.final_error(alpha, snr) - end))
    what = "9 pairs of SNR and α, largest distance from the reference"
    yield Claim(f"best stopping time, {what}, relative", "none; reference table", worst["t_opt"], at_most(1e-3))
    yield Claim(f"E_g there, {what}", "none; reference table", worst["E_g"], at_most(1e-4))
    yield Claim(f"E_g of the best ridge, {what}", "none; reference table", worst["ridge"], at_most(1e-4))
    yield Claim(f"E_g at the end, {what}", "none; reference table", worst["end"], at_most(1e-6))
    excess = max(
        (theory.optimal_stop(alpha, snr, 0.0)[1] - 1) / (theory.ridge_error(alpha, snr) - 1) - 1
        for alpha, snr in ((0.5, 1), (1, 1), (2, 1), (0.5, 5), (1, 5), (2, 5), (0.5, 100), (1, 100), (2, 100))
    )
    text = "early stopping over the best ridge, excess of the estimation error, largest of the 9"
    yield Claim(text, "small; reference 0.041", excess, within(0.0, 0.041))
    growth = [(float(theory.generalization_error(t, 1.0, 0.0)) - 1) / math.sqrt(t) for t in (10, 100, 1e3, 1e4)]
    off = max(abs(a - b) for a, b in zip(growth, (0.5120, 0.6119, 0.6453, 0.6560), strict=True))
    yield Claim("α = 1: noise part of E_g over √t, t = 10 … 10⁴", "0.6610 at last", off, at_most(1e-3))


def simulation(run: Reproduction) -> Iterator[Claim]:
    """N = 200, 20 draws, SNR 5 against the theory; what never moves; steps against the flow."""
    curves = {}
    settings = ["--model.exact=true", "--model.optimizer.lr=0.1", "--data.snr=5"]
    worst = {"test_error": 0.0, "train_error": 0.0}
    frozen = 0.0
    for alpha in (0.5, 1.0, 2.0):
        model, batch = model_of(*settings, f"--data.alpha={alpha}")
        at = [round(10 * t) for t in TIMES]
        found = model.simulate(batch, 1000, at)
        for name in worst:
            values, expected = found[name], found[f"{name}/theory"][:, 0]
            error = values.std(1, ddof=1) / values.shape[1] ** 0.5
            worst[name] = max(worst[name], float((np.abs(values.mean(1) - expected) / error).max()))
        frozen = max(frozen, float(found["frozen"].max()))
        model, batch = model_of(*settings, f"--data.alpha={alpha}")
        curves[f"α = {alpha:g}"] = model.simulate(batch, 10_000)
    run.figure("errors", errors_figure(curves))
    scale = "N = 200, 20 draws, five times"
    for name, value in worst.items():
        text = f"{name.replace('_', ' ')} against theory, SNR 5, α = 0.5, 1, 2: largest distance in standard errors"
        yield Claim(text, "0", value, at_most(4), scale)
    yield Claim("movement of w where no example lies", "0", frozen, at_most(1e-10), scale)

    small = ["--data.inputs=60", "--data.alpha=0.75", "--data.draws=2", "--data.snr=1"]
    exact, batch = model_of(*small, "--model.exact=true", "--model.optimizer.lr=2.5")
    exact.simulate(batch, 1, [1])
    stepped, _ = model_of(*small, "--model.optimizer.lr=4e-6")
    stepped.simulate(batch, 625_000, [625_000])
    gap = float((stepped.w - exact.w).detach().abs().max())
    yield Claim("Euler steps of 4e-6 against the flow at t = 2.5, N = 60, P = 45", "equal", gap, at_most(1e-6))

    fitted = run.fit(CONFIG, "--trainer.max_epochs=1")
    model, batch = model_of("--trainer.max_epochs=1")
    looped = float(model.simulate(batch, 1000, [1000])["test_error"][-1].mean())
    text = "1,000 steps through fit against the loop: difference of the test errors"
    yield Claim(text, "0", abs(fitted["train/test_error"] - looped), at_most(1e-10))


def descent(h: Tensor, y: Tensor, h_test: Tensor, y_test: Tensor) -> tuple[float, float]:
    """Test error (mean square) of a read-out trained by gradient flow: the least over time, and at t = 10¹⁰."""
    solved = flow(h, y)
    errors = [float((y_test - solved.at(t) @ h_test).square().mean()) for t in np.logspace(-2, 10, 121)]
    return min(errors), errors[-1]


def digits_task(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Even or odd of scikit-learn's digits: 300 with 15 % of the labels flipped, the rest to test on, clean."""
    from sklearn.datasets import load_digits

    found = load_digits()
    x = torch.as_tensor(found.data / 16)
    x = x - x.mean(0)
    x = x / x.square().sum(1).mean().sqrt()
    y = torch.as_tensor(1.0 - 2 * (found.target % 2)).double()
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    train, test = order[:EXAMPLES], order[EXAMPLES:]
    flips = torch.rand(EXAMPLES, generator=generator) < 0.15
    return x[train].T, torch.where(flips, -y[train], y[train]), x[test].T, y[test]


def teacher_task(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A teacher of 30 ReLUs on 15 inputs, its output of variance 1, noise of half its deviation; the test is clean."""
    generator = torch.Generator().manual_seed(seed)
    first = torch.randn(30, 15, dtype=torch.float64, generator=generator)
    second = torch.randn(30, dtype=torch.float64, generator=generator)
    x = torch.randn(15, EXAMPLES + 2000, dtype=torch.float64, generator=generator)
    y = second @ torch.relu(first @ x)
    y = (y - y.mean()) / y.std()
    noise = 0.5 * torch.randn(EXAMPLES, dtype=torch.float64, generator=generator)
    return x[:, :EXAMPLES], y[:EXAMPLES] + noise, x[:, EXAMPLES:], y[EXAMPLES:]


def features(run: Reproduction) -> Iterator[Claim]:
    """Fig. 7: read-outs of random features overtrain worst where there are as many features as examples."""
    curves: dict[str, dict[str, list[float]]] = {}
    tasks = (("digits, 15 % flipped", digits_task, DIGITS_WIDTHS), ("ReLU teacher", teacher_task, TEACHER_WIDTHS))
    for title, task, widths in tasks:
        early, late = [], []
        for width in widths:
            pairs = []
            for seed in range(5):
                x, y, x_test, y_test = task(seed)
                generator = torch.Generator().manual_seed(1000 + seed)
                weights = torch.randn(width, len(x), dtype=torch.float64, generator=generator)
                pairs.append(descent(random_features(x, weights), y, random_features(x_test, weights), y_test))
            # the late error is heavy-tailed at the peak
            early.append(float(np.mean([a for a, _ in pairs])))
            late.append(float(np.median([b for _, b in pairs])))
        curves[title] = {"stopped at the best time": early, "trained to the end (median)": late}
        at = dict(zip(widths, late, strict=True))
        sides = max(at[200], at[600])
        scale = f"{EXAMPLES} examples, 5 seeds"
        text = f"{title}: late error at N_h = P over the larger of those at 0.67 P and 2 P"
        yield Claim(text, "peak at N_h = P", at[EXAMPLES] / sides, at_least(5), scale, {"late": at, "early": early})
        rise = max(b - a for a, b in pairwise(early))
        text = f"{title}: largest rise of the early-stopped error from one width to the next"
        yield Claim(text, "falls with N_h", rise, at_most(0.02), scale)
    run.figure("double_descent", double_descent_figure([widths for _, _, widths in tasks], curves, EXAMPLES))


def decomposition() -> Iterator[Claim]:
    """Fig. 9: approximation, null space and over-fitting add up; the residual of a noiseless teacher acts as noise."""
    worst = 0.0
    parts: dict[int, list[list[float]]] = {width: [] for width in (10, 50, 200)}
    for width, found in parts.items():
        for seed in range(40):
            generator = torch.Generator().manual_seed(seed)
            first = torch.randn(20, 15, dtype=torch.float64, generator=generator)
            second = torch.randn(20, dtype=torch.float64, generator=generator)
            weights = torch.randn(width, 15, dtype=torch.float64, generator=generator)
            x = torch.randn(15, 50 + 5000, dtype=torch.float64, generator=generator)
            y, h = second @ torch.relu(first @ x), random_features(x, weights)
            split = decompose(h[:, :50], y[:50], h[:, 50:], y[50:])
            error = (y[50:] - y[:50] @ torch.linalg.pinv(h[:, :50], rtol=FROZEN**0.5) @ h[:, 50:]).square().mean()
            worst = max(worst, abs(float(sum(split) / error) - 1))
            found.append([float(part) for part in split])
    text = "E_a + E_n + E_o + cross term over the measured test error, largest distance from 1, 120 draws"
    yield Claim(text, "0", worst, at_most(1e-8), "P = 50, N_h = 10, 50, 200")
    over = {width: float(np.median([row[2] for row in rows])) for width, rows in parts.items()}
    text = "over-fitting of a noiseless teacher's residual: N_h = P over the larger of 0.2 P and 4 P (medians)"
    yield Claim(text, "peak at N_h = P", over[50] / max(over[10], over[200]), at_least(5), "P = 50, 40 draws")
