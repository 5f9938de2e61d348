"""Pairs of sentences with a rated similarity, as prompts with rated examples and a guess for the last pair."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.finetuning.text import Codec
from datamodules.text_files import embedded
from framework.data import DataModule
from framework.data.arrays import NamedArrays
from framework.errors import UserError
from framework.readers.tables import read_fields
from framework.readers.text import check_encoding
from framework.readers.transformers_folder import LOCAL
from framework.settings import at_least, finite, not_empty, one_of

Guess = Literal["none", "mean", "cosine"]
LEVELS = 6
Pair = tuple[str, str, float]


def read_pairs(path: Path, encoding: str | None = None) -> list[Pair]:
    """Reads rows of sentence1, sentence2 and score, of a TSV or CSV; a first one without a number as score is a header.

    Args:
        path: The file.
        encoding: Its encoding, without a byte order mark; UTF-8 by default.

    Raises:
        UserError: there is no such file, or a row has another form.
    """
    expected = "rows of sentence1, sentence2 and score, with tabs (in a .csv commas) between, are expected"
    rows = read_fields(path, encoding)
    places = (0, 1, 2)
    if rows and (named := _places_of(rows[0][1])):
        places, rows = named, rows[1:]
    found: list[Pair] = []
    for line, fields in rows:
        try:
            first, second, score = (fields[place] for place in places)
            pair = first.strip(), second.strip(), float(score)
        except (IndexError, ValueError):
            shown = " | ".join(fields)[:60]
            raise UserError(f"path: {path}, line {line}: {shown!r} is not accepted; {expected}") from None
        if not math.isfinite(pair[2]):
            raise UserError(f"path: {path}, line {line}: the score {score!r} is not finite")
        if not pair[0] or not pair[1]:
            raise UserError(f"path: {path}, line {line}: a sentence is empty")
        found.append(pair)
    return found


def _places_of(fields: Sequence[str]) -> tuple[int, int, int] | None:
    """Returns the columns of the sentences and the score by a header, or ``None`` if the row is none."""
    names = [field.strip().lower() for field in fields]
    places = [next((names.index(name) for name in kinds if name in names), None) for kinds in _COLUMNS]
    if None not in places:
        first, second, score = places
        return first, second, score  # type: ignore[return-value]
    words = len(names) == 3 and not any(" " in name for name in names[:2])
    return (0, 1, 2) if words and not _is_number(names[2]) else None


_COLUMNS = (
    ("sentence1", "sentence_a", "text1"),
    ("sentence2", "sentence_b", "text2"),
    ("score", "similarity", "label"),
)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def edited_pairs(count: int, seed: int) -> list[Pair]:
    """Sentences of Python's help topics and copies with some words replaced; score 5 × the share of kept words."""
    text = " ".join(row["text"] for row in embedded("topics"))
    sentences = [s.split() for s in re.split(r"(?<=[.!?])\s+", text)]
    sentences = [s for s in sentences if 5 <= len(s) <= 12 and all(re.fullmatch(r"[A-Za-z,.'-]+", w) for w in s)]
    rng = np.random.default_rng(seed)
    found: list[Pair] = []
    for _ in range(count):
        first, other = (sentences[i] for i in rng.choice(len(sentences), 2, replace=False))
        changed = int(rng.integers(0, len(first) + 1))
        places = set(rng.choice(len(first), changed, replace=False).tolist())
        second = [str(rng.choice(other)) if i in places else word for i, word in enumerate(first)]
        kept = sum(a == b for a, b in zip(first, second, strict=True))
        found.append((" ".join(first), " ".join(second), 5.0 * kept / len(first)))
    return found


