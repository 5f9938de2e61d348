"""Scores of bare arrays: anchors with known values, brute force, other libraries."""

import itertools

import numpy as np
import pytest
import torch
from scipy.stats import ortho_group, spearmanr

from framework.errors import UserError
from framework.functional.identifiability import (
    active_units,
    correlations,
    kernel_r2,
    match,
    mean_corr_coef,
    set_r2,
    split_mcc,
    support_scores,
)
from framework.functional.identifiability.metric import MeanCorrCoef
from framework.functional.identifiability.splits import halves

RNG = np.random.default_rng(0)
RING3 = np.eye(3, dtype=bool) | np.roll(np.eye(3, dtype=bool), 1, axis=1)


def test_permuted_flipped_and_scaled_latents_give_one():
    z = RNG.normal(size=(500, 5))
    order = RNG.permutation(5)
    copies = (z * np.array([1.0, -2.0, 0.1, 30.0, -1.0]))[:, order] + 3
    assert mean_corr_coef(z, copies) == pytest.approx(1)
    found = split_mcc(z, copies, splits=4)
    assert (found.low, found.mean, found.high) == pytest.approx((1, 1, 1))
    assert (order[match(correlations(z, copies))] == np.arange(5)).all()


def test_independent_noise_is_near_zero():
    z, noise = RNG.normal(size=(2, 10_000, 5))
    assert mean_corr_coef(z, noise) < 0.1
    assert split_mcc(z, noise, splits=3).high < 0.1


def test_ranks_do_not_change_under_monotone_maps():
    z = RNG.normal(size=(300, 3))
    hat = 0.8 * z + RNG.normal(size=z.shape)
    bent = np.stack([np.exp(3 * hat[:, 0]), hat[:, 1] ** 3, -np.tanh(hat[:, 2])], 1)
    assert mean_corr_coef(z, bent, "spearman") == pytest.approx(mean_corr_coef(z, hat, "spearman"))
    assert mean_corr_coef(z, bent) < mean_corr_coef(z, hat) - 0.02
    expected = np.abs(spearmanr(z, hat).statistic[:3, 3:])
    np.testing.assert_allclose(correlations(z, hat, "spearman"), expected, atol=1e-12)
    np.testing.assert_allclose(correlations(z, hat), np.abs(np.corrcoef(z.T, hat.T)[:3, 3:]), atol=1e-12)


def test_the_matching_is_the_best_of_all():
    for d in range(1, 7):
        strength = RNG.random((d, d))
        best = max(strength[range(d), list(order)].sum() for order in itertools.permutations(range(d)))
        assert strength[np.arange(d), match(strength)].sum() == pytest.approx(best)


def test_a_rotation_has_its_known_value():
    z = RNG.normal(size=(40_000, 2))
    angle = np.pi / 6
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert mean_corr_coef(z, z @ rotation.T) == pytest.approx(np.cos(angle), abs=0.01)


def test_constant_and_missing_estimates_count_as_zero():
    z = RNG.normal(size=(100, 3))
    hat = z.copy()
    hat[:, 1] = 0.1 + 0.2
    assert mean_corr_coef(z, hat) == pytest.approx(2 / 3)
    assert mean_corr_coef(z, z[:, :2]) == pytest.approx(2 / 3)
    assert match(correlations(z, z[:, :1])).tolist() == [0, -1, -1]
    assert mean_corr_coef(z, np.concatenate([hat, z], 1)) == pytest.approx(1)


@pytest.mark.parametrize("change", [lambda z: 1e200 * z, lambda z: 1e-200 * z, lambda z: 1e11 + z, lambda z: 1e308 * z])
def test_neither_huge_nor_tiny_nor_shifted_latents_count_as_constant(change):
    z = RNG.uniform(-1, 1, size=(100, 3))
    assert mean_corr_coef(z, change(z)) == pytest.approx(1, abs=1e-6)
    assert mean_corr_coef(change(z), z) == pytest.approx(1, abs=1e-6)


def test_constants_are_left_out_of_the_r2_and_permutations_are_checked():
    z = RNG.normal(size=(120, 3))
    z[:, 1] = 0.3
    found = set_r2(z, z, RING3, [0], [1], splits=1)
    assert found.intersection is None, "a constant is predicted perfectly"
    assert found.symmetric is not None
    with pytest.raises(UserError, match="z_true: no latent varies"):
        set_r2(np.ones((9, 3)), z[:9], RING3, [0], [1])
    with pytest.raises(UserError, match=r"permutation: .* is not accepted; each of 0 to 2 once"):
        set_r2(z, z, RING3, [0], [1], permutation=np.array([0, 1, -1]))
    for wrong in ([0, 1], [0, 1, 3], [0, 1, -2]):
        with pytest.raises(UserError, match=r"permutation: .* for each of 3 latents a column from 0 to 2, or -1"):
            support_scores(RING3, RING3, np.array(wrong))


def test_what_is_matched_is_measured_on_other_samples():
    for fit, score in halves(101, 3, most=20):
        assert len(fit) == len(score) == 20
        assert not set(fit) & set(score)
    # noise that is matched and measured on the same few samples looks better than it is
    z, noise = RNG.normal(size=(2, 40, 6))
    assert split_mcc(z, noise, splits=20).mean < mean_corr_coef(z, noise)


