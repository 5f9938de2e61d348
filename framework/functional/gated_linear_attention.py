"""Gated linear attention: S_t = diag(a_t) S_{t−1} + k_tᵀ v_t, o_t = q_t S_t, with a decay for each key dimension.

Source: Yang et al. 2024, "Gated Linear Attention Transformers with Hardware-Efficient Training", arXiv 2312.06635.

Three forms of one function: :func:`recurrent_gla` (the definition, and a decoding step), :func:`parallel_gla` (all
pairs of positions at once, for tests) and :func:`chunk_gla` (for training). None of them scales q or normalises the
output.

Every form takes tensors of shape (…, T, d): usually (B, H, T, d). Leading dimensions broadcast against each other, so
that query heads (B, H, G, T, d) can share one (B, H, 1, T, d) of keys, values, decays and state. The last dimension of
``log_decay`` is d, or 1 for one decay for all key dimensions. Decays are logarithms, 0 or less; −∞ clears the state.
States are computed and stored in float32 (float64 for float64 inputs), whatever autocast says. T may be 0: the state is
then returned as it was.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.functional.precision import full_precision
from framework.settings import power_of_two


def recurrent_gla(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Computes the recurrence, one position after the other.

    Args:
        q: ``(…, T, d)`` queries.
        k: ``(…, T, d)`` keys.
        v: ``(…, T, e)`` values.
        log_decay: ``(…, T, d)`` or ``(…, T, 1)``, ln a_t ≤ 0.
        state: Initial state ``(…, d, e)``; zero by default.

    Returns:
        ``(…, T, e)`` in v's type, and the state after the last position.
    """
    kind, length = v.dtype, q.shape[-2]
    q, k, v, log_decay = _accurate(q, k, v, log_decay)
    with full_precision(q.device):
        now = _start(k, v, log_decay, state)
        if length == 0:
            q, k, v, log_decay = padded(1, q, k, v, log_decay)
        decay = log_decay.exp().unsqueeze(-1)
        outputs = []
        for t in range(q.shape[-2]):
            now = decay[..., t, :, :] * now + k[..., t, :].unsqueeze(-1) * v[..., t, :].unsqueeze(-2)
            outputs.append((q[..., t, :].unsqueeze(-2) @ now).squeeze(-2))
        return torch.stack(outputs, -2)[..., :length, :].to(kind), now


