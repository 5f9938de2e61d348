"""Probes of linear regions: their diameter along a line, and inputs that are no data.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490 (the
official code).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from framework.functional.neural_code import CodeReader, DistinctCodes, pack_bits
from framework.settings import above, at_least, one_of

Noise = Literal["uniform", "negative"]


def class_centres(x: Tensor, y: Tensor) -> Tensor:
    """Returns the mean input of each example's class, (N, …), for inputs (N, …) and classes (N,)."""
    found = torch.empty_like(x)
    for label in y.unique():
        found[y == label] = x[y == label].mean(0)
    return found


def region_diameters(
    model: nn.Module,
    x: Tensor,
    centres: Tensor,
    step: float = 0.05,
    steps: int = 100,
    normalize: bool = True,
    layers: Sequence[str] | None = None,
) -> Tensor:
    """Returns the diameter of each input's region along the line to the centre of its class.

    It is ``step`` times the number of α in ±``step``, ±2 ``step``, …, ±``steps`` ``step`` for which x + α d has the
    code of x, d being the direction to the centre. A region of ReLU is convex, so these α are neighbours. A diameter of
    2 ``steps`` ``step`` is a lower bound.

    Args:
        model: The model.
        x: Inputs (N, …).
        centres: Their centres (N, …).
        step: Distance of two points.
        steps: Number of points on each side.
        normalize: Whether d has length 1, so that the diameter is in units of the inputs; otherwise in units of the
            distance to the centre.
        layers: Layers of the code, as in :class:`~framework.functional.neural_code.CodeReader`.

    Returns:
        (N,), float64.

    Raises:
        UserError: a number is not accepted.
    """
    above(0, step=step)
    at_least(1, steps=steps)
    half = torch.arange(1, steps + 1) * step
    alphas = torch.cat([-half.flip(0), half]).to(x)
    reader = CodeReader(model, x, layers)
    found = torch.zeros(len(x), dtype=torch.float64)
    for index, (point, centre) in enumerate(zip(x, centres, strict=True)):
        direction = centre - point
        length = direction.norm()
        direction = direction / length if normalize and length > 0 else direction
        line = torch.cat([point[None], point + alphas.view(-1, *[1] * point.ndim) * direction])
        codes = reader(line)
        found[index] = step * int((codes[1:] == codes[:1]).all(1).sum())
    return found


def random_redundancy(
    model: nn.Module,
    shape: Sequence[int],
    examples: int,
    noise: Noise = "uniform",
    seed: int = 0,
    batch_size: int = 500,
    layers: Sequence[str] | None = None,
) -> float:
    """Returns the redundancy ratio of inputs that are no data: U(0, 1) in each number, or −U(0, 1) (``negative``).

    Args:
        model: The model.
        shape: Shape of one input.
        examples: n, number of inputs.
        noise: ``uniform`` or ``negative``.
        seed: Seed of the inputs.
        batch_size: Number of inputs to hold at a time.
        layers: Layers of the code.

    Raises:
        UserError: a setting is not accepted.
    """
    at_least(1, examples=examples, batch_size=batch_size)
    one_of(get_args(Noise), noise=noise)
    generator = torch.Generator().manual_seed(seed)
    counter = DistinctCodes()
    reader: CodeReader | None = None
    for start in range(0, examples, batch_size):
        x = torch.rand(min(batch_size, examples - start), *shape, generator=generator)
        x = -x if noise == "negative" else x
        reader = reader or CodeReader(model, x, layers)
        counter.update(pack_bits(reader(x)))
    return counter.ratio


def region_count_bound(width: int, inputs: int) -> int:
    """Returns Σ_{i ≤ d} C(w, i), the largest number of regions, and of codes, of one layer of w units in ℝ^d.

    Raises:
        UserError: a size is below 1.
    """
    at_least(1, width=width, inputs=inputs)
    return sum(comb(width, i) for i in range(min(width, inputs) + 1))
