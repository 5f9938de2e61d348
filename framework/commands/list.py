"""``list``: methods, techniques, data, configs and sweeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from framework import paths
from framework.catalogue import Entry, SweepEntry, datamodule_entries, method_entries, sweep_entries, technique_entries
from framework.commands.options import CommandParser


def command_line() -> CommandParser:
    """Builds the command's parser."""
    parser = CommandParser(
        "list",
        "[PAPER | --json | --markdown [FILE...]]",
        "Lists methods, techniques, datamodules, sweeps and configs, or everything that belongs to one paper.",
    )
    parser.add_argument(
        "paper", nargs="*", metavar="PAPER", help="an arXiv number, a method or technique, or words of a title"
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="as JSON, with every config")
    forms.add_argument(
        "--markdown",
        nargs="*",
        metavar="FILE",
        help="as tables; with files, replaces the text between <!-- generated: NAME --> and <!-- end --> in them",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code is 0.

    Raises:
        UserError: an argument or a paper is not known, or a page cannot be filled.
    """
    parser = command_line()
    options = parser.read(arguments)
    if options is None:
        return 0
    if options.paper and (options.json or options.markdown is not None):
        parser.error(f"{' '.join(options.paper)}: a paper is shown as text alone, without --json or --markdown")
    if options.markdown is not None:
        from framework.pages.tables import main as write

        return write(options.markdown)
    if options.paper:
        from framework.pages.papers import as_text, find_paper

        print(as_text(find_paper(" ".join(options.paper))), end="")
        return 0
    methods, callbacks, sweeps = method_entries(), technique_entries(), sweep_entries()
    data = datamodule_entries()
    listed = {config for entry in (*methods, *callbacks) for config in entry.configs}
    listed |= {entry.name for entry in sweeps}
    others = [name for name in paths.shipped_configs() if name not in listed]
    if options.json:
        tables: dict[str, Any] = {
            "methods": [asdict(entry) for entry in methods],
            "techniques": [asdict(entry) for entry in callbacks],
            "datamodules": [asdict(entry) for entry in data],
            "sweeps": [asdict(entry) for entry in sweeps],
            "configs": sorted(paths.shipped_configs()),
        }
        print(json.dumps(tables, indent=2, ensure_ascii=False))
        return 0
    _print_section("Methods", methods)
    _print_section("Techniques (add one with --config callbacks/NAME or --techniques.NAME=true)", callbacks)
    _print_section("Data (use one with --data=CLASS; its arguments: fit --data.help=CLASS)", data)
    _print_section("Sweeps (run one with python -m framework sweep NAME)", sweeps)
    if others:
        print("Other configs")
        for name in others:
            print(f"  {name}")
        print()
    print("Run one: python -m framework fit --config NAME    Check a paper: python -m framework reproduce METHOD")
    return 0


def _print_section(title: str, entries: Sequence[Entry | SweepEntry]) -> None:
    print(title)
    width = max([20, *(len(entry.name) for entry in entries)])
    for entry in entries:
        print(f"  {entry.name:<{width}} {entry.summary}")
        if entry.paper:
            print(f"  {'':<{width}} {entry.paper}")
        if isinstance(entry, Entry) and entry.reads:
            print(f"  {'':<{width}} reads {entry.reads}")
        if isinstance(entry, Entry) and entry.configs:
            print(f"  {'':<{width}} configs: {', '.join(entry.configs)}")
    if not entries:
        print("  none")
    print()
