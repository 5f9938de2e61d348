"""What the theory of the tangent kernel predicts, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, within
from framework.ntk import KernelPredictor, infinite_kernels
from modules.dynamics.ensemble import Batch, prepared
from modules.dynamics.ntk.lightning import NTKRegression
from modules.dynamics.ntk.plots import components_figure, functions_figure, kernel_figure

CIRCLE, DIGITS = "dynamics/ntk", "dynamics/ntk_digits"
FIRST = torch.tensor([[1.0, 0.0]], dtype=torch.float64)


def model_of(config: str, *overrides: str) -> tuple[NTKRegression, Batch]:
    """A shipped experiment with other settings."""
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
    """(cos γ, sin γ), (N, 2), float64."""
    gamma = torch.tensor(angles, dtype=torch.float64)
    return torch.stack([gamma.cos(), gamma.sin()], 1)


def closed_form() -> Iterator[Claim]:
    """The limit kernels of the sheet's table, L = 4, β = 0.1."""
    points = on_circle([0, math.pi / 6, math.pi / 4, math.pi / 2, 2.0, math.pi])
    tables = {
        "Σ": [0.081250, 0.075168, 0.069867, 0.055760, 0.051277, 0.048097],
        "Θ": [0.282500, 0.207364, 0.169971, 0.092702, 0.073347, 0.064354],
    }
    for (name, table), kernel in zip(tables.items(), infinite_kernels(points), strict=True):
        gap = float((kernel[0] - torch.tensor(table, dtype=torch.float64)).abs().max())
        yield Claim(f"limit {name}, six angles: distance from the table", "0", gap, at_most(1e-6))


def kernels(run: Reproduction) -> Iterator[Claim]:
    """Experiment 1: the kernel at the start and after 200 steps on 100 Gaussian inputs."""
    drifts, inflations, errors, fans = {}, {}, {}, {}
    angles, limit = np.zeros(0), torch.zeros(0)
    for width, seeds in ((100, 10), (500, 10), (2000, 2)):
        model, batch = model_of(
            CIRCLE, "--data.source=gaussian", f"--model.width={width}", f"--model.seeds={seeds}", "--model.points=2"
        )
        probe = batch["probe"]
        angles, limit = torch.atan2(probe[:, 1], probe[:, 0]).numpy(), infinite_kernels(FIRST, probe)[1][0]
        before = model.net.kernel(FIRST, probe)[:, 0]
        errors[width] = float(((before - limit).norm(dim=1) / limit.norm()).mean())
        found = model.simulate(batch, 200, [0, 200])
        drifts[width], inflations[width] = (float(found[name][-1].mean()) for name in ("drift", "inflation"))
        if width != 2000:
            fans[f"n = {width}, start"] = before.numpy()
            fans[f"n = {width}, 200 steps"] = model.net.kernel(FIRST, probe)[:, 0].numpy()
    run.figure("kernel", kernel_figure(angles, limit.numpy(), fans))
    numbers = {"drift": drifts, "inflation": inflations, "error at the start": errors}
    scale = "10, 10 and 2 starts at n = 100, 500, 2,000"
    ratio = drifts[500] / drifts[2000]
    yield Claim("drift of Θ in 200 steps, n = 500 over n = 2,000", "≥ 2", ratio, at_least(2), scale, numbers)
    yield Claim("inflation ΣΘ₂₀₀/ΣΘ₀, n = 100", "1.89", inflations[100], at_least(1), scale)
    yield Claim("inflation ΣΘ₂₀₀/ΣΘ₀, n = 2,000", "1.037", inflations[2000], at_most(1.15), scale)

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
    yield Claim(text, "0", gap / error, at_most(3), scale, details)
    spread = float(values.std()) / variance**0.5
    yield Claim("their standard deviation over the limit's", "1 (sheet 0.93)", spread, within(0.7, 1.3), scale)
    loss = float(found["loss"][-1].max())
    yield Claim("their largest loss after 1,000 steps", "< 1e-10", loss, at_most(1e-10), scale)

    means, variances = limit(probe)
    networks = {"n = 50": narrow.outputs(probe).numpy(), "n = 500": wide.outputs(probe).numpy()}
    angles = torch.atan2(probe[:, 1], probe[:, 0]).numpy()
    data = torch.stack([torch.atan2(x[:, 1], x[:, 0]), y], 1).numpy()
    run.figure("functions", functions_figure(angles, networks, means.numpy(), variances.sqrt().numpy(), data))


def components(run: Reproduction) -> Iterator[Claim]:
    """Experiment 3 on the digits: f* = f_0 + 0.5 f^(2), 250 steps."""
    runs = {}
    for width, seeds in ((100, 3), (1000, 1)):
        model, batch = model_of(DIGITS, f"--model.width={width}", f"--model.seeds={seeds}")
        runs[f"n = {width}"] = model.simulate(batch, 250, range(0, 251, 25))
    run.figure("components", components_figure(runs))
    narrow, wide = runs.values()
    values = batch["eigenvalues"][:4].tolist()
    text = "digits: largest relative distance of λ₁ … λ₄ of K/N from 0.09798, 0.004534, 0.004426, 0.003636"
    table = np.array([0.09798, 0.004534, 0.004426, 0.003636])
    gap = float(np.abs(np.array(values) / table - 1).max())
    yield Claim(text, "0", gap, at_most(2e-4), "512 digits", {"eigenvalues": values})
    scale = "512 digits, 250 steps, 3 starts at n = 100 and 1 at n = 1,000"
    final = {"n = 100": float(narrow["along"][-1].mean()), "n = 1,000": float(wide["along"][-1].mean())}
    ratio = final["n = 1,000"] / float(wide["along/theory"][-1].mean())
    details = {**final, "theory": float(wide["along/theory"][-1].mean())}
    yield Claim("|g| at t = 250, n = 1,000, over 0.5 (1 − λ₂)²⁵⁰", "1", ratio, within(0.88, 1.12), scale, details)
    speed = final["n = 100"] / final["n = 1,000"]
    yield Claim("narrow nets are faster: |g| at n = 100 over n = 1,000", "< 1", speed, at_most(1), scale)
    across = {name: float(found["across"].max(0).mean()) for name, found in runs.items()}
    shrinks = across["n = 100"] / across["n = 1000"]
    yield Claim("max ‖h‖, n = 100 over n = 1,000", "≥ 2", shrinks, at_least(2), scale, across)
