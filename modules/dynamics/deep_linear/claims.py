"""What the exact solutions say, in a form that can fail."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.integrate import solve_ivp

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, within
from framework.optim import build_optimizer
from modules.dynamics.deep_linear import theory
from modules.dynamics.deep_linear.initialisation import consistency, orthonormal
from modules.dynamics.deep_linear.isometry import product_spectrum, tanh_network
from modules.dynamics.deep_linear.lightning import DeepLinear
from modules.dynamics.deep_linear.network import best_loss, modes, product
from modules.dynamics.deep_linear.plots import depth_figure, edge_figure, modes_figure, spectra_figure
from modules.dynamics.ensemble import Batch, prepared

CONFIG = "dynamics/deep_linear"
DIGITS = ("--data.source=digits", "--data.mean=true", "--model.inputs=64", "--model.outputs=10", "--model.hidden=64")
# q_∞(g) by Gauss-Hermite quadrature.
VARIANCES = {1.05: 0.05325, 1.1: 0.11275, 1.2: 0.24951, 1.5: 0.79335, 2.0: 2.12147}
# Reference iterations to the threshold, one seed, by N_l.
TIMES = {
    "orthogonal": {3: 34, 5: 33, 10: 25, 20: 28, 40: 13},
    "gaussian": {3: 59, 5: 57, 10: 95, 20: 103, 40: 833},
}


def model_of(*overrides: str) -> tuple[DeepLinear, Batch]:
    """The shipped experiment with other settings."""
    model, batch = prepared(CONFIG, *overrides)
    assert isinstance(model, DeepLinear)
    return model, batch


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities and closed forms, the modes of the hierarchical data, depth, random products."""
    yield from identities()
    yield from closed_forms()
    yield from hierarchy(run)
    yield from depth(run)
    yield from random_networks(run)


def identities() -> Iterator[Claim]:
    """Eq. 13 is the gradient; what is conserved; the rank that a bottleneck leaves."""
    worst = 0.0
    for features in (10, 50):  # fewer and more outputs than the 32 inputs
        small = [f"--data.features={features}", "--model.layers=4", "--model.hidden=7", "--model.init=gaussian"]
        model, batch = model_of(*small)
        by_hand = model.gradients(batch)
        with torch.enable_grad():
            by_autograd = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
        pairs = zip(by_hand, by_autograd, strict=True)
        worst = max(worst, *(float((a - b).detach().abs().max() / b.abs().max()) for a, b in pairs))
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
    model.simulate(batch, 40_000, [40_000])
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
    yield Claim(text, "1", float(torch.stack(drawn).mean() / (expected**2).sum()), close_to(1, absolute=1e-6))
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

    delays = []
    for seed in range(5):
        small = [
            "--model.init=small",
            f"--model.std={1e-3 / 32**0.5}",
            "--model.track=[1]",
            f"--seed_everything={seed}",
        ]
        model, batch = model_of(*small)
        found = model.simulate(batch, 600, range(601))
        s = float(model.s[0])
        at = int((found["mode/1"][:, 0] > s / 2).argmax())
        delays.append(at / float(theory.learning_time(s, 1e-6, s / 2, 1 / 5e-4)) - 1)
    text = "small random start: delay of the strongest mode over eq. 11, mean of 5 draws"
    yield Claim(
        text, "small; reference 0.05 ± 0.02", float(np.mean(delays)), within(0.0, 0.12), details={"seeds": delays}
    )

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


def iterations(init: str, units: int, most: int) -> tuple[float, float]:
    """Iterations to the threshold on the digits with the best of 15 rates, and that rate; NaN beyond ``most``."""
    rates = np.logspace(-3.5, 0, 15)
    settings = [f"--model.layers={units - 1}", f"--model.init={init}", f"--model.rates={rates.tolist()}"]
    model, batch = model_of(*DIGITS, *settings, "--model.optimizer.lr=1.0", "--model.u0=1e-3")
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
    times: dict[str, dict[int, float]] = {}
    rates: dict[str, dict[int, float]] = {}
    for init, references in TIMES.items():
        found = {units: iterations(init, units, 2000) for units in references}
        times[init] = {units: steps for units, (steps, _) in found.items()}
        rates[init] = {units: rate for units, (_, rate) in found.items()}
    found = {units: iterations("decoupled", units, 800) for units in (3, 5, 10)}
    times["decoupled, u₀ = 0.001"] = {units: steps for units, (steps, _) in found.items()}
    rates["decoupled, u₀ = 0.001"] = {units: rate for units, (_, rate) in found.items()}
    run.figure("depth", depth_figure(times, rates, "digits, hidden width 64"))
    details = {"iterations": times, "best rate": rates}
    for units, least, reference in ((20, 3, "3.7"), (40, 10, "64")):
        ratio = times["gaussian"][units] / times["orthogonal"][units]
        text = f"iterations with a Gaussian start over those with an orthogonal one, N_l = {units}"
        yield Claim(text, f"grows; reference {reference}", ratio, at_least(least), scale, details)
    yield Claim(
        "orthogonal start: iterations at N_l = 40 over those at N_l = 3",
        "does not grow; reference 0.4",
        times["orthogonal"][40] / times["orthogonal"][3],
        at_most(1.5),
        scale,
    )
    fall = rates["orthogonal"][3] / rates["orthogonal"][40]
    text = "best rate of an orthogonal start, N_l = 3 over N_l = 40 (15 rates, each 1.8 times the one before)"
    yield Claim(text, "13 as 1/N_l; reference 5.6", fall, within(3, 18), scale)

    _, batch = model_of(*DIGITS)
    axes = orthonormal(64, 10, torch.Generator().manual_seed(0))
    s31, s11 = batch["s31"], batch["s11"]
    text = "pretraining's condition on the digits: off-diagonal part of Vᵀ Σ11 V"
    yield Claim(text, "near 0; reference 0.017", consistency(s31, s11), close_to(0.017, absolute=0.003))
    text = "the same along raw pixels"
    yield Claim(
        text, "none; reference 0.97", consistency(s31, s11, torch.eye(64).double()), close_to(0.97, absolute=0.01)
    )
    yield Claim("the same along random axes", "none; reference 0.84", consistency(s31, s11, axes), within(0.7, 0.95))


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
