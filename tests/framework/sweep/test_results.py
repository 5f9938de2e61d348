"""trials.csv as csv and pandas read it back, and best.yaml as the command takes it."""

from __future__ import annotations

import csv
import io
import json
import random
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from framework.__main__ import main
from framework.config import yaml12
from framework.config.compose import read_command_line
from framework.sweep import figures, spec
from framework.sweep.results import best, write_best, write_trials
from framework.sweep.table import SweepTable
from framework.sweep.trial import Trial
from framework.tracking.trial_report import TrialReport, Watch

FILE = """
program: train.py
method: random
metric: {name: val/loss, goal: GOAL}
parameters:
  model.lr: {distribution: log_uniform_values, min: 1.0e-5, max: 0.1}
  sizes: {values: [[1, 2], [3]]}
  seconds: {values: [1, 2]}
  fixed: {value: 7}
  opt:
    parameters:
      name: {values: [adam, "a, \\"b\\"\\n", null]}
      deep: {parameters: {beta: {min: 0.0, max: 1.0}}}
"""


def sweep(goal: str = "minimize", text: str = FILE) -> spec.Sweep:
    path = Path("my sweep.yaml")
    path.write_text(text.replace("GOAL", goal))
    return spec.read(path)


def trial(point: int, state: str = "finished", value: float | None = None, **facts) -> Trial:
    values = {
        "model.lr": 10.0**-point, "sizes": [1, 2], "seconds": 2, "fixed": 7, "opt.name": "adam", "opt.deep.beta": 0.1 + 0.2,
    }  # fmt: skip
    return Trial(point, state, values | facts.pop("values", {}), value=value, **facts)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table(tmp_path):
    trials = [
        trial(1, "interrupted", 9.0),
        trial(0, "finished", 0.25, count=3, last=0.3, seconds=1.23456, folder="t/0000"),
        trial(3, "failed", message='broke, "badly"', values={"opt.name": 'a, "b"\n'}),
        trial(1, "stopped", 0.5, count=1, last=0.5),
        trial(2, "interrupted"),
        Trial(4, "running"),
    ]
    path = write_trials(tmp_path / "new", sweep(), trials)
    found = rows(path)
    assert list(found[0]) == [
        "point", "state", "val/loss", "last", "model.lr", "opt.deep.beta", "opt.name", "parameters.seconds", "sizes",
        "seconds", "folder", "message",
    ]  # fmt: skip
    assert [(row["point"], row["state"]) for row in found] == [
        ("0", "finished"), ("1", "stopped"), ("2", "interrupted"), ("3", "failed"), ("4", "running")]  # fmt: skip
    first, _, third, fourth, fifth = found
    assert (float(first["val/loss"]), float(first["last"]), first["seconds"]) == (0.25, 0.3, "1.235")
    assert float(first["opt.deep.beta"]) == 0.1 + 0.2  # every digit
    assert json.loads(first["sizes"]) == [1, 2]
    assert (first["parameters.seconds"], first["folder"], first["message"]) == ("2", "t/0000", "")
    assert (third["val/loss"], third["last"]) == ("", "")
    assert fourth["opt.name"] == 'a, "b"\n'
    assert fourth["message"] == 'broke, "badly"'
    assert fifth["model.lr"] == ""
    assert list(path.parent.iterdir()) == [path]


def test_a_value_of_none_is_not_an_unknown_one(tmp_path):
    (row,) = rows(write_trials(tmp_path, sweep(), [trial(0, values={"opt.name": None})]))
    assert row["opt.name"] == "null"


def test_pandas_reads_the_table(tmp_path):
    pandas = pytest.importorskip("pandas")
    trials = [trial(i, value=i / 3, count=1, last=i / 3) for i in range(20)]
    random.Random(0).shuffle(trials)
    table = pandas.read_csv(write_trials(tmp_path, sweep(), trials), float_precision="round_trip")
    assert list(table["point"]) == list(range(20))
    assert list(table["val/loss"]) == [i / 3 for i in range(20)]


