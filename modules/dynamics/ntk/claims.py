"""What the theory of the tangent kernel predicts, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, within
from framework.functional.ntk import KernelPredictor, drift, infinite_kernels, inflation
from modules.dynamics.ntk.module import NTKRegression
from modules.dynamics.ntk.plots import components_figure, functions_figure, kernel_figure
from modules.ensemble import Batch, prepared

DRAWS = 5
CIRCLE, DIGITS = "dynamics/ntk", "dynamics/ntk_digits"
FIRST = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def model_of(config: str, *overrides: str) -> tuple[NTKRegression, Batch]:
    """Returns a shipped experiment with other settings."""
    model, batch = prepared(config, *overrides)
    assert isinstance(model, NTKRegression)
    return model, batch


def claims(run: Reproduction) -> Iterator[Claim]:
    """The closed form, the kernel before and after training, trained functions, a principal component."""
    yield from closed_form()
    yield from kernels(run)
    yield from functions(run)
    yield from components(run)


def on_circle(angles: list[float]) -> Tensor:
    """Returns (cos γ, sin γ), (N, 2), float64."""
    gamma = torch.tensor(angles, dtype=torch.float64)
    return torch.stack([gamma.cos(), gamma.sin()], 1)


def closed_form() -> Iterator[Claim]:
    """The limit kernels in numbers, L = 4, β = 0.1."""
    points = on_circle([0, math.pi / 6, math.pi / 4, math.pi / 2, 2.0, math.pi])
    tables = {
        "Σ": [0.081250, 0.075168, 0.069867, 0.055760, 0.051277, 0.048097],
        "Θ": [0.282500, 0.207364, 0.169971, 0.092702, 0.073347, 0.064354],
    }
    for (name, table), kernel in zip(tables.items(), infinite_kernels(points), strict=True):
        gap = float((kernel[0] - torch.tensor(table, dtype=torch.float64)).abs().max())
        yield Claim(f"limit {name}, six angles: distance from the table", "0", gap, at_most(1e-6))


def kernels(run: Reproduction) -> Iterator[Claim]:
    """Experiment 1: the kernel at the start and after 200 steps on 100 Gaussian inputs, whose draw matters most."""
    names = ("drift", "inflation", "drift of a row", "inflation of a row")  # of Θ on the circle; of its row of x₀
    found: dict[int, dict[str, list[float]]] = {}
    errors: dict[int, float] = {}
    fans: dict[str, np.ndarray] = {}
    mean_error = 0.0
    angles, limit = np.zeros(0), torch.zeros(0)
    for width, seeds, draws in ((100, 10, DRAWS), (500, 10, 1), (2000, 2, 1)):
        found[width] = {name: [] for name in names}
        for draw in range(draws):
            sizes = [f"--model.width={width}", f"--model.seeds={seeds}", "--model.points=2", f"--data.seed={draw}"]
            model, batch = model_of(CIRCLE, "--data.source=gaussian", *sizes)
            probe = batch["probe"]
            angles, limit = torch.atan2(probe[:, 1], probe[:, 0]).numpy(), infinite_kernels(FIRST, probe)[1][0]
            before = model.net.kernel(FIRST, probe)
            measured = model.simulate(batch, 200, [0, 200])
            after = model.net.kernel(FIRST, probe)
            rows = {"drift of a row": drift(after, before), "inflation of a row": inflation(after, before)}
            for name in names:
                found[width][name].append(float(rows[name].mean() if name in rows else measured[name][-1].mean()))
            errors[width] = float(((before[:, 0] - limit).norm(dim=1) / limit.norm()).mean())
            if width != 2000:
                fans |= {f"n = {width}, start": before[:, 0].numpy(), f"n = {width}, 200 steps": after[:, 0].numpy()}
            if width == 500:
                mean_error = float((before[:, 0].mean(0) - limit).norm() / limit.norm())
    run.figure("kernel", kernel_figure(angles, limit.numpy(), fans))
    text = "mean Θ(x₀, circle) at the start, 10 starts at n = 500: distance from the limit"
    yield Claim(text, "0", mean_error, at_most(0.1), details={"error of single starts": errors}, seeds=10)
    details = {f"n = {width}": values for width, values in found.items()}
    means = {width: {name: float(np.mean(row)) for name, row in values.items()} for width, values in found.items()}
    scale = f"10 starts on {DRAWS} draws of inputs at n = 100, 10 starts at 500, 2 at 2,000"
    ratio = found[500]["drift"][0] / found[2000]["drift"][0]
    yield Claim("drift of Θ in 200 steps, n = 500 over n = 2,000", "≥ 2", ratio, at_least(2), scale, details, seeds=2)
    yield Claim(
        "inflation ΣΘ₂₀₀/ΣΘ₀, n = 100", "reference 1.89", means[100]["inflation"], at_least(1), scale, seeds=10 * DRAWS
    )
    probes = means[100]["inflation of a row"] / means[100]["inflation"]
    yield Claim(
        "the same, n = 100: ΣΘ(x₀, ·) over ΣΘ", "none", probes, close_to(1, absolute=0.15), scale, seeds=10 * DRAWS
    )
    yield Claim("inflation, n = 2,000", "reference 1.037", means[2000]["inflation"], at_most(1.15), scale, seeds=2)

    model, batch = model_of(CIRCLE, "--model.width=10000", "--model.seeds=1")
    wide = model.net.kernel(FIRST, batch["probe"])[0, 0]
    error = float((wide - limit).norm() / limit.norm())
    text = "error of Θ(x₀, circle) at the start, n = 10,000 over the mean at n = 100"
    yield Claim(text, "0.1 (1/√n)", error / errors[100], at_most(0.5), "start only, 1 network", {"n = 10,000": error})


def functions(run: Reproduction) -> Iterator[Claim]:
    """Experiment 2: four points of the circle, 1,000 steps."""
    query = on_circle([0.9])
    narrow, batch = model_of(CIRCLE, "--model.width=50", "--model.seeds=60", "--model.points=2")
    found = narrow.simulate(batch, 1000, [0, 1000])
    wide, _ = model_of(CIRCLE, "--model.width=500", "--model.seeds=10", "--model.points=2")
    wide.simulate(batch, 1000, [0, 1000])

    x, y, probe = batch["x"], batch["y"], batch["probe"]
    nngp, ntk = infinite_kernels(x)
    predictor = KernelPredictor(ntk)

    def limit(points: Tensor) -> tuple[Tensor, Tensor]:
        nngp_cross, cross = infinite_kernels(points, x)
        return predictor.limit(cross, y, infinite_kernels(points)[0].diagonal(), nngp_cross, nngp)

    mean, variance = (float(value) for value in limit(query))
    yield Claim("f_∞ at γ = 0.9, infinite width: mean", "0.22400", mean, close_to(0.224, absolute=5e-6))
    yield Claim("the same: standard deviation", "0.06513", variance**0.5, close_to(0.06513, absolute=5e-6))
    values = narrow.outputs(query)[:, 0]
    scale = "60 starts, n = 50"
    gap, error = abs(float(values.mean()) - mean), float(values.std()) / len(values) ** 0.5
    details = {"mean": float(values.mean()), "std": float(values.std()), "standard error": error}
    text = "trained networks at γ = 0.9: mean from the limit's, in standard errors"
    yield Claim(text, "0", gap / error, at_most(3), scale, details, seeds=60)
    spread = float(values.std()) / variance**0.5
    yield Claim(
        "their standard deviation over the limit's", "1 (reference 0.93)", spread, within(0.7, 1.3), scale, seeds=60
    )
    loss = float(found["loss"][-1].max())
    yield Claim("their largest loss after 1,000 steps", "< 1e-10", loss, at_most(1e-10), scale, seeds=60)

    means, variances = limit(probe)
    networks = {"n = 50": narrow.outputs(probe).numpy(), "n = 500": wide.outputs(probe).numpy()}
    angles = torch.atan2(probe[:, 1], probe[:, 0]).numpy()
    data = torch.stack([torch.atan2(x[:, 1], x[:, 0]), y], 1).numpy()
    run.figure("functions", functions_figure(angles, networks, means.numpy(), variances.sqrt().numpy(), data))


def components(run: Reproduction) -> Iterator[Claim]:
    """Experiment 3 on the digits: f* = f_0 + 0.5 f^(2), 250 steps."""
    runs = {}
    for width, seeds in ((100, 3), (1000, 2)):
        model, batch = model_of(DIGITS, f"--model.width={width}", f"--model.seeds={seeds}")
        runs[f"n = {width}"] = model.simulate(batch, 250, range(0, 251, 25))
    run.figure("components", components_figure(runs))
    narrow, wide = runs.values()
    values = batch["eigenvalues"][:4].tolist()
    text = "digits: largest relative distance of λ₁ … λ₄ of K/N from 0.09798, 0.004534, 0.004426, 0.003636"
    table = np.array([0.09798, 0.004534, 0.004426, 0.003636])
    gap = float(np.abs(np.array(values) / table - 1).max())
    yield Claim(text, "0", gap, at_most(2e-4), "512 digits", {"eigenvalues": values})
    first = model_of(DIGITS, "--data.index=1")[1]["component"]
    yield Claim("correlation of f^(1) with a constant", "≈ 1", abs(float(first.mean())), at_least(0.99), "512 digits")
    steep = model_of(DIGITS, "--data.beta=1")[1]["eigenvalues"][:2].tolist()
    gap = steep[0] / steep[1] / (values[0] / values[1])
    yield Claim("λ₁/λ₂ at β = 1 over that at β = 0.1", "about 10", gap, within(5, 20), "512 digits")
    scale = "512 digits, 250 steps, 3 starts at n = 100 and 2 at n = 1,000"
    final = {"n = 100": float(narrow["along"][-1].mean()), "n = 1,000": float(wide["along"][-1].mean())}
    ratio = final["n = 1,000"] / float(wide["along/theory"][-1].mean())
    details = {**final, "theory": float(wide["along/theory"][-1].mean())}
    yield Claim("|g| at t = 250, n = 1,000, over 0.5 (1 − λ₂)²⁵⁰", "1", ratio, within(0.88, 1.12), scale, details)
    speed = final["n = 100"] / final["n = 1,000"]
    yield Claim("narrow nets are faster: |g| at n = 100 over n = 1,000", "< 1", speed, at_most(1), scale, seeds=3)
    across = {name: float(found["across"].max(0).mean()) for name, found in runs.items()}
    shrinks = across["n = 100"] / across["n = 1000"]
    yield Claim("max ‖h‖, n = 100 over n = 1,000", "≥ 2", shrinks, at_least(2), scale, across, seeds=3)
