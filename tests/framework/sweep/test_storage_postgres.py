"""The server that other tests rely on is a real one, and what Optuna's storage promises on it holds."""

from __future__ import annotations

import threading

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState, create_trial


def test_two_connections_claim_distinct_trials(postgres_url):
    first, second = RDBStorage(postgres_url), RDBStorage(postgres_url)
    study = first.create_new_study([optuna.study.StudyDirection.MINIMIZE], "claims")
    waiting = create_trial(state=TrialState.WAITING, system_attrs={"fixed_params": {}})
    trials = [first.create_new_trial(study, waiting) for _ in range(12)]
    claimed: dict[int, list[int]] = {0: [], 1: []}
    start = threading.Barrier(2)

    def claim(number: int, storage: RDBStorage) -> None:
        start.wait()
        for trial in trials:  # both want every trial, in the same order
            if storage.set_trial_state_values(trial, TrialState.RUNNING):
                claimed[number].append(trial)

    threads = [threading.Thread(target=claim, args=item) for item in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed[0] + claimed[1]) == trials, "each was claimed exactly once"
    assert first.engine.dialect.name == "postgresql"
    assert {trial.state for trial in second.get_all_trials(study)} == {TrialState.RUNNING}
    for storage in (first, second):
        storage.remove_session()
        storage.engine.dispose()


def test_each_test_has_a_database_of_its_own(postgres, postgres_url):
    storage, other = RDBStorage(postgres_url), RDBStorage(postgres.new_database())
    storage.create_new_study([optuna.study.StudyDirection.MINIMIZE], "here")
    assert [study.study_name for study in storage.get_all_studies()] == ["here"]
    assert other.get_all_studies() == []
    for each in (storage, other):
        each.remove_session()
        each.engine.dispose()
