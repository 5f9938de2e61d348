"""generate_sample: what it writes, that it changes nothing, whom it refuses."""

from __future__ import annotations

import json

import pytest
from small_language_model import leaves_training_alone, refuses_other_modules

from callbacks.generate_sample import GenerateSample
from framework.errors import UserError

TECHNIQUE = {"class_path": "callbacks.generate_sample.GenerateSample", "init_args": {"prompt_length": 7}}


def test_it_writes_samples_and_leaves_training_alone(tmp_path):
    run = leaves_training_alone(tmp_path, "generate_sample", TECHNIQUE)
    rows = [json.loads(line) for line in (run.folder / "samples.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [3, 6]
    start = run.datamodule.decode(run.datamodule.val_set[0]["input_ids"][:7].tolist())
    assert all(row["prompt"] == start for row in rows)


def test_other_modules_are_refused(tmp_path):
    refuses_other_modules(tmp_path, "generate_sample", TECHNIQUE)


def test_an_empty_prompt_is_refused():
    with pytest.raises(UserError, match=r"^prompt: '' is not accepted"):
        GenerateSample(prompt="")
