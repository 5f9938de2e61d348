"""RF8: weights in 8 bits, as the sum of a power of two and a second, smaller one.

Paper: It Takes a Good Model to Train a Good Model: Generalized Gaussian Priors for Optimized LLMs (Wu et al. 2025,
arXiv 2506.00486, versions 1 to 3).

    e1 = round(log2 |w|),  a = sign(w) 2^e1,  r = w − a,  e2 = round(log2 |r|),  b = sign(r) 2^e2
    q = a + b  if e1 − e2 ≤ 4,  else a;  0 for 0

The logarithm is rounded, so that |r| / 2^e1 is between −0.293 and 0.414. Therefore eight pairs are possible:
b above 0 with e1 − e2 = 1, 2, 3, 4, below 0 with 2, 3, 4, and none. In a binade [1, 2] these give

    1, 1.0625, 1.125, 1.25, 1.5, 1.75, 1.875, 2

(1.5 in two ways, 1 + 0.5 and 2 − 0.5), so seven different values in each binade. The rounded value changes to the next
one where the mantissa passes 1 + 2^(−k−1/2) for k = 4, 3, 2, 1, then 2 − 2^(−k−1/2) for k = 1, 2, 3: these are integer
comparisons with the bits of the float, without a logarithm. The largest relative error is 10.8 %, at 1.3536 · 2^k.

The layout of the eight bits is this project's own; the paper's was not available. The top bit is the sign. The other
seven number the magnitudes in ascending order: 0 is the number 0, and 127 the tensor's largest magnitude after
rounding, whose index ``top`` (7 · exponent + level) is stored with the tensor. All 255 different codes are used. So 18
binades below the largest are exact; a weight below them is rounded to the smallest magnitude, or to 0 if it is below
about half of it.

Encoding and decoding 1e8 float32 weights takes a few times as long as copying them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError

LEVELS = (1.0, 1.0625, 1.125, 1.25, 1.5, 1.75, 1.875)
"""The values of a binade."""

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
}
"""Types of weights, by their stored name."""

_CHUNK = 1 << 16
_PAIRS = 1 << 20  # number of weights from which a table of pairs of codes is faster


def thresholds(bits: int) -> list[int]:
    """Returns the exact mantissas of ``bits`` bits (the leading 1 not stored) at which each next level starts."""
    rising = [math.isqrt(1 << (2 * bits - 2 * k - 1)) + 1 for k in (4, 3, 2, 1)]
    return rising + [(1 << bits) - math.isqrt(1 << (2 * bits - 2 * k - 1)) for k in (1, 2, 3)]


@dataclass(frozen=True)
class Encoded:
    """A tensor in RF8.

    Attributes:
        codes: uint8, of the tensor's shape.
        top: Index of the magnitude of code 127: 7 · exponent + level.
        dtype: Name of the tensor's type.
    """

    codes: Tensor
    top: int
    dtype: str


class _Floats:
    """The float format of a numpy type."""

    def __init__(self, kind: type, integer: type, mantissa: int, bias: int) -> None:
        self.kind, self.integer, self.mantissa, self.bias = kind, integer, mantissa, bias
        self.thresholds = [integer(value) for value in thresholds(mantissa)]
        self.magnitude = integer((1 << (8 * np.dtype(integer).itemsize - 1)) - 1)
        self.fraction = integer((1 << mantissa) - 1)


_SINGLE = _Floats(np.float32, np.int32, 23, 127)
_DOUBLE = _Floats(np.float64, np.int64, 52, 1023)


def check_finite(w: Tensor, name: str = "the tensor") -> float:
    """Returns the largest magnitude of ``w``; 0 if it is empty.

    Raises:
        UserError: ``w`` is not a floating-point tensor, or holds NaN or infinity.
    """
    if w.dtype not in DTYPES.values():
        raise UserError(f"rf8: {name} has type {w.dtype}; RF8 takes {', '.join(DTYPES)}")
    if not w.numel():
        return 0.0
    low, high = torch.aminmax(w.detach())
    most = max(-float(low), float(high))
    if not math.isfinite(most):
        raise UserError(f"rf8: {name} holds NaN or infinity, which have no code")
    return most


def _place(magnitude: float) -> int:
    """Returns the index 7 · exponent + level of a positive number, rounded."""
    mantissa, exponent = math.frexp(magnitude)  # mantissa in [0.5, 1)
    fraction = int((2 * mantissa - 1) * (1 << 52))
    return 7 * (exponent - 1) + sum(fraction >= value for value in thresholds(52))


def _value(place: int) -> float:
    return math.ldexp(LEVELS[place % 7], place // 7)


def _highest(dtype: torch.dtype) -> int:
    """Returns the largest index whose value the type can hold."""
    return _place(torch.finfo(dtype).max) - 1  # the maximum itself would be rounded up


def encode(w: Tensor, name: str = "the tensor") -> Encoded:
    """Encodes a tensor of any shape.

    Args:
        w: float16, bfloat16, float32 or float64, on any device; the codes are on the CPU.
        name: For messages.

    Raises:
        UserError: ``w`` is not a floating-point tensor, or holds NaN or infinity.
    """
    most = check_finite(w, name)
    dtype = str(w.dtype).removeprefix("torch.")
    if not most:
        return Encoded(torch.zeros(w.shape, dtype=torch.uint8), 0, dtype)
    top = min(_place(most), _highest(w.dtype))
    # a tensor with numbers so small that they are subnormal in float32 is encoded in float64
    form = _DOUBLE if w.dtype == torch.float64 or _value(top - 134) < 2.0**-126 else _SINGLE
    flat = w.detach().cpu().reshape(-1)
    codes = torch.empty(flat.shape, dtype=torch.uint8)
    out = codes.numpy()
    work = _Work(form, min(_CHUNK, len(out)))
    # numbers below 2^-1022 are subnormal in float64: such a tensor is multiplied by 2^512 first
    lift = 512 if form is _DOUBLE and top < 7 * (134 // 7 + 1 - 1022) else 0
    # difference between 7 · (stored exponent) + level and the code
    offset = top + 7 * (form.bias + lift) - 127
    wanted = torch.float64 if form is _DOUBLE else torch.float32
    for start in range(0, len(out), _CHUNK):
        part = flat[start : start + _CHUNK]
        part = part if part.dtype == wanted else part.to(wanted)
        numbers = (part * 2.0**lift if lift else part).contiguous().numpy()
        work.encode(numbers, out[start : start + _CHUNK], offset)
    return Encoded(codes.view(w.shape), top, dtype)


class _Work:
    """Buffers for one piece, reused for each."""

    def __init__(self, form: _Floats, size: int) -> None:
        self.form = form
        self.bits: np.ndarray = np.empty(size, form.integer)
        self.places = np.empty(size, np.int16)
        self.level = np.empty(size, np.uint8)
        self.passed = np.empty(size, np.bool_)

    def encode(self, numbers: np.ndarray, out: np.ndarray, offset: int) -> None:
        form, n = self.form, len(numbers)
        bits, places, level, passed = self.bits[:n], self.places[:n], self.level[:n], self.passed[:n]
        integers: np.ndarray = numbers.view(form.integer)
        np.bitwise_and(integers, form.fraction, out=bits)
        np.greater_equal(bits, form.thresholds[0], out=level.view(np.bool_))
        for value in form.thresholds[1:]:
            np.greater_equal(bits, value, out=passed)
            np.add(level, passed.view(np.uint8), out=level)
        np.bitwise_and(integers, form.magnitude, out=bits)
        np.right_shift(bits, form.integer(form.mantissa), out=bits)
        np.copyto(places, bits, casting="unsafe")
        np.multiply(places, np.int16(7), out=places)
        np.add(places, level, out=places)
        np.subtract(places, np.int16(offset), out=places)
        # from -5 to 0: nearer to the smallest magnitude than to 0
        np.greater(places, np.int16(-6), out=passed)
        np.clip(places, np.int16(1), np.int16(127), out=places)
        np.copyto(out, places, casting="unsafe")
        np.multiply(out, passed.view(np.uint8), out=out)
        np.less(integers, form.integer(0), out=passed)
        np.logical_and(passed, out, out=passed)  # no negative 0
        np.left_shift(passed.view(np.uint8), np.uint8(7), out=level)
        np.bitwise_or(out, level, out=out)


def table(top: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Returns the values of the 256 codes, (256,) of ``dtype``; values too small for the type are 0."""
    values = [0.0] + [_value(top - 127 + code) for code in range(1, 128)]
    signed = torch.tensor(values + [-value for value in values], dtype=torch.float64)
    signed[128] = 0.0
    return signed.to(dtype)


