"""``reproduce METHOD... | --all``: checks papers' claims on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from framework.claims import reproduce
from framework.commands.options import CommandParser
from framework.errors import UserError
from framework.pages.results import measured_text, write_page, write_record


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
        cells = (
            claim.text,
            claim.paper,
            measured_text(claim.measured, claim.values),
            claim.bound.text,
            verdict,
            claim.scale,
        )
        table.add_row(*map(escape, cells))
    console = Console()
    # Without a terminal a table would be cut to 80 columns.
    (console if console.is_terminal else Console(width=160)).print(table)


def command_line() -> CommandParser:
    """Builds the command's parser."""
    parser = CommandParser(
        "reproduce",
        "METHOD... | MODULE... | --all [OPTION...]",
        "Checks papers' claims on this machine.",
        "The exit code is 1 if a claim fails.",
    )
    parser.add_argument(
        "methods",
        nargs="*",
        metavar="METHOD",
        help="a method or technique with claims, as list shows them, or a module of your own with a function "
        "claims(run), such as lab.claims",
    )
    parser.add_argument("--all", action="store_true", help="every method and technique with claims")
    parser.add_argument("--json", metavar="FILE", help="file for every claim with its measured value, as JSON")
    parser.add_argument(
        "--folder",
        default="runs/reproduce",
        metavar="DIR",
        help="folder for figures, runs and claims.json; default: %(default)s",
    )
    parser.add_argument(
        "--page",
        metavar="FILE",
        help="the page of results to update, such as docs/results.md",
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code is 1 if a claim fails.

    Raises:
        UserError: an option is not accepted, no method is given, or a method has no claims.
    """
    options = command_line().read(arguments)
    if options is None:
        return 0
    known = reproduce.claims_modules()
    names = sorted(known) if options.all else options.methods
    if not names:
        raise UserError(f"reproduce: a method is needed; with claims: {', '.join(sorted(known)) or 'none'}")
    for name in names:
        reproduce.find_claims(name)
    folder = Path(options.folder)
    reports = []
    for name in names:
        print(f"{name}:", flush=True)
        report = reproduce.reproduce(name, folder / name)
        reports.append(report)
        print_table(report)
        print(f"claims and figures in {folder / name}\n", flush=True)
        if options.page:  # after each method, so that its results are kept if a later one fails
            write_record(Path(options.page), report.as_dict())
            write_page(Path(options.page))
    if options.json:
        json_file = Path(options.json)
        json_file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps([report.as_dict() for report in reports], indent=2, ensure_ascii=False)
        json_file.write_text(text + "\n", encoding="utf-8")
    failed = [report.name for report in reports if not report.holds]
    print(
        f"{len(reports) - len(failed)} of {len(reports)} reproduced" + (f"; not: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0
