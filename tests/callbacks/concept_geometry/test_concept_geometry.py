"""The observer: what it logs and writes, data of its own, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import framework
from callbacks.concept_geometry import ConceptGeometry
from framework.errors import UserError
from framework.functional.linear_factors import study_embeddings

SIZES = {"data.image_size": 16, "data.colours": 2}
VALUES = {"scale": 2, "orientation": 2, "posX": 2, "posY": 2}
QUIET = {"trainer.enable_progress_bar": False, "trainer.enable_model_summary": False, "wandb.mode": "disabled"}
OBSERVER = "techniques.concept_geometry.init_args."
FEW = {f"{OBSERVER}steps": 10, f"{OBSERVER}fraction": 0.4}


def build(options, config="interpretability/compositional_linear"):
    own = {"model.sizes": [2, 3, 2, 2, 2, 2], "data.values": VALUES, "trainer.max_epochs": 2}
    return framework.build(config, {**own, **SIZES, **QUIET, **FEW, **options})


def test_it_measures_logs_and_draws(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = build({f"{OBSERVER}features": "both", f"{OBSERVER}epochs": [0, 2]})
    experiment.fit()
    folder = experiment.folder
    rows = json.loads((folder / "concept_geometry.json").read_text())["rows"]
    assert [row["epoch"] for row in rows] == [0, 2]
    assert all((folder / "figures" / f"concept_geometry_{name}.png").is_file() for name in ("pre", "post"))
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in logged if "concept_geometry/pre/r2_whitened" in row]
    assert len(steps) == 2
    assert steps[0] == 0

    # the same by hand, on all examples in order of the parts
    data, model = experiment.datamodule, experiment.model
    parts = [part.__getitems__(list(range(len(part)))) for part in (data.train_set, data.val_set, data.test_set)]
    x, y = (torch.cat(values) for values in zip(*parts, strict=True))
    with torch.no_grad():
        z = model.encoder(x)
    expected = study_embeddings(z.numpy(), y.numpy(), 0.4, steps=10).scores()
    for name, value in expected.items():
        assert rows[-1]["post"][name] == pytest.approx(value, abs=2e-3), name
    assert rows[-1]["post"]["concepts"] == ["color", "shape", "scale", "orientation", "posX", "posY"]
    metrics = experiment.trainer.validate(model, data, verbose=False)
    assert "concept_geometry/post/r2" in metrics[0]


def test_a_labelled_file_for_a_classifier(tmp_path, monkeypatch):
    """Its data have one class an example; the concepts are those of the file."""
    monkeypatch.chdir(tmp_path)
    labels = np.indices((3, 4, 2)).reshape(3, -1).T
    rng = np.random.default_rng(0)
    np.savez("a.npz", x=rng.random((24, 1, 8, 8)), y_first=labels[:, 0], y_second=labels[:, 1], y_third=labels[:, 2])
    options = {"data.num_classes": 10, "trainer.max_epochs": 1, "techniques.concept_geometry.path": "a.npz"}
    options |= {"techniques.concept_geometry.fraction": 0.5, "techniques.concept_geometry.steps": 5, **QUIET}
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "modules.vision.image_classifier.ImageClassifier",
            "init_args": {"backbone": "cnn", "num_classes": 10, "image_size": 8, "in_chans": 1},
        },
        "data": {
            "class_path": "datamodules.vision.small_images.SmallImages",
            "init_args": {"source": "digits", "batch_size": 200},
        },
        "techniques": {"concept_geometry": {"class_path": "callbacks.concept_geometry.ConceptGeometry"}},
        "trainer": {"accelerator": "cpu"},
    }
    options.pop("data.num_classes")
    experiment = framework.build(config, options)
    experiment.fit()
    rows = json.loads((experiment.folder / "concept_geometry.json").read_text())["rows"]
    assert rows[0]["pre"]["concepts"] == ["first", "second", "third"]
    assert "accuracy" in rows[-1]["pre"]


def test_weights_in_half_precision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = build({"trainer.precision": "bf16-true", "trainer.max_epochs": 1})
    experiment.fit()
    rows = json.loads((experiment.folder / "concept_geometry.json").read_text())["rows"]
    assert all(0 < row["post"]["r2_whitened"] < 1 for row in rows)


def test_only_the_examples_that_are_looked_at_are_embedded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    experiment = build({f"{OBSERVER}examples": 60, f"{OBSERVER}parts": ["train", "val"]})
    data, model = experiment.datamodule, experiment.model
    data.setup("fit")
    experiment.trainer.datamodule = data
    observer = next(c for c in experiment.trainer.callbacks if isinstance(c, ConceptGeometry))
    seen = []
    model.heads.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    found = observer.look(experiment.trainer, model, observer.parts)["post"]
    assert sum(seen) == 60
    x, y = (
        torch.cat(values)
        for values in zip(*(p.__getitems__(list(range(len(p)))) for p in (data.train_set, data.val_set)), strict=True)
    )
    rows = np.sort(np.random.default_rng(observer.seed).permutation(len(x))[:60])
    with torch.no_grad():
        z = model.encoder(x).numpy()[rows]
    assert found["r2"] == pytest.approx(study_embeddings(z, y.numpy()[rows], 0.4, steps=1).geometry.r2, abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": (-1,)}, "epochs"),
        ({"features": "middle"}, "features: 'middle' is not one of pre, post, both"),
        ({"parts": ()}, "parts"),
        ({"parts": ("train", "train")}, "each part once"),
        ({"fraction": 1.0}, "fraction"),
        ({"penalties": ()}, "penalties"),
        ({"steps": 0}, "steps"),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(UserError, match=message):
        ConceptGeometry(**settings)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"projection": "encoder.projektion"}, "concept_geometry.projection"),
        ({"path": "nowhere.npz"}, "nowhere.npz: not found"),
        ({"path": "bad.npz"}, "bad.npz: no y_<concept>"),
        ({"fraction": 0.01}, "in which not every value occurs"),
        ({"fraction": 0.01, "epochs": [2]}, "in which not every value occurs"),
        ({"geometry_fraction": 0.01, "epochs": [2]}, "concept_geometry.geometry_fraction: 0.01 is"),
    ],
)
def test_what_cannot_work_is_refused_before_training(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("bad.npz", x=np.ones((4, 3)))
    experiment = build({f"{OBSERVER}{name}": value for name, value in options.items()})
    with pytest.raises(UserError, match=message):
        experiment.fit()
    assert experiment.trainer.global_step == 0
