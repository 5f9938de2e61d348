"""Kernel plot, memory probe and rate transfer on a module that knows nothing of them."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, TensorDataset

from callbacks.kernel_plot import KernelPlot
from callbacks.memory_probe import MemoryProbe
from callbacks.rate_transfer import RateTransfer
from framework.errors import UserError
from framework.protocols import KernelData


class Convolver(BoringModel):
    """A stand-in: one decaying kernel, batches ``(x, y)``."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 2)

    def loss_of(self, batch):
        return torch.nn.functional.cross_entropy(self.layer(batch[0][:, :4, 0]), batch[1])

    def training_step(self, batch, index):
        return self.loss_of(batch)

    def validation_step(self, batch, index):
        return self.loss_of(batch)

    def test_step(self, batch, index):
        return self.loss_of(batch)

    def kernel_data(self, length):
        time = torch.arange(length)
        decay = self.layer.weight.detach().abs().mean() + 0.1
        basis = torch.exp(-decay * time).expand(3, length)
        return [
            KernelData("layer 0", basis, basis, torch.tensor([-0.5 + 1j, -0.5 + 2j]), torch.tensor([0.1, 0.2, 0.3]))
        ]

    def memory_curves(self, delays, samples):
        return {"layer0": [1 / (1 + d) for d in delays]}

    def metrics_at_rate(self, batch, rate):
        return {"mean": batch[0][:, ::rate].mean()}


def run(folder, callback, model=None):
    torch.manual_seed(0)
    x, y = torch.arange(60.0).view(10, 6, 1), torch.zeros(10, dtype=torch.long)
    loader = DataLoader(TensorDataset(x, y), 4)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        callbacks=[callback],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    model = model or Convolver()
    trainer.fit(model, loader, loader)
    return trainer, model, loader


def test_kernel_plot_writes_a_picture_for_each_layer(tmp_path):
    run(tmp_path, KernelPlot(length=20, every_n_epochs=1))
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["kernels_layer0.png", "kernels_layer0_epoch1.png", "kernels_layer0_epoch2.png"]


def test_memory_probe_logs_and_draws(tmp_path):
    trainer, _, _ = run(tmp_path, MemoryProbe(delays=(1, 3), samples=100))
    assert trainer.callback_metrics["memory/layer0/delay_3"] == 0.25
    assert (tmp_path / "figures" / "memory.png").stat().st_size > 1000


def test_rate_transfer_weighs_batches_by_their_size(tmp_path):
    trainer, model, loader = run(tmp_path, RateTransfer((2, 3), ("val", "test")))
    x = torch.arange(60.0).view(10, 6, 1)
    assert torch.isclose(trainer.callback_metrics["val/rate_2/mean"], x[:, ::2].mean())
    found = trainer.test(model, loader, verbose=False)[0]
    assert found["test/rate_3/mean"] == pytest.approx(x[:, ::3].mean().item())


def test_observers_leave_training_as_it_was(tmp_path):
    weights = []
    for callback in (pl.Callback(), KernelPlot(20), MemoryProbe((1,)), RateTransfer((2,), ("val",))):
        torch.manual_seed(1)
        _, model, _ = run(tmp_path, callback, Convolver())
        weights.append(model.layer.weight)
    assert all(torch.equal(w, weights[0]) for w in weights[1:])


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (KernelPlot(), "kernel_plot: BoringModel has no kernels"),
        (MemoryProbe(), "memory_probe: BoringModel has no state"),
        (RateTransfer(), "rate_transfer: BoringModel cannot change"),
    ],
)
def test_a_module_without_the_protocol_is_refused(tmp_path, callback, message):
    with pytest.raises(UserError, match=message):
        run(tmp_path, callback, BoringModel())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KernelPlot(length=1), "^length: 1"),
        (lambda: KernelPlot(every_n_epochs=-1), "^every_n_epochs: -1"),
        (lambda: MemoryProbe(delays=(5000,)), "^delays"),
        (lambda: RateTransfer(rates=(1,)), r"^rates: \(1,\) is not accepted; each at least 2"),
        (lambda: RateTransfer(stages=("train",)), "^stages: 'train'"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
