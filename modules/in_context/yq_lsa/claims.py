"""A guess of the query's label makes linear attention gradient descent; without it no number of heads does."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch

from framework.claims import Claim, Reproduction, at_least, at_most, close_to
from modules.in_context.experiment import InContext, prompts_of, risk, trained
from modules.in_context.linear_attention import LinearAttention
from modules.in_context.predictors import gradient_step
from modules.in_context.yq_lsa import theory
from modules.in_context.yq_lsa.plots import heads_figure, means_figure

CONFIG = "in_context/yq_lsa"
DIM, LENGTH = 5, 10
SCALE = "d = 5, C = 10, 4,000 steps"
TESTED = 400_000  # prompts of an evaluation
# Reference errors over 400,000 prompts, by |w*|: y_q-LSA, LSA with one head, with six.
REFERENCE = {0: (1.874, 1.874, 1.868), 2: (1.874, 2.878, 2.024), 4: (1.874, 5.634, 2.487)}


def claims(run: Reproduction) -> Iterator[Claim]:
    """The embedding of a gradient step, the bound on heads, the closed forms, and trained layers."""
    yield from identities()
    yield from oracle()
    yield from layers(run)
    yield from context_lengths()


def identities() -> Iterator[Claim]:
    """What holds for every prompt."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    start, matrix = normal(7), normal(7, 7)
    layer = LinearAttention(7, 1, 1, learnt_guess=True, dtype=torch.float64)
    x, y = normal(100, 10, 7), normal(100, 10, 1)
    with torch.no_grad():
        for name, value in theory.as_gradient_step(start, matrix).items():
            getattr(layer, name)[0] = value
        gap = layer(x, y)[0] - gradient_step(x[:, :-1], y[:, :-1], x[:, -1], matrix, start[None])[:, 0]
    yield Claim(
        "weights set to a gradient step from w₀, d = 7: distance from it, 100 prompts",
        "equal",
        float(gap.abs().max()),
        at_most(1e-10),
    )

    many = LinearAttention(4, 10, 1, dtype=torch.float64)
    few = LinearAttention(4, 5, 1, dtype=torch.float64)
    x, y, guess = normal(50, 9, 4), normal(50, 9, 1), normal(50)
    with torch.no_grad():
        many.value.normal_(generator=generator)
        many.key_query.normal_(generator=generator)
        value, key_query = theory.fewer_heads(many.value[0], many.key_query[0])
        few.value[0], few.key_query[0] = value, key_query
        gap = many(x, y, guess) - few(x, y, guess)
    yield Claim(
        "ten heads rewritten as d + 1 = 5: distance of the answers", "equal", float(gap.abs().max()), at_most(1e-10)
    )


def oracle() -> Iterator[Claim]:
    """The closed forms on drawn prompts."""
    data = prompts_of(CONFIG, "--data.law.prior_mean=4.0")
    mean = data.law.task_mean[0]
    measured = risk(lambda x, y: theory.multi_head_answer(x, y, mean), data.draw(TESTED, LENGTH))
    eye = torch.eye(DIM, dtype=torch.float64)
    gradient = theory.best_gradient_step_risk(eye, eye, LENGTH)
    predicted = gradient + theory.multi_head_gap(mean, LENGTH)
    yield Claim(
        "best multi-head predictor, |w*| = 4, 400,000 prompts: error",
        f"none; reference 2.490, formula {predicted:.3f}",
        float(measured[0, 0]),
        close_to(2.490, absolute=0.03),
    )
    text = "R_MH − R_GD* measured over 2 |w*|²/(dC + 2)"
    yield Claim(
        text, "1", float(measured[0, 0] - gradient) / theory.multi_head_gap(mean, LENGTH), close_to(1, absolute=0.05)
    )
    start = data.law.task_mean
    best = theory.best_preconditioner(eye, eye, LENGTH)
    reached = risk(
        lambda x, y: gradient_step(x[:, :-1], y[:, :-1], x[:, -1], best, start)[None], data.draw(TESTED, LENGTH)
    )
    distance = abs(float(reached[0, 0]) - gradient) / float(reached[1, 0])
    yield Claim("gradient step from w* with Γ*: error against d (1 − γ*), standard errors", "0", distance, at_most(3.0))
    halved = theory.multi_head_gap(mean, 2 * LENGTH) / theory.multi_head_gap(mean, LENGTH)
    yield Claim(
        "the gap at twice the examples over the gap", "(dC + 2)/(2dC + 2)", halved, close_to(52 / 102, absolute=1e-12)
    )


def _trained(mean: float, *overrides: str) -> tuple[InContext, np.ndarray]:
    """Returns a fitted model, and errors and standard errors of its members (2, E)."""
    model, data = trained(CONFIG, f"--data.law.prior_mean={mean}", "--model.points=20", "--model.seeds=2", *overrides)
    return model, risk(model.answer, data.draw(TESTED, LENGTH, index=1))


