"""The optimal rotation-invariant estimator (RIE) of S from R = S + √t GOE."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from framework.settings import above, finite_entries
from modules.dynamics.gamp_rie.spectrum import moment, stieltjes


def denoise(r: Tensor, t: float, kappa: float) -> Tensor:
    """f_RIE(R, t) = U diag(λ − 2 t h_t(λ)) Uᵀ.

    Args:
        r: R = U diag(λ) Uᵀ (d, d); only its symmetric part is used.
        t: Variance of the noise.
        kappa: κ = m/d.

    Raises:
        UserError: an argument is not accepted.
    """
    above(0, t=t, kappa=kappa)
    finite_entries(r=r)
    values, vectors = torch.linalg.eigh((r + r.mT) / 2)
    hilbert = torch.as_tensor(stieltjes(values.cpu().numpy().astype(np.float64), t, kappa).real).to(values)
    return (vectors * (values - 2 * t * hilbert)) @ vectors.mT


def error(t: float, kappa: float) -> float:
    """F_RIE(t) = lim (1/d) E|S − f_RIE|² = t − (4π²/3) t² ∫ ρ_t³."""
    return t - 4 * math.pi**2 / 3 * t**2 * moment(t, kappa, 3)
