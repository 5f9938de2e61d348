"""The end of a round: at the threshold, after so many epochs, and training's after the last."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from torch.utils.data import DataLoader, TensorDataset

from callbacks.accuracy_threshold import AccuracyThreshold, round_over, rounds_figure
from framework.errors import UserError


class Scripted(BoringModel):
    """Logs accuracies that a test gives: one a batch, two batches an epoch."""

    def __init__(self, accuracies, on_epoch=True, name="train/accuracy"):
        super().__init__()
        self.accuracies, self.on_epoch, self.name = iter(accuracies), on_epoch, name

    def training_step(self, batch, index):
        self.log(self.name, next(self.accuracies), on_step=not self.on_epoch, on_epoch=self.on_epoch)
        return super().training_step(batch[0], index)["loss"]


class InThree(pl.LightningDataModule):
    """Three rounds, which are counted and nothing else."""

    rounds = 3

    def __init__(self):
        super().__init__()
        self.round = 0

    def advance(self):
        more = self.round < 2
        self.round += more
        return more

    def samples_in(self, number):
        return 4 * (number + 1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(4, 32)), 2)


def run(folder, technique, model, data=None):
    trainer = pl.Trainer(
        max_epochs=50,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[technique],
        limit_val_batches=0,
        default_root_dir=folder,
    )
    trainer.fit(model, datamodule=data or InThree())
    return trainer


def test_the_mean_over_the_epoch_decides(tmp_path):
    epochs = [(0.5, 0.9), (1.0, 0.9), (1.0, 1.0), (0.99, 0.99), (0.9, 1.0), (0.99, 1.0)]
    technique = AccuracyThreshold(0.99)
    trainer = run(tmp_path, technique, Scripted([value for pair in epochs for value in pair]))
    assert [(entry["number"], entry["epochs"], entry["samples"]) for entry in technique.history] == [
        (0, 3, 4),
        (1, 1, 8),
        (2, 2, 12),
    ]
    assert trainer.current_epoch == 6
    assert trainer.callback_metrics["round/number"] == 2
    assert (tmp_path / "figures" / "rounds.png").stat().st_size > 1000


def test_a_round_has_a_largest_number_of_epochs(tmp_path):
    technique = AccuracyThreshold(0.99, max_epochs=2)
    assert run(tmp_path, technique, Scripted([0.1] * 100)).current_epoch == 6
    assert [entry["epochs"] for entry in technique.history] == [2, 2, 2]


def test_without_rounds_it_ends_training(tmp_path):
    class Plain(pl.LightningDataModule):
        train_dataloader = InThree.train_dataloader

    technique = AccuracyThreshold(0.8)
    assert run(tmp_path, technique, Scripted([0.1, 0.2, 0.9, 0.8]), Plain()).current_epoch == 2
    assert technique.history == [{"epochs": 2.0}]


def test_its_state_is_its_own():
    technique = AccuracyThreshold()
    technique.epochs, technique.history = 3, [{"epochs": 5.0}]
    state = technique.state_dict()
    technique.history.append({"epochs": 1.0})
    again = AccuracyThreshold()
    again.load_state_dict(state)
    assert (again.epochs, again.history) == (3, [{"epochs": 5.0}])


def test_a_metric_that_is_not_there_or_not_a_mean_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'train/accuracy' is not logged; nearest: train/acc$"):
        run(tmp_path, AccuracyThreshold(), Scripted([0.5] * 9, name="train/acc"))
    with pytest.raises(UserError, match="'train/accuracy' is logged for single steps only"):
        run(tmp_path, AccuracyThreshold(), Scripted([0.5] * 9, on_epoch=False))


def test_bad_settings_are_named():
    for threshold in (0, 1.1):
        with pytest.raises(UserError, match=r"^threshold"):
            AccuracyThreshold(threshold)
    with pytest.raises(UserError, match=r"^max_epochs: 0"):
        AccuracyThreshold(max_epochs=0)


def test_function_and_figure():
    assert round_over(0.99, 1)
    assert not round_over(0.98, 1)
    assert round_over(0.1, 7, max_epochs=7)
    figure = rounds_figure([{"samples": 10, "epochs": 4, "value": 0.5}, {"samples": 20, "epochs": 6}], "val/accuracy")
    left, right = (axes.lines[0].get_xydata().tolist() for axes in figure.axes)
    assert (left, right) == ([[10, 0.5]], [[10, 4], [20, 6]])
