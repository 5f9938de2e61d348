"""The gradient of a window of batches is their mean, however many they are."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from resume_harness import in_two_ranks
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from framework.runs.accumulation import ShortWindows

BATCHES = 11
X = torch.randn(BATCHES, 4, generator=torch.Generator().manual_seed(0))


class Net(pl.LightningModule):
    """Notes which batches it saw since the last step, and the gradient that a step takes."""

    def __init__(self, skipped: tuple[int, ...] = ()) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Linear(4, 1)
        self.skipped = skipped
        self.seen: list[Tensor] = []
        self.windows: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
        if batch_idx in self.skipped:
            return None
        (x,) = batch
        self.seen.append(x)
        return self.net(x).square().mean()

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        assert self.net.weight.grad is not None
        self.windows.append((self.net.weight.grad.clone(), torch.cat(self.seen)))
        self.seen = []

    def expected(self, x: Tensor) -> Tensor:
        return (2 * self.net(x) * x).mean(0, keepdim=True).detach()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.0)


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return iter([(x,) for x in X])


def fit(accumulate: int, callback: bool = True, skipped: tuple[int, ...] = (), loader: Any = None, **given: Any) -> Net:
    trainer = pl.Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "accumulate_grad_batches": accumulate,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **given,
        },
        callbacks=[ShortWindows()] if callback else [],
    )
    net = Net(skipped)
    trainer.fit(net, DataLoader(TensorDataset(X), 1) if loader is None else loader)
    return net


CASES: dict[str, tuple[dict[str, Any], list[int]]] = {
    "longer than the epoch": ({"accumulate": 100}, [11]),
    "the last is short": ({"accumulate": 4}, [4, 4, 3]),
    "a limit": ({"accumulate": 4, "limit_train_batches": 6}, [4, 2]),
    "a loader without a length": ({"accumulate": 4, "loader": DataLoader(Stream(), 1)}, [4, 4, 3]),
    "steps that give no loss": ({"accumulate": 4, "skipped": (0, 6)}, [3, 3, 3]),
    "two epochs": ({"accumulate": 8, "max_epochs": 2}, [8, 3, 8, 3]),
    "by steps": ({"accumulate": 100, "max_epochs": -1, "max_steps": 2}, [11, 11]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_each_window_has_its_mean(case):
    given, lengths = CASES[case]
    net = fit(**given)
    assert [len(x) for _, x in net.windows] == lengths
    for gradient, x in net.windows:
        torch.testing.assert_close(gradient, net.expected(x))


@pytest.mark.filterwarnings("ignore")
def test_a_full_window_is_left_as_it_is():
    with_it, without = fit(4), fit(4, callback=False)
    for (a, _), (b, _) in zip(with_it.windows[:2], without.windows[:2], strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(with_it.windows[2][0], without.windows[2][0] * 4 / 3)


@pytest.mark.filterwarnings("ignore")
def test_the_mean_is_what_is_clipped():
    net = fit(100, gradient_clip_val=0.05)
    norm = torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(norm.item(), 0.05, rtol=1e-3, atol=0)


@pytest.mark.filterwarnings("ignore")
def test_mixed_precision():
    net = fit(100, precision="bf16-mixed")
    ((gradient, x),) = net.windows
    torch.testing.assert_close(gradient, net.expected(x), rtol=0.02, atol=0.01)


def two_ranks() -> None:
    net = fit(2, devices=2, strategy="ddp")
    assert [len(x) for _, x in net.windows] == [2, 2, 2]  # six batches for each, one of them twice
    net = fit(4, devices=2, strategy="ddp")
    assert [len(x) for _, x in net.windows] == [4, 2]
    for gradient, x in net.windows:
        every: list[Any] = [None, None]
        torch.distributed.all_gather_object(every, x)
        torch.testing.assert_close(gradient, net.expected(torch.cat(every)))


def test_over_two_ranks():
    assert in_two_ranks(two_ranks) == [0, 0]
