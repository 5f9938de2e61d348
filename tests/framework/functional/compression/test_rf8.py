"""RF8 against its definition in logarithms, and its bits there and back."""

import itertools
import math

import pytest
import torch

from framework.errors import UserError
from framework.functional import generalized_gaussian as gg
from framework.functional.compression.rate import sqnr
from framework.functional.compression.rf8 import LEVELS, Encoded, decode, encode, round_to_rf8, table, thresholds

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


def by_logarithms(w):
    w = w.double()
    e1 = w.abs().log2().round()
    a = w.sign() * 2**e1
    r = w - a
    e2 = r.abs().log2().round()
    b = r.sign() * 2**e2
    q = torch.where((r != 0) & (e1 - e2 <= 4), a + b, a)
    return torch.where(w == 0, 0.0, q)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_those_of_the_definition(dtype):
    w = gg.sample((300_001,), 0.7, 0.05, 0, torch.float64).to(dtype)
    assert torch.equal(round_to_rf8(w), by_logarithms(w).to(dtype))


def test_values_at_each_threshold_are_exact():
    for mantissa, dtype, integer in ((23, torch.float32, torch.int32), (52, torch.float64, torch.int64)):
        one = torch.tensor(1.0, dtype=dtype).view(integer)
        found = [one + value + shift for value in thresholds(mantissa) for shift in (-1, 0)]
        w = torch.stack(found).view(dtype)
        levels = [*LEVELS, 2.0]
        expected = [level for pair in itertools.pairwise(levels) for level in pair]
        assert round_to_rf8(w).tolist() == expected
        assert decode(encode(torch.cat([w, w.new_tensor([4.0])])))[:-1].tolist() == expected


def test_eight_levels_and_the_largest_error():
    grid = torch.linspace(1, 2, 1_000_001, dtype=torch.float64)
    rounded = round_to_rf8(grid)
    assert sorted(set(rounded.tolist())) == [*LEVELS, 2.0]
    error = (rounded - grid).abs() / grid
    assert float(error[:-1].max()) == pytest.approx(0.1082, abs=1e-4)
    assert float(grid[error.argmax()]) == pytest.approx(1.35355, abs=1e-4)


@pytest.mark.parametrize("function", [round_to_rf8, lambda w: decode(encode(w))])
def test_idempotent_odd_and_equivariant(function):
    w = gg.sample((100_000,), 1.0, 0.02, 1)
    q = function(w)
    assert torch.equal(function(q), q)
    assert torch.equal(function(-w), -q)
    for k in (-20, -3, 1, 40):
        assert torch.equal(function(w * 2.0**k), q * 2.0**k)


@pytest.mark.parametrize("shape", [0.5, 1.0, 2.0])
def test_signal_to_noise(shape):
    w = gg.sample((1_000_000,), shape, 0.02, 2)
    assert sqnr(w, decode(encode(w))) == pytest.approx(28.0, abs=0.2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_are_one_byte_and_exact_over_18_binades(dtype):
    w = gg.sample((1000, 77), 1.0, 0.02, 5).to(dtype).t()
    encoded = encode(w)
    assert encoded.codes.dtype == torch.uint8
    assert encoded.codes.shape == w.shape
    decoded, q = decode(encoded), round_to_rf8(w)
    assert decoded.dtype == dtype
    inside = w.abs() >= w.abs().max() * 2.0**-17
    assert torch.equal(decoded[inside], q[inside])
    assert float((decoded - q).abs().max()) <= float(w.abs().max()) * 2.0**-17


def test_all_codes_but_the_negative_zero_are_used():
    values = table(30, torch.float64)
    assert len(set(values.tolist())) == 255
    # 2^4 · 1.125 = place 30; the lowest is 126 places, 18 binades, below
    assert float(values[127]) == 18.0
    assert float(values[1]) == 18.0 / 2**18
    assert encode(values).codes.tolist() == [*range(128), 0, *range(129, 256)]


def test_below_the_smallest_a_weight_goes_to_it_or_to_zero():
    smallest = 2.0**-18
    w = torch.tensor([1.0, smallest, 0.75 * smallest, 0.56 * smallest, 0.5 * smallest, 1e-20, 0.0, -0.0, -1e-30])
    assert decode(encode(w)).tolist() == [1.0, smallest, smallest, smallest, 0, 0, 0, 0, 0]
    assert not decode(encode(w)).signbit().any()


@pytest.mark.parametrize("n", [0, 1, 65_535, 65_536, (1 << 20) + 3])
def test_pieces_and_pairs_fit_together(n):
    w = gg.sample((n,), 0.9, 0.1, 4)
    decoded = decode(encode(w))
    one_by_one = table(encode(w).top)[encode(w).codes.long()] if n else w
    assert torch.equal(decoded, one_by_one)
    odd = encode(torch.cat([torch.zeros(1), w]))
    shifted = Encoded(odd.codes[1:], odd.top, odd.dtype)  # codes that begin at an odd place in memory
    assert torch.equal(decode(shifted), decoded)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_ends_of_a_type_stay_finite(dtype):
    most, least = torch.finfo(dtype).max, torch.finfo(dtype).tiny
    for w in (torch.tensor([most, 1.0, -most], dtype=dtype), torch.tensor([least, -least, 0.0], dtype=dtype)):
        for q in (decode(encode(w)), round_to_rf8(w)):
            assert q.isfinite().all()
    assert decode(encode(torch.tensor([least], dtype=dtype))).item() == least
    q = decode(encode(torch.tensor([most], dtype=dtype)))
    assert float(q) == pytest.approx(most, rel=0.07)


def test_numbers_that_float32_holds_with_fewer_bits():
    w = torch.tensor([1e-42, 1e-40, -3e-39, 2e-38])
    assert torch.equal(decode(encode(w)), by_logarithms(w).float())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(value):
    w = torch.ones(4)
    w[2] = value
    for function in (encode, round_to_rf8):
        with pytest.raises(UserError, match=r"rf8: layer\.weight holds NaN or infinity"):
            function(w, "layer.weight")
        with pytest.raises(UserError, match=r"rf8: mask has type torch.int64; RF8 takes float16"):
            function(torch.ones(3, dtype=torch.int64), "mask")


def test_parts_that_do_not_belong_together_are_refused():
    good = encode(torch.ones(3))
    for bad in (
        Encoded(good.codes.short(), good.top, "float32"),
        Encoded(good.codes, good.top, "int8"),
        Encoded(good.codes, 10**6, "float32"),
    ):
        with pytest.raises(UserError, match="rf8: "):
            decode(bad)