def decode(encoded: Encoded) -> Tensor:
    """Decodes the values, of the tensor's shape and type, on the CPU.

    Raises:
        UserError: the parts do not match.
    """
    codes = encoded.codes
    if codes.dtype != torch.uint8 or encoded.dtype not in DTYPES or type(encoded.top) is not int:
        raise UserError(f"rf8: codes of {codes.dtype} for a tensor of {encoded.dtype!r} cannot be decoded")
    dtype = DTYPES[encoded.dtype]
    if not -8000 < encoded.top <= _highest(dtype):
        raise UserError(f"rf8: the scale {encoded.top} is out of the range of {encoded.dtype}")
    values = torch.empty(codes.shape, dtype=dtype)
    raw = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    out = values.view(-1).view(raw).numpy()
    source = codes.contiguous().view(-1).numpy()
    single = table(encoded.top, dtype).view(raw).numpy()
    pairs = dtype.itemsize == 4 and len(source) >= _PAIRS
    if pairs:  # two codes at a time
        two = np.empty((256, 256, 2), np.int32)
        two[:, :, 0], two[:, :, 1] = single[None, :], single[:, None]  # the first of two is the low byte
        double = two.reshape(-1, 2).view(np.int64).reshape(-1)
    for start in range(0, len(source), _CHUNK):
        part, target = source[start : start + _CHUNK], out[start : start + _CHUNK]
        if pairs and len(part) % 2 == 0 and part.ctypes.data % 2 == 0:
            np.take(double, part.view("<u2"), out=target.view(np.int64), mode="clip")
        else:
            np.take(single, part, out=target, mode="clip")
    return values


