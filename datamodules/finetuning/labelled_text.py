"""Labelled texts for text classification: TSV, JSON lines, CSV, Parquet, labelled lines, rated sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.finetuning.text import Codec, Sequences
from datamodules.text_files import Embedded, embedded, find_splits
from framework.data import DataModule
from framework.errors import UserError
from framework.readers.tables import SUFFIXES as TABLES
from framework.readers.tables import Row, read_rows, suffix_of
from framework.readers.text import check_encoding, read_lines
from framework.settings import at_least, between

ENDINGS = tuple(suffix + packed for suffix in (".txt", *TABLES) for packed in ("", ".gz"))
EXPECTED = (
    "a .tsv or .csv with a header (text, label), .jsonl, .json, .parquet; or a .txt with lines LABEL<TAB>sentence "
    "between lines ###id, or lines id<TAB>rating<TAB>sentence"
)
RATED = ("negative", "positive")


def read_labelled(file: Path, least: float = 0.5, encoding: str | None = None) -> list[Row]:
    """Returns rows with ``text`` and ``label`` (and the file's other columns).

    Args:
        file: In one of the formats of ``EXPECTED``; column names in any case.
        least: Smallest distance of a sentence's rating from 0; rated sentences become ``negative`` or ``positive``.
        encoding: Encoding of a file without a byte order mark; UTF-8 by default.

    Raises:
        UserError: the file is missing, broken, or in another format.
    """
    if suffix_of(file) in TABLES:
        return read_rows(file, encoding)
    return list(_lines(file, encoding, least))


def _lines(file: Path, encoding: str | None, least: float) -> Iterator[Row]:
    for number, line in read_lines(file, encoding, EXPECTED):
        if line.startswith("###"):
            continue
        parts = [part.strip() for part in line.split("\t")]
        if len(parts) == 2:
            yield Row({"text": parts[1], "label": parts[0]}, file, number)
            continue
        try:
            rating = float(parts[1])
            _, _, sentence = parts
        except (IndexError, ValueError):
            raise UserError(f"path: {file}, line {number}: {line[:60]!r}; expected {EXPECTED}") from None
        if not math.isfinite(rating):
            raise UserError(f"path: {file}, line {number}: the rating {parts[1]!r} is not finite")
        if abs(rating) >= least:
            yield Row({"text": sentence, "label": RATED[rating > 0]}, file, number)


class LabelledSequences(Dataset):
    """Tokens of different lengths with a label each; a batch is ``(x (B, T), y (B,))``, padded at the end.

    Args:
        sequences: The tokens of each.
        labels: Classes, one for each.
        pad: Number of the token to pad with.
    """

    draws_random_numbers = False

    def __init__(self, sequences: Sequence[Sequence[int]], labels: Sequence[int], pad: int) -> None:
        self.sequences, self.labels = Sequences(sequences, pad), torch.tensor(labels, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.__getitems__([index])
        return x[0], y[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Returns the batch at ``indices``."""
        return self.sequences.__getitems__(indices)["input_ids"], self.labels[torch.as_tensor(indices)]


class LabelledText(DataModule):
    """Texts with a label each, and other sets of the same labels to test on, out of distribution.

    Batches are ``(x, y)``: ``x`` tokens int64 (B, T), T the longest of the batch, padded at the end with ``pad``; ``y``
    int64 (B,). A folder's ``train``, ``dev`` and ``test`` files are taken as they are. With one file beside the
    training data, that is the test and ``val_fraction`` of the training data validates; a lone file is split in three.

    Reads: CSV, TSV, JSONL, JSON, Parquet, Arrow, PubMed's txt, rated sentences (UTF-8, or ``encoding``; also ``.gz``);
        a folder by its splits. ``make data/minilm data/sentiment`` fetches a small
    encoder and 23,000 rated sentences.

    Args:
        path: A file or a folder of files by split; English help texts of Python and its code, by default, a toy of two
            classes.
        ood: Names to files or folders (of a folder the test file) with further test sets.
        tokenizer: Local folder of the encoder's tokenizer; ``null`` takes bytes, 257 tokens.
        text_column: Column of the texts.
        pair_column: Column of second texts, as for inference; none by default.
        label_column: Column of the labels.
        label_names: The labels as files have them, in the order of their numbers; sorted as found by default.
        length: Tokens of a text, at most.
        train_rows: Training rows at most, at random.
        eval_rows: The same of each other part.
        val_fraction: Share for validation, and for the test of a lone file.
        least_rating: Of rated sentences, those rated at least so far from 0 are kept.
        split_seed: Decides which rows.
        num_classes: Checked where given, so that a config can pass it on to the model.
        encoding: Encoding of files without a byte order mark; UTF-8 by default.
        batch_size: Texts in a training batch, per process.
        eval_batch_size: In an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest, for tokens are in memory.
        drop_last: Whether training leaves out an incomplete last batch.

    Attributes:
        vocab_size: Tokens (after ``setup`` where there is a tokenizer).
        pad: The padding token, the same.
        test_names: Of the test loaders.

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, or lacks a column, a
            label is not known (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        ood: dict[str, str] | None = None,
        tokenizer: str | Path | None = None,
        text_column: str = "text",
        pair_column: str | None = None,
        label_column: str = "label",
        label_names: list[str] | None = None,
        length: int = 128,
        train_rows: int | None = None,
        eval_rows: int | None = None,
        val_fraction: float = 0.1,
        least_rating: float = 0.5,
        split_seed: int = 0,
        num_classes: int | None = None,
        encoding: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, num_classes=num_classes)
        at_least(0, least_rating=least_rating)
        between(0, 0.5, "()", val_fraction=val_fraction)
        check_encoding(encoding=encoding)
        at_least(2, length=length, train_rows=train_rows, eval_rows=eval_rows)
        at_least(0, least_rating=least_rating)
        self.path, self.ood, self.tokenizer = path, dict(ood or {}), tokenizer
        self.text_column, self.pair_column, self.label_column = text_column, pair_column, label_column
        self.encoding = encoding
        self.label_names = [str(name) for name in label_names] if label_names is not None else None
        self.length, self.train_rows, self.eval_rows = length, train_rows, eval_rows
        self.val_fraction, self.least_rating, self.split_seed = val_fraction, least_rating, split_seed
        self.num_classes = len(label_names) if label_names is not None else num_classes
        if num_classes not in (None, self.num_classes):
            raise UserError(f"num_classes: {num_classes} declared, label_names has {self.num_classes}")
        self.codec: Codec | None = None
        self.vocab_size: int | None = None
        self.pad: int | None = None
        self.test_names = ("test", *self.ood)
        self.ood_sets: list[LabelledSequences] = []
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, telling Python's help texts from its code")

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises, once.

        Raises:
            UserError: a file is missing or broken, or the labels are not as many as declared.
        """
        if self.train_set is not None:
            return
        parts = self._parts()
        found = sorted({self._label(row) for row in parts["train"]}, key=_natural)
        names = self.label_names or found
        if self.num_classes not in (None, len(names)):
            raise UserError(f"num_classes: {self.num_classes} declared, path has the labels {', '.join(names)}")
        self.num_classes, self.label_names = len(names), names
        self.codec = Codec(self.tokenizer)
        self.vocab_size = self.codec.vocab_size
        own = getattr(self.codec.tokenizer, "pad_token_id", None)
        self.pad = self.codec.end if own is None else int(own)
        train, val, test = (self._dataset(parts[name], name) for name in ("train", "val", "test"))
        self.ood_sets = [self._dataset(self._others(Path(place)), name) for name, place in self.ood.items()]
        self.train_set, self.val_set, self.test_set = train, val, test

    def _parts(self) -> dict[str, list[Row]]:
        if self.path is None:
            pieces = [(part, name) for name in ("code", "topics") for part in _toy(name)]
            parts = {"all": [Row({self.text_column: part, self.label_column: name}) for part, name in pieces]}
        else:
            files = find_splits(Path(self.path).expanduser(), ENDINGS)
            parts = {name: self._rows(own) for name, own in files.items()}
        rng = np.random.default_rng(self.split_seed)
        first = parts.pop("all", None) or parts.get("train")
        if not first:
            raise UserError(f"path: {self.path} has no training rows; expected train.tsv or the like: {EXPECTED}")
        held = [name for name in ("val", "test") if name in parts]
        rows = [first[i] for i in rng.permutation(len(first))]
        count = max(1, round(self.val_fraction * len(rows)))
        if held == ["val", "test"]:
            val, test = parts["val"], parts["test"]
        else:
            val, rows = rows[:count], rows[count:]
            test = parts[held[0]] if held else rows[:count]
            rows = rows if held else rows[count:]
        if not rows or not test:
            raise UserError(f"path: {self.path} has too few rows to train, validate and test")
        return {"train": rows[: self.train_rows], "val": self._some(val, rng), "test": self._some(test, rng)}

    def _some(self, rows: list[Row], rng: np.random.Generator) -> list[Row]:
        return rows if self.eval_rows is None else [rows[i] for i in rng.permutation(len(rows))[: self.eval_rows]]

    def _others(self, path: Path) -> list[Row]:
        """Returns a further test set: a file, or a folder's test file."""
        files = find_splits(path.expanduser(), ENDINGS)
        own = next(iter(files.get(name) or () for name in ("test", "val", "all") if name in files), None)
        if not own:
            raise UserError(f"ood: {path} has no test file; expected {EXPECTED}")
        return self._some(self._rows(own), np.random.default_rng(self.split_seed))

    def _rows(self, files: list[Path]) -> list[Row]:
        rows = []
        for file in files:
            for row in read_labelled(file, self.least_rating, self.encoding):
                for column in (self.text_column, self.pair_column, self.label_column):
                    if column is not None and not row.text(column).strip():
                        raise UserError(f"{row.source}: column {column!r} is empty")
                rows.append(row)
        return rows

    def _label(self, row: Row) -> str:
        return row.text(self.label_column).strip()

    def _dataset(self, rows: list[Row], part: str) -> LabelledSequences:
        assert self.codec is not None
        assert self.label_names is not None
        assert self.pad is not None
        numbers: Mapping[str, int] = {name: number for number, name in enumerate(self.label_names)}
        labels = []
        for row in rows:
            label = self._label(row)
            if label not in numbers:
                raise UserError(f"label_names: {label!r} of {part} ({row.source}) is not one of {', '.join(numbers)}")
            labels.append(numbers[label])
        texts = [row.text(self.text_column) for row in rows]
        pairs = None if self.pair_column is None else [row.text(self.pair_column) for row in rows]
        if self.codec.tokenizer is None:
            joined = texts if pairs is None else [f"{a}\n{b}" for a, b in zip(texts, pairs, strict=True)]
            tokens = [row[: self.length] for row in self.codec.encode(joined)]
        else:
            options = {"truncation": True, "max_length": self.length, "verbose": False}
            tokens = self.codec.tokenizer(texts, pairs, **options)["input_ids"]
        return LabelledSequences(tokens, labels, self.pad)

    def test_dataloader(self) -> list[Any]:
        """Returns the test part, then each further set."""
        return [self._loader(part, train=False) for part in (self.test_set, *self.ood_sets)]


def _natural(label: str) -> tuple[int, float, str]:
    """Returns numbers as numbers, then texts."""
    try:
        return (0, float(label), label)
    except ValueError:
        return (1, 0.0, label)


def _toy(name: Embedded, rows: int = 200, size: int = 96) -> list[str]:
    """Returns pieces of a text that is part of Python."""
    text = "".join(row["text"] for row in embedded(name)[:60])
    step = max(size, len(text) // rows)
    return [text[i : i + size] for i in range(0, step * rows, step) if text[i : i + size].strip()]
