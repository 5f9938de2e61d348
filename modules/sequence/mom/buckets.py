"""Sorts tokens by the memories to which they are routed, and keeps their order in time."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class Buckets:
    """Tokens in one flat order by (memory, row, time), and as one padded batch with a row for each bucket.

    A token routed to k memories occurs k times. The indices at which ``routed`` is true are a stable sort by memory and
    row, so the order within a bucket is that of time. Empty buckets have no row; :meth:`take` and :meth:`put` convert
    between rows and buckets.

    Args:
        routed: (B, T, M), true if the token is routed to the memory.

    Attributes:
        token: (N,) number ``b T + t`` of each token in the flattened batch.
        memory: (N,) its memory.
        sizes: Tokens of each memory, M numbers.
        cu_seqlens: (R + 1,) start of each non-empty bucket in the flat order, and the end.
        valid: (R, L) which positions of the padded batch have a token; L the longest bucket, R the number of non-empty
            buckets.
    """

    def __init__(self, routed: Tensor) -> None:
        batch, length, _ = routed.shape
        sorted_ = routed.permute(2, 0, 1)  # (M, B, T)
        self.memory, row, time = sorted_.nonzero(as_tuple=True)
        self.token = row * length + time
        counts = sorted_.sum(-1).flatten()
        self.sizes: list[int] = counts.view(-1, batch).sum(1).tolist()
        occupied = counts > 0
        if not len(self.token):  # nothing is routed: keep one row, so that later tensors have valid shapes
            occupied[0] = True
        self.occupied = occupied.nonzero()[:, 0]  # number m B + b of each row's bucket
        self.counts = counts[self.occupied]
        self.cu_seqlens = F.pad(self.counts.cumsum(0), (1, 0))
        self.row = (occupied.cumsum(0) - 1)[self.memory * batch + row]
        self.place = torch.arange(len(self.token), device=routed.device) - self.cu_seqlens[self.row]
        self.width = max(1, int(self.counts.max()))
        self.valid = torch.arange(self.width, device=routed.device) < self.counts[:, None]
        self.batch = batch

    def pack(self, flat: Tensor, past: int = 0, before: Tensor | None = None) -> Tensor:
        """(N, C) to (R, past + L, C): after each row's last ``past`` entries ``before`` (R, past, C), zeros if none."""
        rows = flat.new_zeros(len(self.counts), past + self.width, flat.shape[-1])
        if before is not None:
            rows[:, :past] = before.to(flat)
        return rows.index_put((self.row, self.place + past), flat)

    def unpack(self, rows: Tensor) -> Tensor:
        """Returns (R, L, …) to (N, …)."""
        return rows[self.row, self.place]

    def last(self, rows: Tensor, past: int) -> Tensor:
        """Returns the newest ``past`` entries of each row of :meth:`pack`: (R, past, C)."""
        at = self.counts[:, None] + torch.arange(past, device=rows.device)
        return rows[torch.arange(len(rows), device=rows.device)[:, None], at]

    def take(self, values: Tensor) -> Tensor:
        """Returns (B, M, …) to (R, …)."""
        return values.transpose(0, 1).flatten(0, 1)[self.occupied]

    def put(self, values: Tensor, rows: Tensor) -> Tensor:
        """Returns ``values`` (B, M, …) with the rows (R, …) as their buckets' values; the others are unchanged."""
        flat = values.transpose(0, 1).flatten(0, 1).index_copy(0, self.occupied, rows.to(values))
        return flat.unflatten(0, (values.shape[1], self.batch)).transpose(0, 1)
