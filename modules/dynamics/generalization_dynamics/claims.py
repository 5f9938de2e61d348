"""What the theory of generalization over training time predicts, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, within
from modules.dynamics.generalization_dynamics import theory
from modules.dynamics.generalization_dynamics.module import LinearStudent
from modules.dynamics.generalization_dynamics.plots import (
    double_descent_figure,
    errors_figure,
    over_widths,
    spectra_figure,
    widths_figure,
)
from modules.dynamics.generalization_dynamics.students import FROZEN, bulk_eigenvalues, decompose, random_features
from modules.ensemble import Batch, prepared

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
# (INR, α) at SNR 5: the best E_g.
STARTS = {(0, 0.5): 4.130, (1, 0.5): 4.670, (5, 0.5): 6.770, (0, 2): 1.770, (1, 2): 1.802, (5, 2): 1.874}
FEATURES = "dynamics/generalization_dynamics_features"
DIGITS = ("--data.source=digits", "--data.inputs=64", "--data.tests=1497")
DIABETES = ("--data.source=diabetes", "--data.inputs=10", "--data.noise=0.0")
DIABETES_WIDTHS = (30, 60, 130, 180, 200, 220, 300, 400, 1000)
ALL_WIDTHS, ALL_STEPS = (2, 4, 8, 20, 60), 20_000
DIGITS_WIDTHS = (30, 100, 200, 270, 300, 330, 400, 600, 1500)
TEACHER_WIDTHS = (30, 100, 200, 280, 300, 320, 400, 600, 1200)
EXAMPLES = 300


def model_of(*overrides: str) -> tuple[LinearStudent, Batch]:
    """Returns the shipped experiment with other settings."""
    model, batch = prepared(CONFIG, *overrides)
    assert isinstance(model, LinearStudent)
    return model, batch


def claims(run: Reproduction) -> Iterator[Claim]:
    """The closed forms, simulation against them, and students of random features."""
    yield from closed_forms()
    yield from simulation(run)
    yield from small_starts()
    yield from features(run)
    yield from trained_in_all_layers(run)
    yield from spectra(run)
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
    grid = [(a, r) for a in np.geomspace(0.1, 10, 9).tolist() for r in np.geomspace(0.1, 1000, 9).tolist()]
    above = [(theory.optimal_stop(a, r)[1] - 1) / (theory.ridge_error(a, r) - 1) - 1 for a, r in [*grid, (7.9, 1.6)]]
    text = "the same for 81 pairs, α from 0.1 to 10 and SNR from 0.1 to 1,000, and α = 7.9, SNR 1.6: largest"
    yield Claim(text, "small; reference at most 0.103", max(above), within(0.0, 0.103))
    yield Claim(
        "and the least of them: early stopping is never below the best ridge", "≥ 0", min(above), at_least(-1e-9)
    )
    growth = [(float(theory.generalization_error(t, 1.0, 0.0)) - 1) / math.sqrt(t) for t in (10, 100, 1e3, 1e4)]
    off = max(abs(a - b) for a, b in zip(growth, (0.5120, 0.6119, 0.6453, 0.6560), strict=True))
    yield Claim("α = 1: noise part of E_g over √t, t = 10 … 10⁴", "0.6610 at last", off, at_most(1e-3))


def small_starts() -> Iterator[Claim]:
    """Large initial weights cost most where there is not enough data to unlearn them."""
    best = {(inr, alpha): theory.optimal_stop(alpha, 5, inr)[1] for inr, alpha in STARTS}
    off = max(abs(best[key] - value) for key, value in STARTS.items())
    text = "best E_g at SNR 5, INR 0, 1, 5, α = 0.5, 2: largest distance from the reference"
    yield Claim(
        text, "none; reference table", off, at_most(1e-3), details={str(key): value for key, value in best.items()}
    )
    ratio = (best[5, 0.5] - best[0, 0.5]) / (best[5, 2] - best[0, 2])
    yield Claim("cost of INR 5 at α = 0.5 over that at α = 2", "matters without enough data", ratio, at_least(10))
    worst = 0.0
    for inr in (1.0, 5.0):
        model, batch = model_of(
            "--model.exact=true", "--data.alpha=0.5", f"--model.inr={inr}", "--model.optimizer.lr=0.1"
        )
        found = model.simulate(batch, 100, [2, 20, 100])
        values, expected = found["test_error"], found["test_error/theory"][:, 0]
        error = values.std(1, ddof=1) / values.shape[1] ** 0.5
        worst = max(worst, float((np.abs(values.mean(1) - expected) / error).max()))
    text = "test error from INR 1 and 5 against theory, SNR 5, α = 0.5: largest distance in standard errors"
    yield Claim(text, "0", worst, at_most(4), "N = 200, 20 draws, three times", seeds=20)


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
        yield Claim(text, "0", value, at_most(4), scale, seeds=20)
    yield Claim("movement of w where no example lies", "0", frozen, at_most(1e-10), scale, seeds=20)

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


def features(run: Reproduction) -> Iterator[Claim]:
    """Fig. 7: read-outs of random features overtrain worst where there are as many features as examples."""
    curves: dict[str, dict[str, list[float]]] = {}
    tasks = {
        "digits, 15 % flipped": (DIGITS, DIGITS_WIDTHS, EXAMPLES),
        "ReLU teacher": ((), TEACHER_WIDTHS, EXAMPLES),
        "diabetes": (DIABETES, DIABETES_WIDTHS, 200),
    }
    at = sorted({0, *np.logspace(0, 12, 81).round().astype(int).tolist()})
    for title, (settings, widths, examples) in tasks.items():
        model, batch = prepared(FEATURES, *settings, f"--model.widths={list(widths)}", f"--data.examples={examples}")
        found = model.simulate(batch, 10**12, at)
        _, early, late = over_widths(found)
        curves[title] = {"stopped at the best time": early.tolist(), "trained to the end (median)": late.tolist()}
        last = dict(zip(widths, late.tolist(), strict=True))
        scale = f"{examples} examples, 5 draws"
        sides = max(last[2 * examples // 3 // 10 * 10], last[2 * examples])
        text = f"{title}: late error at N_h = P over the larger of those at 0.67 P and 2 P"
        details = {"late": last, "early": dict(zip(widths, early.tolist(), strict=True))}
        yield Claim(text, "peak at N_h = P", last[examples] / sides, at_least(5), scale, details, seeds=5)
        rise = max(b - a for a, b in pairwise(early))
        text = f"{title}: largest rise of the early-stopped error from one width to the next"
        yield Claim(text, "falls with N_h", rise, at_most(0.02), scale, seeds=5)
        if "test_mistakes" in found:
            _, best, end = over_widths(found, "test_mistakes")
            wrong = dict(zip(widths, end.tolist(), strict=True))
            text = f"{title}: share of mistakes at the end, N_h = P over the larger of 0.67 P and 2 P"
            ratio = wrong[examples] / max(wrong[200], wrong[600])
            yield Claim(text, "peak at N_h = P; reference 1.6", ratio, at_least(1.2), scale, {"late": wrong}, seeds=5)
            text = f"{title}: early-stopped share of mistakes, {widths[-1]:,} features over {widths[0]}"
            yield Claim(text, "falls; reference 0.46", best[-1] / best[0], at_most(0.7), scale, seeds=5)
    panels = [(list(widths), examples) for _, widths, examples in tasks.values()]
    run.figure("double_descent", double_descent_figure(panels, curves))


def trained_in_all_layers(run: Reproduction) -> Iterator[Claim]:
    """The control: students whose hidden weights are trained too, by gradient descent."""
    settings = ["--model.train=all", "--model.exact=false", f"--model.widths={list(ALL_WIDTHS)}", "--data.examples=100"]
    model, batch = prepared(FEATURES, *settings, "--model.optimizer.lr=0.02")
    at = sorted({0, *np.geomspace(1, ALL_STEPS, 40).round().astype(int).tolist()})
    found = model.simulate(batch, ALL_STEPS, at)
    run.figure("all_layers", widths_figure(found))
    widths, early, late = over_widths(found)
    _, _, fitted = over_widths(found, "train_error")
    scale = f"100 examples, 5 draws, {ALL_STEPS:,} steps"
    details = {
        "width": widths.tolist(),
        "parameters": [16 * int(width) for width in widths],
        "best": early.tolist(),
        "late": late.tolist(),
        "train": fitted.tolist(),
    }
    text = f"all layers trained: late over early-stopped error, the worst of {len(widths)} widths"
    yield Claim(text, "overtraining is there too", float((late / early).max()), at_least(1.2), scale, details, seeds=5)
    worst = 16 * int(widths[(late / early).argmax()]) / 100
    text = "the same: parameters of the width that overtrains most, over examples"
    yield Claim(text, "about 1", worst, within(0.6, 2.0), scale, seeds=5)
    text = "the same at the widest over the worst"
    yield Claim(
        text,
        "wide students overtrain less",
        float((late / early)[-1] / (late / early).max()),
        at_most(0.95),
        scale,
        seeds=5,
    )
    text = "early-stopped error, the widest over the narrowest"
    yield Claim(
        text, "larger students do not generalise worse", float(early[-1] / early[0]), at_most(1.0), scale, seeds=5
    )


def spectra(run: Reproduction) -> Iterator[Claim]:
    """Fig. 7: the hidden layer's small eigenvalues are Marchenko-Pastur's, and the gap at 0 closes at N_h = P."""
    inputs, panels, least, off = 100, {}, {}, []
    for width in (EXAMPLES // 2, EXAMPLES, 2 * EXAMPLES):
        drawn = []
        for seed in range(5):
            generator = torch.Generator().manual_seed(seed)
            x = torch.randn(inputs, EXAMPLES, dtype=torch.float64, generator=generator) / inputs**0.5
            h = random_features(x, torch.randn(width, inputs, dtype=torch.float64, generator=generator))
            values, alpha = bulk_eigenvalues(h, inputs + 1)
            drawn.append(values)
        panels[width] = (torch.stack(drawn).flatten().numpy(), alpha)
        least[width] = float(torch.stack(drawn)[:, -1].mean())
        low, high = ((math.sqrt(alpha) + sign) ** 2 for sign in (-1, 1))
        ends = [(float(values[0]) / high, float(values[-1]) / low if low else 1.0) for values in drawn]
        off.append(float(np.abs(np.mean(ends, 0) - 1).max()))
        if width > EXAMPLES:
            still = float((torch.linalg.eigvalsh(h @ h.mT) < FROZEN).double().mean())
    run.figure("spectra", spectra_figure(panels, EXAMPLES))
    scale = f"{EXAMPLES} examples of {inputs} inputs, 5 draws"
    text = (
        "ends of the small eigenvalues of hidden activity against Marchenko-Pastur, N_h = P/2, P, 2 P: largest relative"
    )
    yield Claim(text, "rescaled Marchenko-Pastur", max(off), at_most(0.25), scale, {"by width": off}, seeds=5)
    text = "smallest non-zero eigenvalue, N_h = P over the lesser of P/2 and 2 P"
    gap = least[EXAMPLES] / min(least[EXAMPLES // 2], least[2 * EXAMPLES])
    yield Claim(text, "the gap closes at N_h = P", gap, at_most(0.01), scale, {"smallest": least}, seeds=5)
    yield Claim(
        "share of eigenvalues that are 0 at N_h = 2 P", "0.5", still, close_to(0.5, absolute=1e-9), scale, seeds=5
    )


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
    yield Claim(text, "0", worst, at_most(1e-8), "P = 50, N_h = 10, 50, 200", seeds=40)
    over = {width: float(np.median([row[2] for row in rows])) for width, rows in parts.items()}
    text = "over-fitting of a noiseless teacher's residual: N_h = P over the larger of 0.2 P and 4 P (medians)"
    yield Claim(text, "peak at N_h = P", over[50] / max(over[10], over[200]), at_least(5), "P = 50, 40 draws", seeds=40)
