"""The auxiliary network: a vision transformer whose layers are all computed from one base and one slope."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from framework.errors import UserError
from framework.functional.learngene import layers
from framework.settings import at_least

# Tokens are normalised, then averaged: the same order for the auxiliary network and its expansions.
POOLING = {"class_token": False, "global_pool": "avg", "fc_norm": False}


class LinearBlocks(nn.Module):
    """``depth`` transformer blocks that share two blocks' worth of weights: block i has base + (i/depth) slope.

    The slope is initialised like the base, except for its norms, which are 0, so that every layer starts with norms of
    weight 1.

    Args:
        block: The base; its values are kept.
        depth: L.

    Raises:
        UserError: the depth is below 1.
    """

    def __init__(self, block: nn.Module, depth: int) -> None:
        super().__init__()
        at_least(1, depth=depth)
        self.depth = depth
        self.base = block
        self.slope = copy.deepcopy(block)
        for part in self.slope.modules():
            if isinstance(part, nn.LayerNorm):
                nn.init.zeros_(part.weight), nn.init.zeros_(part.bias)
            elif isinstance(part, nn.Linear):
                nn.init.trunc_normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Maps tokens ``(B, N, D)`` to tokens ``(B, N, D)`` through all layers."""
        stacks = layers(dict(self.base.named_parameters()), dict(self.slope.named_parameters()), self.depth)
        unbound = {name: stack.unbind(0) for name, stack in stacks.items()}
        for i in range(self.depth):
            x = functional_call(self.base, {name: tensors[i] for name, tensors in unbound.items()}, (x,))
        return x

    @contextlib.contextmanager
    def at_depth(self, depth: int) -> Iterator[None]:
        """A context manager that sets the number of layers: the output of the untrained expansion to that depth."""
        before, self.depth = self.depth, depth
        try:
            yield
        finally:
            self.depth = before


def vit_arguments(arguments: dict[str, Any] | None, depth: int) -> dict[str, Any]:
    """Arguments of timm's vision transformer: :data:`POOLING`, updated by the given ones, and the depth.

    Raises:
        UserError: the given arguments contain a depth.
    """
    given = dict(arguments or {})
    if "depth" in given:
        raise UserError(f"backbone_args.depth: {given['depth']} is not accepted here; give depth")
    return {**POOLING, **given, "depth": depth}


def share_blocks(model: Any, depth: int) -> nn.Module:
    """Turns a vision transformer of one layer into an auxiliary network, in place.

    Raises:
        UserError: it is no such transformer, or the depth is below 1.
    """
    blocks = getattr(model, "blocks", None)
    if not isinstance(blocks, nn.Sequential) or not isinstance(getattr(model, "patch_embed", None), nn.Module):
        raise UserError(
            f"backbone: a {type(model).__name__} is not accepted; a vision transformer, such as vit_small_patch16_224"
        )
    model.blocks = LinearBlocks(blocks[0], depth)
    return model


def expanded_logits(model: nn.Module, x: Tensor, depth: int) -> Tensor:
    """Logits of an auxiliary network's expansion to another depth.

    Args:
        model: The model from :func:`auxiliary`.
        x: Images ``(B, C, H, W)``.
        depth: Layers.
    """
    blocks = model.blocks
    assert isinstance(blocks, LinearBlocks)
    with blocks.at_depth(depth), torch.no_grad():
        return model(x)
