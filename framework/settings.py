"""Checks of settings; the messages have the value found and what is accepted.

Every function takes the settings as keyword arguments, named as in the config, and returns nothing::

    at_least(1, hidden=hidden, layers=layers)
    above(0, lr=lr)
    between(0, 1, "[)", dropout=dropout)
    one_of(KINDS, init=init)

Numbers have to be finite. Every member of a list is checked; an empty list passes (see :func:`not_empty`). ``None``
always passes: whether a setting is optional is decided by its type. A dotted name is given as ``**{"schedule.every":
every}``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

from framework.errors import UserError

_ENDS = {
    "[]": "from {low} to {high}",
    "[)": "at least {low} and below {high}",
    "(]": "above {low} and at most {high}",
    "()": "above {low} and below {high}",
}


def at_least(least: float, /, **settings: Any) -> None:
    """Checks that every number is ``least`` or more.

    Raises:
        UserError: one is less, or not finite.
    """
    _numbers(settings, lambda value: value >= least, f"at least {least}")


def above(bound: float, /, **settings: Any) -> None:
    """Checks that every number is larger than ``bound``.

    Raises:
        UserError: one is not, or is not finite.
    """
    _numbers(settings, lambda value: value > bound, f"above {bound}")


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


def one_of(accepted: Iterable[Any], /, **settings: Any) -> None:
    """Checks that every setting is one of ``accepted``.

    Raises:
        UserError: one is not; the message has the nearest match.
    """
    choices = tuple(accepted)
    for name, value in settings.items():
        if value is None or value in choices:
            continue
        near = get_close_matches(str(value), [choice for choice in choices if isinstance(choice, str)], n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{name}: {brief(value)} is not one of {', '.join(map(str, choices))}{hint}")


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
