"""Windows of a long stream of tokens, for language models: bytes of real text, or the user's token files.

Without a path it uses a text that is part of Python: ``topics``, the English prose of its help (0.46 MB), or ``code``,
the source code of its standard library (4.7 MB); both differ slightly between versions of Python. With a path it reads
a file or a folder, see :func:`datamodules.sequence.token_files.read_tokens`: any file as bytes (``enwik8``, also as
``.gz`` or ``.zip``), ``.bin`` with a JSON file, ``.npy`` as in OLMoE, Arrow. The split of a folder's files is given by
their names or their folders (``train.bin``, ``val.bin``); a stream without splits is cut into a first part for
training, the next for validation and the last for the test (for enwik8 the usual 90, 5 and 5 MB).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.finetuning.text import Codec
from datamodules.sequence.token_files import BYTES, NUMBERED, SUFFIXES, Dtype, read_tokens
from datamodules.text_files import EMBEDDED, Embedded, embedded, find_splits
from framework.data import DataModule
from framework.errors import UserError
from framework.readers.listing import list_files
from framework.settings import at_least, one_of

Stream = np.ndarray


class Windows(Dataset):
    """Consecutive windows of streams of tokens; reads a batch at a time.

    A batch is a mapping: ``input_ids`` int64 ``(B, T)`` and ``targets`` ``(B, T)``, the token after each.

    Args:
        streams: Streams (N,); no window crosses from one into the next.
        length: T.
        vocab_size: Number of possible tokens.
        shift: Whether each window starts at random up to T tokens later, drawn from torch's global generator.
        limit: Largest number of windows, from the start.
        where: Name of the streams, for messages.

    Raises:
        UserError: the streams are shorter than one window; on reading, a token is out of range.
    """

    def __init__(
        self,
        streams: Sequence[Stream],
        length: int,
        vocab_size: int,
        shift: bool = False,
        limit: int | None = None,
        where: str = "a part",
    ) -> None:
        self.streams, self.length, self.vocab_size = list(streams), length, vocab_size
        self.draws_random_numbers = shift
        self.ends = np.cumsum([(len(stream) - 1) // length for stream in self.streams])
        self.windows = int(self.ends[-1]) if limit is None else min(limit, int(self.ends[-1]))
        if self.windows < 1:
            longest = max(len(stream) for stream in self.streams)
            raise UserError(f"length: {length} tokens a window and one to predict, but {where} has only {longest}")

    def __len__(self) -> int:
        return self.windows

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: value[0] for name, value in self.__getitems__([index]).items()}

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Returns the batch at ``indices``."""
        rows = np.asarray(indices)
        which = np.searchsorted(self.ends, rows, side="right")
        first = (rows - np.where(which > 0, self.ends[which - 1], 0)) * self.length
        if self.draws_random_numbers:
            first = first + torch.randint(self.length, (len(rows),)).numpy()
        batch = np.empty((len(rows), self.length + 1), np.int64)
        for row, (stream, start) in enumerate(zip(which.tolist(), first.tolist(), strict=True)):
            tokens = self.streams[stream]
            start = min(start, len(tokens) - self.length - 1)
            batch[row] = tokens[start : start + self.length + 1]
        if batch.max() >= self.vocab_size or batch.min() < 0:
            found = int(batch.max() if batch.max() >= self.vocab_size else batch.min())
            raise UserError(f"vocab_size: {self.vocab_size}, but the data has the token {found}")
        tokens = torch.from_numpy(batch)
        return {"input_ids": tokens[:, :-1], "targets": tokens[:, 1:]}


