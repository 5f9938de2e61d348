"""Softmax attention by circuits, mean field, and what small heads compute."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw
from modules.in_context.experiment import risk, trained
from modules.in_context.icl_softmax_demystified import theory
from modules.in_context.icl_softmax_demystified.attention import (
    Circuits,
    PromptSoftmaxAttention,
    attend,
    circuit_measures,
    head_types,
)
from modules.in_context.predictors import debiased_step, gradient_step

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.mark.parametrize("labels", [1, 2])
def test_circuits_answer_as_projected_heads_do(labels):
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    layer = PromptSoftmaxAttention(5, 3, labels, generators=generators).double()
    x, y = normal(4, 11, 5), normal(4, 11, labels, seed=1)
    z = torch.cat([x, y], 2)[:, :-1]
    query = torch.cat([x[:, -1:], torch.zeros(4, 1, labels, dtype=DOUBLE)], 2)
    expected = torch.zeros(2, 4, labels, dtype=DOUBLE)
    for member in range(2):
        for head in range(3):
            parts = (layer.query, layer.key, layer.value)
            q, k, v = (a @ w[member, head].T for a, w in zip((query, z, z), parts, strict=True))
            read = scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0, 0]
            expected[member] = expected[member] + read @ layer.output[member, head].T
    found = layer(x, y)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    parameters = list(layer.parameters())
    ours = torch.autograd.grad(found.square().sum(), parameters, retain_graph=True)
    theirs = torch.autograd.grad(expected.square().sum(), parameters)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_attention_is_over_the_examples_and_sums_to_one():
    circuits = Circuits(normal(1, 2, 6, 6), normal(1, 2, 1, 6, seed=1))
    attention = attend(normal(3, 9, 5), normal(3, 9, 1), circuits)[1]
    assert attention.shape == (3, 1, 2, 8)
    assert torch.allclose(attention.sum(3), torch.ones(3, 1, 2, dtype=DOUBLE))


def diagonal_circuits(omega, mu, dim=5):
    heads = len(omega)
    kq, ov = torch.zeros(1, heads, dim + 1, dim + 1, dtype=DOUBLE), torch.zeros(1, heads, 1, dim + 1, dtype=DOUBLE)
    kq[0, :, range(dim), range(dim)] = omega[:, None]
    ov[0, :, 0, -1] = mu
    return Circuits(kq, ov)


def test_the_reduced_predictor_is_diagonal_heads_and_a_shift_of_labels_shows_as_the_sum_of_mu():
    omega, mu = torch.tensor([0.4, -0.3, 0.1], dtype=DOUBLE), torch.tensor([2.0, -1.5, 0.7], dtype=DOUBLE)
    x, y = normal(4, 11, 5), normal(4, 11, 1, seed=1)
    found = attend(x, y, diagonal_circuits(omega, mu))[0][0]
    assert torch.allclose(found, theory.reduced_answer(x, y, omega, mu), rtol=0, atol=1e-12)
    shifted = theory.reduced_answer(x, y + 2.5, omega, mu)
    assert torch.allclose(shifted - found, 2.5 * mu.sum().expand(4, 1), rtol=0, atol=1e-10)
    measured = circuit_measures(diagonal_circuits(omega, mu), 5)
    assert torch.allclose(measured["omega"][0], omega)
    assert torch.allclose(measured["mu"][0], mu)
    assert torch.allclose(measured["diagonal"], torch.ones(1, 3, dtype=DOUBLE))
    assert torch.allclose(measured["last"], torch.ones(1, 3, dtype=DOUBLE))
    assert measured["off"].max() == 0


def test_debiased_steps_do_not_see_a_shift_and_vanilla_ones_do():
    x, y = normal(4, 11, 5), normal(4, 11, 1, seed=1)
    examples, query = x[:, :-1], x[:, -1]
    assert torch.allclose(debiased_step(examples, y[:, :-1] + 2, query), debiased_step(examples, y[:, :-1], query))
    change = gradient_step(examples, y[:, :-1] + 2, query) - gradient_step(examples, y[:, :-1], query)
    assert change.abs().min() > 1e-3


def test_two_opposite_small_heads_are_the_empirical_covariance():
    x, y = normal(4, 11, 5), normal(4, 11, 1, seed=1)
    covariance = debiased_step(x[:, :-1], y[:, :-1], x[:, -1])
    gaps = []
    for w in (1e-1, 1e-2, 1e-3):
        omega = torch.tensor([w, -w], dtype=DOUBLE)
        answer = theory.reduced_answer(x, y, omega, torch.tensor([1.0, -1.0], dtype=DOUBLE)) / (2 * w)
        gaps.append(float((answer - covariance).abs().max()))
    assert gaps[0] / gaps[1] == pytest.approx(100, rel=0.05)  # even orders cancel: the gap falls as w²
    assert gaps[1] / gaps[2] == pytest.approx(100, rel=0.05)


def test_head_types():
    omega = torch.tensor([[0.3, -0.3, 0.01, 0.2]])
    mu = torch.tensor([[2.0, -2.0, 1.0, 0.01]])
    assert head_types(omega, mu).tolist() == [[1, -1, 0, 0]]


def test_the_mean_fields_gradient_and_best_mu():
    omega, mu = torch.tensor([0.4, -0.3], dtype=DOUBLE), torch.tensor([2.0, -1.5], dtype=DOUBLE)
    w, m = omega.clone().requires_grad_(), mu.clone().requires_grad_()
    theory.mean_field_loss(w, m, 5, 40, 0.1).backward()
    by_omega, by_mu = theory.mean_field_gradient(omega, mu, 5, 40, 0.1)
    assert torch.allclose(by_omega, w.grad)
    assert torch.allclose(by_mu, m.grad)
    best = theory.best_mu(omega, 5, 40, 0.1)
    assert theory.mean_field_gradient(omega, best, 5, 40, 0.1)[1].abs().max() < 1e-10


def test_one_head_is_stationary_at_its_optimum_and_two_are_never_at_theirs():
    head = theory.single_head(5, 40, 0.1)
    omega, mu = torch.tensor([head.omega], dtype=DOUBLE), torch.tensor([head.mu], dtype=DOUBLE)
    assert torch.cat(theory.mean_field_gradient(omega, mu, 5, 40, 0.1)).abs().max() < 1e-10
    assert theory.mean_field_loss(omega, mu, 5, 40, 0.1).item() == pytest.approx(head.loss)
    floor, previous = theory.many_heads_infimum(5, 40, 0.1), math.inf
    for w in (0.4, 0.2, 0.1, 0.01):
        pair = torch.tensor([w, -w], dtype=DOUBLE)
        loss = theory.mean_field_loss(pair, theory.best_mu(pair, 5, 40, 0.1), 5, 40, 0.1).item()
        assert floor < loss < previous
        previous = loss
    assert previous == pytest.approx(floor, abs=1e-5)


def test_the_flow_descends():
    start = torch.tensor([0.3, -0.3], dtype=DOUBLE)
    found = theory.mean_field_flow(start, start, 5, 40, 0.1, end=50.0, points=30)
    assert (found.loss[1:] <= found.loss[:-1] + 1e-9).all()
    assert found.loss[0] == pytest.approx(theory.mean_field_loss(start, start, 5, 40, 0.1).item())


@pytest.mark.parametrize("length", [10, 40])
def test_the_exact_risks_on_prompts(length):
    eye = torch.eye(5, dtype=DOUBLE)
    law = PromptLaw(eye, torch.zeros(1, 5, dtype=DOUBLE), eye / 5, 0.1, noisy_query=True)
    prompts = law.sample(100_000, length, torch.Generator().manual_seed(0), DOUBLE)
    for step, formula in ((debiased_step, theory.debiased_step_risk), (gradient_step, theory.gradient_step_risk)):
        answer = lambda x, y, step=step: step(x[:, :-1], y[:, :-1], x[:, -1], 0.8)[None]  # noqa: E731
        measured = risk(answer, prompts)
        assert abs(measured[0, 0] - formula(0.8, 5, length, 0.1)) < 4 * measured[1, 0]


def test_the_best_rates_are_stationary():
    for formula, rate in (
        (theory.debiased_step_risk, theory.best_debiased_rate(5, 40, 0.1)),
        (theory.gradient_step_risk, theory.best_gradient_rate(5, 40, 0.1)),
    ):
        assert formula(rate, 5, 40, 0.1) < min(formula(rate * (1 + e), 5, 40, 0.1) for e in (-1e-3, 1e-3))
    assert theory.debiased_step_risk(theory.best_debiased_rate(5, 40, 0.1), 5, 40, 0.1) == pytest.approx(
        0.24286, abs=5e-6
    )
    assert theory.gradient_step_risk(theory.best_gradient_rate(5, 40, 0.1), 5, 40, 0.1) == pytest.approx(
        0.23978, abs=5e-6
    )


@pytest.mark.parametrize("init", ["random", "small_identity", "small_identity_qk", "opposite"])
def test_starts(init):
    layer = PromptSoftmaxAttention(5, 4, init=init)
    kq = layer.circuits().kq[0]
    if init == "opposite":
        assert (kq.diagonal(dim1=1, dim2=2)[:2] > 0).all()
        assert (kq.diagonal(dim1=1, dim2=2)[2:] < 0).all()
    elif init == "random":
        assert layer.query.abs().max() <= 6**-0.5
        assert layer.output.abs().max() <= 24**-0.5
    else:
        assert torch.equal(layer.query, layer.key)
        assert (kq - kq.diagonal(dim1=1, dim2=2).diag_embed()).abs().max() == 0


SMALL = ["--data.batch_size=16", "--data.batches=2", "--data.eval_prompts=256", "--trainer.max_epochs=1"]


def test_training_records_circuits():
    model, _ = trained("in_context/icl_softmax_demystified", *SMALL)
    found = model.trajectory()
    assert {"omega/1", "mu/4", "eta", "sum_mu", "positive"} <= set(found)
    metrics = model.trainer.callback_metrics
    assert metrics["val/risk/40/theory"] == pytest.approx(0.24286, abs=5e-6)
    assert metrics["val/ridge/40"] == pytest.approx(float(metrics["val/bayes/40"]), rel=1e-4)
    two, _ = trained("in_context/icl_softmax_demystified_two_tasks", *SMALL)
    assert "val/risk/48/theory" not in two.trainer.callback_metrics


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["--model.labels=2"], "model.labels: 2, but the prompts have d = 5 and 1 labels"),
        (["--model.heads=0"], "heads: 0"),
        (["--model.init=odd"], "init: 'odd'"),
        (["--model.init=opposite", "--model.heads=3"], r"heads: 3 is not accepted; a multiple of 2 \(init: opposite\)"),
    ],
)
def test_bad_settings_are_named(overrides, said):
    with pytest.raises(UserError, match=said):
        trained("in_context/icl_softmax_demystified", *SMALL, *overrides)
