"""What the limit of training says, in a form that can fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from torch import Tensor

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds
from framework.functional.regression_prompts import PromptLaw
from modules.in_context.experiment import Answer, prompts_of, risk, trained
from modules.in_context.icl_linear_models import theory
from modules.in_context.icl_linear_models.plots import flow_figure, scaling_figure
from modules.in_context.linear_attention import LinearAttention
from modules.in_context.plots import lengths_figure
from modules.in_context.predictors import least_squares

CONFIG = "in_context/icl_linear_models"
GPT2_SEEDS = (0, 1)
# Errors of the limit at d = 20, N = 40 by test length.
RISKS = {
    "identity": {5: 38.490, 20: 11.400, 40: 6.885, 80: 4.628, 320: 2.935, 10**12: 2.370},
    "ar": {5: 23.373, 20: 7.273, 40: 4.589, 80: 3.248, 320: 2.241, 10**12: 1.906},
}


def autoregressive(dim: int, correlation: float) -> Tensor:
    """Returns Λ_ij = r^|i−j|, float64."""
    place = torch.arange(dim, dtype=torch.float64)
    return correlation ** (place[:, None] - place).abs()


def law_of(cov: Tensor, w: Tensor | None = None, noise: float = 0.0) -> PromptLaw:
    """Prompts of covariates N(0, Λ), of tasks N(0, I) or of one task."""
    zero, eye = torch.zeros(1, len(cov), dtype=cov.dtype), torch.eye(len(cov), dtype=cov.dtype)
    return PromptLaw(cov, zero if w is None else w[None], eye if w is None else 0 * eye, noise)


def claims(run: Reproduction) -> Iterator[Claim]:
    """Gradient flow, the limit's errors, training on prompts, shifts, random covariances, real rows, GPT-2."""
    yield from flow(run)
    yield from risks()
    yield from training(run)
    yield from shifts(run)
    yield from random_covariance(run)
    yield from real_rows()
    yield from gpt2(run)


def flow(run: Reproduction) -> Iterator[Claim]:
    """The integrated flow ends where Theorem 4.1 says."""
    generator = torch.Generator().manual_seed(0)
    m = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    cov, length = m @ m.T / 6 + 0.3 * torch.eye(6, dtype=torch.float64), 20
    found = theory.gradient_flow(cov, length, theory.balanced_start(6, 0.1, generator), 0.1, end=400.0)
    end, size = theory.limit(cov, length)
    readout = torch.as_tensor(found.u[-1] * found.key_query[-1])
    inverse = torch.linalg.inv(theory.gamma(cov, length))
    gap = float((readout - inverse).norm() / inverse.norm())
    yield Claim("gradient flow, d = 6, random Λ: u U at its end against Γ⁻¹, relative", "equal", gap, at_most(1e-8))
    gap = max(abs(found.u[-1] - size), float((torch.as_tensor(found.key_query[-1]) - end).abs().max()))
    yield Claim("the same: W^KQ and W^PV against Theorem 4.1", "equal", gap, at_most(1e-7))
    drift = float(np.abs(found.u**2 - (found.key_query**2).sum((1, 2))).max())
    yield Claim("u² − ‖U‖² along the flow", "0", drift, at_most(1e-8))
    floor = theory.limit_loss(cov, length)
    yield Claim("loss at the end − ½ tr Λ + ½ tr(Λ² Γ⁻¹)", "0", abs(found.loss[-1] - floor), at_most(1e-10))

    overrides = ["--data.law.covariance=identity", "--model.optimizer.name=sgd", "--model.optimizer.lr=0.02"]
    overrides += ["--model.schedule.name=constant", "--model.clip=null", "--model.sigma=0.3", "--model.seeds=1"]
    model, _ = trained(CONFIG, *overrides, "--data.batches=20", "--trainer.max_epochs=1")
    eye = torch.eye(5, dtype=torch.float64)
    start = theory.balanced_start(5, 0.3, model.generators()[0])
    line = theory.gradient_flow(eye, 20, start, 0.3, end=20.0, points=400)
    track = model.trajectory()
    trace = track["population"][:, 0]
    times = 0.02 * track["step"]
    run.figure("flow", flow_figure(line.time, line.loss, theory.limit_loss(eye, 20), times[1:], trace[1:]))
    excess = np.interp(times, line.time, line.loss) - trace
    text = "SGD on prompts, rate 0.02, d = 5: population loss against gradient flow, largest distance over its start"
    yield Claim(text, "follows it", float(np.abs(excess).max() / line.loss[0]), at_most(0.05), "d = 5, N = 20")


