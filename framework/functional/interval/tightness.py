"""How tight interval bounds are: the half-widths of the network's linear map over those of its layers one by one.

Paper: Understanding Certified Training with Interval Bound Propagation (Mao, Mueller, Fischer, Vechev 2024,
arXiv 2306.10426). With the ReLUs replaced by what they do at x, D_k = 1[pre-activation ≥ 0], and r₀ the half-width of
the input's box:

    τ(x) = |C W_L D_{L−1} … D_1 W_1| r₀ / (|C W_L| D_{L−1} |W_{L−1}| … D_1 |W_1| r₀)

C has the rows e_j − e_label, or is the identity without labels. With all D_k = 1 it is that of the deep linear network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from framework.functional.evaluating import evaluating
from framework.functional.interval.boxes import Box, pixel_box
from framework.functional.interval.network import Affine, IntervalNetwork, Rules, size_of
from framework.settings import at_least

FLOOR = 1e-8  # below which the authors' program counts a half-width as this


@dataclass(frozen=True)
class Tightness:
    """Tightness of a batch.

    Attributes:
        ratio: τ (B, C − 1), or (B, C) without labels; from 0 to 1.
        exact: Half-widths of the linear map, of the same shape.
        layerwise: Half-widths layer by layer.
    """

    ratio: Tensor
    exact: Tensor
    layerwise: Tensor

    @property
    def mean(self) -> float:
        """The mean of the ratios over outputs and samples."""
        return float(self.ratio.mean())


class _PlainRules(Rules[Tensor]):
    """Propagates the inputs themselves, and stores what ReLUs and maxima did to them."""

    def __init__(self, linear: bool) -> None:
        self.linear = linear
        self.masks: dict[str, Tensor] = {}
        self.seen: dict[str, Tensor] = {}

    def tensor(self, value: Tensor) -> Tensor:
        return value

    def affine(self, value: Tensor, layer: Affine, name: str) -> Tensor:
        return layer.function(value, layer.weight, layer.bias)

    def scale(self, value: Tensor, weight: Tensor | float, bias: Tensor | float, name: str) -> Tensor:
        return value * weight + bias

    def relu(self, value: Tensor, name: str) -> Tensor:
        if self.linear:
            return value
        self.masks[name] = (value >= 0).to(value.dtype)
        return value * self.masks[name]

    def same(self, value: Tensor, function: Callable[[Tensor], Tensor], name: str) -> Tensor:
        return function(value)

    def largest(self, value: Tensor, function: Callable[[Tensor], Tensor], name: str) -> Tensor:
        self.seen[name] = value
        return function(value)

    def add(self, one: Tensor, other: Tensor, sign: int, name: str) -> Tensor:
        return one + sign * other


class _LinearRules(_PlainRules):
    """Propagates changes of the inputs: without constants, and with what was stored."""

    def __init__(self, plain: _PlainRules) -> None:
        super().__init__(plain.linear)
        self.masks, self.seen = plain.masks, plain.seen

    def affine(self, value: Tensor, layer: Affine, name: str) -> Tensor:
        return layer.function(value, layer.weight, None)

    def scale(self, value: Tensor, weight: Tensor | float, bias: Tensor | float, name: str) -> Tensor:
        return value * weight

    def relu(self, value: Tensor, name: str) -> Tensor:
        return value if self.linear else value * self.masks[name]

    def largest(self, value: Tensor, function: Callable[[Tensor], Tensor], name: str) -> Tensor:
        found: Any = torch.func.jvp(function, (self.seen[name],), (value,))
        return found[1]


class _WidthRules(_LinearRules):
    """Propagates half-widths through each layer's absolute weights."""

    def affine(self, value: Tensor, layer: Affine, name: str) -> Tensor:
        return layer.function(value, layer.weight.abs(), None)

    def scale(self, value: Tensor, weight: Tensor | float, bias: Tensor | float, name: str) -> Tensor:
        return value * size_of(weight)

    def add(self, one: Tensor, other: Tensor, sign: int, name: str) -> Tensor:
        return one + other


