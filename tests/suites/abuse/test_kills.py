"""A run that is killed at any moment, again and again, ends as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import PYTHONPATH
from resume_harness import same, start_child, wait_for

from abuse import runs
from abuse.runs import CALLS, FILES, METHOD, Moment, assert_same_run, command, opens, run_folder, set_up
from framework.__main__ import main

KILLS_BEFORE_A_RELEASE = 50
# How many visits of a place a kill may wait for: some steps' worth, so that a chain of kills gets through slowly.
VISITS = {
    "a checkpoint's bytes": 100,
    "a metrics row": 7,
    "os.fsync": 9,
    "os.replace": 5,
    "os.mkdir": 1,
    "the lock": 1,
    "torch.save": 4,
    "an optimiser's step": 6,
    "removing a file": 1,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    assert command(*set_up(folder)) == 0
    return run_folder(folder)


def go_on(folder: Path) -> list[str]:
    """What someone types after a kill: to go on if there is a checkpoint, to start again if there is none."""
    if (run_folder(folder) / "checkpoints" / "last.ckpt").exists():
        return ["fit", f"--ckpt_path={run_folder(folder)}"]
    return list(set_up(folder))


def named(generator: random.Random) -> list[Moment]:
    """A moment at each place in the code, before it and after it or, where a file is written, within."""
    sides = [(place, "within") for place in FILES] + [(place, when) for place in CALLS for when in ("before", "after")]
    return [
        Moment(place, generator.randint(1, VISITS[place]), when) for place, when in generator.sample(sides, len(sides))
    ]


def drawn(generator: random.Random) -> Moment | float:
    """One of them, or seconds."""
    return generator.uniform(0.05, 1.2) if generator.random() < 0.25 else generator.choice(named(generator))


def killed(arguments: list[str], moment: Moment | float) -> bool:
    """Whether the kill came before the command had ended by itself, which it then has well."""
    if isinstance(moment, Moment):
        code = command(*arguments, before=moment.arm)
    else:
        pid = start_child(lambda: sys.exit(main(arguments)))
        time.sleep(moment)
        os.kill(pid, signal.SIGKILL)
        code = wait_for(pid)
    assert code in (0, 128 + signal.SIGKILL), f"exit code {code} at {moment}"
    return code != 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_many_kills(whole, tmp_path, request):
    """In chains: a process that resumes is killed too, until one comes through. One kill at each named place, more
    before a release.
    """
    generator = random.Random(20)
    moments: list[Moment | float] = [*named(generator)]
    if request.config.getoption("--release"):
        moments += [drawn(generator) for _ in range(KILLS_BEFORE_A_RELEASE - len(moments))]
    chain, reached, early, missed = 0, set(), 0, None
    while moments:
        folder = tmp_path / str(chain)
        folder.mkdir()
        chain += 1
        last = -1
        for moment in moments[:12]:  # then one is left alone
            if not killed(
                go_on(folder), moment
            ):  # a run that was nearly done: the next one, which is whole, reaches it
                assert moment is not missed or isinstance(moment, float), f"a whole run never reached {moment}"
                missed = moment
                break
            moments.remove(moment)
            point = opens(run_folder(folder) / "checkpoints" / "last.ckpt")
            early += point is None
            step = -1 if point is None else point["global_step"]
            assert step >= last, f"{moment}: the point went back from step {last} to {step}"
            last = step
            reached.add(step)
        assert command(*go_on(folder)) == 0
        assert_same_run(whole, run_folder(folder))
    assert early, "some came before the first checkpoint"
    assert len(reached) > 5, "they came all over the run"


PRIVATE = """
techniques:
  dp_sgd: {class_path: callbacks.dp_sgd.DPSGD, init_args: {epsilon: 8, delta: 0.001, accountant: rdp, seed: 11}}
