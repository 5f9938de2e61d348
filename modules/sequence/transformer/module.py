"""A decoder with softmax attention."""

from __future__ import annotations

from torch import nn

from framework import OptimizerConfig, ScheduleConfig
from framework.settings import above, at_least
from modules.language_model import Generation
from modules.sequence.attention import SoftmaxAttention
from modules.sequence.decoder import Decoder, DecoderBlock, DecoderLM, SwiGLU, mlp_width


class TransformerLM(DecoderLM):
    """A causal language model with softmax attention.

    Args:
        vocab_size: Tokens.
        d_model: Width.
        n_layers: Blocks.
        n_heads: Heads of the queries.
        n_kv_heads: Heads of keys and values, a divisor of ``n_heads``; as many by default.
        hidden: Width within the MLP; 8/3 of ``d_model`` rounded up to a multiple of 16 by default.
        rope_base: Base of the rotary positions.
        tie_embeddings: Whether the head is the embedding's transpose.
        init_std: Standard deviation that all weight matrices are drawn with.
        generation: How ``predict`` continues sequences.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        d_model: int = 128,
        n_layers: int = 4,
        n_heads: int = 4,
        n_kv_heads: int | None = None,
        hidden: int | None = None,
        rope_base: float = 10000.0,
        tie_embeddings: bool = False,
        init_std: float = 0.02,
        generation: Generation = Generation(),
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(vocab_size, generation, optimizer, schedule)
        at_least(1, d_model=d_model, n_layers=n_layers, n_heads=n_heads, n_kv_heads=n_kv_heads, hidden=hidden)
        above(0, rope_base=rope_base)
        at_least(0, init_std=init_std)
        self.save_hyperparameters()
        width = mlp_width(d_model, hidden)
        blocks = [
            DecoderBlock(
                SoftmaxAttention(d_model, n_heads, n_kv_heads, rope_base),
                SwiGLU(d_model, width),
                lambda: nn.RMSNorm(d_model, eps=1e-6),
            )
            for _ in range(n_layers)
        ]
        for module in (layer for block in blocks for layer in block.modules() if isinstance(layer, nn.Linear)):
            nn.init.normal_(module.weight, std=init_std)
        norm = nn.RMSNorm(d_model, eps=1e-6)
        self.decoder = Decoder(vocab_size, d_model, blocks, norm, tie_embeddings, init_std)
