"""Lightning Attention-2 in PyTorch: tiles of B tokens, matrix products within a tile, and a state between tiles.

Qin et al. 2024, arXiv 2401.04658, algorithms 1 and 2. The queries of a tile have λ^r (r = 1 … B), the keys of a tile of
m tokens λ^(m−r) (the paper's eq. 9 prints other exponents, which do not fit its eq. 10). An incomplete last tile is
padded with zeros; its keys decay to its own end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from framework.functional.precision import full_precision


class Decays(NamedTuple):
    """Powers of λ = exp(−slope), each computed from a whole exponent, none by division.

    Attributes:
        query: (H, 1, B, 1), λ^r.
        key: (H, T, B, 1), λ^(m−r), m the tokens of the tile.
        within: (H, 1, B, B), λ^(r−c) for r ≥ c, else 0.
        tile: (H, T, 1, 1), λ^m.
    """

    query: Tensor
    key: Tensor
    within: Tensor
    tile: Tensor


def decays(slope: Tensor, length: int, block: int, dtype: torch.dtype) -> Decays:
    """Returns the powers that a sequence in tiles needs.

    Args:
        slope: (H,) at least 0.
        length: Tokens of the sequence.
        block: Tokens in a tile, B.
        dtype: Type of the powers.
    """
    tiles = -(-length // block)
    row = torch.arange(1, block + 1, device=slope.device)
    tokens = (length - block * torch.arange(tiles, device=slope.device)).clamp(max=block)[:, None]
    ahead = row[:, None] - row
    rate = -slope.to(dtype)[:, None, None]
    within = torch.exp(rate * ahead.clamp(min=0)) * (ahead >= 0)
    key = torch.exp(rate * (tokens - row).clamp(min=0))
    return Decays(
        torch.exp(rate * row)[..., None], key[..., None], within[:, None], torch.exp(rate * tokens)[..., None]
    )


def _tiles(x: Tensor, block: int) -> Tensor:
    """Returns (B, H, n, d) to (B, H, T, block, d), padded with zeros."""
    missing = -x.shape[2] % block
    return (F.pad(x, (0, 0, 0, missing)) if missing else x).unflatten(2, (-1, block))


def _first(added: Tensor, state: Tensor | None) -> Tensor:
    """Returns a state (B, H, d, e) in the type of ``added`` (B, H, T, d, e); zeros if there is none."""
    return added.new_zeros(*added.shape[:2], *added.shape[3:]) if state is None else state.to(added.dtype)


def _before(added: Tensor, tile: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """S ← λ^m S + added_i over the tiles: the state before each (B, H, T, d, e), and after the last (B, H, d, e)."""
    states = torch.empty_like(added)
    state = _first(added, start)
    for i in range(added.shape[2]):
        states[:, :, i] = state
        state = torch.addcmul(added[:, :, i], state, tile[:, i])
    return states, state


def _after(added: Tensor, tile: Tensor, end: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns G ← λ^m G + added_i from the last tile to the first: G after each tile, and before the first."""
    states = torch.empty_like(added)
    state = _first(added, end)
    for i in reversed(range(added.shape[2])):
        states[:, :, i] = state
        state = torch.addcmul(added[:, :, i], state, tile[:, i])
    return states, state


def _forward(q: Tensor, k: Tensor, v: Tensor, slope: Tensor, start: Tensor | None, block: int) -> tuple[Tensor, Tensor]:
    powers = decays(slope, q.shape[2], block, q.dtype)
    Q, K, V = (_tiles(x, block) for x in (q, k, v))
    states, state = _before((K * powers.key).mT @ V, powers.tile, start)
    out = ((Q @ K.mT).mul_(powers.within) @ V).add_((Q * powers.query) @ states)
    return out.flatten(2, 3)[:, :, : q.shape[2]], state


def _backward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slope: Tensor,
    start: Tensor | None,
    block: int,
    upstream: Tensor,
    state_upstream: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    length = q.shape[2]
    powers = decays(slope, length, block, q.dtype)
    Q, K, V, dO = (_tiles(x, block) for x in (q, k, v, upstream))
    values = (dO @ V.mT).mul_(powers.within)
    keys = K * powers.key
    states, _ = _before(keys.mT @ V, powers.tile, start)
    dq = (values @ K).add_((dO @ states.mT).mul_(powers.query))
    gradients, first = _after((Q * powers.query).mT @ dO, powers.tile, state_upstream)
    dk = (values.mT @ Q).add_((V @ gradients.mT).mul_(powers.key))
    del values, states
    dv = ((Q @ K.mT).mul_(powers.within).mT @ dO).add_(keys @ gradients)
    dq, dk, dv = (x.flatten(2, 3)[:, :, :length] for x in (dq, dk, dv))
    return dq, dk, dv, first


class TiledAttention(torch.autograd.Function):
    """Saves q, k, v and the first state for the backward pass; the states of the tiles are computed again."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, slope: Tensor, start: Tensor | None, block: int
    ) -> tuple[Tensor, Tensor]:
        """Returns (o, last state); products and sums in float32 at least."""
        ctx.save_for_backward(q, k, v, slope, start)
        ctx.block = block
        with full_precision(q.device):
            out, state = _forward(wide(q), wide(k), wide(v), slope, start, block)
        return out.to(v.dtype), state

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, state_upstream: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k, v and the first state."""
        q, k, v, slope, start = ctx.saved_tensors
        with full_precision(q.device):
            inputs, gradient = (wide(q), wide(k), wide(v)), wide(upstream)
            dq, dk, dv, first = _backward(*inputs, slope, start, ctx.block, gradient, state_upstream)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, first if start is not None else None, None


def wide(x: Tensor) -> Tensor:
    """Converts half precision to float32, which decays and states need; returns other types unchanged."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
