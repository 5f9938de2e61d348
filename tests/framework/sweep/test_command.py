from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
import wandb.wandb_agent

from framework.errors import UserError
from framework.sweep import command, template
from framework.sweep.spec import Sweep

ODD = {
    "flag": True,
    "off": False,
    "none": None,
    "lr": 1e-05,
    "tiny": 5e-324,
    "big": 1e22,
    "whole": 3.0,
    "count": -7,
    "text": "two words",
    "quotes": "a 'b' \"c\"",
    "equals": "k=v",
    "unicode": "µ→∞",
    "empty": "",
    "looks.like": "None",
    "macro": "${args}",
    "list": [1, 2.5, None, True, "x y"],
    "nested": {"x": 0.2, "y": {"z": 1, "on": False, "s": "it's"}},
    "model.optimizer.lr": 0.1 + 0.2,
    "newline": "a\nb",
}


def sweep(*items: str, program: str | None = "train.py") -> Sweep:
    return Sweep(Path("sweep.yaml"), "random", (), command=items or template.DEFAULT, program=program)


@pytest.fixture
def agent(monkeypatch):
    """What W&B's agent runs for a command and values: its own code, up to the start of the process."""

    def run(items: list[str], values: dict) -> list[str]:
        started = []
        monkeypatch.setattr(
            wandb.wandb_agent, "AgentProcess", lambda command, **_: started.append(command) or Process()
        )
        for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
            monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv("WANDB_DIR", raising=False)
        monkeypatch.setenv("WANDB_SWEEP_ID", "s")
        one = wandb.wandb_agent.Agent.__new__(wandb.wandb_agent.Agent)
        one._sweep_command, one._function, one._in_jupyter, one._forward_signals = list(items), None, False, False
        one._run_processes = {}
        one._command_run(
            {"run_id": "r", "program": "train.py", "args": {name: {"value": value} for name, value in values.items()}}
        )
        return started[0]

    class Process:
        pass

    return run


ARGUMENTS = [name for name in template.MACROS if name.startswith("args") and name != "args_json_file"]


@pytest.mark.parametrize("name", ARGUMENTS)
@pytest.mark.parametrize(
    "values", [ODD, {}, *({key: value} for key, value in ODD.items())], ids=lambda v: ",".join(v)[:20]
)
def test_arguments_are_those_of_the_agent(agent, name, values):
    items = ["prog", f"${{{name}}}", "--last"]
    assert command.expand(sweep(*items), values) == agent(items, values)


def test_arguments_are_those_of_the_agent_at_random(agent):
    generator = random.Random(0)

    def value(depth: int = 0):
        kind = generator.randrange(8 if depth < 3 else 6)
        if kind < 6:
            return [
                None,
                generator.random() < 0.5,
                generator.randint(-(10**9), 10**9),
                generator.gauss(0, 1) * 10 ** generator.randint(-20, 20),
                "".join(generator.choice("ab '\"=$\\{}[]é,:-") for _ in range(generator.randrange(9))),
                float(generator.randint(-5, 5)),
            ][kind]
        if kind == 6:
            return [value(depth + 1) for _ in range(generator.randrange(4))]
        return {f"k{index}": value(depth + 1) for index in range(generator.randrange(4))}

    items = ["${interpreter}", *(f"${{{name}}}" for name in ARGUMENTS), "${program}"]
    for _ in range(50):
        values = {f"p{index}.x": value() for index in range(6)}
        assert command.expand(sweep(*items), values, interpreter="python") == agent(items, values)


def test_the_default_command(agent):
    assert command.expand(sweep(), ODD, interpreter="python") == agent(list(template.DEFAULT), ODD)
    assert command.expand(sweep(), {"a": 1}) == ["/usr/bin/env", sys.executable, "train.py", "--a=1"]


def test_environment_variables(agent, monkeypatch):
    monkeypatch.setenv("DATA_1", "/data with space")
    monkeypatch.setenv("HOST", "h")
    items = ["${envvar:DATA_1}", "--data=${envvar:DATA_1}/x:${envvar:HOST}", "8", "${envvar:HOST}${envvar:HOST}"]
    assert command.expand(sweep(*items), {}) == agent(items, {})
    assert command.expand(sweep(*items), {}, {"DATA_1": "d", "HOST": ""}) == ["d", "--data=d/x:", "8", ""]
    with pytest.raises(UserError, match=r"--data=.*HOST is not set"):
        command.expand(sweep(*items[1:]), {}, {"DATA_1": "d"})


