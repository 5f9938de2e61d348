"""Deep linear networks: gradients, starts, exact solutions against integration and simulation."""

import math
from itertools import pairwise
from typing import get_args

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from scipy.special import digamma

from datamodules.dynamics.correlations import Correlations
from framework import OptimizerConfig
from framework.errors import UserError
from modules.dynamics.deep_linear import DeepLinear, theory
from modules.dynamics.deep_linear.initialisation import Init, consistency, draw, orthonormal
from modules.dynamics.deep_linear.isometry import log_spectrum, product_spectrum, random_factors, tanh_network
from modules.dynamics.deep_linear.network import best_loss, modes, product


def batch_of(**options):
    data = Correlations(**{"depth": 3, "features": 20, **options})
    data.setup("fit")
    return data.train_set.batch


def model_of(batch=None, rate=1e-3, **options):
    torch.manual_seed(0)
    sizes = {"inputs": 8, "outputs": 20, "hidden": 8, "track": [1, 2, 4]}
    model = DeepLinear(**{**sizes, **options}, optimizer=OptimizerConfig("sgd", lr=rate, weight_decay=0.0))
    model.begin(batch_of() if batch is None else batch)
    return model


@pytest.mark.parametrize("features", [4, 20])
def test_the_written_gradient_is_autograds(features):
    batch = batch_of(features=features)
    model = model_of(batch, outputs=features, layers=4, hidden=5, init="gaussian", seeds=2)
    expected = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
    for found, wanted in zip(model.gradients(batch), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_the_loss_is_that_of_the_examples():
    torch.manual_seed(0)
    x, y = torch.randn(8, 30, dtype=torch.float64), torch.randn(20, 30, dtype=torch.float64)
    batch = {"s11": x @ x.T, "s31": y @ x.T, "syy": y.square().sum()}
    model = model_of(batch, init="gaussian")
    w = product(list(model.weights))[0]
    torch.testing.assert_close(model.losses(batch)[0], 0.5 * (y - w @ x).square().sum())
    least = y - y @ torch.linalg.pinv(x) @ x
    assert best_loss(batch["s31"], batch["s11"], batch["syy"]) == pytest.approx(float(0.5 * least.square().sum()))


@pytest.mark.parametrize("kind", get_args(Init))
def test_each_start_is_what_it_says(kind):
    batch = batch_of()
    widths = [8, 10, 9, 20]
    generator = torch.Generator().manual_seed(0)
    weights = draw(kind, widths, generator, batch["s31"], batch["s11"], u0=0.1, std=0.02)
    assert [w.shape for w in weights] == [(10, 8), (9, 10), (20, 9)]
    if kind in ("orthogonal", "pretrained"):
        for w in weights:
            gram = w @ w.T if w.shape[0] < w.shape[1] else w.T @ w
            torch.testing.assert_close(gram, torch.eye(len(gram), dtype=torch.float64))
    if kind == "decoupled":
        u, s, v = modes(batch["s31"])
        total = weights[2] @ weights[1] @ weights[0]
        torch.testing.assert_close(u.T @ total @ v, 0.1 * torch.eye(len(s), dtype=torch.float64))
    if kind == "small":
        assert float(weights[2].std()) == pytest.approx(0.02, rel=0.15)


def test_a_frame_is_haar_distributed():
    generator = torch.Generator().manual_seed(0)
    traces = [float(orthonormal(4, 4, generator).trace()) for _ in range(2000)]
    assert abs(np.mean(traces)) < 0.07  # without the signs of R it is far from 0
    assert np.var(traces) == pytest.approx(1, abs=0.1)


def test_pretraining_aligns_with_the_inputs_axes():
    batch = batch_of(source="digits", mean=True)
    assert consistency(batch["s31"], batch["s11"]) == pytest.approx(0.017, abs=0.003)
    assert consistency(batch["s31"], batch["s11"], torch.eye(64, dtype=torch.float64)) > 0.9


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_modes_follow_the_exact_solution(layers):
    batch = batch_of()
    model = model_of(batch, rate=2e-4, layers=layers, u0=0.05)
    found = model.simulate(batch, 8000, range(0, 8001, 200))
    for mode in model.tracked:
        error = np.abs(found[f"mode/{mode}"] - found[f"mode/{mode}/theory"]).max() / float(model.s[mode - 1])
        assert error <= 0.005
    assert found["crosstalk"].max() < 1e-10
    if layers == 2:
        s = float(model.s[1])
        expected = theory.strength(found["step"], s, 0.05, 1 / 2e-4)
        np.testing.assert_allclose(found["mode/2/theory"][:, 0], expected, rtol=1e-6)


def test_inputs_on_the_tasks_axes_have_a_solution_too():
    batch = batch_of()
    _, _, v = modes(batch["s31"])
    variance = torch.linspace(0.5, 2, v.shape[1], dtype=torch.float64)
    coloured = {**batch, "s11": v @ torch.diag(variance) @ v.T}
    model = model_of(coloured, rate=2e-4, u0=0.05)
    found = model.simulate(coloured, 8000, [8000, 100])
    assert found["mode/1"][-1, 0] == pytest.approx(float(model.s[0] / variance[0]), rel=1e-3)
    np.testing.assert_allclose(found["mode/1"][0], found["mode/1/theory"][0], rtol=0.02)
    other = {**batch, "s11": batch["s11"] + 0.1}
    assert "mode/1/theory" not in model_of(other).simulate(other, 1, [1])


@pytest.mark.parametrize(("a0", "b0", "s", "uf"), [(0.7, 0.1, 2.0, 1.9), (0.05, 0.3, 1.0, 0.9), (1e-3, 1e-2, 3.0, 2.5)])
def test_the_time_of_unequal_layers_is_that_of_integration(a0, b0, s, uf):
    def reached(_, x):
        return x[0] * x[1] - uf

    reached.terminal = True
    found = solve_ivp(
        lambda _, x: [x[1] * (s - x[0] * x[1]), x[0] * (s - x[0] * x[1])],
        (0, 100),
        [a0, b0],
        rtol=1e-11,
        atol=1e-13,
        events=reached,
        method="DOP853",
    )
    assert theory.unequal_time(s, a0, b0, uf) == pytest.approx(float(found.t_events[0][0]), abs=1e-6)


def test_times_agree_with_each_other():
    assert theory.unequal_time(2.0, 0.1, 0.1, 1.5) == pytest.approx(float(theory.learning_time(2.0, 0.01, 1.5)))
    for gap in (1e-6, 1e-12, 5e-14, 5e-15, 1e-16):  # of a and b; with a = 0.1 the difference of squares is a fifth
        found = theory.unequal_time(2.0, 0.1, 0.1 + gap, 1.5)
        assert found == pytest.approx(float(theory.learning_time(2.0, 0.1 * (0.1 + gap), 1.5)), rel=1e-10)
    assert theory.depth_time(2.0, 0.01, 1.5, 2, tau=3.0) == pytest.approx(
        float(theory.learning_time(2.0, 0.01, 1.5, 3.0))
    )
    t = float(theory.learning_time(2.0, 0.01, 1.5, 3.0))
    assert float(theory.strength(t, 2.0, 0.01, 3.0)) == pytest.approx(1.5)
    for units, expected in {3: 9.190, 10: 52.07, 50: 94.06, 1000: 107.43}.items():
        assert (units - 1) * theory.depth_time(1.0, 0.01, 0.99, units - 1) == pytest.approx(expected, rel=1e-3)
    assert theory.infinite_depth_time(1.0, 0.01, 0.99) == pytest.approx(108.18, abs=0.01)
    assert float(theory.strength(1e6, 50.0, 1e-6)) == 50.0  # no overflow


def test_the_largest_step_is_one_over_the_curvature():
    s, layers = 3.0, 3
    a = torch.full((layers,), s ** (1 / layers), dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda x: 0.5 * (s - x.prod()) ** 2, a)
    assert theory.largest_step(s, layers) == pytest.approx(1 / float(torch.linalg.eigvalsh(hessian)[-1]))


def test_the_trees_modes_sum_to_what_is_there():
    found = theory.tree_strengths()
    assert [round(value, 2) for value, _ in found.values()] == [81.04, 55.96, 46.54, 37.56, 28.65, 18.97]
    assert [count for _, count in found.values()] == [1, 1, 2, 4, 8, 16]
    assert sum(value**2 * count for value, count in found.values()) == pytest.approx(32_000)


def test_a_bottleneck_leaves_the_best_part_of_its_rank():
    torch.manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(n, 4, dtype=torch.float64))[0] for n in (20, 8))
    s31 = (u * torch.tensor([4.0, 3.0, 2.0, 0.5], dtype=torch.float64)) @ v.T
    batch = {"s31": s31, "s11": torch.eye(8, dtype=torch.float64), "syy": s31.square().sum()}
    model = model_of(batch, rate=0.05, hidden=3, init="small", track=[1])
    model.simulate(batch, 2000, [2000])
    a, s, b = modes(s31, 3)
    torch.testing.assert_close(product(list(model.weights))[0].detach(), (a * s) @ b.T, rtol=0, atol=1e-4)


