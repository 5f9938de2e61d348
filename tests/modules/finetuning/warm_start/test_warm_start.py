"""The classifier of warm starts, what is measured between rounds, and the stack that its claims train."""

import math

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from framework.claims import Reproduction
from framework.errors import UserError
from modules.finetuning.warm_start import stacked
from modules.finetuning.warm_start.claims import (
    GRID,
    GRID_SEEDS,
    RI,
    SEEDS,
    SHRINKS,
    WS,
    FirstPhase,
    Results,
    _Task,
    effects,
    effects_figure,
    imbalance,
    named,
    network,
)
from modules.finetuning.warm_start.module import (
    NarrowResNet18,
    OnlineLearner,
    gradient_norm,
    gradient_ratio,
    mlp,
    prediction_entropy,
)


def task(n=64, revealed=None, **settings):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 40, generator=generator)
    y = (x[:, :10]).argmax(1)
    return _Task(
        **{
            "x": x,
            "y": y,
            "x_test": x[:20],
            "y_test": y[:20],
            "half": n // 2,
            "revealed": revealed or (lambda seed: torch.arange(n).roll(seed)),
            "batch_size": 24,
            "lr": 0.01,
            "threshold": 0.99,
            "max_epochs": 60,
            **settings,
        }
    )


def test_the_narrow_resnet_has_the_papers_sizes():
    net = NarrowResNet18()
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    convolutions = [part for part in net.modules() if isinstance(part, nn.Conv2d)]
    assert [part.out_channels for part in convolutions if part.kernel_size == (3, 3)] == (
        [16] * 5 + [32] * 4 + [64] * 4 + [128] * 4
    )
    assert sum(part.stride == (2, 2) for part in convolutions) == 6  # three stages, on both ways
    # the usual ResNet-18 for small images has 11,173,962 parameters; a sixteenth of its convolutions is left
    from timm import create_model

    usual = create_model("resnet18", num_classes=10)
    expected = sum(p.numel() for n, p in usual.named_parameters() if n.startswith("layer") and p.ndim == 4) / 16
    found = sum(p.numel() for n, p in net.named_parameters() if n.startswith("blocks") and p.ndim == 4)
    assert found == expected


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"net": "mlp"}, (4, 40)),
        ({"net": "mlp", "in_features": 3 * 8 * 8, "widths": [7]}, (4, 3, 8, 8)),
        ({"net": "logistic"}, (4, 40)),
        ({"net": "resnet18_narrow", "in_chans": 1, "width": 4}, (4, 1, 8, 8)),
    ],
)
def test_networks(settings, shape):
    model = OnlineLearner(num_classes=5, **settings)
    assert model(torch.zeros(shape)).shape == (4, 5)
    assert OnlineLearner(**model.hparams).hparams == model.hparams


def test_sizes_of_the_perceptron():
    weights = [tuple(p.shape) for p in OnlineLearner().net.parameters()]
    assert weights == [(100, 40), (100,), (100, 100), (100,), (10, 100), (10,)]
    assert [tuple(p.shape) for p in mlp([4, 3], bias=False).parameters()] == [(3, 4)]


def test_entropy():
    logits = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    expected = torch.distributions.Categorical(logits=logits).entropy().mean()
    assert torch.isclose(prediction_entropy(logits), expected)
    assert math.isclose(float(prediction_entropy(torch.zeros(3, 10))), math.log(10), rel_tol=1e-6)


def test_gradient_norm_is_that_of_backward():
    model = network(0)
    x, y = torch.randn(12, 40), torch.arange(12) % 10
    norms = []
    for rows in (slice(0, 5), slice(5, 10)):
        model.zero_grad()
        F.cross_entropy(model(x[rows]), y[rows]).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 1e9))
    model.zero_grad()
    assert gradient_norm(model, x, y, 5) == pytest.approx(float(sum(norms) / 2), rel=1e-5)
    assert all(p.grad is None for p in model.parameters())
    assert gradient_ratio(model, (x, y), (x, y), 5) == 1
    with pytest.raises(ValueError, match="12 samples do not fill a batch of 128"):
        gradient_norm(model, x, y)


def test_a_trainer_trains_and_logs(tmp_path):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 40, generator=generator)
    y = x[:, :10].argmax(1)
    loader = DataLoader(TensorDataset(x, y), 16)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = OnlineLearner()
    right = []
    step = model.training_step

    def counted(batch, batch_idx):
        right.append((model(batch[0]).argmax(-1) == batch[1]).sum().item())
        return step(batch, batch_idx)

    model.training_step = counted
    trainer.fit(model, loader, loader)
    metrics = trainer.callback_metrics
    assert metrics["train/accuracy"] == pytest.approx(sum(right[4:]) / 60)
    assert metrics["val/entropy"] == pytest.approx(float(prediction_entropy(model(x))), rel=1e-5)
    assert {"train/loss", "val/loss", "val/accuracy"} <= metrics.keys()
    assert trainer.test(model, loader, verbose=False)[0]["test/loss"] == pytest.approx(
        float(F.cross_entropy(model(x), y)), rel=1e-5
    )
    assert model.predict_step((x, y), 0)["probabilities"].sum(-1).allclose(torch.ones(60))


