"""The command from end to end: trials in workers, what goes wrong in them, kills, and going on."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import wandb
import yaml
from checkout import PYTHONPATH
from forked_processes import ForkedPopen, forked_by, warm_up
from other_processes import alive, descendants_of, wait_until
from resume_harness import in_child
from sweep_toys import PROGRAM, toy_sweep, write

from framework.__main__ import main
from framework.sweep import program, supervisor
from framework.sweep.spec import read as read_sweep
from framework.sweep.storage import open_storage
from framework.sweep.study import Study
from framework.tracking.metrics_log import read_metrics
from framework.tracking.wandb_file import read as read_wandb

FLUSHES = "x_transaction_log_flush_interval" in wandb.Settings.model_fields
"""Whether this W&B (0.31 on) can be told to write what it has every second; older ones do every 15."""


@pytest.fixture(scope="module", autouse=True)
def toys_are_found():
    """By the workers, which are forked where no test is about their start."""
    with pytest.MonkeyPatch.context() as patch, forked_by(supervisor):
        patch.setenv("PYTHONPATH", PYTHONPATH)
        patch.delenv("WANDB_SILENT", raising=False)
        warm_up("fit", "--model=sweep_toys.Toy", "--data=sweep_toys.Data")
        yield


def rows(folder: str = "sweeps/toy") -> dict[int, dict[str, str]]:
    with open(Path(folder) / "trials.csv", newline="") as file:
        return {int(row["point"]): row for row in csv.DictReader(file)}


def wandb_files(folder: Path):
    return [read_wandb(path) for path in sorted(folder.glob("wandb/*run-*/run-*.wandb"))]


def start(*arguments: str, popen: type[subprocess.Popen] = subprocess.Popen) -> subprocess.Popen:
    """The command in a process of its own, which can be killed."""
    with open(f"{arguments[0]}.out", "a") as out:
        return popen([sys.executable, "-m", "framework", "sweep", *arguments], stdout=out, stderr=out)


@pytest.fixture(scope="module")
def crashed(tmp_path_factory):
    """One sweep in which every second trial goes wrong in its own way."""
    folder = tmp_path_factory.mktemp("crashed")
    behaviours = ["ok", "raise", "memory", "kill", "leave", "exit", "nan", "silent"]
    toy_sweep(folder, "toy", parameters={"model.behave": {"values": behaviours}, "seed_everything": {"value": 3}})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        code = main(["sweep", "toy.yaml"])
    return folder, code, behaviours


def test_a_crash_of_one_trial_leaves_the_others_alone(crashed):
    folder, code, behaviours = crashed
    assert code == 0
    table = {row["model.behave"]: row for row in rows(folder / "sweeps/toy").values()}
    assert list(table) == behaviours
    assert {name: row["state"] for name, row in table.items()} == {
        **dict.fromkeys(behaviours, "failed"), "ok": "finished", "leave": "finished"
    }  # fmt: skip
    messages = {name: row["message"] for name, row in table.items()}
    assert messages["raise"] == "RuntimeError: it went wrong"
    assert messages["memory"] == "out of memory; the largest settings: none"
    assert messages["kill"] == "the worker was killed by SIGKILL (out of memory?)"
    assert messages["exit"] == "ended with exit code 3"
    assert messages["nan"].startswith("val/loss is nan after step 1: training has diverged and stops")
    assert messages["silent"].startswith("val/loss was never logged; logged: ")
    assert float(table["ok"]["val/loss"]) == pytest.approx(0.09 + 1 / 3)
    assert float(table["raise"]["val/loss"]) == pytest.approx(0.09 + 1), "what it had logged before"


def test_each_failed_trial_has_its_log(crashed):
    folder, _, behaviours = crashed
    logs = {name: (folder / f"sweeps/toy/logs/{i:04d}.log").read_text() for i, name in enumerate(behaviours)}
    assert "RuntimeError: it went wrong\nwith a second line" in logs["raise"]
    assert "Traceback" in logs["raise"]
    assert "about to die" in logs["kill"]
    assert "Traceback" not in logs["ok"]


def test_a_trial_does_not_depend_on_what_others_left_behind(crashed):
    """What comes after the trial that turned the process's switches equals what came before it."""
    folder, _, behaviours = crashed
    trials = folder / "sweeps/toy/trials"
    values = [
        [row["train/loss"] for row in read_metrics(trials / f"{behaviours.index(name):04d}") if "train/loss" in row]
        for name in ("ok", "leave", "nan", "silent")
    ]
    assert len(values[0]) == 6
    assert values[1][:2] == values[0][:2], "in a new worker, until it turns them"
    assert values[2] == values[0][:2], "the one after it, until it stops"
    assert values[3] == values[0]


