"""A backbone with two heads of the same shape, for features and for clusters.

Paper: Ding et al. 2023, arXiv 2301.01805, Section 3.3: ResNet-18 with the stem of CIFAR, a shared layer with batch
norm, and two parallel linear heads, both normalised to the sphere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError
from framework.settings import at_least, one_of
from modules.vision.image_classifier.module import build_backbone
from modules.vision.weights import load_weights

Activation = Literal["relu", "elu"]
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "elu": nn.ELU}


@dataclass(frozen=True)
class TwoHeadConfig:
    """The network below the two heads.

    Attributes:
        name: ``conv`` (three small convolutions), ``identity`` (vectors, or features computed before), a model of timm,
            ``mlp`` or ``cnn``.
        args: Further arguments of its constructor.
        weights: Local file with pretrained weights of the backbone; a checkpoint of a run does not need it.
        cifar_stem: Whether a ResNet of timm gets a first convolution of 3x3 with stride 1 and no pooling after it.
        frozen: Whether the backbone keeps its weights, and stays in ``eval`` mode.
        hidden: Widths of the layers between backbone and heads, each linear, batch norm and activation.
        activation: ``relu`` or ``elu``.
        batch_norm: Whether these layers have batch norm.
    """

    name: str = "conv"
    args: dict[str, Any] = field(default_factory=dict)
    weights: str | Path | None = None
    cifar_stem: bool = False
    frozen: bool = False
    hidden: list[int] = field(default_factory=lambda: [256])
    activation: Activation = "relu"
    batch_norm: bool = True


class StridedConvs(nn.Sequential):
    """Three convolutions of 3x3 with batch norm and ReLU, the last two with stride 2; positions stay apart.

    Args:
        in_chans: Channels of the images.
        width: Channels of the first convolution; the others have twice as many.

    Raises:
        UserError: a size is below 1.
    """

    def __init__(self, in_chans: int = 1, width: int = 32) -> None:
        at_least(1, in_chans=in_chans, width=width)
        layers: list[nn.Module] = []
        for inputs, outputs, stride in ((in_chans, width, 1), (width, 2 * width, 2), (2 * width, 2 * width, 2)):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, nn.Flatten())


def build_trunk(config: TwoHeadConfig, image_size: int | None, in_chans: int) -> nn.Module:
    """Builds the backbone without its classifier, with the weights of its file if there is one.

    Args:
        config: Which.
        image_size: Side of the images in pixels; ``None`` for vectors.
        in_chans: Channels of the images, or the length of the vectors.

    Raises:
        UserError: there is no such backbone, an argument is not accepted, or the weights do not fit.
    """
    if image_size is None and config.name != "identity":
        raise UserError(f"encoder.name: {config.name!r} is not accepted for vectors (image_size null); 'identity'")
    if config.name == "identity":
        net: nn.Module = nn.Flatten()
    elif config.name == "conv":
        try:
            net = StridedConvs(in_chans, **config.args)
        except TypeError as error:
            raise UserError(f"encoder.args: 'conv' refused its arguments: {error}") from error
    else:
        assert image_size is not None
        net = build_backbone(config.name, 0, image_size, in_chans, backbone_args=config.args)
        if config.name in ("mlp", "cnn", "onet"):
            net.head = nn.Identity()
    if config.cifar_stem:
        first = getattr(net, "conv1", None)
        if not isinstance(first, nn.Conv2d) or not hasattr(net, "maxpool"):
            raise UserError(f"encoder.cifar_stem: {config.name!r} has no first convolution and pooling to replace")
        net.conv1 = nn.Conv2d(in_chans, first.out_channels, 3, 1, padding=1, bias=False)
        nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
        net.maxpool = nn.Identity()
    if config.weights is not None:
        load_weights(net, config.weights, "skip")
    return net


def _on_the_sphere(x: Tensor) -> Tensor:
    """Rows (B, d) of length 1, in float32 at least: in half precision lengths would be off by 0.4 %."""
    return F.normalize(x if x.dtype == torch.float64 else x.float(), dim=1)


class TwoHeadEncoder(nn.Module):
    """Maps inputs to features Z and cluster features C, both (B, d) of length 1, float32 or float64.

    Args:
        image_size: Side of the images in pixels; ``None`` for vectors.
        in_chans: Channels of the images, or the length of the vectors.
        features: d.
        config: The network below the heads.

    Raises:
        UserError: a setting is not accepted, or the weights do not fit.
    """

    def __init__(self, image_size: int | None, in_chans: int, features: int, config: TwoHeadConfig) -> None:
        super().__init__()
        at_least(1, **{"encoder.hidden": config.hidden})
        one_of(get_args(Activation), **{"encoder.activation": config.activation})
        self.backbone = build_trunk(config, image_size, in_chans)
        shape = (in_chans,) if image_size is None else (in_chans, image_size, image_size)
        self.backbone.eval()
        with torch.no_grad():
            width = self.backbone(torch.zeros(1, *shape)).flatten(1).shape[1]
        self.backbone.train()
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise([width, *config.hidden]):
            layers.append(nn.Linear(inputs, outputs))
            if config.batch_norm:
                layers.append(nn.BatchNorm1d(outputs))
            layers.append(ACTIVATIONS[config.activation]())
        self.shared = nn.Sequential(*layers)
        last = config.hidden[-1] if config.hidden else width
        feature_head = nn.Linear(last, features)
        self.cluster_head = nn.Linear(last, features)
        self.feature_head = feature_head  # the last layer with weights: what observers take for the projection
        self.frozen = config.frozen
        if config.frozen:
            self.backbone.requires_grad_(False)
            self.backbone.eval()

    def train(self, mode: bool = True) -> TwoHeadEncoder:
        """Sets the mode, but leaves a frozen backbone in ``eval``."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def shared_features(self, x: Tensor) -> Tensor:
        """Returns what goes into both heads (B, width)."""
        return self.shared(self.backbone(x).flatten(1))

    def forward(self, x: Tensor, clusters: bool = True) -> tuple[Tensor, Tensor]:
        """Returns Z and C; without ``clusters`` the second is Z too, and the cluster head is not called."""
        hidden = self.shared_features(x)
        z = _on_the_sphere(self.feature_head(hidden))
        return z, _on_the_sphere(self.cluster_head(hidden)) if clusters else z
