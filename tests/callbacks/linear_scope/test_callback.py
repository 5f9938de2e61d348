"""The observer in short runs; that it resumes, and beside every other technique, is tested in the composition suite."""

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from callbacks.linear_scope import LinearScope
from framework import OptimizerConfig
from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.errors import UserError
from framework.functional.linear_scope import LinearInterpreter, Standardised
from framework.module import Module


class Net(Module):
    def __init__(self, net):
        super().__init__(OptimizerConfig("adam", lr=0.02, weight_decay=0.0))
        self.net = net

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        output = self(batch[0])
        classes = batch[1].ndim == 1
        return nn.functional.cross_entropy(output, batch[1]) if classes else (output - batch[1]).abs().mean()

    def validation_step(self, batch, batch_idx):
        pass

    test_step = validation_step


class Data(DataModule):
    mean, std = (0.4,), (0.3,)

    def __init__(self, pictures):
        super().__init__(batch_size=8, eval_batch_size=5)
        self.pictures = pictures

    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(36, 1, 6, 6, generator=generator)
        y = nn.functional.interpolate(x, scale_factor=2) if self.pictures else (x.mean((1, 2, 3)) > 0).long()
        self.train_set, self.val_set = ArrayDataset(x[:16], y[:16]), ArrayDataset(x[16:30], y[16:30])
        self.test_set = ArrayDataset(x[30:], y[30:])


def classifier():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.3), nn.Flatten(), nn.Linear(64, 2)
    )


def upscaler():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.PixelShuffle(2))


def trained(root, net, callbacks, pictures=False, epochs=2):
    torch.manual_seed(0)
    model = Net(net())
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(
        max_epochs=epochs, accelerator="cpu", default_root_dir=root, callbacks=callbacks, enable_model_summary=False, **quiet
    )  # fmt: skip
    trainer.fit(model, datamodule=Data(pictures))
    return model, trainer


def test_of_a_classifier_it_logs_and_draws_and_leaves_training_alone(tmp_path):
    seen = LinearScope(every_n_epochs=2, points=10, images=2, classes=2)
    model, trainer = trained(tmp_path, classifier, [seen])
    plain, _ = trained(tmp_path / "plain", classifier, [])
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), plain.state_dict().values(), strict=True))
    assert model.training == plain.training
    assert [row["epoch"] for row in seen.rows] == [0, 2]
    x, y = (part[:10] for part in trainer.datamodule.val_set.tensors)
    model.eval()
    raw = Standardised(model, (0.4,), (0.3,))
    with LinearInterpreter(raw, raw.raw(x)) as scope:
        votes = (scope.y - scope.residual()).argmax(1)
        ratio = (scope.residual().norm(dim=1) / scope.y.norm(dim=1)).mean()
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert logged["linear_scope/acc_full"] == pytest.approx(float((model(x).argmax(1) == y).float().mean()))
    assert logged["linear_scope/acc_votes"] == pytest.approx(float((votes == y).float().mean()))
    assert logged["linear_scope/norm_ratio"] == pytest.approx(float(ratio), rel=1e-5)
    assert logged["linear_scope/error"] < 1e-12
    names = {file.stem for file in (tmp_path / "figures").iterdir()}
    kinds = {f"linear_scope_{kind}_epoch2" for kind in ("votes", "rows", "basis")}
    assert names == kinds | {"linear_scope"}


def test_of_pictures_it_logs_gain_and_locality_and_draws(tmp_path):
    model, trainer = trained(
        tmp_path, upscaler, [LinearScope(every_n_epochs=1, images=2, k=3)], pictures=True, epochs=1
    )
    logged = trainer.callback_metrics
    assert {"dc_gain", "dc_gain_std", "locality", "norm_ratio", "error"} == {
        name.removeprefix("linear_scope/") for name in logged
    }
    assert float(logged["linear_scope/locality"]) == pytest.approx(1)  # of a 3x3 convolution: at most 3.6 pixels away
    x = trainer.datamodule.val_set.tensors[0][:2] * 0.3 + 0.4
    raw = Standardised(model, (0.4,), (0.3,)).double()
    jacobian = torch.func.vmap(torch.func.jacrev(lambda z: raw(z[None])[0]))(x.double())
    gains = jacobian.detach().sum((-3, -2, -1))
    assert float(logged["linear_scope/dc_gain"]) == pytest.approx(float(gains.mean()), rel=1e-5)
    assert float(logged["linear_scope/dc_gain_std"]) == pytest.approx(float(gains.std(correction=0)), rel=1e-5)
    names = {file.stem for file in (tmp_path / "figures").iterdir()}
    kinds = ("rows", "columns", "residual", "basis")
    assert names == {f"linear_scope_{kind}_epoch1" for kind in kinds} | {"linear_scope"}