def test_the_columns_do_not_depend_on_the_trials(tmp_path):
    assert rows(write_trials(tmp_path, sweep(), [])) == []
    empty = (tmp_path / "trials.csv").read_text()
    write_trials(tmp_path, sweep(), [trial(0)])
    assert (tmp_path / "trials.csv").read_text().splitlines()[0] == empty.splitlines()[0]


def test_without_a_metric_its_columns_are_left_out(tmp_path):
    text = "\n".join(line for line in FILE.splitlines() if not line.startswith("metric"))
    (row,) = rows(write_trials(tmp_path, sweep(text=text), [trial(0)]))
    assert "last" not in row
    assert list(row)[:3] == ["point", "state", "model.lr"]
    assert best(sweep(text=text), [trial(0, value=1.0)]) is None


@pytest.mark.parametrize(("goal", "expected"), [("minimize", 2), ("maximize", 1)])
def test_the_best_one(goal, expected):
    far = -5.0 if goal == "minimize" else 5.0
    trials = [
        trial(4, value=0.2), trial(2, value=0.2), trial(1, value=0.8), trial(3, value=0.8), trial(8, value=0.5),
        trial(6, "failed", None), trial(7, value=None), trial(0, value=float("nan")), trial(9, "running", far),
        trial(10, "interrupted", far), trial(10, "running", None),
    ]  # fmt: skip
    found = best(sweep(goal), trials)
    assert found is not None
    assert found.point == expected


@pytest.mark.parametrize("state", ["stopped", "failed", "interrupted"])
def test_what_a_trial_reached_before_it_was_ended_counts(state):
    trials = [trial(0, value=0.3), trial(1, state, 0.1), trial(2, "failed"), trial(3, "finished", None)]
    assert best(sweep(), trials) is trials[1]
    assert best(sweep(), [*trials, trial(4, value=0.05)]).point == 4
    assert best(sweep(), []) is None


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_all_name_the_same_best_trial_and_value(tmp_path, state, capsys):
    """The table, the summary, trials.csv, best.yaml, the figures and compare, whatever ended the best one."""
    logged = {0: [0.9, 0.4, 0.7], 1: [0.8, 0.11, float("nan"), 0.3], 2: [0.2], 3: [float("inf"), 0.6]}
    states = {0: "finished", 1: state, 2: "stopped", 3: "failed"}
    trials = []
    for point, values in logged.items():
        folder = tmp_path / "trials" / f"{point:04d}"
        folder.mkdir(parents=True)
        rows_ = [json.dumps({"step": step, "val/loss": value}) for step, value in enumerate(values)]
        (folder / "metrics.jsonl").write_text("\n".join(rows_) + "\n")
        (folder / "config.yaml").write_text(f"{{seed_everything: 0, model: {{lr: {10.0**-point!r}}}}}")
        report = TrialReport(Watch("val/loss"))
        for value in values:
            report.add(value)
        end = report.message("end")
        trials.append(
            trial(point, states[point], end["best"], last=end["last"], count=end["count"], folder=str(folder))
        )
    space = sweep()
    console = Console(file=io.StringIO(), width=200)
    SweepTable(space, tmp_path, 4, 1, console).summary(trials)
    assert "best val/loss 0.11 at point 1" in console.file.getvalue()
    table = rows(write_trials(tmp_path, space, trials))
    assert min((float(row["val/loss"]), row["point"]) for row in table) == (0.11, "1")
    text = write_best(tmp_path, space, best(space, trials)).read_text()
    assert f"point 1, {state}" in text
    assert "val/loss = 0.11 (minimize; best value of each trial)" in text
    data = figures._Data(space, trials)
    assert (data.best.point, data.best.value) == (1, 0.11)
    assert figures.best_so_far(data)[1][-1] == 0.11
    assert "best 0.11 at point 1" in figures.history(data).axes[0].get_title()
    place = [str(tmp_path / "trials"), "--best", "min"]
    assert main(["compare", *place, "--json", str(tmp_path / "c.json"), "--figure", str(tmp_path / "c.png")]) == 0
    shown = json.loads((tmp_path / "c.json").read_text())
    assert min((row["mean"], row["group"]) for row in shown) == (0.11, "model.lr=0.1")
    assert [row["mean"] for row in shown] == [trial.value for trial in trials]
    assert "best value of each run (min)" in capsys.readouterr().out


