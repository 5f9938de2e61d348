"""The trials of a sweep in Optuna's storage: which points are open, which supervisor runs which, how each ended.

A sweep is a sequence of points, numbered from 0. The storage has one trial for each point, and another one each time
that a trial's supervisor ended during it. A trial starts in the state waiting, until a supervisor claims it; the
storage lets only one supervisor claim it, so that any number of supervisors can share a storage.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import string
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from framework.errors import UserError
from framework.sweep.trial import Trial

if TYPE_CHECKING:
    from optuna import Study as OptunaStudy
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

    from framework.sweep.spec import Parameter, Sweep
    from framework.sweep.storage import Patient

SCHEMA = 1
STARTUP_TRIALS = 10
"""Number of random points before TPE starts, Optuna's default."""
UNOWNED_SECONDS = 30.0
"""Seconds that a claimed trial may lack its supervisor's name; a supervisor killed in between never writes it."""


def _quiet() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@dataclass
class TrialClaim:
    """A point that this supervisor has claimed.

    Attributes:
        number: The trial's number in the storage.
        point: Its point.
        values: Maps each parameter's label to its value.
        attempt: 1, plus the number of interrupted trials of this point.
        before: The interrupted trials of this point, in order.
    """

    number: int
    point: int
    values: dict[str, Any]
    attempt: int = 1
    before: list[Trial] = field(default_factory=list)


