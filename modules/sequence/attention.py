"""Softmax attention with rotary positions, in Llama's layout."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import BoolTensor, Tensor, nn

from framework.functional.rotary import angles, rotate
from framework.settings import at_least, divides, multiple_of


class KeysValues(NamedTuple):
    """The state of softmax attention: rotated keys and values of every token so far, each (B, H_kv, T, d)."""

    keys: Tensor
    values: Tensor


class SoftmaxAttention(nn.Module):
    """Causal softmax attention; groups of queries may share keys and values.

    Args:
        d_model: Width of the input and the output.
        n_heads: H, heads of the queries.
        n_kv_heads: H_kv, heads of keys and values, a divisor of H; by default H.
        rope_base: Base of the rotary positions.

    Raises:
        UserError: the width is not a multiple of the heads, or H not a multiple of H_kv.
    """

    def __init__(self, d_model: int, n_heads: int, n_kv_heads: int | None = None, rope_base: float = 10000.0) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = n_heads, n_kv_heads or n_heads
        at_least(1, n_heads=n_heads)
        multiple_of({"2 n_heads": 2 * n_heads}, d_model=d_model)  # rotary positions rotate pairs of dimensions
        divides({"n_heads": n_heads}, n_kv_heads=n_kv_heads)
        self.head_dim, self.rope_base = d_model // n_heads, rope_base
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def _projected(self, x: Tensor, start: int) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (
            project(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        turn = angles(positions, self.head_dim, self.rope_base, q.dtype)
        return rotate(q, *turn), rotate(k, *turn), v

    def forward(self, x: Tensor, mask: BoolTensor | None = None) -> Tensor:
        """Maps (B, T, d_model) to the same shape; tokens with false in ``mask`` (B, T) are not attended to."""
        q, k, v = self._projected(x, 0)
        allowed = None
        if mask is not None:
            length = x.shape[1]
            allowed = causal(length, length, x.device) & mask[:, None, None, :]
            allowed = allowed | torch.eye(length, dtype=torch.bool, device=x.device)  # an empty row would be NaN
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=allowed, is_causal=mask is None, enable_gqa=self.n_kv_heads != self.n_heads
        )
        return self.o_proj(y.transpose(1, 2).flatten(2))

    def extend(self, x: Tensor, state: KeysValues | None = None) -> tuple[Tensor, KeysValues]:
        """Returns the output for the next tokens, given the keys and values so far."""
        q, k, v = self._projected(x, 0 if state is None else state.keys.shape[2])
        if state is not None:
            k, v = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
        allowed = causal(x.shape[1], k.shape[2], x.device) if x.shape[1] > 1 else None
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, enable_gqa=self.n_kv_heads != self.n_heads)
        return self.o_proj(y.transpose(1, 2).flatten(2)), KeysValues(k, v)


def causal(queries: int, keys: int, device: torch.device) -> Tensor:
    """Returns which tokens each of the last ones may attend to.

    Args:
        queries: Number of queries, the last tokens.
        keys: Number of all tokens.
        device: Device of the mask.

    Returns:
        (queries, keys), boolean.
    """
    return torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
