"""Every config that ships: it can be found, typed, and trains or, where it needs files, says which."""

from __future__ import annotations

import pytest
from small_runs import FAST, FRAGMENTS, LANGUAGE, METHODS, OFFLINE, PROMPTS, WHOLE, WRITERS, small_steps

from framework.__main__ import main
from framework.config import yaml12


@pytest.mark.parametrize("name", METHODS)
def test_it_is_typed_and_saves_to_itself(name, capsys):
    assert main(["fit", "--config", name, "--print_config"]) == 0
    printed = capsys.readouterr().out
    tree = yaml12.load(printed)
    assert "${" not in printed
    assert tree["run"]["method"] == name.rsplit("/", 1)[-1]


# What is measured beside a step, and takes longer than the step, on less.
LESS = {
    "dynamics/rich_lazy_rnn": ["--model.kernel_trials=4", "--data.probes=32"],
    "dynamics/rich_lazy_rnn_digits": ["--model.kernel_trials=4"],
    "interpretability/compositional_linear": ["--techniques.concept_geometry.steps=5"],
    "finetuning/discriminative_generative": ["--techniques.probe_heads.repeats=2"],
}


@pytest.mark.parametrize("name", OFFLINE)
def test_it_takes_a_step(name):
    assert main(["fit", "--config", name, *FAST, *small_steps(name), *LESS.get(name, [])]) == 0


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(OFFLINE)))
def test_a_narrowed_copy_takes_a_step_on_tiny_files_in_the_papers_format(name, tmp_path):
    write, narrow = WRITERS[name]
    write(tmp_path / "data")
    small = ["--trainer.precision=null", f"--data.path={tmp_path / 'data'}"]
    small += small_steps(name)
    if not name.startswith((*WHOLE, PROMPTS)):
        small += ["--data.num_workers=0"]
    assert main(["fit", "--config", name, *FAST, *small, *narrow]) == 0


@pytest.mark.parametrize("name", sorted(set(METHODS) - set(OFFLINE)))
def test_without_its_files_it_says_which_are_missing(name, capsys):
    missing = ["--model.path=nowhere"] if name.startswith(LANGUAGE) else ["--data.path=nowhere"]
    narrow = WRITERS[name][1]  # or the paper's model would be built at its size
    assert main(["fit", "--config", name, *FAST, *narrow, *missing, "--trainer.precision=null"]) == 2
    said = capsys.readouterr().err
    assert "nowhere" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_fragment_adds_its_technique_under_its_own_name(name, capsys):
    assert main(["fit", "--config", "sequence/s4d", "--config", name, "--print_config"]) == 0
    technique = name.removeprefix("callbacks/")
    assert technique in yaml12.load(capsys.readouterr().out)["techniques"]
