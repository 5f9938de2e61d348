"""Gradient flow, its limit and the errors of linear attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw
from framework.protocols import AnswersPrompts
from modules.in_context.experiment import risk, trained
from modules.in_context.icl_linear_models import GPT2InContext, LinearModelsInContext, theory

DOUBLE = torch.float64


def spd(dim, seed=0):
    m = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)
    return m @ m.T / dim + 0.3 * torch.eye(dim, dtype=DOUBLE)


def law_of(cov, **changes):
    eye = torch.eye(len(cov), dtype=DOUBLE)
    return PromptLaw(cov, torch.zeros(1, len(cov), dtype=DOUBLE), eye).with_changes(**changes)


def reader(readout):
    def answer(x, y):
        mean = (x[:, :-1].mT @ y[:, :-1])[..., 0] / (x.shape[1] - 1)
        return ((x[:, -1] @ readout.T) * mean).sum(1)[None, :, None]

    return answer


def test_the_flow_is_minus_the_gradient_of_the_closed_form_loss():
    cov, start = spd(4), spd(4, 1)
    u, key_query = torch.tensor(0.7, dtype=DOUBLE, requires_grad=True), start.clone().requires_grad_()
    theory.population_loss(u, key_query, cov, 10).backward()
    du, dkq = theory.velocity(0.7, start.numpy(), cov.numpy(), 10)
    assert -u.grad.item() == pytest.approx(du, rel=1e-10)
    np.testing.assert_allclose(dkq, -key_query.grad.numpy(), rtol=1e-10, atol=1e-12)


def test_the_loss_is_half_of_the_readouts_risk():
    cov, key_query = spd(4), spd(4, 1)
    half = 0.5 * theory.readout_risk(0.7 * key_query, 10, cov)
    found = theory.population_loss(torch.tensor(0.7, dtype=DOUBLE), key_query, cov, 10)
    assert found.item() == pytest.approx(half, rel=1e-12)


def test_the_limit_is_a_stationary_point_with_the_stated_loss_and_balance():
    cov = spd(5)
    key_query, u = theory.limit(cov, 20)
    du, dkq = theory.velocity(u, key_query.numpy(), cov.numpy(), 20)
    assert abs(du) < 1e-12
    assert np.abs(dkq).max() < 1e-12
    assert u**2 == pytest.approx(key_query.square().sum().item(), rel=1e-12)
    loss = theory.population_loss(torch.tensor(u, dtype=DOUBLE), key_query, cov, 20)
    assert loss.item() == pytest.approx(theory.limit_loss(cov, 20), rel=1e-12)


def test_the_flow_ends_there():
    cov = torch.diag(torch.tensor([1.0, 2.0], dtype=DOUBLE))
    start = theory.balanced_start(2, 0.1, torch.Generator().manual_seed(0))
    assert start.norm().item() == pytest.approx(0.1)
    found = theory.gradient_flow(cov, 20, start, 0.1, end=100.0, points=50)
    inverse = torch.linalg.inv(theory.gamma(cov, 20))
    np.testing.assert_allclose(found.u[-1] * found.key_query[-1], inverse.numpy(), rtol=1e-7, atol=1e-9)
    assert (np.diff(found.loss) < 1e-12).all()


@pytest.mark.parametrize("length", [3, 12])
def test_the_two_formulas_for_the_risk_agree_and_prompts_follow_them(length):
    cov, w = spd(3), torch.tensor([1.0, -0.5, 0.3], dtype=DOUBLE)
    inverse = torch.linalg.inv(theory.gamma(cov, 8))
    general = theory.readout_risk(inverse, length, cov, second_moment=torch.outer(w, w))
    assert theory.theorem_risk(cov, 8, length, w) == pytest.approx(general, rel=1e-10)
    law = law_of(cov, task_mean=w[None], task_cov=0 * cov, noise=0.4, query_cov=2 * cov)
    predicted = theory.readout_risk(inverse, length, cov, 2 * cov, torch.outer(w, w), 0.4)
    measured = risk(reader(inverse), law.sample(100_000, length, torch.Generator().manual_seed(0), DOUBLE))
    assert abs(measured[0, 0] - predicted) < 4 * measured[1, 0]


def test_random_spectra_have_their_risk_and_the_best_gain():
    moments = (1.0, 2.0, 6.0)
    gain = theory.random_spectrum_gain(3, 10, moments)
    predicted = theory.random_spectrum_risk(gain, 3, 10, moments)
    for other in (0.9 * gain, 1.1 * gain):
        assert theory.random_spectrum_risk(other, 3, 10, moments) > predicted
    law = law_of(torch.eye(3, dtype=DOUBLE), spectrum="exponential")
    prompts = law.sample(200_000, 10, torch.Generator().manual_seed(0), DOUBLE)
    measured = risk(reader(gain * torch.eye(3, dtype=DOUBLE)), prompts)
    assert abs(measured[0, 0] - predicted) < 4 * measured[1, 0]


def test_the_best_readout_for_gaussian_rows_is_the_limits():
    rows = torch.randn(400_000, 3, generator=torch.Generator().manual_seed(0), dtype=DOUBLE)
    best = theory.best_readout(rows, 10)
    assert torch.allclose(best, torch.linalg.inv(theory.gamma(torch.eye(3, dtype=DOUBLE), 10)), atol=0.01)


SMALL = ["--data.batch_size=64", "--data.batches=2", "--data.eval_prompts=256", "--trainer.max_epochs=1"]


def test_training_records_what_is_known_and_validates_beside_the_theory():
    model, _data = trained("in_context/icl_linear_models", *SMALL)
    assert isinstance(model, AnswersPrompts)
    assert model.trajectory()["distance"].shape[1] == 4
    first, last = model.history[0][1], model.history[-1][1]
    assert (last["distance"] < first["distance"]).all()
    assert first["w21_pv"].max() == 0
    found = model.trainer.callback_metrics
    for length in (5, 20, 80):
        assert found[f"val/risk/{length}/theory"] == pytest.approx(model.risk_theory(length))
    assert found["val/least_squares/20"] < 1e-9
    assert found["val/loss"] == found["val/risk/20"]


def test_a_member_is_the_run_with_its_seed():
    both, _ = trained("in_context/icl_linear_models", *SMALL, "--model.seeds=2")
    alone, _ = trained("in_context/icl_linear_models", *SMALL, "--model.seeds=1", "--model.base_seed=1")
    assert torch.allclose(both.layer.key_query[1], alone.layer.key_query[0], rtol=1e-4, atol=1e-6)


def test_a_members_gradient_is_cut_to_its_norm():
    model = LinearModelsInContext(3, seeds=2, clip=0.01)
    prompts = law_of(torch.eye(3, dtype=DOUBLE)).sample(16, 10, torch.Generator().manual_seed(0))
    cut = model.gradients(prompts)
    model.clip = None
    whole = model.gradients(prompts)
    for member in range(2):
        norm = sum(g[member].square().sum() for g in whole).sqrt()
        assert norm > 0.01
        for a, b in zip(cut, whole, strict=True):
            assert torch.allclose(a[member], b[member] * 0.01 / norm)


def test_gpt2_sees_only_what_stands_before():
    model = GPT2InContext(dim=3, width=16, layers=2, heads=2, positions=9).eval()
    found = law_of(torch.eye(3, dtype=DOUBLE)).sample(2, 6, torch.Generator().manual_seed(0))
    x, y = found["x"], found["y"]
    before = model.net(x, y)
    later = y.clone()
    later[:, 4:] += 1
    assert torch.allclose(model.net(x, later)[:, :5], before[:, :5], atol=1e-6)
    assert not torch.allclose(model.net(x, later)[:, 5:], before[:, 5:], atol=1e-4)
    assert model.answer(x, y).shape == (1, 2, 1)
    assert all(g.abs().sum() > 0 for g in model.gradients(found) if g.ndim > 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"init": "zero"}, "init: 'zero' is not one of balanced, gaussian"),
        ({"sigma": 0.0}, "sigma: 0.0"),
        ({"seeds": 0}, "seeds: 0"),
        ({"clip": -1.0}, "clip: -1.0"),
    ],
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(UserError, match=said):
        LinearModelsInContext(**options)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("--model.dim=4", "model.dim: 4, but the prompts have d = 5"),
        ("--model.sigma=2.0", "must be below 2"),
        ("--model.inner_steps=7", "data.inner_steps is 50"),
    ],
)
def test_what_does_not_fit_together_is_named(override, said):
    with pytest.raises(UserError, match=said):
        trained("in_context/icl_linear_models", *SMALL, override)


def test_gpt2_names_prompts_that_are_too_long():
    with pytest.raises(UserError, match="positions: 12 is not accepted; above the longest prompt, 16"):
        trained("in_context/icl_linear_models_gpt2", *SMALL, "--model.positions=12")
