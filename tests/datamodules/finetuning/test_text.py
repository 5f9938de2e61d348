"""Texts in every format on disk, packing, templates, splits and the retention text."""

import json

import pytest
import torch
from tiny_files import write_language_model, write_parquet_splits

from datamodules.finetuning.text import Codec, Sequences, TextData, pack, split_documents
from datamodules.text_files import find_splits, read_documents
from framework.errors import UserError


def bytes_of(text):
    return list(text.encode())


def test_packing_puts_documents_one_after_the_other_and_drops_the_rest():
    assert pack([[1, 2, 3], [4], [5, 6]], 4, 9) == [[1, 2, 3, 9], [4, 9, 5, 6]]
    assert pack([[1]], 3, 9) == []


def test_a_batch_is_padded_to_its_longest_row():
    rows = Sequences([[1, 2, 3], [4, 5], [6]], pad=7)
    batch = rows.__getitems__([2, 1])
    assert batch["input_ids"].tolist() == [[6, 7], [4, 5]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["labels"].tolist() == [[6, -100], [4, 5]]
    assert batch["input_ids"].dtype == torch.int64
    assert rows[0]["input_ids"].tolist() == [1, 2, 3]


def test_the_embedded_text_is_said_once_and_split_by_documents(monkeypatch):
    said = []
    monkeypatch.setattr("datamodules.finetuning.text.rank_zero_info", said.append)
    data = TextData(length=64, batch_size=4)
    data.setup("fit")
    data.setup("test")
    assert len(said) == 1
    assert "no path given, using the English prose" in said[0]
    sizes = [len(part) for part in (data.train_set, data.val_set, data.test_set)]
    assert 0.05 < sizes[1] / sum(sizes) < 0.25
    assert 0.05 < sizes[2] / sum(sizes) < 0.25
    batch = next(iter(data.train_dataloader()))
    assert batch["input_ids"].shape == (4, 64)
    assert batch["input_ids"].max() < data.vocab_size == 257
    ends = bytes_of(data.decode(data.train_set.tokens.tolist()))[:50]
    assert ends == [t for t in data.train_set.tokens.tolist() if t < 256][:50]
    again = TextData(length=64)
    again.setup("fit")
    assert torch.equal(again.val_set.tokens, data.val_set.tokens)
    other = TextData(length=64, split_seed=1)
    other.setup("fit")
    assert not torch.equal(other.val_set.tokens[:200], data.val_set.tokens[:200])


def test_split_documents_are_disjoint_and_all():
    rows = [{"text": "x" * (i + 1)} for i in range(30)]
    parts = split_documents(rows, [0.2, 0.1], 0, lambda row: len(row["text"]))
    lengths = [len(row["text"]) for part in parts for row in part]
    assert sorted(lengths) == list(range(1, 31))
    assert 0.2 <= sum(len(row["text"]) for row in parts[1]) / sum(lengths) < 0.35
    with pytest.raises(UserError, match="2 documents cannot be split in 3 parts"):
        split_documents(rows[:2], [0.1, 0.1], 0, lambda row: 1)


def write(kind, folder, split, texts):
    import pyarrow
    from pyarrow import parquet

    folder.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"text": texts})
    if kind == "parquet":
        parquet.write_table(table, folder / f"{split}-00000-of-00001.parquet")
    elif kind == "arrow stream":  # what save_to_disk writes
        (folder / split).mkdir()
        with pyarrow.ipc.new_stream(folder / split / "data-00000-of-00001.arrow", table.schema) as sink:
            sink.write_table(table)
        (folder / "dataset_dict.json").write_text(json.dumps({"splits": [split]}))
        (folder / split / "state.json").write_text("{}")
    elif kind == "arrow file":
        with pyarrow.ipc.new_file(folder / f"{split}.arrow", table.schema) as sink:
            sink.write_table(table)
    elif kind == "jsonl":
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    elif kind == "csv":
        (folder / f"{split}.csv").write_text("text\n" + "\n".join(texts) + "\n")
    elif kind == "raw":
        (folder / f"wiki.{split}.raw").write_text("\n".join(texts))


@pytest.mark.parametrize("kind", ["parquet", "arrow stream", "arrow file", "jsonl", "csv", "raw"])
def test_each_format_on_disk_gives_the_same_text(kind, tmp_path):
    for split in ("train", "validation", "test"):
        write(kind, tmp_path, split, [f"{split} one", f"{split} two"])
    found = find_splits(tmp_path)
    assert set(found) == {"train", "val", "test"}
    texts = ["\n".join(row["text"] for row in read_documents(found[split])) for split in ("train", "val", "test")]
    assert texts == [f"{name} one\n{name} two" for name in ("train", "validation", "test")]
    data = TextData(path=str(tmp_path), length=8)
    data.setup("fit")
    assert data.decode(data.val_set.tokens.tolist()).startswith("validati")