def test_every_trial_is_a_closed_run_of_the_sweeps_group(crashed):
    folder, _, behaviours = crashed
    groups = set()
    for index, name in enumerate(behaviours):
        trial = folder / f"sweeps/toy/trials/{index:04d}"
        (run,) = wandb_files(trial)
        if name == "kill" and not FLUSHES:
            continue
        groups.add(run.group)
        assert run.name == f"{index:04d}"
        assert run.config["model.behave"] == name
        assert run.config["seed_everything"] == 3
        assert run.exit_code == {"ok": 0, "leave": 0, "silent": 0, "kill": None}.get(name, 1)
        logged = [row["val/loss"] for row in run.history if "val/loss" in row and name != "nan"]
        expected = [row["val/loss"] for row in read_metrics(trial) if "val/loss" in row and name != "nan"]
        assert logged == expected, "what is older than two seconds survives SIGKILL"
        assert len(expected) == {"ok": 3, "leave": 3, "nan": 0, "silent": 0}.get(name, 1)
    assert len(groups) == 1
    assert len(groups.pop()) == 8


def test_the_best_config_runs_as_it_is(crashed, monkeypatch):
    folder, _, _ = crashed
    monkeypatch.chdir(folder)
    best = yaml.safe_load(Path("sweeps/toy/best.yaml").read_text())
    assert best["model"]["init_args"]["behave"] == "ok"
    assert main(["fit", "--config", "sweeps/toy/best.yaml", "--run.name=again", "--wandb.mode=disabled"]) == 0
    of = {row["step"]: row["val/loss"] for row in read_metrics("sweeps/toy/trials/0000") if "val/loss" in row}
    assert {row["step"]: row["val/loss"] for row in read_metrics("runs/best/again") if "val/loss" in row} == of


def test_killed_and_resumed(tmp_path):
    """SIGKILL of the supervisor: its workers end too; nothing finished is lost or repeated, the rest goes on.

    The supervisor and its worker are started for real, and a trial of theirs equals the same fit in a process of its
    own.
    """
    file = toy_sweep(
        tmp_path, "toy", "--run.resume_every_n_steps=1",
        parameters={"model.behave": {"value": "wait"}, "model.x": {"values": [0.0, 0.1, 0.2]},
                    "seed_everything": {"value": 1}},
    )  # fmt: skip
    process = start("toy.yaml")
    wait_until(lambda: Path("waiting.txt").exists())
    assert Path("sweeps/toy/trials/0001/checkpoints/last.ckpt").exists()
    workers = descendants_of(process.pid)
    assert workers
    process.kill()
    process.wait()
    wait_until(lambda: not any(alive(pid) for pid in workers))
    started = Path("starts.txt").read_text().splitlines()
    assert started == ["0.0 0", "0.1 0"]
    argv = json.loads(file.read_text())["command"][4:-1]
    own = ["--seed_everything=1", "--model.behave=wait", "--run.name=alone", "--run.method=x", "--wandb.mode=disabled"]
    assert in_child(lambda: sys.exit(main([*argv, *own]))) == 0
    assert read_metrics("runs/x/alone") == read_metrics("sweeps/toy/trials/0000")
    with open("sweeps/toy/journal.log", "ab") as file:
        file.write(b'{"op_code": 5, "half a li')
    Path("starts.txt").unlink()
    Path("go").touch()
    assert main(["sweep", "toy.yaml", "--resume"]) == 0
    assert {row["state"] for row in rows().values()} == {"finished"}
    assert len(rows()) == 3
    # the interrupted training went on from its resume point, and no finished trial was run again
    assert Path("starts.txt").read_text().splitlines() == ["0.1 2", "0.2 0"]
    history = [
        [row["val/loss"] for row in read_metrics(f"sweeps/toy/trials/{i:04d}") if "val/loss" in row] for i in range(3)
    ]
    assert all(len(values) == 3 for values in history)
    assert all(float(rows()[i]["val/loss"]) == min(history[i]) for i in range(3))
    for line in Path("sweeps/toy/journal.log").read_text().splitlines():
        json.loads(line)
    with pytest.raises(SystemExit, match="2"):
        sys.exit(main(["sweep", "toy.yaml"]))


