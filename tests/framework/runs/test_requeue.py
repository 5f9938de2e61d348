"""A job that SLURM has begun anew goes on with its own run; SLURM is its environment variables and an ``scontrol``."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from forked_processes import warm_up
from lightning.fabric.plugins.environments import LightningEnvironment, SLURMEnvironment
from resume_harness import in_child, same

from framework.__main__ import main
from framework.runs.requeue import begun_run
from framework.tracking.provenance import slurm

COMMAND = ["framework", "fit", "--config", "x"]
FIT = ["fit", "--config", "vision/image_classifier_digits", "--trainer.limit_train_batches=3", "--trainer.max_epochs=2",
       "--trainer.limit_val_batches=1", "--model.backbone_args={width: 16, depth: 1}", "--trainer.log_every_n_steps=1",
       "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--trainer.enable_progress_bar=false",
       "--run.resume_every_n_steps=2", "--wandb.mode=disabled"]  # fmt: skip


@pytest.fixture
def job(monkeypatch):
    """Sets the variables of a job, and of no other."""

    def begin(number, restarts=None, **more):
        for name in [name for name in os.environ if name.startswith("SLURM_")]:
            monkeypatch.delenv(name)
        values = {"JOB_ID": number, "RESTART_COUNT": restarts, **more}
        for name, value in values.items():
            if value is not None:
                monkeypatch.setenv(f"SLURM_{name}", str(value))

    yield begin
    begin(None)


def record(name, *facts):
    Path("runs/m", name).mkdir(parents=True)
    first, *later = facts
    Path("runs/m", name, "provenance.json").write_text(json.dumps({**first, "resumed": later}))


def facts(started="2026-01-01", command=COMMAND, **changes):
    return {"subcommand": "fit", "command": command, "folder": os.getcwd(), "started": started, "slurm": slurm()} | changes  # fmt: skip


def found(command=COMMAND):
    folder = begun_run(Path("runs/m"), command)
    return folder and folder.name


def test_a_job_takes_the_run_that_it_began(job):
    job(7)
    record("mine", facts())
    record("other command", facts(command=[*COMMAND, "--seed_everything=1"]))
    record("other folder", facts(folder="/elsewhere"))
    record("evaluated", facts(subcommand="test"))
    assert found() is None, "it was not begun anew"
    job(8)
    record("other job", facts(started="2026-02-01"))
    job(7, restarts=1)
    assert found() == "mine"
    assert begun_run(Path("runs"), COMMAND) == Path("runs/m/mine"), "where the method is not known"
    job(9, restarts=1)
    assert found() is None
    job(None)
    assert found() is None


def test_tasks_of_an_array_do_not_take_each_others(job):
    for task in (0, 1):
        job(70 + task, ARRAY_JOB_ID=70, ARRAY_TASK_ID=task)
        record(f"task {task}", facts())
    for task in (0, 1):
        job(70 + task, restarts=1, ARRAY_JOB_ID=70, ARRAY_TASK_ID=task)
        assert found() == f"task {task}"
    job(70, restarts=1)
    assert found() is None, "a job of the array's number that is not of the array"


def test_of_several_the_same_step_and_process_is_taken_then_the_newest(job):
    for step, process, day in ((0, 0, 1), (1, 0, 2), (1, 1, 3)):
        job(7, STEP_ID=step, PROCID=process)
        record(f"{step} {process}", facts(f"2026-01-0{day}"))
    for step, process, name in ((0, 0, "0 0"), (1, 0, "1 0"), (1, 1, "1 1"), (5, 0, "1 0")):
        job(7, restarts=2, STEP_ID=step, PROCID=process)
        assert found() == name
    job(7)
    record("goes on", facts("2026-01-01", slurm=None), facts("2026-01-09"))
    job(7, restarts=1)
    assert found() == "goes on", "a run that another process began, and this command went on with"


def test_lightnings_launcher_is_what_it_is_without_these_variables(job):
    import lightning.pytorch as pl

    kinds = []
    for more in ({}, {"NTASKS": 1, "PROCID": 0, "LOCALID": 0, "NODEID": 0}):
        job(7, restarts=1, **more)
        trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        kinds.append(type(trainer._accelerator_connector.cluster_environment))
    assert kinds == [LightningEnvironment, SLURMEnvironment]


def command(*arguments: str, **variables: str) -> int:
    def run() -> None:
        os.environ.update({f"SLURM_{name}": value for name, value in variables.items()})
        sys.exit(main([*FIT, *arguments]))

    return in_child(run)


def last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    warm_up(*FIT)
    root = tmp_path_factory.mktemp("whole")
    assert command(f"--run.root={root}", "--run.method=m", "--run.name=whole") == 0
    return root / "m" / "whole"


SRUN = {"NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0", "STEP_ID": "0"}


@pytest.mark.parametrize(
    ("name", "signum", "variables", "code"),
    [
        ([], signal.SIGKILL, {}, 137),
        (["--run.name=mine"], signal.SIGTERM, SRUN, 143),
        ([], signal.SIGUSR1, SRUN, 138),
    ],
)
def test_the_same_command_ends_as_if_it_had_not_been_stopped(whole, monkeypatch, job, name, signum, variables, code):
    asked = Path("scontrol.txt").resolve()
    Path("scontrol").write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    Path("scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{Path.cwd()}{os.pathsep}{os.environ['PATH']}")
    kill = {"class_path": "resume_harness.Kill", "hook": "on_train_batch_start", "count": 5, "signum": int(signum)}
    line = [*name, "--run.method=m", f"--techniques.stop={kill}"]  # a resumed process does not come to its fifth batch
    assert command(*line, JOB_ID="7", **variables) == code
    assert asked.exists() == (signum == signal.SIGUSR1)
    if asked.exists():
        assert asked.read_text() == "requeue 7\n"
    (folder,) = Path("runs/m").iterdir()
    assert 0 < last(folder)["global_step"] < 6
    assert command(*line, JOB_ID="7", RESTART_COUNT="1", **variables) == 0
    assert list(Path("runs/m").iterdir()) == [folder]
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "global_step"):
        assert same(last(folder)[key], last(whole)[key]), key
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_killed_before_the_first_point_it_begins_anew_in_its_own_folder(job):
    kill = {"class_path": "resume_harness.Kill", "hook": "on_train_batch_start", "count": 1}
    line = ["--run.method=m", f"--techniques.stop={kill}"]
    assert command(*line, JOB_ID="7") == 137
    assert command(*line, JOB_ID="7", RESTART_COUNT="1") == 137
    assert len(list(Path("runs/m").iterdir())) == 1