def risks() -> Iterator[Claim]:
    """Closed forms against each other, against the reference table and against drawn prompts."""
    eye = torch.eye(20, dtype=torch.float64)
    worst = 0.0
    for kind, table in RISKS.items():
        cov = eye if kind == "identity" else autoregressive(20, 0.8)
        inverse = torch.linalg.inv(theory.gamma(cov, 40))
        worst = max(worst, *(abs(theory.readout_risk(inverse, m, cov) - value) for m, value in table.items()))
    yield Claim(
        "errors of the limit, d = 20, N = 40, 12 lengths: largest distance from the table",
        "none; reference table",
        worst,
        at_most(6e-4),
    )

    cov = autoregressive(20, 0.8)
    inverse = torch.linalg.inv(theory.gamma(cov, 40))
    w = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    by_theorem = theory.theorem_risk(cov, 40, 40, w)
    general = theory.readout_risk(inverse, 40, cov, second_moment=torch.outer(w, w))
    yield Claim(
        "Theorem 4.2 against the general formula for one task, relative",
        "equal",
        abs(by_theorem / general - 1),
        at_most(1e-10),
    )

    worst = 0.0
    generator = torch.Generator().manual_seed(2)
    for law, query, noise in (
        (law_of(cov), None, 0.0),
        (law_of(cov, w), None, 0.0),
        (law_of(cov, noise=0.5), 2 * eye, 0.5),
    ):
        drawn = law.with_changes(query_cov=query)
        second = law.task_cov + law.task_mean.T @ law.task_mean
        predicted = theory.readout_risk(inverse, 40, cov, query, second, noise)
        parts = [risk(_reader(inverse), drawn.sample(10_000, 40, generator, torch.float64)) for _ in range(20)]
        means = np.array([part[0, 0] for part in parts])
        error = float(means.std(ddof=1) / len(means) ** 0.5)
        worst = max(worst, abs(float(means.mean()) - predicted) / error)
    text = "200,000 prompts against the formula (w ~ N(0, I); one w; noise and another query): largest, standard errors"
    yield Claim(text, "0", worst, at_most(3.5))

    scalar = [theory.readout_risk(eta * eye, 40, cov) for eta in np.linspace(0.01, 1.5, 1500)]
    gain = min(scalar) / theory.readout_risk(inverse, 40, cov)
    yield Claim(
        "best step without preconditioning over the limit, AR(0.8), M = 40",
        "none; reference 1.65",
        gain,
        close_to(1.65, absolute=0.01),
    )


def _reader(readout: Tensor) -> Answer:
    """Returns the predictor ((1/M) Σ y_i x_i)ᵀ A x_q."""

    def answer(x: Tensor, y: Tensor) -> Tensor:
        mean = (x[:, :-1].mT @ y[:, :-1]) / (x.shape[1] - 1)
        return ((x[:, -1] @ readout.T.to(x)) * mean[..., 0]).sum(1)[None, :, None]

    return answer


