"""Indirect objects: who is given something, and interventions on the order of the names (arXiv 2507.08802)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from datamodules.finetuning.text import Codec
from datamodules.interpretability.interventions import InterventionSet
from datamodules.interpretability.name_sentences import ABBA, BABA, NAMES, OBJECTS, PLACES, Names, read_sentence
from framework.data import DataModule
from framework.data.seeding import mix
from framework.errors import UserError
from framework.readers.tables import COLUMNAR, Row, open_columnar, read_rows, suffix_of
from framework.readers.text import check_encoding
from framework.readers.unpacking import refuse_missing
from framework.settings import at_least

PARTS = ("train", "val", "test")
SHARES = (8, 1, 1)


class IndirectObjects(DataModule):
    """Interventions on "After A and B …, B gave … to": the base's names with the source's order of names.

    The algorithm's only node is the pattern: whether the first or the second name is repeated; its output is the other
    name. Batches are those of :class:`InterventionSet`: ``base`` (B, T) and ``sources`` (B, 1, T) are tokens int64,
    padded in front with -1; ``y`` and ``other`` (B,) are the first tokens of the right name and the other one.

    Reads: a table (``.parquet`` and others; also ``.gz``) with sentences that end with the answer, such as
        ``mecha_ioi_26m.parquet`` of ``fahamu/ioi``. Without a path: 30 templates of our own with 100 names.

    Args:
        path: The table.
        column: Its column of sentences.
        encoding: Encoding of text tables without a byte order mark; UTF-8 by default.
        tokenizer: Local folder of a tokenizer of transformers; ``null`` for bytes.
        prompts: Number of sentences to read from the start of the table, or to make; interventions pair these.
        disjoint_names: Whether training, validation and test have names of their own, 6:2:2; otherwise sentences are
            split 8:1:1.
        train_samples: Number of interventions to train on.
        val_samples: For validation.
        test_samples: For the test.
        seed: Of the data.
        batch_size: Interventions in a training batch, per process.
        eval_batch_size: Interventions in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.

    Attributes:
        nodes: 1.
        vocab_size: Tokens of the tokenizer (after ``setup``).

    Raises:
        UserError: a setting is not accepted (in the constructor); a file is missing or broken, a sentence is not of the
            form, or a part is left without sentences (in ``setup``).
    """

    nodes = 1

    def __init__(
        self,
        path: str | Path | None = None,
        column: str = "ioi_sentences",
        encoding: str | None = None,
        tokenizer: str | Path | None = None,
        prompts: int = 20_000,
        disjoint_names: bool = False,
        train_samples: int = 100_000,
        val_samples: int = 2_000,
        test_samples: int = 2_000,
        seed: int = 0,
        batch_size: int = 256,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers)
        at_least(10, prompts=prompts)
        at_least(1, train_samples=train_samples, val_samples=val_samples, test_samples=test_samples)
        check_encoding(encoding=encoding)
        self.path, self.column, self.encoding, self.tokenizer = path, column, encoding, tokenizer
        self.prompts, self.disjoint_names, self.seed = prompts, disjoint_names, seed
        self.counts = dict(zip(PARTS, (train_samples, val_samples, test_samples), strict=True))
        self.vocab_size: int | None = None
        if path is None:
            rank_zero_info("IndirectObjects: no path given, using sentences of our own templates")

    def setup(self, stage: str | None = None) -> None:
        """Reads or makes the sentences, turns them into tokens and pairs them, once.

        Raises:
            UserError: see the class.
        """
        if self.train_set is not None:
            return
        codec = Codec(self.tokenizer)
        self.vocab_size = codec.vocab_size
        parts = [self._pairs(found, codec, part) for part, found in zip(PARTS, self._parts(), strict=True)]
        self.train_set, self.val_set, self.test_set = parts

    def _parts(self) -> list[list[Names]]:
        """Returns the sentences for training, validation and test."""
        rng = np.random.default_rng(self.seed)
        if self.path is None and self.disjoint_names:
            groups = _groups(list(NAMES), rng)
            return [_made(group, self.prompts * share // 10, rng) for group, share in zip(groups, SHARES, strict=True)]
        found = _made(NAMES, self.prompts, rng) if self.path is None else self._read(Path(self.path).expanduser())
        if self.disjoint_names:
            groups = _groups(sorted({name for s in found for name in (s.first, s.second)}), rng)
            return [[s for s in found if {s.first, s.second} <= set(group)] for group in groups]
        cuts = [len(found) * SHARES[0] // 10, len(found) * (SHARES[0] + SHARES[1]) // 10]
        return [[found[i] for i in part] for part in np.split(rng.permutation(len(found)), cuts)]

    def _read(self, path: Path) -> list[Names]:
        found = []
        for row in _rows(path, self.column, self.prompts, self.encoding):
            sentence = read_sentence(row.text(self.column))
            if sentence is None:
                raise UserError(
                    f"{row.source}: {row.text(self.column)[:60]!r} is not of the form 'A and B …, B gave … to A', with "
                    "the answer as its last word"
                )
            found.append(sentence)
        return found

    def _pairs(self, sentences: list[Names], codec: Codec, part: str) -> InterventionSet:
        """Returns interventions on random pairs of the sentences.

        Raises:
            UserError: none is left.
        """
        names = sorted({name for s in sentences for name in (s.first, s.second)})
        spaced, plain = codec.encode([f" {name}" for name in names]), codec.encode(names)
        # where a space is a token of its own it belongs to the prompt
        alone = {n: a[1:] == b for n, a, b in zip(names, spaced, plain, strict=True)}
        token = {n: (b if alone[n] else a)[0] for n, a, b in zip(names, spaced, plain, strict=True)}
        # with one kind of prompt for both names: a space at its end would tell which of them answers
        kept = [s for s in sentences if token[s.first] != token[s.second] and alone[s.first] == alone[s.second]]
        if not kept:
            raise UserError(
                f"{self.path or 'prompts'}: no sentences for {part} whose names differ in their first token, of "
                f"{len(sentences)}; more sentences, or another tokenizer"
            )
        tokens = _padded(codec.encode([s.prompt + (" " if alone[s.answer] else "") for s in kept]))
        first, second = (torch.tensor([token[getattr(s, name)] for s in kept]) for name in ("first", "second"))
        repeats = torch.tensor([s.second_repeats for s in kept])
        generator = torch.Generator().manual_seed(mix(self.seed, PARTS.index(part)))
        base, source = torch.randint(len(kept), (2, self.counts[part]), generator=generator)
        y, other = _answers(first[base], second[base], repeats[source])
        base_y, _ = _answers(first[base], second[base], repeats[base])
        nodes = torch.ones(len(base), 1, dtype=torch.bool)
        return InterventionSet(tokens, tokens, nodes, base, source[:, None], y=y, other=other, base_y=base_y)


def _made(names: Sequence[str], count: int, rng: np.random.Generator) -> list[Names]:
    """Returns sentences of the templates, each with two different names."""
    templates = (*BABA, *ABBA)
    draws = rng.integers(0, [len(templates), len(PLACES), len(OBJECTS), len(names), len(names) - 1], (count, 5))
    found = []
    for template, place, item, a, b in draws.tolist():
        text = templates[template].format(A=names[a], B=names[b + (b >= a)], place=PLACES[place], object=OBJECTS[item])
        sentence = read_sentence(text)
        assert sentence is not None
        found.append(sentence)
    return found


def _answers(first: Tensor, second: Tensor, repeats: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the tokens of the answer and of the other name, by whether the second name is repeated."""
    return torch.where(repeats, first, second), torch.where(repeats, second, first)


