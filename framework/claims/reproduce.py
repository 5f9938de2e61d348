"""``reproduce METHOD``: runs a paper's claims on this machine and reports which hold."""

from __future__ import annotations

import json
import shutil
import time
import traceback
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from framework import catalogue
from framework.claims import Claim, Reproduction
from framework.errors import UserError
from framework.pages.results import measured_text


@dataclass
class ClaimsReport:
    """The results of one method's claims.

    Attributes:
        name: The method.
        claims: Every claim, measured.
        times: Wall-clock seconds of each claim.
        seconds: Total wall-clock seconds.
        figures: Paths of the figures.
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
        """Whether it finished with at least one claim, and every claim holds."""
        return not self.error and bool(self.claims) and all(claim.holds for claim in self.claims)

    def as_dict(self) -> dict[str, Any]:
        """Returns plain data for the JSON file; NaN is written as null."""
        rows = [
            {
                "claim": claim.text,
                "paper": claim.paper,
                "measured": claim.measured if claim.measured == claim.measured else None,
                "tolerance": claim.bound.text,
                "holds": claim.holds,
                "scale": claim.scale,
                "seeds": claim.seeds,
                **({"values": [v if v == v else None for v in claim.values]} if claim.values else {}),
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
    """Maps the name of every method or technique with claims to the claims' module path."""
    entries = [*catalogue.method_entries(), *catalogue.technique_entries()]
    return {entry.name: entry.claims for entry in entries if entry.claims}


def find_claims(name: str) -> str:
    """Imports the claims' module of ``name``: one of :func:`claims_modules`, or a module path (``lab.claims``).

    Raises:
        UserError: ``name`` is neither.
    """
    known = claims_modules()
    if name in known:
        return known[name]
    if "." in name:
        try:
            found = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # of a module that the claims import
            raise UserError(f"reproduce: no module {name!r}: {error}") from error
        if not callable(getattr(found, "claims", None)):
            raise UserError(f"reproduce: {found.__file__} has no function claims(run), see framework.claims")
        return name
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"with claims: {', '.join(sorted(known))}"
    raise UserError(f"reproduce: {name!r} is not a method with claims; {hint}")


def reproduce(name: str, folder: Path) -> ClaimsReport:
    """Runs the claims of one method.

    Args:
        name: The method, as in :func:`find_claims`.
        folder: Folder of figures, ``runs`` and ``claims.json``; what an earlier reproduction left there is replaced,
            and its runs are deleted.

    Returns:
        The report. An exception is printed and saved in it, so that later methods still run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(folder / "runs", ignore_errors=True)  # the claims name some of their runs, which would be taken
    run = Reproduction(folder)
    start = last = time.perf_counter()
    claims: list[Claim] = []
    times: list[float] = []
    error = ""
    try:
        for claim in import_module(find_claims(name)).claims(run):
            measured = measured_text(claim.measured, claim.values)
            print(
                f"  {'holds' if claim.holds else 'FAILS':<6} {claim.text}: {measured} ({claim.bound.text})", flush=True
            )
            claims.append(claim)
            times.append(time.perf_counter() - last)
            last = time.perf_counter()
    except Exception as exception:
        traceback.print_exc()
        error = type(exception).__name__
    report = ClaimsReport(name, claims, times, time.perf_counter() - start, run.figures, error)
    (folder / "claims.json").write_text(
        json.dumps(report.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    return report
