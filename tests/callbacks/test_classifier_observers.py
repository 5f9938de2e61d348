"""feature_drift, ntk_split and temperature_scaling: what they log against plain computations, resume, refusals."""

from __future__ import annotations

import copy
import json

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from callbacks.feature_drift import FeatureDrift, drift_of
from callbacks.lp_ft import LPFT
from callbacks.ntk_split import NTKSplit
from callbacks.temperature_scaling import TemperatureScaling
from framework import OptimizerConfig
from framework.calibration import calibration, fit_temperature
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.linear_probe import see
from framework.module import Module
from framework.ntk.split import ntk_split, residual


class Net(Module):
    def __init__(self):
        super().__init__(OptimizerConfig("adam", lr=0.02, weight_decay=0.0))
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.3))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    test_step = validation_step


class Data(DataModule):
    def __init__(self):
        super().__init__(batch_size=12, eval_batch_size=7)

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(90, 4, generator=generator)
        y = (x[:, 0] + 0.6 * torch.randn(90, generator=generator)).argsort().argsort() * 3 // 90
        self.train_set, self.val_set = ArrayDataset(x[:48], y[:48]), ArrayDataset(x[48:70], y[48:70])
        self.test_set = ArrayDataset(x[70:], y[70:])


def trained(root, *callbacks, epochs=2, ckpt=None):
    torch.manual_seed(0)
    model, data = Net(), Data()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=list(callbacks),
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return model, trainer, data


def test_they_change_nothing(tmp_path):
    plain, _, _ = trained(tmp_path / "plain")
    seen, _, _ = trained(tmp_path, FeatureDrift(), NTKSplit(points=5, chunk=2), TemperatureScaling())
    for a, b in zip(plain.parameters(), seen.parameters(), strict=True):
        assert torch.equal(a, b)
    for name in ("feature_drift", "ntk_split", "reliability"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5000


def test_drift(tmp_path):
    drift = FeatureDrift(part="test", points=15)
    model, trainer, data = trained(tmp_path, drift)
    torch.manual_seed(0)
    start = Net()
    batches = [tuple(t[:15] for t in data.test_set.tensors)]
    before, after = (see(m, "head", batches) for m in (start, model))
    expected = drift_of(after.features, before.features, after.labels, model.head)
    assert [row["epoch"] for row in drift.rows] == [0, 1, 2]
    assert drift.rows[0]["diff"] == 0
    for name, value in expected.items():
        assert drift.rows[-1][name] == pytest.approx(value, rel=1e-5)
        assert float(trainer.callback_metrics[f"feature_drift/{name}"]) == pytest.approx(value, rel=1e-5)
    assert expected["diff"] > 0.01
    assert expected["norm"] == pytest.approx(float(model.head.weight.norm()))


def test_drift_goes_on_from_the_first_start(tmp_path):
    whole, part, rest = (FeatureDrift() for _ in range(3))
    trained(tmp_path, whole, epochs=3)
    _, trainer, _ = trained(tmp_path, part, epochs=1)
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    trained(tmp_path, rest, epochs=3, ckpt=tmp_path / "one.ckpt")
    assert torch.equal(rest.start, whole.start)
    assert rest.rows[:2] == whole.rows[:2]
    assert len(rest.rows) == 4


class Before(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.model = copy.deepcopy(pl_module)


@pytest.mark.parametrize("probe_epochs", [None, 1])
def test_the_split_is_of_where_finetuning_begins(tmp_path, probe_epochs):
    """At the first step, or once a probe was trained; of a random head, or a probed one."""
    split, before = NTKSplit(points=48), Before()
    techniques = [] if probe_epochs is None else [LPFT(probe_epochs=probe_epochs)]
    _, trainer, data = trained(tmp_path, *techniques, before, split, epochs=(probe_epochs or 0) + 1)
    model = before.model.double()
    x, y = data.train_set.tensors
    found = ntk_split(model, "head", x.double())
    delta = residual(see(model, "head", [(x.double(), y)]).logits, y)
    assert split.found["ft_ratio"] == pytest.approx(found.ft_ratio(delta), rel=1e-6)
    assert (split.found["rank_p"], split.found["rank_f"]) == found.ranks()
    assert split.found["norm_p"] == pytest.approx(float(found.pretrain_whole().norm()))
    assert split.found["norm_f"] == pytest.approx(float(found.finetune.norm()))
    assert float(trainer.callback_metrics["ntk_split/ft_ratio"]) == pytest.approx(split.found["ft_ratio"])


def test_the_temperature_is_kept_and_used_in_a_test(tmp_path):
    scaling = TemperatureScaling(bins=5)
    model, trainer, data = trained(tmp_path, scaling, epochs=4)
    parts = {name: see(model, "head", [getattr(data, f"{name}_set").tensors]) for name in ("val", "test")}
    t = fit_temperature(parts["val"].logits, parts["val"].labels)
    assert scaling.temperature == pytest.approx(t, rel=1e-4)
    assert t != 1
    found = trainer.callback_metrics
    stored = json.loads((tmp_path / "temperature.json").read_text())
    for suffix, value in (("", 1.0), ("_scaled", t)):
        expected = calibration(parts["val"].logits, parts["val"].labels, value, 5)
        for name in ("nll", "ece", "mce"):
            assert stored[f"{name}{suffix}"] == pytest.approx(getattr(expected, name), abs=1e-4)
            logged = float(found[f"temperature_scaling/{name}{suffix}"])
            assert logged == pytest.approx(stored[f"{name}{suffix}"], abs=1e-5)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    other = TemperatureScaling(bins=5)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    tester = pl.Trainer(callbacks=[other], default_root_dir=tmp_path, **quiet)
    tester.test(Net(), datamodule=Data(), ckpt_path=tmp_path / "end.ckpt", weights_only=True, verbose=False)
    assert other.temperature == scaling.temperature
    expected = calibration(parts["test"].logits, parts["test"].labels, t, 5)
    assert float(tester.callback_metrics["temperature_scaling/test_nll_scaled"]) == pytest.approx(
        expected.nll, abs=1e-4
    )


def test_what_they_refuse(tmp_path):
    for make, message in (
        (lambda: FeatureDrift(part="train"), r"feature_drift.part: 'train' is not accepted; val or test"),
        (lambda: FeatureDrift(points=1), r"feature_drift.points: 1 is not accepted"),
        (lambda: NTKSplit(points=0), r"ntk_split.points: 0 is not accepted"),
        (lambda: NTKSplit(dtype="half"), r"ntk_split.dtype: 'half' is not accepted; float64 or float32"),
        (lambda: TemperatureScaling(bins=0), r"temperature_scaling.bins: 0 is not accepted"),
    ):
        with pytest.raises(UserError, match=message):
            make()
    for technique in (FeatureDrift(head="haed"), NTKSplit(head="haed")):
        with pytest.raises(UserError, match=r"head: 'haed' names nothing in the model; nearest: head"):
            trained(tmp_path, technique)
