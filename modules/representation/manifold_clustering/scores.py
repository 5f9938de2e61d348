"""Scores of clusters against classes, and of the geometry of features.

Paper: Ding et al. 2023, arXiv 2301.01805, Section 4: accuracy by the best matching of clusters and classes, normalised
mutual information, and numerical ranks.
"""

from __future__ import annotations

import numpy as np


def matched_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Returns the share of points that the best one-to-one matching of clusters and classes has right.

    Args:
        labels: Classes (n,), of any numbers.
        clusters: Clusters (n,); there may be more or fewer of them than classes.
    """
    from scipy.optimize import linear_sum_assignment

    (found, cluster), (names, label) = (np.unique(part, return_inverse=True) for part in (clusters, labels))
    counts = np.zeros((len(found), len(names)), np.int64)
    np.add.at(counts, (cluster, label), 1)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    return float(counts[rows, columns].sum() / len(labels))


def cluster_scores(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Returns ``accuracy`` (:func:`matched_accuracy`), ``nmi`` (arithmetic mean) and ``ari`` of clusters (n,)."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "accuracy": matched_accuracy(labels, clusters),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
        "ari": float(adjusted_rand_score(labels, clusters)),
    }


def numerical_rank(w: np.ndarray, share: float = 0.95) -> int:
    """Returns the smallest r for which the r largest σ² of W (n, d) are more than ``share`` of their sum.

    W is not centred. A matrix of zeros has rank 0.
    """
    squares = np.linalg.svd(np.asarray(w, np.float64), compute_uv=False) ** 2
    if not squares.sum():
        return 0
    return int(np.argmax(np.cumsum(squares) > share * squares.sum())) + 1


def geometry(z: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns numbers of the subspaces of features.

    Args:
        z: Features (n, d), each of length 1.
        labels: Class or cluster of each (n,).

    Returns:
        ``rank`` of all features and ``class_rank``, mean over classes; ``cosine_within`` and ``cosine_between``, means
        of |z_iᵀ z_j| over pairs of different points of one class and of two.
    """
    names = np.unique(labels)
    cosines = np.abs(z @ z.T)
    same = labels[:, None] == labels
    others = ~np.eye(len(z), dtype=bool)
    within, between = same & others, ~same
    return {
        "rank": float(numerical_rank(z)),
        "class_rank": float(np.mean([numerical_rank(z[labels == name]) for name in names])),
        "cosine_within": float(cosines[within].mean()) if within.any() else float("nan"),
        "cosine_between": float(cosines[between].mean()) if between.any() else float("nan"),
    }
