"""TransNormerLLM as a LightningModule."""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import nn

from framework import OptimizerConfig, ScheduleConfig
from framework.settings import at_least, one_of
from modules.language_model import Generation
from modules.sequence.decoder import Decoder, DecoderBlock, DecoderLM, mlp_width
from modules.sequence.lightning_attention.attention import Form, Slopes, layer_slopes
from modules.sequence.lightning_attention.layer import LightningAttention, SimpleGLU, SRMSNorm


class TransNormerLM(DecoderLM):
    """A causal language model of gated linear attention with decay.

    Args:
        vocab_size: Tokens.
        d_model: Width.
        n_layers: L, blocks.
        n_heads: H.
        hidden: Width within the gated units; 8/3 of ``d_model`` rounded up to a multiple of 16 by default.
        slopes: Decays: ``alibi`` as the released models have them, ``tnl_paper`` as the paper says, ``none``.
        lrpe: Whether the first layer's queries and keys carry positions.
        form: How attention is computed: ``auto``, ``tiled``, ``triton``, ``left_product`` (n², for comparison).
        block: Tokens in a tile.
        scale_embedding: Whether the embedding's output is multiplied by √d.
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
        hidden: int | None = None,
        slopes: Slopes = "alibi",
        lrpe: bool = True,
        form: Form = "auto",
        block: int = 64,
        scale_embedding: bool = True,
        tie_embeddings: bool = False,
        init_std: float = 0.02,
        generation: Generation = Generation(),
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(vocab_size, generation, optimizer, schedule)
        at_least(1, d_model=d_model, n_layers=n_layers, n_heads=n_heads, hidden=hidden, block=block)
        at_least(0, init_std=init_std)
        self.save_hyperparameters()
        one_of(get_args(Form), form=form)
        width = mlp_width(d_model, hidden)
        blocks = []
        for layer in range(n_layers):
            decay = layer_slopes(slopes, n_heads, layer, n_layers)
            mixer = LightningAttention(d_model, n_heads, decay, lrpe and layer == 0, block, form)
            blocks.append(DecoderBlock(mixer, SimpleGLU(d_model, width), SRMSNorm))
        for module in (part for block in blocks for part in block.modules() if isinstance(part, nn.Linear)):
            nn.init.normal_(module.weight, std=init_std)
        scale = d_model**0.5 if scale_embedding else 1.0
        self.decoder = Decoder(vocab_size, d_model, blocks, SRMSNorm(), tie_embeddings, init_std, scale)

    @torch.no_grad()
    def half_lives(self) -> list[list[float]]:
        """Tokens after which each head of each layer has forgotten half, ln 2 / slope; inf where it never does."""
        mixers: list[Any] = [block.mixer for block in self.decoder.blocks]
        return [(0.6931471805599453 / mixer.slopes).tolist() for mixer in mixers]
