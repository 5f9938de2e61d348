"""The hypernetwork: from graphs to all weights of their networks.

Paper: LoGAH (Zhou, Knyazev, Jolicoeur-Martineau, Fu 2024, arXiv 2405.16287).

What the decoder predicts is brought to a size that networks train from:

- ``fan_in`` (vision): weights times √(β / fan_in), β = 2, or 1 where a kernel is lower than wide or each channel has
  its own; positions as they are,
- ``std`` (GPT-2): weights p / (std(p) + 1e-7) · 0.02; embeddings as they are,
- scales of norms 2 sigmoid(p / 2), in (0, 2); shifts and biases tanh(p / 5), in (−1, 1).

Both rows of one prediction of size (2c, 1) are scale and shift of c channels; a bias is its second row. Class tokens
and their positions are drawn from N(0, 0.02²).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from framework.settings import one_of
from modules.initialization.logah.decoder import LowRankDecoder
from modules.initialization.logah.encoder import GraphEncoder
from modules.initialization.logah.graph import Graph, Node, Slot

Normalise = Literal["fan_in", "std"]
# d, r, layers, heads of the published sizes; ck is 32,768.
SIZES = {"tiny": (64, 32, 3, 8), "small": (128, 90, 5, 16), "base": (256, 128, 5, 16), "large": (256, 256, 12, 16)}
TOKEN_STD = 0.02
GPT_STD = 0.02


@dataclass(frozen=True)
class _Wish:
    """A parameter to predict: of which graph and node, and how."""

    graph: int
    node: int
    slot: Slot


class HyperNetwork(nn.Module):
    """Predicts the weights of networks from their graphs.

    Args:
        dim: Width d of the embeddings.
        rank: Rank r of the predicted matrices.
        layers: Layers of the encoder.
        heads: Its attention heads.
        size: ck, the most rows and columns of a matrix without tiling.
        normalise: ``fan_in`` or ``std``.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        dim: int = 64,
        rank: int = 32,
        layers: int = 3,
        heads: int = 8,
        size: int = 32768,
        normalise: Normalise = "fan_in",
    ) -> None:
        super().__init__()
        one_of(("fan_in", "std"), normalise=normalise)
        self.normalise = normalise
        self.encoder = GraphEncoder(dim, layers, heads)
        self.decoder = LowRankDecoder(dim, rank, size)

    def forward(self, graphs: Sequence[Graph], generator: torch.Generator | None = None) -> list[dict[str, Tensor]]:
        """Returns the parameters of each graph's network by name, each once.

        Args:
            graphs: The graphs.
            generator: For class tokens and their positions; the global one by default.
        """
        found: list[dict[str, Tensor]] = [{} for _ in graphs]
        embeddings = self.encoder(self.encoder.batch(graphs))
        for shape, wishes in by_size(graphs).items():
            x = embeddings[[wish.graph for wish in wishes], [wish.node for wish in wishes]]
            # under autocast too, predictions have the type that a network's own parameters would have
            weights = self.decoder(x, shape).to(self.decoder.wide.weight.dtype)
            for wish, weight in zip(wishes, weights, strict=True):
                found[wish.graph][wish.slot.name] = self._fitted(weight, wish.slot, graphs[wish.graph].nodes[wish.node])
        for number, graph in enumerate(graphs):
            for _, slot in graph.slots:
                if slot.role == "token":
                    drawn = torch.randn(slot.shape, generator=generator) * TOKEN_STD
                    found[number][slot.name] = drawn.to(self.decoder.wide.weight)
                elif slot.role == "position" and _has_class(slot.shape):
                    value = found[number][slot.name]
                    drawn = torch.randn(value[..., :1, :].shape, generator=generator) * TOKEN_STD
                    found[number][slot.name] = torch.cat([drawn.to(value), value[..., 1:, :]], -2)
        return found

    def _fitted(self, weight: Tensor, slot: Slot, node: Node) -> Tensor:
        """A predicted weight (c_out, c_in, k_h, k_w), or (2c, 1, 1, 1), as the parameter that it is for."""
        if slot.role in ("scale", "shift", "bias"):
            scale, shift = weight.flatten().view(2, -1)
            fitted = 2 * torch.sigmoid(0.5 * scale) if slot.role == "scale" else torch.tanh(0.2 * shift)
            return fitted.reshape(slot.shape)
        if slot.role == "position":
            return _positions(weight[0], slot.shape)
        if slot.role == "embedding":
            return weight[:, :, 0, 0]
        if self.normalise == "fan_in":
            weight = weight * math.sqrt(gain(node) / fan_in(node))
        else:
            weight = weight / (weight.std(correction=0) + 1e-7) * GPT_STD
        if len(slot.shape) == 2:
            weight = weight[:, :, 0, 0]
            return weight.T if slot.transposed else weight
        return weight.reshape(slot.shape)


def fan_in(node: Node) -> int:
    """Returns the inputs of a unit times the kernel's size."""
    return node.shape[1] * node.shape[2] * node.shape[3]


def gain(node: Node) -> float:
    """Returns β: 1 for kernels that are lower than wide, and for one input channel a group; else 2."""
    _, inner, height, width = node.shape
    return 1.0 if height < width or (node.groups > 1 and inner == 1) else 2.0


def _has_class(shape: Sequence[int]) -> bool:
    """Whether position embeddings (…, N, D) are those of a class token and of a square of patches."""
    return math.isqrt(shape[-2]) ** 2 == shape[-2] - 1


def _positions(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Position embeddings (…, N, D) from (D, s, s), s = ⌊√N⌋; what N has beyond s² repeats the last ones, in front."""
    count, width = shape[-2:]
    flat = weight.flatten(1).T  # (s², D)
    index = torch.arange(count, device=weight.device)
    extra = count - len(flat)
    index = (index - extra) % len(flat)
    return flat[index].view(*shape[:-2], count, width)


def by_size(graphs: Sequence[Graph]) -> Mapping[tuple[int, int, int, int], list[_Wish]]:
    """Returns what is to be predicted by the size of the prediction, in the order of the graphs.

    Args:
        graphs: The graphs.
    """
    found: dict[tuple[int, int, int, int], list[_Wish]] = defaultdict(list)
    for number, graph in enumerate(graphs):
        for place, slot in graph.slots:
            if slot.role == "token":
                continue
            found[predicted_shape(graph.nodes[place], slot)].append(_Wish(number, place, slot))
    return found


def predicted_shape(node: Node, slot: Slot) -> tuple[int, int, int, int]:
    """Returns the size (c_out, c_in, k_h, k_w) of the prediction that a parameter is made of.

    Args:
        node: The operation.
        slot: Its parameter.
    """
    return (2 * math.prod(slot.shape), 1, 1, 1) if slot.role in ("scale", "shift", "bias") else node.shape
