"""Projected gradient descent attacks on classifiers, in [0, 1] units.

Paper: Towards Deep Learning Models Resistant to Adversarial Attacks (Madry et al. 2018, arXiv 1706.06083); used by
GrokAlign (Walker et al. 2025, arXiv 2506.12284) and certified training (Mao et al. 2024, arXiv 2306.10426).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.functional.jacobian import sample_outputs
from framework.functional.pixels import per_channel
from framework.settings import above, at_least, one_of

Norm = Literal["linf", "l2"]
SLACK = 0.02  # by which rounding may take a pixel out of [0, 1]; that of bfloat16 is 0.008


def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    eps: float,
    norm: Norm = "linf",
    steps: int = 10,
    step_size: float | None = None,
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
    generator: torch.Generator | None = None,
    keep_best: bool = False,
    decay: float = 1.0,
) -> Tensor:
    """Attacks a classifier by projected gradient descent; returns inputs as the model takes them (normalised).

    The model is in ``eval`` mode during the attack and in its former modes afterwards, also if it raises.

    Args:
        model: Maps x to logits (B, C).
        x: Normalised inputs (B, channels, …), or (B, d) with one mean and deviation.
        y: Classes (B,).
        eps: Size of the perturbation in [0, 1] units; with 0 ``x`` itself is returned.
        norm: ``linf`` or ``l2``, over each sample.
        steps: Gradient steps.
        step_size: In [0, 1] units; by default 2.5 eps / steps.
        mean: Of each channel, in [0, 1] units, that normalisation subtracts.
        std: By which it divides.
        generator: Draws a random start, on the CPU; without one the attack starts at ``x``.
        keep_best: Whether each sample's point of the largest loss is returned, instead of the last one; one more
            forward pass.
        decay: Factor of the step size in the last 30 % of the steps.

    Raises:
        UserError: a setting is not accepted, there are other numbers of means than channels, the inputs are not between
            0 and 1 in these units, or the outputs do not depend on them by operations that have a gradient.
    """
    at_least(0, eps=eps)
    at_least(1, steps=steps)
    above(0, step_size=step_size, std=list(std), decay=decay)
    one_of(get_args(Norm), norm=norm)
    if eps == 0:
        return x
    size = 2.5 * eps / steps if step_size is None else step_size
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        given, labels = x.dtype, y.clone()
        x = x.detach().to(torch.promote_types(given, torch.float32), copy=True)
        centre, scale = (per_channel(values, x, name) for values, name in ((mean, "mean"), (std, "std")))
        pixels = x * scale + centre
        _check_range(pixels)
        delta = torch.zeros_like(pixels) if generator is None else _start(pixels, eps, norm, generator)
        best = _Best(delta, len(x)) if keep_best else None

        def losses(at: Tensor) -> Tensor:
            return F.cross_entropy(_logits(model(((at - centre) / scale).to(given))), labels, reduction="none")

        for step in range(steps):
            if step == math.ceil(0.7 * steps):
                size *= decay
            moved = (pixels + delta).requires_grad_()
            each = losses(moved)
            loss = each.sum()
            if best is not None:
                best.add(delta, each)
            found = torch.autograd.grad(loss, moved, allow_unused=True) if loss.requires_grad else (None,)
            gradient = found[0]
            if gradient is None:
                raise UserError("the outputs cannot be differentiated by the inputs, which are looked up or rounded")
            if norm == "linf":
                delta = (delta + size * gradient.sign()).clamp(-eps, eps)
            else:
                delta = _within(delta + size * gradient / _norms(gradient).clamp(min=1e-12), eps)
            delta = _inside(pixels + delta, pixels) - pixels
        if best is not None:
            with torch.no_grad():
                best.add(delta, losses(pixels + delta))
            delta = best.delta
        return (((pixels + delta).detach() - centre) / scale).to(given)


class _Best:
    """The perturbation of the largest loss of each sample."""

    def __init__(self, delta: Tensor, count: int) -> None:
        self.delta, self.loss = delta, delta.new_full((count,), -math.inf)

    def add(self, delta: Tensor, losses: Tensor) -> None:
        """Takes those that are larger; a loss that is not finite is never taken."""
        losses = losses.detach().to(self.loss.dtype)
        better = losses > self.loss
        self.delta = torch.where(better.view(-1, *[1] * (delta.ndim - 1)), delta.detach(), self.delta)
        self.loss = torch.where(better, losses, self.loss)


def _logits(outputs: Any) -> Tensor:
    found = sample_outputs(outputs)
    found = found.to(torch.promote_types(found.dtype, torch.float32))
    return torch.cat([torch.zeros_like(found), found], 1) if found.shape[1] == 1 else found


def _inside(moved: Tensor, pixels: Tensor) -> Tensor:
    """Within [0, 1], and where a pixel is a rounding error outside, up to it: the perturbation is never larger."""
    return moved.clamp(pixels.clamp(max=0), pixels.clamp(min=1))


def _check_range(pixels: Tensor) -> None:
    low, high = (float(v) for v in pixels.aminmax()) if len(pixels) else (0.0, 1.0)
    if low < -SLACK or high > 1 + SLACK:
        raise UserError(
            f"the inputs are from {low:.3g} to {high:.3g} where black is 0 and white is 1, with this mean and std; set "
            "those that normalised them"
        )


def _norms(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, *[1] * (x.ndim - 1))


def _within(delta: Tensor, eps: float) -> Tensor:
    return delta * (eps / _norms(delta).clamp(min=1e-12)).clamp(max=1)


def _start(pixels: Tensor, eps: float, norm: Norm, generator: torch.Generator) -> Tensor:
    """Returns a uniform draw from the box, or a random direction of a random length."""
    if norm == "linf":
        delta = eps * (torch.rand(pixels.shape, generator=generator, dtype=torch.float64).to(pixels) * 2 - 1)
    else:
        drawn = torch.randn(pixels.shape, generator=generator, dtype=torch.float64).to(pixels)
        lengths = torch.rand(len(pixels), generator=generator, dtype=torch.float64).to(pixels)
        delta = drawn / _norms(drawn).clamp(min=1e-12) * eps * lengths.view(-1, *[1] * (pixels.ndim - 1))
    return _inside(pixels + delta, pixels) - pixels


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Returns the accuracy in ``eval`` mode; the model's modes are restored.

    Args:
        model: Maps x to logits (B, C); one output classifies by its sign.
        x: Inputs (B, …), as the model takes them.
        y: Classes (B,).
    """
    with evaluating(model):
        return float((_logits(model(x)).argmax(1) == y).float().mean())
