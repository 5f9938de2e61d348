"""Tables of values and pre-values, the ring by which layers share them, and functions that read rows."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.functional.precision import full_precision
from framework.settings import at_least, at_most


class MemoryRows(nn.Embedding):
    """A table of which each token reads a few rows; with ``sparse`` its gradient is a sparse tensor of these rows.

    Args:
        rows: R.
        width: Numbers in a row.
        sparse: Whether gradients are sparse: for :class:`framework.optim.row_adamw.RowAdamW`.
        boost: Learning rate at the start as a multiple of the schedule's, and the share of training in which it falls
            to 1; a multiple of 1 for no change.
    """

    def __init__(self, rows: int, width: int, sparse: bool = False, boost: tuple[float, float] = (1.0, 1.0)) -> None:
        super().__init__(rows, width, sparse=sparse)
        self.boost = boost

    def parameter_options(self) -> dict[str, dict[str, Any]]:
        """Returns a learning rate that starts higher, see :func:`framework.optim.parameter_groups`."""
        return {"weight": {"boost": self.boost}} if self.boost[0] != 1 else {}


class ValueTable(nn.Module):
    """The global table: for each row a value (D_v), and a pre-value (D_p) where ``pre_width`` is not 0.

    It is a submodule of the model; its layers read windows of it (see :class:`Ring`).

    Args:
        rows: R, number of rows of all layers together.
        width: D_v.
        pre_width: D_p; 0 for values only.
        sparse: Whether gradients are sparse.
        boost: See :class:`MemoryRows`.
    """

    def __init__(
        self, rows: int, width: int, pre_width: int = 0, sparse: bool = False, boost: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        super().__init__()
        self.rows, self.width, self.pre_width = rows, width, pre_width
        self.values = MemoryRows(rows, width, sparse, boost)
        self.pre_values = MemoryRows(rows, pre_width, sparse, boost) if pre_width else None

    @torch.no_grad()
    def draw(self, std: float) -> None:
        """Draws values and pre-values from N(0, std²)."""
        for table in (self.values, self.pre_values):
            if table is not None:
                nn.init.normal_(table.weight, std=std)


class Ring:
    """The rows of the global table that a layer reads: a window that starts at the layer's part and wraps around.

    Layer ℓ's slot s is in row ``(s + ℓ N²) mod (L N²)``; the window has N_eff² rows, ``N_eff = ⌊√(g N²)⌋``, so that
    each layer reads the tables of g neighbouring layers. g = 1: separate tables. g = L: every layer reads (nearly) all
    rows.

    Args:
        layers: L, number of layers that share the table.
        size: N, so that the table has L N² rows.
        shared: g, from 1 to L.

    Raises:
        UserError: g is out of range.
    """

    def __init__(self, layers: int, size: int, shared: int = 1) -> None:
        at_least(1, shared_tables=shared)
        at_most({"the layers with a memory": layers}, shared_tables=shared)
        self.layers, self.size, self.shared = layers, size, shared
        self.rows = layers * size * size
        self.side = math.isqrt(shared * size * size)

    def rows_of(self, slots: Tensor, layer: int) -> Tensor:
        """Returns the rows of a layer's slots (int64, below N_eff²)."""
        return (slots + layer * self.size * self.size) % self.rows


def _row_gradient(table: Tensor, ids: Tensor, weights: Tensor, grad: Tensor, sparse: bool) -> Tensor:
    """The gradient of a table whose rows ``ids`` (T, m) got ``weights[t, i, part] · grad[t, part]``: grad (T, c, w).

    The transpose of reading: entries are sorted by row, and each row is a bag of tokens. No tensor of size T·m·w is
    created.
    """
    ordered, order = ids.flatten().sort(stable=True)
    rows, counts = torch.unique_consecutive(ordered, return_counts=True)
    tokens, offsets = order // ids.shape[1], counts.cumsum(0) - counts
    factors = weights.flatten(0, 1)[order]
    parts = [
        F.embedding_bag(tokens, grad[:, part].contiguous(), offsets, per_sample_weights=factors[:, part], mode="sum")
        for part in range(grad.shape[1])
    ]
    values = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    if sparse:
        return torch.sparse_coo_tensor(rows[None], values, table.shape, check_invariants=False, is_coalesced=True)
    return torch.zeros_like(table).index_copy_(0, rows, values)


