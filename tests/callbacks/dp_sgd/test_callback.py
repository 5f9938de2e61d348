"""DP-SGD in a Trainer: what a step does, what it spends, and what is refused."""

from __future__ import annotations

import copy
import math
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint
from resume_harness import in_child, in_two_ranks
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, IterableDataset, SubsetRandomSampler, TensorDataset, default_collate
from torchmetrics import MeanMetric

from callbacks.centroid_alignment import CentroidAlignment
from callbacks.dp_sgd import DPSGD, accounting
from callbacks.dp_sgd.accounting import epsilon_of
from callbacks.dp_sgd.sampling import PoissonLoader
from callbacks.lora import LoRA
from callbacks.lp_ft import LPFT
from callbacks.weight_penalty import WeightPenalty
from callbacks.winner import Winner
from framework.data import DataModule
from framework.data.arrays import ArrayDataset, WholeBatch
from framework.editing import Penalty
from framework.errors import UserError

N = 40
Loss = Callable[[pl.LightningModule, Tensor, Tensor], Tensor]


def data(n: int = N) -> TensorDataset:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 6, generator=generator)
    return TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long())


class Foreign(pl.LightningModule):
    """A module that knows nothing of this package."""

    def __init__(self, loss: Loss | None = None, net: nn.Module | None = None, lr: float = 0.1) -> None:
        super().__init__()
        self.net = net or nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        self.loss = loss or (lambda self, x, y: F.cross_entropy(self.net(x), y))
        self.mean = MeanMetric()
        self.lr, self.sizes, self.losses = lr, [], []

    def training_step(self, batch: Any) -> Tensor:  # without batch_idx
        loss = self.loss(self, *batch)
        self.mean(batch[0].mean())
        self.log("train/loss", loss)
        if len(batch[0]) and not torch._C._functorch.is_functorch_wrapped_tensor(loss):
            self.sizes.append(len(batch[0]))
            self.losses.append(float(loss.detach()))
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], self.lr)


def fit(
    technique: Any = None,
    module: pl.LightningModule | None = None,
    loader: Any = None,
    callbacks: list[Any] | None = None,
    ckpt_path: Any = None,
    **kwargs: Any,
) -> pl.Trainer:
    pl.seed_everything(2, verbose=False)
    trainer = pl.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            **kwargs,
        },
        callbacks=[*(callbacks or []), *([technique] if technique else [])],
    )
    module = module or Foreign()
    if loader is None:
        loader = DataLoader(data(), batch_size=10, shuffle=True)
    given = {"datamodule": loader} if isinstance(loader, pl.LightningDataModule) else {"train_dataloaders": loader}
    trainer.fit(module, **given, ckpt_path=ckpt_path)
    return trainer


@pytest.fixture(autouse=True)
def _in_a_new_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def new(**kwargs: Any) -> DPSGD:
    return DPSGD(**{"noise_multiplier": 1.0, "delta": 1e-3, "accountant": "rdp", "seed": 5, **kwargs})


