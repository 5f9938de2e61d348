"""Operations that are affine already: convolutions, sums, shapes, pooling by averages, and products with a gate.

Of a product of two parts that both depend on the image one must be a gate (attention, squeeze-and-excitation, a
normalisation's factor), which keeps the value that it has for the image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from framework.functional.linear_scope.calls import Call, Refusal, Rule, Step, frozen


def replay(call: Call, positions: tuple[int, ...]) -> Step:
    """The operation itself on the probe's values at ``positions``, with all other arguments as for x."""
    if not positions:
        return frozen(call.evaluate())
    op, kwargs = call.op, call.kwargs
    args = [None if i in positions else value for i, value in enumerate(call.args)]

    def run(*values: Any) -> Any:
        filled = list(args)
        for position, value in zip(positions, values, strict=True):
            filled[position] = value
        return op(*filled, **kwargs)

    return Step(positions, run)


def affine_in(*positions: int) -> Rule:
    """A rule for an operation that is affine in the arguments at ``positions`` together."""

    def rule(call: Call) -> Step | Refusal:
        return replay(call, tuple(i for i in positions if i < len(call.args) and call.varying[i]))

    return rule


def product_of(first: int, second: int, *added: int) -> Rule:
    """A rule for an operation that is linear in each of two arguments, to which those at ``added`` are added.

    If both depend on the image, the one that is more surely a gate keeps its value.
    """

    def rule(call: Call) -> Step | Refusal:
        chosen = [i for i in added if i < len(call.args) and call.varying[i]]
        factors = [i for i in (first, second) if call.varying[i]]
        if len(factors) == 2:
            left, right = (call.gated[i] for i in factors)
            if left == right:
                what = "not one of them is a gate" if left == 0 else "both are gates of the same kind"
                return Refusal(f"is a product of two parts that both depend on the image, and {what}")
            factors = [factors[0] if left < right else factors[1]]
        return replay(call, tuple(sorted([*chosen, *factors])))

    return rule


_PRODUCT = product_of(0, 1, 2)


def convolution(call: Call) -> Step | Refusal:
    """Linear in the input and in the weight; a batch norm that follows can be merged with the weight."""
    step = _PRODUCT(call)
    given = call.named()
    if isinstance(step, Refusal) or step.inputs != (0,) or given["transposed"]:
        return step

    def scaled(factor: Tensor, shift: Tensor) -> Step:
        weight, bias = given["weight"], given["bias"]
        weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
        bias = shift if bias is None else bias * factor + shift
        args = (call.args[0], weight, bias, *call.args[3:])
        return replay(replace(call, args=args), (0,))

    return replace(step, scaled=scaled)


def quotient(call: Call) -> Step | Refusal:
    """The numerator is replayed; the denominator keeps its value, as the scale of a normalisation."""
    if call.kwargs.get("rounding_mode") is not None:
        return Refusal("rounds")
    return replay(call, (0,) if call.varying[0] else ())


def reshaped(call: Call) -> Step | Refusal:
    """A view; copied where the probe's memory has another layout than the image's."""
    size = call.args[1]
    return Step((0,), lambda value: value.reshape(size))


def converted(call: Call) -> Step | Refusal:
    """A change of type; a lower precision is not applied, because the map is exact only without rounding."""
    kind = call.kwargs.get("dtype")
    if kind is None or kind.is_complex:
        return replay(call, (0,))
    if not call.args[0].dtype.is_floating_point:
        return frozen(call.evaluate())
    return Step((0,), lambda value: value)


def identity(call: Call) -> Step | Refusal:
    """The probe as it is."""
    return Step((0,), lambda value: value)


def restrided(call: Call) -> Step | Refusal:
    """Another layout in memory of the same entries, as what is written in place leaves behind."""
    same = tuple(call.args[1]) == tuple(call.args[0].shape)
    return Step((0,), lambda value: value) if same else Refusal("changes the shape in place")


