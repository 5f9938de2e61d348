"""Methods to compare with, on data on which they are known to succeed or fail."""

import numpy as np

from modules.representation.manifold_clustering.baselines import k_means, neighbour_spectral, ssc_omp
from modules.representation.manifold_clustering.scores import matched_accuracy


def test_ssc_omp_finds_subspaces_that_k_means_does_not():
    draw = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 40)
    points = np.concatenate([draw.normal(size=(40, 3)) @ draw.normal(size=(3, 20)) for _ in range(4)])
    assert matched_accuracy(labels, ssc_omp(points, 4)) > 0.97
    assert matched_accuracy(labels, k_means(points, 4)) < 0.7


def test_its_combinations_are_those_of_scikit_learns_pursuit(monkeypatch):
    from sklearn.linear_model import orthogonal_mp

    from modules.representation.manifold_clustering import baselines

    seen = []

    def keep(graph, k, seed=0):
        seen.append(graph)
        return original(graph, k, seed)

    original = baselines.spectral_clustering
    monkeypatch.setattr(baselines, "spectral_clustering", keep)
    points = np.random.default_rng(1).normal(size=(20, 8))
    ssc_omp(points, 2, nonzeros=3)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    for i in range(20):
        others = np.delete(np.arange(20), i)
        expected = np.zeros(20)
        expected[others] = np.abs(orthogonal_mp(unit[others].T, unit[i], n_nonzero_coefs=3))
        np.testing.assert_allclose(seen[0][i], expected, atol=1e-6)


def test_neighbours_follow_a_ring_that_k_means_cuts():
    draw = np.random.default_rng(0)
    angle = draw.uniform(0, 2 * np.pi, 200)
    labels = np.arange(200) % 2
    points = (1 + 2 * labels[:, None]) * np.stack([np.cos(angle), np.sin(angle)], 1)
    assert matched_accuracy(labels, neighbour_spectral(points, 2)) == 1
    assert matched_accuracy(labels, k_means(points, 2)) < 0.8