def weights(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# a step


@pytest.mark.parametrize("gradients", ["vmap", "loop"])
def test_without_noise_and_clipping_it_is_a_plain_training(gradients):
    """Five steps on all samples."""
    torch.manual_seed(0)
    plain = Foreign()
    private = copy.deepcopy(plain)
    loader = DataLoader(data(), batch_size=N)
    fit(None, plain, loader, max_epochs=5)
    fit(new(noise_multiplier=0.0, max_grad_norm=None, gradients=gradients), private, loader, max_epochs=5)
    torch.testing.assert_close(weights(private), weights(plain), atol=1e-6, rtol=1e-6)
    whole = [loss for size, loss in zip(private.sizes, private.losses, strict=True) if size == N]
    assert whole == pytest.approx(plain.losses, abs=1e-6)


def test_a_step_is_the_clipped_mean_and_noise():
    """One step on a Poisson batch, from its definition."""
    technique, module = new(noise_multiplier=0.0, max_grad_norm=0.3), Foreign(lr=1.0)
    begun, first = copy.deepcopy(module), {}

    class Remember(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            first.setdefault("batch", batch)

    fit(technique, module, callbacks=[Remember()], max_steps=1)
    total = torch.zeros_like(weights(begun))
    clipped = 0
    for x, y in zip(*first["batch"], strict=True):
        begun.zero_grad()
        F.cross_entropy(begun.net(x[None]), y[None]).backward()
        gradient = torch.cat([p.grad.flatten() for p in begun.parameters()])
        clipped += gradient.norm() > 0.3
        total += gradient * min(1.0, 0.3 / float(gradient.norm()))
    assert clipped > 0
    expected = weights(begun) - total / 10  # by q N, not by the size of the batch
    assert len(first["batch"][0]) != 10
    torch.testing.assert_close(weights(module), expected, atol=1e-6, rtol=1e-5)


def test_the_noise_has_its_deviation_and_is_new_in_each_step():
    class Still(Foreign):
        def __init__(self) -> None:
            super().__init__(
                lambda self, x, y: (self.net.weight * 0).sum() + 0 * x.sum(), nn.Linear(100, 200, bias=False)
            )
            self.lr = 1.0
            self.seen: list[Tensor] = []

        def on_train_batch_end(self, *args: Any) -> None:
            self.seen.append(weights(self).clone())

    module = Still()
    start = weights(module)
    fit(new(noise_multiplier=2.0, max_grad_norm=0.5), module, max_epochs=1)
    steps = torch.stack([start, *module.seen]).diff(dim=0)
    assert len(steps) == 4
    assert steps.std(1) == pytest.approx(torch.full((4,), 2.0 * 0.5 / 10), rel=0.03)
    assert abs(steps.mean(1)).max() < 4 * 0.1 / math.sqrt(20_000)
    assert abs(torch.corrcoef(steps) - torch.eye(4)).max() < 0.03


def test_empty_batches_get_noise_and_are_counted():
    technique, module = new(), Foreign()
    moved = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            self.size, self.before = len(batch[0]), weights(pl_module)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            moved.append((self.size, not torch.equal(self.before, weights(pl_module))))

    trainer = fit(technique, module, DataLoader(data(), batch_size=1), callbacks=[Watch()], max_epochs=3)
    sizes = [size for size, _ in moved]
    assert sizes.count(0) > 20
    assert all(change for _, change in moved)
    assert technique.steps == trainer.global_step == 3 * N
    assert technique.spent() == epsilon_of([(1.0, 1 / N, 3 * N)], 1e-3, "rdp")


def test_observers_wait_for_samples():
    """The first batches are empty."""

    class Called(Foreign):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    seed = next(s for s in range(100) if all(not len(PoissonLoader(data(), 1, s).drawn(i)) for i in range(2)))
    observer = CentroidAlignment(points=2, pc1=False)
    fit(new(seed=seed), Called(), DataLoader(data(), batch_size=1), callbacks=[observer], max_steps=20, max_epochs=1)
    assert observer.points[0]["step"] >= 2


def test_physical_batches_change_nothing():
    ends = []
    for physical in (None, 1, 4):
        torch.manual_seed(0)
        module = Foreign()
        fit(new(physical_batch_size=physical), module)
        ends.append(weights(module))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], atol=1e-6, rtol=1e-5)


def test_metrics_and_logs_see_each_batch_once():
    module = Foreign()
    counted = []
    module.on_train_epoch_end = lambda: counted.append(module.mean._update_count)  # type: ignore[method-assign]
    trainer = fit(new(), module, max_epochs=1)
    assert counted == [4]
    assert float(trainer.callback_metrics["train/loss"]) == pytest.approx(module.losses[-1])


