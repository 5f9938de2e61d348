"""The gated recurrences that replace softmax attention, with its own queries, keys and values.

With φ = softmax over a head's dimension, a_t the decay of :mod:`callbacks.liger.gates` and no scale, no rotation and no
denominator (Lan et al. 2025, arXiv 2503.01496, Table 1, and its code):

- gla, rwkv6 (a vector of decays), mamba2, retention, mlstm (one), linear (none):
  S_t = diag(a_t) S_{t−1} + φ(k_t)ᵀ v_t, o_t = φ(q_t) S_t;
- hgrn2: the same with 1 − a_t instead of φ(k_t);
- gsa, M slots, s_t = 1 − a_t: K_t = diag(a_t) K_{t−1} + s_tᵀ k_t, V_t = diag(a_t) V_{t−1} + s_tᵀ v_t,
  o_t = softmax(q_t K_tᵀ) V_t with raw q and k.

Queries may share keys, values and the state in groups. Everything is in float32.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from callbacks.liger.gates import Variant
from framework.functional.gated_linear_attention import (
    blocks,
    chunk_gla,
    decay_sums,
    halves,
    padded,
    pairs,
    parallel_gla,
    recurrent_gla,
)
from framework.functional.precision import full_precision

Form = Literal["chunk", "recurrent", "parallel"]


def grm(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    variant: Variant = "gla",
    state: Tensor | None = None,
    mask: Tensor | None = None,
    starts: Tensor | None = None,
    form: Form = "chunk",
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Computes one layer's recurrence.

    Args:
        q: ``(B, H, T, d)``, not rotated.
        k: ``(B, H_kv, T, d)``, not rotated; H a multiple of H_kv.
        v: ``(B, H_kv, T, e)``.
        log_decay: ``(B, H_kv, T, d)``, ``(…, 1)`` or ``(…, M)``, depending on the variant.
        variant: One of :data:`callbacks.liger.gates.KINDS`.
        state: State returned by the call for the previous tokens.
        mask: ``(B, T)``, false at padding, which is ignored.
        starts: ``(B, T)``, true at the start of a document, which does not see earlier tokens.
        form: ``chunk``, ``recurrent`` (token by token), or ``parallel`` (all pairs, without a state: for tests).
        chunk: Number of positions in a chunk.

    Returns:
        ``(B, H, T, e)`` float32, and the state ``(B, H_kv, d, e)``, for gsa ``(B, H_kv, M, d + e)``.
    """
    with full_precision(q.device):
        q, k, v = (x if x.dtype == torch.float64 else x.float() for x in (q, k, v))
        groups = q.shape[1] // k.shape[1]
        q = q.unflatten(1, (k.shape[1], groups))
        k, v, log_decay = k.unsqueeze(2), v.unsqueeze(2), log_decay.to(k.dtype).unsqueeze(2)
        state = None if state is None else state.unsqueeze(2)
        if mask is not None:
            absent = ~mask.bool()[:, None, None, :, None]
            v, log_decay = v.masked_fill(absent, 0), log_decay.masked_fill(absent, 0)
        written = -torch.expm1(log_decay) if variant in ("gsa", "hgrn2") else k.softmax(-1)
        if starts is not None:
            log_decay = log_decay.masked_fill(starts[:, None, None, :, None], -torch.inf)
        if variant == "gsa":
            output, state = _slots(q, k, v, written, log_decay, state, form, chunk)
        else:
            output, state = _run(q.softmax(-1), written, v, log_decay, state, form, chunk)
        return output.flatten(1, 2), state.squeeze(2)


def _run(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None, form: Form, chunk: int
) -> tuple[Tensor, Tensor]:
    if form == "parallel":
        return parallel_gla(q, k, v, log_decay), v.new_empty(0, 0, 1)
    if form == "recurrent":
        return recurrent_gla(q, k, v, log_decay, state)
    return chunk_gla(q, k, v, log_decay, state, chunk)


