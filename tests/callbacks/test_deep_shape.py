"""DeepShape: the histogram is the target's, the order stays, and as a technique it comes once before its epoch."""

import json
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from scipy import stats
from torch import nn

from callbacks.deep_shape import DeepShape, deep_shape_
from framework.editing import Context
from framework.errors import UserError
from framework.functional import generalized_gaussian as gg
from framework.functional.compression.histogram import in_order, shares
from framework.functional.compression.rate import quantise


def slow_reference(weights, minnum):
    """The steps one by one, in float64."""
    w = weights.double().numpy()
    q = np.round(w * 2**13)
    cutoff = 1
    while (q == cutoff).sum() > minnum:
        cutoff += 1
    kept = np.flatnonzero(np.abs(q) <= cutoff)
    fit, mean = gg.fit(weights[kept]), w[kept].mean() * 2**13
    x = np.arange(round(mean) - cutoff, round(mean) + cutoff + 1)
    p = stats.gennorm(0.8 * fit.shape, loc=mean, scale=0.6 * fit.alpha * 2**13).pdf(x)
    p = len(kept) * p / p.sum()
    counts = np.floor(p).astype(int)
    for index in np.argsort(-(p - counts), kind="stable")[: len(kept) - counts.sum()]:
        counts[index] += 1
    result = w.copy()
    result[kept[np.argsort(w[kept], kind="stable")]] = np.repeat(x, counts) / 2**13
    return torch.from_numpy(result).float(), cutoff


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("minnum", [1, 40])
def test_it_is_the_slow_reference(dtype, minnum):
    weights = gg.sample((30_000,), 1.3, 0.02, 0).add_(0.0007).to(dtype)
    expected, cutoff = slow_reference(weights.float(), minnum)
    parts = [weights[:100].clone(), weights[100:].view(-1, 100).clone()]
    done = deep_shape_(parts, adj_minnum=minnum)
    assert done.cutoff == cutoff
    found = torch.cat([part.reshape(-1) for part in parts])
    assert torch.equal(found, expected.to(dtype))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_shape_and_deviation_of_a_million_laplace_weights(seed):
    weights = gg.sample((1_000_000,), 1.0, 0.02, seed)
    after = weights.clone()
    done = deep_shape_([after])
    inside = quantise(weights).abs() <= done.cutoff
    assert torch.equal(after[~inside], weights[~inside])
    assert int(inside.sum()) == done.kept
    assert 0 < int((~inside).sum()) < 10_000
    order = weights[inside].argsort(stable=True)
    assert (after[inside][order].diff() >= 0).all()
    fit = gg.fit(after[inside])
    assert fit.shape == pytest.approx(0.8 * done.shape, abs=0.05)
    implied = math.sqrt(gg.variance(done.target_alpha, done.target_shape))
    assert fit.std == pytest.approx(implied, rel=0.05)
    assert done.std_after == pytest.approx(fit.std)


def test_the_papers_own_cutoff_fits_what_it_leaves():
    """With 1,000 as the cutoff a million weights lose a fifth of themselves: the fit is that of a truncated density."""
    weights = gg.sample((1_000_000,), 1.0, 0.02, 0)
    done = deep_shape_([weights], adj_minnum=1000)
    x = np.arange(-done.cutoff, done.cutoff + 1) / 2**13
    p = stats.gennorm(done.target_shape, loc=done.mean, scale=done.target_alpha).pdf(x)
    p /= p.sum()
    assert done.kept < 800_000
    assert done.std_after == pytest.approx(math.sqrt((p * x**2).sum()), rel=1e-3)


def test_every_weight_gets_a_level_and_the_largest_fractions_the_rest():
    found = shares(1003, 4, 0, 0.2, 1.7, 0.8)
    wanted = stats.gennorm(0.8, loc=0.2, scale=1.7).pdf(np.arange(-4, 5))
    wanted *= 1003 / wanted.sum()
    assert found.sum() == 1003
    up = found - np.floor(wanted)
    assert set(up) <= {0, 1}
    assert (wanted % 1)[up == 1].min() >= (wanted % 1)[up == 0].max()


@pytest.mark.parametrize("distinct", [3, 50, 10**6])
def test_in_order_is_a_stable_sort(distinct):
    weights = torch.randint(0, distinct, (5000,), generator=torch.Generator().manual_seed(0)).float()
    times = np.random.default_rng(0).multinomial(5000, [0.1, 0, 0.4, 0.2, 0, 0.3, 0])
    expected = torch.empty(5000, dtype=torch.int64)
    expected[weights.argsort(stable=True)] = torch.arange(7).repeat_interleave(torch.from_numpy(times))
    assert torch.equal(in_order(weights, times), expected)