def test_validate_looks_once_at_the_validation_data_and_draws(tmp_path):
    torch.manual_seed(0)
    model, seen = Net(classifier()), LinearScope(points=10, images=1, classes=1, k=1, chunk=3, part="train")
    (found,) = quiet_trainer(tmp_path, seen).validate(model, datamodule=Data(False), verbose=False)
    data = Data(False)
    data.setup("validate")
    x, y = (part[:10] for part in data.val_set.tensors)
    assert found["linear_scope/acc_full"] == pytest.approx(float((model.eval()(x).argmax(1) == y).float().mean()))
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {
        f"linear_scope_{kind}_val" for kind in ("votes", "rows", "basis")
    }
    assert seen.rows == []


def quiet_trainer(root, seen):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(accelerator="cpu", default_root_dir=root, callbacks=[seen], enable_model_summary=False, **quiet)


class Changed(Data):
    """With other labels or images to validate on."""

    def __init__(self, change):
        super().__init__(False)
        self.change = change

    def setup(self, stage):
        super().setup(stage)
        self.val_set = ArrayDataset(*self.change(*self.val_set.tensors))


@pytest.mark.parametrize("label", [7, -100])
def test_labels_that_are_not_numbers_of_outputs_are_not_counted(tmp_path, label):
    data = Changed(lambda x, y: (x, torch.full_like(y, label)))
    seen = LinearScope(points=3, images=1, classes=1, k=1)
    (found,) = quiet_trainer(tmp_path, seen).validate(Net(classifier()), datamodule=data, verbose=False)
    assert {name.removeprefix("linear_scope/") for name in found} == {"norm_ratio", "error"}


def test_data_without_images_is_refused(tmp_path):
    data = Changed(lambda x, y: (x[:0], y[:0]))
    with pytest.raises(UserError, match=r"linear_scope\.part: 'val' is not accepted; it has no images"):
        quiet_trainer(tmp_path, LinearScope()).fit(Net(classifier()), datamodule=data)


class Diverging(Net):
    """Of which training makes NaN."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch, batch_idx) * float("nan")


def test_a_training_that_diverges_is_not_stopped(tmp_path):
    torch.manual_seed(0)
    seen = LinearScope(every_n_epochs=1, points=4, images=1)
    trainer = quiet_trainer(tmp_path, seen)
    trainer.fit_loop.max_epochs = 2
    with pytest.warns(UserWarning, match="the output of Diverging has 2 values that are not finite"):
        trainer.fit(Diverging(classifier()), datamodule=Data(False))
    assert [sorted(row) == ["epoch", "error", "norm_ratio"] for row in seen.rows] == [False, True, True]
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {"linear_scope"}


def test_in_a_test_it_looks_once_and_without_figures_draws_none(tmp_path):
    seen = LinearScope(images=0, raw_pixels=False)
    model, trainer = trained(tmp_path, classifier, [seen], epochs=1)
    (found,) = trainer.test(model, datamodule=Data(False), verbose=False)
    x, _ = trainer.datamodule.test_set.tensors
    with LinearInterpreter(model, x) as scope:
        ratio = (scope.residual().norm(dim=1) / scope.y.norm(dim=1)).mean()
    assert found["linear_scope/norm_ratio"] == pytest.approx(float(ratio), rel=1e-5)
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == {"linear_scope"}


class Squared(nn.Module):
    def forward(self, x):
        return x * x.flip(-1)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2), Squared()), r"aten.mul in net.2 \(Squared\) is a product"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 2), nn.Softmax(1)), r"in net.2 \(Softmax\) is a softmax"),
    ],
)  # fmt: skip
def test_what_cannot_be_interpreted_is_refused_before_training(tmp_path, net, message):
    with pytest.raises(UserError, match=message):
        trained(tmp_path, net, [LinearScope()])


def test_a_resumed_run_goes_on_with_its_measurements():
    seen, other = LinearScope(), LinearScope()
    seen.rows = [{"epoch": 0.0, "norm_ratio": 0.5}]
    other.load_state_dict(seen.state_dict())
    other.on_train_start(None, None)  # no second look at the start
    assert other.rows == seen.rows


def test_bad_settings_are_refused():
    for wrong in ({"every_n_epochs": 0}, {"part": "all"}, {"radius": 0.0}, {"images": -1}, {"smooth_mode": "sec"}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            LinearScope(**wrong)
    with pytest.raises(UserError, match="has no forward"):
        LinearScope().check(pl.LightningModule(), None)
