"""Protocols of prompts and of the models that answer them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from framework.functional.regression_prompts import PromptLaw, Prompts


@runtime_checkable
class RatesInTokens(Protocol):
    """A datamodule of prompts whose answer is one of several levels, one token each."""

    level_tokens: list[int]
    """The token of each level, from level 0, the lowest."""

    guesses: tuple[str, ...]
    """Kinds of guesses in a prompt, by their number in ``kind`` of a batch."""


@runtime_checkable
class HandsOutPrompts(Protocol):
    """A datamodule that draws regression prompts."""

    law: PromptLaw
    """The law from which prompts are drawn; known after ``setup``."""

    length: int
    """Number of examples N in a training prompt."""

    def draw(self, prompts: int, length: int, index: int = 0, law: PromptLaw | None = None) -> Prompts:
        """Returns prompts that are not used elsewhere, the same each time; from ``law`` if one is given."""
        ...


@runtime_checkable
class AnswersPrompts(Protocol):
    """A module that predicts the query's labels."""

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns the answers (E, B, T) of E models to ``x`` (B, N + 1, d) and ``y`` (B, N + 1, T).

        The last y is not used.
        """
        ...
