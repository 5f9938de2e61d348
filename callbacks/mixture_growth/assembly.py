"""Assembles a weight from blocks, each a linear combination of templates."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from framework.functional.precision import full_precision


class TemplateBlock(NamedTuple):
    """A rectangle of a weight: rows ``[top, bottom)`` and columns ``[left, right)``, and its contents.

    Attributes:
        bank: Index of the set of templates.
        alpha: Index of the vector of coefficients.
    """

    bank: int
    alpha: int
    top: int
    bottom: int
    left: int
    right: int


def assemble_plainly(
    banks: Sequence[Tensor], alphas: Sequence[Tensor], blocks: Sequence[TemplateBlock], shape: Sequence[int]
) -> Tensor:
    """Assembles the weight block by block: the slow and simple form of :func:`assemble`.

    Args:
        banks: Sets of templates, each ``(T, o, i, …)``; a block uses their upper left corner.
        alphas: Coefficients, each ``(T,)``.
        blocks: In any order; together they tile ``shape``.
        shape: Shape of the weight.
    """
    rows: dict[int, list[Tensor]] = {}
    for block in sorted(blocks, key=lambda block: block.left):
        bank = banks[block.bank][:, : block.bottom - block.top, : block.right - block.left]
        rows.setdefault(block.top, []).append(torch.einsum("t,t...->...", alphas[block.alpha], bank))
    return torch.cat([torch.cat(row, 1) for _, row in sorted(rows.items())], 0).reshape(list(shape))


def assemble(
    banks: Sequence[Tensor], alphas: Sequence[Tensor], blocks: Sequence[TemplateBlock], shape: Sequence[int]
) -> Tensor:
    """Equals :func:`assemble_plainly`; with whole templates in one batched product, and two in the backward pass.

    The templates' precision is kept under autocast.

    Args:
        banks: Sets of templates, each ``(T, o, i, …)``; a block uses their upper left corner.
        alphas: Coefficients, each ``(T,)``.
        blocks: In any order; together they tile ``shape``.
        shape: Shape of the weight.
    """
    first = banks[0]
    with full_precision(first.device):
        if len(blocks) == 1 and first.shape[1:] == tuple(shape):
            return (alphas[0][None] @ first.reshape(len(first), -1)).view(list(shape))
        same = first.shape == banks[-1].shape
        recipe = _recipe(tuple(blocks), tuple(first.shape), len(banks)) if same else None
        if recipe is None:
            return assemble_plainly(banks, alphas, blocks, shape)
        factors = torch.stack([alphas[number] for number in recipe.order]).view(2, -1, len(first))
        mixed = torch.bmm(factors, torch.stack(tuple(banks)).reshape(2, len(first), -1))
        return mixed.view(recipe.split).permute(recipe.places).reshape(shape)


class _Recipe(NamedTuple):
    """How :func:`assemble` assembles a weight from whole templates.

    Attributes:
        order: Vectors of coefficients, those of set 0 first.
        split: Sizes of the mixed blocks.
        places: Order of these dimensions in the weight.
    """

    order: tuple[int, ...]
    split: tuple[int, ...]
    places: tuple[int, ...]


@functools.cache
def _recipe(blocks: tuple[TemplateBlock, ...], bank: tuple[int, ...], count: int) -> _Recipe | None:
    """Returns ``None`` if blocks are not whole templates, half of them from each set."""
    rows, columns = bank[1:3]
    order = sorted(blocks, key=lambda block: (block.bank, block.top, block.left))
    whole = all(b.bottom - b.top == rows and b.right - b.left == columns for b in blocks)
    if not whole or count != 2 or [b.bank for b in order] not in ([0, 1], [0, 0, 1, 1]):
        return None
    alphas, numbers = tuple(block.alpha for block in order), math.prod(bank[2:])
    if len(order) == 2:  # [B_0; B_1] or [B_0, B_1]
        return _Recipe(alphas, (2, rows, numbers), (0, 1, 2) if order[1].top else (1, 0, 2))
    in_rows = order[0].top == order[1].top  # a set fills a row, or a column
    return _Recipe(alphas, (2, 2, rows, numbers), (0, 2, 1, 3) if in_rows else (1, 2, 0, 3))
