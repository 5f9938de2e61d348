"""Tucker-decomposed query-key retrieval: the best slots of an N×N grid from N row and N column scores of rank r.

Scores have the rank first: ``rows`` (r, T, N) and ``columns`` (r, T, N) for T tokens. The score of slot (i, j) under a
core C (r, r) is ``G_ij = Σ_ρσ rows[ρ, i] C[ρ, σ] columns[σ, j]``. The candidates are the m best rows by ``u·rows`` and
the m best columns by ``t·columns``, (u, t) being the leading pair of singular vectors of C: this is exact if C has rank
1 and both are positive. Among the m² candidates the m best by their exact G are chosen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Selection(NamedTuple):
    """Chosen slots of each token: rows and columns of the grid (T, m), int64, and scores (T, m, cores)."""

    rows: Tensor
    columns: Tensor
    scores: Tensor


def leading_pairs(cores: Tensor, u: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Leading singular vectors of many cores by one batched SVD, with the sign that is closest to the earlier pairs.

    Both (u, t) and (-u, -t) are solutions, and they select opposite slots. The one with the smaller L1 distance to the
    earlier pair is chosen; without an earlier pair (zeros) the one whose entries have a positive sum.

    Args:
        cores: (L, r, r).
        u: (L, r), earlier left vectors.
        t: (L, r), earlier right vectors.

    Returns:
        Left vectors (L, r), right vectors (L, r), singular values (L, r) in descending order; detached.
    """
    left, values, right = torch.linalg.svd(cores.detach())
    left, right = left[..., 0], right[..., 0, :]
    keep = (left - u).abs().sum(-1) + (right - t).abs().sum(-1)
    flip = (left + u).abs().sum(-1) + (right + t).abs().sum(-1)
    fresh = torch.where((left + right).sum(-1) < 0, -1.0, 1.0)
    known = (u.abs().sum(-1) + t.abs().sum(-1)) > 0
    sign = torch.where(known, torch.where(flip < keep, -1.0, 1.0), fresh).to(left.dtype)[..., None]
    return sign * left, sign * right, values


def candidate_scores(rows: Tensor, columns: Tensor, cores: Tensor) -> Tensor:
    """Returns G of every pair.

    Args:
        rows: (r, T, a).
        columns: (r, T, b).
        cores: (c, r, r).

    Returns:
        (T, c, a, b).
    """
    weighted = torch.einsum("cpq,pta->tcaq", cores, rows)
    return weighted @ columns.permute(1, 0, 2).unsqueeze(1)


def slot_scores(rows: Tensor, columns: Tensor, cores: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Returns G of chosen slots; differentiable, without tensors of size m².

    Args:
        rows: (r, T, N).
        columns: (r, T, N).
        cores: (c, r, r).
        i: Rows (T, m), int64.
        j: Columns (T, m), int64.

    Returns:
        (T, m, c).
    """
    rank = len(rows)
    chosen_rows = rows.gather(2, i.expand(rank, -1, -1))
    chosen_columns = columns.gather(2, j.expand(rank, -1, -1))
    return (torch.einsum("cpq,ptm->tmcq", cores, chosen_rows) * chosen_columns.permute(1, 2, 0).unsqueeze(2)).sum(-1)


def tdqkr(rows: Tensor, columns: Tensor, cores: Tensor, u: Tensor, t: Tensor, top: int) -> Selection:
    """Returns the ``top`` best slots of each token, best first (section 3.1 of the paper; multi-core of UltraMem).

    Args:
        rows: (r, T, N) row scores.
        columns: (r, T, N) column scores.
        cores: (c, r, r); slots are chosen by the sum of their scores.
        u: (r,) left leading vector of the summed core.
        t: (r,) right leading vector.
        top: m, from 1 to N².
    """
    with torch.no_grad():
        side = min(top, rows.shape[-1])
        i = torch.einsum("r,rtn->tn", u, rows).topk(side, -1).indices
        j = torch.einsum("r,rtn->tn", t, columns).topk(side, -1).indices
        rank = len(rows)
        near_rows, near_columns = rows.gather(2, i.expand(rank, -1, -1)), columns.gather(2, j.expand(rank, -1, -1))
        total = candidate_scores(near_rows, near_columns, cores.sum(0, keepdim=True)).flatten(1)
        best = total.topk(top, -1).indices
        i, j = i.gather(1, best // side), j.gather(1, best % side)
    return Selection(i, j, slot_scores(rows, columns, cores, i, j))


def exhaustive(
    rows: Tensor, columns: Tensor, cores: Tensor, top: int, u: Tensor | None = None, t: Tensor | None = None
) -> Selection:
    """Returns the same by scoring all N² slots: the slow reference.

    Args:
        rows: (r, T, N).
        columns: (r, T, N).
        cores: (c, r, r).
        top: m.
        u: With ``t``: only slots with ``u·rows > 0`` and ``t·columns > 0`` count; (−, −) pairs have large products too,
            but retrieval by the best rows and columns never finds them.
        t: See ``u``.
    """
    size = rows.shape[-1]
    with torch.no_grad():
        total = candidate_scores(rows, columns, cores.sum(0, keepdim=True))[:, 0]
        if u is not None and t is not None:
            a, b = torch.einsum("r,rtn->tn", u, rows), torch.einsum("r,rtn->tn", t, columns)
            total = total.masked_fill(~((a > 0)[:, :, None] & (b > 0)[:, None, :]), -torch.inf)
        best = total.flatten(1).topk(top, -1).indices
    i, j = best // size, best % size
    return Selection(i, j, slot_scores(rows, columns, cores, i, j))


def product_keys(rows: Tensor, columns: Tensor, top: int) -> Selection:
    """Returns the ``top`` largest sums rows_i + columns_j of each token: product-key retrieval, exact (Lample et al.
    2019).

    Args:
        rows: (1, T, N).
        columns: (1, T, N).
        top: m, from 1 to N².
    """
    with torch.no_grad():
        side = min(top, rows.shape[-1])
        a, i = rows[0].topk(side, -1)
        b, j = columns[0].topk(side, -1)
        best = (a[:, :, None] + b[:, None, :]).flatten(1).topk(top, -1).indices
        i, j = i.gather(1, best // side), j.gather(1, best % side)
    return Selection(i, j, (rows[0].gather(1, i) + columns[0].gather(1, j)).unsqueeze(-1))
