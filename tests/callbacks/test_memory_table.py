"""Memory table and core spectrum on a module that knows nothing of them."""

import math

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.core_spectrum import CoreSpectrum
from callbacks.memory_table import MemoryTable, table_use
from framework.errors import UserError
from framework.protocols import TableRead


class Reader(nn.Module):
    """Reads slots 0 and 1 for every token, and slot 2 for the first."""

    slots = 8

    def __init__(self):
        super().__init__()
        self.last_read = None
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        slots = torch.tensor([[0, 1]]).repeat(len(x), 1)
        slots[0, 1] = 2
        self.last_read = TableRead(slots, torch.tensor([[3.0, 1.0]]).repeat(len(x), 1))
        return self.linear(x)


class Model(BoringModel):
    def __init__(self):
        super().__init__()
        self.layer = Reader()
        self.core = nn.Parameter(torch.diag(torch.tensor([2.0, 0.5])))

    def training_step(self, batch, index):
        return self.layer(batch[0]).square().mean() + self.core.square().sum()

    def validation_step(self, batch, index):
        self.layer(batch[0])

    def core_spectrum(self):
        return torch.linalg.svdvals(self.core)[None]


def run(folder, *callbacks, model=None, epochs=2):
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(torch.randn(12, 4)), 4)
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(model or Model(), loader, loader)
    return trainer


def test_use_of_a_table():
    assert table_use(torch.zeros(5, dtype=torch.long)) == (0.0, 0.0)
    assert table_use(torch.full((8,), 3)) == (1.0, pytest.approx(0.0))
    assert table_use(torch.tensor([7, 0, 0, 0])) == (0.25, pytest.approx(math.log(4)))
    counts = torch.tensor([3, 1, 0])
    assert table_use(counts)[1] == pytest.approx(0.75 * math.log(2.25) + 0.25 * math.log(0.75))


def test_even_use_at_random_has_the_divergence_that_is_said():
    counts = torch.bincount(torch.randint(1000, (20000,), generator=torch.Generator().manual_seed(0)), minlength=1000)
    assert table_use(counts)[1] == pytest.approx(999 / 40000, rel=0.1)


def test_memory_table_counts_training_alone_and_draws(tmp_path):
    watch = MemoryTable()
    trainer = run(tmp_path, watch)
    # an epoch: 12 tokens in 3 batches; slot 0 for each, slot 1 for 9, slot 2 for 3
    assert [counts.tolist() for counts in watch._last] == [[12, 9, 3, 0, 0, 0, 0, 0]]
    shown = trainer.callback_metrics
    assert shown["memory_table/layer0/coverage"] == shown["memory_table/coverage"] == 3 / 8
    assert shown["memory_table/top1"] == 3
    assert shown["memory_table/mean"] == 2
    share = torch.tensor([12, 9, 3]) / 24
    assert shown["memory_table/kl"] == pytest.approx(float((share * (share * 8).log()).sum()))
    assert len(watch.history["kl"]) == 2
    assert (tmp_path / "figures" / "memory_table.png").stat().st_size > 1000
    assert not trainer.lightning_module.layer._forward_hooks


def test_memory_table_counts_on():
    first, second = MemoryTable(), MemoryTable()
    first.counts, first.sums = [torch.arange(8)], [torch.ones(3, dtype=torch.float64)]
    first.history["kl"].append([0.5])
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.counts[0], torch.arange(8))
    assert second.history == first.history
    first.counts[0].zero_()
    assert second.counts[0].sum() == 28


def test_core_spectrum_logs_and_draws(tmp_path):
    watch = CoreSpectrum(every_n_steps=2)
    trainer = run(tmp_path, watch)
    assert [step for step, _ in watch.points] == [2, 3, 4, 6]
    last = torch.linalg.svdvals(trainer.lightning_module.core.detach())
    assert trainer.callback_metrics["core/layer0/lambda1"] == pytest.approx(float(last[0]))
    assert trainer.callback_metrics["core/layer0/ratio"] == pytest.approx(float(last[0] / last[1]))
    assert (tmp_path / "figures" / "core_spectrum.png").stat().st_size > 1000
    again = CoreSpectrum()
    again.load_state_dict(watch.state_dict())
    assert again.points == watch.points


def test_modules_without_a_memory_are_refused():
    with pytest.raises(UserError, match="memory_table: BoringModel has no layer that reads a table"):
        MemoryTable().check(BoringModel(), None)
    with pytest.raises(UserError, match="core_spectrum: BoringModel has no cores"):
        CoreSpectrum().check(BoringModel(), None)
    with pytest.raises(UserError, match="every_n_steps: 0"):
        CoreSpectrum(every_n_steps=0)
