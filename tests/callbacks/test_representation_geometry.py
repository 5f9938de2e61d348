"""The observer of displacement and effective dimension: numbers, report, encoders of others, resume."""

import json
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from small_classifier import Data, Net, trained
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.representation_geometry import RepresentationGeometry, geometry_figure, geometry_of
from framework.errors import UserError
from framework.functional.embedding_geometry import effective_dimension, eigenvalues, unit_rows
from framework.functional.resampling import indices_hash, resample_indices
from framework.observing.diagnostics import NOTE


def embedded(model, x):
    model.eval()
    with torch.no_grad():
        return unit_rows(model.body(x).numpy())


def report_of(folder, name="representation_geometry"):
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


def test_numbers_and_report_are_those_of_the_embeddings(tmp_path):
    technique = RepresentationGeometry(epochs=(0, 1), resamples=50, save=True)
    model, trainer, data = trained(tmp_path, technique, epochs=3)
    torch.manual_seed(0)
    x = data.val_set.tensors[0]
    start, end = embedded(Net(), x), embedded(model, x)
    report = report_of(tmp_path)
    assert [row["epoch"] for row in report["rows"]] == [0, 1, 3]
    first, last = report["rows"][0], report["rows"][-1]
    assert first["displacement"] == 0
    assert last["displacement"] == pytest.approx(2 - 2 * (start * end).sum(1).mean(), abs=1e-6)
    assert last["effective_dimension"] == pytest.approx(effective_dimension(eigenvalues(end)), rel=1e-5)
    assert last["eigenvalues"] == pytest.approx(eigenvalues(end).tolist(), abs=1e-6)
    logged = trainer.callback_metrics
    assert float(logged["representation_geometry/displacement"]) == pytest.approx(last["displacement"], rel=1e-6)
    indices = resample_indices(22, 50, 0)
    assert last["bootstrap"] == {"samples": 22, "resamples": 50, "seed": 0, "sha256": indices_hash(indices)}
    moved = np.square(end - start).sum(1)[indices].mean(1)
    assert last["intervals"]["displacement"]["mean"] == pytest.approx(moved.mean(), rel=1e-5)
    dimensions = [effective_dimension(eigenvalues(end[row])) for row in indices]
    assert last["intervals"]["effective_dimension"]["low"] == pytest.approx(np.percentile(dimensions, 2.5), rel=1e-4)
    assert report["note"] == NOTE
    with np.load(tmp_path / "representation_geometry.npz") as saved:
        assert saved["z"] == pytest.approx(end, abs=1e-5)
        assert saved["z_start"] == pytest.approx(start, abs=1e-6)
    assert (tmp_path / "figures" / "representation_geometry.png").is_file()


def test_a_run_is_the_same_with_and_without_it(tmp_path):
    plain, *_ = trained(tmp_path / "a")
    observed, *_ = trained(tmp_path / "b", RepresentationGeometry(epochs=(0, 1, 2), resamples=5))
    for one, other in zip(plain.parameters(), observed.parameters(), strict=True):
        assert torch.equal(one, other)


def test_identical_models_have_identical_intervals_and_no_displacement():
    z = unit_rows(np.random.default_rng(0).normal(size=(30, 4)))
    counts = np.ones((3, 30))
    one, other = geometry_of(z, z, counts), geometry_of(z.copy(), z, counts)
    assert one == other
    assert one.numbers["displacement"] == 0


def test_fewer_examples_are_the_same_ones_each_time(tmp_path):
    technique = RepresentationGeometry(examples=9, resamples=5, epochs=(0, 1))
    trained(tmp_path, technique)
    assert technique.start.shape == (9, 8)
    assert technique.rows[0]["displacement"] == 0
    assert technique.rows[-1]["bootstrap"]["samples"] == 9


def test_raw_embeddings(tmp_path):
    technique = RepresentationGeometry(resamples=5, normalize=False)
    model, _, data = trained(tmp_path, technique)
    with torch.no_grad():
        z = model.eval().body(data.val_set.tensors[0]).double().numpy()
    expected = np.square(z - technique.start.numpy()).sum(1).mean()
    assert technique.rows[-1]["displacement"] == pytest.approx(expected, rel=1e-6)


class Foreign(pl.LightningModule):
    """An encoder without the framework's classes, whose loss is its own."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
        self.projector = nn.Linear(3 * 16, 2)

    def forward(self, x):
        return self.projector(self.encoder(x).flatten(1))

    def training_step(self, batch, batch_idx):
        return self(batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("layer", "size"), [(None, 48), ("encoder.1", 48), ("encoder.0", 36)])
def test_an_encoder_of_others_without_a_datamodule_of_ours(tmp_path, layer, size):
    class Loaders(pl.LightningDataModule):
        def train_dataloader(self):
            data = TensorDataset(torch.randn(8, 1, 6, 6), torch.zeros(8))
            return DataLoader(data, batch_size=4)

        def val_dataloader(self):
            x = torch.randn(10, 1, 6, 6, generator=torch.Generator().manual_seed(1))
            return DataLoader(TensorDataset(x, torch.zeros(10)), batch_size=4)

    technique = RepresentationGeometry(layer=layer, resamples=4, examples=7)  # of batches of 4
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[technique], accelerator="cpu", **quiet)
    trainer.fit(Foreign(), Loaders())
    assert technique.start.shape == (7, size)
    assert technique.rows[-1]["bootstrap"]["samples"] == 7
    assert report_of(tmp_path)["layer"] == (layer or "projector")
    assert technique.rows[-1]["displacement"] >= 0


def test_test_and_validate_look_once(tmp_path):
    technique = RepresentationGeometry(resamples=5)
    model, trainer, data = trained(tmp_path, technique)
    trainer.validate(model, datamodule=data, verbose=False)
    found = report_of(tmp_path, "representation_geometry_val")
    assert found["displacement"] == pytest.approx(technique.rows[-1]["displacement"])
    trainer.test(model, datamodule=data, verbose=False)
    found = report_of(tmp_path, "representation_geometry_test")
    assert "displacement" not in found  # the start of these examples was not seen
    z = embedded(model, data.test_set.tensors[0])
    assert found["effective_dimension"] == pytest.approx(effective_dimension(eigenvalues(z)), rel=1e-5)


def test_state_continues(tmp_path):
    technique = RepresentationGeometry(resamples=5)
    trained(tmp_path, technique)
    other = RepresentationGeometry(resamples=5)
    other.load_state_dict(technique.state_dict())
    assert other.rows == technique.rows
    assert torch.equal(other.start, technique.start)


def test_diverged_embeddings_are_reported_as_such():
    found = geometry_of(np.array([[np.nan, 1.0], [1.0, 1.0]]))
    assert math.isnan(found.numbers["effective_dimension"])
    rows = [{"epoch": 0, **found.numbers}]
    assert geometry_figure(rows).axes


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"resamples: 1 is not accepted; at least 2"):
        RepresentationGeometry(resamples=1)
    with pytest.raises(UserError, match=r"part: 'dev' is not one of train, val, test"):
        RepresentationGeometry(part="dev")
    with pytest.raises(UserError, match=r"representation_geometry\.layer: 'heads'.*head"):
        trained(tmp_path, RepresentationGeometry(layer="heads"))
    data = Data()
    data.setup("fit")
    technique = RepresentationGeometry()
    trainer = pl.Trainer(max_epochs=1, default_root_dir=tmp_path, callbacks=[technique], logger=False)
    with pytest.raises(UserError, match="needs a datamodule with val data"):
        trainer.fit(Net(), train_dataloaders=data.train_dataloader())
