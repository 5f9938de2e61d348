"""A short causal depthwise convolution in the layout (tokens, channels)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def short_convolution(x: Tensor, weight: Tensor) -> Tensor:
    """y_t = Σ_j w_j x_{t+j}: each output depends on the input at its position and the W − 1 before it.

    A sum of shifted products with its own backward pass: on a CPU several times faster than a grouped convolution, and
    without the zero-filled tensors of each slice's gradient.

    Args:
        x: (R, W − 1 + L, C).
        weight: (C, W), the newest token last.

    Returns:
        (R, L, C), in the wider type of the two.
    """
    kind = torch.promote_types(x.dtype, weight.dtype)
    y: Tensor = _ShortConvolution.apply(x.to(kind), weight.to(kind))
    return y


class _ShortConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        width = weight.shape[1]
        length = x.shape[1] - width + 1
        y = x[:, :length] * weight[:, 0]
        for j in range(1, width):
            y.addcmul_(x[:, j : j + length], weight[:, j])
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        width, length = weight.shape[1], g.shape[1]
        g_x = g_weight = None
        if ctx.needs_input_grad[0]:
            g_x = torch.zeros_like(x)
            for j in range(width):
                g_x[:, j : j + length].addcmul_(g, weight[:, j])
        if ctx.needs_input_grad[1]:
            g_weight = torch.stack([(g * x[:, j : j + length]).sum((0, 1)) for j in range(width)], 1)
        return g_x, g_weight