def training(run: Reproduction) -> Iterator[Claim]:
    """The layer trained on prompts ends at the predicted weights, and has their errors at other lengths."""
    model, data = trained(CONFIG, "--data.eval_lengths=[5,10,20,40,80]")
    last = model.history[-1][1]
    scale = "d = 5, N = 20, AR(0.5), 6,000 steps"
    yield Claim(
        "trained on prompts: ‖u U − Γ⁻¹‖/‖Γ⁻¹‖, worst of 4 starts",
        "→ 0",
        float(last["distance"].max()),
        at_most(0.03),
        scale,
        seeds=4,
    )
    blocks = max(float(last[name].max()) for name in ("w21_pv", "w21_kq"))
    yield Claim("the same: largest entry of the blocks that stay 0", "0", blocks, at_most(0.02), scale, seeds=4)
    worst = 0.0
    for length in (5, 20, 80):
        prompts = data.draw(200_000, length, index=1)
        measured = float(risk(model.answer, prompts)[0].mean())
        worst = max(worst, abs(measured / model.risk_theory(length) - 1))
    yield Claim(
        "the same: error at M = 5, 20, 80 over the closed form, largest distance from 1",
        "1",
        worst,
        at_most(0.02),
        scale,
        seeds=4,
    )
    run.figure("lengths", lengths_figure(model.risks, "trained with 20 examples"))


def shifts(run: Reproduction) -> Iterator[Claim]:
    """What the limit tolerates and what it does not."""
    eye = torch.eye(20, dtype=torch.float64)
    inverse = torch.linalg.inv(theory.gamma(eye, 40))
    reference = {0.5: 14.26, 1.5: 27.38, 2.0: 124.9}
    found = {c: theory.readout_risk(inverse, 40, c**2 * eye, None) / c**2 for c in reference}
    worst = max(abs(found[c] / value - 1) for c, value in reference.items())
    yield Claim(
        "covariates times 0.5, 1.5, 2: error over c² against the table, d = 20, M = 40, relative",
        "none; reference 14.26, 27.38, 124.9",
        worst,
        at_most(1e-3),
    )
    generator = torch.Generator().manual_seed(3)
    reader, drawn, solved = _reader(inverse), [], []
    for c in (0.5, 1.0, 1.5, 2.0):
        prompts = law_of(eye).with_changes(scale=c).sample(20_000, 40, generator, torch.float64)
        drawn.append(float(risk(reader, prompts)[0, 0]) / c**2)
        solved.append(
            float(risk(lambda x, y: least_squares(x[:, :-1], y[:, :-1], x[:, -1])[None], prompts)[0, 0]) / c**2
        )
    yield Claim("the same of least squares, largest", "0", max(solved), at_most(1e-10))
    scales = np.linspace(0.4, 2.1, 60)
    line = np.array([theory.readout_risk(inverse, 40, c**2 * eye) / c**2 for c in scales])
    points = {
        "limit, 20,000 prompts": (np.array([0.5, 1, 1.5, 2]), np.array(drawn)),
        "least squares": (np.array([0.5, 1, 1.5, 2]), np.array(solved)),
    }
    run.figure("scaling", scaling_figure(scales, line, points))
    big = 10**7
    excess = theory.readout_risk(torch.linalg.inv(theory.gamma(eye, big)), big, eye, 4 * eye, noise=1.0)
    yield Claim(
        "another query covariance and noise, M, N = 10⁷: error above the best linear predictor",
        "→ 0",
        excess,
        at_most(1e-3),
    )


