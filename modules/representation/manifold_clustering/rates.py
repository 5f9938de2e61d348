"""Coding rates: log-determinants that measure the volume of features, alone and by soft groups.

Paper: Ding, Tong, Chan, Dai, Ma, Haeffele, 2023, "Unsupervised Manifold Linearizing and Clustering", ICCV, arXiv
2301.01805, equations (1) to (5); without the factors of one half that the authors' codes have. Here features are rows:
Z is (n, d).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from framework.settings import above


def coding_rate(z: Tensor, eps_squared: float) -> Tensor:
    """Returns R(Z) = log det(I + d/(n ε²) Zᵀ Z), a scalar in nats.

    The determinant is that of the smaller of the two Gram matrices, in float32 or float64, so that it is finite for
    features that are zero, equal or of rank one too.

    Args:
        z: Features (n, d).
        eps_squared: ε², above 0.

    Raises:
        UserError: ε² is not accepted.
    """
    above(0, eps_squared=eps_squared)
    n, d = z.shape
    weights = torch.full((n, 1), 1 / n, dtype=z.dtype, device=z.device)
    return mean_log_det(z, weights, torch.ones(1, dtype=z.dtype, device=z.device), d / eps_squared)


def membership_rate(z: Tensor, memberships: Tensor, eps_squared: float, chunk: int | None = None) -> Tensor:
    """Returns R_c(Z, Γ) = (1/n) Σ_j log det(I + d/ε² Zᵀ diag(Γ_j) Z), a scalar in nats.

    Args:
        z: Features (n, d).
        memberships: Γ (n, n), whose column j sums to 1: the soft set of the points that are similar to point j.
        eps_squared: ε², above 0.
        chunk: Columns, and points, at a time; by default as many as fit into about 64 MiB. Memory does not grow with
            n · d².

    Raises:
        UserError: ε² is not accepted.
    """
    above(0, eps_squared=eps_squared)
    n, d = z.shape
    shares = torch.full((n,), 1 / n, dtype=z.dtype, device=z.device)
    return mean_log_det(z, memberships, shares, d / eps_squared, chunk)


def cluster_rate(z: Tensor, clusters: Tensor, eps_squared: float) -> Tensor:
    """Returns R_c(Z, Π) = Σ_k (n_k/n) log det(I + d/(n_k ε²) Zᵀ diag(Π_k) Z) of MCR², a scalar in nats.

    It equals :func:`membership_rate` where Γ_ij is 1/n_k for points of the same cluster and 0 for others.

    Args:
        z: Features (n, d).
        clusters: Π (n, k), the share of each point in each cluster; a cluster without points counts as 0.
        eps_squared: ε², above 0.

    Raises:
        UserError: ε² is not accepted.
    """
    above(0, eps_squared=eps_squared)
    n, d = z.shape
    clusters = clusters.to(z)
    sizes = clusters.sum(0)
    weights = clusters / sizes.clamp(min=torch.finfo(z.dtype).tiny)
    return mean_log_det(z, weights, sizes / n, d / eps_squared)


def mean_log_det(z: Tensor, weights: Tensor, shares: Tensor, scale: float, chunk: int | None = None) -> Tensor:
    """Returns Σ_j p_j log det(I + a Zᵀ diag(W_j) Z), with derivatives by Z, W and p.

    Values and gradients of a chunk of columns are computed together, so that nothing of size columns · d² is kept for
    the backward pass; only second derivatives take it. Under autocast it is computed in float32.

    Args:
        z: Z (n, d).
        weights: W (n, m), not negative.
        shares: p (m,).
        scale: a, above 0.
        chunk: Columns, and points, at a time.
    """
    with torch.autocast(z.device.type, enabled=False):
        kind = torch.float64 if z.dtype == torch.float64 else torch.float32
        side = min(z.shape)
        chunk = chunk or max(1, (1 << 24) // side**2)
        found: Tensor = _MeanLogDet.apply(z.to(kind), weights.to(kind), shares.to(kind), float(scale), chunk)
        return found


class _MeanLogDet(torch.autograd.Function):
    """Forward and backward in one pass over the columns; the output is a scalar, so its gradient only scales them."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, weights: Tensor, shares: Tensor, scale: float, chunk: int) -> Tensor:
        part = _by_features if z.shape[1] <= z.shape[0] else _by_points
        value, *gradients = part(z, weights, shares, scale, chunk, any(ctx.needs_input_grad[:3]))
        ctx.save_for_backward(z, weights, shares, *gradients)
        ctx.scale = scale
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inputs, gradients = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
        if torch.is_grad_enabled():  # create_graph: with operations that can be differentiated again
            z, weights, shares = inputs
            value = _composed(z, weights, shares, ctx.scale)
            found = iter(torch.autograd.grad(value, [p for p in inputs if p.requires_grad], create_graph=True))
            gradients = tuple(next(found) if p.requires_grad else g for p, g in zip(inputs, gradients, strict=True))
        return (*(grad * part for part in gradients), None, None)


