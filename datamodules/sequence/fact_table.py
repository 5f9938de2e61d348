"""Facts (subject, relation, object): a random table of known capacity in bits, or the user's file of facts.

A model that recalls a random table has stored it: NS·NR objects, each uniform over NO, have ``NS NR log2 NO`` bits, and
can only be memorised (UltraMemV2's sheet; the measure of Allen-Zhu & Li 2024, arXiv 2404.05405, in small). Training,
validation and test therefore have the same facts; generalisation is not measured.

As tokens: subjects are numbered from 0, relations from NS, objects from NS + NR. Batches are those of a language model,
``input_ids`` int64 (B, 2), subject and relation; ``targets`` (B, 2), -100 and the object.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from framework.data import DataModule
from framework.data.arrays import NamedArrays
from framework.errors import UserError
from framework.readers.tables import read_rows
from framework.readers.text import check_encoding
from framework.settings import at_least

COLUMNS = ("subject", "relation", "object")
IGNORED = -100


def random_facts(subjects: int, relations: int, objects: int, seed: int = 0) -> Tensor:
    """Returns the object of each (subject, relation), independent and uniform, fixed by the seed.

    Args:
        subjects: NS.
        relations: NR.
        objects: NO.
        seed: Seed of the draw.

    Returns:
        (NS, NR), int64, from 0 to NO − 1.
    """
    return torch.randint(objects, (subjects, relations), generator=torch.Generator().manual_seed(seed))


def capacity_bits(facts: int, objects: int) -> float:
    """Returns the bits of a number of independent facts, uniform over the objects."""
    return facts * math.log2(objects)


def recalled_bits(facts: int, objects: int, loss: float) -> float:
    """Bits of the table that a model has stored: the capacity minus the loss over all facts, at least 0.

    Args:
        facts: NS·NR.
        objects: NO.
        loss: Mean over facts, in nats.
    """
    return max(0.0, capacity_bits(facts, objects) - facts * loss / math.log(2))


def read_facts(path: str | Path, encoding: str | None = None) -> list[tuple[str, str, str]]:
    """Reads facts, one for each row.

    The file is a table (:mod:`framework.readers.tables`) with columns ``subject``, ``relation`` and ``object``; other
    columns are ignored.

    Args:
        path: The file.
        encoding: Its encoding; UTF-8 by default.

    Raises:
        UserError: the file is missing, empty or broken; the message names file and line.
    """
    file = Path(path).expanduser()
    facts = []
    for row in read_rows(file, encoding):
        if missing := [name for name in COLUMNS if row.column(name) is None]:
            raise UserError(
                f"{row.source}: columns {', '.join(row)}; expected {', '.join(COLUMNS)}, without {missing[0]}"
            )
        subject, relation, answer = (row.text(name, "") for name in COLUMNS)
        if not (subject and relation and answer):
            empty = COLUMNS[(subject, relation, answer).index("")]
            raise UserError(f"{row.source}: {empty} is missing or empty")
        facts.append((subject, relation, answer))
    if not facts:
        raise UserError(f"{file}: has no facts")
    return facts


class FactTable(DataModule):
    """Facts to memorise.

    Reads: CSV, TSV, JSONL, JSON or Parquet of subject, relation, object (UTF-8, or ``encoding``; also ``.gz``). Without
        a path: a random table.

    Args:
        path: A table with columns ``subject``, ``relation`` and ``object``; by default a random table.
        subjects: NS of the random table; with a file, checked to be enough for its facts if given.
        relations: NR.
        objects: NO.
        seed: Seed of the random table.
        encoding: Encoding of the file; UTF-8 by default.
        batch_size: Facts in a training batch.
        eval_batch_size: Facts in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        vocab_size: NS + NR + NO.
        bits: Capacity of the table (for a file, after ``setup``).

    Raises:
        UserError: a setting is not accepted; the file is missing or broken, has one question with two answers, or more
            subjects, relations or objects than the arguments allow (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        subjects: int = 1024,
        relations: int = 8,
        objects: int = 512,
        seed: int = 0,
        encoding: str | None = None,
        batch_size: int = 256,
        eval_batch_size: int | None = 2048,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        at_least(1, subjects=subjects, relations=relations, objects=objects)
        check_encoding(encoding=encoding)
        self.path, self.seed, self.encoding = path, seed, encoding
        self.subjects, self.relations, self.objects = subjects, relations, objects
        self.vocab_size = subjects + relations + objects
        self.bits = capacity_bits(subjects * relations, objects)
        self.names: list[str] | None = None
        if path is None:
            drawn = f"{subjects * relations:,} random facts, {self.bits:,.0f} bits"
            rank_zero_info(f"FactTable: no path given; {drawn}")

    def setup(self, stage: str | None = None) -> None:
        """Draws or reads the facts, once."""
        if self.train_set is not None:
            return
        facts = self._random() if self.path is None else self._read(self.path)
        subject, relation, answer = facts.T
        first = torch.stack([subject, self.subjects + relation], 1)
        last = torch.stack([torch.full_like(answer, IGNORED), self.subjects + self.relations + answer], 1)
        whole = NamedArrays(input_ids=first, targets=last)
        self.train_set = self.val_set = self.test_set = whole

    def _random(self) -> Tensor:
        """Facts (NS·NR, 3)."""
        table = random_facts(self.subjects, self.relations, self.objects, self.seed)
        pairs = torch.cartesian_prod(torch.arange(self.subjects), torch.arange(self.relations))
        return torch.cat([pairs, table.reshape(-1, 1)], 1)

    def _read(self, path: str | Path) -> Tensor:
        rows = read_facts(path, self.encoding)
        kinds = [list(dict.fromkeys(row[column] for row in rows)) for column in range(3)]
        for key, found in zip(("subjects", "relations", "objects"), kinds, strict=True):
            if len(found) > getattr(self, key):
                raise UserError(f"{key}: {getattr(self, key)}, but {path} has {len(found)}")
        answers: dict[tuple[str, str], str] = {}
        for subject, relation, answer in rows:
            if answers.setdefault((subject, relation), answer) != answer:
                raise UserError(
                    f"path: {path} answers ({subject}, {relation}) with {answers[subject, relation]!r} and {answer!r}"
                )
        self.bits = capacity_bits(len(answers), len(kinds[2]))
        spare = [count - len(found) for count, found in zip(self._counts(), kinds, strict=True)]
        self.names = [name for found, more in zip(kinds, spare, strict=True) for name in [*found, *[""] * more]]
        number = [{name: index for index, name in enumerate(found)} for found in kinds]
        return torch.tensor([[number[0][s], number[1][r], number[2][o]] for (s, r), o in answers.items()])

    def _counts(self) -> tuple[int, int, int]:
        return self.subjects, self.relations, self.objects

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns tokens as text: the file's names, otherwise ``s3 r1 o7``."""
        if self.names is not None:
            return " ".join(self.names[token] for token in tokens)
        words = []
        for token in tokens:
            for letter, count in zip("sro", self._counts(), strict=True):
                if token < count:
                    words.append(f"{letter}{token}")
                    break
                token -= count
        return " ".join(words)
