"""A paper's claims in a form that can fail.

A method's ``claims.py`` (beside its module) has one function, ``claims(run)``, a generator of :class:`Claim`:

    def claims(run: Reproduction) -> Iterator[Claim]:
        error = ...  # measure
        yield Claim("FFT, recurrence and direct sum agree", paper="equal", measured=error, bound=at_most(1e-10))
        run.figure("memory", figure)

``python -m framework reproduce <method>`` runs it. ``measured`` is always computed; ``paper`` is text for the table.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from framework.runs.experiment import Experiment


@dataclass(frozen=True)
class Bound:
    """A test of a number, and its text in the table."""

    text: str
    holds: Callable[[float], bool]


def at_most(limit: float) -> Bound:
    """Holds for ``x <= limit``; never for NaN."""
    return Bound(f"≤ {limit:g}", lambda x: x <= limit)


def at_least(limit: float) -> Bound:
    """Holds for ``x >= limit``; never for NaN."""
    return Bound(f"≥ {limit:g}", lambda x: x >= limit)


def within(low: float, high: float) -> Bound:
    """Holds for ``low <= x <= high``."""
    return Bound(f"in [{low:g}, {high:g}]", lambda x: low <= x <= high)


def close_to(value: float, *, absolute: float = 0.0, relative: float = 0.0) -> Bound:
    """Holds within ``absolute + relative * |value|`` of ``value``.

    Args:
        value: The expected value.
        absolute: Absolute tolerance.
        relative: Tolerance relative to the value.
    """
    margin = absolute + relative * abs(value)
    return Bound(f"{value:g} ± {margin:g}", lambda x: abs(x - value) <= margin)


@dataclass(frozen=True)
class Claim:
    """One claim: a row of the table.

    Attributes:
        text: The claim, in one line.
        paper: The value in the paper (or of its theory), as text.
        measured: The measured number.
        bound: The bound that it must satisfy.
        scale: ``full`` for the paper's own setting, else how it was reduced (``5,000 digits, 3 epochs``).
        details: Other numbers for the JSON file, for example the value of each seed.
        seeds: Number of random draws, initialisations or orders over which the number is the mean, or the worst.
        values: The number of each of them alone, if it is known: their range is shown beside ``measured``.
    """

    text: str
    paper: str
    measured: float
    bound: Bound
    scale: str = "full"
    details: dict[str, Any] = field(default_factory=dict)
    seeds: int = 1
    values: tuple[float, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether the measured number satisfies the bound; NaN never does."""
        return not math.isnan(self.measured) and bool(self.bound.holds(self.measured))


def over_seeds(
    text: str,
    paper: str,
    values: Sequence[float],
    bound: Bound,
    scale: str = "full",
    details: dict[str, Any] | None = None,
    by: Callable[[Sequence[float]], float] = fmean,
) -> Claim:
    """A claim about one number per seed, which shows their range.

    Args:
        text: The claim.
        paper: The value in the paper.
        values: The number of each seed.
        bound: The bound of ``by(values)``.
        scale: How the setting was reduced.
        details: Other numbers for the JSON file.
        by: Makes one number of all: their mean, or for example ``min``, ``max`` or ``statistics.median``.
    """
    numbers = tuple(map(float, values))
    # in min and max NaN may get lost
    measured = math.nan if any(map(math.isnan, numbers)) else float(by(numbers))
    return Claim(text, paper, measured, bound, scale, details or {}, len(numbers), numbers)


@dataclass
class Reproduction:
    """The argument of ``claims(run)``: its folder, and functions to train and to save figures.

    Attributes:
        folder: Folder of this reproduction's figures and runs.
        figures: The paths written so far.
    """

    folder: Path
    figures: list[Path] = field(default_factory=list)

    def figure(self, name: str, figure: Figure) -> Path:
        """Writes ``<folder>/<name>.png``."""
        from framework.figures import save_figure

        path = save_figure(figure, self.folder / f"{name}.png")
        self.figures.append(path)
        return path

    def fit(self, config: str, *overrides: str, of: Callable[[Experiment, float], Any] | None = None) -> Any:
        """Runs ``fit`` on a shipped config, as the command does, and returns the last value of each logged metric.

        Args:
            config: A path or the short name of a shipped config.
            *overrides: Options as on the command line: ``--model.optimizer.lr=0.01``.
            of: Makes of the trained experiment, and the seconds that its training took, what is returned instead.
        """
        from framework.runs.experiment import build
        from framework.runs.quiet import quiet_lightning

        quiet_lightning()
        _announce(config, overrides)
        where = [f"--run.root={self.folder / 'runs'}", "--wandb.mode=disabled"]
        silent = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
        experiment = build(config, overrides=[*overrides, *where, *silent])
        start = time.perf_counter()
        experiment.fit()
        if of is not None:
            return of(experiment, time.perf_counter() - start)
        return {key: float(value) for key, value in experiment.trainer.callback_metrics.items()}

    def fits(
        self,
        config: str,
        runs: Sequence[Sequence[str]],
        of: Callable[[Experiment, float], Any] | None = None,
    ) -> list[Any]:
        """Runs :meth:`fit` once for each of several lists of overrides, as many at a time as there are cores.

        Each run has one thread, which is faster for small models than one run on all cores after the other.

        Args:
            config: A path or the short name of a shipped config.
            runs: The options of each run.
            of: As in :meth:`fit`; a function of a module, whose result can be sent between processes.
        """
        from joblib import Parallel, cpu_count, delayed
        from joblib.externals.loky import get_reusable_executor

        processes = min(len(runs), cpu_count())
        if processes < 2:
            return [self.fit(config, *overrides, of=of) for overrides in runs]
        for overrides in runs:
            _announce(config, overrides)
        try:  # joblib kills its processes if this one is interrupted
            return Parallel(processes)(delayed(_fit)(self.folder, config, tuple(overrides), of) for overrides in runs)
        finally:
            get_reusable_executor().shutdown(wait=True)  # they would wait for more work


def _announce(config: str, overrides: Sequence[str]) -> None:
    print(f"  fit {config} {' '.join(overrides)}", flush=True)


def _fit(folder: Path, config: str, overrides: tuple[str, ...], of: Callable[[Experiment, float], Any] | None) -> Any:
    """One run of :meth:`Reproduction.fits`, whose output would mix with that of the others."""
    import contextlib

    import torch

    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
        return Reproduction(folder).fit(config, *overrides, of=of)
