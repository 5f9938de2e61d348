"""What the theory of over-parameterised matrix sensing predicts, in a form that can fail."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds, within
from framework.functional.low_rank import rebalance
from modules.dynamics.matrix_sensing.module import MatrixSensing
from modules.dynamics.matrix_sensing.plots import acceleration_figure, errors_figure, rates_figure, spectra_figure
from modules.dynamics.matrix_sensing.rates import exponential_rate, power_exponent
from modules.ensemble import Batch, prepared

CONFIG = "dynamics/matrix_sensing"
RATE = 0.1
POPULATION = "--data.measurements=0"
STARTS = 3  # draws of the initial factors where no theory gives the number
Curve = tuple[np.ndarray, np.ndarray]


def model_of(*overrides: str) -> tuple[MatrixSensing, Batch]:
    """Returns the shipped experiment with other settings."""
    model, batch = prepared(CONFIG, *overrides)
    assert isinstance(model, MatrixSensing)
    return model, batch


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities, then the rates of the symmetric form, of the asymmetric form, and of the one-step fix."""
    yield from identities()
    yield from symmetric(run)
    yield from asymmetric(run)
    yield from acceleration(run)
    yield from through_fit(run)


def identities() -> Iterator[Claim]:
    """The steps are the gradients; equal starts make the two forms one; rotations of the factors change nothing."""
    small = ["--data.rows=12", "--data.measurements=60", "--model.width=4", "--model.alpha=[0.5]"]
    worst = 0.0
    for form in ("true", "false"):
        model, batch = model_of(*small, f"--model.symmetric={form}")
        by_hand = model.gradients(batch)
        with torch.enable_grad():
            by_autograd = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
        pairs = zip(by_hand, by_autograd, strict=True)
        worst = max(worst, *(float((a - b).detach().abs().max() / b.abs().max()) for a, b in pairs))
    yield Claim("written steps against autograd, both forms: relative difference", "equal", worst, at_most(1e-10))

    one = ["--model.alpha=[0.5]", "--model.seeds=1", "--data.symmetric_operator=true"]
    at = list(range(0, 501, 10))
    first = model_of(*one, "--model.symmetric=true")
    second = model_of(*one, "--model.init_ratio=1", "--model.equal_start=true")
    curves = [model.simulate(batch, 500, at)["error"] for model, batch in (first, second)]
    gap = float(np.abs(curves[0] - curves[1]).max())
    yield Claim("F₀ = G₀ = X₀: the asymmetric form follows the symmetric one, 500 steps", "equal", gap, at_most(1e-12))

    gaps = {}
    for name in ("sgd", "adam"):
        curves = []
        for turned in (False, True):
            optimizer = [
                "--model.optimizer.name=" + name,
                "--model.optimizer.lr=" + ("0.1" if name == "sgd" else "0.01"),
            ]
            model, batch = model_of(POPULATION, *one, *optimizer)
            if turned:
                turn = torch.linalg.qr(
                    torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
                )[0]
                with torch.no_grad():
                    model.f.copy_(model.f @ turn)
                    model.g.copy_(model.g @ turn)
            curves.append(model.simulate(batch, 300, range(0, 301, 10))["error"])
        gaps[name] = float(np.abs(curves[0] - curves[1]).max())
    yield Claim("factors turned by one rotation: change of the errors", "none", gaps["sgd"], at_most(1e-10))
    yield Claim("the same under Adam, which is not invariant", "changes", gaps["adam"], at_least(1e-3))

    drifts = []
    for rate, steps in ((0.1, 1000), (0.05, 2000), (0.025, 4000)):
        model, batch = model_of(POPULATION, *one, f"--model.optimizer.lr={rate}")
        drifts.append(float(model.simulate(batch, steps, [steps])["imbalance"][-1, 0]))
    for small_, large in ((1, 0), (2, 1)):
        ratio = drifts[large] / drifts[small_]
        text = f"FᵀF − GᵀG is conserved up to O(η): drift at η = {0.1 / 2**large:g} over that at half of it"
        yield Claim(text, "2", ratio, within(1.9, 2.1), details={"drift": drifts[large]})