def test_the_step_is_given_back():
    module, technique = Foreign(), new()
    copies = []

    class Copy(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            copies.append(copy.deepcopy(pl_module))

    fit(technique, module, callbacks=[Copy(), WeightPenalty(0.1)])
    assert "training_step" not in vars(module)
    assert copies[0].training_step.__func__ is Foreign.training_step

    def failing(self: Any, x: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("mine")

    module = Foreign(failing)
    with pytest.raises(RuntimeError, match="mine"):
        fit(new(), module)
    assert "training_step" not in vars(module)


def test_seeds():
    """From the system by default; the run's own seed decides nothing."""
    ends = []
    for seed in (None, None, 5, 5):
        torch.manual_seed(0)
        module = Foreign()
        fit(new(seed=seed), module)
        ends.append(weights(module))
    assert not torch.equal(ends[0], ends[1])
    assert torch.equal(ends[2], ends[3])


def _two_ranks(batch_size: int, **kwargs: Any) -> None:
    torch.manual_seed(0)
    module = Foreign()
    trainer = fit(new(), module, DataLoader(data(), batch_size=batch_size), use_distributed_sampler=False, **kwargs)
    torch.save((weights(module), trainer.global_step), f"end{trainer.world_size}{trainer.global_rank}.pt")


def test_two_ranks_are_one_process():
    epsilon_of([(1.0, 0.1, 1)], 0.1)
    assert in_child(lambda: _two_ranks(4)) == 0
    assert in_two_ranks(lambda: _two_ranks(2, devices=2, strategy="ddp")) == [0, 0]
    (one, steps), (first, _), (second, _) = (torch.load(f"end{name}.pt") for name in ("10", "20", "21"))
    assert steps == 20
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, atol=1e-6, rtol=1e-5)


# what it spends


def test_the_budget_is_spent_and_logged():
    technique = new(noise_multiplier=None, epsilon=2.0, accountant="prv")
    trainer = fit(technique, max_epochs=3)
    found = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert 1.95 < found["dp_sgd/epsilon"] == technique.spent() <= 2.0
    assert found["dp_sgd/delta"] == 1e-3
    assert found["dp_sgd/steps"] == 12
    assert found["dp_sgd/sample_rate"] == 0.25
    assert found["dp_sgd/noise_multiplier"] == technique.sigma
    report = Path("privacy.md").read_text()
    for text in ("(2, 0.001)-differentially private", "accountant prv", "rate 0.25 of 40 samples, 12 steps", "by vmap"):
        assert text in report or text.replace("(2,", f"({technique.spent():.4g},") in report
    assert "The seed is in the config" in report
    assert "`last.ckpt`" in report


def test_the_training_ends_before_it_spends_more():
    technique = new(epsilon=2.0)
    trainer = fit(technique, max_epochs=50)
    assert 0 < technique.steps == trainer.global_step < 200
    assert technique.spent() <= 2.0
    assert epsilon_of([(1.0, 0.25, technique.steps + 1)], 1e-3, "rdp") > 2.0


def test_a_longer_training_keeps_the_noise_and_the_budget():
    technique, module = new(noise_multiplier=None, epsilon=2.0), Foreign()
    trainer = fit(technique, module, max_epochs=2)
    trainer.save_checkpoint("last.ckpt")
    again = new(noise_multiplier=None, epsilon=2.0, seed=None)
    longer = fit(again, module, ckpt_path="last.ckpt", max_epochs=9)
    assert again.sigma == technique.sigma
    assert again.steps == technique.steps == longer.global_step
    richer = new(noise_multiplier=None, epsilon=2.5)
    longer = fit(richer, module, ckpt_path="last.ckpt", max_epochs=9)
    assert richer.sigma == technique.sigma
    assert technique.steps < richer.steps < 36
    assert 2.0 < richer.spent() <= 2.5


def test_without_a_seed_a_resumed_training_repeats_its_draws():
    """The secret is the operating system's, and in the checkpoint."""
    saver = ModelCheckpoint("steps", save_top_k=-1, every_n_train_steps=1, filename="{step}")
    whole = Foreign()
    fit(new(seed=None), whole, callbacks=[saver], enable_checkpointing=True)
    for step in (1, 5):
        again = Foreign()
        fit(new(seed=None), again, ckpt_path=f"steps/step={step}.ckpt")
        assert torch.equal(weights(again), weights(whole)), step
    other = Foreign()
    fit(new(seed=None), other)
    assert not torch.equal(weights(other), weights(whole))


def test_training_the_same_weights_again_adds_up():
    technique, module = new(epsilon=8.0), Foreign()
    fit(technique, module)
    assert technique.steps == 8
    again = fit(technique, module, max_epochs=50)
    assert technique.steps == 8 + again.global_step
    assert 7.0 < technique.spent() <= 8.0
    fit(technique, Foreign())
    assert technique.steps == 8


def test_training_again_with_a_seed_draws_other_batches():
    """Amplification by sampling needs draws that are independent of those before."""
    technique, module, drawn = new(), Foreign(), []

    class Watch(pl.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            drawn.append([technique._loader.drawn(i).tolist() for i in range(4)])

    for _ in range(2):
        fit(technique, module, callbacks=[Watch()], max_epochs=1)
    fit(new(seed=5), Foreign(), callbacks=[Watch()], max_epochs=1)
    technique = new()
    fit(technique, Foreign(), callbacks=[Watch()], max_epochs=1)
    assert drawn[0] == drawn[3]
    assert not any(one == other for one, other in zip(drawn[0], drawn[1], strict=True))


@pytest.mark.parametrize("private_steps", [0, 4])
def test_a_checkpoint_with_steps_that_were_not_private_is_refused(private_steps):
    module = Foreign()
    trainer = fit(None, module, max_epochs=2)
    trainer.save_checkpoint("plain.ckpt")
    if private_steps:
        state = torch.load("plain.ckpt", weights_only=False)
        technique = new()
        fit(technique, Foreign(), max_epochs=1)
        state["callbacks"][technique.state_key] = technique.state_dict()
        torch.save(state, "plain.ckpt")
    with pytest.raises(UserError, match=rf"{8 - private_steps} of the checkpoint's 8 steps were not private"):
        fit(new(), Foreign(), ckpt_path="plain.ckpt", max_epochs=4)


def test_a_missing_package_is_named_before_the_first_step(monkeypatch):
    monkeypatch.setitem(sys.modules, "opacus", None)
    accounting._accountants.cache_clear()
    accounting._epsilon.cache_clear()
    module = Foreign()
    with pytest.raises(UserError, match=r"pip install 'modular-framework\[privacy\]'"):
        fit(new(), module)
    accounting._accountants.cache_clear()
    assert not module.sizes
    fit(new(noise_multiplier=0.0), module)  # which has no epsilon
    assert module.sizes


@pytest.mark.parametrize("gradients", ["vmap", "loop"])
def test_the_run_s_seed_does_not_decide_dropout(gradients):
    """With a known seed, a sample more in a batch would change the known draws of those after it."""

    def trained(run_seed: int, secret: int) -> Tensor:
        class Reseed(pl.Callback):
            def on_train_batch_start(self, *args: Any) -> None:
                torch.manual_seed(run_seed)

        torch.manual_seed(0)
        module = Foreign(dropout)
        technique = new(seed=secret, noise_multiplier=0.0, gradients=gradients)
        fit(technique, module, DataLoader(data(), batch_size=N), callbacks=[Reseed()])  # all samples in each batch
        return weights(module)

    assert torch.equal(trained(3, 5), trained(4, 5))
    assert not torch.equal(trained(3, 5), trained(3, 6))


def test_no_noise_is_allowed_and_said(capsys):
    with pytest.warns(UserWarning, match="NOT private"):
        trainer = fit(new(noise_multiplier=0.0))
    assert "dp_sgd/epsilon" not in trainer.callback_metrics
    assert "**This training is not private**" in Path("privacy.md").read_text()


def test_statistics_of_the_data_are_named(tmp_path):
    class Data(DataModule):
        normalize = True

        def setup(self, stage: str) -> None:
            self.train_set = ArrayDataset(*data().tensors)

    fit(new(), loader=Data(batch_size=10))
    assert "Statistics of the training data that Data computed" in Path("privacy.md").read_text()


@pytest.mark.parametrize("monitor", [None, "train/loss"])
def test_a_checkpoint_chosen_by_a_training_loss_is_reported(monitor):
    fit(new(), callbacks=[ModelCheckpoint("saved", monitor=monitor)], enable_checkpointing=True, max_epochs=1)
    assert ("is chosen by train/loss" in Path("privacy.md").read_text()) == (monitor is not None)


# with LoRA


@pytest.mark.parametrize("epoch", [0, 1])
def test_with_lora_only_adapters_get_gradients(epoch):
    torch.manual_seed(0)
    module = Foreign(net=nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)))
    seen: list[tuple[int, set[str]]] = []

    class Watch(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            gradients = {name for name, p in pl_module.named_parameters() if p.grad is not None and p.grad.any()}
            seen.append((trainer.current_epoch, gradients))

    fit(new(), module, callbacks=[LoRA(rank=2, epoch=epoch, target_modules=["net.2"]), Watch()])
    for at, names in seen:
        trained = {name for name, p in module.named_parameters() if p.requires_grad}
        assert trained
        assert all("lora_" in name for name in trained)
        assert names == trained if at >= epoch else len(names) == 6


# refused


def contrastive(self: Any, x: Tensor, y: Tensor) -> Tensor:
    z = F.normalize(self.net(x), dim=1)
    return F.cross_entropy(z @ z.T / 0.5, torch.arange(len(x)))


def mixup(self: Any, x: Tensor, y: Tensor) -> Tensor:
    share = random.betavariate(2, 2)
    mixed = share * x + (1 - share) * x[torch.randperm(len(x))]
    return F.cross_entropy(self.net(mixed), y)


def flipped_mixup(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self.net(0.7 * x + 0.3 * x.flip(0)), y)


def statistics(self: Any, x: Tensor, y: Tensor) -> Tensor:
    z = self.net(x)
    return F.cross_entropy(z - z.mean(0), y)


def root(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return (self.net(x)[:, 0] - y).square().mean().sqrt()


def even(self: Any, x: Tensor, y: Tensor) -> Tensor:
    assert len(x) > 1, "several samples are needed"
    return F.cross_entropy(self.net(x), y)


class Spread(Penalty):
    """Of the outputs over the batch."""

    captures = "outputs"

    def network(self, module: nn.Module) -> str:
        return "net"

    def penalty(self, module: Any, batch: Any, outputs: Any, captured: Any) -> Tensor:
        return captured.output.mean(0).square().sum()


@pytest.mark.parametrize("loss", [contrastive, mixup, flipped_mixup, statistics, root])
def test_losses_that_couple_samples_are_refused(loss):
    module = Foreign(loss)
    begun = weights(module)
    with pytest.raises(UserError, match="depends on the other samples of the batch"):
        fit(new(), module)
    assert torch.equal(weights(module), begun)


def test_a_loss_of_several_samples_is_refused():
    with pytest.raises(UserError, match=r"fails on a batch of one sample.*several samples are needed"):
        fit(new(), Foreign(even))


def test_a_penalty_of_the_whole_batch_is_refused():
    with pytest.raises(UserError, match="depends on the other samples of the batch"):
        fit(new(), callbacks=[Spread(1.0)])


def dropout(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(F.dropout(self.net(x + 0.1 * torch.randn_like(x)), 0.3, self.training), y)


def summed(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self.net(x), y, reduction="sum")


def by_class(self: Any, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(self.net(x), y, weight=torch.tensor([1.0, 3.0, 0.5]))


@pytest.mark.parametrize("loss", [dropout, summed])
def test_losses_of_independent_samples_run(loss, recwarn):
    technique = new()
    fit(technique, Foreign(loss))
    assert technique._findings.method == "vmap"
    assert technique._findings.independent
    assert not technique._findings.weighted


def test_weights_of_samples_are_reported():
    technique = new()
    with pytest.warns(UserWarning, match="weighs the samples of a batch"):
        fit(technique, Foreign(by_class))
    assert "Class weights that were computed from the training data" in Path("privacy.md").read_text()


def test_a_penalty_is_within_the_clipped_gradient():
    torch.manual_seed(0)
    module = Foreign(lr=1.0)
    start = weights(module)
    fit(new(noise_multiplier=0.0, max_grad_norm=0.01), module, callbacks=[WeightPenalty(100.0)], max_steps=1)
    assert 0 < (weights(module) - start).norm() <= 0.01 * N / 10


class Writes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)
        self.register_buffer("seen", torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        self.seen = (
            self.seen + x.detach().mean(0) if not torch._C._functorch.is_functorch_wrapped_tensor(x) else self.seen
        )
        return self.linear(x)


class Average(Foreign):
    """Keeps a moving average of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("average", torch.zeros(6))

    def training_step(self, batch: Any) -> Tensor:
        self.average = 0.9 * self.average + 0.1 * batch[0].mean(0)
        return super().training_step(batch)


class Late(Foreign):
    """Keeps something of the data, beginning with the fourth batch."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(6))
        self.register_buffer("table", torch.zeros(1), persistent=False)
        self.in_place = in_place

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.table = torch.zeros(len(self.table) + 1)  # a table that grows
        if self.in_place:
            self.kept.mul_(1)  # which changes nothing
        if batch_idx == 3:
            self.kept = self.kept + 1
        return super().training_step(batch)


@pytest.mark.parametrize(("in_place", "gradients"), [(False, "vmap"), (False, "loop"), (True, "auto")])
def test_a_buffer_that_is_written_later_is_refused(in_place, gradients):
    module = Late(in_place)
    with pytest.raises(UserError, match="writes to the buffer kept"):
        fit(new(gradients=gradients), module, max_epochs=1)
    assert module.trainer.global_step == 3


class Lossless(Foreign):
    def training_step(self, batch: Any) -> None:
        return None


class Unused(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[0](x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (lambda: Foreign(net=nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))), r"net.1 \(BatchNorm1d\).*group norm"),
        (lambda: Foreign(net=Unused(nn.Linear(6, 3), nn.Linear(6, 3))), "no gradient reaches net.1.weight, net.1.bias"),
        (lambda: Foreign(net=Writes()), "writes to the buffer net.seen"),
        (lambda: Average(), "writes to the buffer average"),
        (lambda: Lossless(), "must return a loss for every sample"),
    ],
)
def test_modules_that_are_refused(module, message):
    with pytest.raises(UserError, match=message):
        fit(new(), module())


def test_what_no_optimiser_trains_is_refused():
    module = Foreign()
    module.configure_optimizers = lambda: torch.optim.SGD(module.net[0].parameters(), 0.1)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"net\.2\.weight requires gradients and is in no optimiser"):
        fit(new(), module)


def test_a_parameter_that_does_not_move_is_an_error():
    class Stuck(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return closure()

    module = Foreign()
    module.configure_optimizers = lambda: Stuck(module.parameters(), 0.1)  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"net\.0\.weight has a private gradient and the optimiser's step did not"):
        fit(new(), module)


def test_other_optimisers():
    for name in ("AdamW", "NAdam", "Adafactor", "RMSprop"):
        module = Foreign()
        module.configure_optimizers = lambda m=module, n=name: getattr(torch.optim, n)(m.parameters(), 0.01)  # type: ignore[misc]
        fit(new(), module, max_epochs=1)
    module.configure_optimizers = lambda: torch.optim.LBFGS(module.parameters())  # type: ignore[method-assign]
    with pytest.raises(UserError, match="LBFGS"):
        fit(new(), module)


def test_a_warm_up_from_zero_is_no_error():
    module = Foreign()

    def configure() -> Any:
        optimizer = torch.optim.SGD(module.parameters(), 0.1)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 4)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    module.configure_optimizers = configure  # type: ignore[method-assign]
    technique = new()
    fit(technique, module)
    assert technique._moved


