"""Non-linear units, and the linear action that they had on the image (arXiv 1908.05168; the table is derived).

At a pre-activation h of the image, a probe's g is mapped to

- slope · g + (σ(h) − slope · h) for units of one variable. The slope of a piecewise linear unit is its derivative, with
  PyTorch's convention at kinks (0 for ReLU at 0). That of a smooth unit is σ(h)/h (secant; σ'(0) at 0) or σ'(h)
  (tangent; the only one where σ(0) ≠ 0);
- the entries of g at the places of the image's maxima (pooling; the first on ties, as in PyTorch);
- γ (g − m) / sqrt(var(h) + ε) + β for normalisations, m the mean of g, which is linear, or that of h.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from framework.functional.linear_scope.calls import Call, Refusal, Rule, Step, frozen

# Positively homogeneous: σ(h) = σ'(h) h, so that nothing is left for r.
HOMOGENEOUS = frozenset(f"aten.{name}" for name in ("relu", "leaky_relu", "_prelu_kernel", "abs"))
_PIECEWISE = """relu leaky_relu _prelu_kernel abs relu6 hardtanh clamp clamp_min clamp_max threshold hardsigmoid
hardshrink softshrink sign floor ceil round trunc"""
_SMOOTH = """tanh sigmoid gelu silu mish softplus elu celu selu hardswish exp expm1 log log1p sin cos atan erf sqrt
rsqrt reciprocal pow square log_sigmoid_forward asinh sinh cosh"""
PIECEWISE = frozenset(f"aten.{name}" for name in _PIECEWISE.split())
SMOOTH = frozenset(f"aten.{name}" for name in _SMOOTH.split())


def _first(value: Any) -> Tensor:
    return value[0] if isinstance(value, tuple) else value


def slope(call: Call) -> tuple[Tensor, Tensor]:
    """Returns σ(h) and the slope by which a probe is multiplied."""
    h = call.args[0].detach().clone().requires_grad_()
    with torch.enable_grad():
        value = _first(call.op(h, *call.args[1:], **call.kwargs))
        found = torch.autograd.grad(value.sum(), h)[0] if value.requires_grad else torch.zeros_like(h)
    h, value = h.detach(), value.detach()
    if call.name in SMOOTH and call.options.smooth_mode != "tangent":
        zero = h.new_zeros(1).reshape((1,) * h.ndim)
        at_zero = _first(call.op(zero, *call.args[1:], **call.kwargs))
        if bool((at_zero == 0).all()):
            found = torch.where(h == 0, found, value / torch.where(h == 0, 1, h))
    return value, found


def unit(call: Call) -> Step | Refusal:
    """The rule of a function of one variable, applied to each entry."""
    if any(call.varying[1:]):
        number = call.varying.index(True, 1)
        return Refusal(f"depends on the image by its argument {number}, such as a bound or an exponent")
    if call.args[0].is_complex():
        return Refusal("is of complex numbers")
    value, factor = slope(call)
    pair = isinstance(call.evaluate(), tuple)
    rest = None if call.name in HOMOGENEOUS else value - factor * call.args[0]
    if rest is not None and not bool(rest.any()):
        rest = None

    def run(g: Tensor) -> Any:
        out = g * factor if rest is None else g * factor + rest
        return (out, None) if pair else out

    return Step((0,), run)


def largest_of_two(call: Call) -> Step | Refusal:
    """The rule of ``maximum`` and ``minimum``: the share of each argument, a half on ties."""
    a, b = call.args[:2]
    wins = a > b if call.name == "aten.maximum" else a < b
    share = wins.to(a.dtype) + 0.5 * (a == b)
    positions = tuple(i for i in (0, 1) if call.varying[i])

    def run(*values: Tensor) -> Tensor:
        left, right = (values[positions.index(i)] if i in positions else call.args[i] for i in (0, 1))
        return share * left + (1 - share) * right

    return Step(positions, run)


def pooled(spatial: int) -> Rule:
    """The rule of max-pooling over the last ``spatial`` dimensions."""

    def rule(call: Call) -> Step | Refusal:
        places = call.evaluate()[1]
        flat, shape = places.flatten(-spatial), places.shape

        def run(g: Tensor) -> tuple[Tensor, Tensor]:
            return g.flatten(-spatial).gather(-1, flat).reshape(shape), places

        return Step((0,), run)

    return rule


def selected(call: Call) -> Step | Refusal:
    """The rule of maxima, sorting and choosing along a dimension: the entries at the image's places."""
    given = call.named()
    if "dim" not in given and call.name != "aten.topk" and call.name != "aten.sort":
        return extreme(call)
    values, places = call.evaluate()
    dim = given.get("dim", -1)
    lost = values.ndim < call.args[0].ndim
    index = places.unsqueeze(dim) if lost else places

    def run(g: Tensor) -> tuple[Tensor, Tensor]:
        found = g.gather(dim, index)
        return (found.squeeze(dim) if lost else found), places

    return Step((0,), run)


def extreme(call: Call) -> Step | Refusal:
    """The rule of the largest or smallest entry over dimensions, which ties share as in PyTorch."""
    h = call.args[0].detach().clone().requires_grad_()
    with torch.enable_grad():
        out = call.op(h, *call.args[1:], **call.kwargs)
        share = torch.autograd.grad(out.sum(), h)[0]
    given = call.named()
    dims = list(given.get("dim") or range(h.ndim))
    keep, shape = bool(given.get("keepdim", False)), out.shape
    return Step((0,), lambda g: (g * share).sum(dims, keepdim=keep).reshape(shape))


