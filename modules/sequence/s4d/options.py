"""Checks of named choices and sizes, with messages a user can act on."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from framework.errors import UserError


def choose(argument: str, value: str, accepted: Iterable[str]) -> str:
    """Returns ``value`` if it is one of ``accepted``.

    Raises:
        UserError: it is not; names the argument, the value, what is accepted and the nearest match.
    """
    names = tuple(accepted)
    if value in names:
        return value
    near = get_close_matches(str(value), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{argument}: {value!r} is not one of {', '.join(names)}{hint}")


def require(condition: bool, argument: str, value: object, accepted: str) -> None:
    """Raises a UserError that names the argument, the value and what is accepted, unless ``condition`` holds."""
    if not condition:
        raise UserError(f"{argument}: {value!r} is not accepted; it must be {accepted}")