class TokenData(DataModule):
    """Windows of bytes or tokens for language models.

    Reads: any file as its bytes (also ``.gz``, ``.zip``), ``.bin`` with a JSON file, ``.npy`` as in OLMoE, Arrow,
        memory-mapped. Without a path: the prose of Python's help or its library's source code. ``make
        data/enwik8.gz`` fetches 100 MB of Wikipedia.

    Args:
        path: A file, or a folder with files for the splits; ``None`` for ``source``.
        source: The text that comes with Python: ``topics`` or ``code``.
        length: T, tokens in a window.
        vocab_size: Number of possible tokens; 256 for bytes.
        dtype: Type of the numbers in ``.bin`` and headless ``.npy`` files; by default ``uint16``.
        column: Column of Arrow files.
        tokenizer: Local folder of the tokenizer that made the tokens, to show them as text.
        shift: Whether training windows start at random positions, different in each epoch, instead of at multiples of
            T.
        val_fraction: Share of a stream without splits for validation.
        test_fraction: Share for the test, at its end.
        eval_windows: Largest number of windows in the validation, and in the test.
        batch_size: Windows in a training batch.
        eval_batch_size: Windows in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.
        drop_last: Whether training drops an incomplete last batch.

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, or has tokens outside
            the vocabulary (in ``setup``, or when they are read).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        source: Embedded = "topics",
        length: int = 256,
        vocab_size: int = BYTES,
        dtype: Dtype | None = None,
        column: str = "input_ids",
        tokenizer: str | Path | None = None,
        shift: bool = True,
        val_fraction: float = 0.05,
        test_fraction: float = 0.05,
        eval_windows: int | None = None,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = True,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, eval_windows=eval_windows)
        one_of(get_args(Embedded), source=source)
        at_least(1, length=length)
        at_least(2, vocab_size=vocab_size)
        one_of(get_args(Dtype), dtype=dtype)
        if min(val_fraction, test_fraction) < 0 or val_fraction + test_fraction >= 1:
            raise UserError(f"val_fraction, test_fraction: {val_fraction}, {test_fraction}; their sum is below 1")
        self.path, self.source, self.length, self.dtype, self.column = path, source, length, dtype, column
        self.shift, self.fractions, self.eval_windows = shift, (val_fraction, test_fraction), eval_windows
        self.vocab_size, self.tokenizer = vocab_size, tokenizer
        self.codec: Codec | None = None

    def setup(self, stage: str) -> None:
        """Opens the files and splits the streams, once.

        Raises:
            UserError: a file is missing or broken, there is no training file, or a stream is shorter than one window.
        """
        if self.train_set is not None:
            return
        if self.tokenizer is not None:
            self.codec = Codec(self.tokenizer)
        splits = self._splits()
        first = splits.pop("all", None)
        if first is not None:
            splits = self._cut(first)
        if "train" not in splits:
            raise UserError(f"path: {self.path} has no training split; expected train.bin or the like")
        where = "a part" if self.path is None else f"a part of path {self.path}"
        sizes: dict[str, Any] = {"length": self.length, "vocab_size": self.vocab_size, "where": where}
        self.train_set = Windows(splits["train"], shift=self.shift, **sizes)
        if "val" in splits:
            self.val_set = Windows(splits["val"], limit=self.eval_windows, **sizes)
        if held := splits.get("test") or splits.get("val"):
            self.test_set = Windows(held, limit=self.eval_windows, **sizes)

    def _splits(self) -> dict[str, list[Stream]]:
        if self.path is None:
            rank_zero_info(f"TokenData: no path given; the bytes of {EMBEDDED[self.source]}")
            text = "\n".join(row["text"] for row in embedded(self.source))
            return {"all": [np.frombuffer(text.encode(), np.uint8)]}
        found: dict[str, list[Stream]] = {}
        path = Path(self.path).expanduser()
        numbered = path.is_dir() and list_files(path, NUMBERED).files  # beside them bytes are of another vocabulary
        for split, files in find_splits(path, NUMBERED if numbered else SUFFIXES).items():
            for file in files:
                tokens, vocabulary = read_tokens(file, self.dtype, self.column)
                if vocabulary is not None and vocabulary > self.vocab_size:
                    raise UserError(f"vocab_size: {self.vocab_size}, but {file} has {vocabulary} tokens")
                found.setdefault(split, []).append(tokens)
        return found

    def _cut(self, streams: list[Stream]) -> dict[str, list[Stream]]:
        """Splits streams without given splits, as if they were one stream."""
        val, test = self.fractions
        total = sum(map(len, streams))
        bounds = {"train": (0, round(total * (1 - val - test)))}
        bounds["val"] = (bounds["train"][1], round(total * (1 - test)))
        bounds["test"] = (bounds["val"][1], total)
        parts: dict[str, list[Stream]] = {}
        for split, (start, end) in bounds.items():
            at = 0
            for stream in streams:
                piece = stream[max(start - at, 0) : max(end - at, 0)]
                if len(piece):
                    parts.setdefault(split, []).append(piece)
                at += len(stream)
        return parts

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns tokens as text: by the tokenizer if there is one, otherwise as bytes or as numbers."""
        if self.codec is not None:
            return self.codec.decode(tokens)
        if self.vocab_size == BYTES:
            return bytes(tokens).decode(errors="replace")
        return " ".join(map(str, tokens))
