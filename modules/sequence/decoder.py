"""The decoder of a language model: embedding, blocks of a token mixer and an MLP, head; with step-by-step decoding.

A *mixer* is a module ``(x, mask=None) -> y`` on (B, T, D) whose output for a token depends on earlier ones. Its method
``extend(x, state) -> (y, state)`` continues from a state (``None`` at the start) by any number of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import BoolTensor, Tensor, nn

from modules.language_model import LanguageModel


def mlp_width(d_model: int, hidden: int | None = None) -> int:
    """``hidden``; by default 8/3 of ``d_model`` rounded up to a multiple of 16."""
    return hidden or -(-8 * d_model // 48) * 16


class SwiGLU(nn.Module):
    """(SiLU(x W_gate) ⊙ x W_up) W_down (Shazeer 2020, arXiv 2002.05202), in Llama's layout.

    Args:
        d_model: Width of the input and the output.
        hidden: Inner width.
    """

    def __init__(self, d_model: int, hidden: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, hidden, bias=False)
        self.up_proj = nn.Linear(d_model, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (…, d_model) to the same shape."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderBlock(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)).

    Args:
        mixer: Mixes each token with earlier ones.
        mlp: Applied to each token.
        norm: Returns one of the two norms.
    """

    def __init__(self, mixer: nn.Module, mlp: nn.Module, norm: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.mixer_norm, self.mixer = norm(), mixer
        self.mlp_norm, self.mlp = norm(), mlp

    def forward(self, x: Tensor, mask: BoolTensor | None = None) -> Tensor:
        """Maps (B, T, D) to the same shape; ``mask`` (B, T) is false at padding."""
        x = x + self.mixer(self.mixer_norm(x), mask)
        return x + self.mlp(self.mlp_norm(x))

    def extend(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Returns the same on the tokens that follow ``state``."""
        mixer: Any = self.mixer
        y, state = mixer.extend(self.mixer_norm(x), state)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), state


class Decoder(nn.Module):
    """Embeds tokens, applies blocks, norm and head.

    Args:
        vocab_size: Tokens.
        d_model: Width.
        blocks: Modules ``(x, mask)`` with ``extend(x, state)``, as :class:`DecoderBlock`.
        norm: Norm before the head.
        tie_embeddings: Whether the head is the embedding's transpose.
        init_std: Standard deviation of the initial embedding and head.
        embedding_scale: Factor on the embedding's output.
    """

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        tie_embeddings: bool = False,
        init_std: float = 0.02,
        embedding_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=init_std)
        nn.init.normal_(self.head.weight, std=init_std)
        if tie_embeddings:
            self.head.weight = self.embedding.weight
        self.embedding_scale = embedding_scale

    def embed(self, input_ids: Tensor) -> Tensor:
        """Tokens (B, T) to (B, T, D)."""
        x = self.embedding(input_ids)
        return x if self.embedding_scale == 1 else x * self.embedding_scale

    def forward(self, input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps tokens (B, T) to logits (B, T, vocab_size); ``mask`` (B, T) is false or 0 at padding."""
        x = self.embed(input_ids)
        mask = None if mask is None else mask.bool()
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))

    def extend(self, input_ids: Tensor, state: Sequence[Any] | None = None) -> tuple[Tensor, list[Any]]:
        """Logits of the tokens (B, T) that follow ``state``, and the state after them, one entry a block."""
        x = self.embed(input_ids)
        after = []
        for index, block in enumerate(self.blocks):
            extended: Any = block
            x, then = extended.extend(x, None if state is None else state[index])
            after.append(then)
        return self.head(self.norm(x)), after


class DecoderLM(LanguageModel):
    """A language model that is a :class:`Decoder`, which a subclass creates as ``self.decoder``."""

    decoder: Decoder

    def get_classifier(self) -> nn.Module:
        """Returns the output layer, under timm's name for it: techniques do not adapt or split it."""
        return self.decoder.head

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Maps tokens (B, T) to logits (B, T, vocab_size)."""
        return self.decoder(input_ids, attention_mask)

    def extend(self, input_ids: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits of the tokens that follow ``state``, and the state after them."""
        return self.decoder.extend(input_ids, state)


def state_bytes(state: Any) -> int:
    """Bytes of the tensors in a decoding state."""
    if isinstance(state, Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        state = list(state.values())
    return sum(map(state_bytes, state)) if isinstance(state, list | tuple) else 0
