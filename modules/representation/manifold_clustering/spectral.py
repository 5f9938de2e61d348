"""Clusters of a graph of memberships, and a score of their number that needs no labels.

Paper: Ding et al. 2023, arXiv 2301.01805, Algorithm 1: spectral clustering (Ng, Jordan, Weiss 2001) of Γ.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np


class SpectralClusters(NamedTuple):
    """Clusters of a graph.

    Attributes:
        labels: Cluster of each point, int64 (n,).
        eigenvalues: The largest of D^-½ A D^-½, in decreasing order.
        gaps: By number of clusters k, λ_k - λ_{k+1}: how far k clusters are from more.
    """

    labels: np.ndarray
    eigenvalues: np.ndarray
    gaps: dict[int, float]

    @property
    def best_k(self) -> int:
        """The number of clusters with the largest gap."""
        return max(self.gaps, key=self.gaps.__getitem__, default=1)


def spectral_clustering(
    graph: np.ndarray, k: int | None, seed: int = 0, largest_k: int = 20, restarts: int = 10
) -> SpectralClusters:
    """Clusters the points of a graph by the eigenvectors of its normalised Laplacian.

    Rows of the first k eigenvectors, scaled to length 1, are grouped by k-means.

    Args:
        graph: Not negative (n, n); its symmetric part is used.
        k: Number of clusters, at most n of them are made; ``None`` for the one with the largest gap.
        seed: Of k-means.
        largest_k: Gaps are computed from 2 to this number.
        restarts: Of k-means.
    """
    from scipy.sparse.linalg import eigsh
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    n = len(graph)
    matrix = 0.5 * (graph + graph.T).astype(np.float64)
    scale = 1 / np.sqrt(np.maximum(matrix.sum(1), 1e-12))
    matrix *= scale[:, None] * scale
    wanted = min(n, max(k or 1, largest_k) + 1)
    if wanted < n - 1 and n > 100:
        start = np.random.default_rng(seed).uniform(0.5, 1.5, n)
        values, vectors = eigsh(matrix, wanted, which="LA", v0=start)
    else:
        values, vectors = np.linalg.eigh(matrix)
    order = np.argsort(-values)[:wanted]
    values, vectors = values[order], vectors[:, order]
    gaps = {size: float(values[size - 1] - values[size]) for size in range(2, min(largest_k + 1, len(values)))}
    found = SpectralClusters(np.zeros(n, np.int64), values, gaps)
    k = min(n, found.best_k if k is None else k)
    if k < 2:
        return found
    rows = vectors[:, :k]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters
        labels = KMeans(k, n_init=restarts, random_state=seed).fit_predict(rows)
    return found._replace(labels=labels.astype(np.int64))


def live_clusters(labels: np.ndarray, k: int, share: float = 0.1) -> tuple[int, list[int]]:
    """Returns how many clusters have at least ``share`` of n/k points, and the sizes of all k in decreasing order.

    Args:
        labels: Cluster of each point (n,), from 0 to k - 1.
        k: Number of clusters.
        share: Of the mean size.
    """
    sizes = np.bincount(labels, minlength=k)
    return int((sizes >= max(1.0, share * len(labels) / k)).sum()), sorted(sizes.tolist(), reverse=True)
