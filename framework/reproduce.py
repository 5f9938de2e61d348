"""``reproduce METHOD``: runs a paper's claims on this machine and says which hold."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from framework import catalogue
from framework.claims import Claim, Reproduction
from framework.errors import UserError
from framework.options import read_options
from framework.results import write_page, write_record

USAGE = """usage: framework reproduce METHOD... | MODULE... | --all [--json FILE] [--folder DIR]

  METHOD        a method or technique with claims; list shows them
  MODULE        a module of your own with a function claims(run), such as lab.claims
  --all         every method and technique with claims
  --json FILE   every claim, measured, for programs
  --folder DIR  where figures, runs and claims.json go; runs/reproduce by default

The exit code is 1 if a claim fails.
"""


@dataclass
class Report:
    """The outcome for one method.

    Attributes:
        name: The method.
        claims: Every claim, measured.
        times: Wall-clock seconds that each claim took, after the one before it.
        seconds: Wall-clock time of all.
        figures: Paths of its figures.
        error: The exception that ended it before its last claim, or empty.
    """

    name: str
    claims: list[Claim]
    times: list[float]
    seconds: float
    figures: list[Path]
    error: str = ""

    @property
    def holds(self) -> bool:
        """Whether it came to its end with at least one claim, and every one holds."""
        return not self.error and bool(self.claims) and all(claim.holds for claim in self.claims)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the JSON file; a NaN is written as null."""
        rows = [
            {
                "claim": claim.text,
                "paper": claim.paper,
                "measured": claim.measured if claim.measured == claim.measured else None,
                "tolerance": claim.bound.text,
                "holds": claim.holds,
                "scale": claim.scale,
                "seeds": claim.seeds,
                "seconds": round(seconds, 1),
                **({"details": claim.details} if claim.details else {}),
            }
            for claim, seconds in zip(self.claims, self.times, strict=True)
        ]
        return {
            "method": self.name,
            "holds": self.holds,
            **({"error": self.error} if self.error else {}),
            "seconds": round(self.seconds, 1),
            "claims": rows,
            "figures": [str(path) for path in self.figures],
        }


def claims_modules() -> dict[str, str]:
    """Name of every method or technique that has claims, to their module path."""
    entries = [*catalogue.method_entries(), *catalogue.technique_entries()]
    return {entry.name: entry.claims for entry in entries if entry.claims}


def find_claims(name: str) -> str:
    """The module of the claims of ``name``: one of :func:`claims_modules`, or itself a module path (``lab.claims``).

    Raises:
        UserError: it is neither.
    """
    known = claims_modules()
    if name in known:
        return known[name]
    if "." in name:
        try:
            found = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # of something that the claims import
            raise UserError(f"reproduce: no module {name!r}: {error}") from error
        if not callable(getattr(found, "claims", None)):
            raise UserError(f"reproduce: {found.__file__} has no function claims(run), see framework.claims")
        return name
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"with claims: {', '.join(sorted(known))}"
    raise UserError(f"reproduce: {name!r} is no method with claims; {hint}")


def reproduce(name: str, folder: Path) -> Report:
    """Runs the claims of one method.

    Args:
        name: What :func:`find_claims` takes.
        folder: Where figures, runs and ``claims.json`` go.

    Returns:
        The outcome. An exception on the way is printed and noted in it, so that the methods after it still run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = Reproduction(folder)
    start = last = time.perf_counter()
    claims: list[Claim] = []
    times: list[float] = []
    error = ""
    try:
        for claim in import_module(find_claims(name)).claims(run):
            print(
                f"  {'holds' if claim.holds else 'FAILS':<6} {claim.text}: {claim.measured:.4g} ({claim.bound.text})",
                flush=True,
            )
            claims.append(claim)
            times.append(time.perf_counter() - last)
            last = time.perf_counter()
    except Exception as exception:
        traceback.print_exc()
        error = type(exception).__name__
    report = Report(name, claims, times, time.perf_counter() - start, run.figures, error)
    (folder / "claims.json").write_text(
        json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return report


def print_table(report: Report) -> None:
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
    known = claims_modules()
    names = sorted(known) if "all" in options.flags else options.words
    if not names:
        raise UserError(f"reproduce: a method is needed; with claims: {', '.join(sorted(known)) or 'none'}")
    for name in names:
        find_claims(name)
    folder, page = Path(options.last("folder", "runs/reproduce")), options.last("page")
    reports = []
    for name in names:
        print(f"{name}:", flush=True)
        report = reproduce(name, folder / name)
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
