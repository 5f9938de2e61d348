from __future__ import annotations

import pytest
from lightning.pytorch.callbacks import Callback

from framework.editing import Edit, Observer
from framework.editing.order import resolve
from framework.errors import UserError


class First(Edit):
    technique = "toy_first"
    before = ("toy_second",)


class Second(Edit):
    technique = "toy_second"


class Third(Edit):
    technique = "toy_third"
    after = ("toy_second",)


class Last(Observer):
    technique = "toy_last"
    after = ("*",)


class Enemy(Edit):
    technique = "toy_enemy"
    conflicts = {"toy_first": "both write the same tensors"}  # noqa: RUF012


class Circle(Edit):
    technique = "toy_circle"
    before = ("toy_second",)
    after = ("toy_third",)


def test_the_order_is_the_given_one_corrected_by_declarations() -> None:
    assert resolve({"c": Third, "b": Second, "x": Callback, "a": First}) == ["x", "a", "b", "c"]
    assert resolve({"a": First, "b": Second, "c": Third}) == ["a", "b", "c"]
    assert resolve({"last": Last, "c": Third, "a": First}) == ["c", "a", "last"]
    assert resolve({"x": Callback, "y": Callback}) == ["x", "y"]


def test_two_of_one_class_stay_in_order() -> None:
    assert resolve({"z": Second, "y": Second, "a": First}) == ["a", "z", "y"]


def test_conflicts_and_circles_are_refused() -> None:
    with pytest.raises(UserError, match=r"techniques.b and techniques.a cannot be combined: both write the same"):
        resolve({"b": First, "a": Enemy})
    with pytest.raises(UserError, match=r"second, third, circle each ask to come before another"):
        resolve({"second": Second, "third": Third, "circle": Circle})


def test_names_in_snake_case() -> None:
    class WINNERNoise(Edit):
        pass

    class KappaTune(Observer):
        pass

    assert (WINNERNoise.technique, KappaTune.technique) == ("winner_noise", "kappa_tune")