_SHAPES = """permute transpose t expand squeeze unsqueeze slice select split split_with_sizes unbind unfold as_strided
diagonal flip roll rot90 repeat repeat_interleave tril triu index gather index_select take_along_dim pixel_shuffle
pixel_unshuffle channel_shuffle native_channel_shuffle im2col col2im constant_pad_nd pad reflection_pad1d
reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d replication_pad3d real imag view_as_real
view_as_complex _conj conj_physical diag_embed masked_fill fill"""
_SUMS = """sum mean cumsum neg avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d _adaptive_avg_pool2d
_adaptive_avg_pool3d adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d upsample_nearest3d
_upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d
upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa
grid_sampler_2d grid_sampler_3d trace _fft_r2c _fft_c2r _fft_c2c"""
_SAME = "detach alias lift_fresh lift_fresh_copy contiguous clone dropout"

AFFINE: dict[str, Rule] = {f"aten.{name}": affine_in(0) for name in f"{_SHAPES} {_SUMS}".split()}
AFFINE |= {f"aten.{name}": identity for name in _SAME.split()}
AFFINE |= {f"aten.{name}": reshaped for name in ("view", "_unsafe_view", "reshape", "_reshape_copy", "view_copy")}
AFFINE |= {
    "aten._to_copy": converted,
    "aten.as_strided_": restrided,
    "aten.add": affine_in(0, 1),
    "aten.sub": affine_in(0, 1),
    "aten.rsub": affine_in(0, 1),
    "aten.cat": affine_in(0),
    "aten.stack": affine_in(0),
    "aten.copy": affine_in(1),
    "aten.where": affine_in(1, 2),
    "aten.slice_scatter": affine_in(0, 1),
    "aten.select_scatter": affine_in(0, 1),
    "aten.diagonal_scatter": affine_in(0, 1),
    "aten.index_put": affine_in(0, 2),
    "aten.scatter": affine_in(0, 3),
    "aten.scatter_add": affine_in(0, 3),
    "aten.index_add": affine_in(0, 3),
    "aten.embedding": affine_in(0),
    "aten.convolution": convolution,
    "aten.linear": product_of(0, 1, 2),
    "aten.addmm": product_of(1, 2, 0),
    "aten.baddbmm": product_of(1, 2, 0),
    "aten.addmv": product_of(1, 2, 0),
    "aten.addcmul": product_of(1, 2, 0),
    "aten.mul": product_of(0, 1),
    "aten.mm": product_of(0, 1),
    "aten.bmm": product_of(0, 1),
    "aten.mv": product_of(0, 1),
    "aten.dot": product_of(0, 1),
    "aten.div": quotient,
}
# Made like a tensor, but not from its values.
_MADE = "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty sym_size"
CONSTANT = frozenset(f"aten.{name}" for name in _MADE.split())
# What a gate stays one through.
KEEPS_GATES = frozenset(
    f"aten.{name}"
    for name in f"{_SHAPES} {_SUMS} {_SAME} view _unsafe_view reshape _to_copy add sub rsub cat stack mul div".split()
)
# What makes one, and how surely; in silu(h) · sigmoid(g), squeeze and excitation, the sigmoid is it.
_SURE = "sigmoid hardsigmoid _softmax _safe_softmax softmax rsqrt reciprocal linalg_vector_norm"
GATES = {f"aten.{name}": 2 for name in _SURE.split()} | {f"aten.{name}": 1 for name in ("tanh", "silu", "gelu")}


def gate_of(name: str, value: Any, call: Call) -> int:
    """Returns how surely an operation's value is a gate, see :class:`Call`.

    It is one if it is made by one of :data:`GATES`, by a comparison, or from gates alone.

    Args:
        name: The operation.
        value: Its value for the image.
        call: Its arguments.
    """
    if name in GATES:
        return GATES[name]
    if isinstance(value, torch.Tensor) and not (value.is_floating_point() or value.is_complex()):
        return 2
    depends = [gate for gate, varies in zip(call.gated, call.varying, strict=True) if varies]
    return min(depends, default=0) if name in KEEPS_GATES else 0
