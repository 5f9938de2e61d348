"""Softmax attention to the last w tokens, including the current one, at a cost of T·w."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 32
"""Minimum number of queries that share a slice of keys; a larger window is a block itself."""


class Recent(NamedTuple):
    """The tokens that the next one can attend to: at most w − 1.

    Attributes:
        keys: (B, H_kv, n, d), rotated.
        values: (B, H_kv, n, e).
        present: (B, n) boolean, false for padding; ``None`` if there is none.
    """

    keys: Tensor
    values: Tensor
    present: Tensor | None = None


def sliding_window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    mask: Tensor | None = None,
    documents: Tensor | None = None,
    recent: Recent | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Computes the attention of each token to itself and the w − 1 before it, including those of ``recent``.

    Args:
        q: ``(B, H, T, d)``, rotated.
        k: ``(B, H_kv, T, d)``, rotated.
        v: ``(B, H_kv, T, e)``.
        window: w, at least 1.
        mask: ``(B, T)``, false at padding, to which only padding itself attends.
        documents: ``(B, T)`` numbers; tokens attend only to their own document. Not together with ``recent``.
        recent: The previous tokens.
        scale: Scale of the scores; 1/√d by default.
        dropout: Probability of dropping a weight.

    Returns:
        ``(B, H, T, e)``.
    """
    length = q.shape[2]
    options: dict[str, Any] = {"scale": scale, "dropout_p": dropout, "enable_gqa": q.shape[1] != k.shape[1]}
    if length == 0 or (recent is None and mask is None and documents is None and window >= length):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, **options)
    present = mask.bool() if mask is not None else None
    before = 0
    if recent is not None:
        before = recent.keys.shape[2]
        k, v = torch.cat([recent.keys, k], 2), torch.cat([recent.values, v], 2)
        if present is not None or recent.present is not None:
            rows = [recent.present, present]
            sizes = (before, length)
            filled = [
                q.new_ones(q.shape[0], n, dtype=torch.bool) if x is None else x
                for x, n in zip(rows, sizes, strict=True)
            ]
            present = torch.cat(filled, 1)
    if length == 1 and before < window:
        allowed = None if present is None else _oneself(present.clone())[:, None, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, **options)
    return _blocks(q, k, v, min(window, before + length), present, documents, before, options)


def _oneself(present: Tensor) -> Tensor:
    """Makes the last token always attend to itself, because an empty row would be NaN."""
    present[:, -1] = True
    return present


def _blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window: int,
    present: Tensor | None,
    documents: Tensor | None,
    before: int,
    options: dict[str, Any],
) -> Tensor:
    """Splits queries into blocks, each with the slice of keys that any of its queries attends to."""
    length, past = q.shape[2], window - 1
    size = min(max(window, BLOCK), length)
    front, end = past - before, -length % size
    batch, number = q.shape[0], (length + end) // size

    def sliced(x: Tensor, value: float = 0.0) -> Tensor:
        """Cuts (B, …, past + T + end, d) into overlapping slices (B · N, …, past + size, d)."""
        x = F.pad(x, (0, 0, front, end), value=value).unfold(-2, past + size, size).mT  # (B, …, N, past + size, d)
        return x.movedim(-3, 1).flatten(0, 1)

    queries = F.pad(q, (0, 0, 0, end)).unflatten(2, (number, size)).movedim(2, 1).flatten(0, 1)
    row = torch.arange(size, device=q.device)[:, None]
    column = torch.arange(past + size, device=q.device)
    band = (column >= row) & (column <= row + past)
    own = column == row + past
    if present is None:
        exists = torch.arange(-past, length + end, device=q.device) >= -before
        seen = (exists.unfold(0, past + size, size)[:, None] & band) | own  # (N, size, past + size)
        seen = seen.expand(batch, -1, -1, -1).flatten(0, 1)
    else:
        seen = (sliced(present[..., None].float()).bool().mT & band) | own
    if documents is not None:
        of_keys = sliced(documents[..., None].float(), -1.0)  # (B · N, past + size, 1)
        seen = seen & (of_keys.mT == of_keys[:, past:]) | own
    output = F.scaled_dot_product_attention(queries, sliced(k), sliced(v), attn_mask=seen[:, None], **options)
    return output.unflatten(0, (batch, number)).movedim(1, 2).flatten(2, 3)[:, :, :length]


def remember(k: Tensor, v: Tensor, window: int, mask: Tensor | None, recent: Recent | None) -> Recent:
    """Returns the last w − 1 of these and the previous tokens, to which the next token can attend.

    Args:
        k: (B, H_kv, T, d), rotated.
        v: (B, H_kv, T, e).
        window: w.
        mask: (B, T), false at padding; ``None`` for no padding.
        recent: The previous tokens; ``None`` at the start.
    """
    present = mask.bool() if mask is not None else None
    if recent is not None:
        if present is not None or recent.present is not None:
            old = recent.present if recent.present is not None else _all(recent.keys)
            present = torch.cat([old, present if present is not None else _all(k)], 1)
        k, v = torch.cat([recent.keys, k], 2), torch.cat([recent.values, v], 2)
    first = max(k.shape[2] - (window - 1), 0)
    # a copy, so that the state of a long prompt does not keep all of its keys
    return Recent(
        k[:, :, first:].clone(), v[:, :, first:].clone(), None if present is None else present[:, first:].clone()
    )


def _all(k: Tensor) -> Tensor:
    return k.new_ones(k.shape[0], k.shape[2], dtype=torch.bool)


def looped_window_attention(q: Tensor, k: Tensor, v: Tensor, window: int, scale: float | None = None) -> Tensor:
    """:func:`sliding_window_attention`, one token after the other with explicit weights: the reference for tests.

    No padding, and as many key heads as query heads.

    Args:
        q: (B, H, T, d).
        k: (B, H, T, d).
        v: (B, H, T, e).
        window: w.
        scale: Of the scores; 1/√d by default.

    Returns:
        (B, H, T, e).
    """
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    rows = []
    for t in range(q.shape[2]):
        seen = slice(max(0, t - window + 1), t + 1)
        scores = scale * q[:, :, t : t + 1] @ k[:, :, seen].mT
        rows.append(scores.softmax(-1) @ v[:, :, seen])
    return torch.cat(rows, 2)
