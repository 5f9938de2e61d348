"""Which points are open, who runs which, and how supervisors that went away are noticed: without any worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from grids import grid_point
from scipy import stats
from sqlalchemy import create_engine, text
from sweep_toys import write

from framework.errors import UserError
from framework.sweep import peers
from framework.sweep import storage as storages
from framework.sweep import study as studies
from framework.sweep.peers import Peers
from framework.sweep.spec import read
from framework.sweep.storage import Patient, open_storage
from framework.sweep.study import Study, TrialClaim
from framework.sweep.trial import Trial

PARAMETERS = {
    "lr": {"min": 1.0e-4, "max": 1.0, "distribution": "log_uniform_values"},
    "width": {"min": 1, "max": 64},
    "kind": {"values": ["a", [1, 2], True, 1]},
    "skewed": {"distribution": "q_normal", "mu": 3, "sigma": 2, "q": 0.5},
    "fixed": {"value": {"deep": None}},
}


def sweep(folder: Path, **more):
    tree = {"method": "random", "program": "x.py", "metric": {"name": "loss"}, "parameters": PARAMETERS, **more}
    return read(write(folder, "s", tree))


def begin(folder: Path, place: str = "journal.log", resume: bool = False, seed: int = 0, **more) -> Study:
    return Study(sweep(folder, **more), open_storage(place), "s", seed, resume)


def finish(study: Study, claim: TrialClaim, value: float | None = 1.0, state: str = "finished") -> bool:
    count = 0 if value is None else 1
    return study.end(claim, Trial(claim.point, state, claim.values, count, value, value))


def claims(study: Study, limit: int, owner: str = "me") -> list[TrialClaim]:
    found = []
    while (claim := study.claim(limit, owner, "host:0")) is not None:
        found.append(claim)
    return found


def test_points_do_not_depend_on_who_draws_them(tmp_path):
    one = begin(tmp_path, seed=7)
    alone = {claim.point: claim.values for claim in claims(one, 8)}
    first, second = begin(tmp_path, "other.log", seed=7), begin(tmp_path, "other.log", resume=True)
    shared = {}
    for turn in range(8):
        claim = (first, second)[turn % 3 == 0].claim(8, f"owner{turn % 2}", "w")
        shared[claim.point] = claim.values
    assert shared == alone
    assert list(alone) == list(range(8))
    assert all(values["fixed"] == {"deep": None} for values in alone.values())
    assert second.seed == 7
    assert second.id == first.id != one.id
    assert {c.point: c.values for c in claims(begin(tmp_path, "third.log", seed=8), 8)} != alone


def test_random_points_follow_their_distributions(tmp_path):
    study = begin(tmp_path)
    drawn = [claim.values for claim in claims(study, 200)]
    assert stats.kstest([v["lr"] for v in drawn], stats.loguniform(1e-4, 1).cdf).pvalue > 0.01
    assert stats.chisquare(list(Counter(repr(v["kind"]) for v in drawn).values())).pvalue > 0.01
    assert {type(v["width"]) for v in drawn} == {int}
    assert stats.kstest([v["width"] for v in drawn], stats.randint(1, 65).cdf).pvalue > 0.001
    assert len({repr(v["kind"]) for v in drawn}) == 4
    assert abs(sum(v["skewed"] for v in drawn) / 200 - 3) < 4 * 2 / 200**0.5


def test_a_grid_is_run_once_whoever_claims(tmp_path):
    grid = {"method": "grid", "parameters": {"a": {"values": [1, 1.5, True]}, "b": {"values": [[1], {"x": None}]}}}
    first = begin(tmp_path, **grid)
    second = begin(tmp_path, resume=True, **grid)
    found: list[TrialClaim] = []

    def work(study: Study) -> None:
        while (claim := study.claim(6, "me", "w")) is not None:
            found.append(claim)
            finish(study, claim)

    threads = [threading.Thread(target=work, args=(study,)) for study in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claim.point for claim in found) == list(range(6))
    values = {claim.point: claim.values for claim in found}
    assert [repr(values[point]) for point in range(6)] == [repr(grid_point(first.sweep, point)) for point in range(6)]
    assert {trial.state for trial in first.trials().values()} == {"finished"}


def test_bayes_learns(tmp_path):
    study = begin(
        tmp_path, method="bayes", parameters={"x": {"min": -10.0, "max": 10.0}, "y": {"distribution": "normal"}}
    )
    values = []
    for _ in range(40):
        claim = study.claim(40, "me", "w")
        value = (claim.values["x"] - 3) ** 2 + claim.values["y"] ** 2
        values.append(value)
        finish(study, claim, value)
    early, late = sorted(values[:10])[5], sorted(values[-10:])[5]
    assert late < early / 4


@pytest.mark.parametrize("place", ["journal.log", "sqlite:///trials.db"])
def test_what_is_interrupted_is_run_again_with_the_same_values(tmp_path, place):
    study = begin(tmp_path, place)
    done, lost, failed = claims(study, 3, owner="dead")
    finish(study, done, 0.5)
    finish(study, failed, None, "failed")
    alive = begin(tmp_path, place, resume=True)
    assert alive.claim(3, "me", "w") is None
    (taken,) = alive.reclaim(lambda owner: owner == "dead")
    assert (taken.point, taken.state) == (lost.point, "interrupted")
    assert alive.reclaim(lambda owner: True) == []
    again = alive.claim(3, "me", "w")
    assert (again.point, again.values, again.attempt) == (lost.point, lost.values, 2)
    assert again.number != lost.number
    assert alive.claim(3, "me", "w") is None
    assert not finish(study, lost, 9.0), "the late word of the one that was given up"
    finish(alive, again, 0.25)
    states = [(trial.point, trial.state, trial.value) for trial in study.trials().values()]
    assert states == [(0, "finished", 0.5), (1, "interrupted", None), (2, "failed", None), (1, "finished", 0.25)]


def test_a_supervisor_killed_between_two_writes(tmp_path, monkeypatch):
    study = begin(tmp_path)
    claim = study.claim(2, "dead", "w")
    # the end is written, the state is not
    frozen = study._frozen_at(claim.number)
    study._set(frozen, "end", {"state": "finished", "value": 0.5, "last": 0.6, "seconds": 1.0, "folder": "f"})
    assert study.reclaim(lambda owner: True) != []
    (trial,) = study.trials().values()
    assert (trial.state, trial.value, trial.last) == ("finished", 0.5, 0.6)
    # claimed, but not yet named
    study._add(1)
    assert study._take(study._frozen()[-1])
    assert study.reclaim(lambda owner: False) == []
    monkeypatch.setattr(studies, "UNOWNED_SECONDS", 0.0)
    time.sleep(0.01)
    assert [trial.point for trial in study.reclaim(lambda owner: False)] == [1]
    assert study.claim(2, "me", "w").point == 1


def test_two_that_make_the_same_point_run_it_once(tmp_path):
    study = begin(tmp_path)
    study._add(0)
    study._add(0)
    assert [claim.point for claim in claims(study, 2)] == [0, 1]
    assert [trial.point for trial in study.trials().values()] == [0, 1]


def test_a_repeated_point_of_bayes_keeps_its_values(tmp_path):
    study = begin(tmp_path, method="bayes", parameters={"x": {"min": 0.0, "max": 1.0}})
    for claim in claims(study, 12):
        finish(study, claim, abs(claim.values["x"] - 0.3))
    study._add(12)
    study._add(12)  # by another supervisor, at the same time
    lost = study.claim(13, "dead", "w")
    for claim in [study.claim(20, "me", "w") for _ in range(4)]:
        finish(study, claim, claim.values["x"])
    study.reclaim(lambda owner: owner == "dead")
    again = study.claim(13, "me", "w")
    assert (again.point, again.attempt) == (12, 2)
    assert again.values == lost.values


@pytest.mark.parametrize("place", ["journal.log", "sqlite:///trials.db"])
def test_a_band_counts_each_point_once(tmp_path, place):
    study = begin(tmp_path, place)
    lost, other = study.claim(2, "dead", "w"), study.claim(2, "me", "w")
    assert study.report(lost, 2, 5.0) == [5.0]
    assert sorted(study.report(other, 2, 1.0)) == [1.0, 5.0]
    study.reclaim(lambda owner: owner == "dead")
    assert study.report(lost, 4, 5.0) is None, "it was given up"
    again = study.claim(2, "me", "w")
    assert again.point == lost.point
    assert sorted(study.report(again, 2, 6.0)) == [1.0, 6.0]
    finish(study, again, None, "failed")
    assert sorted(study.report(other, 2, 2.0)) == [2.0, 6.0], "what has ended counts on"


def test_one_given_up_while_it_claims_takes_the_next(tmp_path, monkeypatch):
    study, other = begin(tmp_path), begin(tmp_path, resume=True)
    monkeypatch.setattr(studies, "UNOWNED_SECONDS", -1.0)
    write_down = study._set

    def slowly(trial, key, value):
        if trial.number == 0:
            assert [t.point for t in other.reclaim(lambda owner: False)] == [0]
        write_down(trial, key, value)

    monkeypatch.setattr(study, "_set", slowly)
    claimed = claims(study, 3)
    assert sorted(claim.point for claim in claimed) == [0, 1, 2]
    assert 0 not in {claim.number for claim in claimed}


class Flaky:
    """A storage that fails a few times."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def answer(self, value: int) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError(28, "No space left on device")
        return value

    def refuse(self) -> None:
        raise KeyError("no such trial")


