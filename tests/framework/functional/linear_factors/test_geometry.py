"""The scores, against closed forms, the analysis of variance, and what must leave them as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from framework.errors import UserError
from framework.functional.linear_factors import (
    concept_r2,
    effective_ranks,
    linearity_r2,
    measure_geometry,
    orthogonality,
    probe_basis,
    projected_r2,
    recover_factors,
    study_embeddings,
    whitened_r2,
)

SIZES = (4, 5, 3)
LABELS = np.indices(SIZES).reshape(3, -1).T


def additive(d=16, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    z = sum(rng.normal(size=(n, d))[LABELS[:, i]] for i, n in enumerate(SIZES))
    return z + noise * rng.normal(size=(60, d))


def test_sums_have_scores_of_one():
    """Check 1."""
    z = additive()
    assert linearity_r2(z, LABELS) == pytest.approx(1, abs=1e-10)
    weights = np.random.default_rng(1).normal(size=(12, 16))
    assert projected_r2(z, LABELS, weights) == pytest.approx(1, abs=1e-10)
    assert whitened_r2(z, LABELS, weights) == pytest.approx(1, abs=1e-6)


def test_it_is_the_share_of_main_effects():
    """Check 2: a multivariate analysis of variance by loops."""
    z = additive(noise=1.0)
    mean = z.mean(0)
    total = float(np.square(z - mean).sum())
    effects = 0.0
    for i, n in enumerate(SIZES):
        for value in range(n):
            own = z[LABELS[:, i] == value]
            effects += len(own) * float(np.square(own.mean(0) - mean).sum())
    residual = float(np.square(z - recover_factors(z, LABELS).sums(LABELS)).sum())
    assert effects + residual == pytest.approx(total, rel=1e-10)
    assert linearity_r2(z, LABELS) == pytest.approx(effects / total, abs=1e-10)


def test_noise_lowers_it_as_expected():
    """Check 2: a combination has variance s² in each of d dimensions, of which the main effects absorb their share."""
    clean, s = additive(), 0.8
    signal = float(np.square(clean - clean.mean(0)).sum())
    rng = np.random.default_rng(1)
    noisy = [clean + s * rng.normal(size=clean.shape) for _ in range(300)]
    left = np.mean([(1 - linearity_r2(z, LABELS)) * np.square(z - z.mean(0)).sum() for z in noisy])
    total = np.mean([np.square(z - z.mean(0)).sum() for z in noisy])
    parameters = sum(n - 1 for n in SIZES)
    assert left == pytest.approx(s**2 * 16 * (59 - parameters), rel=0.02)
    assert total == pytest.approx(signal + s**2 * 16 * 59, rel=0.02)


def test_what_leaves_the_scores_as_they_are():
    """Check 4."""
    rng = np.random.default_rng(0)
    z = additive(noise=1.0)
    rotation, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    assert linearity_r2(3 * z @ rotation + 5, LABELS) == pytest.approx(linearity_r2(z, LABELS), abs=1e-10)
    weights = rng.normal(size=(6, 16))
    basis = probe_basis(weights)
    white = whitened_r2(z, LABELS, weights)
    assert 0 < white < 1
    for _ in range(3):
        mixed = z @ basis @ rng.normal(size=(6, 6))
        assert whitened_r2(mixed, LABELS) == pytest.approx(white, abs=1e-5)
        assert abs(linearity_r2(mixed, LABELS) - linearity_r2(z @ basis, LABELS)) > 1e-3


def test_it_is_the_official_whitening_where_no_direction_is_empty():
    """X V diag((λ + 1e-9)^-1/2) Vᵀ of the projected embeddings, and the same map of the sums."""
    z = additive(noise=1.0)
    weights = np.random.default_rng(2).normal(size=(6, 16))
    basis = probe_basis(weights)
    flat = z @ basis @ basis.T
    _, s, vt = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    s, vt = s[:6], vt[:6]
    matrix = vt.T @ np.diag((s**2 / (len(z) - 1) + 1e-9) ** -0.5) @ vt
    sums = recover_factors(flat, LABELS).sums(LABELS)
    own, fitted = (part @ matrix for part in (flat - flat.mean(0), sums - flat.mean(0)))
    expected = 1 - np.square(own - fitted).sum() / np.square(own).sum()
    assert whitened_r2(z, LABELS, weights) == pytest.approx(expected, abs=1e-6)


def test_empty_directions_are_left_out():
    z = additive(d=6, noise=1.0)
    wide = np.concatenate([z, np.zeros((60, 4)), z[:, :2]], 1)  # null directions, and copies
    assert whitened_r2(wide, LABELS, np.eye(12)) == pytest.approx(whitened_r2(z, LABELS), abs=1e-6)


def test_orthogonal_factors_and_two_values():
    """Check 7."""
    rng = np.random.default_rng(0)
    frame, _ = np.linalg.qr(rng.normal(size=(20, 9)))
    spans = np.split(frame, [3, 7], axis=1)
    labels = np.indices((4, 5, 2)).reshape(3, -1).T
    z = sum(
        (rng.normal(size=(n, s.shape[1])) @ s.T)[labels[:, i]]
        for i, (n, s) in enumerate(zip((4, 5, 2), spans, strict=True))
    )
    found = orthogonality(recover_factors(z, labels))
    assert np.abs(found[~np.eye(3, dtype=bool)]).max() < 1e-7
    assert found[2, 2] == pytest.approx(1)
    assert 0 < found[0, 0] < 1


def test_random_factors_have_the_cosines_of_random_vectors():
    """Check 7: sqrt(2 / (π d))."""
    rng = np.random.default_rng(0)
    labels = np.indices((40, 40)).reshape(2, -1).T
    z = sum(rng.normal(size=(40, 256))[labels[:, i]] for i in range(2))
    cross = orthogonality(recover_factors(z, labels))[0, 1]
    assert cross == pytest.approx(math.sqrt(2 / (math.pi * 256)), abs=0.005)
    assert cross == pytest.approx(0.0499, abs=0.005)


def test_ranks():
    rng = np.random.default_rng(0)
    line = np.linspace(-1, 1, 5)[:, None] * rng.normal(size=(1, 16))  # a concept on a line
    free = np.linalg.qr(rng.normal(size=(16, 3)))[0].T
    labels = np.indices((5, 3)).reshape(2, -1).T
    factors = recover_factors(line[labels[:, 0]] + 9 * free[labels[:, 1]], labels)
    assert effective_ranks(factors) == (1, 2)
    assert effective_ranks(factors, 0.4) == (1, 1)
    assert effective_ranks(recover_factors(np.zeros((15, 2)), labels)) == (0, 0)


def test_scores_of_each_concept_in_the_span_of_its_probe():
    """A probe that reads one concept alone."""
    z = additive(d=16)
    rng = np.random.default_rng(0)
    own = [rng.normal(size=(n, 16)) for n in SIZES]
    found = concept_r2(z, LABELS, own)
    for i, rows in enumerate(own):
        basis = np.linalg.qr(rows.T)[0]
        flat = z @ basis
        means = np.stack([flat[LABELS[:, i] == value].mean(0) for value in range(SIZES[i])])
        left = np.square(flat - means[LABELS[:, i]]).sum() / np.square(flat - flat.mean(0)).sum()
        assert found[i] == pytest.approx(1 - left, abs=1e-10)


def test_all_of_them_at_once():
    z = additive(noise=0.5)
    weights = [np.random.default_rng(i).normal(size=(n, 16)) for i, n in enumerate(SIZES)]
    found = measure_geometry(z, LABELS, weights)
    rows = np.concatenate(weights)
    assert found.r2 == linearity_r2(z, LABELS)
    assert found.r2_projected == projected_r2(z, LABELS, rows)
    assert found.r2_whitened == whitened_r2(z, LABELS, rows)
    assert found.sizes == SIZES
    assert found.cross == pytest.approx(found.orthogonality[~np.eye(3, dtype=bool)].mean())
    assert found.within == pytest.approx(np.diag(found.orthogonality).mean())
    assert set(found.scores()) == {"r2", "r2_projected", "r2_whitened", "cross", "within", "k95"}
    bare = measure_geometry(z, LABELS[:, 0])
    assert set(bare.scores()) == {"r2", "within", "k95"}


@pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3, 1e9 / 7])
def test_equal_embeddings_have_no_score(value):
    """Also if their mean is not exactly one of them in floating point."""
    z = np.full((60, 3), value)
    assert math.isnan(linearity_r2(z, LABELS))
    assert math.isnan(whitened_r2(z, LABELS))
    assert math.isnan(whitened_r2(z, LABELS, np.eye(3)))
    assert set(study_embeddings(z, LABELS, 0.3, steps=3).scores()) == {"k95", "accuracy", "seen_accuracy", "penalty"}
    with pytest.raises(UserError, match="span nothing"):
        probe_basis(np.zeros((3, 4)))
    with pytest.raises(UserError, match="weights"):
        probe_basis(np.zeros(3))


def test_a_concept_without_effect_has_no_direction():
    """What rounding leaves of its factors is no geometry."""
    rng = np.random.default_rng(0)
    z = 100 + sum(rng.normal(size=(n, 16))[LABELS[:, i]] for i, n in enumerate(SIZES[:2]))
    factors = recover_factors(z, LABELS)
    assert effective_ranks(factors) == (3, 4, 0)
    assert np.isnan(orthogonality(factors)[2]).all()


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="rows of 3 dimensions do not fit embeddings of 16"):
        whitened_r2(additive(), LABELS, np.ones((2, 3)))
    with pytest.raises(UserError, match="2 probes do not fit 3 concepts"):
        concept_r2(additive(), LABELS, [np.ones((2, 16))] * 2)
    found = concept_r2(additive(), LABELS, [np.zeros((4, 16)), np.ones((5, 16)), np.ones((3, 16))])
    assert np.isnan(found).tolist() == [True, False, False]