def _normalised(h: Tensor, dims: list[int], eps: float, mode: str, around_zero: bool = False) -> tuple[Any, Any]:
    """Returns the frozen 1 / sqrt(var(h) + ε), and a function that subtracts the mean."""
    if around_zero:
        return (h.square().mean(dims, keepdim=True) + eps).rsqrt(), lambda g: g
    variance, mean = torch.var_mean(h, dims, correction=0, keepdim=True)
    if mode == "linear_mean":
        return (variance + eps).rsqrt(), lambda g: g - g.mean(dims, keepdim=True)
    return (variance + eps).rsqrt(), lambda g: g - mean


def _scaled(given: dict[str, Any], shape: list[int]) -> Any:
    weight, bias = (None if v is None else v.reshape(shape) for v in (given.get("weight"), given.get("bias")))

    def run(g: Tensor) -> Tensor:
        g = g if weight is None else g * weight
        return g if bias is None else g + bias

    return run


def batch_norm(call: Call) -> Step | Refusal:
    """By running statistics: affine already. By those of the input (InstanceNorm): the variance is frozen."""
    given = call.named()
    h = call.args[0]
    shape = [1, -1, *(1 for _ in h.shape[2:])]
    eps = float(given["eps"] if "eps" in given else given["epsilon"])
    training = given.get("training", given.get("train", False))
    scale = _scaled(given, shape)
    if not training:
        factor = (given["running_var"] + eps).rsqrt()
        weight, bias = given.get("weight"), given.get("bias")
        factor = factor if weight is None else factor * weight
        shift = -given["running_mean"] * factor
        shift = shift if bias is None else shift + bias
        wide, moved = factor.reshape(shape), shift.reshape(shape)
        return Step((0,), lambda g: (g * wide + moved, None, None), scaling=(factor, shift))
    if len(h) > 1:
        return Refusal(f"takes its statistics from all {len(h)} images together; interpret one image at a time")
    inverse, centred = _normalised(h, [0, *range(2, h.ndim)], eps, call.options.norm_mode)
    return Step((0,), lambda g: (scale(centred(g) * inverse), None, None))


def group_norm(call: Call) -> Step | Refusal:
    """The variance of each group of channels is frozen."""
    given = call.named()
    h, groups = call.args[0], given["group"]
    grouped = [len(h), groups, -1]
    scale = _scaled(given, [1, -1, *(1 for _ in h.shape[2:])])
    inverse, centred = _normalised(h.reshape(grouped), [2], given["eps"], call.options.norm_mode)
    shape = h.shape
    return Step((0,), lambda g: (scale((centred(g.reshape(grouped)) * inverse).reshape(shape)), None, None))


def layer_norm(call: Call) -> Step | Refusal:
    """The variance over the last dimensions is frozen; that of RMSNorm is the mean square."""
    given = call.named()
    h, size = call.args[0], list(given["normalized_shape"])
    dims = [-i - 1 for i in range(len(size))]
    scale = _scaled(given, size)
    eps = given.get("eps")
    root = call.name == "aten._fused_rms_norm"
    eps = torch.finfo(h.dtype).eps if eps is None else eps
    inverse, centred = _normalised(h, dims, eps, call.options.norm_mode, root)
    return Step((0,), lambda g: (scale(centred(g) * inverse), None, None))


def softmax(call: Call) -> Step | Refusal:
    """Attention's weights are a gate; a softmax whose values are read otherwise is refused."""
    if prod(call.args[0].shape) == 0:
        return frozen(call.evaluate())
    return Refusal("is a softmax that reaches the output; interpret the logits before it")


def gated_linear(call: Call) -> Step | Refusal:
    """Half of the channels times a sigmoid of the others, which keeps its value."""
    dim = call.named().get("dim", -1)
    gate = call.args[0].chunk(2, dim)[1].sigmoid()
    return Step((0,), lambda g: g.chunk(2, dim)[0] * gate)


UNITS: dict[str, Rule] = {name: unit for name in PIECEWISE | SMOOTH}
UNITS |= {
    "aten.maximum": largest_of_two,
    "aten.minimum": largest_of_two,
    "aten.max_pool2d_with_indices": pooled(2),
    "aten.max_pool3d_with_indices": pooled(3),
    "aten.adaptive_max_pool2d": pooled(2),
    "aten.adaptive_max_pool3d": pooled(3),
    "aten.max": selected,
    "aten.min": selected,
    "aten.topk": selected,
    "aten.sort": selected,
    "aten.amax": extreme,
    "aten.amin": extreme,
    "aten.native_batch_norm": batch_norm,
    "aten._native_batch_norm_legit": batch_norm,
    "aten._native_batch_norm_legit_no_training": batch_norm,
    "aten._batch_norm_no_update": batch_norm,
    "aten.cudnn_batch_norm": batch_norm,
    "aten.miopen_batch_norm": batch_norm,
    "aten.native_group_norm": group_norm,
    "aten.native_layer_norm": layer_norm,
    "aten._fused_rms_norm": layer_norm,
    "aten.glu": gated_linear,
    "aten._softmax": softmax,
    "aten._safe_softmax": softmax,
    "aten._log_softmax": softmax,
}
