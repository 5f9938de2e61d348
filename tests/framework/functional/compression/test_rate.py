"""Rates against bitstring's codes, scipy's entropy and the closed form; the sums against a slow reference."""

import math

import bitstring
import numpy as np
import pytest
import torch
from scipy import stats

from framework.errors import UserError
from framework.functional import generalized_gaussian as gg
from framework.functional.compression.rate import (
    bits_per_weight,
    by_frequency,
    exp_golomb_lengths,
    level_counts,
    quantise,
    rate_of_counts,
    sqnr,
)


def test_lengths_are_those_of_bitstrings_codes():
    expected = [len(bitstring.Bits(ue=rank)) for rank in range(10_001)]
    assert exp_golomb_lengths(np.arange(10_001)).tolist() == expected
    assert exp_golomb_lengths(np.array([2**40 - 2, 2**40 - 1])).tolist() == [79, 81]
    # order k codes r >> k so and appends k bits
    assert exp_golomb_lengths(np.arange(1000), 3).tolist() == [expected[r >> 3] + 3 for r in range(1000)]


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_entropy_of_samples_is_the_differential_one(shape):
    rate = bits_per_weight(gg.sample((1_000_000,), shape, 0.02, 3))
    alpha = gg.scale_of_std(0.02, shape)
    assert rate.entropy == pytest.approx(stats.gennorm(shape, scale=alpha).entropy() / math.log(2) + 13, abs=0.02)


@pytest.mark.parametrize("tensors", [1, 3])
@pytest.mark.parametrize(("scale", "step"), [(0.02, 2**-13), (0.02, 0.001), (300.0, 2**-13)])
def test_the_rate_is_that_of_a_slow_reference(tensors, scale, step):
    weights = [gg.sample((500, 41), 0.7, scale * (i + 1), i).t() for i in range(tensors)]
    together = torch.cat([w.reshape(-1) for w in weights])
    levels, counts = torch.round(together / step).long().unique(return_counts=True)
    rate = bits_per_weight(iter(weights), step)
    assert (rate.levels, rate.count) == (len(levels), together.numel())
    assert rate.entropy == pytest.approx(stats.entropy(counts.numpy(), base=2), rel=1e-12)
    assert rate.fixed == math.ceil(math.log2(len(levels)))
    lengths = [len(bitstring.Bits(ue=rank)) for rank in range(len(levels))]
    expected = sum(n * c for n, c in zip(lengths, sorted(counts.tolist(), reverse=True), strict=True))
    assert rate.eg == pytest.approx(expected / together.numel(), rel=1e-12)
    assert rate.sparsity == pytest.approx(float((together.div(step).round() == 0).double().mean()))
    found, times = level_counts(weights, step)
    assert found.tolist() == levels.tolist()
    assert times.tolist() == counts.tolist()


def test_levels_far_apart_need_no_table_of_all_between_them():
    weights = torch.tensor([1e4, -1e4, 0.0, 1e4])
    levels, counts = level_counts(weights)
    assert levels.tolist() == [-81_920_000, 0, 81_920_000]
    assert counts.tolist() == [1, 1, 2]


def test_quantise_rounds_half_to_even():
    weights = torch.tensor([[0.5, 1.5, -2.5], [2.49, -0.2, 7.0]]) / 8
    assert quantise(weights, 1 / 8).tolist() == [[0, 2, -2], [2, 0, 7]]
    assert quantise(weights.half(), 1 / 8).dtype == torch.int32
    big = torch.linspace(-3, 3, 2**20 + 77, dtype=torch.float64)
    assert torch.equal(quantise(big), (big * 2**13).round().int())


def test_ranks_go_by_frequency_then_by_size():
    levels = np.array([-3, -1, 0, 1, 5])
    assert by_frequency(levels, np.array([2, 4, 1, 4, 9])).tolist() == [5, -1, 1, -3, 0]


def test_degenerate_weights():
    assert bits_per_weight(torch.zeros(10)).__dict__ == {
        "eg": 1.0, "entropy": 0.0, "fixed": 0, "levels": 1, "count": 10, "sparsity": 1.0
    }  # fmt: skip
    assert math.isnan(rate_of_counts(np.zeros(0)).eg)
    assert bits_per_weight([torch.zeros(0)]).count == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value):
    weights = torch.zeros(3, 2)
    weights[1, 1] = value
    for function in (quantise, level_counts):
        with pytest.raises(UserError, match="NaN or infinity"):
            function(weights)
    with pytest.raises(UserError, match="more than 2³¹ levels"):
        quantise(torch.tensor([3e9]), 1.0)
    with pytest.raises(UserError, match="step: 0 is not accepted"):
        quantise(weights, 0)


def test_sqnr_of_uniform_noise():
    weights = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    step = 0.01
    # variances 1/3 and step²/12
    assert sqnr(weights, quantise(weights, step) * step) == pytest.approx(10 * math.log10(4 / step**2), abs=0.01)
    assert sqnr(weights, weights) == math.inf
