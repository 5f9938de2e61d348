"""The weight histogram: what it logs and draws, and that it changes nothing."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from scipy import stats
from torch import nn

from callbacks.weight_histogram import WeightHistogram, fitted_shapes, histogram, weight_figure
from framework.editing import matrices
from framework.errors import UserError
from framework.functional import generalized_gaussian as gg


class Net(BoringModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(32, 2)
        self.body = nn.Sequential(nn.Linear(40, 50), nn.LayerNorm(50), nn.Conv1d(4, 30, 9))
        with torch.no_grad():
            gg.fill_(self.body[0].weight, 1.0, 0.1, 0)


def fit(folder, *callbacks, epochs=2, ckpt_path=None, logger=True):
    torch.manual_seed(0)
    trainer = pl.Trainer(
        max_epochs=epochs,
        limit_train_batches=2,
        limit_val_batches=0,
        accelerator="cpu",
        logger=CSVLogger(folder, "csv", version=epochs) if logger else False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    model = Net()
    trainer.fit(model, ckpt_path=ckpt_path)
    return trainer, model


def test_it_logs_the_shape_of_each_tensor_and_of_all(tmp_path):
    trainer, model = fit(tmp_path, WeightHistogram())
    logged = trainer.callback_metrics
    w = model.body[0].weight.detach()
    assert logged["weights/shape/body.0.weight"] == pytest.approx(gg.fit(w).shape)
    assert logged["weights/shape/body.0.weight"] == pytest.approx(
        stats.gennorm.fit(w.flatten().numpy(), floc=0)[0], abs=0.15
    )
    assert logged["weights/std/body.0.weight"] == pytest.approx(float(w.square().mean().sqrt()))
    everything = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert logged["weights/shape"] == pytest.approx(gg.fit(everything).shape)
    assert {key for key in logged if key.startswith("weights/shape/")} == {
        f"weights/shape/{name}" for name in ("layer.weight", "body.0.weight", "body.2.weight")
    }


def test_it_draws_the_start_and_the_end_and_a_resume_does_not_draw_the_start_again(tmp_path):
    trainer, _ = fit(tmp_path, WeightHistogram(panels=2))
    figures = tmp_path / "figures"
    assert sorted(path.name for path in figures.iterdir()) == ["weights_end.png", "weights_start.png"]
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    rows = (tmp_path / "csv" / "version_2" / "metrics.csv").read_text().splitlines()
    assert any(row.split(",")[rows[0].split(",").index("step")] == "0" for row in rows[1:])
    (figures / "weights_start.png").unlink()
    fit(tmp_path, WeightHistogram(), epochs=3, ckpt_path=tmp_path / "a.ckpt")
    assert [path.name for path in figures.iterdir()] == ["weights_end.png"]


def test_training_stays_as_it_was(tmp_path):
    _, with_it = fit(tmp_path, WeightHistogram(), logger=False)
    _, without = fit(tmp_path, logger=False)
    for one, other in zip(with_it.parameters(), without.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_histogram_is_numpys_density():
    w = gg.sample((5000,), 1.0, 0.2)
    expected, _ = np.histogram(w.numpy(), 31, (-2, 2), density=True)
    np.testing.assert_allclose(histogram(w, 31, 2.0).numpy(), expected, rtol=1e-5)


def test_panels_show_the_fit_on_a_logarithmic_axis():
    model = Net()
    tensors = matrices(model, ["body.*"])
    fits = fitted_shapes(model, tensors)
    figure = weight_figure(None, tensors, fits)
    panel = figure.axes[0]
    assert panel.get_yscale() == "log"
    assert f"ν = {fits['body.0.weight'].shape:.2f}" in panel.get_title()
    x, y = panel.lines[0].get_data()
    fitted = fits["body.0.weight"]
    oracle = stats.gennorm(fitted.shape, scale=fitted.alpha).pdf(x)
    high = oracle > 10 * panel.get_ylim()[0]
    np.testing.assert_allclose(y[high], oracle[high], rtol=1e-9)


def test_a_tensor_of_zeros_is_drawn_without_a_fit():
    zeros = {"a": torch.zeros(20, 20)}
    figure = weight_figure(zeros, zeros, fitted_shapes(nn.Linear(2, 2), zeros))
    figure.canvas.draw()
    assert figure.axes[0].get_title() == "a\nall 0"


def test_bad_settings_and_patterns_that_name_nothing_are_answered(tmp_path):
    with pytest.raises(UserError, match=r"^panels: 0"):
        WeightHistogram(panels=0)
    with pytest.raises(UserError, match=r"^every_n_epochs: -1"):
        WeightHistogram(every_n_epochs=-1)
    with pytest.raises(UserError, match=r"weight_histogram.include: 'bod' names nothing in the model; nearest: .*body"):
        fit(tmp_path, WeightHistogram(include=["bod"]), logger=False)
