"""The command line, run in this process: what it accepts, prints, writes and refuses."""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
from pathlib import Path

import pytest
import torch
from lightning.fabric.loggers.logger import _DummyExperiment
from resume_harness import in_child

import framework
from framework.__main__ import main
from framework.config import yaml12
from framework.errors import UserError
from framework.tracking.metrics_log import read_metrics
from framework.tracking.wandb_run import WandbRun

QUICK = ["--config", "vision/image_classifier_digits", "--trainer.max_epochs=2", "--trainer.limit_train_batches=4", "--trainer.log_every_n_steps=1",
         "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--wandb.mode=disabled"]  # fmt: skip
STOP_EARLY = "--techniques.stop.class_path=lightning.pytorch.callbacks.EarlyStopping"


def newest(folder: str = "runs") -> Path:
    return max((path.parent for path in Path(folder).rglob("config.yaml")), key=lambda path: path.stat().st_mtime_ns)


def evaluation(folder: Path, command: str) -> Path:
    """The newest evaluation of a run: ``test``, ``test-2``, …"""
    return max(folder.glob(f"{command}*"), key=lambda path: (len(path.name), path.name))


def refused(capsys, *arguments: str) -> str:
    """Runs a command that must be refused; returns its message."""
    capsys.readouterr()
    assert main(list(arguments)) == 2
    said = capsys.readouterr().err
    assert "error: " in said
    assert "Traceback" not in said
    return said


# What a run leaves behind


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    here = os.getcwd()
    os.chdir(folder)
    try:
        assert main(["fit", *QUICK]) == 0
        return newest().resolve()
    finally:
        os.chdir(here)


def test_a_run_folder_holds_config_metrics_checkpoints_and_provenance(finished):
    names = {str(path.relative_to(finished)) for path in finished.rglob("*") if path.is_file()}
    expected = {
        "config.yaml",
        "provenance.json",
        "metrics.jsonl",
        "metrics.csv",
        "checkpoints/last.ckpt",
        "checkpoints/best.ckpt",
    }
    assert expected <= names
    record = json.loads((finished / "provenance.json").read_text())
    assert record["seed"] == 0
    assert record["command"][:2] == ["framework", "fit"]
    assert "torch" in record["packages"]
    keys = {key for row in read_metrics(finished) for key in row}
    assert {"step", "train/loss", "val/loss", "val/accuracy"} <= keys
    checkpoint = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 8
    assert record["run_id"] in json.dumps(checkpoint["resume_point"], default=str)


def test_the_saved_config_runs_again_unchanged_under_every_subcommand(finished, capsys):
    config = str(finished / "config.yaml")
    saved = Path(config).read_bytes()
    assert b"${" not in saved
    assert main(["fit", "--config", config, "--run.root=again"]) == 0
    again = newest("again")
    assert (again / "config.yaml").read_bytes() == saved.replace(b"root: runs", b"root: again")
    for command in ("validate", "test", "predict"):
        assert main([command, "--config", config, "--ckpt_path", str(finished)]) == 0
        assert (evaluation(finished, command) / "config.yaml").read_bytes() == saved
    again = str(evaluation(finished, "predict") / "config.yaml")
    assert main(["fit", "--config", again, "--trainer.fast_dev_run=true"]) == 0


