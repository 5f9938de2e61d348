"""What the exact solutions say, in a form that can fail."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import numpy as np
import torch
from scipy.integrate import solve_ivp

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds, within
from framework.optim import build_optimizer
from modules.dynamics.deep_linear import theory
from modules.dynamics.deep_linear.initialisation import consistency, orthonormal
from modules.dynamics.deep_linear.isometry import product_spectrum, tanh_network
from modules.dynamics.deep_linear.module import DeepLinear
from modules.dynamics.deep_linear.network import best_loss, modes, product
from modules.dynamics.deep_linear.plots import (
    critical_figure,
    delay_figure,
    depth_figure,
    edge_figure,
    modes_figure,
    spectra_figure,
    traces_figure,
)
from modules.ensemble import Batch, prepared

CONFIG = "dynamics/deep_linear"
DIGITS = ("--data.source=digits", "--data.mean=true", "--model.inputs=64", "--model.outputs=10", "--model.hidden=64")
# q_∞(g) by Gauss-Hermite quadrature.
VARIANCES = {1.05: 0.05325, 1.1: 0.11275, 1.2: 0.24951, 1.5: 0.79335, 2.0: 2.12147}
DRAWS = (0, 1, 2)  # seeds of initial weights
# Reference iterations to the threshold, one seed, by N_l.
TIMES = {
    "orthogonal": {3: 34, 5: 33, 10: 25, 20: 28, 40: 13},
    "gaussian": {3: 59, 5: 57, 10: 95, 20: 103, 40: 833},
}


def model_of(*overrides: str) -> tuple[DeepLinear, Batch]:
    """Returns the shipped experiment with other settings."""
    model, batch = prepared(CONFIG, *overrides)
    assert isinstance(model, DeepLinear)
    return model, batch


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities and closed forms, the modes of the hierarchical data, depth, random products, tanh networks."""
    yield from identities()
    yield from closed_forms()
    yield from hierarchy(run)
    yield from delays(run)
    yield from depth(run)
    yield from random_networks(run)
    yield from critical_gain(run)


def identities() -> Iterator[Claim]:
    """Eq. 13 is the gradient; what is conserved; the rank that a bottleneck leaves."""
    worst = 0.0
    deep = ["--model.layers=4", "--model.hidden=7", "--model.init=gaussian"]
    for data in (DIGITS, ("--data.features=50",)):  # fewer and more outputs than inputs
        model, batch = model_of(*data, *deep)
        by_hand = model.gradients(batch)
        with torch.enable_grad():
            by_autograd = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
        pairs = zip(by_hand, by_autograd, strict=True)
        worst = float(np.max([worst, *(float((a - b).detach().abs().max() / b.abs().max()) for a, b in pairs)]))
    text = "eq. 13 against autograd of ½ Σ |y − W x|², L = 4, unequal widths: relative difference"
    yield Claim(text, "equal", worst, at_most(1e-10))

    small = ["--data.features=50", "--model.layers=3", "--model.init=gaussian"]
    drifts = []
    for rate, steps in ((2e-3, 200), (1e-3, 400)):
        model, batch = model_of(*small, f"--model.optimizer.lr={rate}")
        drifts.append(float(model.simulate(batch, steps, [steps])["drift"][-1, 0]))
    text = "W^(l+1)ᵀW^(l+1) − W^l W^lᵀ: drift at a rate over that at half of it"
    yield Claim(text, "2", drifts[0] / drifts[1], within(1.8, 2.2), details={"drift": drifts[0]})

    model, batch = model_of("--model.hidden=3", "--model.init=small", "--model.std=0.01")
    model.simulate(batch, 15_000, [15_000])
    u, s, v = modes(batch["s31"], 3)
    best = (u * s) @ v.mT
    error = float((product(list(model.weights))[0] - best).detach().norm() / best.norm())
    yield Claim("three hidden units: W against the rank-3 part of Σ31", "equal", error, at_most(1e-4))


