"""FactTable: the generator and its capacity, files of facts, batches, errors."""

import json
import math

import pytest
import torch

from datamodules.sequence.fact_table import FactTable, capacity_bits, random_facts, read_facts, recalled_bits
from framework.errors import UserError

ROWS = [("Paris", "capital of", "France"), ("Rome", "capital of", "Italy"), ("Rome", "on the", "Tiber")]


def write(path, rows=ROWS, columns=("subject", "relation", "object")):
    if path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(columns, row, strict=True))) for row in rows) + "\n")
    else:
        separator = "\t" if path.suffix == ".tsv" else ","
        path.write_text("\n".join(separator.join(row) for row in [columns, *rows]) + "\n")
    return path


def test_random_facts_are_uniform_and_fixed_by_the_seed():
    table = random_facts(1024, 8, 16, seed=3)
    assert torch.equal(table, random_facts(1024, 8, 16, seed=3))
    assert not torch.equal(table, random_facts(1024, 8, 16, seed=4))
    counts = torch.bincount(table.flatten(), minlength=16).double()
    assert len(counts) == 16
    chi2 = ((counts - 512) ** 2 / 512).sum()
    assert chi2 < 37.7  # 0.1 % point of chi² with 15 degrees
    # rows and columns are no copies of each other
    assert abs(float((table[:, 0] == table[:, 1]).double().mean()) - 1 / 16) < 0.03


def test_capacity():
    assert capacity_bits(8192, 512) == 73728
    assert recalled_bits(8192, 512, 0.0) == 73728
    assert recalled_bits(8192, 512, math.log(512)) == pytest.approx(0, abs=1e-6)
    assert recalled_bits(8192, 512, math.log(2)) == pytest.approx(8192 * 8)
    assert recalled_bits(8192, 512, 10.0) == 0


def test_batches():
    data = FactTable(subjects=5, relations=3, objects=7, batch_size=4)
    assert data.vocab_size == 15
    assert data.bits == pytest.approx(15 * math.log2(7))
    data.setup()
    table = random_facts(5, 3, 7)
    seen = set()
    for batch in data.train_dataloader():
        assert batch["input_ids"].dtype == batch["targets"].dtype == torch.int64
        assert (batch["targets"][:, 0] == -100).all()
        for (subject, relation), answer in zip(batch["input_ids"].tolist(), batch["targets"][:, 1], strict=True):
            assert table[subject, relation - 5] == answer - 8
            seen.add((subject, relation))
    assert len(seen) == 15
    assert sum(len(batch["targets"]) for batch in data.val_dataloader()) == 15
    assert data.decode([3, 6, 8]) == "s3 r1 o0"


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_facts_of_ones_own(tmp_path, suffix):
    path = write(tmp_path / f"facts{suffix}")
    assert read_facts(path) == ROWS
    data = FactTable(str(path), subjects=3, relations=2, objects=4)
    data.setup()
    (batch,) = data.val_dataloader()
    assert batch["input_ids"].tolist() == [[0, 3], [1, 3], [1, 4]]
    assert batch["targets"][:, 1].tolist() == [5, 6, 7]
    assert data.decode([1, 4, 7]) == "Rome on the Tiber"
    assert data.bits == pytest.approx(3 * math.log2(3))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", None, "a.csv: not found"),
        ("a.txt", "x", "a.txt: not a table that can be read; accepted: .csv, .tsv, .jsonl"),
        ("a.csv", "subject,object\nx,y\n", "a.csv, line 2: columns.*expected subject, relation, object"),
        ("a.csv", "subject,relation,object\n", "a.csv: has no facts"),
        ("a.csv", "subject,relation,object\na,b,c\nd,e,\n", "a.csv, line 3: object is missing or empty"),
        ("a.jsonl", '{"subject": 1, "relation": 2, "object": 3}\n{oops\n', "a.jsonl, line 2: not JSON"),
        (
            "a.jsonl",
            '{"subject": 1, "relation": 2}\n',
            "a.jsonl, line 1: columns subject, relation; expected .* without object",
        ),
        ("a.tsv", "subject\trelation\tobject\na\tb\tc\na\tb\td\n", r"answers \(a, b\) with 'c' and 'd'"),
        ("a.csv", "subject,relation,object\n" + "".join(f"s{i},r,o\n" for i in range(9)), "subjects: 4, but .* has 9"),
    ],
)
def test_broken_files_are_named(tmp_path, name, text, message):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        FactTable(str(tmp_path / name), subjects=4).setup()


def test_bad_settings_are_named():
    with pytest.raises(UserError, match="objects: 0"):
        FactTable(objects=0)
