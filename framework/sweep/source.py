"""A YAML file read as W&B reads it, and the checks of single values.

W&B reads sweep files by PyYAML, which follows YAML 1.1: ``1e-4`` is text, ``on`` is true. (In configs of this
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
    """A file, and what was found wrong with it so far.

    Args:
        path: The file.

    Attributes:
        tree: Its mapping, in plain values.

    Raises:
        UserError: there is no mapping to read.
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
            (line, f"{_dotted(where)}: stands twice, first on line {first}") for where, line, first in source.twice
        ]

    # --- problems

    def problem(self, where: Place, message: str) -> None:
        """Notes a problem under the name and the line of ``where``."""
        self._note(where, f"{_dotted(where)}: {message}")

    def unknown(self, where: Place, key: Any, accepted: Iterable[str], what: str) -> None:
        """Notes a key that is not ``accepted`` in the mapping at ``where``, or that is no text at all."""
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
        """How many problems were noted."""
        return len(self._problems)

    def refuse(self) -> None:
        """Raises what was noted, in the order of the file.

        Raises:
            UserError: there is something.
        """
        found = sorted(dict.fromkeys(self._problems), key=lambda one: one[0])
        if found:
            places = (f"{message} ({self.path}{f':{line}' if line else ''})" for line, message in found)
            raise UserError("\n".join(places))

    # --- single values

    def plain(self, where: Place, value: Any) -> None:
        """Values travel as JSON, to W&B and into the records of a sweep."""
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
            self.problem(where, f"JSON, in which values travel, has no {value}; write it as text: '{value}'")
        elif value is not None and not isinstance(value, bool | int | float | str):
            self.problem(where, f"JSON, in which values travel, has no {type(value).__name__}; put it in quotes")

    def number(self, where: Place, value: Any) -> float | None:
        """A finite number as it stands, integer or not; otherwise notes the problem."""
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
        """The integer at ``where``, ``None`` if there is nothing; notes what is none, or out of bounds."""
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
        """The text at ``where``, ``None`` if there is nothing or it is empty; notes what is no text."""
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
    """``parameters.lr.values[2]``."""
    text = ""
    for part in where:
        name = part if str(part).isprintable() else repr(part)
        text += f"[{name}]" if isinstance(part, int) else f".{name}" if text else name
    return text or "the file"


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the text {show(value)}" if isinstance(value, str) else show(value)


def hint(value: Any, accepted: Iterable[str]) -> str:
    """What was probably meant by ``value``, or else all that is accepted."""
    accepted = list(accepted)
    near = get_close_matches(str(value), accepted, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"accepted: {', '.join(accepted)}"


def show(value: Any) -> str:
    """A value for a message, cut to 60 characters."""
    if value is None:
        return "nothing"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _yaml_hint(text: str) -> str:
    """What to write so that YAML 1.1 reads the number that ``text`` is."""
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
