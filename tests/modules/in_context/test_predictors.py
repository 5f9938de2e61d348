"""Closed-form predictors against scikit-learn and their definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression, Ridge

from framework.functional.regression_prompts import PromptLaw
from modules.in_context.predictors import baselines, bayes, debiased_step, gradient_step, least_squares, ridge

DOUBLE = torch.float64


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


@pytest.fixture
def prompts():
    return normal(6, 9, 4), normal(6, 9, 2, seed=1), normal(6, 4, seed=2)


def each(model, x, y, query):
    fitted = [model.fit(a.numpy(), b.numpy()).predict(q.numpy()[None])[0] for a, b, q in zip(x, y, query, strict=True)]
    return torch.as_tensor(np.array(fitted))


def test_least_squares_and_ridge_are_scikit_learns(prompts):
    assert torch.allclose(least_squares(*prompts), each(LinearRegression(fit_intercept=False), *prompts))
    assert torch.allclose(ridge(*prompts, 0.7), each(Ridge(0.7, fit_intercept=False), *prompts))


def test_with_few_examples_the_solution_of_least_norm(prompts):
    x, y, query = prompts
    x, y = x[:, :3], y[:, :3]
    expected = (query[:, None] @ torch.linalg.pinv(x) @ y)[:, 0]
    assert torch.allclose(least_squares(x, y, query), expected)
    assert torch.allclose(ridge(x, y, query, 0.7), each(Ridge(0.7, fit_intercept=False), x, y, query))


@pytest.mark.parametrize("count", [3, 9])
def test_bayes_is_the_conditional_mean_of_a_gaussian(prompts, count):
    x, y, query = prompts
    x, y = x[:, :count], y[:, :count, :1]
    mean, root, noise = normal(1, 4, seed=3), normal(4, 4, seed=4), 0.3
    psi = root @ root.T
    joint = torch.cat([x, query[:, None]], 1)
    covariance = joint @ psi @ joint.mT
    data = covariance[:, :-1, :-1] + noise * torch.eye(count, dtype=DOUBLE)
    rest = y - x @ mean.T
    expected = query @ mean.T + (covariance[:, -1:, :-1] @ torch.linalg.solve(data, rest))[:, 0]
    assert torch.allclose(bayes(x, y, query, mean, psi, noise), expected)


def test_bayes_with_a_standard_prior_is_ridge_and_without_noise_meets_the_labels(prompts):
    x, y, query = prompts
    zero, eye = torch.zeros(2, 4, dtype=DOUBLE), torch.eye(4, dtype=DOUBLE)
    assert torch.allclose(bayes(x, y, query, zero, eye, 0.7), ridge(x, y, query, 0.7))
    assert torch.allclose(bayes(x[:, :3], y[:, :3], x[:, 0], zero, eye, 0.0), y[:, 0])


def test_gradient_steps_are_steps_of_gradient_descent(prompts):
    x, y, query = prompts
    preconditioner, start = normal(4, 4, seed=3), normal(2, 4, seed=4)
    weights = start.clone().expand(6, 2, 4).clone().requires_grad_()
    loss = ((x @ weights.mT - y).square().sum((1, 2)) / (2 * x.shape[1])).sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    stepped = weights - gradient @ preconditioner.T
    expected = (stepped @ query[..., None])[..., 0]
    assert torch.allclose(gradient_step(x, y, query, preconditioner, start), expected)
    assert torch.allclose(gradient_step(x, y, query, 0.3), 0.3 * ((x.mT @ y) / 9 * query[..., None]).sum(1))


def test_the_debiased_step_does_not_see_a_constant_and_is_a_covariance(prompts):
    x, y, query = prompts
    assert torch.allclose(debiased_step(x, y + 3.0, query), debiased_step(x, y, query))
    products = (x @ query[..., None])[..., 0]
    centred = (products - products.mean(1, keepdim=True))[..., None] * (y - y.mean(1, keepdim=True))
    assert torch.allclose(debiased_step(x, y, query, 0.9), 0.9 * centred.mean(1))


def test_baselines_know_each_tasks_block():
    eye = torch.eye(4, dtype=DOUBLE)
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]], dtype=DOUBLE)
    law = PromptLaw(eye, torch.zeros(2, 4, dtype=DOUBLE), eye, mask=mask)
    found = law.sample(20, 3, torch.Generator().manual_seed(0), DOUBLE)
    x, y, query = found["x"][:, :-1], found["y"][:, :-1], found["x"][:, -1]
    # three examples determine two coordinates, not four
    assert torch.allclose(baselines(law)["bayes"](x, y, query), found["y"][:, -1])
    assert not torch.allclose(baselines(law)["least_squares"](x, y, query), found["y"][:, -1], atol=1e-2)
