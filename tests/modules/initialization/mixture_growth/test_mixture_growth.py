"""The classifier that grows: its networks, cutout, members and ensemble in a test; wide ResNets."""

import logging
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from callbacks.mixture_growth import MixtureGrowth, convert_to_templates, grow, set_phase
from framework.errors import UserError
from modules.initialization.mixture_growth import GrowingClassifier, build_net, computing, cutout
from modules.vision.wide_resnet import WideResNet

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def trainer(folder, *callbacks, **kwargs):
    silent = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    silent |= {"enable_checkpointing": False, "accelerator": "cpu", "default_root_dir": folder}
    return pl.Trainer(**{**silent, **kwargs}, callbacks=list(callbacks))


def loader():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 40, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()), 16)


@pytest.mark.parametrize(
    ("net", "shape"),
    [("mlp", (4, 40)), ("conv1d", (4, 40)), ("wrn-10-1", (4, 3, 16, 16)), ("resnet10t", (2, 3, 64, 64))],
)
def test_every_network_grows(net, shape):
    torch.manual_seed(0)
    model = GrowingClassifier(net, num_classes=5).eval()
    convert_to_templates(model)
    x = torch.randn(shape)
    assert model(x).shape == (shape[0], 5)
    logits = []
    for number in (0, 1):
        with computing(model, number):
            logits.append(model(x))
    grow(model, "zero")
    torch.testing.assert_close(model(x), logits[0] + logits[1], atol=1e-4, rtol=1e-4)
    assert not any(name.endswith("bias") and "norm" not in name for name, _ in WideResNet(10, 1).named_parameters())


def test_a_sequence_and_a_signal_are_the_same():
    model, x = GrowingClassifier("conv1d").eval(), torch.randn(3, 40)
    assert torch.equal(model(x), model(x[..., None]))


def test_inputs_that_are_not_the_networks_are_refused():
    x = torch.randn(3, 40)
    with pytest.raises(UserError, match="in_features: 41, but an input of the data has 40 numbers"):
        GrowingClassifier("mlp", in_features=41)(x)
    with pytest.raises(UserError, match=r"net: 'wrn-10-1' is not accepted, it is for images .* shape \(40,\); mlp"):
        GrowingClassifier("wrn-10-1")(x)
    with pytest.raises(UserError, match=r"cutout: 4 is not accepted, the data are no images"):
        GrowingClassifier("mlp", cutout=4).training_step((x, torch.zeros(3, dtype=torch.long)), 0)
    model = GrowingClassifier("wrn-10-1")
    model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    model.trainer.datamodule = SimpleNamespace(num_classes=10, channels=1)
    with pytest.raises(UserError, match=r"in_chans: 3, but the data has 1"):
        model.setup("fit")


def test_wide_resnet_has_its_published_size():
    with torch.device("meta"):
        whole, bare = WideResNet(28, 10, 10), WideResNet(28, 10, 10, second_norm=False)
    convolutions = sum(p.numel() for p in whole.parameters() if p.ndim == 4)
    assert convolutions == 36_454_832  # 36.5 million, 25 of 3x3 and 3 shortcuts
    assert sum(isinstance(m, nn.Conv2d) for m in whole.modules()) == 28
    norms = [sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) for net in (whole, bare)]
    assert norms == [25, 13]


def test_cutout_zeroes_a_square_around_a_pixel():
    torch.manual_seed(0)
    x = torch.ones(200, 2, 9, 7)
    y = cutout(x, 4)
    assert torch.equal(y[:, 0], y[:, 1])
    zero = y[:, 0] == 0
    assert (zero.sum((1, 2)) == zero.any(2).sum(1) * zero.any(1).sum(1)).all(), "a rectangle"
    assert int(zero.any(2).sum(1).max()) == 4
    assert zero.any(2).sum(1).min() >= 2
    assert zero.any(0).all(), "it reaches every pixel"
    assert torch.equal(x, torch.ones_like(x))


def test_a_test_tells_of_members_and_ensemble(tmp_path):
    pl.seed_everything(1, verbose=False)
    model = GrowingClassifier("mlp", num_classes=3, widths=[8, 8])
    run = trainer(tmp_path, MixtureGrowth([2, 2], mode="zero"), max_epochs=5)
    run.fit(model, loader(), loader())
    set_phase(model, 2)
    found = run.test(model, loader(), verbose=False)[0]
    x, y = loader().dataset.tensors
    model.eval()
    with torch.no_grad():
        logits = []
        for number in (0, 1):
            with computing(model, number):
                logits.append(model(x))
        expected = [*logits, logits[0] + logits[1]]
    for name, values in zip(("member_0", "member_1", "ensemble"), expected, strict=True):
        assert found[f"test/{name}"] == pytest.approx(float((values.argmax(-1) == y).float().mean()))
    plain = trainer(tmp_path).test(GrowingClassifier("mlp", num_classes=3, widths=[8]), loader(), verbose=False)[0]
    assert set(plain) == {"test/accuracy", "test/loss"}


def test_what_is_refused():
    for arguments, said in (
        ({"net": "resnet_18"}, r"net: 'resnet_18' is not accepted.*resnet18"),
        ({"net": "wrn-11-1"}, r"depth: 11 of a wide ResNet is not accepted; 10, 16, 22"),
        ({"widths": []}, "widths"),
        ({"cutout": -1}, "cutout"),
        ({"num_classes": 0}, "num_classes"),
    ):
        with pytest.raises(UserError, match=said):
            GrowingClassifier(**arguments)
    with pytest.raises(UserError, match="factor: 0"):
        build_net("wrn-10-0", 3)
