"""The convolution kernel of a continuous diagonal SSM: discretisation and the Vandermonde product.

Shapes: H channels, M = N/2 complex modes, K kernels per channel, L samples. ``dt`` is (H,), ``A`` and ``B`` are (H, M)
complex, ``C`` is (K, H, M) complex.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from framework.functional.precision import full_precision
from framework.settings import one_of

Discretisation = Literal["zoh", "bilinear", "dss"]


def expm1(z: Tensor) -> Tensor:
    """Returns ``e^z - 1`` for complex z, exact to rounding near zero (where the plain difference cancels)."""
    half = torch.sin(z.imag / 2)
    grown = torch.exp(z.real)
    return torch.complex(torch.expm1(z.real) - 2 * grown * half.square(), grown * torch.sin(z.imag))


def phi1(z: Tensor) -> Tensor:
    """Returns ``(e^z - 1) / z``, with its limit 1 at z = 0."""
    zero = z == 0
    safe = torch.where(zero, torch.ones_like(z), z)
    return torch.where(zero, 1 + z / 2, expm1(safe) / safe)


def log_bilinear(z: Tensor) -> Tensor:
    """``log((1 + z/2) / (1 - z/2))``, exact to rounding near zero, so that its multiples can be exponentiated."""
    x, y = z.real / 2, z.imag / 2
    below = (1 - x).square() + y.square()
    # At z = -2 the mode vanishes after one step; a finite logarithm keeps its zeroth power 1.
    ratio = (4 * x / below).clamp(min=-1 + torch.finfo(x.dtype).eps)
    return torch.complex(0.5 * torch.log1p(ratio), torch.atan2(2 * y, 1 - x.square() - y.square()))


def discretise(dt: Tensor, A: Tensor, B: Tensor, disc: Discretisation = "zoh") -> tuple[Tensor, Tensor]:
    """Returns the discrete system of eq. 6, with ``log Ā`` in place of Ā.

    ZOH: ``Ā = e^{ΔA}``, ``B̄ = (e^{ΔA} - 1)/A · B``. Bilinear: ``Ā = (1 + ΔA/2)/(1 - ΔA/2)``, ``B̄ = Δ/(1 - ΔA/2) · B``.
    ``dss`` is ZOH here; the kernel adds its normalisation.

    Args:
        dt: Step sizes Δ (H,).
        A: Modes (H, M).
        B: Input weights (H, M).
        disc: ``zoh``, ``bilinear`` or ``dss``.

    Returns:
        ``log Ā`` and ``B̄``, both (H, M).

    Raises:
        UserError: ``disc`` has another value.
    """
    one_of(get_args(Discretisation), disc=disc)
    step = dt[:, None]
    z = step * A
    if disc == "bilinear":
        return log_bilinear(z), step / (1 - z / 2) * B
    return z, step * phi1(z) * B


def vandermonde(c: Tensor, a: Tensor, length: int) -> Tensor:
    """Returns ``2 Re Σ_n c_n e^{a_n l}`` for l = 0 … length-1.

    The exponent is split, ``l = T l₁ + l₀`` with ``T ≈ sqrt(length)``, so the sum over modes becomes one real matrix
    product per channel between ``c e^{aTl₁}`` and ``e^{al₀}``: H·M·L multiply-adds as in the plain sum, but only
    O(H·M·sqrt(L)) exponentials and memory, also in the backward pass.

    Args:
        c: (K, H, M) complex.
        a: (H, M) complex.
        length: L.

    Returns:
        (K, H, L) real.
    """
    kernels, channels, _ = c.shape
    block = 2 ** round(math.log2(max(1, length)) / 2)
    blocks = -(-length // block)
    coarse = torch.arange(blocks, device=a.device, dtype=a.real.dtype) * block
    fine = torch.arange(block, device=a.device, dtype=a.real.dtype)

    def exponentials(times: Tensor) -> tuple[Tensor, Tensor]:
        size = torch.exp(a.real[..., None] * times)
        phase = a.imag[..., None] * times
        return size * torch.cos(phase), size * torch.sin(phase)

    coarse_re, coarse_im = exponentials(coarse)
    fine_re, fine_im = exponentials(fine)
    c_re, c_im = 2 * c.real[..., None], 2 * c.imag[..., None]
    left = torch.cat([c_re * coarse_re - c_im * coarse_im, -(c_re * coarse_im + c_im * coarse_re)], dim=2)
    right = torch.cat([fine_re, fine_im], dim=1)  # (H, 2M, T)
    left = left.permute(1, 0, 3, 2).reshape(channels, kernels * blocks, right.shape[1])  # (H, K·L₁, 2M)
    with full_precision(a.device):
        out = torch.bmm(left, right).view(channels, kernels, blocks * block)
    return out[..., :length].transpose(0, 1)


def vandermonde_naive(c: Tensor, a: Tensor, length: int) -> Tensor:
    """Returns the plain form of :func:`vandermonde`: stores (H, M, L) complex exponentials. For tests and benchmarks.

    Args:
        c: (K, H, M) complex.
        a: (H, M) complex.
        length: L.

    Returns:
        (K, H, L) real.
    """
    times = torch.arange(length, device=a.device, dtype=a.real.dtype)
    return 2 * torch.einsum("khn,hnl->khl", c, torch.exp(a[..., None] * times)).real


def dss_system(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor]:
    """Modes and weights of the DSS row-softmax kernel (Gupta et al. 2022), free of overflow for either sign of Re A.

    ``K_l = Re Σ C (e^{ΔA} - 1) / (A (e^{ΔAL} - 1)) e^{ΔAl}``. For Re A > 0 numerator and denominator are divided by
    ``e^{ΔAL}``, which gives the same formula in ``-ΔA`` with time running backwards from L - 1.

    Args:
        dt: Step sizes Δ (H,).
        A: Modes (H, M).
        B: Input weights (H, M).
        C: Output weights (K, H, M).
        length: L, over which the softmax normalises.

    Returns:
        ``(weights, a, growing)``: (K, H, M) weights without the factor 2; ``a`` (H, M) with Re a ≤ 0; and which modes
        (H, M) run backwards in time.
    """
    z = dt[:, None] * A
    growing = z.real > 0
    a = torch.where(growing, -z, z)
    sign = torch.where(growing, -1.0, 1.0).to(z.dtype)
    bottom = expm1(a * length)
    reciprocal = bottom.conj() / (bottom * bottom.conj() + 1e-7)
    return C * (B * sign * dt[:, None] * phi1(a) * reciprocal), a, growing


def ssm_kernel(
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    length: int,
    disc: Discretisation = "zoh",
    dss_length: int | None = None,
) -> Tensor:
    """Returns the convolution kernel ``K̄_l = 2 Re Σ_n C_n B̄_n Ā_n^l`` (eq. 7), or the DSS kernel.

    Args:
        dt: Step sizes (H,).
        A: Modes (H, M).
        B: Input weights (H, M).
        C: Output weights (K, H, M).
        length: L.
        disc: ``zoh``, ``bilinear`` or ``dss``.
        dss_length: For ``dss`` the length over which the softmax normalises; by default ``length``.

    Returns:
        (K, H, L) real.
    """
    if disc != "dss":
        a, b = discretise(dt, A, B, disc)
        return vandermonde(C * b, a, length)
    total = length if dss_length is None else dss_length
    weights, a, growing = dss_system(dt, A, B, C, total)
    zero = torch.zeros_like(weights)
    forward = vandermonde(torch.where(growing, zero, weights), a, length)
    # A growing mode at time l is a decaying one at L-1-l; if the kernel is longer than L it starts at a power < 0.
    late = torch.exp(a * (total - length)) if total != length else torch.ones_like(a)
    backward = vandermonde(torch.where(growing, weights * late, zero), a, length).flip(-1)
    return 0.5 * (forward + backward)


def ssm_kernel_naive(dt: Tensor, A: Tensor, B: Tensor, C: Tensor, length: int, disc: Discretisation = "zoh") -> Tensor:
    """:func:`ssm_kernel` directly by the formulas, without regard to memory or overflow. For tests.

    Args:
        dt: Step sizes (H,).
        A: Modes (H, M).
        B: Input weights (H, M).
        C: Output weights (K, H, M).
        length: L.
        disc: ``zoh``, ``bilinear`` or ``dss``, which is normalised over L.

    Returns:
        (K, H, L) real.
    """
    step = dt[:, None]
    times = torch.arange(length, dtype=dt.dtype, device=dt.device)
    if disc == "bilinear":
        a_bar, b_bar = (1 + step * A / 2) / (1 - step * A / 2), step / (1 - step * A / 2) * B
        powers = a_bar[..., None] ** times
    else:
        b_bar = (torch.exp(step * A) - 1) / A * B
        powers = torch.exp(step * A)[..., None] ** times
    if disc == "dss":
        return torch.einsum("khn,hnl->khl", C * b_bar / (torch.exp(step * A * length) - 1), powers).real
    return 2 * torch.einsum("khn,hnl->khl", C * b_bar, powers).real
