"""The parser of commands with arguments and a few options, rather than settings of a config."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from typing import Any, NoReturn

from framework.errors import UserError


class CommandParser(argparse.ArgumentParser):
    """An :class:`argparse.ArgumentParser` that raises a :class:`UserError` of one line for each mistake.

    Options cannot be abbreviated; arguments and options can be in any order.

    Args:
        command: Name of the command.
        usage: Usage text after the command's name.
        description: What the command does.
        epilog: Text of ``--help`` after the options.
    """

    def __init__(self, command: str, usage: str, description: str, epilog: str | None = None) -> None:
        super().__init__(
            prog=f"framework {command}",
            usage=f"%(prog)s {usage}",
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            exit_on_error=False,
        )
        self.command = command
        self._negative_number_matcher = re.compile(r"-\.?\d")  # before Python 3.14 argparse parses -1e-3 as an option

    def read(self, arguments: Sequence[str]) -> argparse.Namespace | None:
        """Parses the arguments after the command.

        Returns:
            The values, or ``None`` if the help was requested and printed.

        Raises:
            UserError: an option or an argument is not accepted, or a value is missing.
        """
        try:
            found, rest = self.parse_known_intermixed_args(arguments)
        except SystemExit:  # after --help
            return None
        except argparse.ArgumentError as error:
            self.error(f"{(error.argument_name or '').partition('/')[0]} {_said(error.message)}".strip())
        if rest:
            given = next((argument for argument in rest if argument.startswith("-")), rest[0])
            names = [action.option_strings[0] for action in self._actions if action.option_strings][1:]  # without -h
            self.error(_refused(given, f"accepted: {', '.join(names)}", given.partition("=")[0], names))
        return found

    def only(self, words: Sequence[str], what: str) -> str:
        """Returns the single argument that was given.

        Raises:
            UserError: none or more than one was given.
        """
        if len(words) != 1:
            found = f"{len(words)} were given: {', '.join(words)}" if words else "none was given"
            self.error(f"{what} is needed; {found}")
        return words[0]

    def error(self, message: str) -> NoReturn:
        """Reports a mistake on the command line.

        Raises:
            UserError: always.
        """
        raise UserError(f"{self.command}: {message}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = list(map(str, action.choices))
            accepted = f"{', '.join(choices[:-1])} or {choices[-1]} is needed"
            self.error(_refused(f"{action.option_strings[0]} {value}", accepted, str(value), choices))


def number(convert: Callable[[str], Any], accepts: Callable[[Any], bool], needed: str) -> Callable[[str], Any]:
    """Returns the ``type`` of an option whose value is a number.

    Args:
        convert: Converts the text; raises :class:`ValueError` if it is not a number.
        accepts: Returns whether a number is accepted.
        needed: Which numbers are accepted, for the message.
    """

    def read(text: str) -> Any:
        try:
            value = convert(text)
        except (ValueError, OverflowError, ZeroDivisionError):
            value = None
        if value is None or not accepts(value):
            raise argparse.ArgumentTypeError(f"{text} is not accepted; {needed}")
        return value

    return read


def _refused(given: str, accepted: str, name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f"{given} is not accepted; {accepted}" + (f"; did you mean {near[0]}?" if near else "")


def _said(message: str) -> str:
    """Returns argparse's message on an option, without the option's name."""
    if message.startswith("expected"):
        return "needs a value"
    return "takes no value" if message.startswith("ignored explicit argument") else message