def test_a_macro_in_the_environment_is_text():
    assert command.expand(sweep("${envvar:A}"), {"x": 1}, {"A": "${args}"}) == ["${args}"]


def test_the_file_of_arguments(agent, tmp_path):
    items = ["${args_json_file}"]
    (theirs,) = agent(items, ODD)
    assert command.expand(sweep(*items), ODD, params_file=tmp_path / "p.json") == [str(tmp_path / "p.json")]
    assert (tmp_path / "p.json").read_bytes() == Path(theirs).read_bytes()
    assert json.loads((tmp_path / "p.json").read_text()) == ODD


def test_what_the_agent_does_with_a_wrong_macro(agent):
    """Why they are errors here: should the agent change, so should this."""
    assert agent(["a", "${argz}", "${args}${program}", "${envvar:lower}", "${oc.env:A}/${oc.env:B}"], {"x": 1}) == ["a"]
    assert agent(["--all=${args}"], {"x": 1}) == ["--all=${args}"]
    assert agent(["${envvar:NOT_SET_ANYWHERE}"], {}) == ["NOT_SET_ANYWHERE"]


BIN = str(Path(sys.executable).parent)
THIS = f"python3.{sys.version_info.minor}"
REST = ["fit", "--config", "sequence/s4d", "--model.d_model=3"]


@pytest.mark.parametrize(
    "argv",
    [
        ["/usr/bin/env", "python", "-m", "framework"],
        ["/usr/bin/env", sys.executable, "-m", "framework"],
        ["env", "KEPT=as it is", "python3", "-u", "-B", "-m", "framework"],
        [THIS, "-m", "framework"],
        [f"{BIN}/python3", "-m", "framework"],
        ["framework"],
        [f"{BIN}/framework"],
        ["/usr/bin/env", "framework"],
    ],
    ids=" ".join,
)
def test_runs_of_this_framework(argv):
    assert command.framework_arguments([*argv, *REST], {"KEPT": "as it is"}) == REST


@pytest.mark.parametrize("subcommand", ["fit", "validate", "test", "predict"])
def test_subcommands_for_a_worker(subcommand):
    assert command.framework_arguments(["python", "-m", "framework", subcommand]) == [subcommand]


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["/usr/bin/env"],
        ["python"],
        ["python", "-m"],
        ["python", "train.py", "fit"],
        ["python", "-m", "other", "fit"],
        ["python", "-m", "framework"],
        ["python", "-m", "framework", "reproduce", "s4d"],
        ["python", "-m", "framework", "sweep", "x.yaml"],
        ["python", "-O", "-m", "framework", "fit"],
        ["python", "-X", "dev", "-m", "framework", "fit"],
        ["python2", "-m", "framework", "fit"],
        ["python3.5", "-m", "framework", "fit"],
        ["/opt/other/bin/python", "-m", "framework", "fit"],
        ["/opt/other/bin/framework", "fit"],
        ["/usr/bin/env", "CUDA_VISIBLE_DEVICES=1", "python", "-m", "framework", "fit"],
        ["/usr/bin/env", "-i", "python", "-m", "framework", "fit"],
        ["A=1", "python", "-m", "framework", "fit"],
        ["torchrun", "-m", "framework", "fit"],
        ["bash", "-c", "python -m framework fit"],
        ["python", "-m", "framework", "fit", "--help"],
        ["python", "-m", "framework", "fit", "--model.help=modules.sequence.s4d.S4DClassifier"],
        ["python", "-m", "framework", "fit", "--print_config"],
    ],
    ids=" ".join,
)
def test_runs_that_need_a_process_of_their_own(argv):
    assert command.framework_arguments(argv, {"CUDA_VISIBLE_DEVICES": "0"}) is None


def test_expand_says_what_is_missing():
    with pytest.raises(UserError, match="needs the key program"):
        command.expand(sweep(program=None), {})
    with pytest.raises(ValueError, match="needs a file"):
        command.expand(sweep("${args_json_file}"), {})
