"""Linear measurements of a matrix, and steps of gradient descent on its factors.

Xiong, Ding, Du 2024, arXiv 2310.01769. Measurements ``y_i = <A_i, M>``; D = A*(A(Z) − y) = Σ_i (<A_i, Z> − y_i) A_i.
Without an operator A*A is the identity (the limit of infinitely many measurements) and D = Z − M.

    symmetric    L = ¼ |A(X Xᵀ) − y|²    X ← X − η sym(D) X
    asymmetric   L = ½ |A(F Gᵀ) − y|²    F ← F − η D G,  G ← G − η Dᵀ F    (both with the old F and G)

Factors have a first dimension of E members: X (E, n, k), F (E, n1, k), G (E, n2, k).
"""

from __future__ import annotations

import torch
from torch import Tensor


def misfit(product: Tensor, target: Tensor, operator: Tensor | None) -> Tensor:
    """Returns |A(Z) − y|² of each member (E,).

    Args:
        product: Z (E, n1, n2).
        target: y (m,); the matrix (n1, n2) itself without an operator.
        operator: A (m, n1 · n2) or ``None``.
    """
    error = product - target if operator is None else product.flatten(1) @ operator.T - target
    return error.flatten(1).square().sum(1)


def residual(f: Tensor, g: Tensor, target: Tensor, operator: Tensor | None) -> Tensor:
    """Returns D (E, n1, n2) of Z = F Gᵀ.

    Args:
        f: (E, n1, k).
        g: (E, n2, k).
        target: y (m,); the matrix (n1, n2) itself without an operator.
        operator: A (m, n1 · n2) or ``None``.
    """
    if operator is None:
        return torch.baddbmm(target, f, g.mT, beta=-1)
    product = torch.bmm(f, g.mT)
    return ((product.flatten(1) @ operator.T - target) @ operator).view_as(product)


def symmetric_gradient(x: Tensor, target: Tensor, operator: Tensor | None) -> Tensor:
    """sym(D) X, of ¼ |A(X Xᵀ) − y|².

    Args:
        x: (E, n, k).
        target: y (m,); the matrix (n, n) itself, symmetric, without an operator.
        operator: A (m, n · n) or ``None``.

    Returns:
        (E, n, k).
    """
    d = residual(x, x, target, operator)
    return torch.bmm(d + d.mT, x) / 2 if operator is not None else torch.bmm(d, x)


def asymmetric_gradients(f: Tensor, g: Tensor, target: Tensor, operator: Tensor | None) -> tuple[Tensor, Tensor]:
    """Returns D G and Dᵀ F, of ½ |A(F Gᵀ) − y|².

    Args:
        f: (E, n1, k).
        g: (E, n2, k).
        target: y (m,); the matrix (n1, n2) itself without an operator.
        operator: A (m, n1 · n2) or ``None``.

    Returns:
        (E, n1, k) and (E, n2, k).
    """
    d = residual(f, g, target, operator)
    return torch.bmm(d, g), torch.bmm(d.mT, f)  # for small matrices half the time of @, which checks shapes first