def symmetric(run: Reproduction) -> Iterator[Claim]:
    """k = r is exponential; k > r goes as 1/T, with the constant √(k − r) / (2 η)."""
    curves: dict[str, Curve] = {}
    predicted: dict[str, Curve] = {}
    form = ["--model.symmetric=true", "--model.alpha=[0.5]", "--model.seeds=1"]
    for width in (4, 5, 7):
        model, batch = model_of(POPULATION, *form, f"--model.width={width}")
        found = model.simulate(batch, 20_000)
        curves[f"k = {width}"] = found["step"], found["error"][:, 0]
        predicted[f"k = {width}"] = found["step"], found["error/theory"][:, 0]
        constant = 2 * RATE * 20_000 * found["error"][-1, 0] / (width - 3) ** 0.5
        yield Claim(
            f"X Xᵀ, k = {width}, r = 3: 2 η T |error| / √(k − r), T = 20,000", "1", constant, within(0.99, 1.001)
        )
    model, batch = model_of(POPULATION, *form, "--model.width=3")
    found = model.simulate(batch, 600)
    curves["k = 3"] = found["step"], found["error"][:, 0]
    yield Claim("X Xᵀ, k = r: error after 600 steps", "exponential", found["error"][-1, 0], at_most(1e-12))
    run.figure("symmetric", errors_figure(curves, predicted))

    starts = ["--model.symmetric=true", "--model.alpha=[0.5]", f"--model.seeds={STARTS}"]
    model, batch = model_of(*starts)
    found = model.simulate(batch, 6000)
    slopes = [power_exponent(found["step"], error, first=500).rate for error in found["error"].T]
    what = {"error": found["error"][-1].tolist()}
    text = "X Xᵀ, k = 5, 1,500 measurements: exponent of 1/T"
    yield over_seeds(text, "1", slopes, close_to(1, absolute=0.1), details=what)
    model, batch = model_of(*starts, "--model.width=3")
    errors = model.simulate(batch, 1500)["error"][-1].tolist()
    text = "the same, k = r: error after 1,500 steps, largest"
    yield over_seeds(text, "exponential", errors, at_most(1e-12), by=max)
    model, batch = model_of(POPULATION, *form, "--data.source=digits", "--data.rows=64", "--model.width=6")
    found = model.simulate(batch, 20_000)
    constant = 2 * RATE * 20_000 * found["error"][-1, 0] / 3**0.5
    yield Claim("covariance of the digits, k = 6, r = 3: the same constant", "1", constant, within(0.99, 1.001))


def asymmetric(run: Reproduction) -> Iterator[Claim]:
    """k > r is exponential, at a rate that the imbalance of the start sets."""
    alphas = (0.2, 0.3, 0.5, 0.7, 1.0)
    model, batch = model_of(POPULATION, f"--model.alpha={list(alphas)}", "--model.points=2000")
    found = model.simulate(batch, 20_000)
    predicted = model.predicted_rate(from_start=True).numpy()
    fits = [exponential_rate(found["step"], error, 1e-9, 1e-4) for error in found["error"].T]
    measured = np.array([fit.rate for fit in fits])
    worst = float(np.abs(measured / predicted - 1).max())
    details = {"measured": measured.tolist(), "predicted": predicted.tolist(), "alpha": found["alpha"].tolist()}
    text = "F Gᵀ, k = 5, 5 scales × 2 draws: −d log error/dT over its prediction, largest distance from 1"
    yield Claim(text, "0", worst, at_most(0.03), details=details, seeds=2)
    slope = np.polyfit(np.log(found["alpha"]), np.log(measured), 1)[0]
    yield Claim("the rate as a power of α", "2", float(slope), close_to(2, absolute=0.2), seeds=2)
    run.figure("rates", rates_figure(found, predicted, measured))

    model, batch = model_of("--model.alpha=[0.2, 0.5, 1.0]", f"--model.seeds={STARTS}")
    found = model.simulate(batch, 6000)
    errors = {f"{alpha:g}": found["error"][-1, found["alpha"] == alpha].tolist() for alpha in (0.2, 0.5, 1.0)}
    text = "F Gᵀ, k = 5, 1,500 measurements, T = 6,000: error at α = 0.5, largest"
    yield over_seeds(text, "exponential; reference 5e-15", errors["0.5"], at_most(1e-12), details=errors, by=max)
    ratios = [slow / fast for slow, fast in zip(errors["0.2"], errors["0.5"], strict=True)]
    yield over_seeds("the same: error at α = 0.2 over that, least", "≫ 1", ratios, at_least(1e6), by=min)
    sensed = {
        f"α = {alpha}": (found["step"], found["error"][:, found["alpha"] == float(alpha)][:, 0]) for alpha in errors
    }
    run.figure("sensed", errors_figure(sensed, {}))
    starts = ["--model.alpha=[0.5]", f"--model.seeds={STARTS}"]
    model, batch = model_of("--model.width=3", *starts)
    ends = model.simulate(batch, 1500)["error"][-1].tolist()
    text = "F Gᵀ, k = r, 1,500 measurements: error after 1,500 steps, largest"
    yield over_seeds(text, "exponential", ends, at_most(1e-12), by=max)

    few = {}
    for count in (400, 600, 1000):
        model, batch = model_of(f"--data.measurements={count}", *starts, "--model.optimizer.lr=0.05")
        few[count] = model.simulate(batch, 3000, [3000])["error"][-1].tolist()
    text = "too few measurements: error at m = 400 over that at m = 1,000, η = 0.05, T = 3,000, least"
    ratios = [short / long for short, long in zip(few[400], few[1000], strict=True)]
    paper = "≫ 1; reference 1.7 over 9e-5"
    yield over_seeds(text, paper, ratios, at_least(100), details={"errors": few}, by=min)

    image = ["--data.source=image", "--data.symmetric=false", "--data.rows=48", "--data.columns=64"]
    model, batch = model_of(POPULATION, *image, "--model.alpha=[1.0]", "--model.seeds=1", "--model.points=1000")
    found = model.simulate(batch, 100_000)
    fit = exponential_rate(found["step"], found["error"][:, 0], 1e-9, 1e-4)
    ratio = fit.rate / float(model.predicted_rate()[0])
    text = "rank-3 part of a picture, 48 × 64, k = 5, α = 1: rate over its prediction"
    yield Claim(text, "1", ratio, close_to(1, absolute=0.03), details={"rate": fit.rate, "points": fit.points})

    model, batch = model_of(POPULATION, "--model.alpha=[0.2]", "--model.seeds=1")
    at, values = [0, *np.geomspace(10, 5000, 40).round().astype(int).tolist()], []
    for before, now in pairwise([0, *at]):
        model.simulate(batch, now - before, [now])
        values.append(torch.linalg.svdvals(model.product().detach())[0, :5].numpy())
    run.figure("spectra", spectra_figure(np.array(at[1:]), np.array(values[1:])))


