"""Runs the blocks of a page one after another, as a reader would who types them in a fresh folder.

A training is cut to two batches and an evaluation to one, which leaves what is typed its meaning. A framework's command
runs in a fork of a process that has imported everything; ``runs/METHOD/…`` means the newest run of that method.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import os
import re
import runpy
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from resume_harness import start_child, wait_for

from docs.blocks import ROOT, Block, command_lines, framework_arguments
from framework import catalogue, paths
from framework.__main__ import main
from framework.claims import reproduce
from framework.commands import sweep as sweep_command

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
STEPS = [
    f"--trainer.limit_{stage}_batches={2 if stage == 'train' else 1}" for stage in ("train", "val", "test", "predict")
]
SHORT = [*STEPS, *QUIET, "--trainer.accelerator=cpu", "--wandb.mode=disabled"]
TRAINING = ("fit", "validate", "test", "predict")
PLACEHOLDERS = {"NAME": "sequence/s4d", "FILE": "sweeps/s4d_init"}


def shortened(arguments: list[str], again: bool) -> list[str]:
    """A training command with what makes it short; ``again``: it goes on from a checkpoint, an epoch further."""
    if arguments[0] not in TRAINING or any("help" in item or item == "--print_config" for item in arguments):
        return arguments
    figures = [] if any("kernel_plot" in item for item in arguments) else ["--techniques.kernel_plot=null"]  # seconds
    return [
        *arguments,
        *SHORT,
        *figures,
        *([f"--trainer.max_epochs={2 if again else 1}"] if arguments[0] == "fit" else []),
    ]


def newest(text: str) -> str:
    """``text`` with the newest run of that method for each ``runs/METHOD/…``."""

    def run(match: re.Match[str]) -> str:
        runs = [p for p in Path(match[1]).iterdir() if (p / "config.yaml").is_file()]
        return str(max(runs, key=lambda p: p.stat().st_mtime_ns))

    return re.sub(r"\b(runs/\w+)/…", run, text)


class Failure(Exception):
    """A block did not do what it says."""


class PageRun:
    """The state between two blocks: the folder, Python's names, and what was printed last.

    Args:
        sweeps: Whether a sweep runs, which takes its workers ten seconds to start; else its file is read, and its first
            trial composed.
    """

    def __init__(self, sweeps: bool = False) -> None:
        os.environ["WANDB_MODE"] = "disabled"  # for scripts; a run takes seconds to open and close
        self.names: dict[str, Any] = {"__name__": "__page__"}
        self.printed = ""
        self.sweeps = sweeps
        sys.path.insert(0, "")

    def run(self, block: Block) -> None:
        """Runs one block.

        Raises:
            Failure: it fails, or nothing is known of how to run it.
        """
        runners: dict[str, Callable[[Block], None]] = {
            "bash": self.bash,
            "yaml": self.yaml,
            "python": self.python,
            "text": self.text,
            "toml": self.toml,
        }
        runner = self.read_only if block.skip is not None else runners.get(block.language)
        if runner is None:
            raise Failure(f"{block.place}: a block of {block.language or 'no language'} has no runner and no mark")
        try:
            runner(block)
        except Failure as failure:
            raise Failure(f"{block.place}: {failure}") from None
        except Exception:
            raise Failure(f"{block.place}:\n{block.text}\n{traceback.format_exc()}") from None

    # each language

    def bash(self, block: Block) -> None:
        """Each command must end with exit code 0."""
        for words in command_lines(newest(block.text)):
            self.command(words)

    def yaml(self, block: Block) -> None:
        """Saves a config and tries it, a sweep's file is read by the sweep's reader."""
        if block.file is None:
            raise Failure("a YAML block begins with a comment that names its file")
        path = self.save(block)
        tree = yaml.safe_load(block.text)
        if "parameters" in tree:
            self.sweep_file(["sweep", str(path)])
            return
        base = [] if "model" in tree else ["--config", "vision/image_classifier_digits"]
        fit = ["fit", *base, "--config", str(path)]
        self.framework([*fit, "--print_config"])
        self.framework([*fit, "--trainer.fast_dev_run=true"])

    def python(self, block: Block) -> None:
        """Executes it, or saves and imports the file that it names."""
        text = newest(block.text)
        if block.file is None:
            exec(compile(text, block.place, "exec"), self.names)
            return
        path = self.save(block)
        if path.parent != Path():
            importlib.invalidate_caches()
            importlib.import_module(".".join(path.with_suffix("").parts))

    def text(self, block: Block) -> None:
        """Each line must be among those that the last command printed; ``…`` stands for anything."""
        for line in filter(None, map(str.strip, block.text.splitlines())):
            pattern = ".*".join(map(re.escape, line.split("…")))
            if not re.search(rf"^\s*{pattern}\s*$", self.printed, re.MULTILINE):
                raise Failure(f"nothing like {line!r} was printed:\n{self.printed[-3000:]}")

    def toml(self, block: Block) -> None:
        """It is TOML; the names on the right of an entry point exist."""
        tree = tomllib.loads(block.text)
        for points in tree.get("project", {}).get("entry-points", {}).values():
            for value in points.values():
                module, _, name = value.partition(":")
                getattr(importlib.import_module(module), name)

    def read_only(self, block: Block) -> None:
        """What cannot run here has a reason; its targets exist, and what it gives the framework is accepted."""
        if not block.skip:
            raise Failure("'not run' without a reason")
        if block.language != "bash":
            return
        targets = re.findall(r"^([\w-]+(?: [\w-]+)*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        known = {target for line in targets for target in line.split()}
        for words in command_lines(block.text):
            if words[0] == "make":
                wrong = {word for word in words[1:] if "=" not in word and "/" not in word} - known
                if wrong:
                    raise Failure(f"make has no target {wrong}")
            elif (arguments := framework_arguments(words)) is not None:
                self.accepted([PLACEHOLDERS.get(word, word) for word in arguments])

    def accepted(self, arguments: list[str]) -> None:
        """What a command's arguments name is known; nothing runs."""
        if arguments[0] == "sweep":
            self.sweep_file(arguments)
        elif arguments[0] in TRAINING:
            self.framework([*arguments, "--print_config"])
        else:
            raise Failure(f"{arguments} is not run, and cannot be read either")

    # commands

    def command(self, words: list[str]) -> None:
        """One command of a shell block."""
        arguments = framework_arguments(words)
        if arguments is not None and any("ddp" in word for word in arguments):
            self.process([sys.executable, "-m", "framework", *shortened(arguments, again=False)])
        elif arguments is not None:
            self.framework(arguments)
        elif words[:3] == ["python", "-m", "pytest"]:
            self.fork(lambda: sys.exit(pytest.main([*words[3:], "-p", "no:cacheprovider"])), words)
        elif words[0] == "python" and len(words) == 2:
            self.fork(functools.partial(runpy.run_path, words[1], run_name="__main__"), words)
        else:
            raise Failure(f"{' '.join(words)}: no runner, and the block is not marked")

    def framework(self, arguments: list[str]) -> None:
        """One of the framework's own commands."""
        again = any("ckpt_path" in item for item in arguments)
        if arguments[0] == "sweep" and "--help" not in arguments:
            self.sweep_file(arguments)
            if not self.sweeps:
                return
            arguments = short_sweep(arguments)
        arguments = shortened(arguments, again)

        def run() -> None:
            if arguments[0] == "reproduce":
                _first_claims_only()
            sys.exit(main(arguments))

        self.fork(run, arguments)

    def fork(self, function: Callable[[], Any], what: list[str]) -> None:
        """Runs in a child, its output kept."""
        said = Path(".said").resolve()

        def child() -> None:
            out = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
            sys.argv = ["framework", *what]
            try:
                function()
            except Exception:
                traceback.print_exc()
                sys.exit(1)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()

        code = wait_for(start_child(child))
        self.printed = said.read_text(encoding="utf-8")
        said.unlink()
        self.check(code, what)

    def process(self, command: list[str]) -> None:
        """Runs in a process of its own, which starts others."""
        found = os.environ.get("PYTHONPATH", "")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [found])])}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        self.printed = done.stdout + done.stderr
        self.check(done.returncode, command)

    def check(self, code: int, what: list[str]) -> None:
        if code != 0:
            raise Failure(f"{' '.join(what)}: exit code {code}\n{self.printed[-4000:]}")

    def sweep_file(self, arguments: list[str]) -> None:
        """A sweep's options and its file are accepted, and so is its first trial, if it is one of ours."""
        from framework.commands.sweep import _check
        from framework.sweep import command
        from framework.sweep.spec import read

        sweep = read(paths.find_config(sweep_given(arguments[1:]), sweep=True))
        _check(sweep)
        values = {p.label: p.grid_value(0) if sweep.method == "grid" else p.ppf(0.5) for p in sweep.parameters}
        argv = command.expand(sweep, sweep.nested(values), params_file=Path("parameters.json"))
        trial = command.framework_arguments(argv)
        if trial is not None:
            self.framework([*trial, "--print_config"])

    def save(self, block: Block) -> Path:
        """Writes the file that a block's first line names."""
        assert block.file is not None
        path = Path(block.file)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        return path