def test_members_are_independent_runs_at_their_own_rates():
    batch = batch_of()
    together = model_of(batch, rate=1e-3, init="gaussian", rates=[1.0, 0.5], seeds=2)
    assert together.settings() == {"rate": [1e-3, 1e-3, 5e-4, 5e-4], "seed": [0, 1, 0, 1]}
    found = together.simulate(batch, 30, [30])["loss"][-1]
    alone = model_of(batch, rate=5e-4, init="gaussian", seeds=2)
    np.testing.assert_allclose(alone.simulate(batch, 30, [30])["loss"][-1], found[2:], rtol=1e-10)


@pytest.mark.parametrize("size", [1, 2, 7, 16])
def test_a_products_singular_values_are_exact_however_far_apart(size):
    generator = torch.Generator().manual_seed(0)
    logs = torch.linspace(0, -3, size, dtype=torch.float64)
    frames = [orthonormal(size, size, generator) for _ in range(401)]
    factors = [after @ torch.diag(logs.exp()) @ before.T for before, after in pairwise(frames)]
    torch.testing.assert_close(log_spectrum(factors, size), 400 * logs, rtol=1e-12, atol=1e-11)  # to e^-1200


def test_gaussian_products_have_newmans_exponents():
    size, count = 16, 400
    exact = [(digamma((size - i) / 2) + math.log(2 / size)) / 2 for i in range(size)]  # Newman, 1986
    draws = [torch.Generator().manual_seed(seed) for seed in range(5)]
    found = torch.stack([log_spectrum(random_factors(size, count, False, g), size) for g in draws]) / count
    np.testing.assert_allclose(found.mean(0), exact, atol=0.06)
    assert float(found[:, -1].mean()) == pytest.approx(-2.021, abs=0.06)


