"""ListOps of the Long Range Arena: nested list operations as a long string of tokens, whose value is a digit.

Paper: Nangia and Bowman 2018 (ListOps); Tay et al. 2021, arXiv 2011.04006 (the long version).

The generator: ``tree(depth)``, with depth from 1, is a digit 0 to 9 with probability 0.75, and always at depth 10;
otherwise it is one of the operators MIN, MAX, MED and SM with 2 to 10 arguments, each a ``tree(depth + 1)``. A tree's
length counts 1 for a digit and, for an operator, 2 (itself and its bracket) and its arguments' lengths; distinct trees
with ``min_length < length < max_length`` are kept. MED is the median, rounded down to a whole number, SM the sum modulo
10.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Dataset

from framework.data import DataModule
from framework.errors import UserError
from framework.readers.arrays import check_arrays, read_arrays
from framework.readers.tables import read_rows
from framework.settings import at_least

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
PAD = 0
# Padding, the four operators, the bracket that closes each, the digits.
VOCABULARY = ("<pad>", *OPERATORS, "]", *(str(digit) for digit in range(10)))
TOKEN_IDS = {token: index for index, token in enumerate(VOCABULARY)}
_CLOSE, _DIGIT = TOKEN_IDS["]"], TOKEN_IDS["0"]
_MAX_DEPTH, _MAX_ARGUMENTS, _DIGIT_PROBABILITY = 10, 10, 0.75


def evaluate(tokens: Sequence[int] | np.ndarray | Tensor) -> int:
    """Value of one expression, computed with a stack; a plain reference for checking the generator.

    Args:
        tokens: Numbers in :data:`VOCABULARY`; padding after the end is ignored.

    Raises:
        UserError: the tokens are not a complete expression.
    """
    stack: list[list[int]] = [[]]
    operators: list[int] = []
    for token in map(int, tokens):
        if token == PAD:
            continue
        if token >= _DIGIT:
            stack[-1].append(token - _DIGIT)
        elif token != _CLOSE:
            operators.append(token - 1)
            stack.append([])
        elif not operators or not stack[-1]:
            raise UserError("tokens: a bracket closes an operator that was not opened or has no arguments")
        else:
            values = sorted(stack.pop())
            middle = len(values) // 2
            median = values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) // 2
            results = (values[0], values[-1], median, sum(values) % 10)
            stack[-1].append(results[operators.pop()])
    if len(stack) != 1 or len(stack[0]) != 1:
        raise UserError("tokens: not one complete expression")
    return stack[0][0]


def tokenize(text: str) -> list[int]:
    """Returns the token numbers of LRA's text form, without its parentheses.

    Raises:
        KeyError: a token is not in :data:`VOCABULARY`.
    """
    return [TOKEN_IDS[token] for token in text.replace("(", " ").replace(")", " ").split()]


def _grow(generator: np.random.Generator, trees: int, min_length: int, max_length: int) -> list[dict[str, np.ndarray]]:
    """Grows many trees level by level; drops those that are too short or too long.

    Returns:
        For each level ``kind`` (token of each node), ``parent`` (its row in the level above; in the first its tree's
        number), ``size`` (tokens of its subtree).
    """
    levels: list[dict[str, np.ndarray]] = []
    tree, parent = np.arange(trees), np.arange(trees)
    total = np.zeros(trees, np.int64)
    for depth in range(1, _MAX_DEPTH + 1):
        n = len(tree)
        digit = generator.random(n) < _DIGIT_PROBABILITY if depth < _MAX_DEPTH else np.ones(n, bool)
        kind = np.where(digit, _DIGIT + generator.integers(0, 10, n), 1 + generator.integers(0, len(OPERATORS), n))
        arguments = np.where(digit, 0, generator.integers(2, _MAX_ARGUMENTS + 1, n))
        np.add.at(total, tree, np.where(digit, 1, 2))
        levels.append({"kind": kind, "parent": parent, "tree": tree})
        arguments[total[tree] >= max_length] = 0  # already too long: its tree is dropped below
        if not arguments.any():
            break
        parent = np.repeat(np.arange(n), arguments)
        tree = tree[parent]
    keep = (total > min_length) & (total < max_length)
    for level, above in zip(levels, [None, *levels[:-1]], strict=True):
        rows = np.flatnonzero(keep[level["tree"]])
        level["new"] = np.cumsum(keep[level["tree"]]) - 1
        level["kind"] = level["kind"][rows]
        level["parent"] = above["new"][level["parent"][rows]] if above is not None else np.arange(len(rows))
    levels = [{"kind": level["kind"], "parent": level["parent"]} for level in levels if len(level["kind"])]
    for i, level in reversed(list(enumerate(levels))):
        level["size"] = np.where(level["kind"] < _DIGIT, 2, 1)
        if i + 1 < len(levels):
            below = levels[i + 1]
            level["size"] += np.bincount(below["parent"], below["size"], len(level["kind"])).astype(np.int64)
    return levels


def _write(levels: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns trees as tokens, the start of each tree, and their values."""
    starts = np.concatenate([[0], np.cumsum(levels[0]["size"])])
    tokens = np.empty(starts[-1], np.uint8)
    place = starts[:-1]
    for i, level in enumerate(levels):
        operator = level["kind"] < _DIGIT
        tokens[place] = level["kind"]
        tokens[(place + level["size"] - 1)[operator]] = _CLOSE
        if i + 1 < len(levels):
            below = levels[i + 1]
            # Siblings are in order of their parents, so the tokens before a node among its siblings are a difference of
            # running sums.
            before = np.cumsum(below["size"]) - below["size"]
            first = np.searchsorted(below["parent"], below["parent"])
            place = place[below["parent"]] + 1 + before - before[first]
    values = np.zeros(0, np.int64)
    for i in range(len(levels) - 1, -1, -1):
        level = levels[i]
        result = level["kind"] - _DIGIT
        if len(values):
            parent = levels[i + 1]["parent"]
            owners, first, count = np.unique(parent, return_index=True, return_counts=True)
            ordered = values[np.lexsort((values, parent))]
            low, high = ordered[first + (count - 1) // 2], ordered[first + count // 2]
            results = np.stack(
                [ordered[first], ordered[first + count - 1], (low + high) // 2, np.add.reduceat(ordered, first) % 10]
            )
            result[owners] = results[level["kind"][owners] - 1, np.arange(len(owners))]
        values = result
    return tokens, starts, values


def generate_trees(seed: int, min_length: int = 500, max_length: int = 2000) -> Iterator[tuple[np.ndarray, int]]:
    """Yields distinct random expressions, endlessly, in an order determined by the seed.

    Args:
        seed: Seed of the generator.
        min_length: Expressions are longer than this many tokens.
        max_length: Expressions are shorter than this many tokens.

    Yields:
        Tokens, uint8 of shape ``(length,)``, and the value 0 to 9.

    Raises:
        UserError: no length is between the limits, or none was found in a million trees.
    """
    if not 0 <= min_length < max_length - 1:
        raise UserError(f"min_length {min_length} and max_length {max_length} leave no length between them")
    generator = np.random.default_rng(seed)
    seen: set[bytes] = set()
    fruitless = 0
    while fruitless < 250:
        fruitless += 1
        levels = _grow(generator, 4096, min_length, max_length)
        if not levels:
            continue
        tokens, starts, values = _write(levels)
        for begin, end, value in zip(starts[:-1], starts[1:], values, strict=True):
            key = tokens[begin:end].tobytes()
            if key not in seen:
                seen.add(key)
                fruitless = 0
                yield tokens[begin:end], int(value)
    raise UserError(
        f"min_length {min_length}, max_length {max_length}: no new expression in a million trees; widen the range "
        "or ask for fewer"
    )


class ListOpsDataset(Dataset):
    """Expressions of different lengths in one array; a batch is padded to its longest expression.

    Args:
        tokens: uint8, all expressions in a row.
        starts: Start of each expression, and the end of the last, shape ``(N + 1,)``.
        values: Their values, shape ``(N,)``.
    """

    draws_random_numbers = False

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, values: np.ndarray) -> None:
        self.tokens = torch.from_numpy(np.ascontiguousarray(tokens))
        self.starts = torch.from_numpy(np.asarray(starts, np.int64))
        self.values = torch.from_numpy(np.asarray(values, np.int64))

    @classmethod
    def of(cls, rows: list[np.ndarray], values: list[int]) -> ListOpsDataset:
        """Returns a data set of separate expressions."""
        starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
        return cls(np.concatenate(rows), starts, np.array(values))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in self.__getitems__([index]))

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens ``(B, L)``, values ``(B,)``, lengths ``(B,)``, all int64."""
        rows = torch.as_tensor(indices)
        first, lengths = self.starts[rows], self.starts[rows + 1] - self.starts[rows]
        column = torch.arange(int(lengths.max()))
        inside = column < lengths[:, None]
        place = torch.where(inside, first[:, None] + column, 0)
        return torch.where(inside, self.tokens[place].long(), PAD), self.values[rows], lengths


@lru_cache(maxsize=4)
def generate_parts(sizes: tuple[int, ...], seed: int, min_length: int, max_length: int) -> tuple[ListOpsDataset, ...]:
    """Data sets without common expressions; cached for the lifetime of the process.

    Args:
        sizes: Number of expressions of each.
        seed: Seed of the generator.
        min_length: Expressions are longer than this many tokens.
        max_length: Expressions are shorter than this many tokens.

    Returns:
        One for each of ``sizes``.
    """
    trees = generate_trees(seed, min_length, max_length)
    parts = []
    for size in sizes:
        rows, values = zip(*(next(trees) for _ in range(size)), strict=True)
        parts.append(ListOpsDataset.of(list(rows), list(values)))
    return tuple(parts)


def read_listops_tsv(path: str | Path) -> ListOpsDataset:
    """Reads a file of LRA's ``listops-1000``: tab-separated, with a header that has ``Source`` and ``Target``.

    Raises:
        UserError: the file is missing, has no such columns or no rows, or a row has an unknown token or a target
            that is not a digit; the message names file and line.
    """
    path = Path(path).expanduser()
    rows: list[np.ndarray] = []
    values: list[int] = []
    for row in read_rows(path, "ascii"):
        source, target = row.text("Source", ""), row.text("Target", "")
        if not {"Source", "Target"} <= set(row):
            raise UserError(f"{path}: columns {list(row)}; expected Source and Target, separated by a tab")
        try:
            rows.append(np.array(tokenize(source), np.uint8))
        except KeyError as error:
            accepted = " ".join((*VOCABULARY[1:], "( )"))
            raise UserError(f"{row.source}: unknown token {error}; accepted: {accepted}") from error
        if target not in VOCABULARY[_DIGIT:]:
            raise UserError(f"{row.source}: Target {target!r} is not a digit")
        if not len(rows[-1]):
            raise UserError(f"{row.source}: Source is empty")
        values.append(int(target))
    if not rows:
        raise UserError(f"{path}: has a header and no rows")
    return ListOpsDataset.of(rows, values)


class ListOps(DataModule):
    """ListOps of the Long Range Arena, generated exactly by its rules or read from its files.

    Batches are ``(tokens, y, lengths)``: ``tokens`` int64 ``(B, L)`` padded with 0 after the end, ``L`` the longest in
    the batch; ``y`` int64 ``(B,)``, 0 to 9; ``lengths`` int64 ``(B,)``. The paper has 96,000 / 2,000 / 2,000
    expressions; the defaults are small.

    Reads: ``basic_{train,val,test}.tsv`` of the Long Range Arena (ASCII). Without a path: generated by its exact rules.

    Args:
        path: Folder with LRA's ``basic_train.tsv``, ``basic_val.tsv`` and ``basic_test.tsv``, or a folder that contains
            it as ``listops-1000``; by default expressions are generated.
        train_size: Number of generated training expressions.
        val_size: Number of generated validation expressions, which do not depend on ``train_size``.
        test_size: Number of generated test expressions, which depend on neither of the other sizes.
        min_length: Generated expressions are longer than this many tokens.
        max_length: Expressions are shorter than this many tokens.
        seed: Seed of the generator.
        cache: Folder for generated expressions, with one file for each setting; by default nothing is written.
        num_classes: If given, checked to be 10; a config can pass it on to the model.
        batch_size: Expressions in a training batch, per process.
        eval_batch_size: Expressions in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes; 0 is fastest here, because the data is in memory.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        vocab_size: Number of tokens, including padding.
        pad_id: Number of the padding token.
        num_classes: 10.
        length: Largest length of generated expressions; for files the largest found (after ``setup``).

    Raises:
        UserError: a size or length is not accepted (in the constructor); a file is missing or broken (in ``setup``).
    """

    vocab_size = len(VOCABULARY)
    pad_id = PAD

    def __init__(
        self,
        path: str | Path | None = None,
        train_size: int = 2000,
        val_size: int = 200,
        test_size: int = 200,
        min_length: int = 500,
        max_length: int = 2000,
        seed: int = 0,
        cache: str | Path | None = None,
        num_classes: int | None = None,
        batch_size: int = 32,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        if num_classes not in (None, 10):
            raise UserError(f"num_classes: {num_classes} declared, ListOps has 10")
        at_least(1, train_size=train_size, val_size=val_size, test_size=test_size)
        at_least(0, min_length=min_length)
        at_least({"min_length + 2": min_length + 2}, max_length=max_length)
        self.path, self.cache, self.seed = path, cache, seed
        self.sizes = (test_size, val_size, train_size)
        self.min_length, self.max_length = min_length, max_length
        self.num_classes = 10
        self.length = max_length - 1
        if path is None:
            rank_zero_info(f"{type(self).__name__}: no path given, generating {sum(self.sizes):,} expressions")

    def setup(self, stage: str | None = None) -> None:
        """Reads or generates the expressions, once."""
        if self.train_set is not None:
            return
        if self.path is None:
            test, val, train = self._generated()
        else:
            folder = Path(self.path).expanduser()
            folder = folder / "listops-1000" if (folder / "listops-1000").is_dir() else folder
            train, val, test = (read_listops_tsv(folder / f"basic_{part}.tsv") for part in ("train", "val", "test"))
            self.length = max(int(part.starts.diff().max()) for part in (train, val, test))
        self.train_set, self.val_set, self.test_set = train, val, test

    def _generated(self) -> tuple[ListOpsDataset, ...]:
        settings = (self.sizes, self.seed, self.min_length, self.max_length)
        if self.cache is None:
            return generate_parts(*settings)
        numbers = (self.seed, self.min_length, self.max_length, *self.sizes)
        file = Path(self.cache).expanduser() / f"listops_{'_'.join(map(str, numbers))}.npz"
        if file.is_file():
            expected = "a cache of ListOps; delete it to generate it again"
            saved = read_arrays(file, expected)
            shapes = {f"{name}{i}": f"{name}{i}" for i in range(3) for name in ("tokens", "starts", "values")}
            check_arrays(saved, shapes, file, expected)
            return tuple(
                ListOpsDataset(saved[f"tokens{i}"], saved[f"starts{i}"], saved[f"values{i}"]) for i in range(3)
            )
        parts = generate_parts(*settings)
        arrays: dict[str, Any] = {}
        for i, part in enumerate(parts):
            arrays |= {f"tokens{i}": part.tokens.numpy(), f"starts{i}": part.starts.numpy()}
            arrays[f"values{i}"] = part.values.numpy()
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            # Written to a temporary file and moved, so that another process never reads an incomplete file.
            with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".tmp", delete=False) as aside:
                np.savez(aside, **arrays)
            os.replace(aside.name, file)
        except OSError as error:
            raise UserError(f"cache: {file} cannot be written ({error.strerror})") from error
        return parts
