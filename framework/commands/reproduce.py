"""``reproduce METHOD... | --all``: checks what papers claim, on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from framework.claims import reproduce
from framework.commands.options import read_options
from framework.errors import UserError
from framework.pages.results import write_page, write_record

USAGE = """usage: framework reproduce METHOD... | MODULE... | --all [--json FILE] [--folder DIR]

  METHOD        a method or technique with claims; list shows them
  MODULE        a module of your own with a function claims(run), such as lab.claims
  --all         every method and technique with claims
  --json FILE   every claim, measured, for programs
  --folder DIR  where figures, runs and claims.json go; runs/reproduce by default

The exit code is 1 if a claim fails.
"""


def print_table(report: reproduce.ClaimsReport) -> None:
    """Prints one report as a table."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=f"{report.name}: {report.seconds:.0f} s", title_justify="left")
    for column in ("claim", "paper", "measured", "tolerance", "verdict", "scale"):
        table.add_column(column, overflow="fold", justify="right" if column == "measured" else "left")
    for claim in report.claims:
        verdict = "holds" if claim.holds else "FAILS"
        cells = (claim.text, claim.paper, f"{claim.measured:.4g}", claim.bound.text, verdict, claim.scale)
        table.add_row(*map(escape, cells))
    console = Console()
    # Without a terminal a table would be cut to 80 columns.
    (console if console.is_terminal else Console(width=160)).print(table)


def main(arguments: Sequence[str]) -> int:
    """``reproduce METHOD... | MODULE... | --all``, with paths for ``--json``, ``--folder`` and ``--page``.

    The exit code is 1 if a claim fails.

    Raises:
        UserError: an option is not accepted, or a method is not named or has no claims.
    """
    options = read_options("reproduce", USAGE, arguments, values=("json", "folder", "page"), flags=("all",))
    if options is None:
        return 0
    known = reproduce.claims_modules()
    names = sorted(known) if "all" in options.flags else options.words
    if not names:
        raise UserError(f"reproduce: a method is needed; with claims: {', '.join(sorted(known)) or 'none'}")
    for name in names:
        reproduce.find_claims(name)
    folder, page = Path(options.last("folder", "runs/reproduce")), options.last("page")
    reports = []
    for name in names:
        print(f"{name}:", flush=True)
        report = reproduce.reproduce(name, folder / name)
        reports.append(report)
        print_table(report)
        print(f"claims and figures in {folder / name}\n", flush=True)
        if page:  # at once: what is done by now stands, whatever happens to the rest
            write_record(Path(page), report.as_dict())
            write_page(Path(page))
    if place := options.last("json"):
        json_file = Path(place)
        json_file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([report.as_dict() for report in reports], indent=2, ensure_ascii=False)
        json_file.write_text(text + "\n", encoding="utf-8")
    failed = [report.name for report in reports if not report.holds]
    print(
        f"{len(reports) - len(failed)} of {len(reports)} reproduced" + (f"; not: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0
