"""Instructions and their answers, packed into blocks of tokens; the loss is on the answers only.

The paths are of Alpaca's format: a JSON list of records ``{"instruction": …, "input": …, "output": …}``
(``alpaca_data_cleaned.json``), the same as JSON lines, or any other table with these columns. Each record becomes a
prompt by Alpaca's template (Taori et al. 2023) and an answer with the end token. The tokens of all records are
concatenated and cut into blocks. Without a path the records are Python's help topics: a question about a topic, and its
text as the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.finetuning.text import BYTES, Codec
from datamodules.text_files import find_splits, read_documents
from framework.data import DataModule
from framework.data.arrays import NamedArrays
from framework.errors import UserError
from framework.readers.tables import Row
from framework.readers.text import check_encoding
from framework.settings import at_least

PREAMBLE = "Below is an instruction that describes a task. Write a response that appropriately completes the request."
PREAMBLE_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request."
)
VALIDATION_ROWS = 200
IGNORED = -100


def prompt_of(instruction: str, given: str = "") -> str:
    """Alpaca's template, up to the start of the answer."""
    if given:
        return f"{PREAMBLE_WITH_INPUT}\n\n### Instruction:\n{instruction}\n\n### Input:\n{given}\n\n### Response:\n"
    return f"{PREAMBLE}\n\n### Instruction:\n{instruction}\n\n### Response:\n"


def help_topics() -> list[Row]:
    """Returns one record for each of Python's help topics, in alphabetical order."""
    from pydoc_data.topics import topics

    return [
        Row({"instruction": f"Explain what Python's help says about {name!r}.", "output": topics[name].strip()})
        for name in sorted(topics)
    ]


def pack(examples: Sequence[tuple[list[int], list[int]]], end: int, length: int) -> tuple[Tensor, Tensor]:
    """Concatenates prompts and answers and cuts them into blocks; an incomplete last block is dropped.

    Args:
        examples: The tokens of each prompt and of its answer.
        end: Token after each answer; the loss includes it.
        length: Tokens in a block.

    Returns:
        Tokens and labels ``(N, length)``, int32; labels are the tokens, -100 in prompts.
    """
    tokens: list[int] = []
    labels: list[int] = []
    for prompt, answer in examples:
        tokens += [*prompt, *answer, end]
        labels += [*[IGNORED] * len(prompt), *answer, end]
    whole = len(tokens) // length * length
    stacked = torch.tensor([tokens[:whole], labels[:whole]], dtype=torch.int32).view(2, -1, length)
    return stacked[0], stacked[1]


class InstructionData(DataModule):
    """Packed instructions for a causal language model.

    Batches are mappings with ``input_ids`` and ``labels``, int64 ``(B, length)``; position t predicts label t + 1.

    Reads: Alpaca's JSON list, JSONL, CSV, TSV, Parquet (UTF-8, or ``encoding``; also ``.gz``). Without a path: titles
        and texts of Python's help.

    Args:
        path: A file (``.json``, ``.jsonl``, ``.parquet``, ``.csv``, ``.tsv``) or a folder of them by split.
        tokenizer: Local folder of a tokenizer of transformers; ``null`` for bytes, 257 tokens.
        length: Tokens in a block.
        val_rows: Number of records held out for validation if there is no file for it (the first ones); by default 200,
            or a tenth of fewer than 2,000. They are also the test set.
        train_rows: Largest number of training records; by default all.
        vocab_size: If given, checked against the tokenizer; a config can pass it on to the model.
        encoding: Encoding of files without a byte order mark; UTF-8 by default.
        batch_size: Blocks in a training batch, per process.
        eval_batch_size: Blocks in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        vocab_size: Tokens of the tokenizer (if there is one, after ``setup``).

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, or too short (in
            ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        tokenizer: str | Path | None = None,
        length: int = 1024,
        val_rows: int | None = None,
        train_rows: int | None = None,
        vocab_size: int | None = None,
        encoding: str | None = None,
        batch_size: int = 8,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, vocab_size=vocab_size)
        at_least(2, length=length)
        check_encoding(encoding=encoding)
        at_least(1, val_rows=val_rows, train_rows=train_rows)
        if tokenizer is None and vocab_size not in (None, BYTES):
            raise UserError(f"vocab_size: {vocab_size} declared, bytes have {BYTES}")
        self.path, self.tokenizer, self.length = path, tokenizer, length
        self.val_rows, self.train_rows, self.encoding = val_rows, train_rows, encoding
        self.codec: Codec | None = None
        self._declared = vocab_size
        self.vocab_size = vocab_size if tokenizer is not None else BYTES
        if path is None:
            rank_zero_info("InstructionData: no path given, using Python's own help topics")

    def setup(self, stage: str | None = None) -> None:
        """Reads and tokenises the records, once.

        Raises:
            UserError: a file is missing or broken, or the tokenizer's size is not ``vocab_size``.
        """
        if self.train_set is not None:
            return
        train, val = self._splits()
        self.codec = Codec(self.tokenizer)
        self.vocab_size = self.codec.vocab_size
        if self._declared not in (None, self.vocab_size):
            raise UserError(
                f"vocab_size: {self._declared} declared, the tokenizer in {self.tokenizer} has {self.vocab_size}"
            )
        held_out = self._blocks(val, "validation")
        self.train_set = self._blocks(train[: self.train_rows], "training")
        self.val_set = self.test_set = held_out

    def _splits(self) -> tuple[list[Row], list[Row]]:
        """Returns the training records and the held-out ones."""
        if self.path is None:
            splits = {"all": help_topics()}
        else:
            found = find_splits(Path(self.path).expanduser())
            splits = {split: _read(files, self.encoding) for split, files in found.items()}
        rows = splits.get("all") or splits.get("train") or []
        held = splits.get("val") or splits.get("test")
        if held is None:
            count = self.val_rows or (VALIDATION_ROWS if len(rows) >= 10 * VALIDATION_ROWS else max(1, len(rows) // 10))
            rows, held = rows[count:], rows[:count]
        if not rows:
            raise UserError(f"path: {self.path} has {len(held)} records, none of them left for training")
        return rows, held

    def _blocks(self, rows: list[Row], part: str) -> NamedArrays:
        assert self.codec is not None
        prompts = [prompt_of(row.text("instruction"), row.text("input", "")) for row in rows]
        prompt_tokens = self.codec.encode(prompts, special=True)
        answers = self.codec.encode([row.text("output") for row in rows])
        tokens, labels = pack(list(zip(prompt_tokens, answers, strict=True)), self.codec.end, self.length)
        if not len(tokens):
            raise UserError(f"length: {self.length} tokens a block, but the {part} part has fewer in all")
        return NamedArrays(input_ids=tokens, labels=labels)

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the text of tokens."""
        assert self.codec is not None
        return self.codec.decode(tokens)


def _read(files: list[Path], encoding: str | None) -> list[Row]:
    """Returns the records of files.

    Raises:
        UserError: a file is missing or broken, or a record lacks its instruction or its output.
    """
    rows = read_documents(files, encoding)
    for row in rows:
        if row.column("instruction") is None or row.column("output") is None:
            raise UserError(f"{row.source}: has {', '.join(row)}; expected instruction, output, and perhaps input")
        for column in ("instruction", "output"):
            row.text(column)
    return rows


__all__ = ["InstructionData", "help_topics", "pack", "prompt_of"]
