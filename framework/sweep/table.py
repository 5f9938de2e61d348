"""Shows a running sweep: a live table on a terminal, otherwise a line per trial."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from framework.sweep.labels import duration, last_attempts, one_line, short_labels, value_text
from framework.sweep.results import best
from framework.sweep.trial import Trial

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from framework.sweep.spec import Sweep

REFRESH_SECONDS = 0.25
"""Minimum seconds between two redraws."""
FAILURES = 3
"""Number of most recent failures shown."""
VALUE_WIDTH = 16
DONE = ("finished", "stopped", "failed")


class SweepTable:
    """The table of one sweep; a context manager, within which the table is shown.

    Args:
        sweep: The sweep.
        folder: The sweep's folder, shown in the title.
        total: Number of points; ``None`` without a limit.
        workers: Number of trials that run in parallel.
        console: The output; standard output by default.
    """

    def __init__(
        self, sweep: Sweep, folder: str | Path, total: int | None, workers: int, console: Console | None = None
    ) -> None:
        from rich.console import Console

        self.sweep, self.folder, self.total, self.workers = sweep, folder, total, workers
        self.console = console or Console()
        self._labels = short_labels([p.label for p in sweep.parameters if not p.is_constant])
        self._trials: Sequence[Trial] = ()
        self._begun: dict[int, float] = {}  # maps each running trial's point to its start time
        self._drawn = -REFRESH_SECONDS
        self._said: list[str] = []
        self._live: Any = None

    @property
    def _terminal(self) -> bool:
        return self.console.is_terminal and not self.console.is_dumb_terminal

    def __enter__(self) -> Self:
        if self._terminal:
            from rich.live import Live

            self._live = Live(console=self.console, auto_refresh=False, vertical_overflow="ellipsis")
            self._live.start()
        else:
            self._print(self._head())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._speak()
        if self._live is not None:
            self._live.update(self._draw())
            self._live.stop()
            self._live = None

    def update(self, trials: Sequence[Trial], *, force: bool = False) -> None:
        """Redraws the table if it is due; returns immediately otherwise.

        Args:
            trials: All trials of the sweep, in the order of their attempts.
            force: Whether to redraw now.
        """
        self._trials = trials
        self._speak()
        now = time.monotonic()
        if self._live is not None and (force or now - self._drawn >= REFRESH_SECONDS):
            self._drawn = now
            self._live.update(self._draw(), refresh=True)

    def say(self, line: str) -> None:
        """Prints a line above the table at the next update; safe to call in a signal handler."""
        self._said.append(line)

    def _speak(self) -> None:
        while self._said:
            self._print(self._said.pop(0))

    def finished(self, trial: Trial) -> None:
        """Prints how a trial ended, if the output is not a terminal; it may be missing in the last :meth:`update`."""
        if self._terminal:
            return
        trials = last_attempts([*self._trials, trial])
        done = sum(one.state in DONE for one in trials)
        parts = [f"{done}/{self.total}" if self.total is not None else str(done)]
        parts += [f"point {trial.point}", trial.state, duration(trial.seconds)]
        if trial.state not in ("finished", "stopped"):
            parts.append(trial.message + (f" ({trial.log})" if trial.log else ""))
        if self.sweep.metric is not None and (trial.value is not None or trial.state in ("finished", "stopped")):
            text = value_text(trial.value) if trial.value is not None else "never logged"
            top = best(self.sweep, trials)
            so_far = f" (best {value_text(top.value)} at {top.point})" if top is not None else ""
            parts.append(f"{self.sweep.metric.name} {text}{so_far}")
        self._print("  ".join(filter(None, [*parts, self._values(trial)])))

    def summary(self, trials: Sequence[Trial]) -> None:
        """Returns the sweep's result in one line."""
        last = last_attempts(trials)
        counts = Counter(trial.state for trial in last)
        states = [f"{counts[state]} {state}" for state in (*DONE, "interrupted", "running") if counts[state]]
        of = f" of {self.total}" if self.total is not None else ""
        found = f"{len(last)}{of} trials: {', '.join(states)}" if last else "no trials"
        self._print("; ".join(filter(None, [found, self._best(last), str(self.folder)])))

    def _print(self, line: str) -> None:
        self.console.print(one_line(line), markup=False, highlight=False, emoji=False, soft_wrap=True)

    # --- what is shown

    def _head(self) -> str:
        metric = self.sweep.metric
        name = self.sweep.name or Path(self.sweep.path).stem
        goal = f"{metric.goal} {metric.name} (best value of each trial)" if metric is not None else None
        return ", ".join(filter(None, [f"sweep {name}: {self.sweep.method}", goal, f"in {self.folder}"]))

    def _values(self, trial: Trial, width: int | None = None) -> str:
        return "  ".join(
            f"{short}={value_text(trial.values[label], width)}"
            for label, short in self._labels.items()
            if label in trial.values
        )

    def _best(self, last: Sequence[Trial]) -> str:
        top = best(self.sweep, last)
        if top is None or self.sweep.metric is None:
            return ""
        return f"best {self.sweep.metric.name} {value_text(top.value)} at point {top.point}: {self._values(top)}"

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        now = time.monotonic()
        last = last_attempts(self._trials)
        running = [trial for trial in last if trial.state == "running"]
        self._begun = {t.point: self._begun.get(t.point, now - t.seconds) for t in running}
        lines = [Text(one_line(self._head()), style="bold"), self._counts(last, len(running), now)]
        if text := self._best(last):
            lines.append(Text(one_line(text), style="green"))
        failed = [trial for trial in last if trial.state == "failed"][-FAILURES:]
        rows = max(1, self.console.height - len(lines) - len(failed) - 4)
        parts: list[RenderableType] = [*lines]
        if running:
            parts.append(self._running(running[:rows], now))
        if len(running) > rows:
            parts.append(Text(f"and {len(running) - rows} more"))
        for trial in failed:
            place = f"  {trial.log}" if trial.log else ""
            parts.append(Text(one_line(f"point {trial.point} failed: {trial.message}{place}"), style="red"))
        return Group(*parts)

    def _counts(self, last: Sequence[Trial], running: int, now: float) -> Text:
        from rich.text import Text

        counts = Counter(trial.state for trial in last)
        text = Text()
        for state, style in (("finished", "green"), ("stopped", "yellow"), ("failed", "red")):
            if counts[state]:  # with zeros the line would be too long for 80 columns
                text.append(f"{counts[state]} {state}", style=style).append(", ")
        text.append(f"{running} running")
        if self.total is not None:
            waiting = max(0, self.total - running - sum(counts[state] for state in DONE))
            text.append(f", {waiting} waiting; {self.total} in all; time left: ")
            text.append(self._left(last, waiting, now))
        return text

    def _left(self, last: Sequence[Trial], waiting: int, now: float) -> str:
        """Estimates the time left from the mean time of finished trials."""
        seconds = [trial.seconds for trial in last if trial.state in DONE]
        if not seconds:
            return "unknown"
        mean = sum(seconds) / len(seconds)
        begun = [max(0.0, mean - (now - start)) for start in self._begun.values()]
        work = mean * waiting + sum(begun)
        return duration(max(work / max(1, self.workers), *begun, 0.0))

    def _running(self, running: Sequence[Trial], now: float) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        grid = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        for column in ("point", "worker", "time"):
            grid.add_column(column, no_wrap=True)
        if self.sweep.metric is not None:
            grid.add_column("values", no_wrap=True, justify="right")
            grid.add_column("last", no_wrap=True, justify="right")
        grid.add_column("parameters", no_wrap=True, overflow="ellipsis")
        for trial in running:
            elapsed = duration(now - self._begun[trial.point])
            metric = []
            if self.sweep.metric is not None:
                metric = [str(trial.count), "" if trial.last is None else value_text(trial.last)]
            cells = [str(trial.point), trial.worker, elapsed, *metric, self._values(trial, VALUE_WIDTH)]
            grid.add_row(*(Text(one_line(cell)) for cell in cells))
        return grid
