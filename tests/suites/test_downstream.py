"""A separate project, installed apart from this checkout, whose folders are called as ours are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from checkout import ROOT
from editing_toys import Net, trainer_of
from lightning.pytorch.callbacks import ModelCheckpoint
from resume_harness import same
from torch.utils.data import DataLoader, TensorDataset

from callbacks.input_gradient_penalty import InputGradientPenalty
from callbacks.lora import LoRA
from callbacks.ntk_monitor import NTKMonitor
from callbacks.weight_penalty import WeightPenalty

# The ways to start our command differ in `sys.path` alone, and each imports for five seconds: a process that has imported
# what others made, and nothing of ours, forks for each. It is given the command, the folder and PYTHONPATH, as JSON.
STARTER = """
import json, os, runpy, sys, traceback
import lightning.pytorch.cli, torch, torchvision, wandb
ours = {"framework", "modules", "datamodules", "callbacks", "lab"}
assert not ours & set(sys.modules), ours & set(sys.modules)
clean = list(sys.path[1:])  # without the folder of this script
for line in sys.stdin:
    command, folder, path, out = json.loads(line)
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.chdir(folder)
            for number, name in ((1, out + ".out"), (2, out + ".err")):
                os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            own, safe = [], command[0] == "-P"
            words = command[safe:]
            if words[0] == "-m":
                own, run = [folder], lambda: runpy.run_module(words[1], run_name="__main__", alter_sys=True)
                sys.argv = words[1:]
            else:
                own = [os.path.dirname(os.path.abspath(words[0]))]
                run, sys.argv = lambda: runpy.run_path(words[0], run_name="__main__"), words
            sys.path[:] = [*([] if safe else own), *([path] if path else []), *clean]
            run()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""
