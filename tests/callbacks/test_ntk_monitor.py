"""ntk_monitor: what it logs, that it changes nothing, what it refuses."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.ntk_monitor import NTKMonitor
from framework import OptimizerConfig
from framework.errors import UserError
from framework.module import Module
from framework.observing.probe import probe_of


class Net(Module):
    """A small classifier with dropout."""

    def __init__(self):
        super().__init__(OptimizerConfig("sgd", lr=0.1, weight_decay=0.0))
        self.net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 2))

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


def trained(root, callbacks):
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(24, 3)
    data = DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=8)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=2, accelerator="cpu", default_root_dir=root, callbacks=callbacks, enable_model_summary=False, **quiet
    )
    trainer.fit(model, data)
    return model, trainer


def test_it_logs_and_leaves_training_alone(tmp_path):
    monitor = NTKMonitor(every_n_steps=2, points=5, chunk=2)
    model, trainer = trained(tmp_path, [monitor])
    plain, _ = trained(tmp_path / "plain", [])
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one, other)
    assert [point["step"] for point in monitor.points] == [0, 2, 3, 4, 6]
    assert monitor.points[0]["drift"] == 0
    assert monitor.points[0]["inflation"] == 1
    assert monitor.points[-1]["drift"] > 0
    assert 0 <= monitor.points[-1]["alignment"] <= 1
    assert float(trainer.callback_metrics["ntk/lambda1"]) == pytest.approx(monitor.points[-1]["lambda1"])
    assert (tmp_path / "figures" / "ntk_monitor.png").stat().st_size > 5000
    other = NTKMonitor()
    other.load_state_dict(monitor.state_dict())
    assert other.points == monitor.points


def test_what_it_refuses():
    with pytest.raises(UserError, match=r"^points: 0"):
        NTKMonitor(points=0)
    with pytest.raises(UserError, match="inputs and targets"):
        probe_of(torch.zeros(3), 2)
    assert probe_of({"x": torch.zeros(3, 2), "y": torch.zeros(3)}, 2)[1].shape == (2, 1)
