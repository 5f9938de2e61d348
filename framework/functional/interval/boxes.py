"""Boxes: a centre and a half-width for each number of a tensor.

Paper: Understanding Certified Training with Interval Bound Propagation (Mao, Mueller, Fischer, Vechev 2024,
arXiv 2306.10426).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.errors import UserError
from framework.settings import between

SLACK = 1e-3  # by which rounding may take a pixel out of [0, 1]; such a pixel counts as 0 or 1


class Box(NamedTuple):
    """All tensors between ``centre - radius`` and ``centre + radius``.

    Attributes:
        centre: (B, …).
        radius: Half-widths, of the same shape, 0 or more.
    """

    centre: Tensor
    radius: Tensor

    @property
    def lower(self) -> Tensor:
        """The lower bounds."""
        return self.centre - self.radius

    @property
    def upper(self) -> Tensor:
        """The upper bounds."""
        return self.centre + self.radius


def box_between(lower: Tensor, upper: Tensor) -> Box:
    """Returns the box of two bounds of the same shape, the lower one nowhere above the upper one."""
    centre = torch.lerp(lower, upper, 0.5)
    return Box(centre, upper - centre)


def pixel_box(x: Tensor, eps: float) -> Box:
    """Returns the box [max(x − eps, 0), min(x + eps, 1)]: at the border of [0, 1] its half-width is below eps.

    Args:
        x: Inputs (B, …) in [0, 1] units: not normalised; networks normalise them themselves.
        eps: Largest change of a pixel, from 0 to 1.

    Raises:
        UserError: eps is not between 0 and 1, or the inputs are not.
    """
    between(0, 1, eps=eps)
    check_pixels(x)
    x = x.clamp(0, 1)
    return box_between((x - eps).clamp(min=0), (x + eps).clamp(max=1))


def check_pixels(x: Tensor) -> None:
    """Refuses inputs outside [0, 1].

    Raises:
        UserError: a number is outside, or not finite.
    """
    if not x.is_floating_point():
        raise UserError(f"inputs of type {x.dtype} have no box; numbers from 0 to 1 of floating type do")
    if not x.numel():
        return
    low, high = (float(value) for value in x.detach().aminmax())
    if not (low >= -SLACK and high <= 1 + SLACK):  # NaN fails both
        raise UserError(
            f"the inputs are from {low:.3g} to {high:.3g}, but eps counts in units where pixels are from 0 to 1; give "
            "such inputs (normalize: false of the data) and let the network normalise them"
        )


def certified(margins: Tensor, labels: Tensor) -> Tensor:
    """Returns which samples are proven, (B,): no other class can reach the logit of the label anywhere in the box.

    Args:
        margins: Upper bounds of logit_j − logit_label (B, C), as :meth:`IntervalNetwork.bounds` returns them. A bound
            that is not finite proves nothing.
        labels: Classes (B,).

    Raises:
        UserError: the bounds were computed in half precision, whose rounding is not small beside them.
    """
    if torch.finfo(margins.dtype).bits < 32:
        raise UserError(
            f"bounds of type {margins.dtype} prove nothing, they are rounded too much; use float32 or float64"
        )
    own = torch.nn.functional.one_hot(labels, margins.shape[1]).bool()
    return (margins.masked_fill(own, -1) < 0).all(1)