def random_covariance(run: Reproduction) -> Iterator[Claim]:
    """A covariance that each prompt draws again: one readout for all, and an error that more examples do not mend."""
    moments = (1.0, 2.0, 6.0)
    gain = theory.random_spectrum_gain(20, 40, moments)
    yield Claim("Exp(1) diagonal, d = 20, N = 40: b", "none; reference 0.2759", gain, close_to(0.2759, absolute=5e-5))
    plateau = theory.random_spectrum_risk(gain, 20, 1e12, moments)
    yield Claim("the same: error as M → ∞", "> 0; reference 7.063", plateau, close_to(7.063, absolute=1e-3))
    yield Claim("b at N = 10⁹", "1/3", theory.random_spectrum_gain(20, 10**9, moments), close_to(1 / 3, absolute=1e-6))
    generator = torch.Generator().manual_seed(4)
    law = law_of(torch.eye(20, dtype=torch.float64)).with_changes(spectrum="exponential")
    top = bottom = 0.0
    for _ in range(20):
        prompts = law.sample(2_000, 1000, generator, torch.float32)
        answered = _reader(gain * torch.eye(20))(prompts["x"], prompts["y"])[0, :, 0]
        truth = prompts["y"][:, -1, 0]
        top, bottom = top + float(answered @ truth), bottom + float(truth @ truth)
    text = "slope of the answers on the truth, M = 1,000"
    yield Claim(text, "none; reference 2 b = 0.552", top / bottom, close_to(2 * gain, relative=0.03))
    model, _ = trained(CONFIG, "--data.law.covariance=exponential", "--model.seeds=2", "--model.clip=30")
    layer = cast(LinearAttention, model.layer)
    trained_gain = float(layer.parts()["readout"].diagonal(dim1=1, dim2=2).mean())
    predicted = theory.random_spectrum_gain(5, 20, moments)
    text = "trained on such prompts, d = 5, N = 20: mean of the diagonal over b"
    yield Claim(
        text, "1", trained_gain / predicted, close_to(1.0, absolute=0.03), "d = 5, N = 20, 6,000 steps", seeds=2
    )
    yield Claim("the same: b", "below 0.5", trained_gain, at_most(0.5), "d = 5, N = 20, 6,000 steps", seeds=2)


def real_rows() -> Iterator[Claim]:
    """Rows of a real data set as covariates: the readout that is best for them is not the Gaussian one."""
    data = prompts_of(CONFIG, "--data.source=diabetes", "--data.dim=10")
    rows, length = data.law.rows, data.length
    best = theory.best_readout(rows, length)
    square, mean = (torch.zeros(10, 10, dtype=torch.float64) for _ in range(2))
    for index in range(20):
        x = data.draw(10_000, length, index)["x"][:, :-1].double()
        moment = x.mT @ x / length
        square, mean = square + (moment @ moment).mean(0), mean + moment.mean(0)
    # over tasks and queries the expected error is tr(S A Λ Aᵀ S) − 2 tr(S A Λ) + tr Λ, S the examples' second moment
    fitted = torch.linalg.solve(square, mean)
    gap = float((fitted - best).norm() / best.norm())
    text = "diabetes rows: the best readout for 200,000 prompts, all tasks and queries, against A*, relative"
    yield Claim(text, "equal", gap, at_most(0.03))
    cov = data.law.x_cov
    other = torch.linalg.inv(theory.gamma(cov, length))
    yield Claim("the same: distance of Γ⁻¹ from A*", "> 0", float((other - best).norm() / best.norm()), at_least(0.03))


def gpt2(run: Reproduction) -> Iterator[Claim]:
    """A small GPT-2 adapts to each prompt's covariance, as the linear layer cannot; not beyond its length."""
    tables = []
    for seed in GPT2_SEEDS:
        model, data = trained("in_context/icl_linear_models_gpt2", f"--model.base_seed={seed}", f"--data.seed={seed}")
        tables.append(model.risks)
    lengths, dim, length = list(tables[0]["length"]), data.dim, data.length
    table = dict(tables[0])
    moments = (1.0, 2.0, 6.0)
    gain = theory.random_spectrum_gain(dim, length, moments)
    table["theory"] = np.array([theory.random_spectrum_risk(gain, dim, m, moments) for m in lengths])
    run.figure("gpt2", lengths_figure(table, "GPT-2 (points) and the limit of linear attention (line)"))
    at = {m: [float(found["risk"][row, 0]) for found in tables] for row, m in enumerate(lengths)}
    limit = theory.random_spectrum_risk(gain, dim, length, moments)
    scale = "2 layers of 32, d = 2, N = 8, 4,000 steps (paper: 12 of 256, d = 20, N = 40, 500,000)"
    text = "GPT-2, random covariances: error over that of the linear layer's limit"
    yield over_seeds(text, "below 1", [error / limit for error in at[length]], at_most(0.8), scale)
    text = "the same, twice the length of training: error over that at the length"
    growth = [longer / error for longer, error in zip(at[2 * length], at[length], strict=True)]
    yield over_seeds(text, "grows", growth, at_least(1.5), scale)
