"""The supervisor of a sweep on this machine: draws points, passes them to its workers, and saves how each ended.

Only supervisors access the storage. If a worker dies, only its own trial fails; if a supervisor dies, its workers end
too, and another supervisor reclaims its trials.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework import paths
from framework.errors import UserError
from framework.sweep import command, results
from framework.sweep.job import COMMAND, Job
from framework.sweep.peers import Peers
from framework.sweep.study import Study, TrialClaim
from framework.sweep.trial import Trial
from framework.tracking.trial_report import Watch

if TYPE_CHECKING:
    from framework.sweep.spec import Sweep
    from framework.sweep.table import SweepTable

TICK_SECONDS = 0.25
STOP_SECONDS = 45.0
"""Seconds that the workers may take to end after a first Ctrl-C; a training writes a resume point meanwhile."""
REAP_SECONDS = 5.0
"""Seconds that processes of a dead worker may continue; W&B's service writes its remaining data."""
SAVE_SECONDS = 2.0
LOOK_SECONDS = 5.0
"""Seconds between two reads of the other supervisors' trials."""
FAILURES, FAILURE_SECONDS = 3, 60.0
"""The sweep ends if this many first trials all fail, as with W&B's agent."""
STARTS = 3
OURS = ("run.root", "run.method", "run.name", "wandb.group")
"""Options that the sweep itself sets in a training of this framework."""


@dataclass
class Running:
    """A worker's current trial."""

    claim: TrialClaim
    trial: Trial
    began: float
    begun: bool = False


@dataclass
class Worker:
    """One worker process, as its supervisor sees it."""

    number: int
    process: subprocess.Popen[bytes]
    pipe: int
    log: Path
    running: Running | None = None
    buffer: bytes = b""


@dataclass
class _Dying:
    process: subprocess.Popen[bytes]
    since: float = field(default_factory=time.monotonic)


