"""Steps, forms, conserved quantities and predictions of matrix sensing, on small matrices."""

import numpy as np
import pytest
import torch
from ensemble_harness import resumed_is_whole, trainer

from callbacks.rebalance_factors import RebalanceFactors
from datamodules.dynamics.sensing import MatrixSensing as Data
from framework import OptimizerConfig
from framework.editing import ledger_of
from framework.errors import UserError
from modules.dynamics.matrix_sensing import MatrixSensing
from modules.dynamics.matrix_sensing.rates import exponential_rate
from modules.dynamics.matrix_sensing.sensing import misfit, residual
from modules.dynamics.matrix_sensing.theory import redundant_error

SIZES = {"rows": 12, "width": 4, "rank": 2}


def batch_of(**options):
    data = Data(**{"rows": 12, "rank": 2, "measurements": 0, **options})
    data.setup("fit")
    return data.train_set.batch


def model_of(rate=0.1, **options):
    torch.manual_seed(0)
    return MatrixSensing(**{**SIZES, **options}, optimizer=OptimizerConfig("sgd", lr=rate, weight_decay=0.0))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("measurements", [0, 60])
def test_the_written_gradient_is_autograds(symmetric, measurements):
    model, batch = model_of(symmetric=symmetric, seeds=2), batch_of(measurements=measurements)
    expected = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
    for found, wanted in zip(model.gradients(batch), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


def test_the_residual_is_the_sum_over_measurements():
    batch = batch_of(measurements=30)
    f, g = torch.randn(2, 2, 12, 3, dtype=torch.float64)
    z = f @ g.mT
    d = residual(f, g, batch["y"], batch["operator"])
    a = batch["operator"].view(30, 12, 12)
    errors = torch.einsum("mij,eij->em", a, z) - batch["y"]
    torch.testing.assert_close(d, torch.einsum("em,mij->eij", errors, a))
    torch.testing.assert_close(misfit(z, batch["y"], batch["operator"]), errors.square().sum(1))


def test_equal_factors_follow_the_symmetric_form():
    batch = batch_of(measurements=200, symmetric_operator=True)
    curves = []
    for options in ({"symmetric": True}, {"init_ratio": 1.0, "equal_start": True}):
        curves.append(model_of(**options).simulate(batch, 300, range(0, 301, 20))["error"])
    np.testing.assert_allclose(curves[0], curves[1], atol=1e-12)


def test_the_members_are_independent_runs():
    batch = batch_of(measurements=200)
    together = model_of(alpha=[0.3, 0.6], seeds=2)
    assert together.settings() == {"alpha": [0.3, 0.3, 0.6, 0.6], "seed": [0, 1, 0, 1]}
    starts = [p.detach().clone() for p in together.parameters()]
    found = together.simulate(batch, 50, [50])["error"][-1]
    for member in range(4):
        alone = model_of(alpha=[0.3])
        with torch.no_grad():
            for p, start in zip(alone.parameters(), starts, strict=True):
                p.copy_(start[member : member + 1])
        assert alone.simulate(batch, 50, [50])["error"][-1, 0] == pytest.approx(found[member], rel=1e-10)


def test_the_start_has_the_scale_and_the_ratio():
    model = model_of(rows=400, alpha=[0.5], seeds=3)
    assert float(model.f.detach().std()) == pytest.approx(0.5 / 20, rel=0.05)
    assert float(model.f.detach().std() / model.g.detach().std()) == pytest.approx(3, rel=0.05)


def test_more_columns_than_the_rank_slow_the_symmetric_form_to_one_over_t():
    model, batch = model_of(symmetric=True), batch_of()
    found = model.simulate(batch, 20_000, [20_000])
    theory = redundant_error(20_000, 0.1, 4, 2)
    assert found["error/theory"][-1, 0] == theory == pytest.approx(2**0.5 / 4000)
    assert 0.99 < found["error"][-1, 0] / theory < 1.001
    exact = model_of(symmetric=True, width=2).simulate(batch, 600, [600])
    assert exact["error"][-1, 0] < 1e-12
    assert "error/theory" not in exact


@pytest.mark.parametrize(("alpha", "ratio"), [(0.3, 3.0), (0.5, 3.0), (0.7, 3.0), (0.05, 1 / 3)])
def test_the_asymmetric_rate_is_predicted(alpha, ratio):
    model, batch = model_of(alpha=[alpha], init_ratio=ratio, points=2000), batch_of()
    found = model.simulate(batch, 6000)
    rate = exponential_rate(found["step"], found["error"][:, 0], 1e-9, 1e-4)
    assert rate.points > 5
    assert rate.rate == pytest.approx(float(model.predicted_rate()[0]), rel=0.03)


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        (20, {"width": 3, "init_ratio": 1.0, "seeds": 6}),  # which factor vanishes differs between members
        (12, {"width": 5, "init_ratio": 1.0, "seeds": 3}),  # and between directions
        (4, {"width": 6, "alpha": [0.7], "seeds": 3}),  # k > n: neither factor has a singular value 0
        (5, {"columns": 3, "width": 10, "init_ratio": 1.5, "seeds": 3}),  # k > n1 + n2
        (12, {"alpha": [0.3, 1.0], "seeds": 2}),  # F's and G's parts outside M count
        (12, {"width": 2, "seeds": 2}),  # k = r
    ],
)
def test_the_rate_is_predicted_for_each_member(rows, options):
    model = model_of(**{"rows": rows, "alpha": [0.5], "points": 2000, **options})
    found = model.simulate(batch_of(rows=rows, columns=options.get("columns"), symmetric=False, seed=1), 6000)
    predicted = model.predicted_rate()
    assert (model.predicted_rate(from_start=True) / predicted - 1).abs().max() < 0.2  # Δ drifts by O(η)
    fits = [exponential_rate(found["step"], error, 1e-9, 1e-4) for error in found["error"].T]
    clear = [fit.points > 5 and fit.residual < 0.01 for fit in fits]
    assert sum(clear) >= len(fits) - 1  # a window with two rates, or an error that is not there yet, has no slope
    for fit, rate in zip(fits, predicted.tolist(), strict=True):
        if fit.points > 5 and fit.residual < 0.01:
            assert rate == pytest.approx(fit.rate, rel=0.02)


