"""Paths of settings: the home folder in every option, and saved configs that open from another working folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.callbacks import Callback

import framework
from framework import catalogue
from framework.__main__ import main
from framework.config import explain, yaml12
from framework.config.compose import compose, read_command_line, read_inputs
from framework.config.places import names_a_path, same_place
from framework.runs.preparing import prepare

PROMPTS = "in_context/icl_linear_models"
BORING = "lightning.pytorch.demos.boring_classes.BoringModel"
SMALL = ["--data.batch_size=4", "--data.batches=1", "--data.inner_steps=2", "--model.inner_steps=2", "--model.seeds=1"]
QUICK = ["--trainer.max_epochs=1", "--wandb.mode=disabled", "--trainer.enable_progress_bar=false"]
QUICK += ["--trainer.enable_model_summary=false"]


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """The user's folder, beside the working folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "home"


def write_prompts(path: Path) -> None:
    random = np.random.default_rng(0)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, X=random.normal(size=(40, 7, 5)), y=random.normal(size=(40, 7)))


def test_every_text_of_a_config_knows_the_home_folder(home):
    tree = {
        "data": {"class_path": "x.Y", "path": "~/a", "several": ["~/b", {"c": "~/d"}], "other": "~user", "mid": "a~/b"},
        "run.root": "~/r",
        "techniques": {"t": {"class_path": "x.Z", "path": "~/t"}},
    }
    found = compose(read_inputs(tree), "fit", {}).tree
    assert found["data"]["init_args"] == {
        "path": f"{home}/a", "several": [f"{home}/b", {"c": f"{home}/d"}], "other": "~user", "mid": "a~/b"
    }  # fmt: skip
    assert found["run"]["root"] == f"{home}/r"
    assert found["techniques"]["t"]["init_args"]["path"] == f"{home}/t"
    assert (
        compose(read_command_line(["--run.root=~/r", "--ckpt_path", "~/c"]), "fit", {}).tree["ckpt_path"] == f"{home}/c"
    )


def test_every_command_knows_the_home_folder(home, capsys):
    (home / "mine.yaml").write_text(yaml12.dump({"run": {"root": "~/runs"}}))
    write_prompts(home / "p.npz")
    fit = ["fit", "--config", PROMPTS, "--config=~/mine.yaml", "--data.path=~/p.npz", "--run.name=one", *SMALL, *QUICK]
    assert main(fit) == 0
    run = home / "runs" / "icl_linear_models" / "one"
    assert (run / "metrics.jsonl").is_file()
    assert main(["validate", "--ckpt_path=~/runs/icl_linear_models/one", "--wandb.mode=disabled"]) == 0
    assert (run / "validate" / "metrics.jsonl").is_file()
    assert main(["export", "~/runs/icl_linear_models/one", "--out=~/out/x.ckpt", "--format=plain"]) == 0
    assert main(["compare", "~/runs", "--json=~/c.json", "--figure", "~/c.png"]) == 0
    assert {path.name for path in home.iterdir()} >= {"c.json", "c.png", "out"}
    assert framework.open_model("~/out/x.ckpt", type(framework.open_model("~/runs/icl_linear_models/one"))) is not None
    storage = "--storage=sqlite:///~/missing/s.db"
    assert main(["sweep", "sweeps/s4d_init", "--folder=~/swept", storage, "--count=1"]) == 2
    assert str(home / "missing") in capsys.readouterr().err or not (home / "swept").exists()
    assert list(Path.cwd().iterdir()) == []


def test_a_saved_config_opens_from_another_working_folder(home, monkeypatch, capsys):
    write_prompts(Path("data/p.npz"))
    assert main(["fit", "--config", PROMPTS, "--data.path=data/p.npz", "--run.name=one", *SMALL, *QUICK]) == 0
    run = Path("runs/icl_linear_models/one").absolute()
    config = yaml12.load((run / "config.yaml").read_text())
    assert config["data"]["init_args"]["path"] == str(Path("data/p.npz").absolute())
    assert config["run"]["root"] == "runs"  # where the next one goes is for whoever starts it
    monkeypatch.chdir(home)
    assert main(["validate", "--ckpt_path", str(run), "--wandb.mode=disabled"]) == 0
    again = framework.build(run / "config.yaml")
    again.datamodule.setup("fit")  # reads the prompts
    assert main(["fit", "--ckpt_path", str(run), "--trainer.max_epochs=2", "--wandb.mode=disabled"]) == 0
    assert "the checkpoint has" not in capsys.readouterr().err


