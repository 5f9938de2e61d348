"""Clusterings to compare with: k-means, spectral clustering of neighbours, and sparse subspace clustering."""

from __future__ import annotations

import numpy as np

from modules.representation.manifold_clustering.spectral import spectral_clustering


def k_means(x: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Returns clusters (n,) of points by k-means with 10 restarts.

    Args:
        x: Points (n, d).
        k: Number of clusters.
        seed: Of the restarts.
    """
    from sklearn.cluster import KMeans

    return KMeans(k, n_init=10, random_state=seed).fit_predict(x.reshape(len(x), -1)).astype(np.int64)


def neighbour_spectral(x: np.ndarray, k: int, neighbours: int = 10, seed: int = 0) -> np.ndarray:
    """Returns clusters (n,) of points by spectral clustering of the graph of nearest neighbours.

    Args:
        x: Points (n, d).
        k: Number of clusters.
        neighbours: Neighbours of a point, itself included.
        seed: Of k-means.
    """
    from sklearn.neighbors import kneighbors_graph

    points = x.reshape(len(x), -1)
    graph = kneighbors_graph(points, min(neighbours, len(x) - 1), include_self=True).toarray()
    return spectral_clustering(graph, k, seed).labels


def ssc_omp(x: np.ndarray, k: int, nonzeros: int = 3, seed: int = 0) -> np.ndarray:
    """Returns clusters (n,) of points (n, d) by sparse subspace clustering with orthogonal matching pursuit.

    You, Robinson, Vidal 2016, "Scalable Sparse Subspace Clustering by Orthogonal Matching Pursuit", arXiv 1507.01238:
    each point as a combination of few others, then spectral clustering of |C| + |C|ᵀ. All points take their steps
    together.

    Args:
        x: Points.
        k: Number of clusters.
        nonzeros: Points in a combination; with more than the subspaces' dimensions noise is combined too.
        seed: Of k-means.
    """
    points = x.reshape(len(x), -1).astype(np.float64)
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    n = len(points)
    steps = min(nonzeros, n - 1)
    chosen = np.zeros((n, steps), np.int64)
    residuals, weights = points.copy(), np.zeros((n, 0))
    rows = np.arange(n)
    for step in range(steps):
        similar = np.abs(residuals @ points.T)
        similar[rows, rows] = -1
        np.put_along_axis(similar, chosen[:, :step], -1, 1)
        chosen[:, step] = similar.argmax(1)
        basis = points[chosen[:, : step + 1]]  # (n, step + 1, d)
        gram = basis @ basis.transpose(0, 2, 1) + 1e-10 * np.eye(step + 1)
        weights = np.linalg.solve(gram, (basis @ points[:, :, None]))[:, :, 0]
        residuals = points - np.einsum("ns,nsd->nd", weights, basis)
    graph = np.zeros((n, n))
    graph[rows[:, None], chosen] = np.abs(weights)
    return spectral_clustering(graph, k, seed).labels
