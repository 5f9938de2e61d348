"""The commands ``fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser

from framework import catalogue
from framework.api import launch
from framework.cli import Typed, prepare
from framework.config.compose import Request, compose, read_command_line
from framework.errors import UserError
from framework.mistakes import first_line
from framework.resume import exit_code
from framework.run import NameTaken

_NOISE = ("GPU available", "TPU available", "HPU available", "💡 Tip", "Seed set to", "Restor", "Loading `train_d")


def _worth_reading(record: logging.LogRecord) -> bool:
    return not record.getMessage().lstrip().startswith(_NOISE)


def quiet_lightning() -> None:
    """Leaves out Lightning's lines about absent hardware, its tips and the seed, which the run's record holds."""
    for name in (
        "lightning.pytorch.utilities.rank_zero",
        "lightning.fabric.utilities.rank_zero",
        "lightning.fabric.utilities.seed",
    ):
        logging.getLogger(name).addFilter(_worth_reading)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")
    for message in (
        "Checkpoint directory .* exists",
        "The number of training batches",
        "Be aware that when using `ckpt_path`",
    ):
        warnings.filterwarnings("ignore", message=f".*{message}.*")


def main(subcommand: str, arguments: Sequence[str]) -> int:
    """Runs one training command; the exit code is 0, or a :class:`UserError` is raised."""
    quiet_lightning()
    request = read_command_line(arguments)
    if request.help:
        return _help(subcommand, request)
    if request.print_config is not None:
        composed, _ = prepare(request, subcommand)
        print(Typed(subcommand, composed).text(), end="")
        return 0
    while True:
        try:
            launch(request, subcommand, command=["framework", subcommand, *arguments]).run()
        except NameTaken:  # so early that nothing has begun: it gets another name
            continue
        except SystemExit as stop:  # a signal: 130 or 143
            return exit_code(stop)
        return 0


def _help(subcommand: str, request: Request) -> int:
    """LightningCLI's help, which knows every key of every section and the arguments of a class."""
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
