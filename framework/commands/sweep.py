"""``sweep FILE``: runs a W&B sweep file on this machine without an account."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework import paths
from framework.commands.options import CommandParser, number
from framework.errors import UserError

if TYPE_CHECKING:
    from framework.sweep.spec import Sweep


def command_line() -> CommandParser:
    """Builds the command's parser."""
    parser = CommandParser(
        "sweep",
        "FILE [OPTION...]",
        "Runs a W&B sweep file on this machine, without an account.",
        "grid, random and hyperband follow W&B's rules; bayes is Optuna's TPE, not W&B's Gaussian process. See "
        "docs/sweeps.md.",
    )
    parser.add_argument(
        "file", nargs="*", metavar="FILE", help="a W&B sweep file, or the short name of a shipped one (sweeps/s4d_init)"
    )
    parser.add_argument(
        "--count",
        type=_whole(1),
        metavar="N",
        help="total number of trials; random and bayes need it, or run_cap in the file",
    )
    parser.add_argument(
        "--workers",
        type=_whole(1),
        metavar="K",
        help="trials that run in parallel, each in its own process; default: one per GPU, one without a GPU",
    )
    parser.add_argument(
        "--storage",
        metavar="PLACE",
        help="where trials are saved: a journal file (FOLDER/journal.log by default), or the URL of a database that "
        "several machines share (postgresql+psycopg2://user@host/name, mysql+pymysql://..., sqlite:///file)",
    )
    parser.add_argument(
        "--folder",
        metavar="DIR",
        help="folder of logs, runs, tables and figures, and the sweep's name; default: sweeps/<stem of FILE>",
    )
    parser.add_argument("--seed", type=_whole(0), metavar="N", help="seed of random and bayes; default: 0")
    parser.add_argument(
        "--resume", action="store_true", help="resume the sweep of this name, or join it from another machine"
    )
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code is 0, 1 if no trial finished, 130 or 143 for a signal.

    Raises:
        UserError: an option or the file is wrong, the sweep exists already, or its first trials all failed.
    """
    parser = command_line()
    options = parser.read(arguments)
    if options is None:
        return 0
    given, resume, count = parser.only(options.file, "one sweep file"), options.resume, options.count
    from framework.sweep.spec import read

    file = paths.find_config(given, sweep=True)
    sweep = read(file)
    _check(sweep)
    folder = Path(options.folder or Path("sweeps") / file.stem)
    limits = [limit for limit in (sweep.grid_size(), sweep.run_cap, count) if limit is not None]
    if not limits:
        raise UserError(f"sweep: {file} has no end; give --count N, or run_cap in the file")
    from framework.sweep.figures import draw
    from framework.sweep.storage import open_storage
    from framework.sweep.study import Study
    from framework.sweep.supervisor import Supervisor, default_workers
    from framework.sweep.table import SweepTable

    workers = options.workers or default_workers()
    place = options.storage or folder / "journal.log"
    # a kill at the very start leaves an empty file
    if not resume and not options.storage and Path(place).exists() and Path(place).stat().st_size:
        raise UserError(f"sweep: {folder} holds a sweep already: --resume resumes it, --folder DIR starts another")
    if resume and not options.storage and not Path(place).exists():
        raise UserError(f"--resume: there is no sweep in {folder} ({place} is missing); give its folder with --folder")
    storage = open_storage(place)
    study = Study(sweep, storage, folder.name, options.seed or 0, resume)
    if options.seed not in (None, study.seed):
        parser.error(f"--seed {options.seed}: the sweep to resume uses seed {study.seed}")
    _make_folder(folder, file, resume)
    limit = min(limits)
    if count is not None and count > limit:
        print(f"--count {count}: the sweep has {limit} trials, by its run_cap or as a grid", flush=True)
    with SweepTable(sweep, folder, limit, workers) as table:
        supervisor = Supervisor(sweep, study, folder, workers, limit, table)
        try:
            code = supervisor.run()
        finally:
            table.update(supervisor.trials, force=True)
        draw(sweep, supervisor.trials, study.optuna, folder / "figures")
    table.summary(supervisor.trials)
    return code


def _check(sweep: Sweep) -> None:
    """Raises for mistakes that would make every trial fail."""
    from framework.sweep import command
    from framework.sweep.supervisor import OURS

    values = {p.label: p.grid_value(0) if sweep.method == "grid" else p.ppf(0.5) for p in sweep.parameters}
    argv = command.expand(sweep, sweep.nested(values), params_file=Path(os.devnull))
    if command.framework_arguments(argv) is not None:
        for label in OURS:
            if label in values:
                raise UserError(f"{sweep.path}: parameters.{label}: the sweep gives it to each trial itself")


def _whole(least: int) -> Callable[[str], int]:
    return number(int, lambda value: value >= least, f"a whole number of at least {least} is needed")


def _make_folder(folder: Path, file: Path, resume: bool) -> None:
    copy = folder / "sweep.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not (resume and copy.exists()):
            shutil.copyfile(file, copy)
    except shutil.SameFileError:
        return
    except OSError as error:
        raise UserError(f"--folder: {folder} cannot be written: {error.strerror}") from error