def cosines(pairs: Sequence[Pair], encoder: str | None) -> np.ndarray:
    """Cosine similarity of the sentences of each pair, (n,), by TF-IDF vectors or an encoder's mean hidden states.

    Args:
        pairs: The pairs.
        encoder: Local folder of an encoder in the format of transformers.

    Raises:
        UserError: the folder has no encoder.
    """
    sides = [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]
    if encoder is None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectors = TfidfVectorizer(token_pattern=r"\S+").fit([*sides[0], *sides[1]])
        left, right = (vectors.transform(side) for side in sides)
        return np.asarray(left.multiply(right).sum(1)).ravel()
    folder = Path(encoder).expanduser()
    if not (folder / "config.json").is_file():
        raise UserError(f"encoder: {folder / 'config.json'} not found; expected a local folder of transformers")
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), **LOCAL)
        model = AutoModel.from_pretrained(str(folder), **LOCAL).eval()
    except Exception as error:  # transformers raises many types
        raise UserError(f"encoder: {folder} cannot be loaded: {error}") from error
    means = []
    with torch.no_grad():
        for side in sides:
            parts = []
            for start in range(0, len(side), 64):
                tokens = tokenizer(side[start : start + 64], padding=True, truncation=True, return_tensors="pt")
                mask = tokens["attention_mask"][..., None].float()
                hidden = model(**tokens).last_hidden_state.float() * mask
                parts.append(torch.nn.functional.normalize(hidden.sum(1) / mask.sum(1), dim=1))
            means.append(torch.cat(parts))
    return (means[0] * means[1]).sum(1).numpy()