def test_a_single_file_is_split_and_a_missing_validation_is_taken_from_training(tmp_path):
    (tmp_path / "notes.md").write_text("\n\n".join(f"Paragraph {i} says this." for i in range(40)))
    data = TextData(path=str(tmp_path / "notes.md"), length=16)
    data.setup("fit")
    parts = [data.decode(part.tokens.tolist()) for part in (data.train_set, data.val_set, data.test_set)]
    assert all("says this" in part for part in parts)
    lines = [jsonl for jsonl in (json.dumps({"text": f"row {i} of it"}) + "\n" for i in range(40))]
    (tmp_path / "train.jsonl").write_text("".join(lines))
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "the test text itself"}) + "\n")
    (tmp_path / "notes.md").unlink()
    data = TextData(path=str(tmp_path), length=16)
    data.setup("fit")
    assert "the test text" in data.decode(data.test_set.tokens.tolist())
    assert "row" in data.decode(data.val_set.tokens.tolist())


def test_a_template_makes_one_sequence_of_each_row(tmp_path):
    columns = {"text": ["Oh, great.", "A long remark that is cut"], "label": [1, 0]}
    write_parquet_splits(tmp_path / "tweets", columns, ("train", "validation", "test"))
    template = "Tweet: {text}\nSarcasm: {label}"
    data = TextData(
        path=str(tmp_path / "tweets"), template=template, label_names=["no", "yes"], length=30, train_rows=1
    )
    data.setup("fit")
    assert len(data.train_set) == 1
    assert data.train_set[0]["input_ids"].tolist() == [*bytes_of("Tweet: Oh, great.\nSarcasm: yes"), 256][:30]
    assert data.val_set[1]["input_ids"].tolist() == bytes_of("Tweet: A long remark that is cut")[:30]
    wrong = TextData(path=str(tmp_path / "tweets"), template=template, label_names=["no"])
    with pytest.raises(UserError, match=r"label_names: \['no'\] has no name for the label '1'"):
        wrong.setup("fit")


def test_a_tokenizer_gives_the_models_tokens_and_decodes_them(tmp_path):
    write_language_model(tmp_path / "model")
    codec = Codec(str(tmp_path / "model"))
    assert codec.end == 256
    assert codec.decode(codec.encode(["häßlich, no?"])[0]) == "häßlich, no?"
    assert Codec().decode([*bytes_of("häßlich"), 256]) == "häßlich"
    data = TextData(tokenizer=str(tmp_path / "model"), length=32, vocab_size=257)
    data.setup("fit")
    plain = TextData(length=32)
    plain.setup("fit")
    assert data.decode(data.test_set[0]["input_ids"].tolist()) == plain.decode(plain.test_set[0]["input_ids"].tolist())
    with pytest.raises(UserError, match=r"vocab_size: 300 declared, the tokenizer in .* has 257"):
        TextData(tokenizer=str(tmp_path / "model"), vocab_size=300).setup("fit")


def test_the_retention_text_is_a_second_loader_of_the_validation(tmp_path):
    write_parquet_splits(
        tmp_path / "wiki", {"text": ["", " = T = \n", "Prose that is longer than the rest"]}, ("test",)
    )
    data = TextData(length=20, retention=str(tmp_path / "wiki"), retention_rows=2, batch_size=4)
    data.setup("fit")
    first, second = data.val_dataloader()
    assert next(iter(first))["input_ids"].shape[1] == 20
    (batch,) = second
    assert batch["input_ids"].shape == (2, 20)
    assert batch["attention_mask"].sum(1).tolist() == [len(" = T = \n"), 20]
    packed = TextData(length=20, retention="code")
    packed.setup("fit")
    assert len(packed.retention_set) > 1000
    assert TextData(length=20).retention_dataloader() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 1}, "length: 1 is not accepted"),
        ({"embedded": "prose"}, "embedded: 'prose' is not one of topics, code"),
        ({"val_fraction": 0.6}, "val_fraction: 0.6"),
        ({"train_rows": 0}, "train_rows: 0"),
        ({"template": "no columns"}, "template: 'no columns' is not accepted; it needs columns in braces"),
        ({"template": "{text"}, "template: '{text' is not accepted"),
        ({"vocab_size": 256}, "vocab_size: 256 declared, bytes have 257"),
    ],
)
def test_bad_settings_are_named_at_once(settings, message):
    with pytest.raises(UserError, match=message.replace("{", r"\{")):
        TextData(**settings)


def test_bad_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"path: .*nowhere not found; expected a file"):
        TextData(path=str(tmp_path / "nowhere")).setup("fit")
    with pytest.raises(UserError, match=r"holds no data; expected files \.txt"):
        TextData(path=str(tmp_path)).setup("fit")
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(UserError, match=r"train.jsonl, line 2: not JSON"):
        TextData(path=str(tmp_path)).setup("fit")
    (tmp_path / "train.jsonl").write_text('{"body": "a"}\n' * 50)
    with pytest.raises(UserError, match=r"train.jsonl, line 1: column 'text' not found; it has body"):
        TextData(path=str(tmp_path)).setup("fit")
    (tmp_path / "train.jsonl").unlink()
    (tmp_path / "train.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(UserError, match=r"train.parquet: not a .parquet file that can be read"):
        TextData(path=str(tmp_path)).setup("fit")
    with pytest.raises(UserError, match=r"tokenizer: .*nowhere not found"):
        TextData(tokenizer=str(tmp_path / "nowhere")).setup("fit")
    with pytest.raises(UserError, match=r"retention: .*nowhere not found"):
        TextData(length=20, retention=str(tmp_path / "nowhere")).setup("fit")
    with pytest.raises(UserError, match=r"length: 1000000 tokens a block, but the train part has only"):
        TextData(length=1_000_000).setup("fit")