@pytest.mark.parametrize(("number", "expected"), [(0, (1e-3, 0.0)), (2, (0.5, 0.1))])
def test_later_rounds_may_have_an_optimiser_of_their_own(number, expected):
    model = OnlineLearner(later_optimizer={"name": "sgd", "lr": 0.5, "weight_decay": 0.1})
    data = pl.LightningDataModule()
    data.round = number
    model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model.trainer.datamodule = data
    group = model.configure_optimizers().param_groups[0]
    assert (group["lr"], group["weight_decay"]) == expected
    assert model.optimizer_config.name == "adam"


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"net": "vgg"}, "net: 'vgg'"), ({"num_classes": 0}, "num_classes: 0"), ({"widths": [0]}, "widths: 0")],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(UserError, match=message):
        OnlineLearner(**settings)


class TestStack:
    def test_it_trains_each_net_as_torch_would(self):
        seeds, given = [0, 1, 2], task(max_epochs=4, threshold=2.0)
        start = stacked.stack([network(seed) for seed in seeds])
        end, epochs, losses = given.train(start, seeds, 32, [0, 5, 9])
        assert epochs == [4, 4, 4]
        from framework.data.loader import ExactLoader

        for model, (seed, first) in enumerate(zip(seeds, [0, 5, 9], strict=True)):
            net = network(seed)
            optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
            loader = ExactLoader(range(32), 24, shuffle=True, seed=seed)
            for epoch in range(4):
                loader.set_epoch(first + epoch)
                rows = given.revealed(seed)[:32][loader.share(1, 0)]
                total = 0.0
                for batch in rows.split(24):
                    optimizer.zero_grad()
                    loss = F.cross_entropy(net(given.x[batch]), given.y[batch])
                    loss.backward()
                    optimizer.step()
                    total += float(loss) * len(batch)
                assert losses[model][epoch] == pytest.approx(total / 32, rel=1e-4)
            own = stacked.unstack(end, model, network(9))
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(own.parameters(), net.parameters(), strict=True))
        assert torch.equal(stacked.stack([network(0)])[0][0][0], start[0][0][0])  # the start is left as it was

    def test_a_net_that_is_done_changes_no_more(self):
        given, seeds = task(), [0, 1, 2, 3]
        start = stacked.stack([network(seed) for seed in seeds])
        end, epochs, losses = given.train(start, seeds, 64, [0] * 4)
        assert len(set(epochs)) > 1
        assert max(epochs) < 60
        assert [len(own) for own in losses] == epochs
        for model in range(4):  # alone it ends where it ends in the stack
            alone, count, _ = given.train(stacked.stack([network(model)]), [model], 64, [0])
            assert count == [epochs[model]]
            assert torch.allclose(alone[2][0][0], end[2][0][model], atol=1e-5)

    def test_prediction_and_mixing(self):
        nets = [network(0), network(1)]
        weights, x = stacked.stack(nets), torch.randn(7, 40)
        for model, net in enumerate(nets):
            assert torch.allclose(stacked.predict(weights, x)[model], net(x), atol=1e-6)
        mixed = stacked.mixed(torch.tensor([0.5, 1.0]), weights, torch.tensor([0.1, 0.0]), weights)
        assert torch.allclose(mixed[0][0][0], 0.6 * weights[0][0][0])
        assert torch.equal(mixed[1][1][1], weights[1][1][1])


def results(gap=1.5, worse=0.1, epochs=(100, 60, 70)):
    settings = [RI, WS, *((shrink, 0.1) for shrink in SHRINKS)]
    accuracy = {s: {seed: 60.0 + 0.1 * seed for seed in SEEDS} for s in settings}
    accuracy |= {s: dict.fromkeys(GRID_SEEDS, 59.0) for s in GRID if s not in accuracy}
    accuracy[WS] = {seed: value - gap for seed, value in accuracy[RI].items()}
    accuracy[(0.6, 0.1)] = {seed: value - worse for seed, value in accuracy[RI].items()}
    costs = {s: dict.fromkeys(SEEDS, 80) for s in settings}
    for setting, count in zip((RI, WS, (0.6, 0.1)), epochs, strict=True):
        costs[setting] = dict.fromkeys(SEEDS, count)
    return Results(accuracy, costs)


def test_effects_hold_or_fail_as_they_should(tmp_path):
    run = Reproduction(tmp_path)
    assert [claim.holds for claim in effects(run, results())] == [True] * 4
    assert [claim.holds for claim in effects(run, results(gap=0.7))] == [False, True, True, True]
    assert [claim.holds for claim in effects(run, results(worse=-0.7))] == [True, False, True, True]
    assert [claim.holds for claim in effects(run, results(epochs=(100, 87, 86)))] == [True, True, False, False]
    assert (tmp_path / "second_phase.png").stat().st_size > 10_000
    panels = effects_figure(results()).axes
    assert panels[0].lines[0].get_ydata()[0] == pytest.approx(60.35)


def test_imbalance_of_an_untrained_net_fails(tmp_path):
    weights = stacked.stack([network(seed) for seed in SEEDS])
    first = FirstPhase(weights, [1] * 8, [[1.0]] * 8, stacked.stack([network(50 + seed) for seed in SEEDS]))
    found = list(imbalance(Reproduction(tmp_path), task(), first))
    verdicts = {claim.text.partition(", mean")[0]: claim.holds for claim in found}
    assert not verdicts["gradient norm, unseen half over seen half, warm start"]
    assert not verdicts["entropy of test predictions, warm start"]
    assert found[0].details["seeds"][0] == pytest.approx(1, abs=0.3)
    assert (tmp_path / "after_first_phase.png").stat().st_size > 10_000


def test_names_of_starts():
    assert [named(setting) for setting in (RI, WS, (0.6, 0.1))] == [
        "random initialisation",
        "warm start",
        "λ = 0.6, γ = 0.1",
    ]
