"""Students with a hidden layer: gradients, the exact flow, double descent, interrupted runs."""

import math

import numpy as np
import pytest
import torch
from ensemble_harness import resumed_is_whole

from datamodules.dynamics.few_examples import FewExamples
from datamodules.dynamics.noisy_teacher import NoisyTeacher
from framework import OptimizerConfig
from framework.errors import UserError
from modules.dynamics.generalization_dynamics import HiddenLayerStudent, LinearStudent, theory
from modules.dynamics.generalization_dynamics.plots import over_widths
from modules.dynamics.generalization_dynamics.students import bulk_eigenvalues, flow, random_features


def batch_of(**options):
    data = FewExamples(**{"inputs": 6, "examples": 20, "tests": 50, "draws": 2, **options})
    data.setup("fit")
    return data.train_set.batch


def model_of(batch=None, rate=0.01, **options):
    torch.manual_seed(1)
    model = HiddenLayerStudent(
        **{"inputs": 6, "draws": 2, "widths": [5, 8], **options},
        optimizer=OptimizerConfig("sgd", lr=rate, weight_decay=0.0),
    )
    model.begin(batch_of() if batch is None else batch)
    return model


@pytest.mark.parametrize("train", ["readout", "all"])
def test_the_written_gradient_is_autograds(train):
    batch = batch_of()
    model = model_of(batch, train=train, readout_std=0.7)
    assert len(list(model.parameters())) == (4 if train == "all" else 2)
    expected = torch.autograd.grad(model.losses(batch).sum(), list(model.parameters()))
    for found, wanted in zip(model.gradients(batch), expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_members_are_plain_networks_on_their_own_draws():
    batch = batch_of()
    model = model_of(batch, train="all", readout_std=0.7)
    w, a = model.trained[1][0], model.readout[1][0]
    output = a @ torch.relu(w @ batch["x_test"][0]) / math.sqrt(8)
    assert model.settings() == {"width": [5, 5, 8, 8], "draw": [0, 1, 0, 1]}
    torch.testing.assert_close(model.measure(batch)["test_error"][2], (output - batch["y_test"][0]).square().mean())
    torch.testing.assert_close(model.losses(batch)[3], 10 * model.measure(batch)["train_error"][3])
    assert "test_mistakes" not in model.measure(batch)


def test_steps_of_the_readout_go_along_the_flow():
    batch = batch_of()
    exact, stepped = (
        model_of(batch, rate=rate, exact=exact, readout_std=0.5) for rate, exact in ((1.0, True), (1e-3, False))
    )
    exact.simulate(batch, 4, [4])
    stepped.simulate(batch, 4000, [4000])
    for one, other, first in zip(exact.readout, stepped.readout, exact.kept, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-3)
        assert float((one - first).detach().abs().max()) > 0.1


def test_the_flow_is_that_of_the_eigenbasis():
    torch.manual_seed(0)
    for shape in ((3, 9, 5), (3, 5, 9)):
        h, y = torch.randn(shape, dtype=torch.float64), torch.randn(3, shape[2], dtype=torch.float64)
        start, t = torch.randn(3, shape[1], dtype=torch.float64), 0.3
        decay = torch.linalg.matrix_exp(-(h @ h.mT) * t)
        end = start + ((y - (start[:, None] @ h)[:, 0])[:, None] @ torch.linalg.pinv(h))[:, 0]
        expected = end + (decay @ (start - end)[..., None])[..., 0]
        torch.testing.assert_close(flow(h, y, start).at(t), expected)
        torch.testing.assert_close(flow(h, y, start).at(math.inf), end)


def test_overtraining_is_worst_with_as_many_features_as_examples():
    batch = batch_of(inputs=15, examples=60, tests=300, draws=5)
    model = model_of(batch, inputs=15, draws=5, widths=[30, 60, 240], exact=True)
    found = model.simulate(batch, 10**12, [10**power for power in range(13)])
    widths, best, last = over_widths(found)
    assert widths.tolist() == [30, 60, 240]
    assert last[1] > 5 * max(last[0], last[2])
    assert best[2] < best[0]
    assert (np.diff(found["train_error"], axis=0) < 1e-9).all()


def test_signs_have_mistakes():
    batch = batch_of(source="digits", inputs=64)
    model = model_of(batch, inputs=64)
    model.readout[0].data.fill_(1.0)
    said = torch.relu(model.hidden[0] @ batch["x_test"]).sum(1).sign()
    found = model.measure(batch)["test_mistakes"]
    torch.testing.assert_close(found[:2], (said != batch["y_test"]).double().mean(1))


def test_all_layers_learn_more_than_the_readout():
    batch = batch_of()
    found = {train: model_of(batch, rate=0.05, train=train).simulate(batch, 800, [800]) for train in ("readout", "all")}
    assert (found["all"]["train_error"] < found["readout"]["train_error"]).all()


@pytest.mark.parametrize(("rows", "columns"), [(400, 900), (900, 400)])
def test_the_bulk_of_gaussian_entries_is_marchenko_pasturs(rows, columns):
    generator = torch.Generator().manual_seed(0)
    values, alpha = bulk_eigenvalues(torch.randn(rows, columns, dtype=torch.float64, generator=generator), 0)
    assert alpha == pytest.approx(columns / rows)
    assert float(values[0]) == pytest.approx((math.sqrt(alpha) + 1) ** 2, rel=0.05)
    assert float(values[-1]) == pytest.approx((math.sqrt(alpha) - 1) ** 2, rel=0.15)  # of order N^(-2/3) above it
    low, high = ((math.sqrt(alpha) + sign) ** 2 for sign in (-1, 1))
    x = np.linspace(low, high, 20_001)
    assert np.trapezoid(theory.density(x, alpha), x) == pytest.approx(min(1, alpha), rel=1e-3)
    inside = float((values < 1.0).double().mean()) * min(1, alpha)
    assert np.trapezoid(theory.density(x[x < 1], alpha), x[x < 1]) == pytest.approx(inside, abs=0.03)


CASES = {
    "linear": (
        lambda: LinearStudent(12, 2, inr=1.0, inner_steps=20),
        lambda: NoisyTeacher(inputs=12, draws=2, passes=2),
    ),
    "linear, exact": (
        lambda: LinearStudent(12, 2, inr=1.0, exact=True, inner_steps=20),
        lambda: NoisyTeacher(inputs=12, draws=2, passes=2),
    ),
    "readout, exact": (
        lambda: HiddenLayerStudent(6, [5, 8], 2, exact=True, readout_std=0.5, inner_steps=20),
        lambda: FewExamples(inputs=6, examples=20, tests=50, draws=2, passes=2),
    ),
    "all": (
        lambda: HiddenLayerStudent(6, [5, 8], 2, train="all", inner_steps=20),
        lambda: FewExamples(inputs=6, examples=20, tests=50, draws=2, passes=2),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_resumed_run_is_the_whole_one(tmp_path, case):
    resumed_is_whole(*CASES[case], tmp_path)


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"inputs": 0}, "inputs"),
        ({"draws": 0}, "draws"),
        ({"widths": []}, "widths"),
        ({"widths": [0]}, "widths"),
        ({"train": "hidden"}, "train"),
        ({"train": "all", "exact": True}, "exact"),
        ({"std": 0.0}, "std"),
        ({"readout_std": -1.0}, "readout_std"),
        ({"inputs": 7}, "draws, inputs"),
    ],
)
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"^{key}:"):
        model_of(**options)


def test_features_are_relus():
    x, w = torch.randn(3, 4), torch.randn(2, 3)
    torch.testing.assert_close(random_features(x, w), torch.relu(w @ x) / 2**0.5)