def test_a_large_step_decays_as_its_fastest_part():
    model, batch = model_of(0.95, width=2, alpha=[0.5], init_ratio=1.0), batch_of(seed=1)
    found = model.simulate(batch, 2000)
    fit = exponential_rate(found["step"], found["error"][:, 0], 1e-12, 1e-8)
    assert float(model.predicted_rate()[0]) == pytest.approx(fit.rate, rel=0.05)


def test_where_no_rate_is_predicted():
    balanced = model_of(init_ratio=1.0, equal_start=True, alpha=[0.5])
    balanced.simulate(batch_of(), 2000, [2000])
    assert abs(float(balanced.predicted_rate())) < 1e-12  # 1/T
    diverged = model_of(seeds=2)
    with torch.no_grad():
        diverged.f[1] = torch.inf
    assert diverged.predicted_rate().isfinite().tolist() == [True, False]
    with pytest.raises(UserError, match="symmetric: True"):
        model_of(symmetric=True).predicted_rate()
    with pytest.raises(UserError, match=r"rank: 4 is not accepted; from 1 to 3"):
        model_of(rank=4, width=3).predicted_rate()


@pytest.mark.parametrize("symmetric", [False, True])
def test_fewer_columns_than_the_rank_give_the_best_approximation(symmetric):
    batch = batch_of(rank=3, condition=4.0)
    found = model_of(width=2, rank=3, symmetric=symmetric).simulate(batch, 5000, [5000])
    assert found["error"][-1, 0] == pytest.approx(0.25, rel=1e-6)


def test_the_imbalance_drifts_in_proportion_to_the_rate():
    drifts = []
    for rate, steps in ((0.1, 500), (0.05, 1000)):
        drifts.append(model_of(rate).simulate(batch_of(), steps, [steps])["imbalance"][-1, 0])
    assert 1.9 < drifts[0] / drifts[1] < 2.1


def data(**options):
    return Data(**{"rows": 12, "rank": 2, "measurements": 0, "passes": 2, **options})


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_resumed_run_is_the_whole_one(tmp_path, symmetric):
    resumed_is_whole(lambda: MatrixSensing(**SIZES, symmetric=symmetric, inner_steps=5), data, tmp_path)


def test_the_one_step_takes_the_start_out_of_the_rate(tmp_path):
    errors = {}
    for step in (None, RebalanceFactors()):
        model = model_of(alpha=[0.05, 0.2])
        trainer(tmp_path, 6, callbacks=[] if step is None else [step]).fit(model, data())
        errors[step is None] = model.trajectory()["error"][-1]
    assert (errors[True] > 1e-5).any()
    assert (errors[False] < 1e-12).all()
    (plan,) = ledger_of(model).plans
    assert plan.name == "rebalance_factors"
    assert plan.epoch >= 1


@pytest.mark.parametrize(
    ("step", "model", "message"),
    [
        ({"epoch": 6}, {}, "epoch: 6 is not reached"),
        ({}, {"symmetric": True}, "has no two factors"),
        ({"epoch": 1, "rank": 5}, {}, r"rank: 5 is not accepted; at most 4 \(the factors' width\)"),
    ],
)
def test_the_step_refuses_what_it_cannot_do(tmp_path, step, model, message):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, 6, callbacks=[RebalanceFactors(**step)]).fit(model_of(**model), data())


@pytest.mark.parametrize("options", [{"epoch": -1}, {"rank": 0}, {"beta": 0.0}, {"loss": 0.0}, {"gap": -1.0}])
def test_bad_settings_of_the_step_are_named(options):
    (name,) = options
    with pytest.raises(UserError, match=f"^{name}: .* is not accepted"):
        RebalanceFactors(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"rows": 0},
        {"width": 0},
        {"rank": 0},
        {"seeds": 0},
        {"alpha": []},
        {"alpha": [-1.0]},
        {"init_ratio": 0.0},
        {"columns": 9, "symmetric": True},
    ],
)
def test_bad_settings_are_named(options):
    name = next(iter(options))
    with pytest.raises(UserError, match=f"{name}: .* is not accepted"):
        model_of(**options)


def test_data_of_another_shape_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="rows, columns: 12, 12, but the matrix is 9 x 9"):
        trainer(tmp_path).fit(model_of(), data(rows=9))


def test_a_matrix_that_is_not_symmetric_is_refused_where_symmetric_is_set(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(12, 12))
    np.save(tmp_path / "skew.npy", matrix)
    np.save(tmp_path / "right.npy", matrix @ matrix.T)
    skew, right = (batch_of(path=str(tmp_path / f"{name}.npy")) for name in ("skew", "right"))
    with pytest.raises(UserError, match="symmetric: M is not symmetric, it differs from its transpose by up to"):
        model_of(symmetric=True).begin(skew)
    model_of(symmetric=True).begin(right)
    model_of(symmetric=False).begin(skew)
