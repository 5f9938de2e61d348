"""Measures of features, pair by pair and by scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.linalg
import torch

from callbacks.feature_drift.measures import fisher_ratio, mean_cosine, mean_difference


def test_against_the_definitions():
    torch.manual_seed(0)
    x, start = torch.randn(30, 5), torch.randn(30, 5)
    y = torch.arange(30) % 3
    x += 2 * torch.nn.functional.one_hot(y, 5)
    cosines = [float(torch.cosine_similarity(a, b, dim=0)) for a, b in itertools.permutations(x, 2)]
    assert mean_cosine(x) == pytest.approx(np.mean(cosines), abs=1e-6)
    assert mean_difference(x, start) == pytest.approx(np.mean([float((a - b).norm()) for a, b in zip(x, start)]))  # noqa: B905
    rows, inside, between = x.double().numpy(), np.zeros((5, 5)), np.zeros((5, 5))
    for label in range(3):
        own = rows[y.numpy() == label]
        inside += (own - own.mean(0)).T @ (own - own.mean(0))
        offset = own.mean(0) - rows.mean(0)
        between += len(own) * np.outer(offset, offset)
    expected = scipy.linalg.eigh(between, inside, eigvals_only=True).sum()
    assert fisher_ratio(x, y) == pytest.approx(expected)
    assert fisher_ratio(torch.cat([x, torch.zeros(30, 2)], 1), y) == pytest.approx(expected)  # where nothing varies
