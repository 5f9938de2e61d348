"""Families of architectures: perceptrons, vision transformers and GPT-2, drawn at random for the training.

Paper: LoGAH (Zhou, Knyazev, Jolicoeur-Martineau, Fu 2024, arXiv 2405.16287), the generators of ViTs-1K and GPTs-1K.

- ``vit``: 3 to 9 blocks; widths of 384 to 512 with 3 blocks, 256 to 384 with 4 or 5, 128 to 256 with more, in steps of
  32; 3, 6 or 12 heads where they divide the width, else 4 or 8.
- ``gpt2``: 3 to 9 blocks; widths of 176 to 256 with 3 blocks, 128 to 176 with 4 or 5, 72 to 176 with more, in steps of
  8; 8 heads; the head is not tied to the embedding; at most 50 million parameters.
- ``mlp``: 1 to 3 hidden layers of 32 to 128 units in steps of 8, without biases.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import nn

from framework.errors import UserError
from framework.settings import at_least, one_of
from modules.vision.mlp import MLP

_PERCEPTRON = (
    nn.Linear,
    nn.ReLU,
    nn.GELU,
    nn.Tanh,
    nn.SiLU,
    nn.Flatten,
    nn.Dropout,
    nn.Identity,
    nn.LayerNorm,
    nn.BatchNorm1d,
)

Family = Literal["mlp", "vit", "gpt2"]
Shape = Mapping[str, Any]  # what one architecture is built from: plain data
_STEPS = {"mlp": 8, "vit": 32, "gpt2": 8}  # distance of two widths
LARGEST = 50_000_000  # parameters of a GPT of the paper's set


@dataclass(frozen=True)
class Space:
    """The architectures of a training.

    Attributes:
        family: ``mlp``, ``vit`` or ``gpt2``.
        layers: Fewest and most hidden layers or blocks; by default the family's.
        widths: Smallest and largest width; by default they depend on the number of layers as in the paper.
        step: Distance of two widths; by default the family's.
        heads: Heads to choose from, those that divide the width; by default as in the paper, or 1 where none divides.
        patch_size: Sides of patches of ``vit`` to choose from.
        bias: Whether perceptrons have biases.
        file: Table of architectures to take instead, see :mod:`modules.initialization.logah.shapes`.

    Raises:
        UserError: a number is not accepted.
    """

    family: Family = "mlp"
    layers: tuple[int, int] | None = None
    widths: tuple[int, int] | None = None
    step: int | None = None
    heads: tuple[int, ...] | None = None
    patch_size: tuple[int, ...] = (2,)
    bias: bool = False
    file: str | None = None

    def __post_init__(self) -> None:
        one_of(get_args(Family), **{"architectures.family": self.family})
        at_least(1, **{"architectures.step": self.step})
        for name in ("layers", "widths", "heads", "patch_size"):
            value = getattr(self, name)
            if value is not None:
                at_least(1, **{f"architectures.{name}": list(value)})
                object.__setattr__(self, name, tuple(value))
        for name in ("layers", "widths"):
            value = getattr(self, name)
            if value is not None and (len(value) != 2 or value[0] > value[1]):
                raise UserError(f"architectures.{name}: {list(value)} is not accepted; the smallest and the largest")
        if self.heads and self.widths and self.family != "mlp":
            for width in range(self.widths[0], self.widths[1] + 1, self.step or _STEPS[self.family]):
                if all(width % heads for heads in self.heads):
                    raise UserError(f"architectures.heads: none of {list(self.heads)} divides the width {width}")


@dataclass(frozen=True)
class Task:
    """What the networks are for.

    Attributes:
        num_classes: Classes, or the vocabulary's size.
        channels: Channels of images.
        image_size: Side of images.
        length: Tokens of a text.

    Raises:
        UserError: a number is below 1.
    """

    num_classes: int = 10
    channels: int = 1
    image_size: int = 8
    length: int = 64

    def __post_init__(self) -> None:
        at_least(1, **{f"task.{name}": value for name, value in vars(self).items()})


def draw(space: Space, task: Task, seed: int) -> dict[str, Any]:
    """Returns the shape of an architecture, plain data, from a seed.

    Args:
        space: What can be drawn.
        task: What it is for.
        seed: Of the draw.

    Raises:
        UserError: a hundred draws of a GPT-2 had more than 50 million parameters each.
    """
    generator = random.Random(seed)
    low, high = space.layers or ((1, 3) if space.family == "mlp" else (3, 9))
    for _ in range(100):
        layers = generator.randint(low, high)
        smallest, largest = space.widths or _widths(space.family, layers)
        step = space.step or _STEPS[space.family]
        choices = range(smallest, largest + 1, step)
        if space.family == "mlp":
            return {"widths": [generator.choice(choices) for _ in range(layers)], "bias": space.bias}
        width = generator.choice(choices)
        heads = generator.choice([n for n in space.heads or _heads(space.family, width) if width % n == 0] or [1])
        if space.family == "vit":
            return {"depth": layers, "width": width, "heads": heads, "patch_size": generator.choice(space.patch_size)}
        if 12 * layers * width**2 + (2 * task.num_classes + task.length) * width <= LARGEST:
            return {"depth": layers, "width": width, "heads": heads}
    raise UserError(f"architectures.widths: every network would have more than {LARGEST:,} parameters")


def _widths(family: Family, layers: int) -> tuple[int, int]:
    if family == "mlp":
        return 32, 128
    row = 0 if layers <= 3 else 1 if layers <= 5 else 2
    return (((384, 512), (256, 384), (128, 256)) if family == "vit" else ((176, 256), (128, 176), (72, 176)))[row]


def _heads(family: Family, width: int) -> tuple[int, ...]:
    if family == "gpt2":
        return (8,)
    found = tuple(n for n in (3, 6, 12) if width % n == 0)
    return found or (4, 8)


def build(family: Family, task: Task, shape: Shape) -> nn.Module:
    """Returns the network of a shape; under ``torch.device("meta")`` without memory.

    Args:
        family: Of the network.
        task: What it is for.
        shape: As :func:`draw` returns it.
    """
    if family == "mlp":
        sizes = [task.channels * task.image_size**2, *shape["widths"]]
        layers: list[nn.Module] = [nn.Flatten()]
        for inner, out in pairwise(sizes):
            layers += [nn.Linear(inner, out, bias=shape["bias"]), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(sizes[-1], task.num_classes, bias=shape["bias"]))
    if family == "vit":
        from timm.models.vision_transformer import VisionTransformer

        return VisionTransformer(
            img_size=task.image_size,
            patch_size=shape["patch_size"],
            in_chans=task.channels,
            num_classes=task.num_classes,
            embed_dim=shape["width"],
            depth=shape["depth"],
            num_heads=shape["heads"],
            weight_init="skip",
        )
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=task.num_classes,
        n_positions=task.length,
        n_embd=shape["width"],
        n_layer=shape["depth"],
        n_head=shape["heads"],
        tie_word_embeddings=False,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return GPT2LMHeadModel(config)


@dataclass(frozen=True)
class Known:
    """A network of a known family, and inputs that it takes.

    Attributes:
        family: Of the network.
        args: Inputs on its device.
        kwargs: Named ones.
    """

    family: Family
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def recognise(net: nn.Module) -> Known | None:
    """Returns the family of a network, and inputs for it: ViTs of timm and torchvision, GPT-2, MLPs (``Sequential``
    ones and the backbone ``mlp``).

    Args:
        net: The network.
    """
    first = next(net.parameters(), torch.empty(0))
    like: Any = {"device": first.device, "dtype": first.dtype}
    names = {f"{kind.__module__}.{kind.__name__}" for kind in type(net).__mro__}
    if "timm.models.vision_transformer.VisionTransformer" in names:
        patches: Any = net.patch_embed
        return Known("vit", (torch.zeros(1, patches.proj.in_channels, *patches.img_size, **like),))
    if "torchvision.models.vision_transformer.VisionTransformer" in names:
        side: Any = net.image_size
        return Known("vit", (torch.zeros(1, net.conv_proj.in_channels, side, side, **like),))  # type: ignore[union-attr,arg-type]
    if "transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel" in names:
        config: Any = net.config
        length = min(8, config.n_positions)
        return Known("gpt2", (torch.zeros(1, length, dtype=torch.long, device=first.device),), {"use_cache": False})
    if type(net) is MLP:
        inner: Any = net.layers[0].in_features
        return Known("mlp", (torch.zeros(1, inner, **like),))
    if isinstance(net, nn.Sequential):
        layers = [layer for layer in net if isinstance(layer, nn.Linear)]
        if layers and all(type(layer) in _PERCEPTRON for layer in net):
            return Known("mlp", (torch.zeros(1, layers[0].in_features, **like),))
    return None