def test_a_storage_that_is_away_is_waited_for(monkeypatch, capsys):
    monkeypatch.setattr(storages, "PATIENCE_SECONDS", 5.0)
    monkeypatch.setattr(storages.time, "sleep", lambda seconds: None)
    patient = Patient(Flaky(3))
    assert patient.answer(7) == 7
    assert capsys.readouterr().err.count("does not answer, trying again: ") == 1
    with pytest.raises(KeyError):
        patient.refuse()
    patient = Patient(Flaky(1000))
    patient.hurry()
    with pytest.raises(UserError, match=r"does not answer, --resume resumes: .*No space left"):
        patient.answer(7)


def test_a_connection_that_is_cut_is_made_again(tmp_path, postgres_url):
    study = begin(tmp_path, postgres_url)
    engine = create_engine(postgres_url)
    for turn in range(4):
        claim = study.claim(8, "me", "w")
        with engine.connect() as other:
            other.execute(text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"))
        assert finish(study, claim, float(turn))
    engine.dispose()
    assert [(t.point, t.state, t.value) for t in study.trials().values()] == [
        (point, "finished", float(point)) for point in range(4)
    ]


def test_a_lock_that_was_taken_away_is_not_given_back(tmp_path):
    lock = begin(tmp_path).storage._backend._lock
    lock.acquire()
    Path("journal.log.lock").unlink()
    lock.release()
    lock.acquire()
    lock.release()
    assert not Path("journal.log.lock").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"parameters": {**PARAMETERS, "width": {"min": 1, "max": 65}}}, "parameters"),
        ({"parameters": {**PARAMETERS, "kind": {"values": ["a", [1, 2], True, 1.0]}}}, "parameters"),
        ({"method": "bayes"}, "method"),
        ({"metric": {"name": "loss", "goal": "maximize"}}, "metric"),
        ({"program": "y.py"}, "program"),
    ],
)
def test_another_file_does_not_go_on(tmp_path, change, named):
    begin(tmp_path)
    with pytest.raises(UserError, match=f"{named} differ.* from the sweep 's' to resume"):
        begin(tmp_path, resume=True, **change)
    begin(tmp_path, resume=True, run_cap=5, project="other")