def test_the_best_parameters_of_another_program(tmp_path):
    won = trial(3, value=0.25, folder=str(tmp_path), values={"opt.name": 'a, "b"\n'})
    (tmp_path / "config.yaml").write_text("model: other\n")  # the program's own
    path = write_best(tmp_path / "s", sweep(), won)
    text = path.read_text()
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert header[0] == "# The best trial of the sweep my sweep (my sweep.yaml): point 3, finished."
    assert header[1:] == ["# val/loss = 0.25 (minimize; best value of each trial)", "# Its parameters:"]
    expected = {
        "model.lr": 0.001, "sizes": [1, 2], "seconds": 2, "fixed": 7,
        "opt": {"name": 'a, "b"\n', "deep": {"beta": 0.1 + 0.2}},
    }  # fmt: skip
    assert yaml12.load(text) == expected
    assert yaml.safe_load(text) | {"model.lr": 0.001} == expected
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, "- 1", "{broken", "\x00", "model: {}\nrun: {}\n"])
def test_a_config_that_is_not_ours_is_left_alone(tmp_path, content):
    if content is not None:
        (tmp_path / "config.yaml").write_text(content)
    path = write_best(tmp_path / "s", sweep(), trial(0, value=1.0, folder=str(tmp_path)))
    assert "Its parameters:" in path.read_text()


def test_a_name_cannot_leave_the_header(tmp_path):
    text = FILE + 'name: "a\\nb: 1\\u2028c: 2\\u0085d: 3"\n'
    path = write_best(tmp_path, sweep(text=text), trial(0, value=1.0))
    assert "b" not in yaml12.load(path.read_text())


SETTINGS = [
    "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
    "--trainer.enable_model_summary=false", "--wandb.mode=disabled", "--seed_everything=5",
]  # fmt: skip


def run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


def test_the_best_config_of_ours_runs_as_it_is(tmp_path):
    """A sweep's trial, then its best.yaml by the command: the same config but for the run's place."""
    lr = "--model.optimizer.lr=0.0123"
    place = ["--run.root=sweeps/s", "--run.method=trials", "--run.name=0007", "--wandb.group=abc"]
    run("fit", "--config", "vision/image_classifier_digits", lr, *SETTINGS, *place)
    folder = Path("sweeps/s/trials/0007")
    text = FILE.replace("model.lr", "model.optimizer.lr")
    won = trial(7, value=0.5, folder=str(folder))
    won.values["model.optimizer.lr"] = 0.0123
    path = write_best("sweeps/s", sweep(text=text), won)
    assert "# model.optimizer.lr = 0.0123\n" in path.read_text()
    assert f"# Run it: python -m framework fit --config {path}\n" in path.read_text()
    run("fit", "--config", str(path))
    (again,) = Path("runs/best").iterdir()
    first = yaml12.load((folder / "config.yaml").read_text())
    second = yaml12.load((again / "config.yaml").read_text())
    assert first["run"].pop("root") == "sweeps/s"
    assert second["run"].pop("root") == "runs"
    assert (first["run"].pop("method"), second["run"].pop("method")) == ("trials", "best")
    assert (first["wandb"].pop("group"), second["wandb"].pop("group")) == ("abc", None)
    assert first == second
    assert first["model"]["init_args"]["optimizer"]["lr"] == 0.0123
    lines = (again / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1]) == json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert read_command_line(["--config", str(path)]).problems == []
