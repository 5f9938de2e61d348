"""The options of the commands that take words and a few options, rather than settings of a config."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import overload

from framework.errors import UserError


@dataclass
class Options:
    """What was typed after a command.

    Attributes:
        words: What is no option: names, files, folders.
        values: Name of each option that takes a value, without its dashes, to the values that it was given.
        flags: Names of the options that were given and take none.
    """

    words: list[str] = field(default_factory=list)
    values: dict[str, list[str]] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)

    @overload
    def last(self, name: str) -> str | None: ...

    @overload
    def last(self, name: str, default: str) -> str: ...

    def last(self, name: str, default: str | None = None) -> str | None:
        """The value that counts of an option that is meant once: the last one."""
        return self.values[name][-1] if self.values[name] else default


def read_options(
    command: str, usage: str, arguments: Sequence[str], values: Iterable[str] = (), flags: Iterable[str] = ()
) -> Options | None:
    """Reads ``--name VALUE``, ``--name=VALUE``, ``--flag`` and words, in any order.

    Args:
        command: For messages.
        usage: What ``--help`` prints.
        arguments: What was typed after the command.
        values: Names of the options that take a value.
        flags: Names of those that take none; ``-`` and ``_`` in them are the same.

    Returns:
        What was typed, or ``None`` if help was asked for and has been printed.

    Raises:
        UserError: an option is not known, or its value is missing.
    """
    found = Options(values={name: [] for name in values})
    known = {flag.replace("_", "-"): flag for flag in flags}
    queue = list(arguments)
    while queue:
        argument = queue.pop(0)
        if argument in ("-h", "--help"):
            print(usage, end="")
            return None
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and name in found.values:
            if not equals and not queue:
                raise UserError(f"{command}: --{name} needs a value")
            found.values[name].append(value if equals else queue.pop(0))
        elif argument.startswith("--") and argument[2:].replace("_", "-") in known:
            found.flags.add(known[argument[2:].replace("_", "-")])
        elif argument.startswith("-"):
            accepted = ", ".join(f"--{option}" for option in (*found.values, *known))
            raise UserError(f"{command}: {argument} is not accepted; accepted: {accepted}")
        else:
            found.words.append(argument)
    return found