def acceleration(run: Reproduction) -> Iterator[Claim]:
    """One step that evens out F's singular values takes α out of the rate."""
    alphas = (0.05, 0.1, 0.2)
    settings = [POPULATION, f"--model.alpha={list(alphas)}", "--model.seeds=1", "--model.points=1500"]
    plain, batch = model_of(*settings)
    without = plain.simulate(batch, 20_000)
    model, batch = model_of(*settings)
    model.simulate(batch, 500)
    before = model.product().detach()
    with torch.no_grad():
        singular = torch.linalg.svdvals(before)[:, model.rank - 1]
        f, g = rebalance(model.f, model.g, singular.sqrt())
        model.f.copy_(f)
        model.g.copy_(g)
    moved = float((model.product() - before).detach().abs().max())
    yield Claim("the step keeps F Gᵀ", "equal", moved, at_most(1e-12))
    found = model.simulate(batch, 300, range(500, 801, 5))
    after = [exponential_rate(found["step"], error, 1e-11, first=520).rate for error in found["error"].T]
    plainly = [exponential_rate(without["step"], error, 1e-9, 1e-3, first=600).rate for error in without["error"].T]
    details = {"after": after, "without": plainly, "errors at 600": found["error"][found["step"] == 600][0].tolist()}
    ratio = float(np.exp(-after[0]) / np.exp(-after[-1]))
    text = "factor of the error a step after it, α = 0.05 over α = 0.2"
    yield Claim(text, "1", ratio, close_to(1, absolute=0.05), details=details)
    yield Claim("rate without it, α = 0.2 over α = 0.05", "16", plainly[-1] / plainly[0], at_least(4))
    run.figure("acceleration", acceleration_figure(found, without))


def through_fit(run: Reproduction) -> Iterator[Claim]:
    """The shipped command gives what the loop gives."""
    short = ["--model.alpha=[0.5]", "--model.seeds=1", "--trainer.max_epochs=1"]
    fitted = run.fit(CONFIG, *short)["train/error"]
    model, batch = model_of(*short)
    looped = float(model.simulate(batch, 1000, [1000])["error"][-1, 0])
    yield Claim(
        "1,000 steps through fit against the loop: difference of the errors", "0", abs(fitted - looped), at_most(1e-12)
    )
