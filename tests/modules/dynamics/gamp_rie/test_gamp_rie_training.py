"""The iteration, gradient descent, and their settings."""

import numpy as np
import pytest
import torch
from ensemble_harness import resumed_is_whole, trainer

from datamodules.dynamics.quadratic_teacher import QuadraticTeacher
from framework.errors import UserError
from modules.dynamics.gamp_rie import GampRie, QuadraticNet
from modules.dynamics.gamp_rie.gamp import adjoint, distance, forward, solve, wishart


def data(d, alpha, seed=0, kappa=0.5):
    generator = torch.Generator().manual_seed(seed)
    s = wishart(d, round(kappa * d), generator)
    x = torch.randn(round(alpha * d**2), d, dtype=torch.float64, generator=generator)
    return {"x": x, "labels": forward(x, s), "level": s.trace() / d, "matrix": s}


def test_the_implicit_operator_is_the_explicit_one():
    batch = data(12, 0.5)
    x, s = batch["x"], batch["matrix"]
    z = (x[:, :, None] * x[:, None, :] - torch.eye(12)) / 12**0.5
    torch.testing.assert_close(forward(x, s), torch.einsum("nij,ij->n", z, s), rtol=0, atol=1e-10)
    g = batch["labels"]
    torch.testing.assert_close(adjoint(x, g), torch.einsum("n,nij->ij", g, z), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_perfect_recovery_above_the_threshold(seed):
    batch = data(60, 0.45, seed)
    state = solve(batch["x"], batch["labels"], 30, generator=torch.Generator().manual_seed(seed + 100))
    assert distance(state.estimate, batch["matrix"], 0.5) < 2e-3


def test_below_the_threshold_the_fixed_point_is_consistent():
    torch.manual_seed(1)  # the start is drawn
    batch = data(100, 0.25)
    state = solve(batch["x"], batch["labels"], 50)
    error = float((state.estimate - batch["matrix"]).square().sum()) / 100
    assert abs(state.variance / 2 - error) / (state.variance / 2) < 0.25
    assert state.precision == pytest.approx(2 * 0.25 / state.variance, rel=0.25)
    assert 0.5 * error > 0.2
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(5000, 100, dtype=torch.float64, generator=generator)
    gap = forward(x, batch["matrix"] - state.estimate) / 10 + (batch["matrix"] - state.estimate).trace() / 100
    assert 25 * float(gap.square().mean()) == pytest.approx(0.5 * error, rel=0.05)


def test_members_of_the_module_follow_the_function():
    batch = data(20, 0.3)
    model = GampRie(20, 120, 10, inits=2, tolerance=0.0)
    generator_free = [e.clone() for e in model.estimates()]
    found = model.simulate(batch, 5, [0, 5])
    from modules.dynamics.gamp_rie.gamp import begin, iterate

    for e, start in enumerate(generator_free):
        state = begin(start, 120, 0.5)
        for _ in range(5):
            state = iterate(state, batch["x"], batch["labels"], 0.5, 0.0, 0.5)
        torch.testing.assert_close(model.estimates()[e], state.estimate)
    assert found["error"].shape == (2, 2)
    assert set(found) >= {"init", "average_error", "variance", "precision", "error/theory"}


def test_the_written_gradient_is_autograds():
    batch = data(10, 0.5)
    model = QuadraticNet(10, 50, 5, inits=3)
    wanted = torch.autograd.grad(model.losses(batch).sum(), [model.weight])[0]
    with torch.no_grad():
        torch.testing.assert_close(model.gradients(batch)[0], wanted)


def test_gradient_descent_fits_and_the_average_is_better():
    batch = data(20, 0.3)
    torch.manual_seed(0)
    found = QuadraticNet(20, 120, 10, inits=6).simulate(batch, 1000, [0, 1000])
    assert found["loss"][-1].max() < 1e-2 * found["loss"][0].min()
    assert found["average_error"][-1, 0] < found["error"][-1].mean()


@pytest.mark.parametrize("model", [GampRie, QuadraticNet])
def test_the_estimate_is_written_and_predicts(tmp_path, model):
    sizes = {"dimension": 12, "samples": 60, "width": 6}
    fitted, data = model(**sizes, inits=2), QuadraticTeacher(**sizes, passes=2)
    run = trainer(tmp_path, 1)
    run.fit(fitted, data)
    found = np.load(tmp_path / "estimate.npz")
    np.testing.assert_array_equal(found["estimate"], fitted.estimates())
    np.testing.assert_allclose(found["average"], found["estimate"].mean(0))
    values, vectors = np.linalg.eigh(found["estimate"])
    values[:, :-6] = 0
    best = (vectors * values.clip(0)[:, None, :]) @ vectors.transpose(0, 2, 1)
    np.testing.assert_allclose(found["weights"].transpose(0, 2, 1) @ found["weights"] / 6, best, atol=1e-10)
    (predicted,) = run.predict(fitted, data)
    x, s = data.predict_set.tensors["x"], fitted.estimates()
    level = float(data.train_set.batch["level"])
    quadratic = torch.einsum("ni,eij,nj->ne", x, s, x) / 12
    traces = s.diagonal(dim1=-2, dim2=-1).sum(-1) / 12
    torch.testing.assert_close(predicted["prediction"], quadratic - traces + level)
    torch.testing.assert_close(predicted["average"], predicted["prediction"].mean(1))
    y = ((x @ data.train_set.batch["matrix"]) * x).sum(-1) / 12
    torch.testing.assert_close(predicted["label"], y)


@pytest.mark.parametrize("model", [GampRie, QuadraticNet])
def test_a_resumed_run_is_the_whole_one(tmp_path, model):
    sizes = {"dimension": 12, "samples": 60, "width": 6}
    resumed_is_whole(
        lambda: model(**sizes, inits=2, inner_steps=2, points=6), lambda: QuadraticTeacher(**sizes, passes=2), tmp_path
    )


@pytest.mark.parametrize(
    ("model", "options", "named"),
    [
        (GampRie, {"damping": 1.0}, "damping"),
        (GampRie, {"tolerance": -1.0}, "tolerance"),
        (GampRie, {"noise": -1.0}, "noise"),
        (GampRie, {"inits": 0}, "inits"),
        (QuadraticNet, {"width": 0}, "width"),
        (QuadraticNet, {"dimension": 0}, "dimension"),
    ],
)
def test_bad_settings_are_named(model, options, named):
    with pytest.raises(UserError, match=named):
        model(**options)


def test_data_of_another_shape_are_named():
    with pytest.raises(UserError, match="samples, dimension"):
        GampRie(20, 100, 10).begin(data(20, 0.3))
