"""Reads a YAML file as W&B does, and checks single values.

W&B reads sweep files with PyYAML, which follows YAML 1.1: ``1e-4`` is text, ``on`` is true. (In configs of this
framework they are a number and text.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from framework.config.yaml12 import Place, Sourced
from framework.errors import UserError
from framework.sweep.hyperband import finite


class SweepSource:
    """A sweep file, and the mistakes found in it so far.

    Args:
        path: The file.

    Attributes:
        tree: Its contents as plain values.

    Raises:
        UserError: the file does not hold a mapping.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        source = Sourced(path, yaml.SafeLoader, text_keys=False, called="YAML")
        if not isinstance(source.tree, dict):
            found = "nothing" if source.tree is None else _kind(source.tree)
            raise UserError(f"{path}: a sweep file is a mapping with method and parameters, found {found}")
        self.tree: dict[Any, Any] = source.tree
        self._lines = source.lines
        self._problems = [
            (line, f"{_dotted(where)}: is given twice, first on line {first}") for where, line, first in source.twice
        ]

    # --- problems

    def problem(self, where: Place, message: str) -> None:
        """Adds a problem with the name and the line of ``where``."""
        self._note(where, f"{_dotted(where)}: {message}")

    def unknown(self, where: Place, key: Any, accepted: Iterable[str], what: str) -> None:
        """Adds a problem for a key that is not ``accepted`` in the mapping at ``where``, or is not text."""
        if isinstance(key, str):
            self.problem((*where, key), f"{what}; {hint(key, accepted)}")
        else:
            reading = " (YAML 1.1 reads on and yes as true, off and no as false)" if isinstance(key, bool) else ""
            message = f"the key {show(key)} is not text{reading}: put it in quotes"
            self._note((*where, key), f"{_dotted(where)}: {message}")

    def _note(self, where: Place, message: str) -> None:
        while where and where not in self._lines:
            where = where[:-1]
        self._problems.append((self._lines.get(where, 0), message))

    @property
    def count(self) -> int:
        """The number of problems so far."""
        return len(self._problems)

    def refuse(self) -> None:
        """Raises an error with all problems, in the order of the file, if there are any.

        Raises:
            UserError: there is at least one problem.
        """
        found = sorted(dict.fromkeys(self._problems), key=lambda one: one[0])
        if found:
            places = (f"{message} ({self.path}{f':{line}' if line else ''})" for line, message in found)
            raise UserError("\n".join(places))

    # --- single values

    def plain(self, where: Place, value: Any) -> None:
        """Checks that a value can be written as JSON, to W&B and into the records of a sweep."""
        if isinstance(value, list):
            for index, item in enumerate(value):
                self.plain((*where, index), item)
        elif isinstance(value, dict):
            for key, item in value.items():
                if isinstance(key, str):
                    self.plain((*where, key), item)
                else:
                    self.unknown(where, key, (), "")
        elif isinstance(value, float) and not math.isfinite(value):
            self.problem(where, f"values are saved as JSON, which has no {value}; write it as text: '{value}'")
        elif value is not None and not isinstance(value, bool | int | float | str):
            self.problem(where, f"values are saved as JSON, which has no {type(value).__name__}; put it in quotes")

    def number(self, where: Place, value: Any) -> float | None:
        """Returns a finite number, integer or not; otherwise adds a problem."""
        if isinstance(value, str):
            self.problem(where, f"a number is needed, found the text {value!r}{_yaml_hint(value)}")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            self.problem(where, f"a number is needed, found {show(value)}")
        elif not finite([value]):
            self.problem(where, f"a finite number is needed, found {show(value)}")
        else:
            return value
        return None

    def integer(self, where: Place, least: int, most: int | None = None) -> int | None:
        """Returns the integer at ``where``, ``None`` if missing; adds a problem if it is wrong or out of bounds."""
        value = self._at(where)
        if value is _MISSING:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least or (most and value > most):
            bounds = f"at least {least}" + (f" and at most {most}" if most else "")
            tip = _yaml_hint(value) if isinstance(value, str) else ""
            self.problem(where, f"an integer of {bounds} is needed, found {show(value)}{tip}")
            return None
        return value

    def text(self, where: Place) -> str | None:
        """Returns the text at ``where``, ``None`` if it is missing or empty; adds a problem if it is not text."""
        value = self._at(where)
        if value is _MISSING:
            return None
        if not isinstance(value, str):
            self.problem(where, f"text is needed, found {show(value)}; put it in quotes")
            return None
        return value or None

    def _at(self, where: Place) -> Any:
        inner: Any = self.tree
        for key in where:
            if key not in inner:
                return _MISSING
            inner = inner[key]
        return inner


_MISSING = object()


def _dotted(where: Place) -> str:
    """Returns a position as text, such as ``parameters.lr.values[2]``."""
    text = ""
    for part in where:
        name = part if str(part).isprintable() else repr(part)
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else name
    return text or "the file"


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the text {show(value)}" if isinstance(value, str) else show(value)


def hint(value: Any, accepted: Iterable[str]) -> str:
    """Returns the nearest accepted value, or all that are accepted, for a message."""
    accepted = list(accepted)
    near = get_close_matches(str(value), accepted, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"accepted: {', '.join(accepted)}"


def show(value: Any) -> str:
    """Returns a value for a message, cut to 60 characters."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _yaml_hint(text: str) -> str:
    """Returns how to write the number in ``text`` so that YAML 1.1 reads it as a number."""
    try:
        number = float(text)
    except ValueError:
        return ""
    mantissa, mark, exponent = text.strip().lower().partition("e")
    if mark:
        mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
        exponent = exponent if exponent[:1] in "+-" else f"+{exponent}"
    written = f"{mantissa}{mark}{exponent}"
    if yaml.safe_load(written) != number:
        written = repr(number)
    return f": YAML 1.1, as W&B reads it, needs it written {written}"
