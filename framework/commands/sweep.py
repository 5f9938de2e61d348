"""``sweep FILE``: runs a W&B sweep file on this machine, without an account."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from framework import paths
from framework.commands.options import Options, read_options
from framework.errors import UserError

if TYPE_CHECKING:
    from framework.sweep.spec import Sweep

USAGE = """usage: framework sweep FILE [--count N] [--workers K] [--storage PLACE] [--folder DIR] [--seed N] [--resume]

  FILE          a W&B sweep file, or the short name of a shipped one (sweeps/s4d_init)
  --count N     trials that the sweep shall have in all; random and bayes need it, or run_cap in the file
  --workers K   trials at once, each in a process of its own; one for each GPU by default, one without a GPU
  --storage P   where the trials are kept: a journal file (FOLDER/journal.log by default), or the URL of a database that
                several machines share (postgresql+psycopg2://user@host/name, mysql+pymysql://..., sqlite:///file)
  --folder DIR  where logs, runs, tables and figures go, and the sweep's name; sweeps/<stem of FILE> by default
  --seed N      what random and bayes draw their points from; 0 by default
  --resume      go on with the sweep of this name, or join it from another machine

grid, random and hyperband follow W&B's rules; bayes is Optuna's TPE, not W&B's Gaussian process. See docs/sweeps.md.
"""
_OPTIONS = ("count", "workers", "storage", "folder", "seed")


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code is 0, 1 if no trial finished, 130 or 143 for a signal.

    Raises:
        UserError: an option or the file is wrong, the sweep exists already, or its first trials all failed.
    """
    options = read_options("sweep", USAGE, arguments, values=_OPTIONS, flags=("resume",))
    if options is None:
        return 0
    given, resume = options.words, "resume" in options.flags
    if len(given) != 1:
        raise UserError(f"sweep: one sweep file is needed, {len(given)} given: {', '.join(given) or 'none'}")
    from framework.sweep.spec import read

    file = paths.find_config(given[0], sweep=True)
    sweep = read(file)
    _check(sweep)
    folder = Path(options.last("folder") or Path("sweeps") / file.stem)
    count = _whole(options, "count", least=1)
    limits = [limit for limit in (sweep.grid_size(), sweep.run_cap, count) if limit is not None]
    if not limits:
        raise UserError(f"sweep: {file} has no end; give --count N, or run_cap in the file")
    from framework.sweep.figures import draw
    from framework.sweep.storage import open_storage
    from framework.sweep.study import Study
    from framework.sweep.supervisor import Supervisor, default_workers
    from framework.sweep.table import SweepTable

    workers = _whole(options, "workers", least=1) or default_workers()
    place = options.last("storage") or folder / "journal.log"
    # one of no bytes is what a kill at the very start leaves
    if not resume and not options.values["storage"] and Path(place).exists() and Path(place).stat().st_size:
        raise UserError(f"sweep: {folder} holds a sweep already: --resume goes on with it, --folder DIR makes another")
    if resume and not options.values["storage"] and not Path(place).exists():
        raise UserError(f"--resume: there is no sweep in {folder} ({place} is missing); --folder says where it is")
    storage = open_storage(place)
    seed = _whole(options, "seed", least=0)
    study = Study(sweep, storage, folder.name, seed or 0, resume)
    if seed not in (None, study.seed):
        raise UserError(f"sweep: --seed {seed}: the sweep that is to go on draws its points from seed {study.seed}")
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
    """What would go wrong in every trial."""
    from framework.sweep import command
    from framework.sweep.supervisor import OURS

    values = {p.label: p.grid_value(0) if sweep.method == "grid" else p.ppf(0.5) for p in sweep.parameters}
    argv = command.expand(sweep, sweep.nested(values), params_file=Path(os.devnull))
    if command.framework_arguments(argv) is not None:
        for label in OURS:
            if label in values:
                raise UserError(f"{sweep.path}: parameters.{label}: the sweep gives it to each trial itself")


def _whole(options: Options, name: str, least: int) -> int | None:
    text = options.last(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d+", text) or int(text) < least:
        raise UserError(f"sweep: --{name} {text} is not accepted; a whole number of at least {least} is needed")
    return int(text)


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
