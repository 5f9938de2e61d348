"""What every language model of this field must hold: a resumed run, mixed precision and two processes."""

from __future__ import annotations

import json

import pytest
import torch

import framework
from framework.errors import UserError
from modules.sequence.transformer import TransformerLM

MODELS = {
    "transformer": "modules.sequence.transformer.TransformerLM",
    "lightning_attention": "modules.sequence.lightning_attention.TransNormerLM",
    "mom": "modules.sequence.mom.MoMLM",
    "ultramem_v2": "modules.sequence.ultramem_v2.UltraMemLM",
}
SHAPE = {"d_model": 16, "n_layers": 2, "n_heads": 2}


def experiment(name, root, *overrides):
    config = {
        "seed_everything": 0,
        "model": {"class_path": MODELS[name], "init_args": SHAPE},
        "data": {
            "class_path": "datamodules.sequence.tokens.TokenData",
            "init_args": {"length": 24, "batch_size": 4, "eval_windows": 4},
        },
        "trainer": {"limit_train_batches": 3, "accelerator": "cpu", "log_every_n_steps": 1, "max_epochs": 2},
        "run": {"root": str(root)},
        "wandb": {"mode": "disabled"},
    }
    return framework.build(config, overrides=list(overrides))


def metrics(root):
    path = max(root.rglob("metrics.jsonl"), key=lambda file: len(file.read_text()))
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", MODELS)
def test_a_resumed_run_ends_as_one_that_never_stopped(name, tmp_path):
    whole = experiment(name, tmp_path / "whole")
    whole.fit()
    experiment(name, tmp_path / "cut", "--trainer.max_epochs=1").fit()
    checkpoint = next((tmp_path / "cut").rglob("last.ckpt"))
    resumed = experiment(name, tmp_path / "cut", f"--ckpt_path={checkpoint}")
    resumed.fit()
    assert resumed.trainer.global_step == whole.trainer.global_step == 6
    expected, found = whole.model.state_dict(), resumed.model.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    opened = framework.open_model(next((tmp_path / "cut").rglob("last.ckpt")))
    tokens = torch.arange(20)[None]
    assert torch.equal(opened.eval()(tokens), resumed.model.eval()(tokens))


@pytest.mark.parametrize("name", MODELS)
def test_low_precision_trains_with_clipping(name, tmp_path):
    losses = {}
    for precision in ("32-true", "bf16-mixed", "bf16-true"):
        run = experiment(name, tmp_path, f"--trainer.precision={precision}", "--trainer.gradient_clip_val=1.0")
        run.fit()
        losses[precision] = run.trainer.callback_metrics["val/loss"].item()
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.02)
    assert losses["bf16-true"] == pytest.approx(losses["32-true"], rel=0.02)


def test_a_prompt_needs_a_token():
    model = TransformerLM(**SHAPE)
    with pytest.raises(UserError, match="prompt_length: 0 is not accepted; at least 1"):
        model.generate(torch.zeros(2, 0, dtype=torch.int64))