def test_the_metric_is_the_function_over_all_batches():
    z, hat = torch.randn(2, 60, 3, generator=torch.Generator().manual_seed(0))
    metric = MeanCorrCoef("spearman")
    for rows in (slice(20), slice(20, 60)):
        metric.update(z[rows], hat[rows])
    assert float(metric.compute()) == pytest.approx(mean_corr_coef(z, hat, "spearman"))
    metric.reset()
    metric.update(z, z)
    assert float(metric.compute()) == pytest.approx(1)
    with pytest.raises(UserError, match="'kendall' is not one of pearson, spearman"):
        MeanCorrCoef("kendall")


def test_of_the_latents_themselves_the_forbidden_r2_is_zero_and_the_reference_one():
    z = RNG.normal(size=(1500, 3))
    found = set_r2(z, z[:, [2, 0, 1]] * [1, -2, 3], RING3, [0], [1])
    for part in (found.intersection, found.symmetric, found.only_k, found.only_v):
        assert part.mean <= 0.02
    assert found.reference.mean >= 0.99
    assert found.forbidden() <= 0.02


def test_of_rotated_latents_all_are_above_a_fifth_on_average():
    z = RNG.normal(size=(700, 3))
    names = ("intersection", "symmetric", "only_k", "only_v")
    every = {name: [] for name in names}
    for seed in range(12):
        rotated = z @ ortho_group.rvs(3, random_state=seed)
        found = set_r2(z, rotated, RING3, [0], [1], permutation=np.arange(3), splits=1, most=200)
        for name in names:
            every[name].append(getattr(found, name).mean)
        assert found.reference.mean > 0.95
    assert all(np.mean(values) > 0.2 for values in every.values()), {n: np.mean(v) for n, v in every.items()}


def test_empty_sets_have_no_r2_and_other_sizes_are_refused():
    z = RNG.normal(size=(100, 3))
    found = set_r2(z, z, np.ones((3, 3), bool), [0], [1], splits=1)
    assert found.intersection is None
    assert np.isnan(found.forbidden())
    assert found.as_dict()["only_k"] is None
    with pytest.raises(UserError, match=r"z_hat: 2 estimates are not accepted; as many as latents \(3\)"):
        set_r2(z, z[:, :2], RING3, [0], [1])


def test_a_smooth_function_is_predicted_and_noise_is_not():
    x = RNG.normal(size=(600, 2))
    y = np.stack([np.sin(2 * x[:, 0]), RNG.normal(size=600)], 1)
    assert kernel_r2(x[:300], y[:300, :1], x[300:], y[300:, :1]) > 0.95
    assert abs(kernel_r2(x[:300], y[:300, 1:], x[300:], y[300:, 1:])) < 0.05


def test_supports_with_the_baseline_of_all_ones_beside_them():
    truth = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1]])
    strength = truth[:, [2, 0, 1]] * 0.8 + 0.01
    weak, strong = support_scores(truth, strength, thresholds=(0.005, 0.1))
    assert (strong.f1, strong.shd, strong.all_ones_shd) == (1, 0, 3)
    q = 6 / 9
    assert (weak.f1, weak.shd) == pytest.approx((2 * q / (1 + q), 3))
    assert weak.gain == pytest.approx(0)
    (given,) = support_scores(truth, strength, permutation=np.array([0, 1, 2]), thresholds=(0.1,))
    assert (given.precision, given.recall, given.shd) == pytest.approx((0.5, 0.5, 6))
    (one,) = support_scores(truth, strength[:, :1], thresholds=(0.1,))
    assert one.recall == pytest.approx(1 / 3)
    assert support_scores(truth, np.zeros((3, 3)))[0].f1 == 0
    with pytest.raises(UserError, match="strength: has entries that are negative"):
        support_scores(truth, -strength)
    with pytest.raises(UserError, match=r"strength: the shape \(2, 3\)"):
        support_scores(truth, strength[:2])


def test_the_columns_are_matched_with_the_fewest_differences():
    for _ in range(20):
        truth, strength = RNG.random((4, 4)) < 0.5, RNG.random((4, 4))
        (found,) = support_scores(truth, strength, thresholds=(0.5,))
        estimate = strength > 0.5 * strength.max()
        best = min(int((estimate[:, list(order)] != truth).sum()) for order in itertools.permutations(range(4)))
        assert found.shd == best


def test_collapsed_units_are_found():
    means = RNG.normal(size=(200, 3)) * [1, 1e-3, 0.5]
    assert active_units(means).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("true", "hat", "message"),
    [
        (np.ones((4, 2)), np.ones((5, 2)), "z_hat: 5 samples are not accepted; z_true has 4"),
        (np.full((4, 2), np.nan), np.ones((4, 2)), "z_true: has entries that are not finite"),
        (np.ones((4, 2, 2)), np.ones((4, 2)), "z_true: the shape"),
        (np.zeros((0, 2)), np.ones((4, 2)), "z_true: the shape"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(true, hat, message):
    with pytest.raises(UserError, match=message):
        mean_corr_coef(true, hat)
