"""``list``: methods, techniques, data, configs and sweeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from framework import paths
from framework.catalogue import Entry, SweepEntry, datamodule_entries, method_entries, sweep_entries, technique_entries

USAGE = """usage: framework list [PAPER | --json | --markdown [FILE...]]

  PAPER       one paper and all that stands for it: an arXiv number, a method or technique, or words of the title
  --json      methods, techniques, datamodules, sweeps and configs, for programs
  --markdown  the same as tables; with files, what stands in them between <!-- generated: NAME --> and <!-- end -->
"""


def main(arguments: Sequence[str]) -> int:
    """``list [PAPER | --json | --markdown [FILE...]]``: prints the catalogue or one paper, or writes tables into pages.

    Raises:
        UserError: an argument is not known.
    """
    from framework.errors import UserError

    if arguments and arguments[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0
    if arguments[:1] == ["--markdown"]:
        from framework.pages.tables import main as write

        return write(arguments[1:])
    if arguments and not arguments[0].startswith("-"):
        from framework.pages.papers import as_text, find_paper

        print(as_text(find_paper(" ".join(arguments))), end="")
        return 0
    unknown = [argument for argument in arguments if argument != "--json"]
    if unknown:
        raise UserError(f"list: unexpected argument {unknown[0]!r}; accepted: PAPER, --json, or --markdown [FILE...]")
    methods, callbacks, sweeps = method_entries(), technique_entries(), sweep_entries()
    data = datamodule_entries()
    listed = {config for entry in (*methods, *callbacks) for config in entry.configs}
    listed |= {entry.name for entry in sweeps}
    others = [name for name in paths.shipped_configs() if name not in listed]
    if "--json" in arguments:
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