def sweep_given(arguments: list[str]) -> str:
    """The file, or short name, that ``sweep`` is given."""
    options = sweep_command.command_line().read(arguments)
    assert options is not None
    (given,) = options.file
    return given


def short_sweep(arguments: list[str]) -> list[str]:
    """The same sweep, but of two trials in one worker, each of two batches."""
    given = sweep_given(arguments[1:])
    file = paths.find_config(given, sweep=True)
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    place = tree["command"].index("${args}")
    tree["command"][place:place] = [*STEPS, *QUIET, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    copy = Path("short") / file.name
    copy.parent.mkdir(exist_ok=True)
    copy.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    rest = [str(copy) if item == given else item for item in arguments]
    return [*rest, "--count", "2", "--workers", "1"]


def _first_claims_only() -> None:
    """``reproduce`` measures the first claim of a method, and ``--all`` means two methods."""
    known = reproduce.claims_modules()
    few = {name: known[name] for name in ("s4d", "gg_prior")}

    def first(module: str) -> Any:
        claims = importlib.import_module(module).claims
        return SimpleNamespace(claims=lambda run: itertools.islice(claims(run), 1))

    reproduce.import_module = first  # type: ignore[attr-defined]
    if "--all" in sys.argv:
        reproduce.claims_modules = lambda: few  # type: ignore[assignment]


@functools.cache
def import_what_commands_import_late() -> None:
    """So that no fork has to."""
    for name in (
        "framework.commands.train",
        "framework.runs.experiment",
        "framework.commands.compare",
        "framework.checkpoints.export",
        "framework.sweep.supervisor",
        "matplotlib.pyplot",
        "optuna",
        "peft",
        "pyarrow.parquet",
        "sklearn.datasets",
        "timm",
        "wandb",
        "modules.sequence.s4d",
        "modules.vision.image_classifier",
        "datamodules.sequence.images",
        "datamodules.vision.small_images",
        *(class_path.rpartition(".")[0] for class_path in catalogue.techniques().values()),
    ):
        importlib.import_module(name)
