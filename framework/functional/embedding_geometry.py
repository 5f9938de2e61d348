"""How far a representation moved, and how many dimensions it uses.

Paper: Tayebi Arasteh, Mohammadi, Nebelung, Truhn, 2026, "Differential privacy representation geometry for medical image
analysis", arXiv 2603.01098.

With embeddings z_i of N samples and z_i⁰ of the same samples at the start:

    displacement          Δ = (1/N) Σ_i |z_i - z_i⁰|²;  of unit vectors 2 - 2 mean cos(z_i, z_i⁰), in [0, 4]
    effective dimension   d = tr(Σ)² / (|Σ|_F² + 1e-12),  Σ = Z_cᵀ Z_c / N, Z_c centred:  in [1, D]

Δ is not aligned: a rotation counts as displacement. d is the participation ratio of the eigenvalues of Σ; it does not
change under rotation, shift and scale, but it depends on N (isotropic: D / (1 + D/N)) and is biased further in a
bootstrap (D / (1 + 2D/N)): compare at equal N, and keep the value of the sample itself beside the bootstrap's.
"""

from __future__ import annotations

import numpy as np

from framework.errors import UserError

_TINY = 1e-12
_ENTRIES = 2**24  # of the Gram matrix that is processed at once


def unit_rows(z: np.ndarray) -> np.ndarray:
    """Returns embeddings (N, D) divided by their norms, float64; rows of zeros stay zeros."""
    z = np.asarray(z, np.float64)
    norms = np.linalg.norm(z, axis=1, keepdims=True)
    return z / np.where(norms > 0, norms, 1.0)


def displacements(z: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Returns |z_i - z_i⁰|² of each sample, float64 (N,); their mean is Δ.

    Args:
        z: Embeddings (N, D).
        start: Embeddings of the same samples at the start (N, D).

    Raises:
        UserError: the shapes differ.
    """
    if np.shape(z) != np.shape(start):
        raise UserError(f"start: {np.shape(start)} is not accepted for embeddings {np.shape(z)}; the same shape")
    return np.square(np.asarray(z, np.float64) - np.asarray(start, np.float64)).sum(1)


def eigenvalues(z: np.ndarray) -> np.ndarray:
    """Returns the eigenvalues of Σ of embeddings (N, D) in descending order, float64 (D,)."""
    centred = np.asarray(z, np.float64)
    centred = centred - centred.mean(0)
    return np.clip(np.linalg.eigvalsh(centred.T @ centred / len(centred))[::-1], 0.0, None)


def effective_dimension(spectrum: np.ndarray) -> float:
    """Returns the participation ratio d of eigenvalues (D,); 0 where all are 0."""
    return float(spectrum.sum() ** 2 / (np.square(spectrum).sum() + _TINY))


def resampled_dimensions(z: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Returns the effective dimension of each resample, float64 (R,).

    tr(Σ) and |Σ|_F² of a resample are polynomials in how often each sample occurs, whose coefficients are the squares
    of the Gram matrix: no matrix of a resample is formed.

    Args:
        z: Embeddings (N, D).
        counts: How often each sample occurs in each resample (R, N).
    """
    z = np.asarray(z, np.float64)
    z = z - z.mean(0)  # not of the resample: it keeps the numbers small
    shares = counts / counts.sum(1, keepdims=True)
    means = shares @ z
    squares = np.zeros(len(counts))
    rows = max(1, _ENTRIES // len(z))
    for first in range(0, len(z), rows):
        part = slice(first, first + rows)
        squares += ((shares[:, part] @ np.square(z[part] @ z.T)) * shares).sum(1)
    along = (shares * np.square(means @ z.T)).sum(1)
    norms = np.square(means).sum(1)
    trace = shares @ np.square(z).sum(1) - norms
    frobenius = np.clip(squares - 2 * along + norms**2, 0.0, None)
    return trace**2 / (frobenius + _TINY)
