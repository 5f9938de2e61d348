"""The doubly stochastic matrix nearest to symmetric scores, in the entropic sense: memberships of points.

Paper: Ding, Tong, Chan, Dai, Ma, Haeffele, 2023, arXiv 2301.01805, Section 3.2; the average of two updates of symmetric
potentials is that of Feydy et al. 2019, arXiv 1810.08278.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from framework.settings import above

LOWEST = 1e-12  # of a factor, from which potentials are computed again


@dataclass(frozen=True)
class SinkhornConfig:
    """The projection on doubly stochastic matrices.

    Attributes:
        tolerance: Largest distance of a row's sum from 1 at which iterations end.
        max_iterations: Largest number of them.
        absolute: Whether scores are |CᵀC| (the authors' later CPP, arXiv 2306.05272) instead of CᵀC.
        detach: Whether the potentials are constants for the gradient (also CPP's), instead of a function of the scores.
    """

    tolerance: float = 1e-5
    max_iterations: int = 1000
    absolute: bool = False
    detach: bool = False


class Balanced(NamedTuple):
    """A doubly stochastic matrix.

    Attributes:
        matrix: Γ (n, n).
        potentials: f (n,) with Γ = exp(S/η + f 1ᵀ + 1 fᵀ).
        iterations: Number of updates.
        error: Largest distance of a row's sum from 1 at the last of them.
    """

    matrix: Tensor
    potentials: Tensor
    iterations: int
    error: float


@torch.no_grad()
def balance(scores: Tensor, eta: float, tolerance: float = 1e-6, max_iterations: int = 1000) -> Balanced:
    """Returns the doubly stochastic exp(S/η + f 1ᵀ + 1 fᵀ) of symmetric scores.

    Potentials stay logarithms. An update halves the logarithms of the rows' sums; for scores CᵀC, whose Γ has no
    negative eigenvalue, the error falls at least by half with each. With f = -½ log-sum-exp of the rows no entry is
    above 1, so that updates are products of that matrix and a vector, until the vector's range asks for new
    potentials.

    Args:
        scores: Symmetric S (n, n).
        eta: η, above 0: large ones give the uniform matrix, small ones a permutation.
        tolerance: Largest distance of a row's sum from 1, but not below the rounding of the type.
        max_iterations: Largest number of updates.

    Raises:
        UserError: η is not accepted.
    """
    above(0, eta=eta)
    logits = scores / eta
    if not bool(logits.isfinite().all()):  # of a diverged training
        return Balanced(torch.full_like(logits, math.nan), torch.full_like(logits[0], math.nan), 0, math.nan)
    rounding = torch.finfo(logits.dtype).eps
    tolerance = max(tolerance, 4 * rounding)
    f = -0.5 * logits.logsumexp(1)
    done, error = 0, math.inf
    while True:
        matrix = (logits + f).add_(f[:, None]).exp_()
        u = torch.ones_like(f)
        while True:
            sums = u * (matrix @ u)
            error = float((sums - 1).abs().amax())  # NaN where a row is not representable
            if error <= tolerance or done >= max_iterations:
                return Balanced(matrix.mul_(u).mul_(u[:, None]), f + u.log(), done, error)
            done += 1
            step = sums.rsqrt()
            if not LOWEST < float(step.amin()) <= float((step * u).amax()) < 1 / LOWEST:
                break
            u = u * step
        f = f + u.log()
        f = f - 0.5 * ((logits + f).logsumexp(1) + f)


def sinkhorn_projection(scores: Tensor, eta: float, config: SinkhornConfig | None = None) -> Tensor:
    """Returns Γ (n, n) = argmin over doubly stochastic G of -⟨S, G⟩ + η Σ G log G.

    It is diag(u) exp(S/η) diag(u). The gradient is that of the converged matrix, for symmetric changes of S; nothing of
    the iterations is kept for it. Under autocast it is computed in float32.

    Args:
        scores: Symmetric S (n, n).
        eta: η, above 0.
        config: How; its ``absolute`` is applied to S here.
    """
    config = config or SinkhornConfig()
    with torch.autocast(scores.device.type, enabled=False):
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if config.absolute:
            scores = scores.abs()
        function = _Detached if config.detach else _Projection
        matrix: Tensor = function.apply(scores, eta, config.tolerance, config.max_iterations)
        return matrix


class _Detached(torch.autograd.Function):
    """Γ, and its derivative with constant potentials. Γ is kept as an output, so that second derivatives follow."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, eta: float, tolerance: float, max_iterations: int) -> Tensor:
        matrix = balance(scores, eta, tolerance, max_iterations).matrix
        ctx.save_for_backward(matrix)
        ctx.eta = eta
        return matrix

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (matrix,) = ctx.saved_tensors
        return grad * matrix / ctx.eta, None, None, None


class _Projection(_Detached):
    """Γ, and its derivative by the implicit function theorem: rows' sums stay 1 where the scores change."""

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (matrix,) = ctx.saved_tensors
        weighted = 0.5 * (grad + grad.T) * matrix
        # (I + Γ) a = (weighted 1): a is what the rows' potentials take back
        system = matrix + torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
        taken = torch.linalg.solve(system, weighted.sum(1))
        return (weighted - matrix * (taken[:, None] + taken)) / ctx.eta, None, None, None


def memberships(c: Tensor, eta: float, config: SinkhornConfig | None = None) -> Tensor:
    """Returns Γ (n, n) of cluster features.

    Args:
        c: Cluster features C (n, d), each of length 1.
        eta: η of :func:`sinkhorn_projection`.
        config: How it is computed.
    """
    with torch.autocast(c.device.type, enabled=False):
        c = c if c.dtype == torch.float64 else c.float()
        return sinkhorn_projection(c @ c.T, eta, config)


def row_perplexity(matrix: Tensor) -> Tensor:
    """Returns the mean over rows of exp(entropy), the effective number of points in a row of Γ (n, n)."""
    return torch.special.entr(matrix).sum(1).exp().mean()
