"""The base class of learning dynamics, on members whose course is known in closed form."""

import numpy as np
import pytest
import torch
from ensemble_harness import resumed_is_whole, trainer
from torch import nn

from framework import OptimizerConfig
from framework.data.arrays import WholeBatch
from framework.data.whole import WholeData
from framework.errors import UserError
from modules.ensemble import Ensemble, record_points

RATE = 0.01
CURVATURES = [1.0, 2.0, 5.0]


class Quadratic(Ensemble):
    """w ← w (1 − η c): one number a member."""

    def __init__(self, inner_steps=10, points=20, optimizer=None):
        optimizer = optimizer or OptimizerConfig("sgd", lr=RATE, weight_decay=0.0)
        super().__init__(inner_steps, points, optimizer)
        self.save_hyperparameters()
        self.w = nn.Parameter(torch.ones(3, dtype=torch.float64))
        self.drawn = 0

    def settings(self):
        return {"curvature": CURVATURES}

    def losses(self, batch):
        return batch["curvature"] * self.w.square() / 2

    def measure(self, batch):
        return {"loss": self.losses(batch), "w": self.w}

    def theory(self, batch, step):
        return {"w": (1 - RATE * batch["curvature"]) ** step}

    def draw(self):
        self.drawn += 1


class Data(WholeData):
    def __init__(self, passes=5):
        super().__init__(batch_size=1)
        self.train_set = WholeBatch({"curvature": torch.tensor(CURVATURES, dtype=torch.float64)}, passes)


def test_members_take_every_inner_step(tmp_path):
    model = Quadratic()
    run = trainer(tmp_path)
    run.fit(model, Data())
    assert model.steps_taken == 4 * 5 * 10
    assert run.global_step == 4 * 5  # what Lightning sees
    assert model.drawn == 1
    np.testing.assert_allclose(model.w.detach(), (1 - RATE * np.array(CURVATURES)) ** 200, rtol=1e-12)
    assert float(run.callback_metrics["train/w"]) == pytest.approx(float(run.callback_metrics["train/w/theory"]))


def test_no_validation_is_expected_where_there_is_none(tmp_path, recwarn):
    run = trainer(tmp_path, epochs=1)
    run.fit(Quadratic(), Data())
    assert not run.enable_validation
    assert not [found for found in recwarn if "val_dataloader" in str(found.message)]


def test_parameters_are_looked_up_once_only_while_steps_are_taken():
    model = Quadratic()
    assert model.stacks() == [model.w]
    model.simulate(Data().train_set.batch, 3)
    model.w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    assert model.stacks()[0] is model.w


def test_the_trajectory_is_written_with_settings_and_theory(tmp_path):
    trainer(tmp_path).fit(Quadratic(), Data())
    found = np.load(tmp_path / "trajectory.npz")
    assert found["step"].tolist() == record_points(200, 20)
    assert found["curvature"].tolist() == CURVATURES
    assert found["w"].shape == (len(found["step"]), 3)
    np.testing.assert_allclose(found["w"], found["w/theory"], rtol=1e-12)
    np.testing.assert_allclose(found["loss"][0], np.array(CURVATURES) / 2)


@pytest.mark.parametrize(
    "optimizer",
    [
        OptimizerConfig("sgd", lr=RATE, weight_decay=0.0),
        OptimizerConfig("sgd", lr=RATE, weight_decay=0.0, args={"momentum": 0.9}),
        OptimizerConfig("adam", lr=RATE, weight_decay=0.0),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_fit_and_simulate_take_the_steps_of_torchs_optimiser(tmp_path, optimizer):
    fitted, looped = Quadratic(optimizer=optimizer), Quadratic(optimizer=optimizer)
    trainer(tmp_path).fit(fitted, Data())
    found = looped.simulate(Data().train_set.batch, 200, [0, 7, 200])
    assert found["step"].tolist() == [0, 7, 200]
    w = nn.Parameter(torch.ones(3, dtype=torch.float64))
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    plain = kinds[optimizer.name]([w], lr=RATE, **optimizer.args)
    for _ in range(200):
        plain.zero_grad()
        (torch.tensor(CURVATURES, dtype=torch.float64) * w.square() / 2).sum().backward()
        plain.step()
    torch.testing.assert_close(fitted.w, w, rtol=1e-12, atol=0)
    torch.testing.assert_close(looped.w, w, rtol=1e-12, atol=0)


@pytest.mark.parametrize("args", [{}, {"momentum": 0.9}], ids=["sgd", "momentum"])
def test_a_resumed_run_is_the_whole_one(tmp_path, args):
    optimizer = OptimizerConfig("sgd", lr=RATE, weight_decay=0.0, args=args)
    resumed_is_whole(lambda: Quadratic(optimizer=optimizer), Data, tmp_path)


def test_points_hold_both_ends_and_are_dense_at_the_start():
    points = record_points(10_000, 100)
    assert points[0] == 0
    assert points[-1] == 10_000
    assert 90 < len(points) <= 102
    assert sum(point < 100 for point in points) > 15
    assert record_points(1, 10) == [0, 1]


@pytest.mark.parametrize(("options", "key"), [({"inner_steps": 0}, "inner_steps"), ({"points": 1}, "points")])
def test_bad_settings_are_named(options, key):
    with pytest.raises(UserError, match=f"{key}: .* is not accepted"):
        Quadratic(**options)


def test_several_processes_are_refused():
    class Two:
        world_size = 2

    model = Quadratic()
    model._trainer = Two()
    with pytest.raises(UserError, match="2 processes are not accepted"):
        model.setup("fit")