class _RowProducts(torch.autograd.Function):
    """Σ_d table[ids, d] x[d] without saving the gathered rows for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
        ctx.save_for_backward(x, table, ids)
        ctx.sparse = sparse
        return torch.einsum("td,tmd->tm", x, F.embedding(ids, table))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, table, ids = ctx.saved_tensors
        to_x = to_table = None
        if ctx.needs_input_grad[0]:
            weights = grad.contiguous()
            to_x = F.embedding_bag(ids, table, per_sample_weights=weights, mode="sum", sparse=ctx.sparse)
        if ctx.needs_input_grad[1]:
            to_table = _row_gradient(table, ids, grad.unsqueeze(-1), x.unsqueeze(1), ctx.sparse)
        return to_x, to_table, None, None


class _RowSum(torch.autograd.Function):
    """Σ_i weights[i, part] table[ids_i, part] for each part of the rows, without saving the gathered rows."""

    @staticmethod
    def forward(ctx: Any, weights: Tensor, table: Tensor, ids: Tensor, sparse: bool) -> Tensor:
        ctx.save_for_backward(weights, table, ids)
        ctx.sparse = sparse
        tokens, top, parts = weights.shape
        part = torch.arange(parts, device=ids.device)
        split = (ids[:, None] * parts + part[:, None]).view(tokens * parts, top)
        factors = weights.transpose(1, 2).reshape(tokens * parts, top)
        pieces = table.detach().view(table.shape[0] * parts, -1)
        return F.embedding_bag(split, pieces, per_sample_weights=factors, mode="sum").view(tokens, table.shape[1])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        weights, table, ids = ctx.saved_tensors
        grad = grad.unflatten(1, (weights.shape[2], -1))
        to_weights = to_table = None
        if ctx.needs_input_grad[0]:
            rows = F.embedding(ids, table, sparse=ctx.sparse).unflatten(2, (weights.shape[2], -1))
            to_weights = torch.einsum("tcd,tmcd->tmc", grad, rows)
        if ctx.needs_input_grad[1]:
            to_table = _row_gradient(table, ids, weights, grad, ctx.sparse)
        return to_weights, to_table, None, None


def row_products(x: Tensor, table: MemoryRows, ids: Tensor) -> Tensor:
    """Products of each token's vector with the rows that it reads.

    Args:
        x: (T, D).
        table: Table of pre-values of width D.
        ids: (T, m), rows.

    Returns:
        (T, m).
    """
    with full_precision(x.device):
        return _RowProducts.apply(x.to(table.weight.dtype), table.weight, ids, table.sparse)


def row_sum(weights: Tensor, table: MemoryRows, ids: Tensor) -> Tensor:
    """Weighted sums of the rows that each token reads; each of c parts of a row has its own weight.

    Args:
        weights: (T, m, c), c a divisor of the table's width.
        table: Table of values.
        ids: (T, m).

    Returns:
        (T, width). No tensor of size T·m·width is saved for the backward pass.
    """
    with full_precision(weights.device):
        return _RowSum.apply(weights.to(table.weight.dtype), table.weight, ids, table.sparse)


def read_dense(
    scores: Tensor, ids: Tensor, values: Tensor, x: Tensor | None = None, pre_values: Tensor | None = None
) -> Tensor:
    """Σ_i ŝ_i (p_iᵀ x) v_i by gathering all rows: the slow reference of :func:`row_products` and :func:`row_sum`.

    Args:
        scores: ŝ (T, m, c), c a divisor of the values' width.
        ids: (T, m), rows.
        values: v (R, width).
        x: (T, D); without it, or without pre-values, the sum is Σ_i ŝ_i v_i.
        pre_values: p (R, D).

    Returns:
        (T, width).
    """
    weights = scores
    if pre_values is not None and x is not None:
        weights = scores * (pre_values[ids] * x[:, None]).sum(-1, keepdim=True)
    rows = values[ids].unflatten(-1, (scores.shape[-1], -1))
    return (weights[..., None] * rows).sum(1).flatten(1)
