"""Sweep files that ship, and every form in which W&B's agent hands values over, through this framework's command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from checkout import CONFIGS
from grids import grid_point
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from framework.__main__ import main
from framework.config import yaml12
from framework.config.compose import read_command_line
from framework.sweep import command, spec

SWEEPS = sorted((CONFIGS / "sweeps").glob("*.yaml"))
SCHEMA = json.loads((Path(__file__).parent / "wandb" / "schema.json").read_text())


def agent_line(path: Path, point: dict[str, Any]) -> list[str]:
    """What W&B's agent runs at a point, put together as its ``_command_run`` does."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    filled: dict[str, list[str]] = create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in point.items()}}
    )
    filled |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [document.get("program")]}
    line: list[str] = []
    for item in map(str, create_sweep_command(document.get("command"))):
        line += filled.get(item[2:-1]) or [] if item.startswith("${") and item.endswith("}") else [item]
    return line


def printed(arguments: list[str], capsys) -> dict[str, Any]:
    """The config that the command line composes and types."""
    assert read_command_line(arguments[1:]).problems == []
    capsys.readouterr()
    code = main([*arguments, "--print_config"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return yaml12.load(shown.out)


def at(config: Any, label: str) -> Any:
    """A setting by its short name: the config prints ``model.lr`` as ``model.init_args.lr``."""
    *sections, last = label.split(".")
    for name in sections:
        config = config["init_args"][name] if "init_args" in config and name not in config else config[name]
    inner = config["init_args"] if "init_args" in config and last not in config else config
    return inner.get(last) if sections[-1:] == ["techniques"] else inner[last]  # null leaves a technique out


def assert_set(found: Any, value: Any, label: str) -> None:
    """A setting has this value; of a technique, all settings that are given."""
    if isinstance(value, dict):
        for name, part in value.items():
            assert_set(found[name], part, f"{label}.{name}")
        return
    assert found == value, label
    assert isinstance(found, bool) == isinstance(value, bool), label


def points(sweep: spec.Sweep) -> list[dict[str, Any]]:
    """The first, the middle and the last of a grid, or three quantiles of each distribution."""
    size = sweep.grid_size()
    if size is not None:
        return [grid_point(sweep, index) for index in sorted({0, size // 2, size - 1})]
    return [{p.label: p.ppf(u) for p in sweep.parameters} for u in (0.05, 0.5, 0.95)]


def test_some_sweeps_ship():
    assert len(SWEEPS) >= 5


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_shipped_sweep_is_valid_for_wandb(path):
    jsonschema.Draft7Validator(SCHEMA).validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    sweep = spec.read(path)
    assert sweep.name == path.stem
    assert sweep.metric is not None
    assert sweep.grid_size() is not None or sweep.run_cap is not None  # it ends


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_shipped_sweep_runs_under_an_agent_and_here(path, capsys):
    sweep = spec.read(path)
    for point in points(sweep):
        line = agent_line(path, sweep.nested(point))
        assert command.expand(sweep, sweep.nested(point), interpreter="python") == line
        arguments = command.framework_arguments(line)
        assert arguments is not None, line
        config = printed(arguments, capsys)
        for label, value in point.items():
            assert_set(at(config, label), value, label)


NESTED = """
method: grid
parameters:
  model:
    parameters:
      optimizer: {parameters: {lr: {values: [0.00001]}, decay_1d: {value: false}}}
      backbone_args: {value: {width: 64, depth: 1, extra: {flag: true, none: null, tiny: 1.0e-07, text: "it's, = [x] so"}}}
      mixup: {values: [0.2]}
  techniques:
    parameters:
      lora: {parameters: {rank: {values: [3]}, use_rslora: {value: true}, target_modules: {value: [layers.0, "a b"]}}}
  techniques.ema: {values: [null]}
  trainer.max_epochs: {min: 7, max: 8}
  trainer.gradient_clip_val: {value: 1.0e-05}
  trainer.detect_anomaly: {value: true}
  data.val_fraction: {distribution: q_uniform, min: 0.25, max: 0.5, q: 0.25}
  wandb.tags: {value: [a, "2"]}
  wandb.notes: {value: "spaces 'and' \\"quotes\\", k=v, µ"}
command: [python, -m, framework, fit, --config, vision/image_classifier_digits, --config, callbacks/lora, --config, callbacks/ema, "${%s}"]
"""
EXPECTED = {
    "model.optimizer.lr": 1e-05,
    "model.optimizer.decay_1d": False,
    "model.optimizer.name": "adamw",  # what the sweep does not name stays
    "model.backbone_args": {
        "width": 64,
        "depth": 1,
        "extra": {"flag": True, "none": None, "tiny": 1e-07, "text": "it's, = [x] so"},
    },
    "model.mixup": 0.2,
    "techniques.lora.rank": 3,
    "techniques.lora.alpha": 16.0,
    "techniques.lora.use_rslora": True,
    "techniques.lora.target_modules": ["layers.0", "a b"],
    "trainer.max_epochs": 7,
    "trainer.gradient_clip_val": 1e-05,
    "trainer.detect_anomaly": True,
    "data.val_fraction": 0.25,
    "wandb.tags": ["a", "2"],
    "wandb.notes": "spaces 'and' \"quotes\", k=v, µ",
}


@pytest.mark.parametrize("macro", ["args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json"])
def test_every_kind_of_value_gets_through_the_command_line(macro, tmp_path, capsys):
    path = tmp_path / "nested.yaml"
    path.write_text(NESTED % macro, encoding="utf-8")
    sweep = spec.read(path)
    point = sweep.nested(grid_point(sweep, 0))
    line = agent_line(path, point)
    assert command.expand(sweep, point) == line
    if macro == "args":
        assert "--techniques.ema=None" in line
        assert any(re.match(r"--model=\{'backbone_args': \{.*'none': None, .*\}, 'mixup'", item) for item in line)
    config = printed(command.framework_arguments(line) or [], capsys)
    found = {label: at(config, label) for label in EXPECTED}
    assert json.dumps(found) == json.dumps(EXPECTED)
    assert list(config["techniques"]) == ["lora"]
