"""tanh networks of the same shapes: gradients, modes, gains, Jacobians; runs that are interrupted."""

import numpy as np
import pytest
import torch
from ensemble_harness import resumed_is_whole

from datamodules.dynamics.correlations import Correlations
from framework import OptimizerConfig
from framework.errors import UserError
from modules.dynamics.deep_linear import DeepLinear
from modules.dynamics.deep_linear.initialisation import draw
from modules.dynamics.deep_linear.isometry import tanh_network
from modules.dynamics.deep_linear.nonlinear import activities, correlation, jacobian_spectrum


def batch_of(**options):
    data = Correlations(**{"depth": 3, "features": 20, "examples": True, **options})
    data.setup("fit")
    return data.train_set.batch


def model_of(batch, rate=1e-3, **options):
    torch.manual_seed(0)
    sizes = {"inputs": 8, "outputs": 20, "hidden": 8, "track": [1, 2, 4], "activation": "tanh"}
    model = DeepLinear(**{**sizes, **options}, optimizer=OptimizerConfig("sgd", lr=rate, weight_decay=0.0))
    model.begin(batch)
    return model


@pytest.mark.parametrize("activation", ["linear", "tanh"])
@pytest.mark.parametrize("features", [4, 20])
def test_the_written_gradient_is_autograds_on_coloured_inputs(activation, features):
    torch.manual_seed(0)
    x, y = torch.randn(8, 30, dtype=torch.float64), torch.randn(features, 30, dtype=torch.float64)
    count = torch.tensor(30.0, dtype=torch.float64)
    batch = {"s11": x @ x.T / 30, "s31": y @ x.T / 30, "syy": y.square().sum() / 30, "x": x, "y": y, "count": count}
    model = model_of(
        batch, outputs=features, layers=4, hidden=5, init="gaussian", seeds=2, activation=activation, track=[1]
    )
    expected = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
    for found, wanted in zip(model.gradients(batch), expected, strict=True):
        assert float(wanted.abs().max()) > 1e-3
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_the_output_is_that_of_plain_layers():
    batch = batch_of()
    model = model_of(batch, layers=3, init="gaussian", seeds=2)
    w = [weight[1] for weight in model.weights]
    expected = w[2] @ torch.tanh(w[1] @ torch.tanh(w[0] @ batch["x"]))
    torch.testing.assert_close(activities(list(model.weights), batch["x"])[-1][1], expected)
    loss = 0.5 * (batch["y"] - expected).square().sum()
    torch.testing.assert_close(model.losses(batch)[1], loss)
    found = model.measure(batch)
    mode = model.u[:, 1] @ (expected @ batch["x"].T) @ model.v[:, 1]
    torch.testing.assert_close(found["mode/2"][1], mode)
    assert "drift" not in found


def test_small_weights_are_linear_and_large_ones_are_not():
    batch = batch_of()
    linear, tanh = (
        model_of(batch, init="small", std=1e-4, activation=activation).simulate(batch, 30, [30])
        for activation in ("linear", "tanh")
    )
    np.testing.assert_allclose(tanh["mode/1"], linear["mode/1"], rtol=1e-4)
    linear, tanh = (
        model_of(batch, init="small", std=1.0, activation=activation).measure(batch)["mode/1"]
        for activation in ("linear", "tanh")
    )
    assert not torch.allclose(linear, tanh, rtol=0.05)


def test_tanh_networks_learn_the_modes_in_order_and_later_than_linear_ones():
    batch = batch_of()
    half = {}
    for activation in ("linear", "tanh"):
        model = model_of(batch, rate=5e-3, u0=1e-4, activation=activation)
        found = model.simulate(batch, 1500, range(0, 1501, 5))
        reached = [found[f"mode/{mode}"][:, 0] > float(model.s[mode - 1]) / 2 for mode in (1, 2, 4)]
        assert all(hit[-1] for hit in reached)
        half[activation] = [int(found["step"][hit.argmax()]) for hit in reached]
    assert half["tanh"] == sorted(half["tanh"])
    assert all(later > sooner for later, sooner in zip(half["tanh"], half["linear"], strict=True))


def test_a_mean_of_digits_is_a_mean():
    batch = batch_of(source="digits", mean=True)
    model = model_of(batch, inputs=64, outputs=10, init="gaussian")
    output = activities(list(model.weights), batch["x"])[-1]
    torch.testing.assert_close(
        correlation(list(model.weights), batch["x"], batch["count"]), output @ batch["x"].T / 1797
    )


@pytest.mark.parametrize("kind", ["orthogonal", "gaussian", "glorot_uniform"])
def test_a_gain_scales_each_matrix(kind):
    plain, scaled = (
        draw(kind, [4, 6, 3], torch.Generator().manual_seed(0), torch.eye(4), torch.eye(4), gain=gain)
        for gain in (1.0, 1.3)
    )
    for one, other in zip(plain, scaled, strict=True):
        torch.testing.assert_close(1.3 * one, other)


def test_the_jacobian_is_autograds():
    batch = batch_of()
    model = model_of(batch, layers=4, init="orthogonal", gain=1.4, seeds=2)
    x = torch.randn(8, dtype=torch.float64)
    found = jacobian_spectrum(list(model.weights), x)
    for member in range(2):
        weights = [w[member : member + 1] for w in model.weights]
        full = torch.autograd.functional.jacobian(lambda x, w=weights: activities(w, x[:, None])[-1][0, :, 0], x)
        torch.testing.assert_close(found[member], torch.linalg.svdvals(full))


def test_gradients_pass_at_the_critical_gain_alone():
    generator = torch.Generator().manual_seed(0)
    share = {}
    for gain in (0.9, 1.05, 1.5):
        values = torch.linalg.svdvals(tanh_network(gain, 60, 100, 0.2, generator)[1])
        share[gain] = float(((values > 0.1) & (values < 10)).double().mean())
    assert share[0.9] == 0
    assert share[1.05] > 2 * share[1.5]


@pytest.mark.parametrize("activation", ["linear", "tanh"])
def test_a_resumed_run_is_the_whole_one(tmp_path, activation):
    def make():
        optimizer = OptimizerConfig("sgd", lr=1e-3, weight_decay=0.0)
        sizes = {"inputs": 8, "outputs": 20, "hidden": 8, "inner_steps": 50, "points": 20}
        return DeepLinear(**sizes, init="small", activation=activation, optimizer=optimizer)

    resumed_is_whole(make, lambda: Correlations(depth=3, features=20, passes=2, examples=True), tmp_path)


@pytest.mark.parametrize(("options", "key"), [({"activation": "relu"}, "activation"), ({"gain": 0.0}, "gain")])
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        model_of(batch_of(), **options)


def test_tanh_needs_the_examples():
    with pytest.raises(UserError, match=r"activation: 'tanh' needs the examples; data.examples must be true"):
        model_of(batch_of(examples=False))
