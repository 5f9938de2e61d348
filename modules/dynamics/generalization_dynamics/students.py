"""Students that are linear in their trained weights, solved exactly: gradient flow in the eigenbasis of the data."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from framework.settings import between, finite_entries

FROZEN = 1e-10  # eigenvalues below this share of the largest count as 0: float64 cannot distinguish them from it


class StudentFlow(NamedTuple):
    """Gradient flow ``dw/dt = (y − w H) Hᵀ``, solved for every t.

    Attributes:
        eigenvalues: (…, K) of H Hᵀ, K = min(N, P), 0 where frozen; the rest of the N are 0 too.
        basis: (…, N, K), their eigenvectors in columns.
        start: (…, N), w(0).
        shift: (…, K), how far each coordinate moves until t = ∞; 0 where frozen.
    """

    eigenvalues: Tensor
    basis: Tensor
    start: Tensor
    shift: Tensor

    def at(self, t: float) -> Tensor:
        """Returns w(t), (…, N); t may be infinite."""
        moving = self.eigenvalues > 0
        gone = torch.where(moving, -torch.expm1(-torch.where(moving, self.eigenvalues, 1.0) * t), 0.0)
        return self.start + (self.basis @ (gone * self.shift)[..., None])[..., 0]


def flow(h: Tensor, y: Tensor, start: Tensor | None = None) -> StudentFlow:
    """Solves the flow of ½ |y − w H|².

    Args:
        h: (…, N, P) inputs or hidden activations, one column for each example, float64.
        y: (…, P).
        start: w(0) (…, N); zeros by default.

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(h=h, y=y)
    basis, s, vt = torch.linalg.svd(h, full_matrices=False)
    moving = s.square() > FROZEN * s[..., :1].square()
    start = h.new_zeros(h.shape[:-1]) if start is None else start
    left = y - (start[..., None, :] @ h)[..., 0, :]
    shift = torch.where(moving, (vt @ left[..., None])[..., 0] / torch.where(moving, s, 1.0), 0.0)
    return StudentFlow(torch.where(moving, s.square(), 0.0), basis, start, shift)


def random_features(x: Tensor, weights: Tensor) -> Tensor:
    """ReLU(W X) / √N_h: hidden activations (…, N_h, P) of inputs (…, N, P) through frozen weights (…, N_h, N)."""
    return torch.relu(weights @ x) / weights.shape[-2] ** 0.5


def bulk_eigenvalues(h: Tensor, large: int) -> tuple[Tensor, float]:
    """Returns the small eigenvalues of H Hᵀ in Marchenko-Pastur's units, and the ratio α that belongs to them.

    Random features of Gaussian inputs have a few large eigenvalues: one from their mean, and one for each input from
    their linear part. The others are those of independent noise of P' = P − ``large`` examples in N' = N_h − ``large``
    dimensions.

    Args:
        h: (N_h, P).
        large: Number of the largest eigenvalues that are left out.

    Returns:
        The next eigenvalues (min(N', P'),), scaled to the mean that ρ has at α = P'/N', and that α.

    Raises:
        UserError: an argument is not accepted.
    """
    between(0, min(h.shape) - 1, large=large)
    finite_entries(h=h)
    values = torch.linalg.svdvals(h)[large:].square()
    alpha = (h.shape[1] - large) / (h.shape[0] - large)
    return values * (alpha / min(1.0, alpha) / values.mean()), alpha


class Decomposition(NamedTuple):
    """Parts of a converged read-out's test error (journal version, Fig. 9); their sum is the error, exactly.

    Attributes:
        approximation: E_a, the error of the best read-out of these features.
        null_space: E_n, the error in directions without examples.
        over_fitting: E_o, the error from fitting the residual as if it were noise.
        cross: Cross term of the latter two; near 0 on average.
    """

    approximation: Tensor
    null_space: Tensor
    over_fitting: Tensor
    cross: Tensor


def decompose(h: Tensor, y: Tensor, h_test: Tensor, y_test: Tensor) -> Decomposition:
    """Splits the test error of ``w = y H⁺`` (zero start, t = ∞).

    Args:
        h: (N_h, P), training activations.
        y: (P,).
        h_test: (N_h, T), the test sample, over which averages are taken.
        y_test: (T,).

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(h=h, y=y, h_test=h_test, y_test=y_test)
    c = h_test @ h_test.mT / h_test.shape[1]
    best = torch.linalg.lstsq(h_test.mT, y_test[:, None], driver="gelsd").solution[:, 0]
    residual = y - best @ h
    u, s, vt = torch.linalg.svd(h, full_matrices=True)
    rank = int((s**2 > FROZEN * s[0] ** 2).sum())
    null = u[:, rank:] @ (u[:, rank:].mT @ best)
    fitted = u[:, :rank] @ ((vt[:rank] @ residual) / s[:rank])
    return Decomposition(
        (y_test - best @ h_test).square().mean(), null @ c @ null, fitted @ c @ fitted, -2 * (null @ c @ fitted)
    )
