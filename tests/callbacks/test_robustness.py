"""The observer of accuracy under attacks: what it stores, resumes and refuses."""

import pytest
import torch
from editing_toys import trainer_of
from resume_harness import same
from small_classifier import Data, Net

from callbacks.robustness import Robustness, robustness_figure
from framework.errors import UserError
from framework.functional.attacks import accuracy

UNITS = {"mean": [0.5], "std": [0.1]}  # of inputs N(0, 1)


def fit(folder, technique, epochs=2, ckpt=None):
    torch.manual_seed(0)
    model = Net()
    trainer = trainer_of(folder, technique, max_epochs=epochs)
    trainer.fit(model, datamodule=Data(), ckpt_path=ckpt, weights_only=True)
    return model, trainer


def test_the_observer(tmp_path):
    technique = Robustness([0.0, 0.2], points=5, **UNITS)
    model, trainer = fit(tmp_path, technique)
    assert float(trainer.callback_metrics["robustness/accuracy_0"]) == accuracy(model, *technique.probe)
    assert float(trainer.callback_metrics["robustness/accuracy_0.2"]) <= 1
    assert [len(part) for part in technique.probe] == [5, 5]
    assert (tmp_path / "figures" / "robustness.png").is_file()
    assert same(fit(tmp_path, Robustness([0.2], every_n_epochs=5, **UNITS))[0].state_dict(), model.state_dict())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed = Robustness([0.0, 0.2], points=5, **UNITS)
    fit(tmp_path, resumed, 3, tmp_path / "two.ckpt")
    straight = Robustness([0.0, 0.2], points=5, **UNITS)
    fit(tmp_path, straight, 3)
    assert resumed.curve == straight.curve
    assert len(robustness_figure(straight.curve).axes[0].lines) == 2


def test_inputs_in_other_units_are_refused_before_training(tmp_path):
    message = r"techniques\.robustness: the inputs are from -\d.* set those that normalised them"
    with pytest.raises(UserError, match=message):
        fit(tmp_path, Robustness([0.1]))
    seen = []
    model = Net()
    model.training_step = lambda *args: seen.append(args)
    with pytest.raises(UserError, match=message):
        trainer_of(tmp_path, Robustness([0.1]), num_sanity_val_steps=1).fit(model, datamodule=Data())
    assert not seen


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"eps: \[-1\] is not accepted"):
        Robustness([-1])
    with pytest.raises(UserError, match="norm: 'l1' is not one of linf, l2"):
        Robustness(norm="l1")
