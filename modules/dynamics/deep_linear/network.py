"""A product of weight matrices trained on correlations: its loss and gradient, for many members together.

Saxe, McClelland, Ganguli 2014, arXiv 1312.6120. With ``Σ11 = X Xᵀ``, ``Σ31 = Y Xᵀ`` and W = W^L ⋯ W^1 (eq. 13)

    τ dW^l/dt = (W^L ⋯ W^(l+1))ᵀ [Σ31 − W Σ11] (W^(l−1) ⋯ W^1)ᵀ

is gradient flow on ½ Σ_μ |y − W x|²; the examples themselves are not needed. Weights are lists of L tensors
(E, N_(l+1), N_l), first layer first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from framework.settings import finite_entries


def product(weights: Sequence[Tensor]) -> Tensor:
    """Returns W = W^L ⋯ W^1 (E, N_out, N_in), from the narrower end."""
    if weights[-1].shape[-2] <= weights[0].shape[-1]:
        total = weights[-1]
        for weight in reversed(weights[:-1]):
            total = total @ weight
        return total
    total = weights[0]
    for weight in weights[1:]:
        total = weight @ total
    return total


def losses(weights: Sequence[Tensor], s31: Tensor, s11: Tensor, syy: Tensor) -> Tensor:
    """Returns ½ (tr Σyy − 2 tr(W Σ31ᵀ) + tr(W Σ11 Wᵀ)) of each member (E,).

    Args:
        weights: W^1 … W^L.
        s31: Σ31 (N_out, N_in).
        s11: Σ11 (N_in, N_in).
        syy: tr Σyy ().
    """
    w = product(weights)
    return 0.5 * (syy - 2 * (w * s31).sum((-2, -1)) + ((w @ s11) * w).sum((-2, -1)))


def gradients(weights: Sequence[Tensor], s31: Tensor, s11: Tensor) -> list[Tensor]:
    """Gradients of :func:`losses`, minus eq. 13's right side.

    Only products with a side of min(N_in, N_out) are formed.

    Args:
        weights: W^1 … W^L.
        s31: (N_out, N_in).
        s11: (N_in, N_in).
    """
    bmm, members = torch.bmm, len(weights[0])  # for small matrices takes half the time of @, which checks shapes first
    s11 = s11.expand(members, -1, -1)
    if s31.shape[0] < s31.shape[1]:
        ahead = [weights[-1]]  # W^L ⋯ W^(l+1), N_out rows
        for weight in reversed(weights[:-1]):
            ahead.append(bmm(ahead[-1], weight))
        behind = torch.baddbmm(s31, ahead.pop(), s11, beta=-1).mT  # W^(l−1) ⋯ W^1 Mᵀ, N_out columns
        found = []
        for weight in weights[:-1]:
            found.append(bmm(ahead.pop().mT, behind.mT))
            behind = bmm(weight, behind)
        return [*found, behind.mT]
    reached = [weights[0]]  # W^l ⋯ W^1, N_in columns
    for weight in weights[1:]:
        reached.append(bmm(weight, reached[-1]))
    error = torch.baddbmm(s31, reached.pop(), s11, beta=-1)
    found = []
    for weight in reversed(weights[1:]):
        found.append(bmm(error, reached.pop().mT))
        error = bmm(weight.mT, error)
    return [*found, error][::-1]


def modes(s31: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """U (N_out, r), s (r,), V (N_in, r) of Σ31 = U diag(s) Vᵀ, for the r modes with s above 1e-10 of the largest.

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(s31=s31)
    u, s, vt = torch.linalg.svd(s31, full_matrices=False)
    count = int((s > 1e-10 * s[0]).sum()) if rank is None else rank
    return u[:, :count], s[:count], vt[:count].mT


def balance(weights: Sequence[Tensor]) -> list[Tensor]:
    """Returns W^(l+1)ᵀ W^(l+1) − W^l W^lᵀ between neighbours, (E, N_(l+1), N_(l+1)), which gradient flow conserves."""
    return [after.mT @ after - before @ before.mT for before, after in pairwise(weights)]


def best_loss(s31: Tensor, s11: Tensor, syy: Tensor) -> float:
    """Returns the smallest loss that a linear map can have.

    Args:
        s31: Σ31 (N_out, N_in).
        s11: Σ11 (N_in, N_in).
        syy: tr Σyy ().

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(s31=s31, s11=s11)
    w = s31 @ torch.linalg.pinv(s11, hermitian=True)
    return float(0.5 * (syy - (w * s31).sum()))