def closed_forms() -> Iterator[Claim]:
    """Times of eq. 11, of appendix A corrected, of eq. 15 and 17, against integration and gradient descent."""
    worst = 0.0
    for a0, b0, s, uf in ((0.7, 0.1, 2.0, 1.9), (0.05, 0.3, 1.0, 0.9), (1e-3, 1e-2, 3.0, 2.5)):

        def flow(_: float, x: np.ndarray, s: float = s) -> list[float]:
            return [x[1] * (s - x[0] * x[1]), x[0] * (s - x[0] * x[1])]

        def reached(_: float, x: np.ndarray, uf: float = uf) -> float:
            return float(x[0] * x[1] - uf)

        reached.terminal = True  # type: ignore[attr-defined]
        ode = solve_ivp(flow, (0, 100), [a0, b0], rtol=1e-11, atol=1e-13, events=reached, method="DOP853")
        worst = max(worst, abs(float(ode.t_events[0][0]) - theory.unequal_time(s, a0, b0, uf)))
    text = "time of unequal a, b against integration, three settings (the appendix's formula is a factor 2 off)"
    yield Claim(text, "equal", worst, at_most(1e-6))

    apart = []
    for layers in (2, 5, 10):
        rate, s, u, steps = 1e-4, 1.0, 0.01 ** (1 / layers), 0
        while u**layers < 0.99:
            u += rate * u ** (layers - 1) * (s - u**layers)
            steps += 1
        apart.append(abs(steps * rate / theory.depth_time(s, 0.01, 0.99, layers) - 1))
    yield Claim("gradient descent on 2, 5, 10 equal factors against eq. 15", "equal", max(apart), at_most(0.01))
    expected = {3: 9.190, 10: 52.07, 50: 94.06, 1000: 107.43}
    found = {n: (n - 1) * theory.depth_time(1.0, 0.01, 0.99, n - 1) for n in expected}
    off = max(abs(found[n] / value - 1) for n, value in expected.items())
    text = "(N_l − 1) t, N_l = 3, 10, 50, 1000: largest relative distance from the reference"
    yield Claim(text, "none; reference 9.190 … 107.43", off, at_most(1e-3), details={"found": found})
    limit = theory.infinite_depth_time(1.0, 0.01, 0.99)
    yield Claim("its limit by eq. 17, over that at N_l = 1000", "1", limit / found[1000], within(1.0, 1.01))


