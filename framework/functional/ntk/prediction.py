"""Predictions of a constant tangent kernel for gradient descent on (1/2N) Σ (f(x_i) − y_i)²."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from framework.errors import UserError
from framework.settings import at_least, finite, finite_entries


class KernelPredictor:
    """Function-space solutions of linearised training, by the eigenvectors of the kernel on the data.

    Args:
        kernel: K = Θ(X, X), (N, N); symmetric.
        rate: Learning rate η.
        discrete: Whether steps are those of gradient descent, (I − η K/N)^k; else of gradient flow, exp(−η k K/N).

    Raises:
        UserError: the kernel is not square, or a number is not finite.
    """

    def __init__(self, kernel: Tensor, rate: float = 1.0, discrete: bool = True) -> None:
        if kernel.ndim != 2 or kernel.shape[0] != kernel.shape[1]:
            raise UserError(f"kernel: shape {tuple(kernel.shape)} is not accepted; square, (N, N)")
        finite(rate=rate)
        finite_entries(kernel=kernel)
        self.rate, self.discrete = rate, discrete
        self.values, self.vectors = torch.linalg.eigh(kernel.double())
        self.values = self.values.clamp(min=0)

    def principal_components(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (N,) of K/N in descending order, and its eigenvectors times √N in columns, (N, N)."""
        n = len(self.values)
        return self.values.flip(0) / n, self.vectors.flip(1) * n**0.5

    def _left(self, steps: float) -> Tensor:
        """Returns the remaining share (N,) of each component of the error after ``steps``.

        Raises:
            UserError: the number of steps is not accepted.
        """
        at_least(0, steps=None if steps == math.inf else steps)
        speed = self.rate * self.values / len(self.values)
        if math.isinf(steps):
            return (self.values <= self._smallest()).double()
        return (1 - speed) ** steps if self.discrete else torch.exp(-speed * steps)

    def _smallest(self) -> float:
        """Largest eigenvalue that is zero in this precision."""
        return float(self.values.max()) * len(self.values) * torch.finfo(torch.float64).eps

    def on_data(self, start: Tensor, targets: Tensor, steps: float) -> Tensor:
        """Returns f_k = y + (I − η K/N)^k (f_0 − y).

        Args:
            start: f_0(X), (…, N).
            targets: y, (N,) or as ``start``.
            steps: k; may be infinite.
        """
        error = (start - targets).double() @ self.vectors
        return targets + (error * self._left(steps)) @ self.vectors.T

    def at(self, cross: Tensor, start_there: Tensor, start: Tensor, targets: Tensor, steps: float) -> Tensor:
        """Returns f_k(x) = f_0(x) − κ_xᵀ K⁻¹ (I − (I − η K/N)^k) (f_0 − y).

        Args:
            cross: κ = Θ(x, X), (M, N).
            start_there: f_0(x), (…, M).
            start: f_0(X), (…, N).
            targets: y, (N,) or as ``start``.
            steps: k; may be infinite.
        """
        moved = (1 - self._left(steps)) / self.values.clamp(min=self._smallest())
        limit = 0.0 if math.isinf(steps) else steps * self.rate / len(self.values)
        moved = torch.where(self.values > self._smallest(), moved, limit)
        error = (start - targets).double() @ self.vectors
        return start_there - (error * moved) @ (cross.double() @ self.vectors).T

    def limit(
        self, cross: Tensor, targets: Tensor, nngp: Tensor, nngp_cross: Tensor, nngp_data: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the mean and the variance of f_∞(x) over initialisations.

        They are κᵀ K⁻¹ y and Σ(x, x) − 2 Σ(x, X) w + wᵀ Σ(X, X) w, with w = K⁻¹ κ.

        Args:
            cross: κ = Θ(x, X), (M, N).
            targets: y, (N,).
            nngp: Σ(x, x), the diagonal, (M,).
            nngp_cross: Σ(x, X), (M, N).
            nngp_data: Σ(X, X), (N, N).

        Returns:
            (M,) each.

        Raises:
            UserError: the kernel is singular: a point of the data occurs twice.
        """
        if float(self.values.min()) <= self._smallest():
            raise UserError("kernel: singular, so that f_∞ is not determined; are there points that occur twice?")
        weights = (cross.double() @ self.vectors / self.values) @ self.vectors.T
        variance = nngp - 2 * (nngp_cross * weights).sum(1) + (weights @ nngp_data * weights).sum(1)
        return weights @ targets.double(), variance.clamp(min=0)
