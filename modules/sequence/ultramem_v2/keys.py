"""Queries and keys: the scores of N row keys and N column keys for each token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.functional.precision import full_precision


class KeyScores(nn.Module):
    """S = K q for rows and columns, each rank and each head, with normed queries and keys.

    Both norms are RMSNorms over D_k, each with a learnt gain. Scores are computed in float32 or wider, also under
    autocast and from bfloat16 weights.

    Args:
        d_model: D.
        d_key: D_k.
        keys: N, number of row keys and of column keys.
        rank: r, rank of the core.
        heads: Independent queries and keys.
        shared_query: Whether all ranks share one query (UltraMem) instead of one for each rank (UltraMemV2).
        shared_keys: Whether all heads share one set of keys (PEER).
        gain: Initial gain of both norms; by default D_k^-0.4.
    """

    def __init__(
        self,
        d_model: int,
        d_key: int,
        keys: int,
        rank: int = 1,
        heads: int = 1,
        shared_query: bool = False,
        shared_keys: bool = False,
        gain: float | None = None,
    ) -> None:
        super().__init__()
        self.d_key, self.rank, self.heads = d_key, rank, heads
        self.query_ranks = 1 if shared_query else rank
        self.query = nn.Linear(d_model, 2 * self.query_ranks * heads * d_key, bias=False)
        self.keys = nn.Parameter(torch.randn(2, rank, 1 if shared_keys else heads, keys, d_key))
        gain = d_key**-0.4 if gain is None else gain
        self.query_gain = nn.Parameter(torch.full((d_key,), gain))
        self.key_gain = nn.Parameter(torch.full((d_key,), gain))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Maps tokens (T, D) to row scores and column scores, each (r, T·heads, N)."""
        q = self.query(z)
        with full_precision(z.device):
            kind = torch.promote_types(q.dtype, torch.float32)
            q, keys, query_gain, key_gain = (x.to(kind) for x in (q, self.keys, self.query_gain, self.key_gain))
            q = q.view(len(z), 2, self.query_ranks, self.heads, self.d_key)
            q = F.rms_norm(q, (self.d_key,), query_gain, 1e-6).permute(1, 2, 3, 0, 4)
            keys = F.rms_norm(keys, (self.d_key,), key_gain, 1e-6)
            if self.heads == 1 or keys.shape[2] != 1:
                scores = q @ keys.transpose(-1, -2)  # (2, r, heads, T, N)
            else:
                scores = (q.flatten(2, 3) @ keys[:, :, 0].transpose(-1, -2)).unflatten(2, (self.heads, len(z)))
            rows, columns = scores.transpose(2, 3).flatten(2, 3).unbind(0)
        return rows, columns
