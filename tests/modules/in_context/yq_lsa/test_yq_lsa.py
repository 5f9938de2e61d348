"""Guesses and heads of linear attention."""

from __future__ import annotations

import pytest
import torch

from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw
from modules.in_context.experiment import risk, trained
from modules.in_context.linear_attention import LinearAttention
from modules.in_context.predictors import gradient_step
from modules.in_context.yq_lsa import GuessingAttention, theory

DOUBLE = torch.float64
EYE = torch.eye(5, dtype=DOUBLE)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def test_one_head_with_a_guess_holds_any_gradient_step():
    start, matrix = normal(7), normal(7, 7, seed=1)
    layer = LinearAttention(7, learnt_guess=True, dtype=DOUBLE)
    with torch.no_grad():
        for name, value in theory.as_gradient_step(start, matrix).items():
            getattr(layer, name)[0] = value
    x, y = normal(100, 10, 7, seed=2), normal(100, 10, 1, seed=3)
    expected = gradient_step(x[:, :-1], y[:, :-1], x[:, -1], matrix, start[None])
    assert torch.allclose(layer(x, y)[0], expected[:, 0], rtol=0, atol=1e-10)


def test_many_heads_are_no_more_than_d_plus_one():
    many, few = LinearAttention(4, 12, dtype=DOUBLE), LinearAttention(4, 5, dtype=DOUBLE)
    with torch.no_grad():
        many.value.copy_(normal(1, 12, 5))
        many.key_query.copy_(normal(1, 12, 5, 5, seed=1))
        few.value[0], few.key_query[0] = theory.fewer_heads(many.value[0], many.key_query[0])
    x, y, guess = normal(50, 9, 4, seed=2), normal(50, 9, 1, seed=3), normal(50, seed=4)
    assert torch.allclose(many(x, y, guess), few(x, y, guess), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_the_best_preconditioner_has_the_least_risk(noise):
    root = normal(5, 5)
    cov, psi = root @ root.T / 5 + EYE, torch.diag(torch.tensor([1.0, 2.0, 0.5, 1.0, 1.5], dtype=DOUBLE))
    best = theory.best_preconditioner(cov, psi, 10, noise).requires_grad_()
    spread = (1 + 1 / 10) * cov @ psi @ cov + ((psi @ cov).trace() + noise) / 10 * cov
    crossed = best @ cov @ psi
    value = (cov @ (psi - crossed - crossed.mT + best @ spread @ best.mT)).trace()
    assert value.item() == pytest.approx(theory.gradient_step_risk(best.detach(), cov, psi, 10, noise))
    (gradient,) = torch.autograd.grad(value, best)
    assert gradient.abs().max() < 1e-12


def test_isotropic_closed_forms_on_prompts():
    assert theory.best_gradient_step_risk(EYE, EYE, 10) == pytest.approx(5 * (1 - 1 / 1.6))
    mean = torch.full((5,), 4 / 5**0.5, dtype=DOUBLE)
    law = PromptLaw(EYE, mean[None], EYE)
    prompts = law.sample(200_000, 10, torch.Generator().manual_seed(0), DOUBLE)
    measured = risk(lambda x, y: theory.multi_head_answer(x, y, mean), prompts)
    predicted = theory.best_gradient_step_risk(EYE, EYE, 10) + theory.multi_head_gap(mean, 10)
    assert predicted == pytest.approx(1.875 + 32 / 52)
    assert abs(measured[0, 0] - predicted) < 4 * measured[1, 0]


SMALL = ["--data.batch_size=64", "--data.batches=2", "--data.eval_prompts=256", "--trainer.max_epochs=1"]


def test_a_learnt_guess_moves_to_the_mean_and_evaluations_stand_beside_gradient_steps():
    model, _ = trained("in_context/yq_lsa", *SMALL)
    first, last = model.history[0][1], model.history[-1][1]
    assert (last["guess"] < first["guess"]).all()
    found = model.trainer.callback_metrics
    assert found["val/risk/10/theory"] == pytest.approx(1.875)
    assert found["val/gradient_step_from_mean/10"] < found["val/gradient_step_from_zero/10"]


@pytest.mark.parametrize(
    ("guess", "heads", "theory_known"), [("zero", 6, True), ("zero", 1, False), ("fixed", 1, False)]
)
def test_other_guesses(guess, heads, theory_known):
    weight = [] if guess == "zero" else ["--model.guess_weight=2.0"]
    model, _ = trained("in_context/yq_lsa", *SMALL, f"--model.guess={guess}", f"--model.heads={heads}", *weight)
    assert model.layer.guess is None
    assert ("val/risk/10/theory" in model.trainer.callback_metrics) == theory_known


def test_a_fixed_guess_is_what_silent_weights_answer():
    model = GuessingAttention(3, guess="fixed", guess_weight=[1.0, 2.0, 3.0])
    with torch.no_grad():
        model.layer.value.zero_()
    x, y = normal(4, 6, 3).float(), normal(4, 6, 1, seed=1).float()
    assert torch.allclose(model.answer(x, y)[0, :, 0], x[:, -1] @ torch.tensor([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"guess": "some"}, "guess: 'some' is not one of zero, fixed, linear"),
        ({"heads": 0}, "heads: 0"),
        ({"guess_weight": [1.0]}, "guess_weight"),
        ({"guess": "zero", "guess_weight": 1.0}, "not accepted with guess 'zero'"),
    ],
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(UserError, match=said):
        GuessingAttention(**options)
