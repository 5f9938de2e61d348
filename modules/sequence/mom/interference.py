"""The interference law: how random pairs interfere in a linear memory, and how several memories reduce it.

n pairs are written with random unit keys in R^d. Reading one of them from one memory returns its value and a part of
every other value: E|o − v|² / |v|² = (n − 1)/d, for any dimension of the values. With M memories, each pair in k random
ones, and weights g of these k when they are read (Σ g = 1), two pairs interfere only in common memories. If each memory
has its own random projection to keys, this gives

    (n − 1)/d · (k/M) · Σ_m g_m².

With one projection for all memories, pairs that share several memories interfere in the same way in all of them, which
adds ``k(k − 1)/(M(M − 1)) · Σ_{m≠m'} g_m g_m'`` to ``(k/M) Σ g²``.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F


def predicted_error(
    pairs: int, key_dim: int, memories: int = 1, weights: tuple[float, ...] = (1.0,), own_keys: bool = True
) -> float:
    """Returns the law; k is the number of ``weights``, which sum to 1.

    Args:
        pairs: n.
        key_dim: d.
        memories: M.
        weights: g.
        own_keys: Whether each memory has its own projection to keys.
    """
    k = len(weights)
    squares = sum(weight**2 for weight in weights)
    overlap = k / memories * squares
    if not own_keys and k > 1:
        overlap += k * (k - 1) / (memories * (memories - 1)) * (sum(weights) ** 2 - squares)
    return (pairs - 1) / key_dim * overlap


def measured_error(
    generator: torch.Generator,
    draws: int,
    pairs: int,
    key_dim: int,
    value_dim: int,
    memories: int = 1,
    weights: tuple[float, ...] = (1.0,),
    own_keys: bool = True,
) -> float:
    """Mean of |o − v|² / |v|² over all pairs of ``draws`` sets; every pair goes to k random memories.

    Each pair is read by its own key from the memories that it was written to.

    Args:
        generator: Source of randomness.
        draws: Sets of pairs.
        pairs: n.
        key_dim: d.
        value_dim: e.
        memories: M.
        weights: Weights of the k memories of a pair.
        own_keys: Whether a pair's keys in different memories are independent.
    """
    k = len(weights)
    keys = torch.randn(draws, pairs, memories if own_keys else 1, key_dim, generator=generator)
    keys = F.normalize(keys, dim=-1).expand(-1, -1, memories, -1)
    values = F.normalize(torch.randn(draws, pairs, value_dim, generator=generator), dim=-1)
    chosen = torch.rand(draws, pairs, memories, generator=generator).topk(k, -1).indices
    written = torch.zeros(draws, pairs, memories).scatter_(-1, chosen, 1.0)
    gates = torch.zeros(draws, pairs, memories).scatter_(-1, chosen, torch.tensor(weights).expand(draws, pairs, k))
    states = torch.einsum("bnmd,bne->bmde", written[..., None] * keys, values)
    mixed = torch.einsum("bnmd,bmde->bne", gates[..., None] * keys, states)
    return float((mixed - values).square().sum(-1).mean())
