"""temperature_scaling: what it logs and keeps against plain computations; refusals."""

from __future__ import annotations

import json

import lightning.pytorch as pl
import pytest
from small_classifier import Data, Net, leaves_training_alone, trained

from callbacks.temperature_scaling import TemperatureScaling
from framework.errors import UserError
from framework.functional.calibration import calibration, fit_temperature
from framework.observing.linear_probe import see


def test_it_leaves_training_alone(tmp_path):
    leaves_training_alone(tmp_path, TemperatureScaling(), "reliability")


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


def test_what_it_refuses():
    with pytest.raises(UserError, match=r"^bins: 0 is not accepted"):
        TemperatureScaling(bins=0)
