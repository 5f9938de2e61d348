"""Mistakes in every shipped config, drawn from a seed: each runs, or ends with exit code 2 and a message that names it.

``make test`` has a sample that touches every config and kind of mistake, ``make fuzz`` all. The id of one is enough to
run it again: ``FUZZ=1 pytest tests/suites/abuse -k ID``; another seed is ``FUZZ_SEED=7``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from abuse.bases import FRAGMENTS, SWITCHES, bases
from abuse.check import SECONDS, attempt, lay_out
from abuse.forked import import_everything, run
from abuse.mutations import KINDS_OF_MISTAKE, Mutation, mutations

SEED = int(os.environ.get("FUZZ_SEED", "0"))
EACH = 6
ALL = mutations(bases(), EACH, SEED)
LATE = ("path", "huge", "zero", "deleted", "strange_text")  # kinds that often show when the run folder exists already
SHORT = (
    "--trainer.max_steps=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.num_sanity_val_steps=0",
)


def sample() -> list[Mutation]:
    """Two of every config, one of every fragment; all kinds."""
    return [
        mutation
        for place, mutation in enumerate(ALL)
        if place % EACH == (place // EACH) % 3
        or (place % EACH == (place // EACH) % 3 + 3 and mutation.base.name not in FRAGMENTS)
    ]


CHOSEN = ALL if os.environ.get("FUZZ") else sample()


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    import_everything()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data files of the configs that read some, written once."""
    return tmp_path_factory.mktemp("shared")


def test_the_sample_touches_every_config_and_kind() -> None:
    chosen = sample()
    assert {mutation.base.name for mutation in chosen} == {base.name for base in bases()}
    assert {mutation.kind for mutation in chosen} == set(KINDS_OF_MISTAKE)
    assert len({mutation.id for mutation in ALL}) == len(ALL)


@pytest.mark.parametrize("mutation", CHOSEN, ids=lambda mutation: mutation.id)
def test_a_mistake_runs_or_is_named(mutation: Mutation, tmp_path: Path, shared: Path) -> None:
    outcome, wrong = attempt(mutation, tmp_path / "run", shared)
    assert wrong is None, (
        f"{wrong}; exit code {outcome.code} after {outcome.seconds:.1f} s\n"
        f"typed: {' '.join(mutation.overrides) or 'nothing'}\n"
        f"config.yaml:\n{mutation.text.decode('utf-8', 'replace')[:8000]}\nsaid:\n{outcome.said[-8000:]}"
    )
    assert not any("checkpoints" in file for file in outcome.files)  # a fast_dev_run writes nothing


def failures(count: int) -> list[Mutation]:
    """Mistakes to recover from, drawn from those that often show late."""
    late = [mutation for mutation in ALL if mutation.kind in LATE]
    return random.Random(SEED).sample(late, count)


@pytest.mark.parametrize("mutation", failures(24 if os.environ.get("FUZZ") else 6), ids=lambda mutation: mutation.id)
def test_what_a_mistake_leaves_does_not_hinder_the_next_run(mutation: Mutation, tmp_path: Path, shared: Path) -> None:
    folder = tmp_path / "run"
    lay_out(mutation, folder, shared)
    switches = [*SWITCHES[1:], *SHORT, "--run.method=method", "--run.root=runs"]
    first = run(["fit", "--config", "config.yaml", *mutation.overrides, *switches, "--run.name=one"], folder, SECONDS)
    name = "two" if (folder / "runs/method/one/checkpoints/last.ckpt").exists() else "one"
    whole = mutation.base.config()
    (folder / "whole.yaml").write_text(whole, encoding="utf-8")
    again = run(["fit", "--config", "whole.yaml", *switches, f"--run.name={name}"], folder, 3 * SECONDS)
    assert again.code == 0, f"{again.said}\nafter:\n{first.said}"
    on = run(["fit", "--config", "whole.yaml", *switches, "--ckpt_path", "last"], folder, 3 * SECONDS)
    assert on.code == 0, f"{on.said}\nafter:\n{first.said}"
    assert f"going on with runs/method/{name}" in on.said