class Manual(Foreign):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Plateau(Foreign):
    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "train/loss"}}


def per_total(self: Any, x: Tensor, y: Tensor, total: Tensor) -> Tensor:
    return F.cross_entropy(self.net(x), y, reduction="sum") / total


def with_total(samples: list[Any]) -> list[Tensor]:
    """A batch with a sum over all its samples, such as a number of tokens."""
    return [*default_collate(samples), torch.tensor(float(len(samples)))]


class Sentences(Dataset):
    """Of unequal lengths."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Tensor:
        return torch.arange(1, 2 + index % 4)


def padded(samples: list[Tensor]) -> list[Tensor]:
    return [nn.utils.rnn.pad_sequence(samples, batch_first=True)]


@pytest.mark.parametrize("masked", [True, False])
def test_a_loss_that_depends_on_padding_is_refused(masked):
    class Words(Foreign):
        def training_step(self, batch: Any) -> Tensor:
            known = (batch[0] > 0).float() if masked else torch.ones_like(batch[0]).float()
            losses = self.net(batch[0])[..., 0].square()
            return ((losses * known).sum(1) / known.sum(1)).mean()

    module = Words(net=nn.Embedding(6, 1))
    loader = DataLoader(Sentences(), batch_size=10, collate_fn=padded)
    if masked:
        fit(new(), module, loader, max_epochs=1)
        return
    with pytest.raises(UserError, match="depends on how far it is padded"):
        fit(new(), module, loader, max_epochs=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches cannot be combined"),
        ({"callbacks": [GradientAccumulationScheduler({1: 2})]}, "accumulate_grad_batches cannot be combined"),
        ({"gradient_clip_val": 1.0}, "gradient_clip_val cannot be combined"),
        ({"overfit_batches": 2}, "overfit_batches cannot be combined"),
        ({"min_epochs": 2}, "min_epochs or min_steps cannot be combined"),
        ({"max_epochs": -1, "technique": {"epsilon": 3.0}}, "the number of steps must be known"),
        ({"module": Manual}, "manual optimisation"),
        ({"callbacks": [LPFT(head="net.2")]}, r"lp_ft cannot be combined: lp_ft computes what it writes"),
        ({"callbacks": [Winner()]}, r"winner cannot be combined"),
        ({"technique": {"delta": 0.03}}, r"delta: 0.03 is not accepted for 40 samples; below 1/40"),
        ({"loader": [1, 2]}, "needs one loader of the training data"),
        ({"loader": "whole"}, "a WholeBatch is none"),
        ({"loader": "iterable"}, "a Stream is none"),
        ({"loader": "sampler"}, "no batch sampler of its own"),
        ({"loader": "subset"}, "would ignore the loader's SubsetRandomSampler; for a part of the data use"),
        (
            {"loader": "total", "module": lambda: Foreign(per_total), "technique": {"epsilon": 9.0}},
            r"differ between batches \([0-9]+\.0, then",
        ),
        ({}, r"epsilon: 1 is not accepted with noise_multiplier 1: one step spends 1\.[0-9]+"),
        ({"callbacks": [EarlyStopping("train/loss")]}, r"EarlyStopping of train/loss cannot be combined: the training"),
        ({"module": lambda: Plateau()}, r"ReduceLROnPlateau of train/loss cannot be combined"),
    ],
)
def test_runs_that_are_refused(arguments, message):
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter([])

    loaders = {
        "whole": lambda: DataLoader(WholeBatch(data().tensors)),
        "iterable": lambda: DataLoader(Stream()),
        "sampler": lambda: DataLoader(data(), batch_sampler=[[0, 1]]),
        "subset": lambda: DataLoader(data(), batch_size=5, sampler=SubsetRandomSampler(range(20))),
        "total": lambda: DataLoader(data(), batch_size=5, collate_fn=with_total),
    }
    given = {**arguments}
    technique = new(**{"epsilon": 1.0, **given.pop("technique", {})})
    module = given.pop("module", Foreign)()
    loader = given.pop("loader", None)
    with pytest.raises(UserError, match=message):
        fit(technique, module, loaders[loader]() if isinstance(loader, str) else loader, **given)


def test_half_precision_is_refused():
    class Run:
        precision, accumulate_grad_batches, callbacks = "16-mixed", 1, ()

    from framework.editing import Context

    with pytest.raises(UserError, match=r"trainer\.precision 16-mixed cannot be combined"):
        new().check(Foreign(), Context(trainer=Run()))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_multiplier": None}, "epsilon (the noise is chosen for it) or noise_multiplier is needed"),
        ({"noise_multiplier": -1.0}, "noise_multiplier: -1.0 is not accepted"),
        ({"delta": 1.0}, "delta: 1.0 is not accepted"),
        ({"max_grad_norm": None}, "max_grad_norm: null is only accepted with noise_multiplier 0"),
        ({"noise_multiplier": 0.0, "epsilon": 1.0}, "epsilon: 1 is not accepted with noise_multiplier 0"),
        ({"accountant": "gdp"}, "accountant: 'gdp' is not one of prv, rdp"),
        ({"gradients": "hooks"}, "gradients: 'hooks' is not one of auto, vmap, loop"),
        ({"physical_batch_size": 0}, "physical_batch_size: 0 is not accepted"),
    ],
)
def test_settings_that_are_refused(settings, message):
    with pytest.raises(UserError, match=re.escape(message)):
        new(**settings)


class Branching(nn.Module):
    """Looks at values, which vmap does not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * (2.0 if float(x.sum()) > 1e9 else 1.0)


def test_a_loop_where_vmap_refuses_says_why(caplog, capfd):
    technique = new()
    with caplog.at_level("INFO"):
        fit(technique, Foreign(net=Branching()))
    assert technique._findings.method == "loop"
    assert "by a loop (RuntimeError" in Path("privacy.md").read_text()
    with pytest.raises(UserError, match="gradients: 'vmap' is not accepted for Foreign"):
        fit(new(gradients="vmap"), Foreign(net=Branching()))


class Words(Dataset):
    """Text beside tensors."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Any]:
        x, y = data()[index]
        return {"x": x, "y": y, "name": f"sample {index}"}


def test_batches_with_text():
    class Module(Foreign):
        def training_step(self, batch: Any) -> Tensor:
            assert len(batch["name"]) == len(batch["x"])
            return F.cross_entropy(self.net(batch["x"]), batch["y"])

    technique = new()
    fit(technique, Module(), DataLoader(Words(), batch_size=10), max_epochs=1)
    assert technique._findings.method == "loop"
