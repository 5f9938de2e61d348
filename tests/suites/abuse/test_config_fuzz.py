"""Mistakes in every shipped config, drawn from a seed: each runs, or ends with exit code 2 and a message that names it.

``make test`` has a sample that touches every config, and every kind of mistake in every field; ``make fuzz`` all. The id
of one is enough to run it again: ``FUZZ=1 pytest tests/suites/abuse -k ID``; another seed is ``FUZZ_SEED=7``.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
from pathlib import Path

import pytest

from abuse.bases import DIGITS, SWITCHES, Base, bases
from abuse.check import SECONDS, attempt, lay_out
from abuse.forked import import_everything, run
from abuse.mutations import KINDS_OF_MISTAKE, Mutation, mutations
from framework.__main__ import main

SEED = int(os.environ.get("FUZZ_SEED", "0"))
EACH = 6
ALL = mutations(bases(), EACH, SEED)
LATE = ("path", "huge", "zero", "deleted", "strange_text")  # kinds that often show when the run folder exists already
# Configs for which a training of one step is too short, and which say so: evaluations over several lengths, edits in a
# later epoch, a classifier that wants a sample of each class, a validation interval of many steps.
LONGER = (
    "in_context/",
    "finetuning/causal_lm_liger_paper",
    "finetuning/discriminative_generative",
    "initialization/mixture_growth",
    "interpretability/causal_abstraction_host",
    "sequence/transformer_liger",
    "callbacks/liger",
    "callbacks/mixture_growth",
    "callbacks/prompt_shift",
    "callbacks/recovery_report",
)
SHORT = (
    "--trainer.max_steps=1",
    "--trainer.limit_train_batches=1",
    "--trainer.limit_val_batches=1",
    "--trainer.num_sanity_val_steps=0",
)


def pair(mutation: Mutation) -> tuple[str, str]:
    """The kind of mistake, and the field of the config that it is made in."""
    return mutation.kind, mutation.base.name.partition("/")[0]


def sample() -> list[Mutation]:
    """Few in which every config and fragment is met, and every kind of mistake in each field: of each config the first
    whose kind its field has not had yet, and then what is still left out.
    """
    met: set[tuple[str, str]] = set()
    chosen = []
    for first in range(0, len(ALL), EACH):
        own = ALL[first : first + EACH]
        chosen.append(next((mutation for mutation in own if pair(mutation) not in met), own[(first // EACH) % EACH]))
        met.add(pair(chosen[-1]))
    for mutation in ALL:
        if pair(mutation) not in met:
            chosen.append(mutation)
            met.add(pair(mutation))
    return chosen


CHOSEN = ALL if os.environ.get("FUZZ") else sample()


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """What every command imports and looks up, once, so that no fork has to."""
    import_everything()
    with contextlib.redirect_stdout(io.StringIO()):
        main(["fit", "--config", DIGITS, "--print_config"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data files of the configs that read some, written once."""
    return tmp_path_factory.mktemp("shared")


def test_the_sample_touches_every_config_and_kind() -> None:
    chosen = sample()
    assert {mutation.base.name for mutation in chosen} == {base.name for base in bases()}
    assert {mutation.kind for mutation in chosen} == set(KINDS_OF_MISTAKE)
    assert {pair(mutation) for mutation in chosen} == {pair(mutation) for mutation in ALL}
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
    late = [mutation for mutation in ALL if mutation.kind in LATE and not mutation.base.name.startswith(LONGER)]
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
    assert f"resuming runs/method/{name}" in on.said


@pytest.mark.release
@pytest.mark.parametrize(
    "base", [base for base in bases() if not base.name.startswith(LONGER)], ids=lambda base: base.name
)
def test_without_a_mistake_each_trains_a_step(base: Base, tmp_path: Path) -> None:
    """What the test above relies on, whichever mistakes it draws."""
    (tmp_path / "config.yaml").write_text(base.config(), encoding="utf-8")
    if base.write is not None:
        base.write(tmp_path / "data")
    outcome = run(["fit", "--config", "config.yaml", *SWITCHES[1:], *SHORT, "--run.root=runs"], tmp_path, 3 * SECONDS)
    assert outcome.code == 0, outcome.said
