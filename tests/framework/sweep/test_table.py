"""What the table says, on a terminal and elsewhere, and how often it draws."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from framework.sweep import spec, table
from framework.sweep.table import SweepTable
from framework.sweep.trial import Trial

FILE = """
program: train.py
method: bayes
name: digits
metric: {name: val/accuracy, goal: maximize}
parameters:
  model.lr: {distribution: log_uniform_values, min: 1.0e-5, max: 0.1}
  model.optimizer.name: {values: [adamw, a very long name of an optimizer]}
  fixed: {value: 7}
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(table.time, "monotonic", clock.monotonic)
    return clock


def sweep(text: str = FILE) -> spec.Sweep:
    path = Path("digits.yaml")
    path.write_text(text)
    return spec.read(path)


def trial(point: int, state: str, value: float | None = None, **facts) -> Trial:
    values = {"model.lr": 0.012345678, "model.optimizer.name": "adamw", "fixed": 7} | facts.pop("values", {})
    return Trial(point, state, values, value=value, **facts)


class Screen:
    """A terminal whose drawings can be read."""

    def __init__(self, width: int = 120, height: int = 40) -> None:
        self.file = io.StringIO()
        self.console = Console(
            file=self.file, force_terminal=True, width=width, height=height, _environ={"TERM": "xterm"}
        )

    def last(self) -> list[str]:
        """The lines of the last drawing."""
        drawing = re.split(r"\x1b\[2K(?!.*\x1b\[2K)", self.file.getvalue(), flags=re.DOTALL)[-1]
        return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", drawing).splitlines()]


def plain() -> Console:
    return Console(file=io.StringIO(), force_terminal=False, width=40, _environ={})


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


TRIALS = [
    trial(0, "finished", 0.9, seconds=10.0),
    trial(1, "stopped", 0.95, seconds=20.0),
    trial(2, "failed", seconds=30.0, message="UserError: \x1b[31mno\nsuch", log="sweeps/digits/logs/0002.log"),
    trial(3, "interrupted"),
    trial(4, "running", count=2, last=0.71828, worker="host:1", values={"model.optimizer.name": "a very long name of an optimizer"}),
    trial(3, "running", worker="host:0"),
]  # fmt: skip


def test_the_drawing(clock):
    screen = Screen()
    with SweepTable(sweep(), "sweeps/digits", 12, 2, screen.console) as shown:
        shown.update(TRIALS)
        clock.now += 65.0
        shown.update(TRIALS)
        lines = screen.last()
    assert lines[:3] == [
        "sweep digits: bayes, maximize val/accuracy (best value of each trial), in sweeps/digits",
        "1 finished, 1 stopped, 1 failed, 2 running, 7 waiting; 12 in all; time left: 1 min 10 s",  # 7 x 20 s / 2
        "best val/accuracy 0.95 at point 1: lr=0.01235  name=adamw",
    ]
    assert [line.split() for line in lines[3:6]] == [
        ["point", "worker", "time", "values", "last", "parameters"],
        ["3", "host:0", "1", "min", "05", "s", "0", "lr=0.01235", "name=adamw"],
        ["4", "host:1", "1", "min", "05", "s", "2", "0.7183", "lr=0.01235", "name=a", "very", "long", "nam…"],
    ]
    assert lines[6] == "point 2 failed: UserError: no such  sweeps/digits/logs/0002.log"
    assert len(lines) == 7


def test_time_left(clock):
    def left(trials: list[Trial], total: int | None, workers: int) -> str:
        screen = Screen()
        with SweepTable(sweep(), "f", total, workers, screen.console) as shown:
            shown.update(trials, force=True)
            counts = screen.last()[1]
        return counts.partition("time left: ")[2]

    done = [trial(i, "finished", 0.5, seconds=60.0) for i in range(3)]
    screen = Screen()
    with SweepTable(sweep(), "f", 9, 2, screen.console) as shown:
        shown.update(done, force=True)
        assert screen.last()[1] == "3 finished, 0 running, 6 waiting; 9 in all; time left: 3 min 00 s"
    assert left([], 10, 2) == "unknown"
    assert left([trial(0, "running")], 10, 2) == "unknown"
    assert left(done, None, 2) == ""
    assert left(done, 3, 2) == "0.0 s"
    assert left(done, 9, 2) == "3 min 00 s"
    assert left(done, 9, 6) == "1 min 00 s"
    assert left([*done, trial(3, "running", seconds=40.0)], 4, 8) == "20.0 s"
    assert left([*done, trial(3, "running", seconds=40.0)], 5, 1) == "1 min 20 s"
    assert left([*done, trial(3, "running", seconds=90.0)], 4, 8) == "0.0 s"


def test_at_most_four_drawings_a_second(clock, monkeypatch):
    screen = Screen()
    drawn = []
    draw = SweepTable._draw
    monkeypatch.setattr(SweepTable, "_draw", lambda self: drawn.append(clock.now) or draw(self))
    with SweepTable(sweep(), "f", 12, 2, screen.console) as shown:
        for _ in range(1000):
            shown.update(TRIALS)
            clock.now += 0.01
        assert 36 <= len(drawn) <= 40
        before = len(drawn)
        shown.update(TRIALS, force=True)
        assert len(drawn) == before + 1


