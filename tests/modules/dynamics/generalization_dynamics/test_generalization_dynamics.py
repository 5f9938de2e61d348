"""Closed forms against quadrature, simulation and scikit-learn; the exact flow; the parts of the error."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from sklearn.linear_model import Ridge

from datamodules.dynamics.noisy_teacher import NoisyTeacher
from framework import OptimizerConfig
from framework.errors import UserError
from modules.dynamics.generalization_dynamics import LinearStudent, theory
from modules.dynamics.generalization_dynamics.students import decompose, flow, random_features


def batch_of(**options):
    data = NoisyTeacher(**{"inputs": 60, "draws": 3, **options})
    data.setup("fit")
    return data.train_set.batch


def model_of(batch, rate=0.01, **options):
    torch.manual_seed(1)
    model = LinearStudent(
        **{"inputs": 60, "draws": 3, **options}, optimizer=OptimizerConfig("sgd", lr=rate, weight_decay=0.0)
    )
    model.begin(batch)
    return model


@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.9, 1.2, 2.0, 7.0])
def test_the_bulk_has_its_mass_and_its_inverse(alpha):
    lam, weights = theory.bulk(alpha)
    assert weights.sum() == pytest.approx(min(1, alpha), abs=1e-10)
    expected = alpha / (1 - alpha) if alpha < 1 else 1 / (alpha - 1)
    assert weights @ (1 / lam) == pytest.approx(expected, abs=1e-8)


def test_the_errors_are_those_of_adaptive_quadrature():
    alpha, snr, inr, t = 2.0, 5.0, 0.7, 1.3
    low, high = (math.sqrt(alpha) - 1) ** 2, (math.sqrt(alpha) + 1) ** 2

    def integral(f):
        def integrand(x):
            return f(x) * math.sqrt((high - x) * (x - low)) / (2 * math.pi * x)

        return quad(integrand, low, high, epsabs=1e-12)[0]

    test = 1 + integral(lambda x: (snr + inr) * math.exp(-2 * x * t) + (1 - math.exp(-x * t)) ** 2 / x)
    train = integral(lambda x: ((snr + inr) * x + 1) * math.exp(-2 * x * t)) / alpha + 1 - 1 / alpha
    assert float(theory.generalization_error(t, alpha, snr, inr)) == pytest.approx(test, rel=1e-8)
    assert float(theory.training_error(t, alpha, snr, inr)) == pytest.approx(train, rel=1e-8)


@pytest.mark.parametrize(
    ("snr", "alpha", "t", "least", "ridge"),
    [(1, 1, 0.6810, 1.62459, 1.61803), (5, 0.5, 2.7072, 4.13033, 4.10850), (100, 2, 13.253, 1.99017, 1.98058)],
)
def test_the_best_stop_and_ridge(snr, alpha, t, least, ridge):
    found_t, found = theory.optimal_stop(alpha, snr)
    assert found_t == pytest.approx(t, rel=1e-3)
    assert found == pytest.approx(least, abs=1e-4)
    assert theory.ridge_error(alpha, snr) == pytest.approx(ridge, abs=1e-4)
    assert found >= theory.ridge_error(alpha, snr)
    assert theory.ridge_error(alpha, snr) <= theory.ridge_error(alpha, snr, 2 / snr)


def test_the_limits():
    assert theory.ridge_error(2, 1) == pytest.approx(math.sqrt(2))
    assert theory.ridge_error(1, 1) == pytest.approx((1 + math.sqrt(5)) / 2)
    assert float(theory.generalization_error(0.0, 0.5, 3.0, 1.0)) == pytest.approx(5)
    for alpha in (0.5, 2.0):
        late = float(theory.generalization_error(1e4, alpha, 3.0, 1.0))
        assert late == pytest.approx(theory.final_error(alpha, 3.0, 1.0), rel=1e-6)
    assert theory.final_error(1.0, 5.0) == math.inf
    assert theory.generalization_error([0.1, math.inf], 1.0, 5.0).tolist()[1] == math.inf
    noise = [(float(theory.generalization_error(t, 1.0, 0.0)) - 1) / math.sqrt(t) for t in (10, 1e3)]
    assert noise == pytest.approx([0.5120, 0.6453], abs=1e-3)


def test_an_eigenvalues_best_stop_is_the_minimum_of_its_part():
    lam, snr = 0.7, 4.0
    t = float(theory.mode_stop(lam, snr))
    times = np.linspace(0.5 * t, 2 * t, 2001)
    part = snr * np.exp(-2 * lam * times) + (1 - np.exp(-lam * times)) ** 2 / lam
    assert times[part.argmin()] == pytest.approx(t, rel=2e-3)


def test_the_training_error_falls():
    values = theory.training_error(np.logspace(-2, 3, 40), 0.8, 5.0)
    assert (np.diff(values) < 0).all()


def test_the_flow_is_the_limit_of_small_steps_and_frozen_where_no_example_lies():
    batch = batch_of(alpha=0.75)
    exact, stepped = model_of(batch, rate=0.5, exact=True, inr=1.0), model_of(batch, rate=1e-4, inr=1.0)
    assert torch.equal(exact.w, stepped.w)
    exact.simulate(batch, 1, [1])
    found = stepped.simulate(batch, 5000, [5000])
    torch.testing.assert_close(stepped.w, exact.w, rtol=0, atol=1e-3)
    assert found["frozen"].max() < 1e-10
    assert exact.empty.square().sum().item() == pytest.approx(3 * 15)  # 60 inputs, 45 examples
    assert not torch.allclose(exact.w, exact.kept, atol=0.1)


def test_the_gradient_is_autograds():
    batch = batch_of()
    model = model_of(batch, inr=1.0)
    (expected,) = torch.autograd.grad(model.losses(batch).sum(), [model.w])
    torch.testing.assert_close(model.gradients(batch)[0], expected)


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_simulation_agrees_with_theory(alpha):
    batch = batch_of(inputs=200, draws=20, alpha=alpha)
    model = model_of(batch, rate=0.1, inputs=200, draws=20, exact=True)
    found = model.simulate(batch, 100, [1, 5, 20, 100])
    for name in ("test_error", "train_error"):
        error = found[name].std(1, ddof=1) / 20**0.5
        assert (np.abs(found[name].mean(1) - found[f"{name}/theory"][:, 0]) <= 4 * error).all()


def test_the_end_of_the_flow_with_a_penalty_is_scikit_learns_ridge():
    batch = batch_of(alpha=1.5)
    x, y, g = batch["x"][0], batch["y"][0], 0.3
    padded = torch.cat([x, g**0.5 * torch.eye(60, dtype=torch.float64)], 1)
    w = flow(padded, torch.cat([y, y.new_zeros(60)])).at(math.inf)
    expected = Ridge(alpha=g, fit_intercept=False).fit(x.T.numpy(), y.numpy()).coef_
    np.testing.assert_allclose(w, expected, atol=1e-8)


@pytest.mark.parametrize("width", [10, 30, 100])
def test_the_parts_of_the_error_add_up(width):
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(8, 30 + 2000, dtype=torch.float64, generator=generator)
    y = torch.relu(torch.randn(5, 8, dtype=torch.float64, generator=generator) @ x).sum(0)
    h = random_features(x, torch.randn(width, 8, dtype=torch.float64, generator=generator))
    parts = decompose(h[:, :30], y[:30], h[:, 30:], y[30:])
    w = y[:30] @ torch.linalg.pinv(h[:, :30], rtol=1e-5)
    error = (y[30:] - w @ h[:, 30:]).square().mean()
    torch.testing.assert_close(sum(parts), error, rtol=1e-8, atol=0)
    assert float(parts.null_space) == pytest.approx(0, abs=1e-12) or width > 30


@pytest.mark.parametrize(
    ("options", "key"),
    [({"draws": 0}, "draws"), ({"inr": -1.0}, "inr"), ({"inputs": 50}, "draws, inputs"), ({"inputs": 0}, "inputs")],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        model_of(batch_of(), **options)
    with pytest.raises(UserError, match=r"^alpha:"):
        theory.bulk(0.0)