def _slots(
    q: Tensor, k: Tensor, v: Tensor, written: Tensor, log_decay: Tensor, state: Tensor | None, form: Form, chunk: int
) -> tuple[Tensor, Tensor]:
    """Computes gated slot attention; the two memories are one tensor (…, M, d + e), which decays row by row."""
    keys, values = (None, None) if state is None else state.split([k.shape[-1], v.shape[-1]], -1)
    if form == "parallel":
        read = q.unsqueeze(-2) @ _every_state(written, k, log_decay).mT
        weights = read.squeeze(-2).softmax(-1)
        output = (weights.unsqueeze(-2) @ _every_state(written, v, log_decay)).squeeze(-2)
        return output, v.new_empty(0, 0, 1)
    if form == "recurrent":
        length, outputs = q.shape[-2], []
        if length == 0:
            q, k, v, written, log_decay = padded(1, q, k, v, written, log_decay)
        now = k.new_zeros(*k.shape[:-2], written.shape[-1], k.shape[-1] + v.shape[-1]) if state is None else state
        both, decay = torch.cat([k, v], -1), log_decay.exp().unsqueeze(-1)
        for t in range(q.shape[-2]):
            now = decay[..., t, :, :] * now + written[..., t, :].unsqueeze(-1) * both[..., t, :].unsqueeze(-2)
            keys, values = now.split([k.shape[-1], v.shape[-1]], -1)
            outputs.append(((q[..., t, :].unsqueeze(-2) @ keys.mT).softmax(-1) @ values).squeeze(-2))
        return torch.stack(outputs, -2)[..., :length, :], now
    scores, keys = chunk_into_slots(q, k, written, log_decay, keys, chunk)
    output, values = chunk_gla(scores.softmax(-1), written, v, log_decay, values, chunk)
    return output, torch.cat([keys, values], -1)


def _every_state(written: Tensor, x: Tensor, log_decay: Tensor) -> Tensor:
    """Returns the memory (…, T, M, d) after each token, as a sum over all earlier tokens; for tests."""
    steps = torch.arange(x.shape[-2], device=x.device)
    between = (steps[:, None, None] >= steps) & (steps > steps[:, None])
    weights = torch.einsum("tsr,...rm->...tsm", between.to(log_decay), log_decay).exp()
    weights = weights * (steps[:, None] >= steps)[..., None]
    return torch.einsum("...tsm,...sm,...sd->...tmd", weights, written, x)


def chunk_into_slots(
    q: Tensor, k: Tensor, written: Tensor, log_decay: Tensor, state: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Computes o_t = q_t K_tᵀ with K_t = diag(a_t) K_{t−1} + written_tᵀ k_t: attention that decays along its output.

    It works in chunks like :func:`framework.functional.gated_linear_attention.chunk_gla`, without exponentials of
    positive numbers.

    Args:
        q: ``(…, T, d)``.
        k: ``(…, T, d)``.
        written: ``(…, T, M)``.
        log_decay: ``(…, T, M)``.
        state: ``(…, M, d)``.
        chunk: Positions in a chunk, a power of two.

    Returns:
        ``(…, T, M)`` and the state after the last position.
    """
    length = q.shape[-2]
    now = k.new_zeros(*k.shape[:-2], written.shape[-1], k.shape[-1]) if state is None else state
    q, k, written, log_decay = padded(chunk, q, k, written, log_decay)
    output = blocks((q * k).sum(-1, keepdim=True) * written, 1)
    *levels, (since, left) = decay_sums(log_decay, chunk)
    for from_start, to_end in levels:
        size = from_start.shape[-2]
        scores = pairs(q, size)[1] @ pairs(k, size)[0].mT
        added = halves(from_start)[1].exp() * (scores @ (pairs(written, size)[0] * halves(to_end)[0].exp()))
        first, second = halves(output)
        output = torch.cat([first, second + added], -2)
    size = since.shape[-2]
    added = (blocks(written, size) * left.exp()).mT @ blocks(k, size)
    kept = since[..., -1, :].exp().unsqueeze(-1)
    before = []
    for n in range(added.shape[-3]):
        before.append(now)
        now = kept[..., n, :, :] * now + added[..., n, :, :]
    output = output + since.exp() * (blocks(q, size) @ torch.stack(before, -3).mT)
    return output.flatten(-3, -2)[..., :length, :], now
