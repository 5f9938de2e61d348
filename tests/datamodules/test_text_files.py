"""The files of each split, in the folders that people and programs make."""

from __future__ import annotations

from pathlib import Path, PurePath

import numpy as np
import pytest

from datamodules.sequence.token_files import NUMBERED
from datamodules.sequence.token_files import SUFFIXES as TOKENS
from datamodules.sequence.tokens import TokenData
from datamodules.text_files import SUFFIXES, embedded, find_splits, read_documents
from framework.errors import UserError


def splits(folder, names, suffixes=SUFFIXES):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("text")
    found = find_splits(folder, suffixes)
    return {split: [str(file.relative_to(folder)) for file in files] for split, files in found.items()}


@pytest.mark.parametrize(
    ("names", "found"),
    [
        # a repository of Hugging Face: the card is not data
        (
            ["README.md", "data/train-0.parquet", "data/validation-0.parquet"],
            {"train": ["data/train-0.parquet"], "val": ["data/validation-0.parquet"]},
        ),
        (["train.txt", "val.txt", "LICENSE", "Makefile", "notes.md"], {"train": ["train.txt"], "val": ["val.txt"]}),
        (["Training.CSV", "Testing.CSV"], {"train": ["Training.CSV"], "test": ["Testing.CSV"]}),
        # save_to_disk after map()
        (["train/data-0-of-1.arrow", "train/cache-0f3a.arrow"], {"train": ["train/data-0-of-1.arrow"]}),
        # aclImdb: the nearest folder that says a split
        (["train/pos/0.txt", "test/pos/0.txt"], {"train": ["train/pos/0.txt"], "test": ["test/pos/0.txt"]}),
        (["train/train-0.csv", "test/test-0.csv"], {"train": ["train/train-0.csv"], "test": ["test/test-0.csv"]}),
        (["a.csv", "._a.csv", ".ipynb_checkpoints/a.csv", "__MACOSX/a.csv", "notes.txt"], {"all": ["a.csv"]}),
        (["b.txt", "a.txt", "sub/c.txt"], {"all": ["a.txt", "b.txt"]}),
        (["a.csv", "a.csv.gz"], {"all": ["a.csv"]}),
        (["a.jsonl", "tokenizer.json", "tokenizer_config.json", "config.json"], {"all": ["a.jsonl"]}),
        (["train.csv", "model/vocab.json", "more/test.csv"], {"train": ["train.csv"]}),
    ],
)
def test_folders(tmp_path, names, found):
    assert splits(tmp_path, names) == found


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train.csv", "train.jsonl"], r"train\.csv and train\.jsonl have one name; keep one of them"),
        (["plain/train-0.parquet", "raw/train-0.parquet"], "holds several data sets, in plain and raw"),
        (["notes.pdf"], "holds no data; expected files .txt"),
    ],
)
def test_folders_that_are_not_one_data_set(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        splits(tmp_path, names)


def test_folders_below_are_not_looked_at_where_the_files_are(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "lost.csv").symlink_to(tmp_path / "nowhere")
    assert splits(tmp_path, ["a.csv"]) == {"all": ["a.csv"]}


def test_what_was_taken_is_printed(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr("datamodules.text_files.rank_zero_info", lines.append)
    splits(tmp_path, ["train.csv", "valid.csv", "._train.csv", "notes.pdf", "notes.txt"])
    taken, left_out = (
        "files 1 to train on, 1 to validate on",
        "1 not used, 1 hidden left out, 1 of other kinds left out",
    )
    assert lines == [f"{tmp_path}: {taken}; {left_out}"]


def test_a_name_that_is_too_long():
    with pytest.raises(UserError, match=r"a … cannot be read"):
        find_splits(Path("a" * 5_000))


def test_linked_folders(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(tmp_path / "elsewhere")
    assert list(find_splits(tmp_path / "data")) == ["train"]


def test_many_files_take_no_longer_each(tmp_path, monkeypatch):
    """A search in a list of paths made 4,000 files take nine seconds: paths are compared a few times each, or never."""
    for i in range(300):
        (tmp_path / f"{i}.txt").touch()
    compared, equal = [], PurePath.__eq__
    monkeypatch.setattr(PurePath, "__eq__", lambda one, other: compared.append(1) or equal(one, other))
    assert len(find_splits(tmp_path)["all"]) == 300
    assert len(compared) < 10 * 300


def test_tokens_beside_bytes(tmp_path):
    """dolma writes part.npy and part.csv.gz; a licence is no token either."""
    np.arange(200, dtype=np.uint16).tofile(tmp_path / "part-0.npy")
    (tmp_path / "part-0.csv.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "LICENSE").write_text("text")
    assert splits(tmp_path, [], NUMBERED) == {"all": ["part-0.npy"]}
    data = TokenData(str(tmp_path), vocab_size=300, length=8, val_fraction=0.2, test_fraction=0.2)
    data.setup("fit")
    assert [stream.dtype for stream in data.train_set.streams] == [np.uint16]
    assert splits(tmp_path / "wiki", ["enwik8", "enwik8.zip"], TOKENS) == {"all": ["enwik8"]}


def test_documents_and_rows(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n")
    (tmp_path / "b.csv").write_text("text\nthree\n")
    found = read_documents([tmp_path / "a.txt", tmp_path / "b.csv"])
    assert [row["text"] for row in found] == ["one\ntwo\n", "three"]
    assert [row.source.rpartition("/")[2] for row in found] == ["a.txt", "b.csv, line 2"]
    assert len(embedded("topics")) > 50
