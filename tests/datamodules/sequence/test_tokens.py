"""Token windows: every format on disk, splits, the order of the batches, mistakes."""

from __future__ import annotations

import gzip
import json
import zipfile

import numpy as np
import pyarrow
import pytest
import torch

from datamodules.sequence.token_files import read_tokens
from datamodules.sequence.tokens import TokenData, Windows
from framework.errors import UserError

TOKENS = np.random.default_rng(0).integers(0, 300, 5000).astype(np.uint16)


def write(folder, kind):
    if kind == "bin":
        TOKENS.tofile(folder / "t.bin")
        (folder / "t.json").write_text(json.dumps({"dtype": "uint16", "vocab_size": 300}))
        return folder / "t.bin"
    if kind == "headless.npy":
        TOKENS.tofile(folder / "t.npy")  # what dolma writes and OLMoE reads: no header at all
        return folder / "t.npy"
    if kind == "npy":
        np.save(folder / "t.npy", TOKENS.astype(np.int32))
        return folder / "t.npy"
    rows = pyarrow.table({"input_ids": [row.tolist() for row in TOKENS.reshape(-1, 100)]})
    opened = pyarrow.ipc.new_stream if kind == "arrow stream" else pyarrow.ipc.new_file
    with pyarrow.OSFile(str(folder / "t.arrow"), "wb") as sink, opened(sink, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=20)
    return folder / "t.arrow"


@pytest.mark.parametrize("kind", ["bin", "headless.npy", "npy", "arrow stream", "arrow file"])
def test_each_format_gives_the_same_tokens(tmp_path, kind):
    path = write(tmp_path, kind)
    data = TokenData(path=str(path), vocab_size=300, length=50, shift=False, val_fraction=0.1, test_fraction=0.2)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (69, 9, 19)  # (N − 1) // 50
    batch = data.train_set.__getitems__([0, 68])
    assert batch["input_ids"].dtype == torch.int64
    for row, start in enumerate((0, 68 * 50)):
        assert batch["input_ids"][row].tolist() == TOKENS[start : start + 50].tolist()
        assert batch["targets"][row].tolist() == TOKENS[start + 1 : start + 51].tolist()
    assert data.test_set[0]["input_ids"].tolist() == TOKENS[4000:4050].tolist()


def test_bytes_plain_and_packed_and_mapped(tmp_path):
    text = ("The cat sat on the mat. " * 50).encode()
    (tmp_path / "enwik8").write_bytes(text)
    (tmp_path / "enwik8.gz").write_bytes(gzip.compress(text))
    with zipfile.ZipFile(tmp_path / "enwik8.zip", "w") as archive:
        archive.writestr("enwik8", text)
    for name in ("enwik8", "enwik8.gz", "enwik8.zip"):
        tokens, vocabulary = read_tokens(tmp_path / name)
        assert tokens.tobytes() == text
        assert vocabulary == 256
    assert isinstance(read_tokens(tmp_path / "enwik8")[0], np.memmap)
    assert isinstance(read_tokens(write(tmp_path, "bin"))[0], np.memmap)
    data = TokenData(path=str(tmp_path / "enwik8.gz"), length=24)
    assert data.decode(list(text[:7])) == "The cat"


def test_a_folder_says_its_splits(tmp_path):
    for name, values in {"train": TOKENS[:3000], "val": TOKENS[3000:3500], "test": TOKENS[3500:]}.items():
        values.tofile(tmp_path / f"{name}.bin")
    data = TokenData(path=str(tmp_path), vocab_size=300, length=50, eval_windows=4)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set), len(data.test_set)) == (59, 4, 4)
    assert data.test_set[0]["input_ids"].tolist() == TOKENS[3500:3550].tolist()


def test_no_window_runs_from_one_file_into_the_next():
    windows = Windows([TOKENS[:120], TOKENS[1000:1200]], length=50, vocab_size=300)
    assert len(windows) == 2 + 3
    assert windows[2]["input_ids"].tolist() == TOKENS[1000:1050].tolist()
    shifted = Windows([TOKENS[:120], TOKENS[1000:1200]], length=50, vocab_size=300, shift=True)
    places = set()
    for _ in range(50):
        batch = shifted.__getitems__(range(5))
        for row in range(5):
            stream = TOKENS[:120] if row < 2 else TOKENS[1000:1200]
            found = batch["input_ids"][row].numpy()
            starts = [s for s in range(len(stream) - 50) if np.array_equal(stream[s : s + 50], found)]
            assert len(starts) == 1
            assert np.array_equal(stream[starts[0] + 1 : starts[0] + 51], batch["targets"][row].numpy())
            places.add((row < 2, starts[0]))
    assert len(places) > 60  # of 70 + 150 that there are


def test_the_embedded_text_and_the_order_of_its_batches():
    data = TokenData(length=64, batch_size=8)
    data.setup("fit")
    assert data.vocab_size == 256
    torch.manual_seed(3)
    first = [batch["input_ids"] for batch, _ in zip(data.train_dataloader(), range(4), strict=False)]
    torch.manual_seed(3)
    loader = data.train_dataloader()
    loader.load_state_dict({**loader.state_dict(), "position": 2})
    again = next(iter(loader))["input_ids"]
    assert torch.equal(first[2], again)  # shifts included
    assert not torch.equal(first[0], first[1])
    assert "statement" in "".join(
        data.decode(row["input_ids"].tolist()) for row in (data.train_set[i] for i in range(99))
    )


def read(data):
    data.setup("fit")
    data.train_set.__getitems__(range(len(data.train_set)))


def test_mistakes_are_named(tmp_path):
    with pytest.raises(UserError, match="source: 'topic' is not one of topics, code"):
        TokenData(source="topic")
    with pytest.raises(UserError, match="dtype: 'float32' is not one of uint8"):
        TokenData(dtype="float32")
    with pytest.raises(UserError, match="length: 0 is not accepted; at least 1"):
        TokenData(length=0)
    with pytest.raises(UserError, match="their sum is below 1"):
        TokenData(val_fraction=0.6, test_fraction=0.4)

    def refused(message, path, **settings):
        with pytest.raises(UserError, match=message):
            read(TokenData(**{"path": str(path), "length": 50, **settings}))

    refused("nowhere not found", tmp_path / "nowhere")
    write(tmp_path, "bin")
    refused("vocab_size: 256, but .*t.bin has 300 tokens", tmp_path / "t.bin")
    refused("length: 5000 tokens a window", tmp_path / "t.bin", vocab_size=300, length=5000)
    refused(r"vocab_size: 256, but the data has the token \d+", write(tmp_path, "npy"))
    (tmp_path / "odd.bin").write_bytes(b"abc")
    refused("odd.bin has 3 bytes, which is not a whole number of uint16", tmp_path / "odd.bin")
    (tmp_path / "empty.bin").write_bytes(b"")
    refused("empty.bin is empty", tmp_path / "empty.bin")
    (tmp_path / "bad.bin").write_bytes(b"abcd")
    (tmp_path / "bad.json").write_text("{")
    refused("bad.json is not JSON", tmp_path / "bad.bin")
    (tmp_path / "bad.gz").write_bytes(b"abcd")
    refused("bad.gz is not gzip", tmp_path / "bad.gz")
    refused("has no column 'tokens'; it has input_ids", write(tmp_path, "arrow stream"), column="tokens")
    np.save(tmp_path / "square.npy", np.zeros((2, 2), np.int64))
    refused("square.npy holds int64 .2, 2.; expected a flat array", tmp_path / "square.npy")
