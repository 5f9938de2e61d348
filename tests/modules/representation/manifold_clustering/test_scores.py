"""Accuracy by matching, ranks and cosines on known cases."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from modules.representation.manifold_clustering.scores import (
    cluster_scores,
    geometry,
    matched_accuracy,
    numerical_rank,
)


def test_accuracy_does_not_depend_on_the_clusters_names():
    draw = np.random.default_rng(0)
    labels, clusters = draw.integers(0, 5, 200), draw.integers(0, 5, 200)
    expected = cluster_scores(labels, clusters)
    for _ in range(5):
        names = draw.permutation(5)
        assert cluster_scores(labels, names[clusters]) == pytest.approx(expected)
        assert matched_accuracy(names[labels], clusters) == expected["accuracy"]
    assert matched_accuracy(labels, draw.permutation(5)[labels]) == 1
    assert expected["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    assert expected["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))


def test_accuracy_counts_one_cluster_for_each_class():
    labels = np.array([0, 0, 0, 0, 1, 1])
    assert matched_accuracy(labels, np.array([0, 0, 1, 1, 2, 2])) == 4 / 6  # more clusters than classes
    assert matched_accuracy(labels, np.zeros(6, np.int64)) == 4 / 6
    assert matched_accuracy(labels, np.array([1, 1, 1, 0, 0, 0])) == 5 / 6


def test_labels_may_be_any_numbers():
    assert matched_accuracy(np.array([-1, -1, 10**15]), np.array([7, 7, 2])) == 1


def test_numerical_rank_of_known_spectra():
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))[0]
    for sigma, rank in (
        ((1, 1, 1, 0), 3),
        ((1, 0, 0, 0), 1),
        ((0, 0, 0, 0), 0),
        ((1, 1, 1, 1), 4),
        ((10, 1, 1, 1), 1),
    ):
        assert numerical_rank(np.diag(np.array(sigma, float)) @ turn) == rank
    # exactly 95 % of the squares is not more than 95 %
    assert numerical_rank(np.diag([np.sqrt(3.0), 1.0]), share=0.75) == 2
    assert numerical_rank(np.diag([np.sqrt(3.0), 1.0]), share=0.7499) == 1
    shifted = np.ones((6, 3)) + 1e-6 * np.eye(6, 3)
    assert numerical_rank(shifted) == 1  # not centred


def test_geometry_of_two_orthogonal_lines():
    z = np.array([[1.0, 0], [-1, 0], [0, 1], [0, 1]])
    found = geometry(z, np.array([0, 0, 1, 1]))
    assert found == {"rank": 2, "class_rank": 1, "cosine_within": 1, "cosine_between": 0}
    assert np.isnan(geometry(z[:1], np.array([0]))["cosine_within"])
