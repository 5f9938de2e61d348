"""frozen_subspace: the null space of a layer's inputs, movement in it, resumes, and that it changes nothing."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.frozen_subspace import FrozenSubspace, frozen_subspace
from datamodules.dynamics.noisy_teacher import NoisyTeacher
from framework import OptimizerConfig
from framework.errors import UserError
from framework.module import Module
from modules.dynamics.generalization_dynamics import LinearStudent


class Net(Module):
    """A network whose inputs lie in five of nine dimensions."""

    def __init__(self, weight_decay=0.0):
        super().__init__(OptimizerConfig("sgd", lr=0.1, weight_decay=weight_decay))
        self.first, self.head = nn.Linear(9, 6), nn.Linear(6, 2)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.head(self.first(batch[0]).relu()), batch[1])


def inputs():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(24, 5, generator=generator) @ torch.randn(5, 9, generator=generator)


def trained(root, callbacks, epochs=4, path=None, **options):
    torch.manual_seed(0)
    model = Net(**options)
    x = inputs()
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=callbacks,
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(model, data, ckpt_path=path, weights_only=True)
    return model, trainer


def test_the_null_space_is_that_of_the_svd():
    h = torch.randn(7, 4, dtype=torch.float64)
    space = frozen_subspace(h @ h.mT)
    u, s, _ = torch.linalg.svd(h)
    torch.testing.assert_close(space.eigenvalues[:4], s.square())
    assert space.frozen.tolist() == [False] * 4 + [True] * 3
    change = torch.randn(2, 7, dtype=torch.float64)
    torch.testing.assert_close(space.moved(change), (change @ u[:, 4:]).norm())


def test_descent_never_moves_where_no_example_lies(tmp_path):
    monitor = FrozenSubspace()
    model, trainer = trained(tmp_path, [monitor])
    plain, _ = trained(tmp_path / "plain", [])
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [row["step"] for row in monitor.rows] == [3, 6, 9, 12]
    for row in monitor.rows:
        assert (row["first/rank"], row["first/dimension"]) == (5, 4)
        assert row["first/moved_share"] < 1e-5
    values = torch.linalg.eigvalsh(inputs().mT.double() @ inputs().double()) / 24
    assert monitor.rows[-1]["first/smallest"] == pytest.approx(float(values[4]))
    assert monitor.rows[-1]["first/largest"] == pytest.approx(float(values[-1]))
    assert float(trainer.callback_metrics["frozen/first/rank"]) == 5
    assert (tmp_path / "figures" / "frozen_subspace.png").stat().st_size > 5000
    assert not model.first._forward_pre_hooks


def test_weight_decay_moves_there(tmp_path):
    monitor = FrozenSubspace(layers=["first"])
    trained(tmp_path, [monitor], weight_decay=0.5)
    assert monitor.rows[-1]["first/moved_share"] > 0.05
    assert "head/rank" not in monitor.rows[-1]


def test_a_resumed_run_goes_on(tmp_path):
    whole, half, rest = FrozenSubspace(), FrozenSubspace(), FrozenSubspace()
    trained(tmp_path / "whole", [whole])
    _, trainer = trained(tmp_path / "half", [half], epochs=2)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    trained(tmp_path / "rest", [rest], path=tmp_path / "half.ckpt")
    assert rest.rows == whole.rows


def test_students_that_know_their_features(tmp_path):
    torch.manual_seed(0)
    monitor = FrozenSubspace()
    optimizer = OptimizerConfig("sgd", lr=0.1, weight_decay=0.0)
    model = LinearStudent(20, 3, inr=1.0, inner_steps=20, optimizer=optimizer)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, callbacks=[monitor], **quiet)
    data = NoisyTeacher(inputs=20, alpha=0.6, draws=3, passes=2)
    trainer.fit(model, data)
    row = monitor.rows[-1]
    assert (row["w/rank"], row["w/dimension"]) == (12, 8)
    assert row["w/moved"] < 1e-10
    change = (model.w - model.kept).detach()
    assert float(change.norm()) > 0.1
    x = data.train_set.batch["x"]
    smallest = torch.linalg.svdvals(x)[:, -1].square().mean() / 12
    assert row["w/smallest"] == pytest.approx(float(smallest))


def test_what_it_refuses(tmp_path):
    with pytest.raises(UserError, match=r"^every_n_epochs: 0"):
        FrozenSubspace(every_n_epochs=0)
    with pytest.raises(UserError, match=r"^tolerance: 1.0"):
        FrozenSubspace(tolerance=1.0)
    with pytest.raises(UserError, match=r"frozen_subspace.layers: 'fist' names nothing in the model; nearest: first"):
        trained(tmp_path, [FrozenSubspace(layers=["fist"])])
