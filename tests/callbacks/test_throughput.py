"""throughput: what it writes, that it changes nothing, whom it refuses."""

from __future__ import annotations

import json

import pytest
import torch
from small_language_model import leaves_training_alone, refuses_other_modules

from callbacks.throughput import Throughput, decoding_cost, training_throughput
from framework.errors import UserError
from modules.sequence.lightning_attention import TransNormerLM
from modules.sequence.transformer import TransformerLM

TECHNIQUE = {"class_path": "callbacks.throughput.Throughput", "init_args": {"lengths": [8, 16], "tokens": 32}}


def test_it_writes_speeds_and_leaves_training_alone(tmp_path):
    folder = leaves_training_alone(tmp_path, "throughput", TECHNIQUE).folder
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


def test_other_modules_are_refused(tmp_path):
    refuses_other_modules(tmp_path, "throughput", TECHNIQUE)


def test_no_lengths_are_refused():
    with pytest.raises(UserError, match=r"^lengths"):
        Throughput(lengths=())
