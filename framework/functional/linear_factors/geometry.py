"""Scores of the geometry that compositional generalisation requires: additive, orthogonal, of low rank.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (linearity score, its projected and whitened forms, orthogonality, rank; the
per-concept score is of the official code).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.functional.linear_factors.factors import Factors, Recovery, checked, index_values, recover_factors
from framework.settings import above, between

SPAN = 1e-6  # smallest singular value of a probe direction
RANK = 1e-10  # smallest variance that is whitened, relative to the largest


def _placed(z: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """As ``checked``, with the first embedding at 0: no score depends on the place, and equal ones are exactly 0."""
    z, labels = checked(z, labels)
    return (z - z[0] if z[0].any() else z), labels


def _r2(z: np.ndarray, fitted: np.ndarray) -> float:
    total = np.square(z - z.mean(0)).sum()
    return float(1 - np.square(z - fitted).sum() / total) if total > 0 else float("nan")


def linearity_r2(z: Any, labels: Any, method: Recovery = "auto") -> float:
    """Returns R² = 1 − Σ|z − Σ_i u_{i,c_i}|² / Σ|z − z̄|²; NaN if all embeddings are equal.

    Args:
        z: Embeddings (N, d).
        labels: (N, k).
        method: As in :func:`~framework.functional.linear_factors.recover_factors`.

    Raises:
        UserError: the shapes do not fit, or a number is not finite.
    """
    z, labels = _placed(z, labels)
    return _r2(z, recover_factors(z, labels, method).sums(labels))


def probe_basis(weights: Any, least: float = SPAN) -> np.ndarray:
    """Returns an orthonormal basis B (d, r) of the span of probes' weight rows (m, d).

    Args:
        weights: Rows of all concepts.
        least: Directions with smaller singular values are left out.

    Raises:
        UserError: the weights have another form, or none is that large.
    """
    above(0, least=least)
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or not np.isfinite(weights).all():
        raise UserError(f"weights: shape {weights.shape} is not accepted; finite numbers (m, d)")
    _, values, rows = np.linalg.svd(weights, full_matrices=False)
    if not (values > least).any():
        raise UserError(f"weights: no singular value above {least:g}, so that they span nothing")
    return rows[values > least].T


def _projected(z: np.ndarray, weights: Any) -> np.ndarray:
    basis = probe_basis(weights)
    if len(basis) != z.shape[1]:
        raise UserError(f"weights: rows of {len(basis)} dimensions do not fit embeddings of {z.shape[1]}")
    return z @ basis


def projected_r2(z: Any, labels: Any, weights: Any, method: Recovery = "auto") -> float:
    """Returns the linearity score of the embeddings in the span of the probes.

    Args:
        z: Embeddings (N, d).
        labels: (N, k).
        weights: Rows of the probes of all concepts (m, d).
        method: As in :func:`linearity_r2`.

    Raises:
        UserError: as :func:`linearity_r2` and :func:`probe_basis`.
    """
    z, labels = _placed(z, labels)
    return linearity_r2(_projected(z, weights), labels, method)


def whitened_r2(z: Any, labels: Any, weights: Any = None, method: Recovery = "auto", rank: float = RANK) -> float:
    """Returns the score of PCA-whitened embeddings in the span of the probes, the paper's headline.

    Embeddings and sums are mapped by the same matrix. Any invertible map of the span leaves it as it is. The official
    code adds 1e-9 to every variance, and so blows up directions without data; here those are left out.

    Args:
        z: Embeddings (N, d).
        labels: (N, k).
        weights: Rows of the probes (m, d); without them all of the space, which noise dominates if d is large.
        method: As in :func:`linearity_r2`.
        rank: Smallest variance that is whitened, relative to the largest.

    Raises:
        UserError: as :func:`linearity_r2` and :func:`probe_basis`.
    """
    between(0, 1, "()", rank=rank)
    z, labels = _placed(z, labels)
    z = z - z.mean(0)
    if weights is not None:
        z = _projected(z, weights)
    fitted = recover_factors(z, labels, method).sums(labels)
    variances, axes = np.linalg.eigh(z.T @ z / max(1, len(z) - 1))
    kept = variances > rank * variances[-1]
    if variances[-1] <= 0:
        return float("nan")
    white = axes[:, kept] / np.sqrt(variances[kept])
    return _r2(z @ white, fitted @ white)


def concept_r2(z: Any, labels: Any, weights: Any) -> np.ndarray:
    """Returns for each concept (k,) the score of its own means alone, in the span of its own probe.

    NaN where that probe spans nothing, as that of a concept with one value.

    Args:
        z: Embeddings (N, d).
        labels: (N, k).
        weights: Of each concept the rows of its probe (n_i, d).

    Raises:
        UserError: as :func:`linearity_r2`, or there are not the weights of each concept.
    """
    z, labels = _placed(z, labels)
    weights = [np.asarray(rows, dtype=np.float64) for rows in weights]
    if len(weights) != labels.shape[1]:
        raise UserError(f"weights: {len(weights)} probes do not fit {labels.shape[1]} concepts")
    found = np.full(len(weights), np.nan)
    for i, rows in enumerate(weights):
        if np.linalg.norm(rows) > SPAN:
            found[i] = projected_r2(z, labels[:, [i]], rows, "means")
    return found


def _least(factors: Factors) -> float:
    """The length up to which a factor is what rounding leaves of 0."""
    return 1e-12 * max(float(np.linalg.norm(part, axis=1).max()) for part in factors.vectors)


def orthogonality(factors: Factors) -> np.ndarray:
    """Returns mean |cos| between the factors of two concepts (k, k); on the diagonal between different values of one.

    A concept with two values has 1 on the diagonal. Factors of length 0 are left out; NaN if none is left.
    """
    lengths = [np.linalg.norm(part, axis=1) for part in factors.vectors]
    least = _least(factors)
    units = [
        part[length > least] / length[length > least, None]
        for part, length in zip(factors.vectors, lengths, strict=True)
    ]
    found = np.full((len(units),) * 2, np.nan)
    for i, first in enumerate(units):
        for j, second in enumerate(units):
            cosines = np.abs(first @ second.T)
            if i == j:
                cosines = cosines[~np.eye(len(first), dtype=bool)]
            if cosines.size:
                found[i, j] = cosines.mean()
    return found


def effective_ranks(factors: Factors, share: float = 0.95) -> tuple[int, ...]:
    """Returns for each concept the number of singular directions of its factors that hold ``share`` of their squares.

    It is 0 for a concept that the embeddings do not depend on.

    Args:
        factors: The factors.
        share: Of the sum of squares; 0.95 in the paper (k95).

    Raises:
        UserError: the share is not between 0 and 1.
    """
    between(0, 1, "(]", share=share)
    found, least = [], _least(factors)
    for part in factors.vectors:
        energy = np.cumsum(np.square(np.linalg.svd(part, compute_uv=False)))
        reached = energy >= share * energy[-1] * (1 - 1e-12)
        found.append(int(np.argmax(reached)) + 1 if energy[-1] > least**2 * len(part) else 0)
    return tuple(found)


@dataclass(frozen=True)
class Geometry:
    """All scores of one set of embeddings.

    Attributes:
        r2: Linearity score in the whole space.
        r2_projected: In the span of the probes; NaN without probes.
        r2_whitened: Whitened, in that span; NaN without probes.
        concept_r2: Of each concept, in the span of its own probe (k,); NaN without probes.
        orthogonality: Mean |cos| between concepts, and within on the diagonal (k, k).
        ranks: k95 of each concept.
        sizes: Number of values of each concept.
        identified: Whether the data determine the factors.
    """

    r2: float
    r2_projected: float
    r2_whitened: float
    concept_r2: np.ndarray
    orthogonality: np.ndarray
    ranks: tuple[int, ...]
    sizes: tuple[int, ...]
    identified: bool

    @property
    def cross(self) -> float:
        """Mean |cos| over all pairs of different concepts; NaN for one concept."""
        apart = self.orthogonality[~np.eye(len(self.sizes), dtype=bool)]
        return float(apart[~np.isnan(apart)].mean()) if (~np.isnan(apart)).any() else float("nan")

    @property
    def within(self) -> float:
        """Mean over concepts of |cos| between different values of one; NaN if no concept has two."""
        own = np.diag(self.orthogonality)
        return float(own[~np.isnan(own)].mean()) if (~np.isnan(own)).any() else float("nan")

    def scores(self) -> dict[str, float]:
        """Returns the numbers to log: ``r2``, ``r2_projected``, ``r2_whitened``, ``cross``, ``within`` and ``k95``, the
        mean of k95/n_i over concepts with more than one value; those that are NaN are left out."""
        ratios = [rank / size for rank, size in zip(self.ranks, self.sizes, strict=True) if size > 1]
        ratio = float(np.mean(ratios)) if ratios else float("nan")
        found = {
            "r2": self.r2,
            "r2_projected": self.r2_projected,
            "r2_whitened": self.r2_whitened,
            "cross": self.cross,
            "within": self.within,
            "k95": ratio,
        }
        return {name: value for name, value in found.items() if value == value}


def measure_geometry(z: Any, labels: Any, weights: Any = None, method: Recovery = "auto") -> Geometry:
    """Measures embeddings.

    Args:
        z: Embeddings (N, d).
        labels: (N, k).
        weights: Of each concept the rows of its probe (n_i, d).
        method: As in :func:`~framework.functional.linear_factors.recover_factors`.

    Raises:
        UserError: the shapes do not fit, a number is not finite, or the probes span nothing.
    """
    z, labels = _placed(z, labels)
    factors = recover_factors(z, labels, method)
    nan = float("nan")
    projected, whitened, own = nan, nan, np.full(labels.shape[1], nan)
    if weights is not None:
        weights = [np.asarray(rows, dtype=np.float64) for rows in weights]
        rows = np.concatenate(weights)
        projected, whitened = projected_r2(z, labels, rows, method), whitened_r2(z, labels, rows, method)
        own = concept_r2(z, labels, weights)
    return Geometry(
        _r2(z, factors.sums(labels)),
        projected,
        whitened,
        own,
        orthogonality(factors),
        effective_ranks(factors),
        tuple(len(ids) for ids in index_values(labels)[1]),
        factors.identified,
    )
