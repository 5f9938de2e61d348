"""Spectral clusters of a graph, the score of their number, and live clusters."""

import numpy as np
import pytest

from modules.representation.manifold_clustering.scores import matched_accuracy
from modules.representation.manifold_clustering.spectral import live_clusters, spectral_clustering


def blocks(sizes, noise=0.0, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    graph = (labels[:, None] == labels) + noise * np.random.default_rng(seed).uniform(size=(len(labels),) * 2)
    return labels, graph.astype(np.float64)


@pytest.mark.parametrize("sizes", [[5, 9, 20], [40, 80, 60, 30]])  # below and above the size for iterative solvers
def test_blocks_are_found_and_their_number_has_the_largest_gap(sizes):
    labels, graph = blocks(sizes, 0.02)
    found = spectral_clustering(graph, len(sizes))
    assert matched_accuracy(labels, found.labels) == 1
    assert found.best_k == len(sizes)
    assert found.eigenvalues[0] == pytest.approx(1)
    assert np.array_equal(spectral_clustering(graph, None).labels, found.labels)
    dense = np.linalg.eigvalsh(_normalised(graph))[::-1]
    np.testing.assert_allclose(found.eigenvalues, dense[: len(found.eigenvalues)], atol=1e-8)
    assert found.gaps[2] == pytest.approx(dense[1] - dense[2], abs=1e-8)


def _normalised(graph):
    graph = (graph + graph.T) / 2
    scale = 1 / np.sqrt(graph.sum(1))
    return graph * scale[:, None] * scale


def test_the_labels_are_those_of_scikit_learn():
    from sklearn.cluster import SpectralClustering

    _, graph = blocks([30, 25, 20], 0.5)
    graph = (graph + graph.T) / 2
    theirs = SpectralClustering(3, affinity="precomputed", random_state=0).fit_predict(graph)
    assert matched_accuracy(theirs.astype(np.int64), spectral_clustering(graph, 3).labels) == 1


def test_large_graphs_are_clustered_alike_each_time():
    _, graph = blocks([80, 60, 60], 0.9)
    one, two = spectral_clustering(graph, 3), spectral_clustering(graph, 3)
    assert np.array_equal(one.eigenvalues, two.eigenvalues)
    assert np.array_equal(one.labels, two.labels)


def test_few_points_and_many_clusters():
    for n in (1, 2, 3):
        found = spectral_clustering(np.ones((n, n)), 10)
        assert len(found.labels) == n
        assert found.labels.max() < 10


def test_live_clusters_have_a_tenth_of_the_mean_size():
    labels = np.repeat([0, 1, 2], [50, 45, 5])
    assert live_clusters(labels, 3) == (3, [50, 45, 5])  # a tenth of 100/3 is 3.3
    assert live_clusters(np.repeat([0, 1, 2], [50, 48, 2]), 3) == (2, [50, 48, 2])
    assert live_clusters(labels, 4) == (3, [50, 45, 5, 0])