def test_ctrl_c_writes_resume_points(tmp_path):
    toy_sweep(
        tmp_path, "toy",
        parameters={"model.behave": {"value": "wait"}, "model.x": {"values": [0.1]}, "seed_everything": {"value": 1}},
    )  # fmt: skip
    process = start("toy.yaml", popen=ForkedPopen)
    wait_until(lambda: Path("waiting.txt").exists())
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert rows()[0]["state"] == "interrupted"
    assert Path("sweeps/toy/trials/0000/checkpoints/last.ckpt").exists()
    Path("go").touch()
    assert main(["sweep", "toy.yaml", "--resume"]) == 0
    assert rows()[0]["state"] == "finished"
    first, second = Path("starts.txt").read_text().splitlines()
    assert first == "0.1 0"
    assert int(second.split()[1]) > 0
    assert len([row for row in read_metrics("sweeps/toy/trials/0000") if "val/loss" in row]) == 3


def test_hyperband_stops_as_wandb_would(tmp_path):
    toy_sweep(
        tmp_path, "toy", "--trainer.max_epochs=6",
        parameters={"model.x": {"values": [0.3, 0.31, 1.3, 2.3]}, "seed_everything": {"value": 1}},
        early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
    )  # fmt: skip
    assert main(["sweep", "toy.yaml"]) == 0
    # at 2 values: of one, two, three and four trials, the first, second, second and third best still goes on
    states = {float(row["model.x"]): row["state"] for row in rows().values()}
    assert states == {0.3: "finished", 0.31: "finished", 1.3: "stopped", 2.3: "stopped"}
    counts = [sum("val/loss" in row for row in read_metrics(f"sweeps/toy/trials/{i:04d}")) for i in range(4)]
    assert counts == [6, 6, 2, 2]
    assert (rows()[2]["val/loss"], rows()[2]["last"]) == (repr(1.5), repr(1.5))


def test_names_reach_everything_a_config_holds(tmp_path):
    """Nested mappings, ``None``, ``True``, lists and techniques by name, through the line that an agent would build."""
    toy_sweep(
        tmp_path, "toy", "--config=callbacks/ema", run_cap=1, method="random",
        parameters={
            "model": {"parameters": {"x": {"value": 0.5}, "options": {"value": {"a": [1, None], "b": True}}}},
            "trainer.max_epochs": {"value": 1},
            "trainer.gradient_clip_val": {"value": None},
            "trainer.accumulate_grad_batches": {"min": 2, "max": 2.5, "distribution": "q_uniform", "q": 2},
            "techniques.ema.decay": {"values": [0.75]},
            "techniques.weight_histogram": {"value": True},
            "seed_everything": {"value": 5},
        },
    )  # fmt: skip
    assert main(["sweep", "toy.yaml"]) == 0
    config = yaml.safe_load(Path("sweeps/toy/trials/0000/config.yaml").read_text())
    assert config["model"]["init_args"] == {"x": 0.5, "behave": "ok", "options": {"a": [1, None], "b": True}}
    assert config["trainer"]["max_epochs"] == 1
    assert config["trainer"]["accumulate_grad_batches"] == 2
    assert config["techniques"]["ema"]["init_args"]["decay"] == 0.75
    assert "weight_histogram" in config["techniques"]
    (run,) = wandb_files(Path("sweeps/toy/trials/0000"))
    assert run.config["model.x"] == 0.5
    assert run.config["techniques.ema.decay"] == 0.75


@pytest.fixture
def forked_programs():
    with forked_by(program):
        yield


@pytest.mark.usefixtures("forked_programs")
def test_a_sweep_ends_at_its_target_and_at_run_cap(tmp_path):
    x = {"x": {"values": [2.0, 0.5, 0.3]}}
    program_sweep(tmp_path, parameters=x, metric={"name": "loss", "target": 0.9})
    assert main(["sweep", "program.yaml"]) == 0
    assert len(rows("sweeps/program")) == 2
    program_sweep(tmp_path, parameters=x, run_cap=2)
    assert main(["sweep", "program.yaml", "--folder", "other", "--count=1"]) == 0
    assert len(rows("other")) == 1
    assert main(["sweep", "program.yaml", "--folder", "other", "--count=3", "--resume"]) == 0
    assert len(rows("other")) == 2


