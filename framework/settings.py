"""Checks of settings; the messages have the value found and what is accepted.

Every function takes the settings as keyword arguments, named as in the config, and returns nothing::

    at_least(1, hidden=hidden, layers=layers)
    above(0, lr=lr)
    between(0, 1, "[)", dropout=dropout)
    at_most({"experts": experts}, top_k=top_k)
    one_of(get_args(Init), init=init)

where ``Init = Literal["zero", "random"]`` is the setting's type: the command line's help shows its choices, and the
check refuses others where a class is built in Python.

Numbers have to be finite. Every member of a list is checked; an empty list passes (see :func:`not_empty`). ``None``
always passes: whether a setting is optional is decided by its type. A dotted name is given as ``**{"schedule.every":
every}``. A bound that is another setting is given as ``{"experts": experts}``, and the message names it: ``at most 4
(experts)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

from framework.errors import UserError

Bound = float | Mapping[str, float]
"""A number, or another setting: its name to its value."""

_ENDS = {
    "[]": "from {low} to {high}",
    "[)": "at least {low} and below {high}",
    "(]": "above {low} and at most {high}",
    "()": "above {low} and below {high}",
}


def at_least(least: Bound, /, **settings: Any) -> None:
    """Checks that every number is ``least`` or more.

    Raises:
        UserError: one is less, or not finite.
    """
    limit, shown = _bound(least)
    _numbers(settings, lambda value: value >= limit, f"at least {shown}")


def at_most(most: Bound, /, **settings: Any) -> None:
    """Checks that every number is ``most`` or less.

    Raises:
        UserError: one is more, or not finite.
    """
    limit, shown = _bound(most)
    _numbers(settings, lambda value: value <= limit, f"at most {shown}")


def above(bound: Bound, /, **settings: Any) -> None:
    """Checks that every number is larger than ``bound``.

    Raises:
        UserError: one is not, or is not finite.
    """
    limit, shown = _bound(bound)
    _numbers(settings, lambda value: value > limit, f"above {shown}")


def between(low: float, high: float, ends: str = "[]", /, **settings: Any) -> None:
    """Checks that every number is between ``low`` and ``high``.

    Args:
        low: Lower end.
        high: Upper end.
        ends: Which ends are included: ``[]`` both, ``[)`` the lower, ``(]`` the upper, ``()`` none.
        **settings: The numbers.

    Raises:
        UserError: one is outside, or is not finite.
    """

    def lies(value: float) -> bool:
        return (low <= value if ends[0] == "[" else low < value) and (value <= high if ends[1] == "]" else value < high)

    _numbers(settings, lies, _ENDS[ends].format(low=low, high=high))


def finite(**settings: Any) -> None:
    """Checks that every number is finite.

    Raises:
        UserError: one is infinite or NaN.
    """
    _numbers(settings, lambda value: True, "a finite number")


def finite_entries(**arrays: Any) -> None:
    """Checks that every tensor or array has only finite entries; an empty one passes.

    Raises:
        UserError: an entry is infinite or NaN.
    """
    for name, array in arrays.items():
        if array is not None and not bool((abs(array) < math.inf).all()):
            raise UserError(f"{name}: has entries that are not finite; finite numbers are accepted")


def divides(whole: Bound, /, **settings: Any) -> None:
    """Every number is a divisor of ``whole``, from 1.

    Raises:
        UserError: one is not.
    """
    total, shown = _bound(whole)
    _numbers(settings, lambda value: value >= 1 and total % value == 0, f"a divisor of {shown}")


def multiple_of(part: Bound, /, **settings: Any) -> None:
    """Every number is a multiple of ``part``, at least once.

    Raises:
        UserError: one is not.
    """
    unit, shown = _bound(part)
    _numbers(settings, lambda value: value >= unit and value % unit == 0, f"a multiple of {shown}, at least {unit}")


def power_of_two(**settings: Any) -> None:
    """Every number is 1, 2, 4, 8, …

    Raises:
        UserError: one is not.
    """
    _numbers(settings, lambda value: value >= 1 and math.frexp(value)[0] == 0.5, "a power of two")


def one_of(accepted: Iterable[Any], /, **settings: Any) -> None:
    """Checks that every setting is one of ``accepted``.

    Raises:
        UserError: one is not; the message has the nearest match.
    """
    choices = tuple(accepted)
    for name, value in settings.items():
        for item in value if isinstance(value, list | tuple | set | frozenset) else (value,):
            if item is not None and item not in choices:
                raise UserError(f"{name}: {not_one_of(item, choices)}")


def not_one_of(value: Any, choices: Iterable[Any]) -> str:
    """What :func:`one_of` says of a value."""
    folded = {str(choice).casefold(): str(choice) for choice in choices}
    near = get_close_matches(str(value).casefold(), folded, n=1)
    hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
    return f"{brief(value)} is not one of {', '.join(folded.values())}{hint}"


def exactly_one(**settings: Any) -> None:
    """One of the settings is given, the others are ``None``.

    Raises:
        UserError: several are given, or none is.
    """
    given = [name for name, value in settings.items() if value is not None]
    if len(given) != 1:
        _refuse_together("exactly one of {} is needed", settings, given)


def at_most_one(**settings: Any) -> None:
    """One of the settings at most is given, the others are ``None``.

    Raises:
        UserError: several are given.
    """
    given = [name for name, value in settings.items() if value is not None]
    if len(given) > 1:
        _refuse_together("at most one of {} is accepted", settings, given)


def not_empty(**settings: Any) -> None:
    """Checks that every list, mapping or text has a member.

    Raises:
        UserError: one is empty.
    """
    for name, value in settings.items():
        if value is not None and len(value) == 0:
            raise UserError(f"{name}: {value!r} is not accepted; at least one is needed")


def brief(value: Any) -> str:
    """Returns a value as messages show it: as in Python, cut to 120 characters."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _refuse_together(rule: str, settings: dict[str, Any], given: list[str]) -> None:
    listed = ", ".join(settings)
    raise UserError(f"{[*given, *settings][0]}: {rule.format(listed)}; given: {', '.join(given) or 'none'}")


def _bound(bound: Bound) -> tuple[float, str]:
    """Its value, and how a message shows it."""
    if not isinstance(bound, Mapping):
        return bound, str(bound)
    ((name, value),) = bound.items()
    return value, f"{value} ({name})"


def _numbers(settings: dict[str, Any], accepts: Callable[[Any], bool], accepted: str) -> None:
    for name, value in settings.items():
        if value is None:
            continue
        several = isinstance(value, list | tuple)
        for number in value if several else (value,):
            is_finite = isinstance(number, Integral) or (isinstance(number, Real) and math.isfinite(number))
            if not (is_finite and accepts(number)):
                each = "each " if several else ""
                raise UserError(f"{name}: {brief(value)} is not accepted; {each}{accepted}")
