"""Paired bootstrap: resamples, their hash, intervals and p."""

import hashlib
import math

import numpy as np
import pytest

from framework.errors import UserError
from framework.functional.resampling import Interval, indices_hash, paired_p, resample_indices, sample_counts


def test_resamples_depend_on_the_arguments_alone():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, second = resample_indices(50, 20, 3), resample_indices(50, 20, 3)
    assert np.array_equal(first, second)
    assert indices_hash(first) == indices_hash(second)
    assert indices_hash(first) != indices_hash(resample_indices(50, 20, 4))
    assert first.shape == (20, 50)
    assert first.min() >= 0
    assert first.max() < 50
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_hash_is_that_of_the_bytes_and_tells_shapes_apart():
    indices = np.array([[0, 1], [1, 1]])
    expected = hashlib.sha256(np.array([2, 2, 0, 1, 1, 1], "<i8").tobytes()).hexdigest()
    assert indices_hash(indices) == indices_hash(indices.astype(np.int32)) == expected
    assert indices_hash(indices) != indices_hash(indices.reshape(1, 4))


def test_counts_are_those_of_the_indices():
    indices = resample_indices(7, 5, 0)
    counts = sample_counts(indices)
    assert np.array_equal(counts, [[np.sum(row == i) for i in range(7)] for row in indices])


def test_interval_skips_and_counts_what_is_not_defined():
    values = np.array([1.0, np.nan, 3.0, 2.0, np.nan])
    found = Interval.of(2.5, values)
    assert found.skipped == 2
    assert found.mean == pytest.approx(2.0)
    assert found.sd == pytest.approx(np.std([1, 2, 3]))
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile([1, 2, 3], [2.5, 97.5])))
    nothing = Interval.of(math.nan, np.array([np.nan]))
    assert nothing.as_dict() == {"point": None, "mean": None, "sd": None, "low": None, "high": None, "skipped": 1}


def test_p_counts_pairs():
    assert paired_p(np.array([2.0, 2, 1, 2]), np.array([1.0, 1, 1, 3])) == pytest.approx(0.5)
    assert paired_p(np.array([2.0, np.nan]), np.array([1.0, 1])) == pytest.approx(0.0)
    assert math.isnan(paired_p(np.array([np.nan]), np.array([1.0])))


def test_no_samples_are_refused():
    with pytest.raises(UserError, match=r"count: 0 is not accepted; at least 1"):
        resample_indices(0)
