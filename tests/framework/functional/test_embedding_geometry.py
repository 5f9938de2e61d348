"""Displacement and effective dimension: exact values, invariances, and the laws of their bias."""

import numpy as np
import pytest

from framework.errors import UserError
from framework.functional.embedding_geometry import (
    displacements,
    effective_dimension,
    eigenvalues,
    resampled_dimensions,
    unit_rows,
)
from framework.functional.resampling import resample_indices, sample_counts

RNG = np.random.default_rng(0)


def with_spectrum(values, samples=40):
    """Embeddings whose covariance has exactly these eigenvalues."""
    z = RNG.normal(size=(samples, len(values)))
    z, _ = np.linalg.qr(z - z.mean(0))
    rotation, _ = np.linalg.qr(RNG.normal(size=(len(values), len(values))))
    return z * np.sqrt(np.array(values) * samples) @ rotation


def dimension(z):
    return effective_dimension(eigenvalues(z))


@pytest.mark.parametrize(
    ("values", "expected"), [((4, 1, 1), 2.0), ((1,) * 6, 6.0), ((5, 0, 0), 1.0), ((2, 2, 0, 0), 2.0)]
)
def test_exact_spectra(values, expected):
    z = with_spectrum(values)
    assert eigenvalues(z) == pytest.approx(sorted(values, reverse=True), abs=1e-9)
    assert dimension(z) == pytest.approx(expected, abs=1e-9)


def test_dimension_does_not_change_under_rotation_scale_and_shift():
    z = RNG.normal(size=(50, 6)) * [3, 2, 1, 1, 1, 0.1]
    rotation, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    assert dimension(7 * z @ rotation + RNG.normal(size=6)) == pytest.approx(dimension(z), abs=1e-9)


def test_displacement_of_unit_vectors_is_by_their_cosine():
    z, start = unit_rows(RNG.normal(size=(30, 5))), unit_rows(RNG.normal(size=(30, 5)))
    assert displacements(z, start).mean() == pytest.approx(2 - 2 * (z * start).sum(1).mean(), abs=1e-12)
    assert displacements(z, -z) == pytest.approx(np.full(30, 4.0), abs=1e-12)
    assert displacements(z, z).max() == 0


def test_a_rotation_counts_as_displacement():
    z = unit_rows(RNG.normal(size=(30, 2)))
    angle = 0.7
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert displacements(z @ rotation, z).mean() == pytest.approx(2 - 2 * np.cos(angle), abs=1e-12)


def test_embeddings_of_other_samples_are_refused():
    with pytest.raises(UserError, match=r"start: \(1, 3\) is not accepted for embeddings \(4, 3\); the same shape"):
        displacements(np.ones((4, 3)), np.ones((1, 3)))


def test_unit_rows_keep_zeros():
    assert np.array_equal(unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0.0, 0.0]])


def test_dimensions_of_resamples_are_those_of_each_alone(monkeypatch):
    z = unit_rows(RNG.normal(size=(40, 7)) + 0.5)
    indices = resample_indices(40, 15, 2)
    expected = [dimension(z[row]) for row in indices]
    assert resampled_dimensions(z, sample_counts(indices)) == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr("framework.functional.embedding_geometry._ENTRIES", 300)  # several pieces
    assert resampled_dimensions(z, sample_counts(indices)) == pytest.approx(expected, rel=1e-9)


def test_biases_of_an_isotropic_sample_and_its_bootstrap():
    """D / (1 + D/N) of the sample, D / (1 + 2D/N) of the bootstrap."""
    d, n = 40, 200
    samples = [RNG.normal(size=(n, d)) for _ in range(8)]
    assert np.mean([dimension(z) for z in samples]) == pytest.approx(d / (1 + d / n), rel=0.02)
    counts = sample_counts(resample_indices(n, 50))
    assert np.mean([resampled_dimensions(z, counts) for z in samples]) == pytest.approx(d / (1 + 2 * d / n), rel=0.02)


def test_a_collapsed_representation_has_no_dimension():
    assert dimension(np.ones((10, 3))) == 0
