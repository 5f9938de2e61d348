"""Measures of how little a network has changed in training, without linearising it.

Liu et al. 2024, arXiv 2310.08513. High alignments and a small change of the weights are called lazy learning, the
opposite rich.
"""

from __future__ import annotations

import torch
from torch import Tensor


def kernel_alignment(kernel: Tensor, start: Tensor) -> Tensor:
    """Returns ⟨K, K_0⟩ / (‖K‖ ‖K_0‖) (…) of kernels (…, N, N), in the Frobenius norm; 1 if they are proportional."""
    left, right = kernel.flatten(-2), start.flatten(-2)
    return (left * right).sum(-1) / (left.norm(dim=-1) * right.norm(dim=-1))


def representation_alignment(activity: Tensor, start: Tensor) -> Tensor:
    """Returns the alignment (…) of R = A Aᵀ, with A (…, N, H) the activity for N inputs, not centred.

    For more inputs than units it uses ⟨A Aᵀ, B Bᵀ⟩ = ‖Aᵀ B‖², without N x N matrices. The widths may differ.
    """
    if activity.shape[-2] <= activity.shape[-1] + start.shape[-1]:
        return kernel_alignment(activity @ activity.mT, start @ start.mT)
    cross, left, right = (
        (a.mT @ b).flatten(-2).norm(dim=-1) for a, b in ((activity, start), (activity, activity), (start, start))
    )
    return cross.square() / (left * right)


def effective_ranks(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (Σ s)² / Σ s² and exp(entropy of s / Σ s), both (…), of the singular values s of (…, m, n).

    They are between 1 and the rank; NaN for a matrix with entries that are not finite.
    """
    sound = matrix.isfinite().all(-1).all(-1)
    s = torch.linalg.svdvals(torch.where(sound[..., None, None], matrix, 0.0))
    p = s / s.sum(-1, keepdim=True)
    return 1 / p.square().sum(-1), torch.special.entr(p).sum(-1).exp()  # 0/0 if not finite