FILES = {
    "lab/__init__.py": "",
    "lab/model.py": '''
"""Subclasses of what the framework ships."""
from modules.sequence.s4d import S4DClassifier
from datamodules.sequence.images import SequentialImages


class LabClassifier(S4DClassifier):
    """S4D with a louder loss.

    Args:
        loudness: Factor on the loss.
        **kwargs: As S4DClassifier's.
    """

    def __init__(self, loudness: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.loudness = loudness

    def training_step(self, batch, batch_idx):
        return self.loudness * super().training_step(batch, batch_idx)


class LabDigits(SequentialImages):
    """Digits, fewer of them.

    Args:
        keep: Training samples.
        **kwargs: As SequentialImages'.
    """

    def __init__(self, keep: int = 100, **kwargs):
        super().__init__(**kwargs)
        self.keep = keep
''',
    "lab/callback.py": '''
"""A callback of the project's own."""
from lightning.pytorch import Callback


class Shout(Callback):
    """Prints a word when training ends.

    Args:
        word: What to print.
    """

    def __init__(self, word: str = "done") -> None:
        self.word = word

    def on_fit_end(self, trainer, pl_module):
        print(f"SHOUT {self.word} {pl_module.loudness}", flush=True)
''',
    # The names collide on purpose.
    "modules/__init__.py": "raise RuntimeError('the project\\'s own modules were imported in place of the framework\\'s')",
    "callbacks/__init__.py": "raise RuntimeError('the project\\'s own callbacks were imported')",
    "experiment.yaml": """
model:
  class_path: lab.model.LabClassifier
  init_args: {loudness: 2.0, d_input: 1, n_classes: 10, d_model: 8, n_layers: 1, ssm: {d_state: 4}}
data:
  class_path: lab.model.LabDigits
  init_args: {source: digits, keep: 64}
techniques:
  shout: {class_path: lab.callback.Shout, word: hello}
trainer: {max_steps: 2, limit_val_batches: 1, enable_progress_bar: false, enable_model_summary: false, accelerator: cpu}
wandb: {mode: disabled}
""",
    "train.py": """
import framework
framework.own_packages_first()
from lab.model import LabClassifier
trainer, model, data = experiment = framework.build("experiment.yaml", {"techniques.shout.word": "script"})
assert type(model) is LabClassifier, type(model)
experiment.fit()
assert trainer.global_step == 2
print("SCRIPT", experiment.folder)
""",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """An environment that holds the built wheel; the dependencies are those of the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(wheel, check=True, cwd=folder)
    environment = folder / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (built,) = folder.glob("*.whl")
    install = [*pip, "--python", str(environment / "bin" / "python"), "install", "--no-deps", "--no-index", str(built)]
    subprocess.run(install, check=True, cwd=folder)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment / "bin"


@pytest.fixture(scope="module")
def start(installed, tmp_path_factory) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs what follows `python`, or a console script, in a fork of a process of the installed environment."""
    folder = tmp_path_factory.mktemp("starter")
    (folder / "starter.py").write_text(STARTER)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(installed / "python"), str(folder / "starter.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **pipes) as starter:

        def run(command: list[str], cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
            out = str(folder / "said")
            starter.stdin.write(json.dumps([command, str(cwd), str(path) if path else None, out]) + "\n")
            starter.stdin.flush()
            code = int(starter.stdout.readline())
            said = [Path(f"{out}.{kind}").read_text() for kind in ("out", "err")]
            return subprocess.CompletedProcess(command, code, *said)

        yield run
        starter.stdin.close()


@pytest.fixture
def project(tmp_path) -> Path:
    folder = tmp_path / "project"
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def run(command: list[str], cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200)


def test_console_script_from_the_projects_own_folder(installed, project):
    done = run([str(installed / "framework"), "fit", "--config", "experiment.yaml"], project)
    assert done.returncode == 0, done.stderr
    assert "SHOUT hello 2.0" in done.stdout
    assert len(list((project / "runs" / "experiment").iterdir())) == 1


def test_console_script_from_elsewhere(installed, start, project, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    config = str(project / "experiment.yaml")
    done = start([str(installed / "framework"), "fit", "--config", config], elsewhere, path=project)
    assert done.returncode == 0, done.stderr
    assert "SHOUT hello 2.0" in done.stdout
    assert (elsewhere / "runs" / "experiment").is_dir()


def test_python_m_from_a_folder_whose_names_collide_says_so_in_one_line(installed, project):
    done = run([str(installed / "python"), "-m", "framework", "fit", "--config", "experiment.yaml"], project)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"{project / 'modules'} hides the framework's package 'modules'" in done.stderr
    assert f"{project / 'callbacks'} hides the framework's package 'callbacks'" in done.stderr
    assert "run the console script `framework" in done.stderr


def test_python_m_without_the_current_folder_runs(start, project):
    command = ["-P", "-m", "framework", "fit", "--config", "experiment.yaml"]
    done = start([*command, "--techniques.shout.word=safe"], project)
    assert done.returncode == 0, done.stderr
    assert "SHOUT safe 2.0" in done.stdout


def test_python_m_from_the_projects_own_folder_once_the_names_do_not_collide(start, project):
    (project / "modules").rename(project / "lab" / "modules")
    (project / "callbacks").rename(project / "lab" / "callbacks")
    done = start(["-m", "framework", "fit", "--config", "experiment.yaml"], project)
    assert done.returncode == 0, done.stderr
    assert "SHOUT hello 2.0" in done.stdout


def test_from_a_script(start, project):
    done = start(["train.py"], project)
    assert done.returncode == 0, done.stderr
    assert "SHOUT script 2.0" in done.stdout
    assert "SCRIPT runs/experiment/" in done.stdout


def test_from_a_notebook(installed, project):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(FILES["train.py"])])
    manager = AsyncKernelManager()
    python = str(installed / "python")
    manager._kernel_spec = KernelSpec(
        argv=[python, "-m", "ipykernel_launcher", "-f", "{connection_file}"], language="python"
    )
    client = nbclient.NotebookClient(notebook, km=manager, timeout=200, resources={"metadata": {"path": str(project)}})
    before = signal.getsignal(signal.SIGINT)
    client.execute()
    signal.signal(signal.SIGINT, before)  # nbclient leaves Python's default, also where signals were ignored before
    printed = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    assert "SHOUT script 2.0" in printed


def test_the_wheel_finds_its_configs_from_any_folder(installed, tmp_path):
    done = run([str(installed / "framework"), "list", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"sequence/s4d"' in done.stdout


def test_a_module_of_lightnings_own_under_its_plain_trainer(tmp_path):
    """Penalties, an edit and an observer together: trained, saved, resumed as if not stopped."""

    generator = torch.Generator().manual_seed(7)
    x, y = torch.randn(24, 5, generator=generator), torch.randint(0, 3, (24,), generator=generator)

    def fit(folder, epochs, ckpt=None):
        torch.manual_seed(0)
        kept = ModelCheckpoint(folder, save_last=True)
        techniques = [
            WeightPenalty(0.01),
            LoRA(rank=2, target_modules=["first"]),
            InputGradientPenalty(0.1),
            NTKMonitor(every_n_steps=3, points=3, eigenvalues=2, chunk=2),
        ]
        trainer = trainer_of(folder, *techniques, kept, max_epochs=epochs)
        trainer.fit(Net(), DataLoader(TensorDataset(x, y), batch_size=4), ckpt_path=ckpt, weights_only=True)
        return trainer

    whole = fit(tmp_path / "whole", 3)
    stopped = fit(tmp_path / "stopped", 2)
    resumed = fit(tmp_path / "resumed", 3, tmp_path / "stopped" / "last.ckpt")
    ends = [trainer.lightning_module.state_dict() for trainer in (whole, stopped, resumed)]
    assert same(ends[0], ends[2])
    assert not same(ends[0], ends[1])
    logged = [{name: float(value) for name, value in t.callback_metrics.items()} for t in (whole, resumed)]
    assert logged[0] == logged[1]
    assert logged[0].keys() >= {"train/loss", "train/weight_penalty", "train/input_gradient_penalty", "ntk/drift"}
    assert any("lora_A" in name for name in ends[0])
    assert not {"training_step", "backward"} & set(vars(whole.lightning_module))
