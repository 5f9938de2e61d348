"""Products of factors (Xiong et al. 2024, arXiv 2310.01769)."""

from __future__ import annotations

import torch
from torch import Tensor

from framework.settings import above, finite_entries


def rebalance(f: Tensor, g: Tensor, beta: Tensor | float) -> tuple[Tensor, Tensor]:
    """Gives F k equal singular values β, and changes G so that F Gᵀ stays the same (Xiong et al. 2024, Section 5).

    With the thin SVD F = Q S Bᵀ: F ← F B S⁻¹ β = β Q, G ← G B S / β.

    Args:
        f: (…, n1, k), k at most n1; singular values below 1e-12 of the largest are raised to it.
        g: (…, n2, k).
        beta: One number, or one per member (…).

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(f=f)
    above(0, beta=None if isinstance(beta, Tensor) else beta)
    q, s, bt = torch.linalg.svd(f, full_matrices=False)
    s = s.clamp(min=1e-12 * s[..., :1])
    scale = torch.as_tensor(beta, dtype=f.dtype, device=f.device)[..., None, None]
    return q * scale, (g @ bt.mT) * s[..., None, :] / scale