def test_a_sweep_is_not_begun_twice(tmp_path):
    begin(tmp_path)
    with pytest.raises(UserError, match="has a sweep 's' already: --resume"):
        begin(tmp_path)
    with pytest.raises(UserError, match="no sweep 't'; it has: s"):
        Study(sweep(tmp_path), open_storage("journal.log"), "t", resume=True)


def test_half_a_last_line_is_cut_before_anything_follows(tmp_path):
    study = begin(tmp_path)
    claim = study.claim(5, "me", "w")
    for rest in (b'{"op_code": 6, "trial', b"{", b'{"a": 1}'):
        with open("journal.log", "ab") as file:
            file.write(rest)
        again = begin(tmp_path, resume=True)
        again.claim(5, "me", "w")
        lines = Path("journal.log").read_bytes().splitlines()
        assert all(json.loads(line) for line in lines)
        assert rest not in lines
    finish(study, claim)
    assert Counter(trial.state for trial in begin(tmp_path, resume=True).trials().values()) == {
        "finished": 1,
        "running": 3,
    }


def test_a_spoilt_line_of_the_journal_is_told(tmp_path):
    begin(tmp_path)
    with open("journal.log", "ab") as file:
        file.write(b"{spoilt\n")
    with pytest.raises(UserError, match=r"journal of the trials is damaged, a line is not JSON: "):
        begin(tmp_path, resume=True).beat("me", 1)


def test_what_is_no_journal_is_told(tmp_path):
    Path("journal.log").write_text("not a journal\nat all\n")
    with pytest.raises(UserError, match=r"journal.log is not a journal of trials"):
        open_storage("journal.log")


# --- peers


def test_a_dead_process_of_this_machine_is_known_at_once(tmp_path):
    study = begin(tmp_path)
    me = Peers(study)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    host, _, _, space = me.name.split("|")
    name = f"{host}|{child.pid}|{peers._started(child.pid)}|{space}"
    assert not me.is_dead(name)
    assert me.is_dead(f"{host}|{child.pid}|12345|{space}"), "another process has the number of the dead one"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert me.is_dead(name), "nobody has waited for it yet"
    child.wait()
    assert me.is_dead(name)
    assert not me.is_dead(me.name)


def test_one_elsewhere_is_dead_when_it_is_silent(tmp_path):
    study = begin(tmp_path)
    elsewhere, silent = "far|7|8|other/space", "far|9|8|other/space"
    me = Peers(study, patience=0.25, interval=0.02)
    end = time.monotonic() + 0.6
    count = 0
    while time.monotonic() < end:
        count += 1
        study.beat(elsewhere, count)
        me.beat()
        assert not me.is_dead(elsewhere)
        silent_is_dead = me.is_dead(silent)
        time.sleep(0.02)
    assert silent_is_dead
    began = time.monotonic()
    while not me.is_dead(elsewhere):
        assert time.monotonic() < began + 5
        time.sleep(0.02)
    assert time.monotonic() > began + 0.2
    assert study.beats()[elsewhere] == count


def test_nobody_is_dead_because_the_storage_was_away(tmp_path):
    study = begin(tmp_path)
    me = Peers(study, patience=0.3, interval=0.01)
    assert not me.is_dead("far|7|8|other/space")
    time.sleep(0.4)  # neither could be heard
    assert not me.is_dead("far|7|8|other/space")
    assert not me.is_dead("far|7|8|other/space")


def test_a_supervisor_names_itself_apart(tmp_path):
    host, pid, started, space = Peers(begin(tmp_path)).name.split("|")
    assert int(pid) == os.getpid()
    assert int(started) > 0
    assert "pid:[" in space
    assert host
