"""generate_sample and throughput: what they write, that they change nothing, whom they refuse."""

from __future__ import annotations

import json

import pytest
import torch

import framework
from callbacks.throughput import decoding_cost, training_throughput
from framework.errors import UserError
from modules.sequence.lightning_attention import TransNormerLM
from modules.sequence.transformer import TransformerLM

CONFIG = {
    "seed_everything": 0,
    "model": {
        "class_path": "modules.sequence.lightning_attention.TransNormerLM",
        "init_args": {"d_model": 16, "n_layers": 2, "n_heads": 2, "max_new_tokens": 5, "temperature": 0.9},
    },
    "data": {
        "class_path": "datamodules.sequence.tokens.TokenData",
        "init_args": {"length": 32, "batch_size": 4, "eval_windows": 4},
    },
    "trainer": {"max_epochs": 2, "limit_train_batches": 3, "accelerator": "cpu"},
    "wandb": {"mode": "disabled"},
}
TECHNIQUES = {
    "generate_sample": {"class_path": "callbacks.generate_sample.GenerateSample", "init_args": {"prompt_length": 7}},
    "throughput": {"class_path": "callbacks.throughput.Throughput", "init_args": {"lengths": [8, 16], "tokens": 32}},
}


def trained(root, techniques, **changed):
    config = {**CONFIG, "techniques": techniques, "run": {"root": str(root)}}
    experiment = framework.build(config, overrides=[f"--{key}={value}" for key, value in changed.items()])
    experiment.fit()
    return experiment


def test_they_write_samples_and_speeds_and_leave_training_alone(tmp_path):
    with_them = trained(tmp_path / "a", TECHNIQUES)
    without = trained(tmp_path / "b", {})
    for one, other in zip(with_them.model.parameters(), without.model.parameters(), strict=True):
        assert torch.equal(one, other)
    folder = next((tmp_path / "a").rglob("samples.jsonl")).parent
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    start = with_them.datamodule.decode(with_them.datamodule.val_set[0]["input_ids"][:7].tolist())
    assert all(row["prompt"] == start for row in rows)
    measured = json.loads((folder / "throughput.json").read_text())
    assert measured["lengths"] == [8, 16]
    assert measured["state_bytes"] == [2 * 4 * 2 * 8 * 8 + 4 * 2 * 8 * 8] * 2  # layer 0's LRPE doubles d
    assert all(value > 0 for value in measured["tokens_per_second"] + measured["milliseconds_per_token"])
    assert (folder / "figures" / "throughput.png").stat().st_size > 5000


def test_the_cache_of_softmax_grows_and_the_state_does_not():
    torch.manual_seed(0)
    softmax, linear = (cls(d_model=16, n_layers=1, n_heads=2) for cls in (TransformerLM, TransNormerLM))
    assert decoding_cost(softmax, [10, 20], steps=1)["state_bytes"] == [2 * 4 * 16 * 10, 2 * 4 * 16 * 20]
    assert len(set(decoding_cost(linear, [10, 20], steps=1)["state_bytes"])) == 1
    before = [p.grad for p in linear.parameters()]
    kept = training_throughput(linear, [32, 64], 64, repeats=1)["kept_bytes_per_token"]
    assert kept[0] == pytest.approx(kept[1], rel=0.1)
    assert [p.grad for p in linear.parameters()] == before == [None] * len(before)


@pytest.mark.parametrize("name", ["generate_sample", "throughput"])
def test_other_modules_are_refused(name, tmp_path):
    config = {
        **CONFIG,
        "model": {"class_path": "modules.sequence.s4d.S4DClassifier", "init_args": {"d_model": 4}},
        "data": {"class_path": "datamodules.sequence.images.SequentialImages", "init_args": {"source": "digits"}},
        "techniques": {name: TECHNIQUES[name]},
        "run": {"root": str(tmp_path)},
    }
    with pytest.raises(UserError, match=f"{name}: S4DClassifier"):
        framework.build(config).fit()


def test_bad_settings_are_named():
    from callbacks.generate_sample import GenerateSample
    from callbacks.throughput import Throughput

    with pytest.raises(UserError, match=r"throughput\.lengths"):
        Throughput(lengths=())
    with pytest.raises(UserError, match="prompt must not be empty"):
        GenerateSample(prompt="")