def test_it_fits_on_the_screen(clock):
    screen = Screen(width=60, height=15)
    trials = [trial(i, "running", worker=f"host:{i}") for i in range(50)]
    trials += [trial(50 + i, "failed", message="m" * 10) for i in range(9)]
    with SweepTable(sweep(), "f", None, 50, screen.console) as shown:
        shown.update(trials, force=True)
        lines = screen.last()
    assert len(lines) <= 15
    (more,) = [line for line in lines if line.startswith("and ")]
    rows = [line for line in lines if "host:" in line]
    assert more == f"and {50 - len(rows)} more"
    assert [line for line in lines if "failed:" in line] == [f"point {50 + i} failed: mmmmmmmmmm" for i in (6, 7, 8)]
    assert max(map(len, lines)) <= 60


def test_on_a_terminal_the_end_is_one_line_below_the_table(clock):
    screen = Screen()
    with SweepTable(sweep(), "f", 12, 2, screen.console) as shown:
        shown.update(TRIALS)
        shown.finished(TRIALS[0])
    shown.summary(TRIALS)
    lines = screen.last()
    assert sum("finished" in line for line in lines) == 2
    assert lines[-1].startswith("5 of 12 trials: 1 finished, 1 stopped, 1 failed, 2 running; best val/accuracy 0.9")


def test_lines_elsewhere(clock):
    console = plain()
    trials: list[Trial] = []
    with SweepTable(sweep(), "sweeps/digits", 12, 2, console) as shown:
        for one in TRIALS[:4]:
            shown.update(trials)
            shown.finished(one)
            trials.append(one)
    shown.summary(trials)
    text = text_of(console)
    assert text.splitlines() == [
        "sweep digits: bayes, maximize val/accuracy (best value of each trial), in sweeps/digits",
        "1/12  point 0  finished  10.0 s  val/accuracy 0.9 (best 0.9 at 0)  lr=0.01235  name=adamw",
        "2/12  point 1  stopped  20.0 s  val/accuracy 0.95 (best 0.95 at 1)  lr=0.01235  name=adamw",
        "3/12  point 2  failed  30.0 s  UserError: no such (sweeps/digits/logs/0002.log)  lr=0.01235  name=adamw",
        "3/12  point 3  interrupted  0.0 s  lr=0.01235  name=adamw",
        "4 of 12 trials: 1 finished, 1 stopped, 1 failed, 1 interrupted; "
        "best val/accuracy 0.95 at point 1: lr=0.01235  name=adamw; sweeps/digits",
    ]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def test_each_line_is_flushed(clock):
    class Counting(io.StringIO):
        seen = ""

        def flush(self) -> None:
            self.seen = self.getvalue()

    file = Counting()
    with SweepTable(sweep(), "f", None, 1, Console(file=file, force_terminal=False, _environ={})) as shown:
        shown.finished(TRIALS[0])
        assert file.seen.splitlines()[-1].startswith("1  point 0  finished")


def test_without_a_metric(clock):
    text = FILE.replace("bayes", "random").replace("metric: {name: val/accuracy, goal: maximize}", "")
    console, screen = plain(), Screen()
    with SweepTable(sweep(text), "f", 3, 1, console) as shown:
        shown.finished(trial(0, "finished", seconds=1.0))
    shown.summary([])
    assert text_of(console).splitlines() == [
        "sweep digits: random, in f", "1/3  point 0  finished  1.0 s  lr=0.01235  name=adamw", "no trials; f"]  # fmt: skip
    with SweepTable(sweep(text), "f", 3, 1, screen.console) as shown:
        shown.update([trial(0, "running", worker="h:0")])
        assert screen.last()[2].split() == ["point", "worker", "time", "parameters"]


def test_a_trial_that_never_logged_its_metric(clock):
    console = plain()
    SweepTable(sweep(), "f", 3, 1, console).finished(trial(0, "finished"))
    assert "  val/accuracy never logged  " in text_of(console)


@pytest.mark.parametrize("terminal", [True, False])
def test_what_is_said_waits_for_the_next_update(clock, terminal):
    console = Screen().console if terminal else plain()
    with SweepTable(sweep(), "f", 3, 1, console) as shown:
        shown.say("ending :smile: [bold]")
        assert "ending" not in text_of(console)
        shown.update(TRIALS)
        assert "ending :smile: [bold]\n" in text_of(console)
        shown.say("at the end")
    assert "at the end\n" in text_of(console)


def test_an_error_within_leaves_the_table_and_the_cursor(clock):
    screen = Screen()

    def broken() -> None:
        with SweepTable(sweep(), "f", 3, 1, screen.console) as shown:
            shown.update(TRIALS)
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert screen.file.getvalue().rstrip().endswith("\x1b[?25h")