def program_sweep(folder: Path, name: str = "program", **more) -> Path:
    (folder / "train.py").write_text(PROGRAM)
    return write(folder, name, {"program": "train.py", "metric": {"name": "loss"}, "method": "grid", **more})


def test_any_program_runs_as_under_an_agent(tmp_path):
    program_sweep(
        tmp_path, project="thing",
        parameters={"x": {"value": 0.5}, "behave": {"values": ["ok", "exit", "kill"]},
                    "nested": {"parameters": {"y": {"value": 1}}}},
    )  # fmt: skip
    assert main(["sweep", "program.yaml"]) == 0
    table = {row["behave"]: row for row in rows("sweeps/program").values()}
    assert table["ok"]["state"] == "finished"
    assert float(table["ok"]["loss"]) == pytest.approx(0.5 + 1 / 3)
    assert table["exit"]["message"] == "the program ended with exit code 3"
    assert table["kill"]["message"] == "the program was killed by SIGKILL"
    runs = [run for i in range(3) for run in wandb_files(Path(f"sweeps/program/trials/{i:04d}"))]
    if not FLUSHES:
        runs.pop()  # of the killed one there is nothing but the file's head
    assert {len(run.history) for run in runs} == {3}
    assert len({run.group for run in runs}) == 1
    assert {run.project for run in runs} == {"thing"}
    assert all(run.config["nested"] == {"y": 1} for run in runs)
    log = Path("sweeps/program/logs/0000.log").read_text()
    assert "done" in log
    assert yaml.safe_load(Path("sweeps/program/best.yaml").read_text())["x"] == 0.5


@pytest.mark.skipif(not FLUSHES, reason="this W&B writes its file every 15 s, and the program is over by then")
@pytest.mark.usefixtures("forked_programs")
def test_a_program_is_stopped_by_hyperband(tmp_path):
    program_sweep(
        tmp_path, early_terminate={"type": "hyperband", "min_iter": 2, "eta": 2},
        parameters={"x": {"values": [0.5, 0.6, 1.5]}, "pause": {"value": 0.1}, "epochs": {"value": 20}},
    )  # fmt: skip
    assert main(["sweep", "program.yaml"]) == 0
    table = rows("sweeps/program")
    assert [row["state"] for row in table.values()] == ["finished", "finished", "stopped"]
    (run,) = wandb_files(Path("sweeps/program/trials/0002"))
    assert 2 <= len(run.history) < 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.yaml"], "sweep: no file none.yaml; .*s4d_init"),
        (["toy.yaml", "--cuont=3"], "sweep: --cuont=3 is not accepted; accepted: --count"),
        (["toy.yaml", "--count=0"], "--count 0 is not accepted; a whole number of at least 1"),
        (["toy.yaml"], "toy.yaml has no end; give --count N, or run_cap in the file"),
        (["toy.yaml", "--count=1", "--resume"], "there is no sweep in sweeps/toy"),
        (["toy.yaml", "--count=1", "--storage=oracle://x"], "needs a driver|cannot be opened"),
        (["toy.yaml", "--count=1", "--storage=postgresql+psycopg2://nobody@127.0.0.1:1/x"], "cannot be opened: .*refused"),
    ],
)  # fmt: skip
def test_mistakes_are_told(tmp_path, capsys, arguments, message):
    toy_sweep(tmp_path, "toy", method="random", parameters={"model.x": {"min": 0.0, "max": 1.0}})
    assert main(["sweep", *arguments]) == 2
    import re

    assert re.search(message, capsys.readouterr().err)
    assert not Path("sweeps").exists()


def test_a_sweep_does_not_go_on_from_another_seed(tmp_path, capsys):
    file = toy_sweep(tmp_path, "toy", method="random", parameters={"model.x": {"min": 0.0, "max": 1.0}})
    Study(read_sweep(file), open_storage("sweeps/toy/journal.log"), "toy", seed=3)
    assert main(["sweep", "toy.yaml", "--count=1", "--resume", "--seed=4"]) == 2
    assert "--seed 4: the sweep to resume uses seed 3" in capsys.readouterr().err