def test_nothing_to_remap():
    zeros = torch.zeros(50)
    assert deep_shape_([zeros]).kept == 0
    assert (zeros == 0).all()
    assert deep_shape_([]).count == 0


def test_tied_parameters_are_one_sample_member():
    model = nn.Sequential(nn.Linear(30, 30), nn.Linear(30, 30))
    model[1].weight = model[0].weight
    assert deep_shape_(model).count == 900 + 60


class Net(BoringModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(32, 64), nn.LayerNorm(64), nn.Linear(64, 2))
        self.layer[1].requires_grad_(False)

    def configure_optimizers(self):
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=0.003)


class Moments(pl.Callback):
    def __init__(self):
        self.weights, self.states = [], []

    def on_train_epoch_end(self, trainer, module):
        self.weights.append({name: p.detach().clone() for name, p in module.named_parameters()})

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if batch_idx == 0:
            self.states.append((len(trainer.optimizers[0].state), module.layer[0].weight.detach().clone()))


def fit(folder, *callbacks, epochs=3, path=None):
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        limit_train_batches=4,
        limit_val_batches=0,
        accelerator="cpu",
        logger=False,
        callbacks=list(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        default_root_dir=folder,
    )
    model = Net()
    trainer.fit(model, ckpt_path=path)
    return trainer, model


@pytest.mark.parametrize("optimizer", ["keep", "reset"])
def test_it_comes_once_before_its_epoch(tmp_path, optimizer):
    moments = Moments()
    trainer, _ = fit(tmp_path, DeepShape(epoch=2, optimizer=optimizer), moments)
    before, (states, after) = moments.weights[1], moments.states[2]
    assert torch.equal(moments.states[1][1], moments.weights[0]["layer.0.weight"])
    expected = {name: w.clone() for name, w in before.items()}
    deep_shape_([w for name, w in expected.items() if not name.startswith("layer.1.")])
    assert torch.equal(after, expected["layer.0.weight"])
    assert not torch.equal(after, before["layer.0.weight"])
    assert torch.equal(before["layer.1.weight"], moments.weights[2]["layer.1.weight"])
    assert states == (4 if optimizer == "keep" else 0)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    plans = torch.load(tmp_path / "end.ckpt", weights_only=True)["editing"]["plans"]
    assert [(plan["technique"], plan["epoch"]) for plan in plans] == [("deep_shape", 2)]
    assert json.loads(json.dumps(plans)) == plans


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path):
    saver = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    _, whole = fit(tmp_path, DeepShape(epoch=1), saver, epochs=4)
    for epoch in (0, 2):  # before and after it
        _, resumed = fit(tmp_path, DeepShape(epoch=1), epochs=4, path=tmp_path / f"epoch={epoch}.ckpt")
        for name, value in whole.state_dict().items():
            assert torch.equal(value, resumed.state_dict()[name]), name
    other = Net.load_from_checkpoint(tmp_path / "epoch=3.ckpt", weights_only=True)
    assert torch.equal(other.layer[0].weight, whole.layer[0].weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": -1}, "^epoch: -1"),
        ({"epoch": 1, "shape_scale": 0.0}, "^shape_scale: 0.0"),
        ({"epoch": 1, "std_scale": -2.0}, "^std_scale: -2.0"),
        ({"epoch": 1, "adj_minnum": -1}, "^adj_minnum: -1"),
        ({"epoch": 1, "step": 0.0}, "^step: 0.0"),
        ({"epoch": 1, "optimizer": "drop"}, "^optimizer: 'drop'"),
    ],
)
def test_bad_settings_are_named_at_once(settings, message):
    with pytest.raises(UserError, match=message):
        DeepShape(**settings)


def test_patterns_that_name_nothing(tmp_path):
    with pytest.raises(UserError, match=r"deep_shape.include: 'head' names nothing in the model; nearest: layer"):
        fit(tmp_path, DeepShape(epoch=0, include=["head"]))


def test_an_epoch_that_is_never_reached_is_refused():
    from types import SimpleNamespace

    trainer = SimpleNamespace(max_epochs=3, fast_dev_run=False)
    with pytest.raises(UserError, match=r"deep_shape\.epoch: 3 is not reached, trainer\.max_epochs is 3"):
        DeepShape(epoch=3).check(nn.Linear(1, 1), Context(trainer=trainer))
    DeepShape(epoch=2).check(nn.Linear(1, 1), Context(trainer=trainer))
