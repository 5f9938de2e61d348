"""The gated delta rule: a matrix memory with a decay, where a write replaces the value stored under its key.

Yang, Kautz, Hatamizadeh, 2024, "Gated Delta Networks", arXiv 2412.06464; without decay DeltaNet (Schlag et al. 2021).
For each head, with row vectors q, k (d), v (e) and a state S (d, e):

    S ← α S;   S ← S + β kᵀ (v − k S);   o = q S          (α = exp(log_decay), 0 ≤ β ≤ 1)

:func:`recurrent_gated_delta_rule` computes this token by token. :func:`chunk_gated_delta_rule` uses the WY form: in a
chunk the corrected values ``u_i = β_i (v_i − α_i k_i S_{i−1})`` solve a unit lower triangular system, for all chunks in
parallel; only the states are computed chunk by chunk. No scale is applied to q.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def recurrent_gated_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_decay: Tensor | None = None, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The recurrence, one token after the other; the reference for :func:`chunk_gated_delta_rule`, and the step in
    decoding.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d); with norms above 1 the memory may grow without bound.
        v: (B, H, T, e).
        beta: (B, H, T) strength of each write.
        log_decay: (B, H, T), at most 0; by default no decay.
        state: Initial state (B, H, d, e); zeros by default.

    Returns:
        Outputs (B, H, T, e), and the state (B, H, d, e) after the last token.
    """
    if state is None:
        state = v.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
    outputs = []
    for t in range(k.shape[2]):
        if log_decay is not None:
            state = state * log_decay[:, :, t, None, None].exp()
        key = k[:, :, t]
        error = v[:, :, t] - torch.einsum("bhd,bhde->bhe", key, state)
        state = state + (beta[:, :, t, None] * key)[..., None] * error[:, :, None]
        outputs.append(torch.einsum("bhd,bhde->bhe", q[:, :, t], state))
    return torch.stack(outputs, 2) if outputs else v, state


def chunk_gated_delta_rule(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_decay: Tensor | None = None,
    state: Tensor | None = None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Returns the same as :func:`recurrent_gated_delta_rule`, by matrix products of a chunk's size; differentiable.

    The exponents are differences of cumulative decays and at most 0, so nothing overflows.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d).
        v: (B, H, T, e).
        beta: (B, H, T).
        log_decay: (B, H, T), at most 0; by default no decay.
        state: (B, H, d, e).
        chunk: Tokens in a chunk; work is about ``T (chunk (d + e) + d e)`` for each head.

    Returns:
        Outputs (B, H, T, e), and the state (B, H, d, e) after the last token.
    """
    length = k.shape[2]
    if state is None:
        state = v.new_zeros(*k.shape[:2], k.shape[-1], v.shape[-1])
    if length == 0:
        return v, state
    size = min(chunk, length)
    if log_decay is None:
        log_decay = torch.zeros_like(beta)
    # Padding tokens at the end have k = v = β = 0 and no decay, so they do not change the state.
    q, k, v = (_chunks(x, size) for x in (q, k, v))
    beta, log_decay = (_chunks(x[..., None], size) for x in (beta, log_decay))  # (B, H, N, C, 1)
    total = log_decay.cumsum(-2)
    later = torch.ones(size, size, dtype=torch.bool, device=k.device).triu(1)
    decay = (total - total.transpose(-1, -2)).masked_fill(later, -torch.inf).exp()  # row i, column j <= i
    keys = k * beta
    # (I + L) u = β v − β e^G k S with L strictly lower; unitriangular ignores the diagonal.
    lower = (keys @ k.transpose(-1, -2) * decay).tril(-1)
    right = torch.cat([v * beta, keys * total.exp()], -1)
    solved = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True)
    values, reads = solved.split([v.shape[-1], k.shape[-1]], -1)
    scores = q @ k.transpose(-1, -2) * decay
    queries = q * total.exp()
    writes = (k * (total[..., -1:, :] - total).exp()).transpose(-1, -2)
    outputs = []
    # unbind instead of indexing: the gradient of an index allocates a whole tensor of zeros.
    parts = (values, reads, queries, scores, writes, total[..., -1:, :].exp())
    for value, read, query, score, write, carry in zip(*(part.unbind(2) for part in parts), strict=True):
        corrected = value - read @ state
        outputs.append(query @ state + score @ corrected)
        state = carry * state + write @ corrected
    return torch.cat(outputs, 2)[:, :, :length], state


def _chunks(x: Tensor, size: int) -> Tensor:
    """Returns (B, H, T, …) to (B, H, N, size, …), padded with zeros at the end."""
    x = F.pad(x, (0, 0, 0, -x.shape[2] % size))
    return x.unflatten(2, (-1, size))
