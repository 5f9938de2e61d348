"""Purity, K-means, nearest neighbours and logistic regression against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics.cluster import contingency_matrix
from sklearn.multiclass import OneVsOneClassifier
from sklearn.neighbors import KNeighborsClassifier

from framework.errors import UserError
from framework.functional.neural_code import hamming_counts, kmeans_purity, knn_classes, logistic_classes, purity


def codes_and_labels(rng, examples, bits, classes=5):
    labels = rng.integers(0, classes, examples)
    chances = np.random.default_rng(7).random((classes, bits))
    return (rng.random((examples, bits)) < chances[labels]).astype(np.uint8), labels


def packed(codes):
    return np.packbits(codes, axis=1)


def test_purity_is_that_of_the_contingency_matrix():
    """Check 5."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        labels, clusters = rng.integers(3, 8, 200), rng.integers(-2, 4, 200)
        assert purity(clusters, labels) == contingency_matrix(labels, clusters).max(0).sum() / 200
        assert purity(clusters, labels) >= np.bincount(labels).max() / 200
    assert purity(np.array([0, 0, 1, 1, 2]), np.array([1, 1, 1, 1, 0])) == 1  # two clusters of one class


def test_kmeans():
    codes, labels = codes_and_labels(np.random.default_rng(0), 300, 40)
    clusters = KMeans(5, n_init=10, random_state=9).fit_predict(codes)
    assert kmeans_purity(codes, labels) == purity(clusters, labels) > 0.9
    assert kmeans_purity(np.zeros((6, 3), np.uint8), np.array([0, 1, 1, 2, 1, 1])) == 4 / 6


@pytest.mark.parametrize("bits", [3, 8, 15, 16, 20, 33, 100, 700])
def test_neighbours_are_scikit_learns_ties_and_all(bits):
    """Check 7: few bits have many equal distances, at the border of the neighbours and in the votes."""
    rng = np.random.default_rng(bits)
    train, labels = rng.integers(0, 2, (600, bits), dtype=np.uint8), rng.integers(0, 10, 600) * 3
    codes = rng.integers(0, 2, (300, bits), dtype=np.uint8)
    expected = KNeighborsClassifier(9, metric="hamming").fit(train, labels).predict(codes)
    assert np.array_equal(knn_classes(packed(train), labels, packed(codes), bits), expected)
    counts = hamming_counts(packed(codes), packed(train))
    assert np.array_equal(counts, (codes[:, None] != train[None]).sum(-1))
    nearest = np.sort(counts, 1)
    assert (nearest[:, 8] == nearest[:, 9]).mean() > 0.1


def test_few_training_codes_and_many_tiles(monkeypatch):
    rng = np.random.default_rng(0)
    train, labels = rng.integers(0, 2, (11, 5), dtype=np.uint8), rng.integers(0, 3, 11)
    expected = KNeighborsClassifier(9, metric="hamming").fit(train, labels).predict(train)
    assert np.array_equal(knn_classes(packed(train), labels, packed(train), 5), expected)
    monkeypatch.setattr("framework.functional.neural_code.categories.TILE", 7)
    codes = rng.integers(0, 2, (30, 200), dtype=np.uint8)
    assert np.array_equal(hamming_counts(packed(codes), packed(codes)), (codes[:, None] != codes[None]).sum(-1))
    with pytest.raises(UserError, match=r"k: 9 is not accepted; at most 8 \(training codes\)"):
        knn_classes(packed(train[:8]), labels[:8], packed(train), 5)


def test_logistic_regression_is_scikit_learns():
    """Check 7."""
    rng = np.random.default_rng(0)
    (train, labels), (codes, _) = codes_and_labels(rng, 300, 30), codes_and_labels(rng, 200, 30)
    expected = OneVsOneClassifier(LogisticRegression(max_iter=1000)).fit(train, labels).predict(codes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(logistic_classes(train, labels, codes), expected)
    with pytest.warns(UserWarning, match="10 of 10 pairs of classes have not converged in 2 iterations"):
        logistic_classes(train, labels, codes, max_iter=2)
    with pytest.raises(UserError, match=r"labels: one class, \[1\]"):
        logistic_classes(train, np.ones(300, int), codes)
