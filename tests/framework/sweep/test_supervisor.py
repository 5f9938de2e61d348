"""What a supervisor makes of its workers' words and deaths: with small programs in the place of workers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkout import PYTHONPATH
from sweep_toys import write

from framework.errors import UserError
from framework.sweep import supervisor as supervisors
from framework.sweep.spec import read
from framework.sweep.storage import open_storage
from framework.sweep.study import Study
from framework.sweep.supervisor import Supervisor
from framework.sweep.trial import Trial

WORKER = """#!{python}
import json, os, signal, sys, time
fd = int(sys.argv[-1])
def say(kind, **more):
    os.write(fd, (json.dumps({{"kind": kind, **more}}) + "\\n").encode())
def value(kind, count, last, **more):
    say(kind, count=count, last=last, best=last, **more)
def end(state="finished", retire=False):
    value("end", 1, 0.5, state=state, message="", seconds=0.1, retire=retire)
def attempts():
    with open("attempts.txt", "a") as file:
        file.write("x")
    return os.path.getsize("attempts.txt")
for line in sys.stdin:
    job = json.loads(line)
    x = job["parameters"]["x"]
{behave}
"""


def prepare(folder: Path, monkeypatch, behave: str, count: int = 3, **more) -> Supervisor:
    """A supervisor whose workers run ``behave`` for each job."""
    monkeypatch.setattr(supervisors, "TICK_SECONDS", 0.01)
    monkeypatch.setattr(supervisors, "REAP_SECONDS", 0.2)
    lines = "\n".join(f"    {line}" for line in behave.strip().splitlines())
    script = folder / "worker.py"
    script.write_text(WORKER.format(python=sys.executable, behave=lines))
    script.chmod(0o755)
    monkeypatch.setattr(supervisors.sys, "executable", str(script))
    tree = {"program": "train.py", "metric": {"name": "loss"}, "method": "grid", **more}
    sweep = read(write(folder, "s", {**tree, "parameters": {"x": {"values": list(range(count))}}}))
    study = Study(sweep, open_storage(folder / "journal.log"), "s")
    return Supervisor(sweep, study, folder, 1, count)


def states(supervisor: Supervisor) -> list[tuple[int, str]]:
    return [(trial.point, trial.state) for trial in supervisor.trials]


def test_a_dead_worker_is_found_though_its_pipe_is_held(tmp_path, monkeypatch):
    """By a process that it had forked, which lives on in a session of its own."""
    supervisor = prepare(
        tmp_path,
        monkeypatch,
        """
say("begun")
value("value", 2, 0.25)
if x == 0 and os.fork():
    os.kill(os.getpid(), signal.SIGKILL)
elif x == 0:
    os.setsid()
    open("held.txt", "w").write(str(os.getpid()))
    time.sleep(60)
end()
""",
        count=2,
    )
    began = time.monotonic()
    try:
        assert supervisor.run() == 0
    finally:
        os.kill(int(Path("held.txt").read_text()), 9)
    assert time.monotonic() - began < 20
    assert states(supervisor) == [(0, "failed"), (1, "finished")]
    lost = supervisor.trials[0]
    assert (lost.count, lost.value) == (2, 0.25), "its last words"
    assert lost.message == "the worker was killed by SIGKILL (out of memory?)"


def test_a_trial_is_not_to_blame_for_a_worker_that_never_began_it(tmp_path, monkeypatch):
    """One that dies between two trials, twice for each; that is no reason to give up."""
    supervisor = prepare(
        tmp_path,
        monkeypatch,
        """
if attempts() % 3:
    sys.exit(1)
say("begun")
end()
""",
    )
    assert supervisor.run() == 0
    assert states(supervisor) == [
        (point, state) for point in range(3) for state in ("interrupted", "interrupted", "finished")
    ]
    assert supervisor.trials[0].message == "the worker ended with exit code 1 before the trial started"


def test_workers_that_never_begin_end_the_sweep_and_no_point_is_lost(tmp_path, monkeypatch):
    supervisor = prepare(tmp_path, monkeypatch, "sys.exit(1)")
    with pytest.raises(UserError, match=r"the workers end before they start a trial; see .*worker-0.log"):
        supervisor.run()
    assert states(supervisor) == [(0, "interrupted")] * 3


def test_a_trial_that_others_took_over_is_ended_here(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisors, "LOOK_SECONDS", 0.05)
    supervisor = prepare(
        tmp_path,
        monkeypatch,
        """
say("begun")
if attempts() == 1:
    open("taken.txt", "w").write(str(os.getpid()))
    time.sleep(60)
