"""What techniques ask of prompts and of the models that answer them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from framework.functional.regression_prompts import PromptLaw, Prompts


@runtime_checkable
class RatesInTokens(Protocol):
    """A datamodule of prompts that are answered with one of several levels, a token each."""

    level_tokens: list[int]
    """The token of each level, from the lowest, which is 0."""

    guesses: tuple[str, ...]
    """Kinds of guesses that a prompt may hold, by the numbers that batches give them as ``kind``."""


@runtime_checkable
class HandsOutPrompts(Protocol):
    """A datamodule that draws regression prompts."""

    law: PromptLaw
    """What they are drawn from; known after ``setup``."""

    length: int
    """N in training."""

    def draw(self, prompts: int, length: int, index: int = 0, law: PromptLaw | None = None) -> Prompts:
        """Prompts that are used for nothing else, the same each time; of another law where one is given."""
        ...


@runtime_checkable
class AnswersPrompts(Protocol):
    """A module that predicts the query's labels."""

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """(E, B, T), for E models side by side, of ``x`` (B, N + 1, d) and ``y`` (B, N + 1, T); the last y
        is unused."""
        ...
