"""The observer of tightness: what it measures, units, resume, collapsed networks, what is refused."""

import pytest
import torch
from editing_toys import trainer_of
from resume_harness import same
from torch import nn

from callbacks.propagation_tightness import PropagationTightness, measure, tightness_figure
from datamodules.vision.small_images import SmallImages
from framework.errors import UserError
from framework.functional.interval import IntervalNetwork, tightness
from modules.robustness.ibp import IBPClassifier
from modules.vision.image_classifier import ImageClassifier


def data(normalize=False):
    return SmallImages("digits", num_classes=10, normalize=normalize, batch_size=512, eval_batch_size=512)


def fit(folder, technique, epochs=2, ckpt=None, model=None, images=None):
    torch.manual_seed(0)
    model = model or IBPClassifier("mlp", image_size=8, width=12, hidden=[6], eps=0.1, ramp_epochs=(0, 3))
    trainer = trainer_of(folder, technique, max_epochs=epochs)
    trainer.fit(model, datamodule=images or data(), ckpt_path=ckpt, weights_only=True)
    return model, trainer


def test_measurements_resume_and_leave_training_alone(tmp_path):
    technique = PropagationTightness(points=20)
    model, trainer = fit(tmp_path, technique)
    x, y = technique.probe
    assert len(x) == 20
    expected = tightness(IntervalNetwork(model.net), x, 0.1, y).mean
    assert float(trainer.callback_metrics["propagation_tightness/local"]) == pytest.approx(expected)
    last = technique.curve[-1]
    assert last["dead"] + last["active"] + last["unstable"] == pytest.approx(1)
    assert last["certified"] <= last["accuracy"]
    assert (tmp_path / "figures" / "propagation_tightness.png").is_file()
    assert same(fit(tmp_path, PropagationTightness(every_n_epochs=5))[0].state_dict(), model.state_dict())
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    resumed, straight = PropagationTightness(points=20), PropagationTightness(points=20)
    fit(tmp_path, resumed, 3, tmp_path / "two.ckpt")
    fit(tmp_path, straight, 3)
    assert resumed.curve == straight.curve
    assert resumed.classes == straight.classes
    assert len(tightness_figure(straight.curve, straight.classes).axes) == 2


def test_normalised_inputs_are_measured_in_pixels(tmp_path):
    classifier = ImageClassifier(backbone="cnn", num_classes=10, image_size=8, in_chans=1)
    technique = PropagationTightness(eps=0.05, points=6)
    images = data(normalize=True)
    model, _ = fit(tmp_path, technique, 1, model=classifier, images=images)
    x, y = technique.probe
    mean, std = images.mean[0], images.std[0]

    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model

        def forward(self, p):
            return self.net((p - mean) / std)

    expected, _ = measure(IntervalNetwork(Pixels()), (x * std + mean).clamp(0, 1), y, 0.05)
    assert {k: v for k, v in technique.curve[-1].items() if k != "step"} == pytest.approx(expected, rel=1e-4)


def test_a_network_that_has_become_constant_does_not_stop_the_training(tmp_path):
    class Constant(IBPClassifier):
        def on_train_epoch_start(self):
            for layer in self.net:
                if isinstance(layer, nn.Linear):
                    layer.weight.data.zero_()

    model = Constant("mlp", image_size=8, width=4, hidden=[4], eps=0.1, ramp_epochs=None, strategy="standard")
    model.configure_optimizers = lambda: torch.optim.SGD(model.parameters(), lr=0.0)
    technique = PropagationTightness(points=5)
    fit(tmp_path, technique, 1, model=model)
    assert technique.curve[-1]["local"] == 1
    assert technique.curve[-1]["radius"] == 0


def test_what_is_refused(tmp_path):
    with pytest.raises(UserError, match="eps: 0 is not accepted"):
        PropagationTightness(eps=0)
    cnn = ImageClassifier(backbone="cnn", num_classes=10, image_size=8, in_chans=1)
    with pytest.raises(UserError, match=r"techniques\.propagation_tightness\.eps: ImageClassifier has no eps above 0"):
        fit(tmp_path, PropagationTightness(), 1, model=cnn)
    small = {"patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 1}
    vit = ImageClassifier("vit_tiny_patch16_224", num_classes=10, image_size=8, in_chans=1, backbone_args=small)
    with pytest.raises(UserError, match=r"techniques\.propagation_tightness: .*"):
        fit(tmp_path, PropagationTightness(eps=0.1), 1, model=vit)
