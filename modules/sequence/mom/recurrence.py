"""Matrix memories as one recurrence: decay, then write, then read.

    S ← exp(log_decay) ⊙ S;   S ← S + kᵀ u;   o = q S

with ``u = v``, or, with a strength β, ``u = β (v − k S)`` (the delta rule). ``log_decay`` is one number for each head
or for each key dimension. Shapes: q, k (R, H, T, d), v (R, H, T, e), log_decay (R, H, T) or (R, H, T, d), beta (R, H,
T), states (R, H, d, e). A token with k = 0 and no decay does not change a single bit of the memory.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from framework.functional.gated_linear_attention import chunk_gla, recurrent_gla
from modules.sequence.mom.delta_rule import chunk_gated_delta_rule, recurrent_gated_delta_rule


def recurrent(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence token by token: the reference for :func:`scan`, and the step in decoding.

    Args:
        q: (R, H, T, d).
        k: (R, H, T, d).
        v: (R, H, T, e).
        log_decay: (R, H, T) or (R, H, T, d), 0 or less; with ``beta`` (R, H, T).
        beta: (R, H, T); ``None`` for no delta rule.
        state: (R, H, d, e) before the first token; zero by default.

    Returns:
        Outputs (R, H, T, e), and the state (R, H, d, e) after the last token.
    """
    if beta is not None:
        return recurrent_gated_delta_rule(q, k, v, beta, log_decay, state)
    return recurrent_gla(q, k, v, log_decay if log_decay.ndim == 4 else log_decay[..., None], state)


def scan(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, beta: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the same as :func:`recurrent` by matrix products, in the suitable chunked form; differentiable.

    Args:
        q: (R, H, T, d).
        k: (R, H, T, d).
        v: (R, H, T, e).
        log_decay: (R, H, T) or (R, H, T, d), 0 or less; with ``beta`` (R, H, T).
        beta: (R, H, T); ``None`` for no delta rule.
        state: (R, H, d, e) before the first token; zero by default.

    Returns:
        Outputs (R, H, T, e), and the state (R, H, d, e) after the last token.
    """
    if k.shape[2] == 1:
        return recurrent(q, k, v, log_decay, beta, state)
    chunk = 64 if k.shape[-1] > 64 else 32  # work within a chunk grows with it, work between chunks with d / chunk
    if beta is not None:
        return chunk_gated_delta_rule(q, k, v, beta, log_decay, state, chunk)
    if log_decay.ndim == 4:
        return chunk_gla(q, k, v, log_decay, state, chunk)
    return chunk_scalar_decay(q, k, v, log_decay, state, chunk)


def chunk_scalar_decay(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Linear attention with one decay for each head and token, in chunks.

    Exponents are differences of cumulative decays and at most 0.

    Args:
        q: (R, H, T, d).
        k: (R, H, T, d).
        v: (R, H, T, e).
        log_decay: (R, H, T), 0 or less.
        state: (R, H, d, e) before the first token; zero by default.
        chunk: Tokens in a chunk.

    Returns:
        Outputs (R, H, T, e), and the state (R, H, d, e) after the last token.
    """
    length = k.shape[2]
    if state is None:
        state = v.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
    if length == 0:
        return v, state
    size = min(chunk, length)
    q, k, v, log_decay = (
        F.pad(x, (0, 0, 0, -length % size)).unflatten(2, (-1, size)) for x in (q, k, v, log_decay[..., None])
    )
    total = log_decay.cumsum(-2)  # (R, H, N, C, 1)
    later = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)
    decay = (total - total.transpose(-1, -2)).masked_fill(later, -torch.inf).exp()
    inside = (q @ k.transpose(-1, -2) * decay) @ v
    last = total[..., -1:, :]
    writes = (k * (last - total).exp()).transpose(-1, -2) @ v
    starts = []
    for carry, write in zip(last.exp().unbind(2), writes.unbind(2), strict=True):
        starts.append(state)
        state = carry * state + write
    o = inside + (q * total.exp()) @ torch.stack(starts, 2)
    return o.flatten(2, 3)[:, :, :length], state
