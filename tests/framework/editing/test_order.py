from __future__ import annotations

import itertools
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from framework.catalogue import phases
from framework.editing import Edit, Observer, Transform, Writer
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


class Draw(Edit):
    technique = "toy_draw"
    phase = "draw"


class DrawToo(Edit):
    technique = "toy_draw_too"
    phase = "draw"


class Adapt(Edit):
    technique = "toy_adapt"
    phase = "adapt"


class Average(Writer):
    technique = "toy_average"
    phase = "average"


class Look(Observer):
    technique = "toy_look"


class Exception_(Edit):
    """Its phase says one thing, its declaration another about one technique."""

    technique = "toy_exception"
    phase = "draw"
    after = ("toy_adapt",)


def test_the_order_is_the_given_one_corrected_by_declarations() -> None:
    assert resolve({"c": Third, "b": Second, "x": Callback, "a": First}) == ["x", "a", "b", "c"]
    assert resolve({"a": First, "b": Second, "c": Third}) == ["a", "b", "c"]
    assert resolve({"last": Last, "c": Third, "a": First}) == ["c", "a", "last"]
    assert resolve({"x": Callback, "y": Callback}) == ["x", "y"]


def test_phases_order_whatever_the_config_says() -> None:
    given = {"average": Average, "adapt": Adapt, "draw": Draw}
    for names in itertools.permutations(given):
        assert resolve({name: given[name] for name in names}) == ["draw", "adapt", "average"]


def test_within_a_phase_and_without_one_the_configs_order_holds() -> None:
    assert resolve({"b": DrawToo, "a": Draw}) == ["b", "a"]
    assert resolve({"look": Look, "adapt": Adapt, "x": Callback}) == ["look", "adapt", "x"]
    assert resolve({"adapt": Adapt, "look": Look, "draw": Draw}) == ["look", "draw", "adapt"]


def test_an_average_comes_after_techniques_without_a_phase() -> None:
    assert resolve({"average": Average, "look": Look, "last": Last, "b": Second}) == ["look", "b", "average", "last"]


def test_a_declaration_is_stronger_than_a_phase() -> None:
    assert resolve({"draw": Draw, "odd": Exception_, "adapt": Adapt}) == ["draw", "adapt", "odd"]


def test_two_of_one_class_stay_in_order() -> None:
    assert resolve({"z": Second, "y": Second, "a": First}) == ["a", "z", "y"]


def test_conflicts_and_circles_are_refused() -> None:
    with pytest.raises(UserError, match=r"techniques.b and techniques.a cannot be combined: both write the same"):
        resolve({"b": First, "a": Enemy})
    with pytest.raises(UserError, match=r"second \(no phase\), third \(no phase\), circle \(no phase\) each ask"):
        resolve({"second": Second, "third": Third, "circle": Circle})


def test_a_phase_that_there_is_not_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(UserError, match=r"Odd\.phase: 'drew' is not one of grow, draw, .*did you mean 'draw'"):

        class Odd(Edit):
            phase = "drew"  # type: ignore[assignment]


def test_those_that_only_follow_a_circle_are_not_named() -> None:
    circle = r"^techniques: second \(no phase\), third \(no phase\), circle \(no phase\) each ask"
    with pytest.raises(UserError, match=circle):
        resolve({"average": Average, "second": Second, "third": Third, "circle": Circle})


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"after": "first"}, r"Odd.after: 'first' is not accepted; a tuple of names"),
        ({"needs": ("adapters",)}, r"Odd.needs: \('adapters',\) is not accepted; a frozenset of names"),
        ({"offers": "noise"}, r"Odd.offers: 'noise' is not accepted"),
        ({"changes": frozenset({"value"})}, r"Odd.changes: 'value' is not one of .*did you mean 'values'"),
        ({"moments": frozenset({"epochs"})}, r"Odd.moments: 'epochs' is not one of .*did you mean 'epoch'"),
    ],
)
def test_a_declaration_of_the_wrong_kind_is_refused_when_the_class_is_made(declared: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        type("Odd", (Transform,), declared)


def test_every_phase_has_a_meaning() -> None:
    from framework.editing.phases import PHASES

    assert (*phases(),) == PHASES


def test_names_in_snake_case() -> None:
    class WINNERNoise(Edit):
        pass

    class KappaTune(Observer):
        pass

    assert (WINNERNoise.technique, KappaTune.technique) == ("winner_noise", "kappa_tune")
