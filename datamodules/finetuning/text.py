"""Text for causal language models: blocks of tokens cut from documents, or one templated example for each row."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.text_files import EMBEDDED, Embedded, embedded, find_splits, read_documents
from framework.data import DataModule
from framework.errors import UserError
from framework.readers.tables import Row
from framework.readers.text import check_encoding
from framework.readers.transformers_folder import LOCAL
from framework.settings import at_least, between, one_of

BYTES = 257
"""Size of the vocabulary without a tokenizer: the bytes of UTF-8, and 256 for the end of a document."""


class Codec:
    """Text to tokens and back: with a tokenizer of transformers, or as bytes.

    Args:
        folder: Local folder of the tokenizer; ``None`` for bytes.

    Attributes:
        vocab_size: Tokens.
        end: Number of the token that ends a document.

    Raises:
        UserError: the folder is missing or holds no tokenizer.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.tokenizer: Any = None
        if folder is None:
            self.vocab_size, self.end = BYTES, BYTES - 1
            return
        where = Path(folder).expanduser()
        if not where.is_dir():
            raise UserError(f"tokenizer: {where} not found; expected a local folder of transformers (tokenizer.json)")
        from transformers import AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(str(where), **LOCAL)
        except Exception as error:  # transformers raises many types
            said = str(error).strip().splitlines()[0]
            raise UserError(f"tokenizer: {where} holds no tokenizer ({said}); expected tokenizer.json") from error
        self.vocab_size = len(self.tokenizer)
        self.end = self.tokenizer.eos_token_id
        if self.end is None:
            self.end = self.tokenizer.pad_token_id or 0

    def encode(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Returns the tokens of each text; ``special`` adds those that the tokenizer starts a text with."""
        if self.tokenizer is None:
            return [list(text.encode()) for text in texts]
        return self.tokenizer(list(texts), add_special_tokens=special, verbose=False)["input_ids"] if texts else []

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens, the end of a document left out."""
        if self.tokenizer is None:
            return bytes(token for token in tokens if token < BYTES - 1).decode(errors="replace")
        return self.tokenizer.decode(list(tokens), skip_special_tokens=True)


class Sequences(Dataset):
    """Token sequences of different lengths, kept one after the other; reads a batch at a time.

    A batch is a mapping: ``input_ids`` and ``attention_mask`` int64 ``(B, T)``, T the longest of the batch, padded at
    the end; ``labels`` the same tokens with -100 at the padding.

    Args:
        sequences: The tokens of each.
        pad: Number of the token to pad with.
    """

    draws_random_numbers = False

    def __init__(self, sequences: Sequence[Sequence[int]], pad: int) -> None:
        lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
        self.starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        self.tokens = torch.tensor([token for sequence in sequences for token in sequence], dtype=torch.int32)
        self.pad = pad

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Returns the batch at ``indices``."""
        rows = torch.as_tensor(indices)
        first = self.starts[rows]
        lengths = self.starts[rows + 1] - first
        steps = torch.arange(int(lengths.max()))
        mask = steps < lengths[:, None]
        places = (first[:, None] + steps).clamp(max=len(self.tokens) - 1)
        tokens = torch.where(mask, self.tokens[places].long(), self.pad)
        return {"input_ids": tokens, "attention_mask": mask.long(), "labels": tokens.masked_fill(~mask, -100)}


def pack(documents: Sequence[Sequence[int]], length: int, end: int) -> list[list[int]]:
    """Puts documents one after the other and cuts them into blocks; the incomplete last block is left out.

    Args:
        documents: The tokens of each.
        length: Of a block, in tokens.
        end: Number of the token that ends each document.

    Returns:
        Blocks of ``length`` tokens.
    """
    stream = [token for document in documents for token in (*document, end)]
    return [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]


def split_documents(
    rows: list[Row], fractions: Sequence[float], seed: int, size: Callable[[Row], int]
) -> list[list[Row]]:
    """Splits documents at random so that each part gets about its share of the text, every part at least one.

    Args:
        rows: The documents.
        fractions: The share of each part but the first, which gets the rest.
        seed: Decides which.
        size: Of a document.

    Returns:
        The first part, then one for each fraction; each in the documents' order.

    Raises:
        UserError: there are fewer documents than parts.
    """
    wanted = [fraction for fraction in fractions if fraction > 0]
    if len(rows) < len(wanted) + 1:
        raise UserError(f"path: {len(rows)} documents cannot be split in {len(wanted) + 1} parts; give files by split")
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()
    sizes = list(map(size, rows))
    total = sum(sizes)
    parts: list[list[Row]] = []
    for fraction in fractions:
        taken: list[int] = []
        reached = 0
        while fraction > 0 and len(order) > 1 and reached < fraction * total:
            taken.append(order.pop())
            reached += sizes[taken[-1]]
        parts.append([rows[i] for i in sorted(taken)])
    return [[rows[i] for i in sorted(order)], *parts]


class TextData(DataModule):
    """Texts as token sequences for a causal language model.

    Without a template documents are packed into blocks of ``length`` tokens. With one, each row is a sequence of its
    own, cut at ``length``; the loss is on all of it. Batches are mappings, see :class:`Sequences`.

    Reads: text, CSV, TSV, JSONL, JSON, Parquet, Arrow (UTF-8, or ``encoding``; also ``.gz``), by a tokenizer or as
        bytes. Without a path: the prose of Python's help topics.

    Args:
        path: A file (``.txt``, ``.jsonl``, ``.csv``, ``.tsv``, ``.parquet``, ``.arrow``) or a folder with files by
            split, as Hugging Face's ``datasets`` lays them out (``train-00000-of-00001.parquet``,
            ``test/data-….arrow``).
        embedded: The data used without a path: ``topics`` (English prose) or ``code``, both of Python itself.
        tokenizer: Local folder of a tokenizer of transformers; ``null`` takes bytes, 257 tokens.
        length: Tokens in a block, or at most in a templated row.
        column: The text's column.
        template: A row's text, with columns in braces: ``"Tweet: {text}\\nSarcasm: {label}"``.
        label_names: Names of the numbers in the column ``label``, for the template.
        train_rows: Rows taken at most from the training split, in order; all by default.
        eval_rows: The same of the validation and the test split.
        val_fraction: Share of the text for validation where no file is: of the training split.
        test_fraction: The same for the test; where there is a validation split but no test split, that is used.
        split_seed: Decides which documents these are.
        retention: A second text (``topics``, ``code``, or a path; of a folder the test split) on which perplexity is
            measured beside the validation: what the model forgets.
        retention_rows: Rows taken of it at most, empty ones not counted, each a sequence of its own; packed by default.
        vocab_size: Checked against the tokenizer's where given, so that a config can pass it on to the model.
        encoding: Encoding of files without a byte order mark; UTF-8 by default.
        batch_size: Sequences in a training batch, per process.
        eval_batch_size: Sequences in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest, for tokens are in memory.
        drop_last: Whether training leaves out an incomplete last batch.

    Attributes:
        vocab_size: Tokens of the tokenizer (after ``setup`` where there is one).

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, or lacks a column (in
            ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        embedded: Embedded = "topics",
        tokenizer: str | Path | None = None,
        length: int = 128,
        column: str = "text",
        template: str | None = None,
        label_names: list[str] | None = None,
        train_rows: int | None = None,
        eval_rows: int | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.1,
        split_seed: int = 0,
        retention: str | None = None,
        retention_rows: int | None = None,
        vocab_size: int | None = None,
        encoding: str | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(2, length=length)
        one_of(get_args(Embedded), embedded=embedded)
        check_encoding(encoding=encoding)
        between(0, 0.5, "()", val_fraction=val_fraction, test_fraction=test_fraction)
        at_least(1, train_rows=train_rows, eval_rows=eval_rows, retention_rows=retention_rows)
        if tokenizer is None and vocab_size not in (None, BYTES):
            raise UserError(f"vocab_size: {vocab_size} declared, bytes have {BYTES}")
        self.columns = [column] if template is None else _fields(template)
        self.path, self.embedded, self.tokenizer, self.length = path, embedded, tokenizer, length
        self.column, self.template, self.label_names, self.encoding = column, template, label_names, encoding
        self.train_rows, self.eval_rows = train_rows, eval_rows
        self.val_fraction, self.test_fraction, self.split_seed = val_fraction, test_fraction, split_seed
        self.retention, self.retention_rows = retention, retention_rows
        self.retention_set: Dataset | None = None
        self.codec: Codec | None = None
        self._declared = vocab_size
        self.vocab_size = vocab_size if tokenizer is not None else BYTES
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, using {EMBEDDED[embedded]}")

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises the texts, once.

        Raises:
            UserError: a file is missing or broken, or the tokenizer has another size than declared.
        """
        if self.train_set is not None:
            return
        splits = self._splits()
        self.codec = Codec(self.tokenizer)
        self.vocab_size = self.codec.vocab_size
        if self._declared not in (None, self.vocab_size):
            raise UserError(
                f"vocab_size: {self._declared} declared, the tokenizer in {self.tokenizer} has {self.vocab_size}"
            )
        train, val, test = (self._dataset(splits[split], split) for split in ("train", "val", "test"))
        if self.retention is not None:
            self.retention_set = self._retention()
        self.train_set, self.val_set, self.test_set = train, val, test

    def _splits(self) -> dict[str, list[Row]]:
        if self.path is None:
            rows = {"all": embedded(self.embedded)}
        else:
            found = find_splits(Path(self.path).expanduser())
            rows = {split: read_documents(files, self.encoding) for split, files in found.items()}
        missing = [name for name in ("val", "test") if name not in rows]
        first = rows.pop("all", None) or rows.get("train")
        if not first:
            raise UserError(
                f"path: {self.path} has no training split; expected train-*.parquet, train.jsonl or the like"
            )
        # a single document is split into paragraphs, so that some can be held out
        if missing and self.template is None and len(first) <= len(missing):
            first = [
                Row({self.column: part + "\n\n"}, row.source)
                for row in first
                for part in row.text(self.column).split("\n\n")
            ]
        if missing == ["test"]:
            rows["test"] = rows["val"]
        elif missing:
            fractions = [{"val": self.val_fraction, "test": self.test_fraction}[name] for name in missing]
            first, *parts = split_documents(first, fractions, self.split_seed, lambda row: len(str(row)))
            rows.update(zip(missing, parts, strict=True))
        limits = {"train": self.train_rows, "val": self.eval_rows, "test": self.eval_rows}
        return {split: part[: limits[split]] for split, part in {**rows, "train": first}.items()}

    def _texts(self, rows: list[Row], columns: list[str]) -> list[str]:
        texts = []
        for row in rows:
            cells = {name: row.text(name) for name in columns}
            if self.template is None or columns == [self.column] != self.columns:
                texts.append(cells[columns[0]])
                continue
            # the values themselves, for a template may format numbers
            values = {name: row[row.column(name) or name] for name in columns}
            if self.label_names is not None and "label" in values:
                values["label"] = self._label(cells["label"], row)
            try:
                texts.append(self.template.format(**values))
            except ValueError as error:
                raise UserError(f"template: {self.template!r} does not fit {row.source} ({error})") from error
        return texts

    def _label(self, value: str, row: Row) -> str:
        assert self.label_names is not None
        try:
            number = float(value)
            if number != int(number) or number < 0:
                raise ValueError
            return self.label_names[int(number)]
        except (ValueError, IndexError, OverflowError) as error:
            raise UserError(
                f"label_names: {self.label_names} has no name for the label {value!r} of {row.source}"
            ) from error

    def _dataset(self, rows: list[Row], split: str) -> Sequences:
        assert self.codec is not None
        texts = self._texts(rows, self.columns)
        tokens = self.codec.encode(texts, special=self.template is not None)
        if self.template is None:
            sequences = pack(tokens, self.length, self.codec.end)
            if not sequences:
                found = sum(map(len, tokens))
                raise UserError(f"length: {self.length} tokens a block, but the {split} part has only {found}")
        else:
            sequences = [[*row, self.codec.end][: self.length] for row in tokens]
        return Sequences(sequences, self.codec.end)

    def _retention(self) -> Sequences:
        assert self.codec is not None
        assert self.retention is not None
        if self.retention in EMBEDDED:
            rows = embedded(self.retention)
        else:
            try:
                splits = find_splits(Path(self.retention).expanduser())
            except UserError as error:
                raise UserError(f"retention: {str(error).removeprefix('path: ')}") from error
            files = splits.get("test") or splits.get("val") or next(iter(splits.values()))
            rows = read_documents(files, self.encoding)
        texts = [text for text in self._texts(rows, [self.column]) if text.strip()]
        if self.retention_rows is None:
            sequences = pack(self.codec.encode(texts), self.length, self.codec.end)
        else:
            sequences = [row[: self.length] for row in self.codec.encode(texts[: self.retention_rows], special=True)]
        sequences = [row for row in sequences if len(row) > 1]
        if not sequences:
            raise UserError(f"retention: {self.retention} has no text of {self.length} tokens")
        return Sequences(sequences, self.codec.end)

    def val_dataloader(self) -> Any:
        """Batches of the validation split; with ``retention``, a second loader of that text."""
        first = super().val_dataloader()
        return first if self.retention_set is None else [first, self._loader(self.retention_set, train=False)]

    def retention_dataloader(self) -> Any:
        """Batches of the retention text; ``None`` without one."""
        return None if self.retention_set is None else self._loader(self.retention_set, train=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens."""
        assert self.codec is not None
        return self.codec.decode(tokens)


def _fields(template: str) -> list[str]:
    """Returns the columns that a template names.

    Raises:
        UserError: it names none, or is broken.
    """
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"template: {template!r} is not accepted: {error}") from error
    if not names or not all(name.isidentifier() for name in names):
        raise UserError(f"template: {template!r} is not accepted; it needs columns in braces, such as {{text}}")
    return list(dict.fromkeys(names))
