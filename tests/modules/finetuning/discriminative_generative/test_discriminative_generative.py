"""The heads through a Trainer, the theory, and the search for m*."""

import itertools
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from datamodules.finetuning.frozen_features import FrozenFeatures
from datamodules.finetuning.gaussian_mixture import GaussianMixture
from framework import OptimizerConfig, ScheduleConfig, build, open_model
from framework.errors import UserError
from framework.functional.linear_heads import ClassStatistics, gaussian_head
from framework.functional.linear_heads.mixture import MixtureLaw
from modules.finetuning.discriminative_generative import GaussianHead, LogisticHead
from modules.finetuning.discriminative_generative.simulation import (
    drawn_points,
    even_grid,
    geometric_grid,
    log_slope,
    logistic_fit,
    naive_bayes_fit,
    samples_needed,
    scaled,
)
from modules.finetuning.discriminative_generative.theory import assumptions, deciles, log_ratio, pinsker_bound

DIGITS = {"source": "digits", "encoder": {"name": "pixels"}}


def fitted(root, model, data, epochs=1, **more):
    settings = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = pl.Trainer(max_epochs=epochs, default_root_dir=root, **{**settings, **more})
    trainer.fit(model, datamodule=data)
    return trainer


def test_naive_bayes_through_fit_is_the_closed_form(tmp_path):
    data = FrozenFeatures(**DIGITS, batch_size=50)
    model = GaussianHead(64, 10)
    trainer = fitted(tmp_path, model, data, epochs=2)  # the second epoch starts anew
    x, y = data.train_set.tensors
    rule = gaussian_head(ClassStatistics.of(x, y, 10))
    torch.testing.assert_close(model.net.weight, rule.weight, rtol=1e-7, atol=1e-6)
    torch.testing.assert_close(model.net.bias, rule.bias, rtol=1e-7, atol=1e-6)
    held, truth = data.val_set.tensors
    # validation came after the fit, not before
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(1 - rule.error(held.double(), truth))
    assert float(trainer.callback_metrics["val/accuracy"]) > 0.8
    assert (model.linear()(held).argmax(1) == rule.scores(held.double()).argmax(1)).all()
    found = np.load(tmp_path / "assumptions.npz")
    assert found["variances"].shape == (64,)
    assert found["beta"].shape == (10, 10, 10)
    assert found["alpha"].shape == (10, 10)
    assert (tmp_path / "figures" / "assumptions.png").stat().st_size > 5000
    checkpoint = next((tmp_path / "checkpoints").glob("*.ckpt"))
    again = open_model(checkpoint, GaussianHead)
    assert torch.equal(again.net.weight, model.net.weight)
    assert torch.equal(again.squares, model.squares)


def test_statistics_of_two_processes_are_merged(tmp_path, monkeypatch):
    data = FrozenFeatures(**DIGITS)
    data.setup()
    x, y = data.train_set.tensors
    half = len(y) // 2
    parts = [ClassStatistics.of(a, b, 10) for a, b in ((x[:half], y[:half]), (x[half:], y[half:]))]
    model = GaussianHead(64, 10)
    model.statistics = parts[0]
    model._trainer = type("Two", (), {"world_size": 2})()
    other = dict(zip(("counts", "means", "squares"), vars(parts[1]).values(), strict=True))
    names = iter(other)
    monkeypatch.setattr(model, "all_gather", lambda tensor: torch.stack([tensor, other[next(names)]]))
    model.fit_head()
    rule = gaussian_head(ClassStatistics.of(x, y, 10))
    torch.testing.assert_close(model.net.weight, rule.weight, rtol=1e-7, atol=1e-6)


