"""probe_heads: what it logs against a slow reference, that it changes nothing, what it refuses."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch import nn

from callbacks.probe_heads import ProbeHeads, features_of
from framework import OptimizerConfig
from framework.data import DataModule
from framework.data.arrays import ArrayDataset, NamedArrays
from framework.editing import Context
from framework.errors import UserError
from framework.functional.linear_heads import learning_curve
from framework.functional.linear_heads.curve import as_metrics
from framework.module import Module


class Net(Module):
    """A small classifier with dropout and a batch norm."""

    def __init__(self):
        super().__init__(OptimizerConfig("sgd", lr=0.1, weight_decay=0.0))
        self.body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.body(x))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])


class Blobs(DataModule):
    """Three clouds; the training transform draws random numbers."""

    def setup(self, stage=None):
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(150) % 3
        x = torch.randn(150, 4, generator=generator) + y[:, None]
        self.train_set = ArrayDataset(x[:90], y[:90], transform=lambda x: x + 0.01 * torch.randn_like(x))
        self.val_set = ArrayDataset(x[90:], y[90:])


def trained(root, callbacks, epochs=2, data=None):
    torch.manual_seed(0)
    model = Net()
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=root,
        callbacks=callbacks,
        enable_model_summary=False,
        **quiet,
    )
    trainer.fit(model, datamodule=data or Blobs(batch_size=30))
    return model, trainer


def test_it_logs_and_leaves_training_alone(tmp_path):
    probe = ProbeHeads(sizes=(6, 20, 60), repeats=3, c=(1.0, 10.0), every_n_epochs=1)
    model, trainer = trained(tmp_path, [probe])
    plain, _ = trained(tmp_path / "plain", [])
    for one, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert model.body.training
    data = trainer.datamodule
    model.eval()
    with torch.no_grad():
        x, y = data.val_set.tensors
        mine = features_of(model, data.val_set)
        order = torch.randperm(60, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(mine[0], model.body(x[order]))
        assert torch.equal(mine[1], y[order])
    inside = features_of(model, data.train_set)
    expected = as_metrics(learning_curve(inside, mine, (6, 20, 60), 3, (1.0, 10.0), 0))
    for name, value in expected.items():
        assert float(trainer.callback_metrics[f"heads/{name}"]) == pytest.approx(value)
    found = np.load(tmp_path / "heads.npz")
    assert found["sizes"].tolist() == [6, 20, 60]
    assert found["naive Bayes"].mean(1)[-1] == pytest.approx(expected["naive_bayes/60"])
    assert (tmp_path / "figures" / "probe_heads.png").stat().st_size > 5000


def test_it_can_draw_from_half_of_the_validation_data(tmp_path):
    probe = ProbeHeads(sizes=(10, 20), repeats=2, draw_from="val", layer="body.0", seed=2)
    model, trainer = trained(tmp_path, [probe], epochs=1)
    x, y = features_of(model.eval(), trainer.datamodule.val_set, "body.0", seed=2)
    assert x.shape == (60, 8)
    expected = learning_curve((x[:30], y[:30]), (x[30:], y[30:]), (10, 20), 2, (0.1, 1.0, 10.0), 2)
    for name, errors in expected.errors.items():
        np.testing.assert_array_equal(probe.curve.errors[name], errors)


def test_batches_may_be_mappings_or_single_samples():
    model = Net().eval()
    x, y = torch.randn(7, 4), torch.arange(7) % 3
    pairs = features_of(model, ArrayDataset(x, y))
    for other in (NamedArrays(x=x, y=y), list(zip(x, y, strict=True))):
        found = features_of(model, other)
        assert torch.equal(found[0], pairs[0])
        assert torch.equal(found[1], pairs[1])
    assert len(features_of(model, ArrayDataset(x, y), limit=3)[1]) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sizes": ()}, "sizes"),
        ({"sizes": (20, 10)}, "ascending"),
        ({"c": (0.0,)}, "c: "),
        ({"repeats": 0}, "repeats: 0"),
        ({"draw_from": "test"}, "draw_from: 'test' is not one of train, val"),
        ({"every_n_epochs": -1}, "every_n_epochs: -1"),
    ],
)
def test_settings_that_it_refuses(given, said):
    with pytest.raises(UserError, match=said):
        ProbeHeads(**given)


def test_models_and_data_that_it_refuses(tmp_path):
    with pytest.raises(UserError, match="has no forward"):
        ProbeHeads().check(Module(), Context())
    with pytest.raises(UserError, match="layer: 'bodi' names nothing in the model; nearest: body"):
        trained(tmp_path, [ProbeHeads(layer="bodi")], epochs=1)
    with pytest.raises(UserError, match="a pair of inputs and their classes"):
        features_of(Net().eval(), ArrayDataset(torch.randn(5, 4), torch.randn(5)))

    class NoValidation(Blobs):
        def setup(self, stage=None):
            super().setup(stage)
            self.val_set = None

    with pytest.raises(UserError, match="has no val_set"):
        trained(tmp_path, [ProbeHeads()], epochs=1, data=NoValidation(batch_size=30))
