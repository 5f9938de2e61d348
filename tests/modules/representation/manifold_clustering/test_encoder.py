"""Backbones with two heads: lengths, stems, frozen parts, refused settings."""

import pytest
import torch
from torch import nn

from framework.errors import UserError
from modules.representation.manifold_clustering.encoder import TwoHeadConfig, TwoHeadEncoder


@pytest.mark.parametrize(
    ("config", "image_size", "in_chans"),
    [
        (TwoHeadConfig(), 8, 1),
        (TwoHeadConfig("identity", hidden=[7, 6], activation="elu", batch_norm=False), None, 5),
        (TwoHeadConfig("cnn", {"width": 4}), 8, 3),
        (TwoHeadConfig("mlp", {"width": 12}, hidden=[]), 8, 1),
        (TwoHeadConfig("resnet10t", {"channels": [8, 8, 8, 8], "stem_width": 8}), 32, 3),
        (TwoHeadConfig("test_vit"), 32, 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_both_heads_end_on_the_sphere(config, image_size, in_chans):
    encoder = TwoHeadEncoder(image_size, in_chans, 6, config)
    x = torch.randn(4, in_chans) if image_size is None else torch.randn(4, in_chans, image_size, image_size)
    z, c = encoder(x)
    for part in (z, c):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(4))
    assert z.shape == (4, 6)
    assert not torch.equal(z, c)
    assert encoder(x, clusters=False)[1] is not None
    assert encoder.feature_head.weight.shape == encoder.cluster_head.weight.shape


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_lengths_are_1_in_half_precision_too(kind):
    encoder = TwoHeadEncoder(None, 5, 6, TwoHeadConfig("identity", hidden=[]))
    with torch.autocast("cpu", kind):
        parts = encoder(torch.randn(50, 5))
    for part in (*parts, *encoder.to(kind)(torch.randn(50, 5, dtype=kind))):
        torch.testing.assert_close(part.norm(dim=1), torch.ones(50))
    assert encoder.double()(torch.randn(2, 5).double())[0].dtype == torch.float64


def test_the_stem_of_cifar_keeps_the_size():
    config = TwoHeadConfig("resnet18", {"channels": [4, 4, 8, 8]}, cifar_stem=True)
    net = TwoHeadEncoder(32, 3, 4, config).backbone
    assert net.conv1.kernel_size == (3, 3)
    assert net.conv1.stride == (1, 1)
    assert isinstance(net.maxpool, nn.Identity)
    seen = []
    net.layer1.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[-1]))
    net(torch.zeros(1, 3, 32, 32))
    assert seen == [32]


def test_a_frozen_backbone_stays_as_it_is():
    encoder = TwoHeadEncoder(8, 1, 6, TwoHeadConfig(frozen=True)).train()
    before = {name: value.clone() for name, value in encoder.backbone.state_dict().items()}
    z, c = encoder(torch.randn(5, 1, 8, 8))
    (z.sum() + c[:, 0].sum()).backward()
    assert all(p.grad is None for p in encoder.backbone.parameters())
    assert all(torch.equal(before[name], value) for name, value in encoder.backbone.state_dict().items())
    assert encoder.feature_head.weight.grad is not None


def test_weights_of_a_file(tmp_path):
    config = TwoHeadConfig("cnn", {"width": 4})
    first = TwoHeadEncoder(8, 1, 6, config)
    torch.save(first.backbone.state_dict(), tmp_path / "w.pt")
    loaded = TwoHeadEncoder(8, 1, 6, TwoHeadConfig("cnn", {"width": 4}, tmp_path / "w.pt"))
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded.eval().backbone(x), first.eval().backbone(x))
    with pytest.raises(UserError, match=r"w\.pt"):
        TwoHeadEncoder(8, 1, 6, TwoHeadConfig("cnn", {"width": 5}, tmp_path / "w.pt"))


def test_what_is_refused():
    for config, size, message in (
        (TwoHeadConfig("convv"), 8, "'convv' is not a model of timm"),
        (TwoHeadConfig("conv"), None, "encoder.name: 'conv' is not accepted for vectors"),
        (TwoHeadConfig(args={"depth": 3}), 8, "encoder.args: 'conv' refused its arguments"),
        (TwoHeadConfig(args={"width": 0}), 8, "width: 0 is not accepted"),
        (TwoHeadConfig(cifar_stem=True), 8, "encoder.cifar_stem: 'conv' has no first convolution"),
        (TwoHeadConfig(hidden=[4, 0]), 8, "encoder.hidden: .* is not accepted"),
        (TwoHeadConfig(activation="gelu"), 8, "encoder.activation: 'gelu' is not one of relu, elu"),
    ):
        with pytest.raises(UserError, match=message):
            TwoHeadEncoder(size, 1, 4, config)