def hierarchy(run: Reproduction) -> Iterator[Claim]:
    """Fig. 3: the modes of hierarchical data are learnt when eq. 11 and 12 say."""
    model, batch = model_of()
    found = model.simulate(batch, 1500, range(1501))
    run.figure("modes", modes_figure(found, model.tracked))
    off = {}
    for mode in model.tracked:
        s = float(model.s[mode - 1])
        at = int((found[f"mode/{mode}"][:, 0] > s / 2).argmax())
        off[mode] = at / float(theory.learning_time(s, 1e-6, s / 2, 1 / 5e-4)) - 1
    text = "Fig. 3: half-learning iterations of 7 modes over eq. 11, largest distance from 1"
    yield Claim(text, "0; reference 0.02", max(map(abs, off.values())), at_most(0.03), details={"by mode": off})
    yield Claim("modes do not mix: Uᵀ W V off the diagonal", "0", found["crosstalk"].max(), at_most(1e-10))

    strengths = theory.tree_strengths()
    expected = np.concatenate([[value] * count for value, count in strengths.values()])
    drawn = []
    for seed in range(20):
        _, other = model_of(f"--data.seed={seed}")
        drawn.append(torch.linalg.svdvals(other["s31"]).square().sum())
    text = "Σ s² of the tree's modes, mean of 20 draws over the expected"
    yield Claim(text, "1", float(torch.stack(drawn).mean() / (expected**2).sum()), close_to(1, absolute=1e-6), seeds=20)
    text = "strongest mode of the tree, over the expected 81.04"
    yield Claim(text, "1", float(model.s[0]) / strengths[-1][0], close_to(1, absolute=0.05))

    errors = []
    for rate, steps in ((1e-4, 3000), (5e-5, 6000)):
        model, batch = model_of(f"--model.optimizer.lr={rate}", "--model.u0=0.08")
        found = model.simulate(batch, steps, range(0, steps + 1, steps // 100))
        errors.append(
            max(
                float(np.abs(found[f"mode/{m}"] - found[f"mode/{m}/theory"]).max() / float(model.s[m - 1]))
                for m in model.tracked
            )
        )
    yield Claim("|strength − eq. 12| / s at λ s₁ = 0.004, u₀ = s₁ / 1,000: largest", "0", errors[1], at_most(0.005))
    yield Claim("it falls with λ: at twice the rate, over that", "2", errors[0] / errors[1], within(1.8, 2.2))

    short = ["--trainer.max_epochs=1"]
    fitted = run.fit(CONFIG, *short)["train/loss"]
    model, batch = model_of(*short)
    looped = float(model.simulate(batch, 500, [500])["loss"][-1, 0])
    yield Claim(
        "500 steps through fit against the loop: relative difference of the losses",
        "0",
        abs(fitted / looped - 1),
        at_most(1e-6),
    )


def delays(run: Reproduction) -> Iterator[Claim]:
    """Fig. 3, right: small random starts, and tanh between the layers, delay each mode a little."""
    small = ["--model.init=small", f"--model.std={1e-3 / 32**0.5}", "--model.seeds=6", "--data.examples=true"]
    traces: dict[str, dict[str, np.ndarray]] = {}
    found: dict[str, dict[int, np.ndarray]] = {}
    for activation in ("linear", "tanh"):
        model, batch = model_of(*small, f"--model.activation={activation}")
        traces[activation] = model.simulate(batch, 4000, range(0, 4001, 5))
        steps, found[activation] = traces[activation]["step"], {}
        for mode in model.tracked:
            s = float(model.s[mode - 1])
            at = steps[(traces[activation][f"mode/{mode}"] > s / 2).argmax(0)]
            found[activation][mode] = at / float(theory.learning_time(s, 1e-6, s / 2, 1 / 5e-4)) - 1
    exact, batch = model_of()
    run.figure("tanh", traces_figure(exact.simulate(batch, 2000, range(0, 2001, 20)), traces, exact.tracked))
    run.figure("delays", delay_figure(found))
    means = {name: {mode: float(values.mean()) for mode, values in by.items()} for name, by in found.items()}
    scale = "6 draws for 100"
    text = "small random start: delay of half-learning over eq. 11, modes 1, 2, 3, 5, 12"
    worst = max(means["linear"][mode] for mode in (1, 2, 3, 5, 12))
    yield Claim(text + ": largest mean", "small; reference 0.05 to 0.12", worst, at_most(0.15), scale, means, seeds=6)
    text = "the same with tanh, modes 1, 2, 3, 5, 12: largest mean"
    worst = max(means["tanh"][mode] for mode in (1, 2, 3, 5, 12))
    yield Claim(text, "small beside eq. 11's time, more than linear", worst, at_most(0.35), scale, seeds=6)
    later = min(means["tanh"][mode] - means["linear"][mode] for mode in means["tanh"])
    yield Claim("delay with tanh less that without, 7 modes: least", "positive", later, at_least(0.0), scale, seeds=6)
    learnt = [traces["tanh"][f"mode/{m}"][-1].min() / float(exact.s[m - 1]) for m in exact.tracked]
    text = "tanh: modes 1 to 31 in the network's own correlation after 4,000 iterations, least over s"
    yield Claim(text, "1", float(min(learnt)), within(0.95, 1.05), scale, seeds=6)
    times = [
        float(np.mean(steps[(traces["tanh"][f"mode/{m}"] > float(exact.s[m - 1]) / 2).argmax(0)])) for m in (1, 31)
    ]
    text = "tanh: half-learning of mode 31 over that of mode 1"
    yield Claim(text, "in order; 4.4 by eq. 11", times[1] / times[0], at_least(3.0), scale, seeds=6)


def iterations(init: str, units: int, most: int, seed: int = 0) -> tuple[float, float]:
    """Iterations to the threshold on the digits with the best of 15 rates, and that rate; NaN beyond ``most``."""
    rates = np.logspace(-3.5, 0, 15)
    settings = [f"--model.layers={units - 1}", f"--model.init={init}", f"--model.rates={rates.tolist()}"]
    model, batch = model_of(
        *DIGITS, *settings, "--model.optimizer.lr=1.0", "--model.u0=1e-3", f"--seed_everything={seed}"
    )
    least = best_loss(batch["s31"], batch["s11"], batch["syy"])
    threshold = least + 0.25 * (0.45 - least)  # a constant predictor has 0.9 / 2
    optimizer = build_optimizer(model, model.optimizer_config)
    with torch.no_grad():
        for step in range(1, most + 1):
            model.advance(batch, 1, optimizer)
            loss = model.losses(batch)
            if bool((loss <= threshold).any()):
                return step, float(rates[int(loss.nan_to_num(torch.inf).argmin())])
    return float("nan"), float("nan")


def depth(run: Reproduction) -> Iterator[Claim]:
    """Figs. 4 and 6A on the digits: depth does not lengthen learning from orthogonal starts, but from Gaussian ones."""
    scale = "digits for MNIST, hidden width 64 for 1,000"
    times: dict[str, dict[int, list[float]]] = {}
    rates: dict[str, dict[int, list[float]]] = {}
    settings = {init: (init, tuple(references), 2000) for init, references in TIMES.items()}
    settings["decoupled, u₀ = 0.001"] = ("decoupled", (3, 5, 10), 800)
    for name, (init, depths, most) in settings.items():
        found = {units: [iterations(init, units, most, seed) for seed in DRAWS] for units in depths}
        times[name] = {units: [steps for steps, _ in draws] for units, draws in found.items()}
        rates[name] = {units: [rate for _, rate in draws] for units, draws in found.items()}
    run.figure("depth", depth_figure(_medians(times), _medians(rates), "digits, hidden width 64"))
    details = {"iterations": times, "best rate": rates}
    for units, least, reference in ((20, 3, "3.7"), (40, 10, "64")):
        ratios = _ratios(times["gaussian"][units], times["orthogonal"][units])
        text = f"iterations with a Gaussian start over those with an orthogonal one, N_l = {units}, median"
        paper = f"grows; reference {reference}"
        yield over_seeds(text, paper, ratios, at_least(least), scale, details, by=median)
    text = "orthogonal start: iterations at N_l = 40 over those at N_l = 3"
    ratios = _ratios(times["orthogonal"][40], times["orthogonal"][3])
    yield over_seeds(text, "does not grow; reference 0.4", ratios, at_most(1.5), scale)
    falls = _ratios(rates["orthogonal"][3], rates["orthogonal"][40])
    text = "best rate of an orthogonal start, N_l = 3 over N_l = 40 (15 rates, each 1.8 times the one before)"
    yield over_seeds(text, "13 as 1/N_l; reference 5.6", falls, within(3, 18), scale)

    greedy = {init: [iterations(init, 5, 2000, seed)[0] for seed in DRAWS] for init in ("small", "pretrained")}
    text = "Fig. 5, N_l = 5: iterations from small weights (0.01) over those after greedy layer-wise pretraining"
    ratios = _ratios(greedy["small"], greedy["pretrained"])
    yield over_seeds(text, "pretraining is faster", ratios, at_least(5), scale, greedy)

    _, batch = model_of(*DIGITS)
    generator = torch.Generator().manual_seed(0)
    s31, s11 = batch["s31"], batch["s11"]
    text = "pretraining's condition on the digits: off-diagonal part of Vᵀ Σ11 V"
    yield Claim(text, "near 0; reference 0.017", consistency(s31, s11), close_to(0.017, absolute=0.003))
    text = "the same along raw pixels"
    yield Claim(
        text, "none; reference 0.97", consistency(s31, s11, torch.eye(64).double()), close_to(0.97, absolute=0.01)
    )
    random = [consistency(s31, s11, orthonormal(64, 10, generator)) for _ in range(10)]
    yield over_seeds("the same along random axes, mean", "none; reference 0.84", random, within(0.7, 0.95))


def _medians(found: dict[str, dict[int, list[float]]]) -> dict[str, dict[int, float]]:
    return {name: {units: median(draws) for units, draws in by.items()} for name, by in found.items()}


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]


def random_networks(run: Reproduction) -> Iterator[Claim]:
    """Figs. 6 to 8: products of Gaussian matrices spread, orthogonal ones do not; tanh nets at the edge of chaos."""
    generator = torch.Generator().manual_seed(0)
    spectra = {n: product_spectrum(200, n, False, generator).numpy() for n in (1, 3, 10, 30)}
    run.figure("products", spectra_figure({f"{n} Gaussian factors": values for n, values in spectra.items()}))
    for n, reference in ((1, 0.06), (3, 0.27), (10, 0.60), (30, 0.82)):
        share = float((spectra[n] < 0.1).mean())
        text = f"{n} Gaussian factors of 200: share of singular values below 0.1"
        yield Claim(text, f"none; reference {reference}", share, close_to(reference, absolute=0.05))
    flat = product_spectrum(200, 100, True, generator)
    text = "100 orthogonal factors: largest distance of a singular value from 1"
    yield Claim(text, "0", float((flat - 1).abs().max()), at_most(1e-10))
    measured = []
    for gain, reference in VARIANCES.items():
        computed = theory.tanh_variance(gain)
        yield Claim(
            f"q_∞ at g = {gain:g}", f"none; reference {reference}", computed, close_to(reference, absolute=1e-4)
        )
        variances, _ = tanh_network(gain, 500, 30 if gain >= 1.2 else 60, 1.0, generator)
        measured.append(float(variances[-5:].mean()))
    run.figure("edge", edge_figure(list(VARIANCES), [theory.tanh_variance(g) for g in VARIANCES], measured))
    for gain, value in zip(VARIANCES, measured, strict=True):
        if gain in (1.2, 1.5):
            text = f"variance of a tanh network of 500 units, g = {gain:g}, layers 26 to 30, over q_∞"
            yield Claim(text, "1", value / VARIANCES[gain], close_to(1, absolute=0.05), "500 units for 1,000")


def tanh_iterations(layers: int, gain: float, seed: int, most: int) -> float:
    """Iterations of a tanh network of 32 units to a loss of 0.3 (a constant predictor has 0.45) on 128 digits, with the
    best of 8 rates from an orthogonal start; ``most`` if it takes more."""
    network = ["--model.hidden=32", "--model.init=orthogonal", "--model.activation=tanh", f"--seed_everything={seed}"]
    rates = np.logspace(-2, -0.25, 8).tolist()
    sizes = [f"--model.layers={layers}", f"--model.gain={gain}", f"--model.rates={rates}", "--model.optimizer.lr=1.0"]
    model, batch = model_of(*DIGITS, "--data.examples=true", *network, *sizes)
    x, y = batch["x"][:, :128], batch["y"][:, :128]
    batch = {"x": x, "y": y, "count": torch.tensor(128.0, dtype=torch.float64)}
    optimizer = build_optimizer(model, model.optimizer_config)
    with torch.no_grad():
        for step in range(1, most):
            model.advance(batch, 1, optimizer)
            if bool((model.losses(batch) < 0.3).any()):
                return step
    return most


def critical_gain(run: Reproduction) -> Iterator[Claim]:
    """Section 4: a deep tanh network passes gradients on, and learns soon, at the critical gain and just above."""
    generator = torch.Generator().manual_seed(0)
    gains = (0.8, 0.9, 0.95, 1.0, 1.05, 1.1, 1.2, 1.5)
    draws: dict[float, list[np.ndarray]] = {}
    for gain in gains:
        jacobians = [tanh_network(gain, 200, 100, 0.2, generator)[1] for _ in DRAWS]
        draws[gain] = [torch.linalg.svdvals(jacobian).numpy() for jacobian in jacobians]
    spectra = {gain: values[0] for gain, values in draws.items()}
    share = {gain: [float(((v > 0.1) & (v < 10)).mean()) for v in values] for gain, values in draws.items()}
    typical = {gain: [float(np.sqrt((v**2).mean())) for v in values] for gain, values in draws.items()}
    tried = (0.8, 0.9, 1.0, 1.05, 1.1)
    most = 150
    times = {
        layers: {
            gain: float(np.median([tanh_iterations(layers, gain, seed, most) for seed in range(3)])) for gain in tried
        }
        for layers in (4, 40)
    }
    run.figure("critical", critical_figure(spectra, times, most))
    scale = "200 units for 1,000, 100 layers"
    details = {"share": share, "root mean square": typical}
    text = "Jacobian of a tanh network: share of singular values in [0.1, 10] at g = 1.05"
    yield over_seeds(text, "many of order 1 just above g = 1", share[1.05], at_least(0.75), scale, details)
    yield over_seeds("the same at g = 0.9", "none: they vanish", share[0.9], at_most(0.0), scale)
    yield over_seeds("the same at g = 1.5", "few: they spread", share[1.5], at_most(0.3), scale)
    text = "largest root mean square of g = 0.8, 0.9, 0.95 over the one at g = 1.05"
    largest = [max(values) for values in zip(*(typical[gain] for gain in (0.8, 0.9, 0.95)), strict=True)]
    below = _ratios(largest, typical[1.05])
    yield over_seeds(text, "gradients vanish below g = 1", below, at_most(0.05), scale)
    scale = "128 digits, 32 units, 3 draws"
    iterated = {f"{layers} layers": values for layers, values in times.items()}
    slow, best = times[40][0.9], max(times[40][gain] for gain in (1.0, 1.05, 1.1))
    text = "tanh network of 40 layers: iterations to a loss of 0.3 at g = 0.9 over the most of g = 1, 1.05, 1.1"
    yield Claim(text, "learning starts soon at g ≥ 1", slow / best, at_least(3), scale, iterated, seeds=3)
    text = "iterations at g = 1.05: 40 layers over 4 layers"
    yield Claim(text, "depth does not delay", times[40][1.05] / times[4][1.05], at_most(1.5), scale, seeds=3)
    text = f"40 layers at g = 0.8: iterations, of {most} at most"
    yield Claim(text, "does not start", times[40][0.8], at_least(most), scale, seeds=3)