def test_short_products_have_the_singular_values_of_the_matrix():
    generator = torch.Generator().manual_seed(0)
    factors = list(random_factors(30, 3, False, generator))
    expected = torch.linalg.svdvals(factors[2] @ factors[1] @ factors[0])
    torch.testing.assert_close(log_spectrum(factors, 30).exp(), expected, rtol=1e-9, atol=0)
    assert product_spectrum(3, 0, False, generator).tolist() == [1, 1, 1]


def test_random_products_and_networks():
    generator = torch.Generator().manual_seed(0)
    assert (product_spectrum(50, 20, True, generator) - 1).abs().max() < 1e-10
    spread = product_spectrum(100, 10, False, generator)
    assert float((spread < 0.1).double().mean()) == pytest.approx(0.6, abs=0.1)
    assert float(spread.square().mean()) == pytest.approx(1, abs=0.5)
    variances, jacobian = tanh_network(1.5, 300, 30, 1.0, generator)
    assert float(variances[-5:].mean()) == pytest.approx(theory.tanh_variance(1.5), rel=0.08)
    assert jacobian.shape == (300, 300)
    assert theory.tanh_variance(1.2) == pytest.approx(0.24951, abs=1e-4)
    assert theory.tanh_variance(0.9) == theory.tanh_variance(1.0) == 0
    small = theory.tanh_variance(1.0001)
    assert small == pytest.approx((1 - 1.0001**-2) / 2, rel=1e-3)  # E[tanh²] = q − 2 q² + …


@pytest.mark.parametrize("gain", [1.5, 8.0, 50.0])
def test_the_limit_variance_is_a_fixed_point_by_adaptive_quadrature(gain):
    q = theory.tanh_variance(gain)
    x = [0, *np.geomspace(1e-3, 1, 7) * 12 * math.sqrt(q)]
    parts = [quad(lambda u: np.tanh(u) ** 2 * np.exp(-(u**2) / (2 * q)), a, b, epsabs=0)[0] for a, b in pairwise(x)]
    assert q == pytest.approx(gain**2 * 2 * sum(parts) / math.sqrt(2 * math.pi * q), rel=1e-9)


def test_fit_resumes_and_draws(tmp_path):
    model = DeepLinear(8, 20, hidden=8, inner_steps=50, optimizer=OptimizerConfig("sgd", lr=1e-3, weight_decay=0.0))
    run = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=tmp_path,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    run.fit(model, Correlations(depth=3, features=20, passes=2))
    run.save_checkpoint(tmp_path / "a.ckpt")
    opened = DeepLinear.load_from_checkpoint(tmp_path / "a.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(opened.parameters(), model.parameters(), strict=True))
    assert opened.steps_taken == 200
    assert (tmp_path / "figures" / "modes.png").is_file()
    assert math.isfinite(float(run.callback_metrics["train/loss"]))


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"inputs": 0}, "inputs"),
        ({"layers": 0}, "layers"),
        ({"seeds": 0}, "seeds"),
        ({"init": "zeros"}, "init"),
        ({"u0": 0.0}, "u0"),
        ({"std": -1.0}, "std"),
        ({"rates": []}, "rates"),
        ({"rates": [0.0]}, "rates"),
        ({"track": [0]}, "track"),
        ({"inputs": 9}, "outputs, inputs"),
        ({"hidden": 3}, "widths"),
    ],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        model_of(**options)