@torch.no_grad()
def round_to_rf8(w: Tensor, name: str = "the tensor") -> Tensor:
    """Rounds each weight to q, without the limit of 18 binades; returns a new tensor like ``w``.

    Below 2⁻¹²⁰ (2⁻¹⁰¹⁶ for float64) everything becomes 0; values that float16 or bfloat16 cannot hold are rounded.

    Raises:
        UserError: ``w`` is not a floating-point tensor, or holds NaN or infinity.
    """
    most = check_finite(w, name)
    result = torch.empty_like(w.detach(), memory_format=torch.contiguous_format)
    if not most:
        return result.zero_()
    limit = _value(_highest(w.dtype))
    source, target = w.detach().reshape(-1), result.view(-1)
    size = _CHUNK if w.device.type == "cpu" else 1 << 26
    for start in range(0, source.numel(), size):
        part = source[start : start + size]
        part = part if part.dtype in (torch.float32, torch.float64) else part.float()
        if most > limit / 4:  # an intermediate power of two would overflow
            target[start : start + size] = _rounded(part / 4).clamp_(-limit / 4, limit / 4) * 4
        else:
            target[start : start + size] = _rounded(part)
    return result


def _nearest_power(magnitude: Tensor, integer: torch.dtype, mantissa: int) -> Tensor:
    """Returns 2^round(log2 x) of positive normal numbers: from √2 the mantissa carries into the exponent."""
    carry = (1 << mantissa) - (math.isqrt(1 << (2 * mantissa + 1)) + 1 - (1 << mantissa))
    return magnitude.view(integer).add(carry).bitwise_and_(-(1 << mantissa)).view(magnitude.dtype)


def _rounded(w: Tensor) -> Tensor:
    integer, mantissa, least = (
        (torch.int32, 23, 2.0**-120) if w.dtype == torch.float32 else (torch.int64, 52, 2.0**-1016)
    )
    magnitude = w.abs()
    a = _nearest_power(magnitude, integer, mantissa)
    r = magnitude - a  # exact
    b = _nearest_power(r.abs(), integer, mantissa)
    b.mul_(b >= a / 16)
    a.add_(b.mul_(r.sign_()))
    return a.mul_(magnitude >= least).mul_(w.sign())
