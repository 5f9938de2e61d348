"""The base class of learning dynamics, on members whose course is known in closed form."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

from framework import OptimizerConfig
from framework.data import DataModule
from framework.data.arrays import WholeBatch
from framework.errors import UserError
from modules.dynamics.ensemble import Ensemble, record_points

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


class Data(DataModule):
    def __init__(self, passes=5):
        super().__init__(batch_size=1)
        self.train_set = WholeBatch({"curvature": torch.tensor(CURVATURES, dtype=torch.float64)}, passes)


def trainer(folder, epochs=4, **options):
    return pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        **options,
    )


def test_members_take_every_inner_step(tmp_path):
    model = Quadratic()
    run = trainer(tmp_path)
    run.fit(model, Data())
    assert model.steps_taken == 4 * 5 * 10
    assert run.global_step == 4 * 5  # what Lightning sees
    assert model.drawn == 1
    np.testing.assert_allclose(model.w.detach(), (1 - RATE * np.array(CURVATURES)) ** 200, rtol=1e-12)
    assert float(run.callback_metrics["train/w"]) == pytest.approx(float(run.callback_metrics["train/w/theory"]))


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


class StopAfter(pl.Callback):
    def __init__(self, epoch, path):
        self.epoch, self.path = epoch, path

    def on_train_epoch_end(self, trainer, pl_module):
        if trainer.current_epoch == self.epoch:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


@pytest.mark.parametrize("args", [{}, {"momentum": 0.9}], ids=["sgd", "momentum"])
def test_a_resumed_run_is_the_whole_one(tmp_path, args):
    optimizer = OptimizerConfig("sgd", lr=RATE, weight_decay=0.0, args=args)
    whole = Quadratic(optimizer=optimizer)
    trainer(tmp_path / "whole").fit(whole, Data())
    path = tmp_path / "half.ckpt"
    trainer(tmp_path / "half", callbacks=[StopAfter(1, path)]).fit(Quadratic(optimizer=optimizer), Data())
    torch.load(path, weights_only=True)
    resumed = Quadratic(optimizer=optimizer)
    trainer(tmp_path / "rest").fit(resumed, Data(), ckpt_path=path, weights_only=True)
    assert torch.equal(whole.w, resumed.w)
    first, second = whole.trajectory(), resumed.trajectory()
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


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