"""


def test_killed_while_it_trains_privately(tmp_path, monkeypatch):
    """It draws the same batches and noise again, and spends the same ε."""
    monkeypatch.setattr(runs, "CONFIG", runs.CONFIG.replace("harness.Net", "harness.WithoutBatchNorm") + PRIVATE)
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    assert command(*set_up(folders[0])) == 0
    for count, when in ((5, "before"), (4, "after"), (6, "before")):
        assert command(*go_on(folders[1]), before=Moment("an optimiser's step", count, when).arm) == 137
    assert command(*go_on(folders[1])) == 0
    ends = [run_folder(folder) for folder in folders]
    assert_same_run(*ends)
    first, second = (opens(end / "checkpoints" / "last.ckpt") for end in ends)
    assert first is not None
    assert second is not None
    state = first["callbacks"]["DPSGD.dp_sgd"]
    assert same(state, second["callbacks"]["DPSGD.dp_sgd"])
    assert state["history"][0][2] == first["global_step"] == 30


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_at_random_moments(whole, tmp_path, signum, code):
    generator = random.Random(signum)
    folder = tmp_path / "run"
    folder.mkdir()
    places = ["a metrics row", "os.fsync", "torch.save", "an optimiser's step", "os.replace"]
    for _ in range(4):
        place = generator.choice(places)
        when = "within" if place in FILES else generator.choice(["before", "after"])
        moment = Moment(place, generator.randint(1, VISITS[place]), when, signum)
        seen = command(*go_on(folder), before=moment.arm)
        assert seen == code, f"exit code {seen} at {moment}"
        opens(run_folder(folder) / "checkpoints" / "last.ckpt")
    assert command(*go_on(folder)) == 0
    assert_same_run(whole, run_folder(folder))


def test_killed_before_the_first_checkpoint_it_says_so(whole, tmp_path, capfd):
    """And starting again is what it says; a name that was made up is not needed for it."""
    start = ["fit", "--config", str(set_up(tmp_path)[2]), f"--run.root={tmp_path}"]
    assert command(*start, before=Moment("an optimiser's step", 2).arm) == 137
    (folder,) = (tmp_path / METHOD).iterdir()
    for given in ("last", str(folder)):
        capfd.readouterr()
        assert command("fit", f"--ckpt_path={given}", f"--run.root={tmp_path}", f"--run.method={METHOD}") == 2
        error = capfd.readouterr().err
        assert "ended before its first checkpoint" in error
        assert (again := f"fit --config {folder / 'config.yaml'}") in error
    assert command(*again.split()) == 0
    (other,) = set((tmp_path / METHOD).iterdir()) - {folder}
    assert_same_run(whole, other)


def test_a_name_that_was_given_is_begun_anew(whole, tmp_path):
    """What a process logged that was killed before its first checkpoint is not mixed with what the next one logs."""
    start = [*set_up(tmp_path), "--run.resume_every_n_steps=null"]
    assert command(*start, before=Moment("an optimiser's step", 15).arm) == 137
    folder = run_folder(tmp_path)
    (folder / "metrics.jsonl").write_text('{"step": 0, "train/loss": 1.0}\n')  # a second of training would have
    assert not (folder / "checkpoints" / "last.ckpt").exists()
    assert command(*set_up(tmp_path)) == 0
    assert_same_run(whole, folder)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.4, 2.5])
def test_killed_while_it_imports_or_checks_the_config(whole, tmp_path, seconds):
    process = subprocess.Popen(
        [sys.executable, "-m", "framework", *set_up(tmp_path)], env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    time.sleep(seconds)
    process.kill()
    assert process.wait(30) == -signal.SIGKILL
    assert command(*go_on(tmp_path)) == 0
    assert_same_run(whole, run_folder(tmp_path))


@pytest.mark.slow
def test_killed_while_wandb_records(whole, tmp_path):
    from wandb_runs import offline_runs

    from framework.tracking.wandb_run import WandbRun

    CALLS["a W&B row"] = (WandbRun, "log_metrics")
    online = "--wandb.mode=offline"
    try:
        for count, when in ((4, "before"), (9, "after"), (3, "after")):
            arguments = [*go_on(tmp_path), online]
            assert command(*arguments, before=Moment("a W&B row", count, when).arm) == 137
        assert command(*go_on(tmp_path), online) == 0
    finally:
        del CALLS["a W&B row"]
    folder = run_folder(tmp_path)
    assert_same_run(whole, folder)
    steps = {row["_step"] for run in offline_runs(folder) for row in run.history if "trainer/global_step" in row}
    rows = (folder / "metrics.jsonl").read_bytes().count(b"\n")
    assert steps == set(range(rows)), "together the copies hold every row"