def _composed(z: Tensor, weights: Tensor, shares: Tensor, scale: float) -> Tensor:
    """The same value in one piece, by operations of torch."""
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    return shares @ torch.logdet(eye + scale * torch.einsum("nj,na,nb->jab", weights, z, z))


def _factored(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Cholesky factors and logarithms of determinants; NaN where features are NaN, as a diverged training has them."""
    root, failed = torch.linalg.cholesky_ex(matrices)
    dets = 2 * root.diagonal(dim1=1, dim2=2).log().sum(1)
    return root, dets.masked_fill(failed > 0, torch.nan)


def _by_features(
    z: Tensor, weights: Tensor, shares: Tensor, scale: float, chunk: int, gradients: bool
) -> tuple[Tensor, ...]:
    """With d x d determinants: all of them, and their gradients, are products with the points' z zᵀ."""
    d = z.shape[1]
    value, by_z = z.new_zeros(()), torch.zeros_like(z)
    by_weights, by_shares = [], []
    blocks = [slice(start, start + chunk) for start in range(0, len(z), chunk)]
    whole = _outer(z) if len(blocks) == 1 else None  # of each block again where there are several
    for start in range(0, weights.shape[1], chunk):
        own, p = weights[:, start : start + chunk], shares[start : start + chunk]
        matrices = z.new_zeros(own.shape[1], d * d)
        for block in blocks:
            matrices.addmm_(own[block].T, _outer(z[block]) if whole is None else whole)
        matrices = matrices.mul_(scale).view(-1, d, d)
        matrices.diagonal(dim1=1, dim2=2).add_(1)
        root, dets = _factored(matrices)
        value = value + p @ dets
        if not gradients:
            continue
        inverse = torch.cholesky_inverse(root).mT.reshape(-1, d * d)  # symmetric, in columns
        rows = []
        for block in blocks:
            rows.append((_outer(z[block]) if whole is None else whole) @ inverse.T * (scale * p))
            folded = z.new_zeros(len(rows[-1]), d * d).addmm_(own[block] * p, inverse, alpha=2 * scale)
            by_z[block] += torch.bmm(folded.view(-1, d, d), z[block, :, None])[:, :, 0]
        by_weights.append(torch.cat(rows))
        by_shares.append(dets)
    if not gradients:
        return (value,)
    return value, by_z, torch.cat(by_weights, 1), torch.cat(by_shares)


def _outer(z: Tensor) -> Tensor:
    """z zᵀ of each point (n, d), in rows (n, d²)."""
    return (z[:, :, None] * z[:, None, :]).flatten(1)


def _by_points(
    z: Tensor, weights: Tensor, shares: Tensor, scale: float, chunk: int, gradients: bool
) -> tuple[Tensor, ...]:
    """With n x n determinants, log det(I + a D^½ K D^½), for fewer points than dimensions."""
    kernel = z @ z.T
    value = z.new_zeros(())
    by_weights, by_shares, folded = [], [], torch.zeros_like(kernel)
    for start in range(0, weights.shape[1], chunk):
        p = shares[start : start + chunk]
        roots = weights[:, start : start + chunk].T.sqrt()
        matrices = scale * roots[:, :, None] * kernel * roots[:, None, :]
        matrices.diagonal(dim1=1, dim2=2).add_(1)
        root, dets = _factored(matrices)
        value = value + p @ dets
        if not gradients:
            continue
        core = roots[:, :, None] * torch.cholesky_inverse(root) * roots[:, None, :]
        # z_iᵀ (I + a Zᵀ D Z)⁻¹ z_i by Woodbury, which is finite where a weight is 0
        inner = kernel.diagonal() - scale * torch.einsum("ia,cab,bi->ci", kernel, core, kernel)
        by_weights.append((scale * p)[None, :] * inner.T)
        by_shares.append(dets)
        folded += torch.einsum("c,cab->ab", p, core)
    if not gradients:
        return (value,)
    return value, 2 * scale * folded @ z, torch.cat(by_weights, 1), torch.cat(by_shares)