class Cut(pl.Callback):
    """Ends the process's training in the middle of an epoch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 7:
            raise RuntimeError("cut")


def test_statistics_survive_a_cut_within_the_epoch(tmp_path):
    def experiment(name, *more):
        base = [f"--run.root={tmp_path}", "--wandb.mode=disabled", "--techniques.probe_heads=null"]
        base += ["--data.source=digits", "--data.encoder.name=pixels", "--data.features=64", "--data.batch_size=100"]
        base += ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        given = [f"--run.name={name}"] if name else []
        return build("finetuning/discriminative_generative", overrides=[*base, *given, *more])

    whole = experiment("whole")
    whole.fit()
    cut = experiment("cut", "--run.resume_every_n_steps=3")
    cut.trainer.callbacks.append(Cut())
    with pytest.raises(RuntimeError, match="cut"):
        cut.fit()
    again = experiment(None, f"--ckpt_path={cut.folder / 'checkpoints' / 'last.ckpt'}")
    again.fit()
    assert int(again.model.counts.sum()) == len(again.datamodule.train_set)
    assert torch.equal(again.model.squares, whole.model.squares)
    assert torch.equal(again.model.net.weight, whole.model.net.weight)


@pytest.mark.parametrize("classes", [2, 10])
def test_logistic_regression_through_fit_is_sklearns(classes, tmp_path):
    data = FrozenFeatures(**DIGITS, samples=300) if classes == 10 else GaussianMixture(2, 20, samples=100)
    features = 64 if classes == 10 else 20
    model = LogisticHead(features, classes, c=2.0, tolerance=1e-8)
    trainer = fitted(tmp_path, model, data)
    x, y = (part.numpy() for part in data.train_set.tensors)
    peer = LogisticRegression(C=2.0, tol=1e-9, max_iter=10_000).fit(x.astype(float), y)
    np.testing.assert_allclose(model.net.weight.detach().numpy(), peer.coef_, atol=1e-3)
    held, truth = data.val_set.tensors
    score = peer.score(held.double().numpy(), truth.numpy())
    assert float(trainer.callback_metrics["val/accuracy"]) == pytest.approx(score, abs=1e-6)
    assert (model.linear()(held.float()).argmax(1) == model(held).argmax(1)).double().mean() > 0.99
    assert trainer.global_step == 1


def test_stochastic_gradients_come_to_the_same_minimum(tmp_path):
    data = FrozenFeatures(**DIGITS, samples=200, batch_size=50)
    optimizer = OptimizerConfig("sgd", lr=0.5, weight_decay=0.0, args={"momentum": 0.9})
    schedule = ScheduleConfig("step", milestones=(30, 45))
    torch.manual_seed(0)
    model = LogisticHead(64, 10, c=0.1, init_std=0.01, optimizer=optimizer, schedule=schedule)
    assert 0.005 < float(model.net.weight.detach().std()) < 0.02
    fitted(tmp_path, model, data, epochs=60)
    x, y = (part.numpy() for part in data.train_set.tensors)
    peer = LogisticRegression(C=0.1, tol=1e-9, max_iter=10_000).fit(x.astype(float), y)
    np.testing.assert_allclose(model.net.weight.detach().numpy(), peer.coef_, atol=0.05)


def test_what_the_heads_refuse(tmp_path):
    with pytest.raises(UserError, match="c: -1"):
        LogisticHead(3, 2, c=-1)
    with pytest.raises(UserError, match="max_iter: 0"):
        LogisticHead(3, 2, max_iter=0)
    with pytest.raises(UserError, match="features: 0"):
        GaussianHead(0, 2)
    with pytest.raises(UserError, match="num_classes: 1"):
        GaussianHead(3, 1)
    with pytest.raises(UserError, match=r"features: 63, but the data has 64"):
        fitted(tmp_path, GaussianHead(63, 10), FrozenFeatures(**DIGITS))
    with pytest.raises(UserError, match="lbfgs needs all samples in one"):
        fitted(tmp_path, LogisticHead(64, 10), FrozenFeatures(**DIGITS, batch_size=50))


def test_the_bound_holds_and_is_tight():
    generator = torch.Generator().manual_seed(0)
    for classes in (2, 4):
        p, q = ((3 * torch.randn(100_000, classes, generator=generator).double()).softmax(-1) for _ in range(2))
        cost, bound = pinsker_bound(p, q)
        assert (cost <= bound).all()
        assert (cost > 0).any()
    p, q = torch.tensor([[0.499, 0.501], [0.5, 0.5]], dtype=torch.float64)
    cost, bound = pinsker_bound(p, q)
    assert float(cost) == pytest.approx(0.002)
    assert float(bound) == pytest.approx(0.002, rel=1e-4)
    cost, bound = pinsker_bound(torch.tensor([1.0, 0.0]), torch.tensor([0.3, 0.7]))
    assert float(cost) == 1
    assert float(bound) == pytest.approx(math.sqrt(-2 * math.log(0.3)))


def test_assumptions_are_moments_of_the_log_ratio():
    law = MixtureLaw(3, 20)
    found = assumptions(law.means, law.variances)
    generator = torch.Generator().manual_seed(0)
    for first, second, under in ((0, 1, 2), (2, 0, 2), (1, 2, 0)):
        x = law.sample(torch.full((200_000,), under), generator)
        ratio = log_ratio(x, law.means, law.variances, first, second)
        assert float(found.beta[first, second, under]) == pytest.approx(abs(float(ratio.mean())) / 20, rel=0.03)
        assert float(found.alpha[first, second]) == pytest.approx(float(ratio.var()) / 20, rel=0.03)
    two = assumptions(MixtureLaw(2, 50).means, MixtureLaw(2, 50).variances)
    assert float(two.beta[0, 1, 1]) == pytest.approx(1 + 1 / 50)
    assert float(two.alpha[1, 0]) == pytest.approx(2 + 2 / 50)
    assert two.beta[0, 0].isnan().all()
    assert two.alpha.diagonal().isnan().all()
    assert deciles(torch.tensor([float("nan"), *range(11)])) == pytest.approx(list(range(1, 10)))


def test_samples_needed_are_those_of_a_slow_search():
    law = MixtureLaw(2, 20)
    grid = even_grid(law, 100)
    assert grid[:3] == [4, 7, 10]
    found = samples_needed(law, lambda: naive_bayes_fit(2), grid, range(3))
    for seed, m in enumerate(found):
        x, y = drawn_points(law, grid[-1], seed)
        errors = {n: law.two_class_error(gaussian_head(ClassStatistics.of(x[:n], y[:n], 2))) for n in grid}
        assert m == min(n for n in grid if errors[n] < law.bayes_error() + 0.01)
    slow = samples_needed(law, lambda: logistic_fit(2), geometric_grid(law, 200), range(3))
    assert np.mean(slow) > 2 * np.mean(found)
    with pytest.raises(UserError, match="grid: 7 samples"):
        samples_needed(law, lambda: logistic_fit(2), [4, 7], range(3))
    # more than two classes are measured on points
    assert (
        samples_needed(MixtureLaw(3, 20), lambda: naive_bayes_fit(3), even_grid(MixtureLaw(3, 20), 400), [0])[0] < 400
    )


def test_grids_and_slopes():
    law = MixtureLaw(3, 100)
    grid = geometric_grid(law, 600, 1.2)
    assert grid[0] == 6
    assert grid[-1] == 600
    assert all(b / a < 1.35 for a, b in itertools.pairwise(grid))
    assert even_grid(law)[-1] < 100 * 100
    assert log_slope([1, 10, 100], [2, 20, 200]) == pytest.approx(1)


def test_a_scaled_fit_is_a_rule_of_unscaled_points():
    law = MixtureLaw(2, 10)
    x, y = drawn_points(law, 30, 0)
    low, width = x.min(0).values, x.max(0).values - x.min(0).values
    rule = scaled(logistic_fit(2))(x, y)
    inner = logistic_fit(2)((x - low) / width, y)
    torch.testing.assert_close(rule.scores(x), inner.scores((x - low) / width))
