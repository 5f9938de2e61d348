"""Linear attention with decay, implemented directly from its definition, as a reference for the fast forms.

Shapes are as in :func:`modules.sequence.lightning_attention.attention.lightning_attention`; everything is
differentiable.
"""

from __future__ import annotations

import torch
from torch import Tensor

from framework.functional.precision import full_precision
from modules.sequence.lightning_attention.tiled import wide


def left_product(q: Tensor, k: Tensor, v: Tensor, slope: Tensor) -> Tensor:
    """Returns ((Q Kᵀ) ⊙ M) V with M_ts = λ^(t−s) for t ≥ s: n² time and memory, as in Lightning Attention-1.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d).
        v: (B, H, T, e).
        slope: (H,) at least 0, λ = exp(−slope).

    Returns:
        o (B, H, T, e).
    """
    steps = torch.arange(q.shape[2], device=q.device)
    ahead = steps[:, None] - steps
    with full_precision(q.device):
        Q, K, V = wide(q), wide(k), wide(v)
        decay = torch.exp(-slope[:, None, None].to(Q.dtype) * ahead.clamp(min=0)) * (ahead >= 0)
        return (((Q @ K.mT) * decay) @ V).to(v.dtype)


def right_product(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """q_t Σ_{s≤t} k_sᵀ v_s by a running sum over all n products k_sᵀ v_s, without decay: n·d·e memory.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d).
        v: (B, H, T, e).

    Returns:
        o (B, H, T, e).
    """
    return torch.einsum("bhtd,bhtde->bhte", q, torch.einsum("bhtd,bhte->bhtde", k, v).cumsum(2))


def recurrence(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """S_t = λ S_{t−1} + k_tᵀ v_t, o_t = q_t S_t, one step after the other, as in decoding.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d).
        v: (B, H, T, e).
        slope: (H,) at least 0, λ = exp(−slope).
        state: S_0 (B, H, d, e); zero by default.

    Returns:
        o (B, H, T, e), and the last state (B, H, d, e).
    """
    decay = torch.exp(-slope)[:, None, None].to(q.dtype)
    if state is None:
        state = q.new_zeros(*q.shape[:2], q.shape[-1], v.shape[-1])
    outputs = []
    for t in range(q.shape[2]):
        state = decay * state + k[:, :, t, :, None] * v[:, :, t, None, :]
        outputs.append((q[:, :, t, None] @ state)[:, :, 0])
    return torch.stack(outputs, 2), state
