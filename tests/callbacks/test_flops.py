"""FLOPs: what is counted, when it is counted anew, what a resume goes on with, what is drawn."""

import logging
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from editing_toys import Net, Widen, trainer_of
from resume_harness import Data, assert_same_end, fit, in_child
from torch import nn

from callbacks.flops import Flops, batch_samples, flops_figure, step_flops
from framework.errors import UserError

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def linear_flops(samples, inputs, outputs, first):
    """A multiply-add counts two; backward takes the weight's gradient and, but for the first layer, the input's."""
    return 2 * samples * inputs * outputs * (2 if first else 3)


def net_flops(samples, width):
    return linear_flops(samples, 5, width, True) + linear_flops(samples, width, 3, False)


def test_a_step_in_closed_form():
    net = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3))
    assert step_flops(lambda: net(torch.randn(8, 5)).sum().backward()) == net_flops(8, 6)


def test_samples_of_a_batch():
    x = torch.zeros(4, 2)
    assert [batch_samples(b) for b in (x, [x, 1], {"a": x}, [[x]], ["text"], None, torch.zeros(()))] == [4] * 4 + [
        1
    ] * 3


class Logged(Net):
    def validation_step(self, batch, batch_idx):
        self.log("val/accuracy", (self(batch[0]).argmax(-1) == batch[1]).float().mean())


def test_every_structure_is_counted_once_and_every_sample_in_proportion(tmp_path, monkeypatch):
    import callbacks.flops as module

    made = []
    counter = module.FlopCounterMode
    monkeypatch.setattr(module, "FlopCounterMode", lambda **kwargs: made.append(counter(**kwargs)) or made[-1])
    pl.seed_everything(1, verbose=False)
    flops = Flops()
    trainer = trainer_of(tmp_path, flops, Widen(to=9, epoch=1), max_epochs=3)
    trainer.fit(Logged(), datamodule=Data())
    samples = len(Data_set())
    assert flops.total == net_flops(samples, 6) + 2 * net_flops(samples, 9)
    assert len(made) == 2
    assert float(trainer.callback_metrics["train/flops"]) == pytest.approx(flops.total)
    assert [at for at, _ in flops.points] == [net_flops(samples, 6) + n * net_flops(samples, 9) for n in (0, 1, 2)]
    assert flops.edits == [(net_flops(samples, 6), "toy_widen")]
    assert (tmp_path / "figures" / "flops.png").stat().st_size > 5000
    from torch.utils._python_dispatch import _len_torch_dispatch_stack

    assert _len_torch_dispatch_stack() == 0


def Data_set():
    data = Data()
    data.setup("fit")
    return data.train_set


def test_an_exception_leaves_no_counter_running(tmp_path):
    from torch.utils._python_dispatch import _len_torch_dispatch_stack

    class Broken(Net):
        def training_step(self, batch, batch_idx):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        trainer_of(tmp_path, Flops()).fit(Broken(), datamodule=Data())
    assert _len_torch_dispatch_stack() == 0


@pytest.mark.parametrize("batch", [1, 7, 14])
def test_a_resume_goes_on_with_the_count(tmp_path, batch):
    straight, stopped = tmp_path / "straight", tmp_path / "stopped"
    for folder in (straight, stopped):
        folder.mkdir()

    def run(folder, **kwargs):
        return in_child(lambda: fit(folder, callbacks=[Flops()], max_epochs=2, **kwargs))

    assert run(straight) == 0
    assert run(stopped, kill=("on_train_batch_end", batch)) == 137
    assert run(stopped, resume=True) == 0
    assert_same_end(straight, stopped)  # the logs, train/flops among them
    assert '"train/flops"' in (straight / "metrics.jsonl").read_text()


def test_figure_and_settings():
    figure = flops_figure([(1.0, 0.1), (2.0, 0.3)], [(1.5, "grow")])
    assert len(figure.axes[0].lines) == 2
    with pytest.raises(UserError, match=r"^monitor"):
        Flops("")


def test_every_process_counts():
    from types import SimpleNamespace

    flops = Flops()
    flops.per_sample = 10.0
    for world in (1, 4):
        before = flops.total
        trainer: Any = SimpleNamespace(world_size=world)
        flops.on_train_batch_end(trainer, trainer, None, (torch.zeros(8, 2), torch.zeros(8)), 0)
        assert flops.total - before == 80 * world
