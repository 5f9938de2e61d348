"""Splits by combinations, the fit of probes against scikit-learn, and the choice of the penalty."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from framework.errors import UserError
from framework.functional.linear_factors import fit_probes, split_combinations, study_embeddings, unseen_accuracy

LABELS = np.indices((4, 5, 3)).reshape(3, -1).T


def noisy(labels, noise, seed=0, d=12):
    rng = np.random.default_rng(seed)
    z = sum(rng.normal(size=(n, d))[labels[:, i]] for i, n in enumerate((4, 5, 3)))
    return z + noise * rng.normal(size=z.shape)


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.9])
def test_a_combination_is_on_one_side_and_every_value_is_trained_on(fraction):
    labels = np.repeat(LABELS, 3, axis=0)[np.random.default_rng(0).permutation(180)] * 2
    for seed in range(20):
        train = split_combinations(labels, fraction, seed)
        seen, others = ({tuple(row) for row in labels[mask]} for mask in (train, ~train))
        assert not seen & others
        assert len(seen) == round(fraction * 60)
        assert all(set(labels[train, i]) == set(labels[:, i]) for i in range(3))
    assert not np.array_equal(train, split_combinations(labels, fraction, 0))
    np.testing.assert_array_equal(train, split_combinations(labels, fraction, 19))


def test_too_few_combinations_are_refused():
    with pytest.raises(UserError, match=r"fraction: 0\.05 is 3 of 60 combinations, in which not every value occurs"):
        split_combinations(LABELS, 0.05)
    with pytest.raises(UserError, match=r"fraction: 0\.084 is 5 combinations to train on; without 0\.2 of them"):
        unseen_accuracy(noisy(LABELS, 1.0), LABELS, 0.084)
    assert unseen_accuracy(noisy(LABELS, 1.0), LABELS, 0.084, penalties=(0.1,), steps=3).penalty == 0.1
    with pytest.raises(UserError, match="one combination"):
        split_combinations(np.zeros((5, 2), int), 0.5)
    with pytest.raises(UserError, match="fraction"):
        split_combinations(LABELS, 1.0)


def test_the_penalised_fit_is_scikit_learns():
    labels = np.repeat(LABELS, 2, axis=0)
    z = noisy(labels, 1.0)
    z = (z - z.mean(0)) / np.sqrt(np.square(z - z.mean(0)).mean())  # the scale that penalties are given in
    penalties = (1e-2, 1e-1)
    for probes in fit_probes(z, labels, penalties, steps=1500):
        for i in range(3):
            slow = LogisticRegression(C=1 / (probes.penalty * len(z)), tol=1e-8, max_iter=2000).fit(z, labels[:, i])
            np.testing.assert_allclose(probes.weights[i], slow.coef_, atol=2e-3)
            biases = probes.biases[i] - probes.biases[i].mean()  # a constant is free
            np.testing.assert_allclose(biases, slow.intercept_ - slow.intercept_.mean(), atol=2e-3)


def test_fits_side_by_side_are_single_ones_and_scale_and_place_do_not_matter():
    z = noisy(LABELS, 1.0)
    first, second = fit_probes(z, LABELS, (0.0, 0.1), steps=50)
    (alone,) = fit_probes(z, LABELS, (0.1,), steps=50)
    (moved,) = fit_probes(100 * z + 7, LABELS, (0.1,), steps=50)
    for i in range(3):
        torch.testing.assert_close(second.weights[i], alone.weights[i])
        torch.testing.assert_close(100 * moved.weights[i], alone.weights[i], rtol=1e-3, atol=1e-4)
        assert first.weights[i].norm() > second.weights[i].norm()
    np.testing.assert_array_equal(moved.accuracies(100 * z + 7, LABELS), alone.accuracies(z, LABELS))


def test_the_penalty_is_chosen_without_the_measured_combinations():
    """What is unseen may be anything: choice and probes are the same, only their accuracy there is another."""
    z = noisy(LABELS, 1.0)
    found = unseen_accuracy(z, LABELS, 0.5, steps=60)
    train = split_combinations(LABELS, 0.5)
    changed = z.copy()
    changed[~train] = np.random.default_rng(5).normal(size=changed[~train].shape)
    other = unseen_accuracy(changed, LABELS, 0.5, steps=60)
    assert (found.penalty, found.held_out) == (other.penalty, other.held_out)
    assert found.penalty == max(p for p, score in found.held_out.items() if score == max(found.held_out.values()))
    torch.testing.assert_close(found.probes.weights, other.probes.weights)
    assert found.accuracy > other.accuracy


def test_orthogonal_sums_transfer_and_arbitrary_vectors_do_not():
    rng = np.random.default_rng(0)
    frame = np.linalg.qr(rng.normal(size=(20, 12)))[0].T
    z = sum(frame[offset + LABELS[:, i]] for i, offset in enumerate((0, 4, 9)))
    assert unseen_accuracy(z, LABELS, 0.25, steps=200).accuracy == 1
    assert unseen_accuracy(rng.normal(size=(60, 20)), LABELS, 0.5, steps=100).accuracy < 0.5


def test_a_concept_with_one_value_is_not_counted():
    z = noisy(LABELS, 0.3)
    more = np.insert(LABELS, 1, 4, axis=1)
    found, plain = (study_embeddings(z, labels, 0.3, steps=60) for labels in (more, LABELS))
    for name, value in plain.scores().items():
        assert found.scores()[name] == pytest.approx(value, abs=1e-6), name
    record = found.record(["a", "one", "b", "c"])
    assert record["accuracy_of"][1] is record["r2_of"][1] is record["orthogonality"][1][1] is None
    assert record["k95_of"][1] == 0


def test_a_study_does_not_depend_on_place_and_size():
    """The paper's least singular value of a probe's direction, 1e-6, would leave out those of large embeddings."""
    z = noisy(LABELS, 1.0)
    plain, moved = (study_embeddings(own, LABELS, 0.3, steps=60).scores() for own in (z, 1e9 * (z + 3)))
    for name, value in plain.items():
        assert moved[name] == pytest.approx(value, abs=1e-4), name


def test_the_setting_that_is_too_small_is_named():
    with pytest.raises(UserError, match=r"^geometry_fraction: 0\.01 is 1 of 60"):
        study_embeddings(noisy(LABELS, 1.0), LABELS, 0.3, geometry_fraction=0.01)


def test_a_study_and_its_record():
    z = noisy(LABELS, 0.3)
    found = study_embeddings(z, LABELS, 0.3, steps=60)
    record = found.record(["a", "b", "c"])
    assert record["accuracy"] == pytest.approx(np.mean(record["accuracy_of"]))
    assert record["penalty"] in {float(key) for key in record["held_out"]}
    assert record["concepts"] == ["a", "b", "c"]
    assert record["r2_whitened"] == found.geometry.r2_whitened
    alone = study_embeddings(z, LABELS[:, 0], steps=60)
    assert alone.unseen is None
    assert "accuracy" not in alone.scores()
    assert "r2_whitened" not in study_embeddings(np.ones((60, 2)), LABELS, 0.3, steps=3).scores()