end()
""",
        count=1,
    )
    real, other = supervisor.study.reclaim, open_storage(tmp_path / "journal.log")

    def reclaim(is_dead):
        if Path("taken.txt").exists() and not Path("done.txt").exists():
            Path("done.txt").touch()
            Study(supervisor.sweep, other, "s", resume=True).reclaim(lambda owner: True)
        return real(is_dead)

    monkeypatch.setattr(supervisor.study, "reclaim", reclaim)
    assert supervisor.run() == 0
    assert states(supervisor) == [(0, "interrupted"), (0, "finished")]
    assert not Path(f"/proc/{Path('taken.txt').read_text()}").exists()


def test_a_band_of_a_trial_that_others_took_over_stops_it(tmp_path, monkeypatch):
    supervisor = prepare(
        tmp_path,
        monkeypatch,
        """
say("begun")
first = attempts() == 1
value("value", 1, 0.5)
if first:
    time.sleep(0.5)
value("band", 2, 0.5)
with open("verdicts.txt", "a") as file:
    file.write(next(sys.stdin))
end("stopped" if first else "finished")
""",
        count=1, early_terminate={"type": "hyperband", "min_iter": 2},
    )  # fmt: skip
    real, other = supervisor._handle, open_storage(tmp_path / "journal.log")

    def handle(worker, message):
        if message["kind"] == "value" and not Path("done.txt").exists():
            Path("done.txt").touch()
            Study(supervisor.sweep, other, "s", resume=True).reclaim(lambda owner: True)
        real(worker, message)

    monkeypatch.setattr(supervisor, "_handle", handle)
    assert supervisor.run() == 0
    assert states(supervisor) == [(0, "interrupted"), (0, "finished")]
    assert Path("verdicts.txt").read_text().split("\n")[:2] == [
        '{"kind": "verdict", "stop": true}', '{"kind": "verdict", "stop": false}'
    ]  # fmt: skip


def test_what_others_do_is_seen_while_short_trials_go_by(tmp_path, monkeypatch):
    """A target that another supervisor has reached ends the sweep here too, however busy this one is."""
    monkeypatch.setattr(supervisors, "LOOK_SECONDS", 0.1)
    supervisor = prepare(
        tmp_path, monkeypatch, 'say("begun"); time.sleep(0.02); end()', count=400,
        metric={"name": "loss", "target": 0.1},
    )  # fmt: skip
    other = Study(supervisor.sweep, open_storage(tmp_path / "journal.log"), "s", resume=True)
    real = supervisor.study.claim

    def claim(*arguments):
        if len(supervisor.trials) == 5:
            reached = other.claim(400, supervisor._peers.name, "elsewhere")
            other.end(reached, Trial(reached.point, "finished", reached.values, 1, 0.05, 0.05))
        return real(*arguments)

    monkeypatch.setattr(supervisor.study, "claim", claim)
    assert supervisor.run() == 0
    assert 5 < len(supervisor.trials) < 100


CHANNEL = """
import os, subprocess, sys, time
from framework.sweep.worker import Channel
channel = Channel(int(sys.argv[1]))
print(subprocess.run(["cat"], capture_output=True).stdout, flush=True)
subprocess.Popen(["sleep", "60"], close_fds=False)
print(channel.receive().name, flush=True)
print(channel.ask({"kind": "band"}), flush=True)
print(channel.receive().name, flush=True)
print(channel.ask({"kind": "band"}), flush=True)
time.sleep(60)
"""


def test_what_is_said_to_a_worker_reaches_nobody_else(tmp_path):
    """Nor does a verdict that nobody waited for answer the next trial's question; in the end all is gone."""
    from framework.sweep.job import Job

    def job(name: str) -> bytes:
        return Job([], None, name, "", "", {}).line()

    read_end, write_end = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", CHANNEL, str(write_end)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(write_end,), start_new_session=True,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
    )  # fmt: skip
    os.close(write_end)
    no, yes = (b'{"kind": "verdict", "stop": %s}\n' % text for text in (b"false", b"true"))
    assert process.stdout.readline() == b"b''\n"
    for said, heard in [
        (job("first"), b"first\n"),
        (yes + no, b"True\n"),
        (job("second"), b"second\n"),
        (yes, b"True\n"),
    ]:
        process.stdin.write(said)
        process.stdin.flush()
        assert process.stdout.readline() == heard
    process.stdin.close()
    process.wait(timeout=10)
    with os.fdopen(read_end, "rb") as channel:
        assert channel.read().count(b"band") == 2, "and nobody holds the pipe"
    assert process.stdout.read() == b"", "nor its output: what it had started is gone"
    process.stdout.close()