def test_a_technique_whose_file_has_moved_goes_on(home, monkeypatch, tmp_path, capsys):
    """The edit stands in the checkpoint: with the same path, from another folder, and with the project moved."""
    quick = ["--config", "vision/image_classifier_digits", "--trainer.limit_train_batches=1", *QUICK]
    assert main(["fit", *quick, "--run.name=old"]) == 0
    old = "--techniques.warm_start.checkpoint=runs/image_classifier_digits/old"
    assert main(["fit", *quick, old, "--run.name=new"]) == 0
    run = Path("runs/image_classifier_digits/new").absolute()
    saved = yaml12.load((run / "config.yaml").read_text())["techniques"]["warm_start"]["init_args"]["checkpoint"]
    assert saved == str(Path("runs/image_classifier_digits/old").absolute())
    assert main(["fit", *quick, old, "--ckpt_path", str(run), "--trainer.max_epochs=2"]) == 0
    monkeypatch.chdir(home)
    assert main(["fit", "--ckpt_path", str(run), "--trainer.max_epochs=3"]) == 0
    other = old.replace("/old", "/new").replace("=runs", f"={tmp_path}/here/runs")
    assert main(["fit", *quick, other, "--ckpt_path", str(run), "--trainer.max_epochs=4"]) == 2
    assert "techniques.warm_start.checkpoint: the checkpoint has" in capsys.readouterr().err
    (tmp_path / "here").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert main(["fit", *quick, old, "--ckpt_path=runs/image_classifier_digits/new", "--trainer.max_epochs=4"]) == 0


def test_only_paths_of_what_exists_become_absolute(home):
    Path("gaussian").mkdir()
    Path("data").mkdir()
    tree = prepare(
        read_command_line(["--config", PROMPTS, "--data.source=gaussian", "--data.path=data", "--run.root=data"]), "fit"
    )[0].tree
    assert tree["data"]["init_args"]["source"] == "gaussian"
    assert tree["data"]["init_args"]["path"] == str(Path("data").absolute())
    assert tree["run"]["root"] == "data"
    tree = prepare(read_command_line(["--config", PROMPTS, "--data.path=nowhere"]), "fit")[0].tree
    assert tree["data"]["init_args"]["path"] == "nowhere"
    teacher = "{checkpoint: data, epochs: 1}"
    tree = prepare(read_command_line(["--config", "finetuning/tleg", f"--model.teacher={teacher}"]), "fit")[0].tree
    assert tree["model"]["init_args"]["teacher"]["checkpoint"] == str(Path("data").absolute())


class Foreign(Callback):
    def __init__(self, folder: str | Path = "data", name: str = "data") -> None:
        super().__init__()


def test_a_default_that_is_a_path_too(home):
    Path("data").mkdir()
    item = {"class_path": f"{__name__}.Foreign"}
    composed, _ = prepare(read_inputs({"model": BORING, "techniques": {"t": item}, "run.method": "x"}), "fit")
    assert composed.tree["techniques"]["t"]["init_args"] == {"folder": str(Path("data").absolute())}


def test_same_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a").touch()
    Path("b").touch()
    assert same_place("a", str(tmp_path / "a"))
    assert not same_place("a", "b")
    assert same_place("gone", "b")
    assert not same_place(None, "a")
    assert names_a_path(str | Path | None)
    assert not names_a_path(str | None)


WORDS = ("path", "checkpoint", "tokenizer", "pretrained", "weights", "cache")


def test_every_setting_that_is_a_path_has_the_type_of_one():
    """What tells a path from a text is its type alone."""
    classes = [explain.find_class(path, object) for path in catalogue.techniques().values()]
    for base in ("modules", "datamodules"):
        for file in sorted((Path(framework.__file__).parents[1] / base).rglob("*.py")):
            if "claims" in file.name or "def __init__" not in file.read_text("utf-8"):
                continue
            assert not _untyped(file.read_text("utf-8")), file
    for cls in classes:
        for name, (hint, _) in explain.signature(cls).items():
            if name in WORDS and hint not in (float, int, bool):
                assert names_a_path(hint), f"{cls.__name__}.{name}"


def _untyped(text: str) -> list[str]:
    return [f"{word}: str | None" for word in WORDS if f"    {word}: str | None" in text]