class Study:
    """The trials of one sweep.

    Args:
        sweep: The sweep file.
        storage: The storage, from :func:`~framework.sweep.storage.open_storage`.
        name: The sweep's name in the storage.
        seed: Seed of the points of ``random`` and ``bayes``; a resumed sweep keeps its own.
        resume: Whether to resume or join the sweep; otherwise no sweep of this name may exist.

    Raises:
        UserError: there is no sweep to resume, there is one already, or it belongs to another file.
    """

    def __init__(self, sweep: Sweep, storage: BaseStorage, name: str, seed: int = 0, resume: bool = False) -> None:
        import optuna
        from optuna.study import StudyDirection

        _quiet()
        self.sweep, self.storage, self.name = sweep, storage, name
        goal = sweep.metric.goal if sweep.metric is not None else "minimize"
        direction = StudyDirection.MAXIMIZE if goal == "maximize" else StudyDirection.MINIMIZE
        names = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        if resume and name not in names:
            raise UserError(
                f"--resume: the storage has no sweep {name!r}; it has: {', '.join(sorted(names)) or 'none'}"
            )
        if not resume:
            try:
                optuna.create_study(storage=storage, study_name=name, direction=direction)
            except optuna.exceptions.DuplicatedStudyError as error:
                raise UserError(
                    f"the storage has a sweep {name!r} already: --resume resumes it, --folder starts another"
                ) from error
            identity = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(8))
            self._facts: dict[str, Any] = {"schema": SCHEMA, "id": identity, "seed": seed, "document": sweep.document()}
            self.optuna.set_user_attr("sweep", json.dumps(self._facts))
        else:
            self._facts = json.loads(self._written())
            self._check_same()
        self._id = storage.get_study_id_from_name(name)
        self._unowned: dict[int, float] = {}

    def _written(self) -> str:
        """Returns the facts that the study's creator wrote into it; waits a little if it is just being made."""
        for _ in range(50):
            if (text := self.optuna.user_attrs.get("sweep")) is not None:
                return str(text)
            time.sleep(0.1)
        raise UserError(f"the storage's study {self.name!r} was not made by this command")

    def _check_same(self) -> None:
        if self._facts.get("schema") != SCHEMA:
            raise UserError(f"the sweep {self.name!r} was made by another version (schema {self._facts.get('schema')})")
        old, new = self._facts["document"], self.sweep.document()

        def text(document: Mapping[str, Any], key: str) -> str:  # 1, 1.0 and True are equal as values
            return json.dumps(document.get(key), sort_keys=True)

        differing = sorted(key for key in old.keys() | new.keys() if text(old, key) != text(new, key))
        if differing:
            raise UserError(
                f"{self.sweep.path}: {', '.join(differing)} differ from the sweep {self.name!r} to resume; "
                "use the original file (sweep.yaml in its folder), or start another sweep with --folder"
            )

    @property
    def optuna(self) -> OptunaStudy:
        """A new view of the study, because Optuna's own caches trials."""
        import optuna

        return optuna.load_study(study_name=self.name, storage=self.storage, sampler=optuna.samplers.RandomSampler())

    @property
    def id(self) -> str:
        """Eight letters and digits, used as the W&B group of its runs."""
        return str(self._facts["id"])

    @property
    def seed(self) -> int:
        """The seed of the points."""
        return int(self._facts["seed"])

    # --- points

    def claim(self, limit: int | None, owner: str, worker: str) -> TrialClaim | None:
        """Claims the next open point, or returns ``None`` if all points below ``limit`` are claimed.

        Args:
            limit: Number of points of the sweep; ``None`` for no limit.
            owner: This supervisor's name.
            worker: The worker that will run it, for the table.
        """
        from optuna.trial import TrialState

        while True:
            trials = self._frozen()
            by_point: dict[int, list[FrozenTrial]] = {}
            for trial in trials:
                by_point.setdefault(trial.user_attrs["point"], []).append(trial)
            for point, same in by_point.items():
                first = next((trial for trial in same if not _interrupted(trial)), None)
                if first is None or first.state != TrialState.WAITING or (limit is not None and point >= limit):
                    continue  # of two waiting trials, made simultaneously by two supervisors, the later is not claimed
                if self._take(first) and (claim := self._begin(first, same, owner, worker)) is not None:
                    return claim
            point = self._open_point(by_point)
            if limit is not None and point >= limit:
                return None
            self._add(point)

    def _take(self, trial: FrozenTrial) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        try:
            return self.storage.set_trial_state_values(trial._trial_id, state=TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False

    def _open_point(self, by_point: Mapping[int, Sequence[FrozenTrial]]) -> int:
        """Returns the first point that has only interrupted trials or none."""
        lost = [point for point, same in by_point.items() if all(_interrupted(trial) for trial in same)]
        return min(lost, default=max(by_point, default=-1) + 1)

    def _add(self, point: int) -> None:
        from optuna.trial import TrialState, create_trial

        system = {"fixed_params": self.sweep.grid_indices(point)} if self.sweep.method == "grid" else {}
        self.optuna.add_trial(create_trial(state=TrialState.WAITING, user_attrs={"point": point}, system_attrs=system))

    def _begin(self, trial: FrozenTrial, same: Sequence[FrozenTrial], owner: str, worker: str) -> TrialClaim | None:
        """Sets the owner and draws the values; ``None`` if others have declared this supervisor dead meanwhile."""
        from optuna.exceptions import UpdateFinishedTrialError

        lost = [one for one in same if _interrupted(one)]
        try:
            # set immediately: a claimed trial without an owner cannot be reclaimed for a while
            self._set(trial, "owner", owner)
            values = self._draw(trial, lost)
            self._set(trial, "start", {"values": values, "worker": worker})
        except UpdateFinishedTrialError:
            return None
        before = [self._view(one) for one in lost]
        return TrialClaim(trial.number, int(trial.user_attrs["point"]), values, len(before) + 1, before)

    def _draw(self, trial: FrozenTrial, lost: Sequence[FrozenTrial]) -> dict[str, Any]:
        import optuna

        space = self._space()
        # drawn again, a point of bayes could differ
        if (fixed := next((one.params for one in reversed(lost) if len(one.params) == len(space)), None)) is not None:
            self.storage.set_trial_system_attr(trial._trial_id, "fixed_params", fixed)
        sampler = self._sampler(int(trial.user_attrs["point"]))
        study = optuna.load_study(study_name=self.name, storage=self.storage, sampler=sampler)
        asked = optuna.trial.Trial(study, trial._trial_id)
        for label, distribution in space.items():
            _suggest(asked, label, distribution)
        return self._values(asked.params)

    def _sampler(self, point: int) -> BaseSampler:
        """Returns a sampler for this point only, so that the result does not depend on the process or the order."""
        import optuna

        digest = hashlib.sha256(f"{self.seed}:{point}".encode()).digest()
        seed = int.from_bytes(digest[:4], "little")
        if self.sweep.method == "bayes":
            return optuna.samplers.TPESampler(
                seed=seed, multivariate=True, constant_liar=True, n_startup_trials=STARTUP_TRIALS
            )
        return optuna.samplers.RandomSampler(seed=seed)

    def _space(self) -> dict[str, BaseDistribution]:
        """Maps each varying parameter's label to its distribution; on a grid, over the indices of its values."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        space: dict[str, BaseDistribution] = {}
        for parameter in self.sweep.searched:
            if self.sweep.method == "grid":
                size = parameter.grid_size()
                ordered = parameter.kind != "categorical"
                space[parameter.label] = (
                    IntDistribution(0, size - 1) if ordered else CategoricalDistribution(tuple(range(size)))
                )
            else:
                distribution = parameter.optuna()
                assert distribution is not None
                space[parameter.label] = distribution
        return space

    def _values(self, params: Mapping[str, Any]) -> dict[str, Any]:
        def value(parameter: Parameter) -> Any:
            if parameter.is_constant:
                return parameter.value(None)
            suggested = params[parameter.label]
            return parameter.grid_value(suggested) if self.sweep.method == "grid" else parameter.value(suggested)

        return {parameter.label: value(parameter) for parameter in self.sweep.parameters}

    # --- how a trial goes and ends

    def report(self, claim: TrialClaim, iteration: int, value: float) -> list[float] | None:
        """Saves the metric's value at a band of hyperband.

        Returns:
            The values of all points at this band, including this one's; ``None`` if another supervisor has reclaimed
            the trial.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self._id, claim.number)
        try:
            self.storage.set_trial_intermediate_value(trial_id, iteration, value)
        except UpdateFinishedTrialError:
            return None
        # once per point: one that was restarted after an interruption reaches the band twice
        trials = [trial for trial in self._frozen() if iteration in trial.intermediate_values]
        return list({t.user_attrs["point"]: t.intermediate_values[iteration] for t in trials}.values())

    def end(self, claim: TrialClaim, trial: Trial) -> bool:
        """Saves how a trial ended; returns whether this was not saved before."""
        return self._end(self._frozen_at(claim.number), trial)

    def _end(self, frozen: FrozenTrial, trial: Trial) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        facts = {
            "state": trial.state,
            "count": trial.count,
            "value": trial.value,
            "last": trial.last,
            "seconds": round(trial.seconds, 3),
            "folder": trial.folder,
            "message": trial.message,
            "log": trial.log,
        }
        states = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED}
        state = states.get(trial.state, TrialState.FAIL)
        value = trial.value if trial.value is not None and math.isfinite(trial.value) else None
        values = None if state == TrialState.FAIL else [0.0 if value is None else value]
        try:
            self._set(frozen, "end", facts)
            return self.storage.set_trial_state_values(frozen._trial_id, state, values)
        except UpdateFinishedTrialError:
            return False

    def reclaim(self, is_dead: Callable[[str], bool]) -> list[Trial]:
        """Ends the running trials of dead supervisors as interrupted; their points are open again."""
        from optuna.trial import TrialState

        taken = []
        for frozen in self._frozen((TrialState.RUNNING,)):
            owner = frozen.user_attrs.get("owner")
            if owner is None:  # just claimed, or by a supervisor that was killed right then
                since = self._unowned.setdefault(frozen.number, time.monotonic())
                dead = time.monotonic() - since > UNOWNED_SECONDS
            else:
                dead = is_dead(str(owner))
            if not dead:
                continue
            trial = self._view(frozen)
            if "end" not in frozen.user_attrs:  # otherwise it had ended, and only the state was not written
                trial.state, trial.message = "interrupted", "its supervisor ended"
            if self._end(frozen, trial):
                taken.append(trial)
        return taken

    # --- views

    def trials(self) -> dict[int, Trial]:
        """Returns every trial that was started, by its number in the storage, in order."""
        from optuna.trial import TrialState

        return {trial.number: self._view(trial) for trial in self._frozen() if trial.state != TrialState.WAITING}

    def hurry(self) -> None:
        """Stops retrying a storage that does not answer."""
        cast("Patient", self.storage).hurry()

    def beat(self, owner: str, count: int) -> None:
        """Writes a heartbeat, which shows the other supervisors that this one is alive."""
        self.storage.set_study_user_attr(self._id, f"supervisor:{owner}", count)

    def beats(self) -> dict[str, int]:
        """Returns the last heartbeat of every supervisor."""
        attributes = self.storage.get_study_user_attrs(self._id)
        prefix = "supervisor:"
        return {key.removeprefix(prefix): int(value) for key, value in attributes.items() if key.startswith(prefix)}

    def _view(self, frozen: FrozenTrial) -> Trial:
        start, end = frozen.user_attrs.get("start") or {}, frozen.user_attrs.get("end") or {}
        return Trial(
            point=int(frozen.user_attrs["point"]),
            state=str(end.get("state", "running")),
            values=dict(start.get("values", {})),
            count=int(end.get("count", 0)),
            last=end.get("last"),
            value=end.get("value"),
            seconds=float(end.get("seconds", 0.0)),
            folder=end.get("folder"),
            message=str(end.get("message", "")),
            worker=str(start.get("worker", "")),
            log=end.get("log"),
        )

    def _frozen(self, states: tuple[Any, ...] | None = None) -> list[FrozenTrial]:
        return self.storage.get_all_trials(self._id, deepcopy=False, states=states)

    def _frozen_at(self, number: int) -> FrozenTrial:
        trial_id = self.storage.get_trial_id_from_study_id_trial_number(self._id, number)
        return self.storage.get_trial(trial_id)

    def _set(self, trial: FrozenTrial, key: str, value: Any) -> None:
        self.storage.set_trial_user_attr(trial._trial_id, key, value)


def _interrupted(trial: FrozenTrial) -> bool:
    return trial.state.is_finished() and (trial.user_attrs.get("end") or {}).get("state") == "interrupted"


def _suggest(trial: Any, label: str, distribution: BaseDistribution) -> None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        trial.suggest_categorical(label, distribution.choices)
    elif isinstance(distribution, IntDistribution):
        trial.suggest_int(label, distribution.low, distribution.high, log=distribution.log)
    elif isinstance(distribution, FloatDistribution):
        trial.suggest_float(label, distribution.low, distribution.high, log=distribution.log)
