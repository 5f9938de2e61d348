"""The encoders whose embeddings are measured: pixels, a small CNN, models of timm, and checkpoints of this project.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (pixels are the official code's ``cat`` backend).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from framework.checkpoints.opening import open_model
from framework.errors import UserError
from framework.settings import at_least, multiple_of, one_of
from modules.vision.image_classifier.module import build_backbone
from modules.vision.weights import load_weights

Features = Literal["pre", "post"]
PLAIN = ("conv", "pixels", "embeddings")


@dataclass(frozen=True)
class ImageEncoderConfig:
    """An encoder of images.

    Attributes:
        name: ``conv`` (:class:`ConvEncoder`), ``pixels``, ``embeddings`` (of a file, passed on as they are), or a model
            of timm, with random weights or those of a file.
        outputs: Dimensions behind the projection; for timm the size of its head, 0 for a model that ends in features.
        features: ``pre`` the projection, or ``post`` it.
        weights: Local file of the weights.
        frozen: Whether only the probes are trained.
        args: Further arguments of timm's constructor.
    """

    name: str = "conv"
    outputs: int = 64
    features: Features = "post"
    weights: str | Path | None = None
    frozen: bool = False
    args: dict[str, Any] = field(default_factory=dict)


class ConvEncoder(nn.Module):
    """Three convolutions of 4x4 with stride 2 and ReLU, whose feature map is projected linearly, without pooling, so
    that positions stay.

    Args:
        image_size: Side of the images in pixels, a multiple of 8.
        in_chans: Channels of the images.
        outputs: Dimensions of the embedding.
        width: Channels of the first convolution; the others have twice and four times as many.

    Raises:
        UserError: a size is not accepted.
    """

    def __init__(self, image_size: int = 32, in_chans: int = 3, outputs: int = 64, width: int = 16) -> None:
        super().__init__()
        at_least(1, in_chans=in_chans, outputs=outputs, width=width)
        multiple_of(8, image_size=image_size)
        channels = (in_chans, width, 2 * width, 4 * width)
        layers: list[nn.Module] = []
        for inputs, own in pairwise(channels):
            layers += [nn.Conv2d(inputs, own, 4, stride=2, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.projection = nn.Linear(channels[-1] * (image_size // 8) ** 2, outputs)

    def get_classifier(self) -> nn.Module:
        """Returns the projection, under timm's name for a last layer."""
        return self.projection

    def forward_features(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to what goes into the projection."""
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Projects features, or returns them with ``pre_logits``."""
        return x if pre_logits else self.projection(x)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) to embeddings (B, outputs)."""
        return self.projection(self.features(x))


class Unchanged(nn.Module):
    """Its input as a vector; of images the largest channel of each pixel.

    Hues are lost: it is the baseline of shapes and places.
    """

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Identity()

    def get_classifier(self) -> nn.Module:
        """Returns the projection, which does nothing."""
        return self.projection

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, H, W) or (B, d) to (B, H W) or (B, d)."""
        return self.projection(x.amax(1).flatten(1) if x.ndim == 4 else x.flatten(1))


def build_encoder(config: ImageEncoderConfig, image_size: int, in_chans: int = 3) -> nn.Module:
    """Builds an encoder, with random weights if there is no file.

    Args:
        config: The encoder.
        image_size: Side of the images in pixels.
        in_chans: Channels of the images.

    Raises:
        UserError: there is no such encoder, or the file does not fit.
    """
    one_of(get_args(Features), **{"encoder.features": config.features})
    at_least(0 if config.name not in PLAIN else 1, **{"encoder.outputs": config.outputs})
    if config.name == "conv":
        net: nn.Module = ConvEncoder(image_size, in_chans, config.outputs, **config.args)
    elif config.name in PLAIN:
        if config.weights is not None:
            raise UserError(f"encoder.weights: {config.weights!r} is not accepted; {config.name!r} has no weights")
        net = Unchanged()
    else:
        net = build_backbone(config.name, config.outputs, image_size, in_chans, backbone_args=config.args)
    if config.weights is not None:
        load_weights(net, config.weights, "if_fits")
    return net


def embeddings_of(net: nn.Module, x: Tensor, features: Features) -> Tensor:
    """Returns embeddings (B, d) of images.

    Args:
        net: The encoder.
        x: Its inputs.
        features: ``pre`` the projection, where the encoder has timm's methods, or ``post`` it.
    """
    if features == "pre" and hasattr(net, "forward_features"):
        return net.forward_head(net.forward_features(x), pre_logits=True).flatten(1)  # type: ignore[operator]
    return net(x).flatten(1)


@torch.no_grad()
def embedding_size(net: nn.Module, features: Features, image_size: int, in_chans: int) -> int:
    """Returns d of an encoder of images, by one image of zeros.

    Args:
        net: The encoder.
        features: As in :func:`embeddings_of`.
        image_size: Side of the images in pixels.
        in_chans: Channels of the images.
    """
    training = net.training
    found = embeddings_of(net.eval(), torch.zeros(1, in_chans, image_size, image_size), features).shape[1]
    net.train(training)
    return found


def open_encoder(text: str, image_size: int, in_chans: int = 3, seed: int = 0) -> nn.Module:
    """Returns the encoder that a command line names.

    Args:
        text: ``pixels``, ``conv``, ``timm:NAME``, ``timm:NAME:FILE`` with local weights, or ``run:PATH``, a run folder
            or a checkpoint of this project.
        image_size: Side of the images in pixels.
        in_chans: Channels of the images.
        seed: Seed of random weights.

    Raises:
        UserError: there is no such encoder, or a file does not fit.
    """
    from framework.data.seeding import seeded

    kind, _, rest = text.partition(":")
    if kind == "run" and rest:
        return open_model(rest)
    with seeded(seed):
        if kind in ("pixels", "conv") and not rest:
            return build_encoder(ImageEncoderConfig(kind), image_size, in_chans)
        if kind == "timm" and rest:
            name, _, file = rest.partition(":")
            return build_encoder(ImageEncoderConfig(name, 0, "pre", file or None), image_size, in_chans)
    raise UserError(f"encoders: {text!r} is not accepted; pixels, conv, timm:NAME, timm:NAME:FILE or run:PATH")
