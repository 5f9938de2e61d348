"""Max-margin readouts on supports of binary concepts, what the paper proves of them, and separability.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (Propositions 1, 2, 3 and 4).
"""

from __future__ import annotations

import math
from itertools import product

import numpy as np

from framework.errors import UserError
from framework.settings import at_least, at_most


def grid_labels(sizes: tuple[int, ...] | list[int]) -> np.ndarray:
    """Returns every combination of values (Π n_i, k), the last concept fastest.

    Args:
        sizes: Number of values of each concept.

    Raises:
        UserError: a number is below 1.
    """
    at_least(1, sizes=list(sizes))
    return np.array(list(product(*map(range, sizes))))


def orthogonal_grid(concepts: int, dimension: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Returns embeddings (2^k, d) that are sums of orthogonal factors of unequal lengths, and their differences.

    Args:
        concepts: k.
        dimension: d, at least k.
        generator: Source of randomness.

    Returns:
        The embeddings in the order of :func:`grid_labels`, and D (k, d), D_i = u_{i,1} − u_{i,0}.

    Raises:
        UserError: d is below k.
    """
    at_least(1, concepts=concepts)
    at_least({"concepts": concepts}, dimension=dimension)
    frame, _ = np.linalg.qr(generator.normal(size=(dimension, concepts)))
    differences = frame.T * generator.uniform(0.5, 2, (concepts, 1))
    labels = grid_labels([2] * concepts)
    return generator.normal(size=dimension) + (labels - 0.5) @ differences, differences


def random_support(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Returns 2^{k−1} + 1 random positions of a binary grid (2^k, k): for each concept two of them differ in it alone.

    Args:
        labels: The grid.
        generator: Source of randomness.
    """
    return np.sort(generator.permutation(len(labels))[: len(labels) // 2 + 1])


def cross_support(labels: np.ndarray, base: int) -> np.ndarray:
    """Returns the positions of one combination of a binary grid and of the k that differ from it in one concept.

    Args:
        labels: The grid (2^k, k).
        base: Position of the combination.

    Raises:
        UserError: there is no such position.
    """
    at_least(0, base=base)
    at_most({"the last position": len(labels) - 1}, base=base)
    return np.flatnonzero((labels != labels[base]).sum(1) <= 1)


def max_margin_readouts(z: np.ndarray, labels: np.ndarray, hardness: float = 1e6) -> tuple[np.ndarray, np.ndarray]:
    """Returns the hard-margin readouts of binary concepts, the limit of gradient descent on the cross-entropy.

    Args:
        z: Embeddings of the support (N, d).
        labels: 0 and 1 (N, k), both of each concept.
        hardness: C of scikit-learn's SVC.

    Returns:
        w (k, d) and b (k,): value 1 where wᵀz + b > 0.

    Raises:
        UserError: a concept has one value only in the support.
    """
    from sklearn.svm import SVC

    found = []
    for concept, column in enumerate(labels.T):
        if len(np.unique(column)) != 2:
            raise UserError(f"labels: concept {concept} has one value only in this support")
        found.append(SVC(kernel="linear", C=hardness, tol=1e-5).fit(z, column))
    return np.stack([svm.coef_[0] for svm in found]), np.array([svm.intercept_[0] for svm in found])


def expected_readouts(differences: np.ndarray) -> np.ndarray:
    """Returns 2 D_i / |D_i|² (k, d), the readouts of an orthogonal factorised grid for every valid support."""
    return 2 * differences / np.square(differences).sum(1, keepdims=True)


def separable(z: np.ndarray, y: np.ndarray) -> bool:
    """Returns whether a hyperplane separates two classes, by linear programming.

    Args:
        z: Points (N, d).
        y: 0 and 1 (N,).
    """
    from scipy.optimize import linprog

    sign = np.where(np.asarray(y) > 0, 1.0, -1.0)[:, None]
    rows = -sign * np.concatenate([z, np.ones((len(z), 1))], 1)  # sign (wᵀz + b) ≥ 1
    found = linprog(np.zeros(rows.shape[1]), A_ub=rows, b_ub=-np.ones(len(z)), bounds=(None, None), method="highs")
    return bool(found.status == 0)


def most_cells(hyperplanes: int, dimension: int) -> int:
    """Returns Σ_{i ≤ d} C(k, i), the largest number of cells that k hyperplanes have in d dimensions.

    Below 2^k, for d < k, no readouts of k binary concepts have a cell for every combination (Proposition 3).

    Args:
        hyperplanes: k.
        dimension: d.

    Raises:
        UserError: a number is negative.
    """
    at_least(0, hyperplanes=hyperplanes, dimension=dimension)
    return sum(math.comb(hyperplanes, i) for i in range(min(hyperplanes, dimension) + 1))
