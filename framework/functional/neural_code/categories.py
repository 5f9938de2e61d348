"""What codes say about classes: K-means, K nearest neighbours and logistic regression, fitted to codes alone.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490 (settings
of the official code).
"""

from __future__ import annotations

import warnings

import numpy as np

from framework.errors import UserError
from framework.functional.neural_code.codes import Bytes, unpack_bits
from framework.settings import at_least, at_most

NEIGHBOURS = 9
KMEANS_SEED = 9
TILE = 1 << 15  # words of eight bytes that are compared at a time: 256 KiB, which a core's cache holds
TREE_BITS = 15  # up to this many features scikit-learn uses a tree, which breaks ties in an order of its own


def purity(clusters: np.ndarray, labels: np.ndarray) -> float:
    """Returns Σ_k max_c n_kc / n: clusters are labelled with their most frequent class, two may have the same.

    Args:
        clusters: Cluster of each example (N,).
        labels: Class of each, whole numbers (N,).
    """
    _, rows = np.unique(clusters, return_inverse=True)
    _, columns = np.unique(labels, return_inverse=True)
    counts = np.zeros((rows.max() + 1, columns.max() + 1), np.int64)
    np.add.at(counts, (rows, columns), 1)
    return float(counts.max(1).sum() / len(labels))


def kmeans_purity(codes: np.ndarray, labels: np.ndarray, clusters: int | None = None) -> float:
    """Returns the purity of K-means on codes, on the same examples that it is fitted to.

    Not comparable with accuracies of other clusterings after Hungarian matching, which give each class one cluster.

    Args:
        codes: Bits (N, D), D at least 1.
        labels: Classes (N,).
        clusters: K; by default the number of classes that occur.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    count = min(len(np.unique(labels)) if clusters is None else clusters, len(codes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct codes than clusters
        found = KMeans(count, n_init=10, random_state=KMEANS_SEED).fit_predict(codes)
    return purity(found, labels)


def hamming_counts(a: Bytes, b: Bytes) -> np.ndarray:
    """Returns the number of different bits of each pair of packed codes: int64 (N, M) for (N, bytes) and (M, bytes)."""
    first, second = _words(a), _words(b)
    found = np.empty((len(first), len(second)), np.int64)
    rows = max(1, TILE // max(1, second.shape[1]))
    both = np.empty((rows, second.shape[1]), np.uint64)
    ones = np.empty((rows, second.shape[1]), np.uint8)
    for start in range(0, len(second), rows):
        tile = second[start : start + rows]
        differing, counts = both[: len(tile)], ones[: len(tile)]
        for index, word in enumerate(first):
            np.bitwise_xor(tile, word, out=differing)
            np.bitwise_count(differing, out=counts)
            np.add.reduce(counts, axis=1, dtype=np.int64, out=found[index, start : start + rows])
    return found


def _words(packed: Bytes) -> np.ndarray:
    """Returns codes in words of eight bytes, filled up with zeros."""
    words = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), np.uint8)
    words[:, : packed.shape[1]] = packed
    return words.view(np.uint64)


def knn_classes(train: Bytes, labels: np.ndarray, codes: Bytes, bits: int, k: int = NEIGHBOURS) -> np.ndarray:
    """Returns the class of codes by their k nearest training codes: Hamming distance, each neighbour with one vote.

    The classes are those of scikit-learn's ``KNeighborsClassifier(k, metric="hamming")`` on the unpacked codes (uint8).
    That includes ties: neighbours at equal distance are chosen as ``numpy.argpartition`` does, and of classes with
    equally many votes the smallest is returned. Up to 15 bits scikit-learn uses a tree; there it is called itself.

    Args:
        train: Training codes, packed (N, bytes).
        labels: Their classes (N,).
        codes: Codes to classify, packed (M, bytes).
        bits: D.
        k: Number of neighbours.

    Returns:
        Classes (M,), of the type of ``labels``.

    Raises:
        UserError: there are fewer than k training codes.
    """
    at_least(1, k=k)
    at_most({"training codes": len(train)}, k=k)
    if bits <= TREE_BITS and k < len(train) // 2:
        from sklearn.neighbors import KNeighborsClassifier

        model = KNeighborsClassifier(k, metric="hamming").fit(unpack_bits(train, bits), labels)
        return model.predict(unpack_bits(codes, bits))
    classes, numbers = np.unique(labels, return_inverse=True)
    found = np.empty(len(codes), np.int64)
    rows = max(1, (1 << 24) // len(train))  # distances to hold at a time
    for start in range(0, len(codes), rows):
        counts = hamming_counts(codes[start : start + rows], train)
        nearest = np.argpartition(counts / bits, k - 1, axis=1)[:, :k]
        votes = np.zeros((len(counts), len(classes)), np.int64)
        np.add.at(votes, (np.arange(len(counts))[:, None], numbers[nearest]), 1)
        found[start : start + rows] = votes.argmax(1)
    return classes[found]


def logistic_classes(train: np.ndarray, labels: np.ndarray, codes: np.ndarray, max_iter: int = 1000) -> np.ndarray:
    """Returns the class of codes by logistic regression for each pair of classes (scikit-learn's, C = 1).

    Warns if the fit of any pair has not converged.

    Args:
        train: Bits of the training codes (N, D), D at least 1.
        labels: Their classes (N,).
        codes: Bits of the codes to classify (M, D).
        max_iter: Largest number of iterations of the solver; scikit-learn's default of 100 is too small for many bits.

    Raises:
        UserError: the number of iterations is below 1, or there is only one class.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsOneClassifier

    at_least(1, max_iter=max_iter)
    classes = np.unique(labels)
    if len(classes) < 2:
        raise UserError(f"labels: one class, {classes.tolist()}; logistic regression needs at least two")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = OneVsOneClassifier(LogisticRegression(max_iter=max_iter)).fit(train, labels)
    short = sum(int(pair.n_iter_[0]) >= max_iter for pair in model.estimators_)
    if short:
        warnings.warn(
            f"logistic regression: {short} of {len(model.estimators_)} pairs of classes have not converged in "
            f"{max_iter} iterations; accuracies change by less than 0.01 with more",
            stacklevel=2,
        )
    return model.predict(codes)
