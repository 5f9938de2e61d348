"""Checks of settings: what passes, what is refused, and what is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from framework.errors import UserError
from framework.settings import (
    above,
    at_least,
    at_most,
    at_most_one,
    between,
    divides,
    exactly_one,
    finite,
    finite_entries,
    multiple_of,
    not_empty,
    one_of,
    power_of_two,
)

INF, NAN = float("inf"), float("nan")


def said(check, *arguments, **settings) -> str:
    with pytest.raises(UserError) as caught:
        check(*arguments, **settings)
    return str(caught.value)


def test_the_first_setting_that_is_refused_is_named_with_its_value():
    at_least(1, hidden=1, layers=7)
    assert said(at_least, 1, hidden=3, layers=0) == "layers: 0 is not accepted; at least 1"
    above(0, lr=1e-12)
    assert said(above, 0, lr=0.0) == "lr: 0.0 is not accepted; above 0"
    assert said(at_least, 0, **{"schedule.every": -1}) == "schedule.every: -1 is not accepted; at least 0"


@pytest.mark.parametrize(
    ("ends", "low", "high", "words"),
    [
        ("[]", True, True, "from 0 to 1"),
        ("[)", True, False, "at least 0 and below 1"),
        ("(]", False, True, "above 0 and at most 1"),
        ("()", False, False, "above 0 and below 1"),
    ],
)
def test_ends_of_an_interval_are_in_or_out(ends, low, high, words):
    between(0, 1, ends, p=0.5)
    for value, accepted in ((0, low), (1, high), (-0.1, False), (1.1, False)):
        if accepted:
            between(0, 1, ends, p=value)
        else:
            assert said(between, 0, 1, ends, p=value) == f"p: {value} is not accepted; {words}"


@pytest.mark.parametrize("value", [INF, -INF, NAN])
def test_numbers_are_finite(value):
    for check in (lambda **k: at_least(-5, **k), lambda **k: above(-5, **k), lambda **k: between(-5, INF, **k), finite):
        assert "is not accepted" in said(check, std=value)
    finite(std=-1e300)


def test_every_member_of_a_list_counts():
    at_least(1, widths=[5, 20])
    at_least(1, widths=[])
    assert said(at_least, 1, widths=[5, 0]) == "widths: [5, 0] is not accepted; each at least 1"
    assert said(above, 0, rates=(1.0, NAN)) == "rates: (1.0, nan) is not accepted; each above 0"
    assert "is not accepted" in said(at_least, 1, widths=["a"])


def test_numbers_of_numpy_and_huge_ones_are_numbers():
    at_least(1, n=np.int64(3), x=np.float32(2.5))
    at_least(1, n=10**400)  # too large for a float


def test_none_is_for_the_type_to_refuse():
    at_least(1, n=None)
    between(0, 1, p=None)
    one_of(("a", "b"), kind=None)
    not_empty(names=None)


def test_choices_are_listed_with_the_nearest():
    one_of(("cosine", "linear"), name="cosine")
    assert said(one_of, ("cosine", "linear"), name="cosin") == (
        "name: 'cosin' is not one of cosine, linear; did you mean 'cosine'?"
    )
    assert said(one_of, (8, 16), bits=3) == "bits: 3 is not one of 8, 16"


def test_empty_is_refused_where_one_is_needed():
    not_empty(seeds=[1], names={"a": 1})
    assert said(not_empty, seeds=[]) == "seeds: [] is not accepted; at least one is needed"


def test_a_long_value_is_cut():
    assert len(said(one_of, ("a",), kind="x" * 10_000)) < 180


def test_a_bound_that_is_another_setting_is_named():
    at_most({"experts": 4}, top_k=4)
    assert said(at_most, {"experts": 4}, top_k=5) == "top_k: 5 is not accepted; at most 4 (experts)"
    assert said(at_most, 3, ranks=[1, 4]) == "ranks: [1, 4] is not accepted; each at most 3"
    assert said(above, {"low": 0.9}, high=0.9) == "high: 0.9 is not accepted; above 0.9 (low)"
    assert said(at_least, {"classes": 5}, rows=4) == "rows: 4 is not accepted; at least 5 (classes)"


def test_divisors_multiples_and_powers():
    divides({"d_model": 12}, n_heads=4, n_ssm=None)
    assert said(divides, {"d_model": 12}, n_heads=5) == "n_heads: 5 is not accepted; a divisor of 12 (d_model)"
    assert "a divisor of 12" in said(divides, 12, n_heads=0)
    multiple_of(2, rank=6)
    multiple_of({"cores": 3}, d_value=3)
    assert said(multiple_of, 2, rank=3) == "rank: 3 is not accepted; a multiple of 2, at least 2"
    assert (
        said(multiple_of, {"cores": 3}, d_value=0) == "d_value: 0 is not accepted; a multiple of 3 (cores), at least 3"
    )
    power_of_two(chunk=1, block=64)
    for value in (0, 48, -2):
        assert said(power_of_two, chunk=value) == f"chunk: {value} is not accepted; a power of two"


def test_which_of_several_are_given():
    exactly_one(path=None, config={})
    needed = "exactly one of path, config is needed"
    assert said(exactly_one, path=None, config=None) == f"path: {needed}; given: none"
    assert said(exactly_one, path="a", config={}) == f"path: {needed}; given: path, config"
    at_most_one(lam=None, step=None)
    at_most_one(lam=None, step=0.0)
    assert said(at_most_one, lam=1.0, step=0.0) == "lam: at most one of lam, step is accepted; given: lam, step"


def test_choices_in_any_case_and_in_lists():
    one_of(("HR", "RR"), target="RR", others=["HR", "RR"], none=None)
    assert said(one_of, ("HR", "RR"), target="hr") == "target: 'hr' is not one of HR, RR; did you mean 'HR'?"
    assert said(one_of, ("val", "test"), stages=("val", "tets")) == (
        "stages: 'tets' is not one of val, test; did you mean 'test'?"
    )
    assert said(one_of, (1, 3), channels=2) == "channels: 2 is not one of 1, 3"


def test_tensors_and_arrays_have_finite_entries():
    finite_entries(kernel=torch.zeros(2, 0), rows=np.ones(3), labels=torch.arange(3), none=None)
    for bad in (torch.tensor([[0.0, float("nan")]]), np.array([1.0, -np.inf])):
        assert said(finite_entries, cov=bad) == "cov: has entries that are not finite; finite numbers are accepted"