class Supervisor:
    """Runs a sweep on this machine.

    Args:
        sweep: The sweep file.
        study: Its trials.
        folder: The sweep's folder.
        workers: Number of trials that run in parallel.
        limit: Total number of points of the sweep; ``None`` for no limit.
        table: The table shown on the terminal.
    """

    def __init__(
        self, sweep: Sweep, study: Study, folder: Path, workers: int, limit: int | None, table: SweepTable | None = None
    ) -> None:
        self.sweep, self.study, self.folder, self.limit, self.table = sweep, study, folder, limit, table
        self._wanted = workers
        self._workers: dict[int, Worker] = {}
        self._dying: list[_Dying] = []
        self._peers = Peers(study)
        self._selector = selectors.DefaultSelector()
        self._trials: dict[int, Trial] = {}
        self._ordered: list[Trial] | None = None
        self._signal = 0
        self._since_signal = 0.0
        self._given_up = ""
        self._starts_lost = 0
        self._ended: list[str] = []
        self._began = time.monotonic()
        self._saved = self._looked = 0.0
        self._dirty = True
        self._exhausted = self._certain = False
        self._gpus = _gpus()

    def run(self) -> int:
        """Runs until no point is left; the exit code is 0, 1 if no trial has finished, or 130 and 143 for a signal.

        Raises:
            UserError: the sweep gave up, because workers ended before their trials started or the first trials all
                failed.
        """
        self._peers.beat()
        self._look(force=True)
        with self._signals():
            try:
                while self._step():
                    pass
            finally:
                self._close()
        self._save(force=True)
        if self._given_up:
            raise UserError(self._given_up)
        if self._signal:
            return 128 + self._signal
        return 0 if any(trial.state in ("finished", "stopped") for trial in self._trials.values()) else 1

    @property
    def trials(self) -> list[Trial]:
        """Every known trial of the sweep, in the order of their attempts."""
        if self._ordered is None:
            self._ordered = [self._trials[number] for number in sorted(self._trials)]
        return self._ordered

    # --- one turn

    def _step(self) -> bool:
        """Performs one iteration of the loop; returns whether there is more to do."""
        self._peers.beat()
        self._look()
        stopping = bool(self._signal or self._given_up or self._target_reached())
        if not stopping:
            self._fill()
        for key, _ in self._selector.select(TICK_SECONDS):
            self._hear(self._workers[key.data])
        self._bury()
        self._reap()
        if self._signal or self._given_up:
            self._stop_workers()
        self._save()
        if self.table is not None:
            self.table.update(self.trials)
        if any(worker.running for worker in self._workers.values()):
            return True
        if stopping:
            return False
        # trials of other supervisors may have to be repeated, if their supervisors die
        if not self._exhausted or self._others():
            self._certain = False
            return True
        if self._certain:
            return False
        self._look(force=True)  # the last view may be seconds old
        self._certain, self._exhausted = True, False
        return True

    def _others(self) -> list[Trial]:
        mine = {worker.running.claim.number for worker in self._workers.values() if worker.running}
        return [t for number, t in self._trials.items() if t.state == "running" and number not in mine]

    def _look(self, force: bool = False) -> None:
        """Reclaims the trials of dead supervisors, and reads the others' trials."""
        now = time.monotonic()
        if not force and now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if self.study.reclaim(self._peers.is_dead):
            self._exhausted = False
        mine = {worker.running.claim.number: worker for worker in self._workers.values() if worker.running}
        for number, trial in self.study.trials().items():
            if number not in mine:
                self._trials[number] = trial
            elif trial.state != "running":  # others declared this supervisor dead and claimed the point
                mine[number].process.kill()
        self._ordered = None

    def _target_reached(self) -> bool:
        metric = self.sweep.metric
        if metric is None or metric.target is None:
            return False
        return any(trial.value is not None and metric.reached(trial.value) for trial in results.valued(self.trials))

    # --- handing out

    def _fill(self) -> None:
        for number in range(self._wanted):
            worker = self._workers.get(number)
            if worker is not None and worker.running is not None:
                continue
            claim = self.study.claim(self.limit, self._peers.name, f"{self._peers.host}:{number}")
            self._exhausted = claim is None
            if claim is None:
                return
            trial = Trial(point=claim.point, values=claim.values, worker=f"{self._peers.host}:{number}")
            self._trials[claim.number] = trial
            self._ordered = None
            try:
                job = self._job(claim, trial)
            except UserError as error:
                self._end(claim, trial, "failed", str(error))
                continue
            worker = worker or self._start(number)
            worker.running = Running(claim, trial, time.monotonic())
            self._tell(worker, job.line())

    def _job(self, claim: TrialClaim, trial: Trial) -> Job:
        name = f"{claim.point:04d}"
        folder = self.folder / "trials" / name
        log = self.folder / "logs" / f"{name}.log"
        values = self.sweep.nested(claim.values)
        if "${args_json_file}" in self.sweep.command:
            folder.mkdir(parents=True, exist_ok=True)
        argv = command.expand(self.sweep, values, params_file=folder / "parameters.json")
        arguments = command.framework_arguments(argv)
        trial.log, trial.folder = str(log), str(folder)
        metric = self.sweep.metric
        watch = Watch(
            metric=metric.name if metric else None,
            maximize=metric is not None and metric.goal == "maximize",
            bands=self.sweep.hyperband.bands if self.sweep.hyperband else (),
            parameters=claim.values,
        )
        environment: dict[str, str] = {}
        if arguments is not None:
            arguments = [*arguments, *self._own_settings(name)]
            if arguments[0] == "fit" and (folder / "checkpoints" / "last.ckpt").is_file():
                arguments.append(f"--ckpt_path={folder}")  # resumes an interrupted training
        else:
            environment = self._program_environment(name, folder)
        return Job(argv, arguments, name, str(folder), str(log), vars(watch), environment, values)

    def _own_settings(self, name: str) -> list[str]:
        settings = {"run.root": str(self.folder), "run.method": "trials", "run.name": name}
        settings["wandb.group"] = self.study.id
        if self.sweep.project:
            settings["wandb.project"] = self.sweep.project
        if self.sweep.entity:
            settings["wandb.entity"] = self.sweep.entity
        return [f"--{key}={value}" for key, value in settings.items()]

    def _program_environment(self, name: str, folder: Path) -> dict[str, str]:
        from framework.runs.folder import new_id
        from framework.sweep.program import PARAMETERS
        from framework.tracking.wandb_mode import choose_mode

        environment = {
            "WANDB_DIR": str(folder.resolve()),
            "WANDB_RUN_ID": new_id(),
            "WANDB_NAME": name,
            "WANDB_RUN_GROUP": self.study.id,
            "WANDB_SWEEP_PARAM_PATH": str((folder / PARAMETERS).resolve()),
            "WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "1",
        }
        if choose_mode("auto")[0] == "offline":
            environment["WANDB_MODE"] = "offline"
        if self.sweep.project:
            environment["WANDB_PROJECT"] = self.sweep.project
        if self.sweep.entity:
            environment["WANDB_ENTITY"] = self.sweep.entity
        return environment

    # --- workers

    def _start(self, number: int) -> Worker:
        log = self.folder / "logs" / f"worker-{number}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        read, write = os.pipe()
        environment = dict(os.environ)
        environment["PYTHONPATH"] = os.pathsep.join([str(paths.root()), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // self._wanted)))
        if len(self._gpus) > 1:
            environment["CUDA_VISIBLE_DEVICES"] = self._gpus[number % len(self._gpus)]
        with open(log, "ab") as file:
            process = subprocess.Popen(
                # -P: a folder of the same name as a package of ours must not hide it
                [sys.executable, "-P", "-m", "framework", COMMAND, str(write)],
                stdin=subprocess.PIPE, stdout=file, stderr=file, pass_fds=(write,), env=environment,
                start_new_session=True,  # the supervisor passes on the terminal's Ctrl-C
            )  # fmt: skip
        os.close(write)
        os.set_blocking(read, False)
        worker = self._workers[number] = Worker(number, process, read, log)
        self._selector.register(read, selectors.EVENT_READ, number)
        return worker

    def _hear(self, worker: Worker) -> None:
        try:
            data = os.read(worker.pipe, 1 << 16)
        except BlockingIOError:
            return
        if not data:
            self._lost(worker)
            return
        *lines, worker.buffer = (worker.buffer + data).split(b"\n")
        for line in lines:
            self._handle(worker, json.loads(line))

    def _handle(self, worker: Worker, message: Mapping[str, Any]) -> None:
        kind, running = message["kind"], worker.running
        if running is None:
            return
        if kind == "begun":
            running.begun = True
            self._starts_lost = 0
        elif kind == "imported":
            running.began = time.monotonic()
        elif kind in ("value", "band", "end"):
            running.trial.count, running.trial.last = message["count"], message["last"]
            running.trial.value = message["best"]
        running.trial.seconds = time.monotonic() - running.began
        if kind == "band":
            self._answer(worker, running)
        elif kind == "end":
            running.trial.seconds = message["seconds"]
            worker.running = None
            self._end(running.claim, running.trial, message["state"], message["message"])
            if message["retire"]:
                self._remove(worker)

    def _answer(self, worker: Worker, running: Running) -> None:
        trial, rule = running.trial, self.sweep.hyperband
        assert rule is not None
        assert trial.last is not None
        assert trial.value is not None
        at_band = self.study.report(running.claim, trial.count, trial.last)
        maximize = self.sweep.metric is not None and self.sweep.metric.goal == "maximize"
        stop = at_band is None or rule.stop(trial.last, trial.value, at_band, maximize)
        self._tell(worker, (json.dumps({"kind": "verdict", "stop": stop}) + "\n").encode())

    def _tell(self, worker: Worker, line: bytes) -> None:
        assert worker.process.stdin is not None
        with suppress(OSError):  # it has died; its closed pipe is handled later
            worker.process.stdin.write(line)
            worker.process.stdin.flush()

    def _bury(self) -> None:
        """Finds dead workers whose pipe is still held open by a process that they forked."""
        for worker in list(self._workers.values()):
            if worker.process.poll() is not None:
                self._hear(worker)  # its remaining messages
                if self._workers.get(worker.number) is worker:
                    self._lost(worker)

    def _lost(self, worker: Worker) -> None:
        """Handles a worker that has died."""
        running, worker.running = worker.running, None
        self._remove(worker)
        try:
            code = worker.process.wait(timeout=REAP_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            code = worker.process.wait()
        if running is None:
            return
        running.trial.seconds = time.monotonic() - running.began
        if self._since_signal:
            self._end(running.claim, running.trial, "interrupted", "the sweep was ended")
            return
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        if running.trial.log is None or not Path(running.trial.log).exists():
            running.trial.log = str(worker.log)
        if not running.begun:  # not the trial's fault
            self._end(running.claim, running.trial, "interrupted", f"the worker {how} before the trial started")
            self._starts_lost += 1
            if self._starts_lost >= STARTS:
                self._given_up = f"the workers end before they start a trial; see {worker.log}"
            return
        self._end(running.claim, running.trial, "failed", f"the worker {how}{hint}")

    def _remove(self, worker: Worker) -> None:
        self._selector.unregister(worker.pipe)
        os.close(worker.pipe)
        if worker.process.stdin is not None:
            with suppress(OSError):
                worker.process.stdin.close()
        del self._workers[worker.number]
        self._dying.append(_Dying(worker.process))

    def _reap(self, wait: bool = False) -> None:
        """Kills processes that dead workers left running, after a while."""
        while self._dying:
            one = self._dying[0]
            if not wait and time.monotonic() - one.since < REAP_SECONDS:
                return
            while wait and one.process.poll() is None and time.monotonic() - one.since < REAP_SECONDS:
                time.sleep(0.02)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()
            self._dying.pop(0)

    # --- ends

    def _end(self, claim: TrialClaim, trial: Trial, state: str, message: str) -> None:
        trial.state, trial.message = state, next((line for line in message.splitlines() if line.strip()), "")
        if not self.study.end(claim, trial):  # another supervisor reclaimed it, or it is saved already
            self._look(force=True)
            trial = self._trials[claim.number]
        self._dirty = True
        self._ended.append(trial.state)
        failed = self._ended == ["failed"] * FAILURES and time.monotonic() - self._began < FAILURE_SECONDS
        if failed and os.environ.get("WANDB_AGENT_DISABLE_FLAPPING", "").lower() != "true":
            self._given_up = (
                f"the first {FAILURES} trials all failed, so the sweep ends (WANDB_AGENT_DISABLE_FLAPPING=true makes "
                f"it continue): {trial.message}; see {trial.log}"
            )
        if self.table is not None:
            self.table.finished(trial)

    def _save(self, force: bool = False) -> None:
        now = time.monotonic()
        if not force and (not self._dirty or now - self._saved < SAVE_SECONDS):
            return
        self._saved, self._dirty = now, False
        trials = self.trials
        results.write_trials(self.folder, self.sweep, trials)
        best = results.best(self.sweep, trials)
        if best is not None:
            results.write_best(self.folder, self.sweep, best)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def handle(signum: int, frame: Any) -> None:
            if self._signal:
                for worker in self._workers.values():
                    worker.process.kill()
            self.study.hurry()
            self._signal = self._signal or signum

        before = {signum: signal.signal(signum, handle) for signum in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)

    def _stop_workers(self) -> None:
        """Sends busy workers the signal to end; kills them after a grace period."""
        now = time.monotonic()
        first = not self._since_signal
        self._since_signal = self._since_signal or now
        if first and self._signal and self.table is not None:  # not in the handler: it may have interrupted a print
            self.table.say("ending: running trials write a resume point; press Ctrl-C again to end them immediately")
        for worker in self._workers.values():
            if first and worker.running is not None:
                worker.process.terminate()
            elif now - self._since_signal > STOP_SECONDS:
                worker.process.kill()

    def _close(self) -> None:
        for worker in list(self._workers.values()):
            if worker.running is not None:  # after an error of the supervisor itself
                worker.process.kill()
            self._remove(worker)
        self._reap(wait=True)
        self._selector.close()


def default_workers() -> int:
    """Returns the default number of workers: one per GPU, and one without a GPU."""
    return max(1, len(_gpus()))


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def _gpus() -> list[str]:
    """Returns the GPUs that this process may use, as in CUDA_VISIBLE_DEVICES, without importing torch."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(row for row in listed.splitlines() if row.startswith("GPU "))]