def _groups(names: list[str], rng: np.random.Generator) -> list[list[str]]:
    """Returns the names in random order, in three groups, 6:2:2."""
    shuffled = [names[i] for i in rng.permutation(len(names))]
    return [list(group) for group in np.split(shuffled, [len(names) * 6 // 10, len(names) * 8 // 10])]


def _padded(sequences: Sequence[Sequence[int]]) -> Tensor:
    """Returns tokens (P, T), padded in front with -1."""
    longest = max(map(len, sequences))
    return torch.tensor([[-1] * (longest - len(sequence)) + list(sequence) for sequence in sequences])


def _rows(path: Path, column: str, count: int, encoding: str | None) -> list[Row]:
    """Returns the first rows of a table; of Parquet and Arrow only these become Python objects."""
    suffix = suffix_of(path)
    if suffix not in COLUMNAR:
        return read_rows(path, encoding)[:count]
    refuse_missing(path, f"a {suffix} table with a column {column!r}")
    table = open_columnar(path, suffix)
    if table.column_names.count(column) != 1:
        raise UserError(f"{path}: column {column!r} not found once; it has {', '.join(table.column_names)}")
    texts = table.column(column).slice(0, count).to_pylist()
    return [Row({column: text}, path, number, "row") for number, text in enumerate(texts, start=1)]
