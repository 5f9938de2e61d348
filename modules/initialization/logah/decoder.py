"""The low-rank decoder: from an operation's embedding to its weight of any size.

Paper: LoGAH (Zhou, Knyazev, Jolicoeur-Martineau, Fu 2024, arXiv 2405.16287).

    z = MLP(x), d → 4d → 8d → 2 r²,  as (2r, r)
    y = Linear_{r → ck}(ReLU(z)),  (2r, ck),  reshaped to (2 ck, r):  A the first ck rows, B the last ck, transposed
    W = A[: c_out k_h] B[:, : c_in k_w],  as (c_out, k_h, c_in, k_w), then (c_out, c_in, k_h, k_w):  of rank ≤ r

Only the rows of y that a size needs are computed, so that the memory grows with the weights and not with ck. A size
beyond ck is tiled from the largest one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from framework.settings import at_least


class LowRankDecoder(nn.Module):
    """Predicts matrices of any size and a rank of at most r.

    Args:
        dim: Width d of the embeddings.
        rank: r.
        size: ck, the largest number of rows and columns.

    Raises:
        UserError: a number is below 1.
    """

    def __init__(self, dim: int = 64, rank: int = 32, size: int = 32768) -> None:
        super().__init__()
        at_least(1, dim=dim, rank=rank, size=size)
        self.rank, self.size = rank, size
        self.hidden = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, 8 * dim), nn.ReLU())
        self.square = nn.Linear(8 * dim, 2 * rank**2)
        self.wide = nn.Linear(rank, size)

    def factors(self, x: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """Returns A (P, rows, r) and B (P, r, columns), both sizes at most ck.

        Args:
            x: Embeddings (P, d).
            rows: Rows of A.
            columns: Columns of B.
        """
        z = self.square(self.hidden(x)).view(-1, 2, self.rank, self.rank).relu()
        return self._rows(z[:, 0], rows), self._rows(z[:, 1], columns).transpose(1, 2)

    def _rows(self, z: Tensor, count: int) -> Tensor:
        """The first rows (P, count, r) of y, reshaped: numbers in the order of y's own rows."""
        needed = math.ceil(count * self.rank / self.size)
        if needed == 1:  # of one row of y the beginning is enough
            weight, bias = self.wide.weight[: count * self.rank], self.wide.bias[: count * self.rank]
            return nn.functional.linear(z[:, 0], weight, bias).view(-1, count, self.rank)
        y = self.wide(z[:, :needed]).flatten(1)
        return y[:, : count * self.rank].view(-1, count, self.rank)

    def forward(self, x: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
        """Returns weights (P, c_out, c_in, k_h, k_w).

        Args:
            x: Embeddings (P, d).
            shape: (c_out, c_in, k_h, k_w); beyond ck numbers are repeated.
        """
        out, inner, height, width = shape
        rows, columns = out * height, inner * width
        a, b = self.factors(x, min(rows, self.size), min(columns, self.size))
        found = repeated(repeated(a @ b, rows, 1), columns, 2)
        return found.view(-1, out, height, inner, width).transpose(2, 3)

    def tiles(self, shape: tuple[int, int, int, int]) -> bool:
        """Whether a weight of this shape is beyond ck, so that its numbers repeat."""
        return max(shape[0] * shape[2], shape[1] * shape[3]) > self.size


def repeated(value: Tensor, count: int, dim: int) -> Tensor:
    """Returns a tensor whose entries along a dimension are repeated, or itself if it has as many as are wanted.

    Args:
        value: The tensor.
        count: Entries that are wanted.
        dim: The dimension.
    """
    if value.shape[dim] == count:
        return value
    index = torch.arange(count, device=value.device) % value.shape[dim]
    return value.index_select(dim, index)
