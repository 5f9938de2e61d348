"""Language models of MoM layers."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.module import as_dataclass
from framework.settings import at_least, finite
from modules.language_model import Generation
from modules.sequence.attention import SoftmaxAttention
from modules.sequence.decoder import Decoder, DecoderBlock, DecoderLM, SwiGLU, mlp_width
from modules.sequence.mom.layer import Memories, MoMLayer

IN_MEMORY = {
    name: f"memory.{name}"
    for name in (
        *("expand_v", "num_memories", "topk", "shared", "rule", "single_kv_proj", "capacity", "conv_size"),
        *("renormalize", "backend"),
    )
}
"""Former arguments of a model, and what they are now."""


class MoMLM(DecoderLM):
    """A causal language model whose token mixers are mixtures of memories.

    Args:
        vocab_size: Tokens.
        d_model: Width.
        n_layers: Blocks.
        n_heads: Heads of each memory.
        head_dim: d of a query and a key; ``d_model / n_heads`` by default.
        memory: Number of memories, and how they are written and read.
        attention_every: Every n-th block uses softmax attention (8 in the paper's hybrid); 0 for none.
        aux_weight: λ, the weight of the balance loss, a mean over layers.
        hidden: Width within the MLP; 8/3 of ``d_model`` rounded up to a multiple of 16 by default.
        tie_embeddings: Whether the head is the embedding's transpose.
        generation: How ``predict`` continues sequences.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted.
    """

    moved: ClassVar[dict[str, str]] = IN_MEMORY

    def __init__(
        self,
        vocab_size: int = 256,
        d_model: int = 128,
        n_layers: int = 4,
        n_heads: int = 4,
        head_dim: int | None = None,
        memory: Memories = Memories(),
        attention_every: int = 0,
        aux_weight: float = 1e-3,
        hidden: int | None = None,
        tie_embeddings: bool = True,
        generation: Generation = Generation(),
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(vocab_size, generation, optimizer, schedule)
        finite(aux_weight=aux_weight)
        at_least(1, d_model=d_model, n_layers=n_layers, n_heads=n_heads, head_dim=head_dim, hidden=hidden)
        self.save_hyperparameters()
        check_sizes(n_layers=n_layers, attention_every=attention_every, aux_weight=aux_weight)
        self.aux_weight = aux_weight
        width = mlp_width(d_model, hidden)
        blocks = []
        for index in range(n_layers):
            mlp = SwiGLU(d_model, width)
            for module in mlp.children():
                nn.init.normal_(module.weight, std=0.02)  # type: ignore[arg-type]
            mixer: nn.Module
            if attention_every and (index + 1) % attention_every == 0:
                mixer = SoftmaxAttention(d_model, n_heads)
                for module in mixer.children():
                    nn.init.xavier_uniform_(module.weight, gain=2**-2.5)  # type: ignore[arg-type]
            else:
                mixer = MoMLayer(d_model, n_heads, head_dim, as_dataclass(Memories, memory))
            blocks.append(DecoderBlock(mixer, mlp, lambda: nn.RMSNorm(d_model, eps=1e-6)))
        norm = nn.RMSNorm(d_model, eps=1e-6)
        self.decoder = Decoder(vocab_size, d_model, blocks, norm, tie_embeddings)

    def layers(self) -> dict[str, MoMLayer]:
        """Returns the MoM layers by name."""
        found = {}
        for index, block in enumerate(self.decoder.blocks):
            if isinstance(mixer := block.mixer, MoMLayer):
                found[f"layer{index}"] = mixer
        return found

    def routers(self) -> dict[str, nn.Module]:
        """Returns the routers by layer, for :class:`framework.protocols.HasRouters`."""
        return {name: layer.router for name, layer in self.layers().items()}

    def auxiliary_loss(self) -> Tensor | None:
        """Returns λ times the balance loss, a mean over the layers, so that no two layers' collapses cancel."""
        return weighted_balance(list(self.layers().values()), self.aux_weight)


def weighted_balance(layers: list[MoMLayer], weight: float) -> Tensor | None:
    """Returns ``weight`` times the mean of the layers' balance losses; each is returned once."""
    losses = [layer.balance for layer in layers if layer.balance is not None]
    for layer in layers:
        layer.balance = None  # holds the graph, which nothing needs once it is used
    return weight * torch.stack(losses).mean() if losses else None


def check_sizes(n_layers: int, attention_every: int, aux_weight: float) -> None:
    """Refuses settings that would do nothing or train backwards.

    Args:
        n_layers: Layers, 1 or more.
        attention_every: Every n-th layer uses softmax attention; 0 for none.
        aux_weight: Factor of the balancing loss, 0 or more.

    Raises:
        UserError: one of them is not accepted.
    """
    at_least(1, n_layers=n_layers)
    if attention_every < 0 or attention_every == 1:
        raise UserError(f"attention_every: {attention_every} is not accepted; 0 for no softmax attention, or 2 or more")
    at_least(0, aux_weight=aux_weight)
