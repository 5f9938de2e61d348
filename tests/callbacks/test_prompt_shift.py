"""Errors of answers under shifts."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from callbacks.prompt_shift import PromptShift, relative_errors, shifted
from framework.__main__ import main
from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw

DOUBLE = torch.float64


def law():
    eye = torch.eye(3, dtype=DOUBLE)
    return PromptLaw(eye, torch.zeros(1, 3, dtype=DOUBLE), eye)


class Silent:
    def answer(self, x, y):
        return torch.zeros(1, len(x), y.shape[2], dtype=x.dtype)


@pytest.mark.parametrize(
    ("kind", "value", "x", "query", "label"),
    [("scale", 2.0, 4, 4, 12), ("query", 2.0, 1, 4, 12), ("task", 2.0, 1, 1, 12), ("noise", 0.5, 1, 1, 3)],
)
def test_each_shift_changes_what_it_says(kind, value, x, query, label):
    prompts = shifted(law(), kind, value).sample(20_000, 5, torch.Generator().manual_seed(0), DOUBLE)
    assert prompts["x"][:, 0].var().item() == pytest.approx(x, rel=0.05)
    assert prompts["x"][:, -1].var().item() == pytest.approx(query, rel=0.05)
    assert prompts["y"][:, -1].square().mean().item() == pytest.approx(label, rel=0.06)
    noise = (prompts["y"] - prompts["x"] @ prompts["w"].mT)[:, :-1]
    assert noise.var().item() == pytest.approx(0.5 if kind == "noise" else 0, abs=0.02)


def test_a_silent_model_has_error_one_and_least_squares_none():
    prompts = law().sample(500, 5, torch.Generator().manual_seed(0), DOUBLE)
    found = relative_errors(Silent(), prompts, prompts["y"][:, -1], chunk=200)
    assert found["model"] == pytest.approx(1.0)
    assert found["least_squares"] < 1e-12


def test_linear_attention_fails_under_scaled_covariates_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = ["--data.batch_size=128", "--data.batches=16", "--data.eval_prompts=64", "--trainer.max_epochs=1"]
    small += ["--model.seeds=1", "--data.eval_lengths=[20]", "--techniques.prompt_shift.prompts=2000"]
    quiet = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false", "--run.name=one"]
    shift = ["--config", "callbacks/prompt_shift", "--techniques.prompt_shift.length=200"]
    assert main(["fit", "--config", "in_context/icl_linear_models", *small, *quiet, *shift]) == 0
    folder = tmp_path / "runs" / "icl_linear_models" / "one"
    found = json.loads((folder / "prompt_shift.json").read_text())
    error = {kind: {float(v): row["model"] for v, row in found[kind].items()} for kind in ("scale", "query", "task")}
    assert error["scale"][2.0] > 20 * error["scale"][1.0]
    assert error["task"][2.0] == pytest.approx(error["task"][1.0], rel=0.05)
    assert error["query"][2.0] == pytest.approx(error["query"][1.0], rel=0.05)
    assert max(row["least_squares"] for row in found["scale"].values()) < 1e-9
    assert (folder / "figures" / "prompt_shift.png").is_file()
    assert np.isfinite(list(error["scale"].values())).all()


@pytest.mark.parametrize(
    ("options", "said"), [({"scale": [0.0]}, "scale"), ({"noise": [-1.0]}, "noise"), ({"prompts": 0}, "prompts")]
)
def test_bad_settings_are_named(options, said):
    with pytest.raises(UserError, match=f"^{said}"):
        PromptShift(**options)


def test_modules_that_answer_nothing_are_refused(capsys):
    shift = ["--config", "callbacks/prompt_shift", "--trainer.fast_dev_run=true"]
    assert main(["fit", "--config", "dynamics/matrix_sensing", *shift]) == 2
    assert "does not answer prompts" in capsys.readouterr().err
