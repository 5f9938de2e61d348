"""The networks that are interpreted: shapes, training, refusals, and O-Net's file."""

import pytest
import torch
from torch import nn

import framework
from framework.errors import UserError
from framework.functional.linear_scope import LinearInterpreter
from modules.interpretability.linear_scope import ImageToImage, SuperResolution, UNet, UpscalingNet
from modules.interpretability.linear_scope.claims import Margin, lfw_subset
from modules.vision.image_classifier import build_backbone

QUIET = {
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": False,
    "trainer.enable_model_summary": False,
    "wandb.mode": "disabled",
}


def test_the_skip_of_super_resolution_is_bicubic_interpolation():
    torch.manual_seed(0)
    net, x = UpscalingNet(3, 2, 8, 2), torch.rand(2, 2, 5, 7)
    bare = UpscalingNet(3, 2, 8, 2, skip=False)
    bare.load_state_dict(net.state_dict())
    expected = nn.functional.interpolate(x, scale_factor=3, mode="bicubic")
    torch.testing.assert_close(net(x) - bare(x), expected, atol=1e-6, rtol=0)
    assert net(x).shape == (2, 2, 15, 21)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
def test_the_u_net_is_interpreted_exactly(norm):
    torch.manual_seed(0)
    net, x = UNet(1, 2, 4, 2, norm), torch.rand(2, 1, 8, 12)
    assert net(x).shape == (2, 2, 8, 12)
    with LinearInterpreter(net, x) as scope:
        assert scope.rows([0, 57]).error.max() < 1e-12
    with pytest.raises(UserError, match="width: 10 is not accepted; a multiple of 4"):
        net(torch.rand(1, 1, 8, 10))


def test_bad_settings_are_refused():
    with pytest.raises(UserError, match="levels: 3 is not accepted with instance norm and pictures of 8 pixels"):
        UNet(levels=3)(torch.rand(2, 1, 8, 8))
    assert UNet(levels=3, norm="none")(torch.rand(2, 1, 8, 8)).shape == (2, 1, 8, 8)
    with pytest.raises(UserError, match="levels"):
        UNet(levels=0)
    with pytest.raises(UserError, match="'group' is not one of instance, batch, none"):
        ImageToImage(norm="group")
    with pytest.raises(UserError, match="scale"):
        SuperResolution(scale=1)


@pytest.mark.parametrize(
    ("config", "metric", "other"),
    [
        ("interpretability/linear_scope_super_resolution", "val/psnr_bicubic", "model.init_args.scale: 3, but scale"),
        ("interpretability/linear_scope_image_to_image", "val/psnr", "model.init_args.channels: 3, but channels"),
    ],
)
def test_a_quick_config_trains_and_is_compared_with_its_data(config, metric, other, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = {
        "data.patches": 2,
        "data.size": 16,
        "model.width": 4,
        "trainer.max_epochs": 1,
        "techniques.linear_scope": None,
    }
    experiment = framework.build(config, {**QUIET, **small})
    experiment.fit()
    assert metric in experiment.trainer.callback_metrics
    name = other.partition(":")[0]
    wrong = {name.replace("init_args.", ""): 3}
    with pytest.raises(UserError, match=other):
        framework.build(config, {**QUIET, **small, **wrong}).fit()


def test_the_small_network_without_biases_has_none_and_is_not_exclusive():
    net = build_backbone("cnn", 3, 8, 2, backbone_args={"norm": "none", "bias": False, "width": 4})
    assert not [name for name, _ in net.named_parameters() if name.endswith("bias")]
    assert net(torch.rand(2, 2, 9, 9)).shape == (2, 3)
    for side, norm in ((1, "batch"), (3, "instance")):
        with pytest.raises(UserError, match=f"image_size: {side} is not accepted"):
            build_backbone("cnn", 3, side, 1, backbone_args={"norm": norm})
        smallest = build_backbone("cnn", 3, side + 1, 1, backbone_args={"norm": norm, "width": 2})
        assert smallest(torch.rand(2, 1, side + 1, side + 1)).shape == (2, 3)
    with pytest.raises(UserError, match="'layer' is not one of batch, instance, none"):
        build_backbone("cnn", 3, backbone_args={"norm": "layer"})


def test_o_net_is_the_network_of_its_paper():
    torch.manual_seed(0)
    net = build_backbone("onet", 2, 48, 3).eval()
    assert sum(p.numel() for p in net.parameters()) == 389_040
    x = torch.rand(2, 3, 48, 48)
    assert net.conv4(net.pool3(net.conv3(net.pool2(net.conv2(net.pool1(net.conv1(x))))))).shape == (2, 128, 3, 3)
    with LinearInterpreter(Margin(net), x) as scope:
        assert scope.rows([0]).error.max() < 1e-12
    with pytest.raises(UserError, match="image_size: 64 is not accepted by the backbone 'onet'; 48"):
        build_backbone("onet", 2, 64, 3)
    pixels, labels = lfw_subset()
    assert pixels.shape == (200, 3, 48, 48)
    assert 200 < float(pixels.max()) <= 255 + 1e-9
    assert labels.sum() == 100


def test_without_its_file_the_claim_says_what_to_type(tmp_path, monkeypatch, capsys):
    from modules.interpretability.linear_scope.claims import faces

    monkeypatch.chdir(tmp_path)
    assert list(faces()) == []
    assert "make data/onet" in capsys.readouterr().out
