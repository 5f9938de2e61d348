"""Factors by means and by least squares, against the model that made the data, and numpy's dense least squares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from framework.errors import UserError
from framework.functional.linear_factors import one_hot, recover_factors

SIZES = (4, 5, 3)


def grid(sizes=SIZES):
    return np.indices(sizes).reshape(len(sizes), -1).T


def additive(labels, seed=0, d=16, sizes=SIZES):
    rng = np.random.default_rng(seed)
    factors = [rng.normal(size=(n, d)) for n in sizes]
    return 3 + sum(part[labels[:, i]] for i, part in enumerate(factors)), factors


def assert_factors(found, factors, tolerance):
    for own, part in zip(found.vectors, factors, strict=True):
        np.testing.assert_allclose(own, part - part.mean(0), rtol=0, atol=tolerance)


def test_factors_of_a_complete_grid():
    """Check 1."""
    labels = grid()
    z, factors = additive(labels)
    found = recover_factors(z, labels)
    assert_factors(found, factors, 1e-10)
    assert found.identified
    np.testing.assert_allclose(found.mean, z.mean(0), atol=1e-12)
    np.testing.assert_allclose(found.sums(labels), z, atol=1e-10)


def test_least_squares_are_the_means_of_a_complete_grid_and_exact_on_a_part_of_it():
    """Check 3."""
    labels = grid()
    rng = np.random.default_rng(1)
    noisy = additive(labels)[0] + rng.normal(size=(60, 16))
    means, squares = (recover_factors(noisy, labels, method) for method in ("means", "least_squares"))
    for a, b in zip(means.vectors, squares.vectors, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8)
    part = labels[rng.permutation(60)[:36]]
    z, factors = additive(part)
    assert_factors(recover_factors(z, part), factors, 1e-10)
    biased = recover_factors(z, part, "means")
    assert np.abs(biased.vectors[0] - (factors[0] - factors[0].mean(0))).max() > 0.1


def test_least_squares_are_numpys_on_the_dense_design():
    rng = np.random.default_rng(2)
    labels = np.stack([rng.integers(0, n, 50) for n in SIZES], 1)
    z = rng.normal(size=(50, 7))
    design = np.concatenate([np.eye(n)[labels[:, i]] for i, n in enumerate(SIZES)], 1)
    np.testing.assert_array_equal(one_hot(labels).toarray(), design)
    slow = design @ np.linalg.lstsq(design, z, rcond=None)[0]
    np.testing.assert_allclose(recover_factors(z, labels, "least_squares").sums(labels), slow, atol=1e-10)


def test_values_in_proportion_need_no_least_squares():
    """Samples of a combination may be many, as long as they are in proportion."""
    labels = np.repeat(grid((2, 3)), [1, 2, 3, 2, 4, 6], axis=0)
    z = np.random.default_rng(3).normal(size=(len(labels), 4))
    auto, squares = (recover_factors(z, labels, method) for method in ("auto", "least_squares"))
    np.testing.assert_allclose(auto.sums(labels), squares.sums(labels), atol=1e-10)


def test_values_with_holes_and_concepts_that_cannot_be_told_apart():
    labels = grid()
    z, factors = additive(labels)
    found = recover_factors(z, labels * 7 + 2)
    assert_factors(found, factors, 1e-10)
    assert found.ids[0].tolist() == [2, 9, 16, 23]
    with pytest.raises(UserError, match="concept 0 has the value 3, of which no embedding was seen"):
        found.sums(np.array([[3, 2, 2]]))
    twice = recover_factors(z, np.stack([labels[:, 0], labels[:, 0]], 1))
    assert not twice.identified


def test_tensors_of_any_type():
    labels = torch.from_numpy(grid())
    z = torch.from_numpy(additive(labels.numpy())[0])
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        own = z.to(dtype).requires_grad_()
        expected = recover_factors(own.detach().double().numpy(), labels.numpy())
        np.testing.assert_array_equal(recover_factors(own, labels).mean, expected.mean)


def test_what_is_no_embedding_is_refused():
    z = np.ones((4, 2))
    for labels, message in (
        (np.zeros((3, 1), int), r"\(4, 2\) and \(3, 1\)"),
        (np.zeros((4, 1)), "whole numbers"),
        (np.zeros((4, 1, 1), int), r"\(N, d\) and \(N, k\)"),
    ):
        with pytest.raises(UserError, match=message):
            recover_factors(z, labels)
    with pytest.raises(UserError, match="not finite"):
        recover_factors(np.full((4, 2), np.nan), np.arange(4))
    with pytest.raises(UserError, match="method"):
        recover_factors(z, np.arange(4), "mean")
