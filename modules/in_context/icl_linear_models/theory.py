"""The gradient flow of a linear attention layer, its limit, and the limit's errors.

Equation and theorem numbers are those of Zhang, Frei, Bartlett 2024 (arXiv 2306.09927). Everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.integrate import solve_ivp
from torch import Tensor

from framework.settings import above, at_least, finite, finite_entries
from modules.in_context.predictors import solve_symmetric


def gamma(cov: Tensor, length: int) -> Tensor:
    """Returns Γ = (1 + 1/N) Λ + tr(Λ)/N I, (…, d, d).

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length)
    trace = cov.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
    return (1 + 1 / length) * cov + trace / length * torch.eye(cov.shape[-1], dtype=cov.dtype)


def population_loss(u: Tensor, key_query: Tensor, cov: Tensor, length: int) -> Tensor:
    """Returns L(U, u) = ½ u² tr(Γ Λ U Λ Uᵀ) − u tr(Λ² Uᵀ) + ½ tr Λ.

    Args:
        u: ().
        key_query: U (d, d).
        cov: Λ (d, d).
        length: N, examples in a prompt.

    Returns:
        ().
    """
    inner = gamma(cov, length) @ cov @ key_query @ cov
    quadratic = 0.5 * u**2 * (inner * key_query).sum()
    return quadratic - u * (cov @ cov * key_query).sum() + 0.5 * cov.trace()


def velocity(u: float, key_query: np.ndarray, cov: np.ndarray, length: int) -> tuple[float, np.ndarray]:
    """du/dt and dU/dt of gradient flow (Lemma 5.3 in the paper's proof).

    Args:
        u: As in :func:`population_loss`.
        key_query: U (d, d).
        cov: Λ (d, d).
        length: N, examples in a prompt.

    Returns:
        A number and (d, d).
    """
    g = gamma(torch.as_tensor(cov), length).numpy()
    inner = g @ cov @ key_query @ cov
    square = cov @ cov
    return -float((u * inner * key_query - square * key_query).sum()), -(u**2) * inner + u * square


class LinearFlow(NamedTuple):
    """``time`` (R,), ``u`` (R,), ``key_query`` (R, d, d), ``loss`` (R,)."""

    time: np.ndarray
    u: np.ndarray
    key_query: np.ndarray
    loss: np.ndarray


def balanced_start(dim: int, sigma: float, generator: torch.Generator) -> Tensor:
    """Returns σ Θ Θᵀ = σ M Mᵀ/‖M Mᵀ‖_F, M Gaussian (Assumption 3.3).

    Args:
        dim: d.
        sigma: σ.
        generator: Source of randomness.

    Returns:
        (d, d), float64.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim)
    above(0, sigma=sigma)
    m = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    product = m @ m.T
    return sigma * product / product.norm()


def gradient_flow(cov: Tensor, length: int, start: Tensor, u0: float, end: float, points: int = 200) -> LinearFlow:
    """Integrates gradient flow on the population loss by LSODA at a relative tolerance of 1e-10.

    Args:
        cov: Λ (d, d).
        length: N.
        start: U(0) (d, d).
        u0: u(0).
        end: Time to stop at.
        points: R.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length)
    at_least(2, points=points)
    above(0, end=end)
    finite(u0=u0)
    finite_entries(cov=cov, start=start)
    dim, matrix = len(cov), cov.numpy()

    def slope(_: float, state: np.ndarray) -> np.ndarray:
        du, dkq = velocity(state[0], state[1:].reshape(dim, dim), matrix, length)
        return np.concatenate([[du], dkq.ravel()])

    time = np.concatenate([[0.0], np.geomspace(end * 1e-4, end, points - 1)])
    begin = np.concatenate([[u0], start.numpy().ravel()])
    found = solve_ivp(slope, (0, end), begin, t_eval=time, method="LSODA", rtol=1e-10, atol=1e-13)
    u, key_query = found.y[0], found.y[1:].T.reshape(-1, dim, dim)
    loss = [
        float(population_loss(torch.tensor(a), torch.tensor(b), cov, length)) for a, b in zip(u, key_query, strict=True)
    ]
    return LinearFlow(found.t, u, key_query, np.array(loss))


