"""The commands ``fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser

from framework import catalogue
from framework.config.compose import Request, compose, read_command_line
from framework.errors import UserError
from framework.library_errors import first_line
from framework.runs.command_line import Typed
from framework.runs.experiment import run_to_end
from framework.runs.preparing import prepare


def main(subcommand: str, arguments: Sequence[str]) -> int:
    """Runs one training command and returns the exit code.

    Raises:
        UserError: an option or the config is wrong, or the run failed.
    """
    request = read_command_line(arguments)
    if request.help:
        return _help(subcommand, request)
    if request.print_config is not None:
        composed, _ = prepare(request, subcommand)
        print(Typed(subcommand, composed).text(), end="")
        return 0
    return run_to_end(request, subcommand, command=["framework", subcommand, *arguments], requeued=True)


def _help(subcommand: str, request: Request) -> int:
    """Prints LightningCLI's help, with every key of every section and the arguments of a class."""
    composed = compose(request, subcommand, catalogue.techniques())
    composed.tree.setdefault("model", {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"})
    registered = catalogue.techniques()
    for place, item in enumerate(request.help):
        if found := re.fullmatch(r"--techniques\.(\w+)\.help(=.*)?", item):
            name, given = found[1], (found[2] or "")[1:]
            settings = composed.tree.setdefault("techniques", {}).setdefault(name, {})
            cls = given or (settings or {}).get("class_path") or registered.get(name, "")
            request.help[place] = f"--techniques.{name}.help={cls}"

    class Help(Typed):
        def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
            parser.parse_args([subcommand, *request.help])

    try:
        Help(subcommand, composed)
    except SystemExit as stop:
        return int(stop.code or 0)
    except ArgumentError as error:
        raise UserError(first_line(error)) from error
    return 0
