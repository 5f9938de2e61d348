"""Instructions: Alpaca's format and template, packing, labels, mistakes."""

from __future__ import annotations

import json

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from tiny_files import write_instructions

from datamodules.finetuning.instructions import InstructionData, help_topics, pack, prompt_of
from datamodules.finetuning.text import Codec
from framework.errors import UserError
from modules.language_model import token_losses
from modules.sequence.transformer import TransformerLM

ROWS = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Greet.", "input": "", "output": "Hello!"},
]


def texts(data, part):
    batch = part.__getitems__(range(len(part)))
    tokens, labels = batch["input_ids"].flatten().tolist(), batch["labels"].flatten().tolist()
    assert all(label in (-100, token) for token, label in zip(tokens, labels, strict=True))
    return data.decode(tokens), data.decode([label for label in labels if label >= 0])


def test_the_template_is_alpacas():
    assert prompt_of("Add.", "1 and 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n"
        "### Response:\n"
    )
    assert prompt_of("Greet.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nGreet.\n\n### Response:\n"
    )


def test_packing_by_hand():
    tokens, labels = pack([([1, 2, 3], [4, 5]), ([6], [7, 8, 9])], end=0, length=4)
    assert tokens.tolist() == [[1, 2, 3, 4], [5, 0, 6, 7]]
    assert labels.tolist() == [[-100, -100, -100, 4], [5, 0, -100, 7]]  # 8, 9 and the end are left out


@pytest.mark.parametrize("kind", ["list", "lines", "parquet"])
def test_the_formats(tmp_path, kind):
    rows = ROWS * 30
    if kind == "list":
        path = tmp_path / "alpaca_data_cleaned.json"
        path.write_text(json.dumps(rows, indent=4))
    elif kind == "lines":
        path = tmp_path / "alpaca.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        import pyarrow
        import pyarrow.parquet

        path = tmp_path / "train-00000-of-00001.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    data = InstructionData(str(path), length=64, val_rows=4)
    data.setup("fit")
    for part, first in ((data.val_set, rows[:4]), (data.train_set, rows[4:])):
        text, answers = texts(data, part)
        expected = "".join(prompt_of(r["instruction"], r["input"]) + r["output"] for r in first)
        assert expected.startswith(text)
        assert len(expected) - len(text) < 64 + len(first)  # the last block, and the end tokens
        assert "".join(r["output"] for r in first).startswith(answers)
        assert answers.startswith("3Hello!")


def test_the_loss_is_the_mean_over_the_answers_tokens():
    tokens, labels = pack([(list(range(20)), list(range(30, 35)))] * 4, end=50, length=26)
    torch.manual_seed(0)
    model = TransformerLM(64, 16, 1, 2).eval()
    batch = {"input_ids": tokens.long(), "labels": labels.long()}
    logits = model(batch["input_ids"])
    total, count = token_losses(logits, batch)
    assert int(count) == 4 * 6
    by_hand = F.cross_entropy(logits[:, 19:25].flatten(0, 1), batch["input_ids"][:, 20:26].flatten())
    torch.testing.assert_close(total / count, by_hand)


def test_a_tokenizer_of_transformers(tmp_path):
    write_instructions(tmp_path)
    data = InstructionData(str(tmp_path), str(tmp_path / "model"), length=64, val_rows=5)
    data.setup("fit")
    assert data.vocab_size == Codec(str(tmp_path / "model")).vocab_size
    text, answers = texts(data, data.train_set)
    assert "### Instruction:\nSay 5." in text
    assert answers.startswith("5 6 6 7 8 9 9 ")


def test_the_embedded_default_trains():
    data = InstructionData(length=128, batch_size=2)
    data.setup("fit")
    rows = help_topics()
    assert len(rows) > 50
    _, answers = texts(data, data.train_set)
    assert rows[len(rows) // 10]["output"][:200] in answers
    model = TransformerLM(257, 16, 1, 2)
    trainer = pl.Trainer(fast_dev_run=True, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(model, datamodule=data)
    assert trainer.callback_metrics["val/loss"].isfinite()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"length": 1}, "length: 1 is not accepted"),
        ({"val_rows": 0}, "val_rows: 0 is not accepted; at least 1"),
        ({"train_rows": 0}, "train_rows: 0 is not accepted; at least 1"),
        ({"vocab_size": 300}, "vocab_size: 300 declared, bytes have 257"),
    ],
)
def test_settings_that_are_not_accepted(settings, said):
    with pytest.raises(UserError, match=said):
        InstructionData(**settings)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[{]", "not a JSON list"),
        ('[{"instruction": "a"}]', r"a.json, record 1: has instruction; expected instruction, output"),
        ('["text"]', "a.json, record 1: a str"),
        ('{"instruction": "a", "output": "b"}', "none of them left for training"),
        (json.dumps(ROWS), "length: 1024 tokens a block, but the validation part has fewer"),
    ],
)
def test_files_that_are_broken(tmp_path, content, said):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(UserError, match=said):
        InstructionData(str(tmp_path / "a.json")).setup("fit")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"alpaca.json"):
        InstructionData(str(tmp_path / "alpaca.json")).setup("fit")
