"""Convolution of a signal with a kernel of its own length, by FFT and by the plain sum."""

from __future__ import annotations

from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

from framework.protocols import second_derivatives_needed


class _CircularConvolution(torch.autograd.Function):
    """Circular convolution of real signals, with a backward pass in real transforms.

    Autograd's own rule for ``rfft`` runs a complex transform of full length; three real ones are about twice as fast.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(u: Tensor, kernel: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor]:
        u_f = torch.fft.rfft(u, n).unsqueeze(-3)  # (…, 1, H, F)
        k_f = torch.fft.rfft(kernel, n)  # (K, H, F)
        y = torch.fft.irfft(u_f * k_f, n)[..., : u.shape[-1]]
        return y, u_f, k_f

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        u, kernel, n = inputs
        _, u_f, k_f = output
        ctx.mark_non_differentiable(u_f, k_f)
        ctx.save_for_backward(u_f, k_f)
        ctx.sizes = n, u.shape[-1], kernel.shape[-1]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, Tensor | None, None]:
        u_f, k_f = ctx.saved_tensors
        n, length, taps = ctx.sizes
        grad_f = torch.fft.rfft(grad, n)
        grad_u = grad_kernel = None
        if ctx.needs_input_grad[0]:
            product = grad_f * k_f.conj()
            product = product.squeeze(-3) if product.shape[-3] == 1 else product.sum(-3)
            grad_u = torch.fft.irfft(product, n)[..., :length]
        if ctx.needs_input_grad[1]:
            product = (grad_f * u_f.conj()).flatten(0, -4).sum(0)
            grad_kernel = torch.fft.irfft(product, n)[..., :taps]
        return grad_u, grad_kernel, None


def fft_convolution(u: Tensor, kernel: Tensor, backward_kernel: Tensor | None = None) -> Tensor:
    """Returns ``y_k = Σ_{l ≤ k} K_l u_{k-l}``, plus ``Σ_l K'_l u_{k+l}`` where a backward kernel is given.

    The transform is zero-padded to the next fast length of 2L - 1 or more, so nothing wraps around.

    Args:
        u: (B, H, L).
        kernel: (K, H, L).
        backward_kernel: (K, H, L), applied to the reversed signal.

    Returns:
        (B, K, H, L).
    """
    length = u.shape[-1]
    if length == 0:  # there is no transform of nothing
        return u.unsqueeze(-3) * (kernel if backward_kernel is None else kernel + backward_kernel)
    n = next_fast_len(2 * length - 1, real=True)
    if backward_kernel is not None:
        gap = kernel.new_zeros(*kernel.shape[:-1], n - 2 * length + 1)
        first = kernel[..., :1] + backward_kernel[..., :1]
        kernel = torch.cat([first, kernel[..., 1:], gap, backward_kernel[..., 1:].flip(-1)], dim=-1)
    if second_derivatives_needed():
        product = torch.fft.rfft(u, n).unsqueeze(-3) * torch.fft.rfft(kernel, n)
        return torch.fft.irfft(product, n)[..., :length]
    return _CircularConvolution.apply(u, kernel, n)[0]


def direct_convolution(u: Tensor, kernel: Tensor, backward_kernel: Tensor | None = None) -> Tensor:
    """Returns the sum that :func:`fft_convolution` computes, as an explicit Toeplitz product of O(L²) cost. For tests.

    Args:
        u: (B, H, L).
        kernel: (K, H, L).
        backward_kernel: (K, H, L), applied to the reversed signal.

    Returns:
        (B, K, H, L).
    """
    length = u.shape[-1]
    lag = torch.arange(length)[:, None] - torch.arange(length)
    toeplitz = torch.where(lag >= 0, kernel[..., lag.clamp(min=0)], 0.0)
    if backward_kernel is not None:
        toeplitz = toeplitz + torch.where(lag <= 0, backward_kernel[..., (-lag).clamp(min=0)], 0.0)
    return torch.einsum("bhj,khij->bkhi", u, toeplitz)
