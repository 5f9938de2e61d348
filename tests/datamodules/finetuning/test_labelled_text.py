"""Labelled texts: each format, splits, other test sets, tokens, what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_files import write_language_model

from datamodules.finetuning.labelled_text import LabelledText, read_labelled
from framework.errors import UserError

ROWS = [("good one", "2"), ('a "quoted" word', "0"), ("so so", "1"), ("fine", "10")]


def write(path, rows, header=("Text", "Label")):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *rows] if header else rows
    path.write_text("\n".join("\t".join(row) for row in lines) + "\n", encoding="utf-8")
    return path


def test_formats(tmp_path):
    expected = [{"Text": text, "Label": label} for text, label in ROWS]
    assert (
        read_labelled(write(tmp_path / "a.tsv", [('"a ""quoted"" word"', "0") if r[1] == "0" else r for r in ROWS]))
        == expected
    )
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"Text": t, "Label": k}) for t, k in ROWS))
    assert read_labelled(tmp_path / "a.jsonl") == expected
    medical = (
        "###24293578\nOBJECTIVE\tTo investigate .\nMETHODS\tA total of 125 .\n\n###24854809\nRESULTS\tBetter .\n\n"
    )
    (tmp_path / "train.txt").write_text(medical)
    assert [row["label"] for row in read_labelled(tmp_path / "train.txt")] == ["OBJECTIVE", "METHODS", "RESULTS"]
    rated = write(tmp_path / "r.txt", [("1_1", "-0.9", "bad"), ("1_2", "0.2", "mild"), ("2", "2.5", "great")], None)
    assert read_labelled(rated) == [{"text": "bad", "label": "negative"}, {"text": "great", "label": "positive"}]
    assert len(read_labelled(rated, 0.1)) == 3
    for line, message in (("only words", r"line 1: 'only words'"), ("1\tnan\ttext", "is not finite")):
        (tmp_path / "bad.txt").write_text(line)
        with pytest.raises(UserError, match=message):
            read_labelled(tmp_path / "bad.txt")


def many(n, labels=("a", "b")):
    return [(f"text number {i}", labels[i % len(labels)]) for i in range(n)]


def texts(dataset):
    return {
        bytes(t for t in x.tolist() if t < 256).decode(): int(y) for x, y in (dataset[i] for i in range(len(dataset)))
    }


def test_splits(tmp_path):
    write(tmp_path / "lone" / "all.tsv", many(40))
    write(tmp_path / "two" / "train.tsv", many(40)), write(tmp_path / "two" / "dev.tsv", many(6))
    write(tmp_path / "three" / "train.tsv", many(40)), write(tmp_path / "three" / "dev.tsv", many(6))
    write(tmp_path / "three" / "test.tsv", many(8))
    sizes = {}
    for name in ("lone", "two", "three"):
        data = LabelledText(str(tmp_path / name), num_classes=2)
        data.setup("fit")
        sizes[name] = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert sizes == {"lone": [32, 4, 4], "two": [36, 4, 6], "three": [40, 6, 8]}
    data = LabelledText(str(tmp_path / "lone"), train_rows=5, eval_rows=3)
    data.setup()
    parts = [texts(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert [len(part) for part in parts] == [5, 3, 3]
    assert len({text for part in parts for text in part}) == 11
    assert {(text, "ab"[label]) for part in parts for text, label in part.items()} <= set(many(40))


def test_other_test_sets_and_label_names(tmp_path):
    write(tmp_path / "in.tsv", many(30)), write(tmp_path / "far" / "test.tsv", many(4, ("b",)))
    write(tmp_path / "odd.tsv", [("one", "c")])
    data = LabelledText(str(tmp_path / "in.tsv"), {"far": str(tmp_path / "far")}, label_names=["b", "a"])
    data.setup()
    assert data.test_names == ("test", "far")
    assert data.num_classes == 2
    first, far = data.test_dataloader()
    assert torch.cat([y for _, y in far]).tolist() == [0] * 4
    assert sum(len(y) for _, y in first) == 3
    with pytest.raises(UserError, match=r"label_names: 'c' of odd .*odd.tsv, line 2.* is not one of a, b"):
        LabelledText(str(tmp_path / "in.tsv"), {"odd": str(tmp_path / "odd.tsv")}).setup()
    with pytest.raises(UserError, match="num_classes: 3 declared, path has the labels a, b"):
        LabelledText(str(tmp_path / "in.tsv"), num_classes=3).setup()
    numbered = LabelledText(str(write(tmp_path / "n.tsv", many(40, ("10", "2")))))
    numbered.setup()
    assert numbered.label_names == ["2", "10"]


def test_tokens_of_texts_and_pairs(tmp_path):
    write_language_model(tmp_path / "model")
    rows = [(f"first {i}", f"second {i}", "yes" if i % 2 else "no") for i in range(20)]
    write(tmp_path / "pairs.tsv", rows, ("premise", "hypothesis", "label"))
    columns = {"text_column": "premise", "pair_column": "hypothesis"}
    data = LabelledText(str(tmp_path / "pairs.tsv"), tokenizer=str(tmp_path / "model"), length=12, **columns)
    data.setup()
    assert data.vocab_size == 257
    assert data.pad == 256  # the end of a document: this tokenizer has no padding of its own
    x, y = data.train_set.__getitems__([0, 1, 2])
    assert x.shape[1] <= 12
    assert y.shape == (3,)
    plain = LabelledText(str(tmp_path / "pairs.tsv"), length=64, **columns)
    plain.setup()
    assert all("first" in text and "\nsecond" in text for text in texts(plain.train_set))
    with pytest.raises(
        UserError, match=r"pairs.tsv, line 2: column 'text' not found; it has premise, hypothesis, label"
    ):
        LabelledText(str(tmp_path / "pairs.tsv")).setup()


def test_the_toy_and_bad_settings(tmp_path):
    data = LabelledText(num_classes=2)
    data.setup()
    assert data.label_names == ["code", "topics"]
    assert len(data.train_set) > 200
    for options, message in (
        ({"val_fraction": 0.5}, "val_fraction: 0.5 is not accepted; above 0 and below 0.5"),
        ({"length": 1}, "length: 1 is not accepted"),
        ({"least_rating": -1.0}, "least_rating: -1.0"),
        ({"label_names": ["a", "b"], "num_classes": 3}, "num_classes: 3 declared, label_names has 2"),
    ):
        with pytest.raises(UserError, match=message):
            LabelledText(**options)
    with pytest.raises(UserError, match="nowhere not found"):
        LabelledText(str(tmp_path / "nowhere")).setup()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no data"):
        LabelledText(str(tmp_path / "empty")).setup()