class SentencePairs(DataModule):
    """Prompts that ask for the similarity of a pair after some rated ones, with and without a guess of the answer.

    A prompt is, for each example and then for the query,

        A: <sentence 1> | B: <sentence 2> | similarity: <0 … 5>

    and the query's answer is preceded by a guess, ``guess: <0 … 5> |``: ``mean``, the examples' mean, or ``cosine``,
    the cosine similarity of the two sentences scaled to 0 … 5. A batch has ``input_ids``, ``attention_mask`` and
    ``labels`` (B, T), of which only the answer is not -100, ``place`` (B,), the position of the token whose logits give
    the answer, ``score`` (B,) from 0 to 5, ``guess`` (B,), NaN without one, and ``kind`` (B,), its index in
    ``guesses``. Scores are rounded to the nearest of six levels.

    Reads: TSV or CSV of two sentences and a score (UTF-8, or ``encoding``; also ``.gz``). Without a path: edited
        sentences of Python's help.

    Args:
        path: ``sentence1<TAB>sentence2<TAB>score`` (:func:`read_pairs`); without it edited sentences of Python's help.
        score_range: Lowest and highest score of the file.
        tokenizer: Local folder of the model's tokenizer; by default the tokens are bytes.
        encoder: Local folder of a sentence encoder for the guess ``cosine``; by default TF-IDF.
        guesses: Any of ``none``, ``mean``, ``cosine``; there is one prompt for each pair and kind.
        examples: Rated pairs in a prompt.
        pairs: Number of pairs that are generated without a path.
        length: Longest prompt in tokens; longer ones lose examples from the front.
        encoding: Encoding of the file without a byte order mark; UTF-8 by default.
        batch_size: Prompts of a batch.
        seed: Seed of the choice of examples, and of the generated pairs.

    Raises:
        UserError: a setting is not accepted; a file is missing or broken (in ``setup``).
    """

    def __init__(
        self,
        path: str | Path | None = None,
        score_range: tuple[float, float] = (0.0, 5.0),
        tokenizer: str | Path | None = None,
        encoder: str | None = None,
        guesses: tuple[Guess, ...] = get_args(Guess),
        examples: int = 2,
        pairs: int = 1200,
        length: int = 512,
        encoding: str | None = None,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size)
        finite(score_range=score_range)
        check_encoding(encoding=encoding)
        not_empty(guesses=guesses)
        one_of(get_args(Guess), guesses=guesses)
        if len(score_range) != 2 or score_range[0] >= score_range[1]:
            raise UserError(f"score_range: {list(score_range)} is not accepted; the lowest, then the highest")
        at_least(0, examples=examples)
        at_least(10, pairs=pairs)
        at_least(16, length=length)
        self.path, self.score_range, self.encoder, self.guesses = path, score_range, encoder, tuple(guesses)
        self.encoding = encoding
        self.examples, self.pairs, self.length, self.seed = examples, pairs, length, seed
        self.codec = Codec(tokenizer)
        self.vocab_size = self.codec.vocab_size
        ends = self.codec.encode([f" {level}" for level in range(LEVELS)])
        self.level_tokens = [tokens[-1] for tokens in ends]
        if len(set(self.level_tokens)) < LEVELS:
            raise UserError(f"tokenizer: {tokenizer} does not tell the digits 0 to 5 apart by a token each")

    def setup(self, stage: str) -> None:
        """Reads or generates the pairs and their prompts: 80 % for training, 10 % for validation, 10 % for the test.

        Raises:
            UserError: the file is missing or broken, holds too few pairs, or scores outside of ``score_range``.
        """
        if self.path is not None:
            found = read_pairs(Path(self.path).expanduser(), self.encoding)
            if len(found) < 10:
                raise UserError(f"path: {self.path} holds {len(found)} pairs; at least 10 are needed")
        else:
            rank_zero_info("SentencePairs: edited sentences of Python's help; give path for rated pairs")
            found = edited_pairs(self.pairs, self.seed)
        low, high = self.score_range if self.path is not None else (0.0, 5.0)
        scores = np.array([5 * (pair[2] - low) / (high - low) for pair in found])
        if scores.min() < -1e-6 or scores.max() > 5 + 1e-6:
            raise UserError(f"score_range: {[low, high]}, but scores of {self.path} lie outside of it")
        nearness = 5 * cosines(found, self.encoder).clip(0, 1) if "cosine" in self.guesses else scores * np.nan
        first, second = int(0.8 * len(found)), int(0.9 * len(found))
        parts = (np.arange(first), np.arange(first, second), np.arange(second, len(found)))
        self.train_set, self.val_set, self.test_set = (
            self._prompts(found, scores, nearness, part, first, number) for number, part in enumerate(parts)
        )

    def _prompts(
        self, pairs: list[Pair], scores: np.ndarray, nearness: np.ndarray, part: np.ndarray, rated: int, number: int
    ) -> NamedArrays:
        """Returns the prompts of the pairs in ``part``, with examples from the first ``rated``."""
        rng = np.random.default_rng((self.seed, number))
        rows: list[tuple[list[int], float, float, int]] = []
        for index in part:
            others = rng.permutation(rated)[: self.examples + 1]
            others = others[others != index][: self.examples]
            shown = [_line(pairs[i], f"{round(scores[i])}\n") for i in others]
            for kind, name in enumerate(self.guesses):
                mean = float(scores[others].mean()) if len(others) else 2.5
                guess = {"none": math.nan, "mean": mean, "cosine": float(nearness[index])}[name]
                asked = _line(pairs[index], "", "" if math.isnan(guess) else f"guess: {round(guess)} | ")
                rows.append((self._tokens(shown, asked), float(scores[index]), guess, kind))
        return self._arrays(rows)

    def _tokens(self, shown: list[str], asked: str) -> list[int]:
        """Returns a prompt's tokens up to the level; examples are left out from the front until it is short enough."""
        for start in range(len(shown) + 1):
            (tokens,) = self.codec.encode(["".join([*shown[start:], asked, " 0"])])
            if len(tokens) <= self.length:
                break
        return tokens[-self.length : -1]  # if the space before the answer is a separate token, it stays

    def _arrays(self, rows: list[tuple[list[int], float, float, int]]) -> NamedArrays:
        longest = max(len(tokens) for tokens, *_ in rows) + 1
        ids = torch.full((len(rows), longest), self.codec.end, dtype=torch.int32)
        mask, labels = torch.zeros(len(rows), longest, dtype=torch.int8), torch.full((len(rows), longest), -100)
        place = torch.empty(len(rows), dtype=torch.int32)
        for row, (tokens, score, _, _) in enumerate(rows):
            answer = self.level_tokens[round(score)]
            ids[row, : len(tokens) + 1] = torch.tensor([*tokens, answer])
            mask[row, : len(tokens) + 1] = 1
            labels[row, len(tokens)] = answer
            place[row] = len(tokens) - 1
        columns: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "labels": labels, "place": place}
        columns |= {name: torch.tensor([row[i] for row in rows]) for i, name in ((1, "score"), (2, "guess"))}
        return NamedArrays(**columns, kind=torch.tensor([row[3] for row in rows], dtype=torch.int32))


def _line(pair: Pair, answer: str, guess: str = "") -> str:
    return f"A: {pair[0]} | B: {pair[1]} | {guess}similarity:{' ' if answer else ''}{answer}"