def parallel_gla(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """Sums over all pairs of positions: o_t = Σ_{s≤t} Σ_i q_ti k_si exp(Σ_{s<r≤t} ln a_ri) v_s; memory T² d, for tests.

    The state before the first position is zero.

    Args:
        q: ``(…, T, d)`` queries.
        k: ``(…, T, d)`` keys.
        v: ``(…, T, e)`` values.
        log_decay: ``(…, T, d)`` or ``(…, T, 1)``, ln a_t ≤ 0.

    Returns:
        ``(…, T, e)`` in v's type.
    """
    kind = v.dtype
    q, k, v, log_decay = _accurate(q, k, v, log_decay)
    with full_precision(q.device):
        steps = torch.arange(q.shape[-2], device=q.device)
        between = (steps[:, None, None] >= steps) & (steps > steps[:, None])  # (t, s, r): s < r <= t
        weights = torch.einsum("tsr,...ri->...tsi", between.to(log_decay), log_decay).exp()
        scores = (q.unsqueeze(-2) * k.unsqueeze(-3) * weights).sum(-1)
        return (scores.tril() @ v).to(kind)


def chunk_gla(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None = None, chunk: int = 64
) -> tuple[Tensor, Tensor]:
    """Computes it in chunks: matrix products within a chunk, the recurrence from chunk to chunk. Differentiable.

    Within a chunk, blocks of 1, 2, 4, … positions are combined in pairs. The decay between a query of the right block
    and a key of the left block is the sum of the decays from the key to the border plus those from the border to the
    query: two sums of non-positive terms, never a difference of longer sums. So no exponential exceeds 1, and no
    precision is lost however strong the decay is.

    Args:
        q: ``(…, T, d)`` queries.
        k: ``(…, T, d)`` keys.
        v: ``(…, T, e)`` values.
        log_decay: ``(…, T, d)`` or ``(…, T, 1)``, ln a_t ≤ 0.
        state: Initial state ``(…, d, e)``; zero by default.
        chunk: Positions in a chunk, a power of two.

    Returns:
        ``(…, T, e)`` in v's type, and the state after the last position.

    Raises:
        UserError: ``chunk`` is not a power of two.
    """
    kind, length = v.dtype, q.shape[-2]
    q, k, v, log_decay = _accurate(q, k, v, log_decay)
    with full_precision(q.device):
        now = _start(k, v, log_decay, state)
        q, k, v, log_decay = padded(chunk, q, k, v, log_decay)
        scores = (q * k).sum(-1)[..., None, None]  # per block: (…, blocks, size, size)
        *levels, (since, left) = decay_sums(log_decay, chunk)
        for from_start, to_end in levels:
            size = from_start.shape[-2]
            queries = pairs(q, size)[1] * halves(from_start)[1].exp()
            keys = pairs(k, size)[0] * halves(to_end)[0].exp()
            scores = _joined(scores, queries @ keys.mT)
        size = scores.shape[-1]
        q, k, v = (blocks(x, size) for x in (q, k, v))
        output = scores @ v
        added, kept = (k * left.exp()).mT @ v, since[..., -1, :].exp().unsqueeze(-1)
        before = []
        for n in range(added.shape[-3]):
            before.append(now)
            now = kept[..., n, :, :] * now + added[..., n, :, :]
        output = output + (q * since.exp()) @ torch.stack(before, -3)
        return output.flatten(-3, -2)[..., :length, :].to(kind), now


def blocks(x: Tensor, size: int) -> Tensor:
    """Reshapes ``(…, T, d)`` to ``(…, T / size, size, d)``."""
    return x.unflatten(-2, (-1, size))


def pairs(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns the left and the right blocks of neighbouring pairs in ``(…, T, d)``: ``(…, T / 2 size, size, d)``."""
    left, right = x.unflatten(-2, (-1, 2, size)).unbind(-3)
    return left, right


def padded(chunk: int, *tensors: Tensor) -> list[Tensor]:
    """Pads ``(…, T, d)`` with zeros to a multiple of ``chunk``: positions that neither add to the state nor decay it.

    T = 0 is padded to one position, because sums and products need one.

    Raises:
        UserError: ``chunk`` is not a power of two.
    """
    power_of_two(chunk=chunk)
    length = tensors[0].shape[-2]
    size = min(chunk, 1 << max(length - 1, 0).bit_length())
    missing = -length % size if length else 1
    return [F.pad(x, (0, 0, 0, missing)) for x in tensors]


def halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the left and the right block of each pair of neighbouring blocks ``(…, M, size, d)``."""
    left, right = x.unflatten(-3, (-1, 2)).unbind(-3)
    return left, right


def decay_sums(log_decay: Tensor, chunk: int) -> list[tuple[Tensor, Tensor]]:
    """Returns sums of decays within blocks of 1, 2, 4, … positions up to a chunk.

    For each position: the sum from the block's start to the position, inclusive, and the sum after it to the block's
    end.

    Each is the sum of two sums of the previous block size, all of one sign: nothing cancels, and −∞ stays −∞.

    Args:
        log_decay: ``(…, T, d)``, T whole chunks (:func:`padded`).
        chunk: Positions in a chunk.

    Returns:
        For each size two ``(…, T / size, size, d)``.
    """
    since, left = log_decay.unsqueeze(-2), torch.zeros_like(log_decay).unsqueeze(-2)
    levels = [(since, left)]
    while since.shape[-2] < min(chunk, log_decay.shape[-2]):
        (a, b), (c, d) = halves(since), halves(left)
        since = torch.cat([a, a[..., -1:, :] + b], -2)
        left = torch.cat([c + b[..., -1:, :], d], -2)
        levels.append((since, left))
    return levels


def _joined(scores: Tensor, across: Tensor) -> Tensor:
    """Joins the lower triangles of two blocks and the square between them to the triangle of twice the size."""
    size = across.shape[-1]
    left, right = halves(scores)
    return torch.cat([F.pad(left, (0, size)), torch.cat([across, right], -1)], -2)


def _accurate(*tensors: Tensor) -> list[Tensor]:
    kind = torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32
    return [x.to(kind) for x in tensors]


def _start(k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor | None) -> Tensor:
    if state is not None:
        return state.to(k.dtype)
    lead = torch.broadcast_shapes(k.shape[:-2], v.shape[:-2], log_decay.shape[:-2])
    return k.new_zeros(*lead, k.shape[-1], v.shape[-1])
