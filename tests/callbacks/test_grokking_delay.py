"""The first steps of two accuracies, against the curves that a toy logs."""

import pytest
import torch
from editing_toys import Net, trainer_of
from resume_harness import in_two_ranks
from torch.utils.data import DataLoader, TensorDataset

from callbacks.grokking_delay import GrokkingDelay, first_reached
from framework.errors import UserError

TRAIN, TEST = (0.5, 0.99, 1.0, 1.0, 1.0, 1.0), (0.1, 0.2, 0.3, 0.86, 0.8, 0.9)


class Scripted(Net):
    """Logs accuracies that are written down."""

    def validation_step(self, batch, batch_idx):
        epoch = self.trainer.current_epoch
        self.log("val/accuracy", TEST[epoch])
        self.log("train/accuracy", TRAIN[epoch])


class Plain(Net):
    """Without a validation."""

    validation_step = None

    def training_step(self, batch, batch_idx):
        for name, values in (("train/accuracy", TRAIN), ("test", TEST)):
            self.log(name, values[self.trainer.current_epoch], on_step=False, on_epoch=True)
        return super().training_step(batch, batch_idx)


def fit(folder, technique, module=Scripted, ckpt=None, **options):
    loader = DataLoader(TensorDataset(torch.randn(6, 5), torch.zeros(6, dtype=torch.long)), batch_size=3)
    trainer = trainer_of(folder, technique, **{"max_epochs": 6, "num_sanity_val_steps": 1, **options})
    arguments = (loader,) if module is Plain else (loader, loader)
    trainer.fit(module(), *arguments, ckpt_path=ckpt, weights_only=True)
    return trainer, {
        name.partition("/")[2]: float(value)
        for name, value in trainer.callback_metrics.items()
        if name.startswith("grokking_delay/")
    }


def test_the_steps_and_the_gap(tmp_path):
    technique = GrokkingDelay()
    _, found = fit(tmp_path, technique)
    assert found == {"train_step": 4, "test_step": 8, "gap": 4, "waited": 8}
    expected = zip((2, 4, 6, 8, 10, 12), TRAIN, TEST, strict=True)
    assert technique.curve == [pytest.approx(entry) for entry in expected]
    assert (tmp_path / "figures" / "grokking_delay.png").is_file()
    _, found = fit(tmp_path, GrokkingDelay(steps_per_unit=2))
    assert found == {"train_step": 2, "test_step": 4, "gap": 2, "waited": 4}


def test_what_is_not_reached_is_not_logged(tmp_path):
    assert fit(tmp_path, GrokkingDelay(0.95))[1] == {"train_step": 4, "waited": 12}
    assert first_reached([1, 2], [0.1, 0.2], 0.3) is None


def test_it_stops_there(tmp_path):
    trainer, found = fit(tmp_path, GrokkingDelay(stop=True))
    assert (trainer.global_step, found["waited"]) == (8, 8)


def test_two_ranks_that_see_other_accuracies_stop_together(tmp_path):
    class Apart(Scripted):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("own", 0.9 if self.global_rank and self.trainer.current_epoch > 1 else 0.1)

    def function():
        trainer, _ = fit(tmp_path, GrokkingDelay(monitor="own", stop=True), Apart, devices=2, strategy="ddp")
        assert trainer.current_epoch == 3

    assert in_two_ranks(function) == [0, 0]


def test_epochs_without_a_validation_are_left_out(tmp_path):
    technique = GrokkingDelay(0.2)
    _, found = fit(tmp_path, technique, check_val_every_n_epoch=3)
    assert found == {"train_step": 6, "test_step": 6, "gap": 0, "waited": 6}
    assert [step for step, _, _ in technique.curve] == [6, 12]


def test_without_any_validation(tmp_path):
    _, found = fit(tmp_path, GrokkingDelay(monitor="test"), module=Plain)
    assert found == {"train_step": 4, "test_step": 8, "gap": 4, "waited": 8}


def test_a_resume_continues(tmp_path):
    trainer, _ = fit(tmp_path, GrokkingDelay(), max_epochs=3)
    trainer.save_checkpoint(tmp_path / "three.ckpt")
    technique = GrokkingDelay()
    _, found = fit(tmp_path, technique, ckpt=tmp_path / "three.ckpt")
    assert found == {"train_step": 4, "test_step": 8, "gap": 4, "waited": 8}
    assert [step for step, _, _ in technique.curve] == [2, 4, 6, 8, 10, 12]


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"threshold: 0 is not accepted; above 0 and at most 1"):
        GrokkingDelay(0)
    with pytest.raises(UserError, match=r"steps_per_unit: 0 is not accepted"):
        GrokkingDelay(steps_per_unit=0)
    with pytest.raises(UserError, match=r"techniques.grokking_delay.monitor: 'val/acc' is not logged; nearest: val/ac"):
        fit(tmp_path, GrokkingDelay(monitor="val/acc"))