def layers(run: Reproduction) -> Iterator[Claim]:
    """Trained layers over |w*| and heads."""
    eye = torch.eye(DIM, dtype=torch.float64)
    gradient = theory.best_gradient_step_risk(eye, eye, LENGTH)
    points: dict[str, tuple[list[float], list[float]]] = {}
    found: dict[tuple[str, float], float] = {}
    kinds = {
        "learnt guess, 1 head": [],
        "no guess, 1 head": ["--model.guess=zero"],
        "no guess, 6 heads": ["--model.guess=zero", "--model.heads=6"],
    }
    for mean, references in REFERENCE.items():
        for (label, options), reference in zip(kinds.items(), references, strict=True):
            model, errors = _trained(float(mean), *options)
            found[label, mean] = float(errors[0].mean())
            points.setdefault(label, ([], []))[0].append(float(mean))
            points[label][1].append(found[label, mean])
            text = f"{label}, |w*| = {mean}: error over the reference's"
            yield Claim(
                text,
                f"none; reference {reference}",
                found[label, mean] / reference,
                close_to(1, absolute=0.03),
                SCALE,
                seeds=2,
            )
            if label.startswith("learnt") and mean == 4:
                last = model.history[-1][1]
                yield Claim(
                    "the same: ‖v − w*‖, largest", "0", float(last["guess"].max()), at_most(0.05), SCALE, seeds=2
                )
                yield Claim(
                    "the same: cosine of p and (−w*; 1), least",
                    "1",
                    float(last["direction"].min()),
                    at_least(0.999),
                    SCALE,
                    seeds=2,
                )
                yield Claim(
                    "the same: ‖p_(d+1) (W^KQ_11 + w^KQ_12 vᵀ) − Γ*‖/‖Γ*‖, largest",
                    "0",
                    float(last["preconditioner"].max()),
                    at_most(0.02),
                    SCALE,
                    seeds=2,
                )
    worst = max(abs(found["learnt guess, 1 head", mean] / gradient - 1) for mean in REFERENCE)
    yield Claim(
        "learnt guess: error over that of the best gradient step from w*, furthest from 1",
        "1",
        worst,
        at_most(0.02),
        SCALE,
        seeds=2,
    )
    bound = gradient + 2 * 16 / (DIM * LENGTH + 2)
    yield Claim(
        "no guess, six heads, |w*| = 4: error over R_MH",
        "1",
        found["no guess, 6 heads", 4] / bound,
        close_to(1, absolute=0.03),
        SCALE,
        seeds=2,
    )
    yield Claim(
        "the same over that with a learnt guess and one head",
        "> 1",
        found["no guess, 6 heads", 4] / found["learnt guess, 1 head", 4],
        at_least(1.25),
        SCALE,
        seeds=2,
    )
    yield Claim(
        "no guess, |w*| = 4: one head over six",
        "> 1",
        found["no guess, 1 head", 4] / found["no guess, 6 heads", 4],
        at_least(1.8),
        SCALE,
        seeds=2,
    )
    means = np.linspace(0, 4, 50)
    lines = {"R_GD*": np.full(50, gradient), "R_MH": gradient + 2 * means**2 / (DIM * LENGTH + 2)}
    run.figure("means", means_figure(means.tolist(), lines, points))

    heads = {1: found["no guess, 1 head", 4], 6: found["no guess, 6 heads", 4]}
    for count in (2, 3, 5, 10):
        _, errors = _trained(4.0, "--model.guess=zero", f"--model.heads={count}", "--model.seeds=1")
        heads[count] = float(errors[0].mean())
    order = sorted(heads)
    run.figure("heads", heads_figure(order, [heads[h] for h in order], bound, gradient))
    rise = max(heads[b] / heads[a] for a, b in pairwise(order))
    yield Claim(
        "no guess, |w*| = 4: largest rise of the error from 1, 2, 3, 5, 6, 10 heads to the next",
        "falls, then level",
        rise,
        at_most(1.02),
        SCALE,
        seeds=2,
    )
    yield Claim(
        "ten heads over six", "1: d + 1 are enough", heads[10] / heads[6], close_to(1, absolute=0.02), SCALE, seeds=2
    )


def context_lengths() -> Iterator[Claim]:
    """The learnt step at a length that it was not trained on."""
    model, data = trained(CONFIG, "--model.seeds=1", "--model.points=4")
    eye = torch.eye(DIM, dtype=torch.float64)
    best = theory.best_preconditioner(eye, eye, LENGTH)
    measured = risk(model.answer, data.draw(TESTED, 40, index=1))
    predicted = theory.gradient_step_risk(best, eye, eye, 40)
    yield Claim(
        "learnt guess, |w*| = 2, tested with 40 examples: error over that of the same gradient step",
        "1",
        float(measured[0, 0]) / predicted,
        close_to(1, absolute=0.02),
        SCALE,
        seeds=2,
    )
