"""Blocks with a memory parallel to the FFN, and the decoder made of them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import BoolTensor, Tensor, nn

from framework.errors import UserError
from framework.settings import at_least, between, not_empty
from modules.sequence.attention import SoftmaxAttention
from modules.sequence.decoder import Decoder, SwiGLU
from modules.sequence.ultramem_v2.initialisation import draw_block
from modules.sequence.ultramem_v2.layers import MemoryConfig, MemoryLayer, build_memory
from modules.sequence.ultramem_v2.tables import ValueTable


class MemoryBlock(nn.Module):
    """``h = x + Attn(norm x)``, ``z = norm(h)``, ``h + FFN(z) + Mem(z)``: the memory has the FFN's input.

    Args:
        d_model: D.
        n_heads: Number of attention heads.
        hidden: Inner width of the FFN.
        memory: The memory layer; ``None`` for an ordinary block.
    """

    def __init__(self, d_model: int, n_heads: int, hidden: int, memory: nn.Module | None = None) -> None:
        super().__init__()
        self.mixer_norm, self.mixer = nn.RMSNorm(d_model, eps=1e-6), SoftmaxAttention(d_model, n_heads)
        self.mlp_norm, self.mlp = nn.RMSNorm(d_model, eps=1e-6), SwiGLU(d_model, hidden)
        self.memory = memory

    def _feed(self, h: Tensor) -> Tensor:
        z = self.mlp_norm(h)
        h = h + self.mlp(z)
        return h if self.memory is None else h + self.memory(z).to(h.dtype)

    def forward(self, x: Tensor, mask: BoolTensor | None = None) -> Tensor:
        """Maps (B, T, D) to the same shape; ``mask`` (B, T) is false at padding."""
        return self._feed(x + self.mixer(self.mixer_norm(x), mask))

    def extend(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Returns the same on the tokens that follow ``state``."""
        y, state = self.mixer.extend(self.mixer_norm(x), state)
        return self._feed(x + y), state


class MemorySpan(nn.Module):
    """Blocks with one memory: its input is the first block's output, and it is added after the last block (UltraMem).

    Args:
        blocks: The blocks in order.
        memory: The memory layer.
        d_model: D.
    """

    def __init__(self, blocks: Sequence[MemoryBlock], memory: nn.Module, d_model: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.norm, self.memory = nn.RMSNorm(d_model, eps=1e-6), memory

    def forward(self, x: Tensor, mask: BoolTensor | None = None) -> Tensor:
        """Maps (B, T, D) to the same shape; ``mask`` (B, T) is false at padding."""
        added: Tensor | None = None
        for block in self.blocks:
            x = block(x, mask)
            added = self.memory(self.norm(x)) if added is None else added
        assert added is not None
        return x + added.to(x.dtype)

    def extend(self, x: Tensor, state: Sequence[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Returns the same on the tokens that follow ``state``, one entry a block."""
        after: list[Any] = []
        added: Tensor | None = None
        for index, block in enumerate(self.blocks):
            extending: Any = block
            x, then = extending.extend(x, None if state is None else state[index])
            after.append(then)
            added = self.memory(self.norm(x)) if added is None else added
        assert added is not None
        return x + added.to(x.dtype), after


def memory_decoder(
    vocab_size: int,
    d_model: int,
    n_layers: int,
    n_heads: int,
    hidden: int,
    config: MemoryConfig,
    memory_layers: Sequence[int] | None = None,
    span: int = 4,
    tie_embeddings: bool = False,
    sparse: bool = False,
    boost: tuple[float, float] = (1.0, 1.0),
) -> tuple[Decoder, ValueTable | None, list[MemoryLayer]]:
    """Returns a decoder with memories, their table, and the memory layers in order.

    Args:
        vocab_size: Tokens.
        d_model: D.
        n_layers: L, blocks.
        n_heads: Number of attention heads.
        hidden: Inner width of the FFN.
        config: Settings of the memories.
        memory_layers: Numbers of the blocks with a memory, from 0; by default all. For ``ultramem`` the blocks whose
            output its memories read, by default every ``span``-th from 1.
        span: For ``ultramem``: number of blocks from the one that a memory reads to the one after which it is added,
            including both; fewer at the end.
        tie_embeddings: Whether the head is the embedding's transpose.
        sparse: Whether the table's gradients are sparse.
        boost: See :class:`modules.sequence.ultramem_v2.tables.MemoryRows`.

    Raises:
        UserError: a setting is not accepted.
    """
    config.check()
    skips = config.kind == "ultramem"
    usual = range(min(1, n_layers - 1), n_layers, span) if skips else range(n_layers)
    places = sorted(usual if memory_layers is None else set(memory_layers))
    if config.kind == "none":
        places = []
    not_empty(memory_layers=memory_layers)
    between(0, n_layers - 1, memory_layers=memory_layers)
    at_least(1, memory_span=span)
    if skips and any(b - a < span for a, b in pairwise(places)):
        raise UserError(f"memory_layers: {places} are not {span} blocks apart (memory_span)")
    table: ValueTable | None = None
    memories: list[MemoryLayer] = []
    if places:
        table, memories = build_memory(config, d_model, hidden, len(places), n_layers, sparse, boost)
    beside = {} if skips else dict(zip(places, memories, strict=True))
    plain = [MemoryBlock(d_model, n_heads, hidden, beside.get(index)) for index in range(n_layers)]
    for block in plain:
        draw_block(block.mixer, block.mlp, d_model, n_layers)
    blocks: list[nn.Module] = list(plain)
    if skips:
        for place, memory in reversed(list(zip(places, memories, strict=True))):
            blocks[place : place + span] = [MemorySpan(plain[place : place + span], memory, d_model)]
    norm = nn.RMSNorm(d_model, eps=1e-6)
    return Decoder(vocab_size, d_model, blocks, norm, tie_embeddings), table, memories