def test_two_runs_of_one_config_end_in_the_same_weights(finished):
    assert main(["fit", "--config", str(finished / "config.yaml"), "--run.root=again"]) == 0
    first = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    second = torch.load(newest("again") / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_evaluation_takes_the_config_beside_the_checkpoint(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished.parent.parent.parent)
    assert main(["test", "--ckpt_path", "last"]) == 0
    assert "test/accuracy" in {key for row in read_metrics(evaluation(finished, "test")) for key in row}
    assert main(["validate", "--ckpt_path", "best"]) == 0
    fitted = [row["val/accuracy"] for row in read_metrics(finished) if "val/accuracy" in row]
    validated = [row["val/accuracy"] for row in read_metrics(evaluation(finished, "validate")) if "val/accuracy" in row]
    assert len(validated) == 1
    assert fitted  # limited to one batch there, all of them here
    assert main(["predict", "--ckpt_path", str(finished / "checkpoints" / "best.ckpt")]) == 0
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(evaluation(finished, "predict") / "predictions.parquet")
    assert {"index", "target", "probabilities_0"} <= set(table.column_names)
    assert table.num_rows > 100


def test_a_config_is_needed_where_no_checkpoint_brings_one(finished, capsys, tmp_path):
    assert "--config is missing; shipped configs: " in refused(capsys, "fit")
    lonely = tmp_path / "lonely.ckpt"
    lonely.write_bytes((finished / "checkpoints" / "last.ckpt").read_bytes())
    assert "there is no config.yaml beside" in refused(capsys, "test", "--ckpt_path", str(lonely))


def test_what_is_typed_wins_over_the_checkpoint_and_the_difference_is_printed(finished, capsys):
    assert (
        main(["validate", "--ckpt_path", str(finished), "--model.optimizer.lr=0.5", "--model.label_smoothing=0.1"]) == 0
    )
    said = capsys.readouterr().err
    assert "model.optimizer.lr: the checkpoint has 0.003, the config 0.5; the config's is used" in said
    assert "model.label_smoothing: the checkpoint has 0.0, the config 0.1" in said


def test_fit_goes_on_with_the_run_it_resumes(finished, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    before = (copy / "metrics.jsonl").read_bytes()
    run_id = json.loads((copy / "provenance.json").read_text())["run_id"]
    assert main(["fit", "--ckpt_path", str(copy), "--trainer.max_epochs=3"]) == 0
    assert "resuming" in capsys.readouterr().err
    record = json.loads((copy / "provenance.json").read_text())
    assert record["run_id"] == run_id
    assert len(record["resumed"]) == 1
    assert (copy / "metrics.jsonl").read_bytes().startswith(before[: len(before) // 2])
    assert torch.load(copy / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 12
    assert not Path("runs").exists()


@pytest.mark.parametrize("setting", ["--data.path=nowhere.npz", "--model.dim=7"])
def test_a_start_that_fails_leaves_nothing(tmp_path, monkeypatch, capsys, setting):
    """A mistake of the data, found before the record is written, and one of the model, found after."""

    def started(run: WandbRun) -> _DummyExperiment:  # one of its own would outlive this test
        (Path(run.save_dir) / "wandb" / "offline-run").mkdir(parents=True)
        return _DummyExperiment()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(WandbRun, "_start", started)
    refused(capsys, "fit", "--config", "in_context/icl_linear_models", setting, "--wandb.mode=offline")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs" / "icl_linear_models" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "icl_linear_models" / "mine" / "note.txt").touch()
    refused(capsys, "fit", "--config", "in_context/icl_linear_models", setting, "--run.name=mine", *QUICK[-1:])
    assert (tmp_path / "runs" / "icl_linear_models" / "mine" / "note.txt").exists()


def test_what_the_first_step_refuses_leaves_nothing_to_start_again(tmp_path, monkeypatch, capsys):
    """A batch of one sample under batch normalisation, seen within the training."""
    monkeypatch.chdir(tmp_path)
    text = refused(
        capsys, "fit", "--config", "vision/image_classifier", "--data.source=digits", "--data.image_size=8",
        "--data.batch_size=431", *QUICK[-2:],
    )  # fmt: skip
    assert "data.batch_size: an epoch's last batch of 1294 samples would have one sample" in text
    assert "started again" not in text
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_attempt_of_the_same_name_is_kept_beside(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["fit", *QUICK, "--run.name=mine", "--trainer.enable_checkpointing=false"]
    assert main(command) == 0
    folder = tmp_path / "runs" / "image_classifier_digits" / "mine"
    rows = (folder / "metrics.jsonl").read_bytes()
    refused(capsys, *command, "--trainer.limit_train_batches=0")
    assert (folder / "metrics.1.jsonl").read_bytes() == rows
    assert main(command) == 0
    assert (folder / "metrics.1.jsonl").read_bytes() == rows
    assert (folder / "metrics.jsonl").stat().st_size > 0


def test_a_training_that_failed_keeps_its_record(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    worse = ["--model.optimizer.name=sgd", "--model.optimizer.lr=1e9", "--trainer.log_every_n_steps=500"]
    assert main(["fit", *QUICK, *worse, "--run.name=nan"]) == 3
    assert "no checkpoint was written yet" in capsys.readouterr().err
    assert (tmp_path / "runs" / "image_classifier_digits" / "nan" / "provenance.json").is_file()


def test_a_moved_run_knows_how_good_its_best_checkpoint_is(finished, tmp_path, capsys):
    moved = tmp_path / "moved"
    shutil.copytree(finished, moved)
    assert main(["fit", "--ckpt_path", str(moved)]) == 0  # nothing is left to do
    states = torch.load(finished / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    (score,) = (state["best_model_score"] for key, state in states.items() if key.startswith("ModelCheckpoint"))
    said = f"best val/accuracy {float(score):.4g} in {moved / 'checkpoints' / 'best.ckpt'}"
    assert said in capsys.readouterr().err


def test_a_name_in_use_is_refused_rather_than_overwritten(finished, capsys, monkeypatch):
    monkeypatch.chdir(finished.parent.parent.parent)
    assert f"--ckpt_path runs/{finished.parent.name}/{finished.name}" in refused(
        capsys, "fit", *QUICK, f"--run.name={finished.name}"
    )


# Techniques by name


def test_a_callback_by_class_path_can_be_changed_and_switched_off(tmp_path, capsys):
    (tmp_path / "stop.yaml").write_text(
        "techniques: {stop: {class_path: lightning.pytorch.callbacks.EarlyStopping, monitor: val/loss, patience: 7}}\n"
    )
    given = [*QUICK, "--config", "stop.yaml"]
    (trainer, _, _) = framework.build(
        "vision/image_classifier_digits", [*QUICK[2:], "--config", "stop.yaml", "--techniques.stop.patience=2"]
    )
    (found,) = [c for c in trainer.callbacks if type(c).__name__ == "EarlyStopping"]
    assert found.patience == 2
    (trainer, _, _) = framework.build(
        "vision/image_classifier_digits", [*QUICK[2:], "--config", "stop.yaml", "--techniques.stop=null"]
    )
    assert not [c for c in trainer.callbacks if type(c).__name__ == "EarlyStopping"]
    assert main(["fit", *given]) == 0
    assert "techniques, in order: stop\n" in capsys.readouterr().err
    assert yaml12.load((newest() / "config.yaml").read_text())["techniques"]["stop"]["init_args"]["patience"] == 7


def test_techniques_keep_their_order():
    trainer, _, _ = framework.build(
        "vision/image_classifier_digits",
        [*QUICK[2:], "--techniques.b.class_path=lightning.pytorch.callbacks.Timer",
         "--techniques.a.class_path=lightning.pytorch.callbacks.LearningRateMonitor"],
    )  # fmt: skip
    names = [type(callback).__name__ for callback in trainer.callbacks]
    assert names.index("Timer") < names.index("LearningRateMonitor")


# The Python entry


def test_the_trainer_can_be_used_directly_with_an_edit_at_the_start(tmp_path):
    """The edit is recorded before the run's folder would be made."""
    trainer, model, data = framework.build(
        "vision/image_classifier_digits",
        [*QUICK[2:], "--config", "callbacks/gg_init", "--trainer.max_epochs=1", "--trainer.limit_train_batches=1"],
    )
    trainer.fit(model, datamodule=data)
    assert (newest() / "plans.json").is_file()
    assert (newest() / "config.yaml").is_file()


def test_build_takes_paths_mappings_and_overrides():
    experiment = framework.build(
        [
            "vision/image_classifier_digits",
            {"trainer": {"max_steps": 2, "accelerator": "cpu"}, "wandb.mode": "disabled"},
        ],
        {"model.optimizer.lr": 0.5, "run.name": "mine"},
    )
    assert experiment.model.optimizer_config.lr == 0.5
    assert not Path("runs").exists(), "building writes nothing"
    experiment.fit()
    assert experiment.folder == Path("runs/image_classifier_digits/mine")
    assert (experiment.folder / "metrics.jsonl").is_file()


def test_build_raises_one_error_with_every_mistake():
    with pytest.raises(UserError) as error:
        framework.build(
            "vision/image_classifier_digits", {"model.optimzer": 1, "trainer.max_steps": "x", "data.batch_size": "many"}
        )
    assert len(str(error.value).splitlines()) == 3


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.num_clases=3"], "model.num_clases: ImageClassifier has no such argument; did you mean num_classes? (command line)"),
        (["--trainer.max_epoch=3"], "trainer.max_epoch: Trainer has no such argument; did you mean max_epochs?"),
        (["--data.batch_size=many"], "data.batch_size: 'many' is not accepted; an integer is needed"),
        (["--model.optimizer.lr=fast"], "model.optimizer.lr: 'fast' is not accepted; a number is needed"),
        (["--model.optimizer.lrr=1"], "model.optimizer.lrr: OptimizerConfig has no such argument; did you mean lr?"),
        (["--model.optimizer.name=adamww"], "'adamww' is not an optimiser; nearest: adamw"),
        (["--model.schedule.name=cosin"], "schedule.name: 'cosin' is not one of"),
        (["--model=modules.vision.image_clasifier.X"], "no module 'modules.vision.image_clasifier'; nearest: modules.vision.image_classifier"),
        (["--model=modules.vision.image_classifier.ImageClasifier"], "has no 'ImageClasifier'; it has ImageClassifier"),
        (["--model=torch.nn.Linear"], "'torch.nn.Linear' is not a LightningModule"),
        (["--model=ImageClasifier"], "is no known class; give its full path"),
        (["--model.backbone=resnet1"], "resnet1"),
        (["--config=nowhere.yaml"], "no file nowhere.yaml"),
        (["--config=image_clasifier"], "nearest shipped configs: vision/image_classifier"),
        (["--model.num_classes=${data.init_args.nothing}"], "Interpolation key 'data.init_args.nothing' not found"),
        (["--trainer.accelerator=cqu"], "trainer: You selected an invalid accelerator name"),
        (["--trainer.devices=0"], "trainer: "),
        (["--run.mode=mx"], "run.mode: 'mx' is not one of min, max; did you mean 'max'? (command line)"),
        (["--run.name=a/b"], "run.name: 'a/b' is not accepted"),
        (["--run.monitor=val/acuracy"], "val/acuracy"),
        ([STOP_EARLY], "techniques.stop.monitor: missing; EarlyStopping needs it (text)"),
        ([STOP_EARLY, "--techniques.stop.monitor=val/nothing"], "Early stopping conditioned on metric `val/nothing`"),
        (["--techniques.stop=true"], "techniques.stop: not a registered technique"),
        (["--ckpt_path=nowhere.ckpt"], "--ckpt_path: no file or folder nowhere.ckpt"),
        (["--ckpt_path=last"], "--ckpt_path last: no run with a checkpoint"),
        (["--ckpt_path=."], "holds no checkpoints/last.ckpt"),
        (["--data.source=digit"], "digit"),
        (["--verbose"], "verbose: unknown key; fit does not take it"),
        (["--model.image_size=null"], "model.image_size: null is not accepted; an integer is needed (command line)"),
        (["--model.drop_rate=.nan"], "model.drop_rate: '.nan' is not accepted; NaN is no number (command line)"),
        (["--model.optimizer.lr=-1"], "model.optimizer.lr: -1.0 is not accepted; at least 0 (command line)"),
        (["--model.num_classes=${}"], "model.num_classes: ${}: no viable alternative"),
        (["--model=.relative.Class"], "model: '.relative.Class' is not a class path"),
        (["--data.batch_size=0"], "data.batch_size: 0 is not accepted; at least 1 (command line)"),
        (["--data.source=\x07"], "data.source: '\\x07' is not one of"),
        (["--trainer.accumulate_grad_batches=0"], "trainer.accumulate_grad_batches: 0 is not accepted; at least 1"),
        (["--" + "k" * 9999 + "=1"], "kkk...: unknown key"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_short_message(capsys, arguments, said):
    assert said in refused(capsys, "fit", *QUICK, *arguments)
    assert not list(Path().rglob("last.ckpt"))


def test_all_mistakes_at_once_with_file_and_line(capsys, tmp_path):
    (tmp_path / "mine.yaml").write_text("model:\n  num_clases: 3\n\ntrainer:\n  max_steps: often\ndat: 1\n")
    said = refused(
        capsys, "fit", *QUICK, "--config", "mine.yaml", "--data.batch_size=x", "--run.nme=a", "--wandb.mod=b"
    )
    for part in ("(mine.yaml:2)", "(mine.yaml:5)", "dat: unknown key", "data.batch_size", "run.nme", "wandb.mod"):
        assert part in said
    assert len(said.splitlines()) == 6


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: [1\n", "not valid YAML"),
        (b"- 1\n", "a mapping of settings is needed"),
        (b"\x80\x81", "not a YAML or JSON file"),
    ],
)
def test_a_config_that_is_none(capsys, tmp_path, content, said):
    (tmp_path / "bad.yaml").write_bytes(content)
    message = refused(capsys, "fit", "--config", "bad.yaml")
    assert said in message
    assert "bad.yaml" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("damage", ["text", "cut", "empty", "other"])
def test_a_checkpoint_that_is_none_or_is_cut_short(capsys, tmp_path, finished, damage):
    whole = (finished / "checkpoints" / "last.ckpt").read_bytes()
    path = tmp_path / "broken.ckpt"
    path.write_bytes({"text": b"hello", "cut": whole[: len(whole) // 2], "empty": b"", "other": b"PK\x03\x04"}[damage])
    for command in ("fit", "test"):
        assert str(path) in refused(capsys, command, *QUICK, "--ckpt_path", str(path))


def test_weights_that_do_not_fit_are_a_mistake_that_names_them(capsys, finished):
    said = refused(capsys, "test", "--ckpt_path", str(finished), "--model.backbone_args.width=32")
    assert "do not fit the configured model" in said
    assert "size mismatch" in said


def test_a_read_only_run_folder_is_refused_before_training(tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    locked.chmod(0o555)
    for parent in [tmp_path, *tmp_path.parents][:4]:
        parent.chmod(parent.stat().st_mode | 0o055)
    with open("said", "w") as said:

        def work() -> None:
            os.dup2(said.fileno(), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            os.setuid(65534) if os.getuid() == 0 else None
            sys.exit(main(["fit", *QUICK, f"--run.root={locked}"]))

        assert in_child(work) == 2
    message = Path("said").read_text()
    assert f"run folder {locked}" in message
    assert "cannot be written" in message
    assert "Traceback" not in message


def test_a_full_disk_is_refused_before_training():
    with open("said", "w") as said:

        def work() -> None:
            os.dup2(said.fileno(), 2)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
            sys.exit(main(["fit", *QUICK]))

        assert in_child(work) == 2
    assert "cannot be written" in Path("said").read_text()


def test_a_run_folder_that_is_a_file(capsys, tmp_path):
    (tmp_path / "runs").write_text("in the way")
    assert "cannot be written" in refused(capsys, "fit", *QUICK)


def test_a_bug_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "buggy.py").write_text(
        "from modules.vision.image_classifier import ImageClassifier\n"
        "class Buggy(ImageClassifier):\n    def training_step(self, batch, i):\n        return undefined_name\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(NameError):
        main(
            [
                "fit",
                *QUICK,
                "--model=buggy.Buggy",
                "--model.num_classes=10",
                "--model.image_size=8",
                "--model.in_chans=1",
                "--model.backbone=mlp",
            ]
        )


def test_a_bug_in_a_constructor_comes_out_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "buggy_data.py").write_text(
        "from framework import DataModule\n"
        "class Buggy(DataModule):\n    def __init__(self):\n        super().__init__()\n        {}['missing']\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(KeyError, match="missing"):
        main(
            [
                "fit",
                *QUICK,
                "--model.num_classes=10",
                "--model.image_size=8",
                "--model.in_chans=1",
                "--data=buggy_data.Buggy",
            ]
        )


def test_what_a_constructor_refuses_is_said_with_what_it_was_given(tmp_path, monkeypatch, capsys):
    (tmp_path / "strict_data.py").write_text(
        "from framework import DataModule\n"
        "class Strict(DataModule):\n    def __init__(self, parts: int = 2):\n        super().__init__()\n        100 // parts\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    model = ["--model.num_classes=10", "--model.image_size=8", "--model.in_chans=1"]
    said = refused(capsys, "fit", *QUICK, *model, "--data=strict_data.Strict", "--data.parts=0")
    assert "data: Strict refused its arguments: " in said
    assert "(ZeroDivisionError); given: parts='0' (command line)" in said


def test_the_traceback_of_a_mistake_can_be_asked_for():
    with pytest.raises(UserError):
        main(["fit", *QUICK, "--model.num_clases=3", "--traceback"])


# The other commands


def test_unknown_commands_and_help(capsys):
    assert "did you mean fit?" in refused(capsys, "fitt")
    assert main([]) == 0
    assert "reproduce" in capsys.readouterr().out
    assert main(["fit", "--model.help=modules.vision.image_classifier.ImageClassifier"]) == 0
    assert "--model.label_smoothing" in capsys.readouterr().out
    assert main(["fit", "--help"]) == 0
    assert "--run.monitor" in capsys.readouterr().out


def test_print_config_is_complete_and_runs_again(capsys):
    assert main(["fit", *QUICK, "--print_config"]) == 0
    printed = capsys.readouterr().out
    Path("printed.yaml").write_text(printed)
    assert main(["fit", "--config", "printed.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == printed


def test_strings_that_look_like_numbers_survive_the_saved_config(capsys):
    texts = [
        "--wandb.notes=1e-4",
        "--wandb.project=no",
        "--wandb.group='1:30'",
        "--wandb.tags=['1e5', 'off', '007', '#x']",
    ]
    assert main(["fit", *QUICK, *texts, "--print_config"]) == 0
    printed = capsys.readouterr().out
    tree = yaml12.load(printed)
    assert [tree["wandb"][key] for key in ("notes", "project", "group")] == ["1e-4", "no", "1:30"]
    assert tree["wandb"]["tags"] == ["1e5", "off", "007", "#x"]
    Path("saved.yaml").write_text(printed)
    assert main(["fit", "--config", "saved.yaml", "--print_config"]) == 0
    assert capsys.readouterr().out == printed


def test_list_for_programs(capsys):
    assert main(["list", "--json"]) == 0
    tables = json.loads(capsys.readouterr().out)
    by_name = {entry["name"]: entry for entry in tables["methods"]}
    assert "2206.11893" in by_name["s4d"]["paper"]
    assert by_name["s4d"]["class_path"] == "modules.sequence.s4d.S4DClassifier"
    assert by_name["image_classifier"]["field"] == "vision"
