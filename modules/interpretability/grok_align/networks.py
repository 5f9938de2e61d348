"""The networks of GrokAlign (Walker et al. 2025, arXiv 2506.12284); without biases ReLU nets are homogeneous."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.settings import above, at_least, divides, multiple_of


class BiasFreeMLP(nn.Module):
    """Linear layers with ReLU between, without biases; the weights start as ``scale`` times PyTorch's own draw.

    Args:
        inputs: d, numbers per sample; inputs of any shape are flattened.
        hidden: Widths of the hidden layers.
        outputs: C.
        scale: Factor on all weights at the start; a large one delays generalisation.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(self, inputs: int, hidden: list[int], outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        at_least(1, inputs=inputs, hidden=hidden, outputs=outputs)
        above(0, scale=scale)
        sizes = list(pairwise([inputs, *hidden, outputs]))
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in sizes)
        with torch.no_grad():
            for weight in self.parameters():
                weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, …) to (B, C)."""
        x = x.flatten(1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class BiasFreeConvNet(nn.Module):
    """Six 3x3 convolutions (w, w/2, 2w, 2w/2, 4w, 4w/2: the second of each pair halves the side), two average pools and
    two linear layers, with ReLU between and without biases; He's initialisation (``fan_out``).

    Args:
        image_size: Side of the images in pixels; a multiple of 32.
        channels: Of the images.
        width: w; the authors' 32.
        hidden: Width of the hidden linear layer.
        outputs: C.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self, image_size: int = 32, channels: int = 3, width: int = 32, hidden: int = 128, outputs: int = 10
    ) -> None:
        super().__init__()
        at_least(1, channels=channels, width=width, hidden=hidden, outputs=outputs)
        multiple_of(32, image_size=image_size)
        widths = [width, width, 2 * width, 2 * width, 4 * width, 4 * width]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=1 + number % 2, padding=1, bias=False)
            for number, (a, b) in enumerate(pairwise([channels, *widths]))
        )
        self.pool = nn.AvgPool2d(2)
        self.linear = nn.Linear(4 * width * (image_size // 32) ** 2, hidden, bias=False)
        self.head = nn.Linear(hidden, outputs, bias=False)
        for weight in self.parameters():
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, channels, S, S) to (B, C)."""
        for number, layer in enumerate(self.convolutions):
            x = F.relu(layer(x))
            if number in (3, 5):
                x = self.pool(x)
        return self.head(F.relu(self.linear(x.flatten(1))))


class LastTokenTransformer(nn.Module):
    """One transformer layer without layer norm, whose logits are those of the last position.

    Attention is causal and has no biases; the perceptron has ReLU and biases. Weights start as N(0, 1/d_model), those
    of the last layer as N(0, 1/vocabulary).

    Args:
        vocabulary: Number of tokens.
        length: Tokens in a sequence.
        outputs: C, classes.
        d_model: Width of the residual stream.
        heads: Attention heads, a divisor of ``d_model``.
        hidden: Width of the perceptron.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self, vocabulary: int, length: int, outputs: int, d_model: int = 128, heads: int = 4, hidden: int = 512
    ) -> None:
        super().__init__()
        at_least(1, vocabulary=vocabulary, length=length, outputs=outputs, d_model=d_model, hidden=hidden)
        divides({"d_model": d_model}, heads=heads)
        self.heads = heads
        self.embed = nn.Embedding(vocabulary, d_model)
        self.positions = nn.Parameter(torch.empty(length, d_model))
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        self.up, self.down = nn.Linear(d_model, hidden), nn.Linear(hidden, d_model)
        self.head = nn.Linear(d_model, outputs, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=1 / math.sqrt(vocabulary if name == "head.weight" else d_model))

    def forward(self, tokens: Tensor) -> Tensor:
        """Maps tokens (B, T) to logits (B, C)."""
        x = self.embed(tokens) + self.positions
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        # of the last position alone, which attends to all
        mixed = F.scaled_dot_product_attention(q[:, :, -1:], k, v).transpose(1, 2).flatten(2)[:, 0]
        last = x[:, -1] + self.out(mixed)
        return self.head(last + self.down(F.relu(self.up(last))))