def limit(cov: Tensor, length: int) -> tuple[Tensor, float]:
    """U_∞ = tr(Γ⁻²)^(−1/4) Γ⁻¹ and u_∞ = tr(Γ⁻²)^(1/4) (Theorem 4.1).

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(cov=cov)
    above(0, **{"trace of cov": float(cov.trace())})
    inverse = torch.linalg.inv(gamma(cov, length))
    size = float((inverse * inverse).sum()) ** 0.25
    return inverse / size, size


def limit_loss(cov: Tensor, length: int) -> float:
    """Returns ½ tr Λ − ½ tr(Λ² Γ⁻¹), the loss there.

    Raises:
        UserError: an argument is not accepted.
    """
    finite_entries(cov=cov)
    above(0, **{"trace of cov": float(cov.trace())})
    return float(0.5 * cov.trace() - 0.5 * (cov @ cov @ torch.linalg.inv(gamma(cov, length))).trace())


def readout_risk(
    readout: Tensor,
    length: int,
    cov: Tensor,
    query_cov: Tensor | None = None,
    second_moment: Tensor | None = None,
    noise: float = 0.0,
) -> float:
    """Returns E (ŷ − ⟨w, x_q⟩)² of ŷ = ((1/M) Σ y_i x_i)ᵀ A x_q, exact for Gaussian x.

    R = tr(W [Q − Λ A Λ_q − Λ_q Aᵀ Λ + Λ_q]) + σ²/M tr(Λ A Λ_q Aᵀ),
    Q = (1 + 1/M) Λ A Λ_q Aᵀ Λ + tr(A Λ_q Aᵀ Λ)/M Λ.

    Args:
        readout: A (d, d).
        length: M.
        cov: Λ of the examples.
        query_cov: Λ_q of the query; by default Λ.
        second_moment: W = E w wᵀ; by default I.
        noise: σ² of the examples' labels.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length)
    at_least(0, noise=noise)
    other = cov if query_cov is None else query_cov
    w = torch.eye(len(cov), dtype=cov.dtype) if second_moment is None else second_moment
    middle = readout @ other @ readout.T
    q = (1 + 1 / length) * cov @ middle @ cov + (middle @ cov).trace() / length * cov
    mixed = cov @ readout @ other
    found = (w @ (q - mixed - mixed.T + other)).trace() + noise / length * (cov @ middle).trace()
    return float(found)


def theorem_risk(cov: Tensor, length: int, test_length: int, w: Tensor) -> float:
    """Returns E (ŷ − y)² of the limit for y = ⟨w, x⟩ (Theorem 4.2).

    (1/M) tr(Σ Γ⁻² Λ) + (1/N²) [|w|²_(Γ⁻²Λ³) + 2 tr(Λ) |w|²_(Γ⁻²Λ²) + tr(Λ)² |w|²_(Γ⁻²Λ)], Σ = Cov(y x)
    = Λ w wᵀ Λ + ⟨w, Λ w⟩ Λ.

    Args:
        cov: Λ (d, d).
        length: N, of training.
        test_length: M.
        w: The task (d,).

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length, test_length=test_length)
    finite_entries(cov=cov)
    above(0, **{"trace of cov": float(cov.trace())})
    square = torch.linalg.matrix_power(torch.linalg.inv(gamma(cov, length)), 2)
    spread = torch.outer(cov @ w, cov @ w) + (w @ cov @ w) * cov
    trace = float(cov.trace())

    def norm(power: int) -> float:
        return float(w @ square @ torch.linalg.matrix_power(cov, power) @ w)

    rest = norm(3) + 2 * trace * norm(2) + trace**2 * norm(1)
    return float((spread @ square @ cov).trace()) / test_length + rest / length**2


def random_spectrum_gain(dim: int, length: int, moments: Sequence[float]) -> float:
    """b of the limit b I where each prompt draws a diagonal Λ with independent entries of one law (Theorem 4.5).

    B = (E[Γ Λ²])⁻¹ E[Λ²]; with moments m₁, m₂, m₃ of an entry b = m₂ / ((1 + 1/N) m₃ + (m₃ + (d − 1) m₁ m₂)/N).

    Args:
        dim: d.
        length: N, examples in a prompt.
        moments: m₁, m₂, m₃.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=length)
    above(0, moments=list(moments))
    m1, m2, m3 = moments
    return m2 / ((1 + 1 / length) * m3 + (m3 + (dim - 1) * m1 * m2) / length)


def random_spectrum_risk(gain: float, dim: int, length: float, moments: Sequence[float]) -> float:
    """Returns E (ŷ − ⟨w, x_q⟩)² of ŷ = b ((1/M) Σ y_i x_i)ᵀ x_q under such a law, w ~ N(0, I).

    For a fixed Λ this is Σ_j [b² ((1 + 1/M) λ_j³ + λ_j Σ_k λ_k²/M) − 2 b λ_j² + λ_j]; here its mean.

    Args:
        gain: b.
        dim: d.
        length: M, examples in a prompt; may be infinite.
        moments: m₁, m₂, m₃.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, dim=dim, length=None if length == math.inf else length)
    finite(gain=gain, moments=list(moments))
    m1, m2, m3 = moments
    mixed = m3 + (dim - 1) * m1 * m2
    return dim * (gain**2 * ((1 + 1 / length) * m3 + mixed / length) - 2 * gain * m2 + m1)


def best_readout(rows: ArrayLike, length: int) -> Tensor:
    """Returns A* = ((1 − 1/N) Λ² + (1/N) E[x xᵀ x xᵀ])⁻¹ Λ for x of any law with mean 0, here that of ``rows`` (n, d).

    It minimises the expected squared error over readouts for w ~ N(0, I); Γ⁻¹ if x is Gaussian.

    Raises:
        UserError: an argument is not accepted.
    """
    at_least(1, length=length)
    x = torch.as_tensor(np.asarray(rows), dtype=torch.float64)
    cov = x.T @ x / len(x)
    finite_entries(rows=x)
    fourth = (x * x.square().sum(1, keepdim=True)).T @ x / len(x)
    return solve_symmetric((1 - 1 / length) * cov @ cov + fourth / length, cov)