def tightness(
    network: IntervalNetwork,
    x: Tensor,
    eps: float | Tensor,
    labels: Tensor | None = None,
    linear: bool = False,
    floor: float = FLOOR,
) -> Tightness:
    """Returns the local tightness at x, in evaluation mode; one backward pass for each output, and one forward pass.

    Args:
        network: The network.
        x: Inputs (B, …); with a number for ``eps`` they are in [0, 1].
        eps: Largest change of a number: the boxes are cut to [0, 1]; or the half-widths (B, …) themselves, as ones for
            networks without data. The ratio does not depend on their common scale.
        labels: Classes (B,), for the differences to the label's logit.
        linear: Whether the ReLUs are left out: the tightness of the deep linear network.
        floor: What smaller half-widths count as; 0 for deep networks at the start, whose bounds are huge. Where both
            are 0 the ratio is 1.

    Raises:
        UserError: the inputs are outside [0, 1], or eps is.
    """
    at_least(0, floor=floor)
    radius = eps if isinstance(eps, Tensor) else pixel_box(x, eps).radius
    with evaluating(network.net), torch.inference_mode(False):
        with torch.no_grad():
            plain = _PlainRules(linear)
            for _ in network.run(plain, x.clone()):
                pass
            layerwise = _layerwise(network, _WidthRules(plain), radius.clone(), labels)
        moved = torch.zeros_like(x, requires_grad=True)
        with torch.enable_grad():
            outputs = _last(network, _LinearRules(plain), moved)
            outputs = outputs if labels is None else _differences(outputs, labels)
            exact = torch.empty_like(layerwise)
            for column in range(outputs.shape[1]):
                keep = column + 1 < outputs.shape[1]
                (gradient,) = torch.autograd.grad(outputs[:, column].sum(), moved, retain_graph=keep)
                exact[:, column] = (gradient.abs() * radius).flatten(1).sum(1)
    above, below = exact.clamp(min=floor), layerwise.clamp(min=floor)
    return Tightness(torch.where((above == 0) & (below == 0), 1.0, above / below), exact, layerwise)


def _last(network: IntervalNetwork, rules: Rules[Tensor], start: Tensor, elide: bool = False) -> Tensor:
    last = start
    for _, _, after in network.run(rules, start, network.head if elide else None):
        last = after
    return last


def _others(labels: Tensor, classes: int) -> Tensor:
    """The classes (B, classes − 1) that are not the label."""
    found = torch.arange(classes - 1, device=labels.device).expand(len(labels), -1)
    return found + (found >= labels[:, None])


def _differences(outputs: Tensor, labels: Tensor) -> Tensor:
    return outputs.gather(1, _others(labels, outputs.shape[1])) - outputs.gather(1, labels[:, None])


def _layerwise(network: IntervalNetwork, rules: _WidthRules, radius: Tensor, labels: Tensor | None) -> Tensor:
    if labels is None:
        return _last(network, rules, radius)
    if network.head is None:
        outputs = _last(network, rules, radius)
        return outputs.gather(1, _others(labels, outputs.shape[1])) + outputs.gather(1, labels[:, None])
    features = _last(network, rules, radius, elide=True)
    weight = network.head_layer.weight
    rows = weight[_others(labels, len(weight))] - weight[labels][:, None]  # (B, C − 1, d)
    return torch.bmm(rows.abs(), features[:, :, None])[:, :, 0]


def relu_states(relus: dict[str, Box]) -> dict[str, float]:
    """Returns the shares of units that are ``dead`` (never positive), ``active`` (always) and ``unstable`` in boxes.

    Args:
        relus: Boxes before each ReLU.
    """
    total = sum(box.radius.numel() for box in relus.values())
    dead = sum(int((box.upper <= 0).sum()) for box in relus.values())
    active = sum(int(((box.lower >= 0) & (box.upper > 0)).sum()) for box in relus.values())
    share = {"dead": dead, "active": active, "unstable": total - dead - active}
    return {name: count / max(total, 1) for name, count in share.items()}
