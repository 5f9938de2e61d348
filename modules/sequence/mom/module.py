"""Language models of MoM layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.settings import above, at_least, finite
from modules.sequence.attention import SoftmaxAttention
from modules.sequence.decoder import Decoder, DecoderBlock, DecoderLM, SwiGLU
from modules.sequence.mom.layer import Backend, MoMLayer
from modules.sequence.mom.rules import Rule


class MoMLM(DecoderLM):
    """A causal language model whose token mixers are mixtures of memories.

    Args:
        vocab_size: Tokens.
        d_model: Width.
        n_layers: Blocks.
        n_heads: Heads of each memory.
        head_dim: d of a query and a key; ``d_model / n_heads`` by default.
        expand_v: Dimension of a value over d.
        num_memories: M, without the shared one.
        topk: k, memories that a token writes to and reads from.
        shared: Whether there is a memory that takes every token.
        rule: How memories are written: ``linear``, ``retnet``, ``mamba2``, ``gla``, ``hgrn2``, ``rwkv6``, ``deltanet``
            or ``gated_deltanet``.
        single_kv_proj: Whether all memories share one projection to keys, values and gates.
        capacity: In training, each memory keeps only its newest ``⌈capacity · T / k⌉`` tokens; all by default.
        conv_size: Width of the short convolution on q, k and v; 0 for none.
        backend: ``varlen``, ``masked`` or ``loop``: forms of the same function, see
            :class:`modules.sequence.mom.MoMLayer`.
        renormalize: Whether the weights of a token's memories sum to 1.
        attention_every: Every n-th block uses softmax attention (8 in the paper's hybrid); 0 for none.
        aux_weight: λ, the weight of the balance loss, a mean over layers.
        hidden: Width within the MLP; 8/3 of ``d_model`` rounded up to a multiple of 16 by default.
        tie_embeddings: Whether the head is the embedding's transpose.
        prompt_length: Tokens of each sequence that ``predict`` starts from.
        max_new_tokens: Tokens that it adds.
        temperature: 0 takes the likeliest token, otherwise sampled at this temperature.
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
        head_dim: int | None = None,
        expand_v: float = 1.0,
        num_memories: int = 4,
        topk: int = 2,
        shared: bool = True,
        rule: Rule = "gated_deltanet",
        single_kv_proj: bool = False,
        capacity: float | None = None,
        conv_size: int = 4,
        backend: Backend = "varlen",
        renormalize: bool = True,
        attention_every: int = 0,
        aux_weight: float = 1e-3,
        hidden: int | None = None,
        tie_embeddings: bool = True,
        prompt_length: int = 32,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(vocab_size, prompt_length, max_new_tokens, temperature, optimizer, schedule)
        finite(capacity=capacity, aux_weight=aux_weight)
        at_least(1, d_model=d_model, n_layers=n_layers, n_heads=n_heads, head_dim=head_dim, hidden=hidden)
        above(0, expand_v=expand_v)
        self.save_hyperparameters()
        check_sizes(n_layers=n_layers, attention_every=attention_every, aux_weight=aux_weight)
        self.aux_weight = aux_weight
        width = hidden or -(-8 * d_model // 48) * 16
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
                mixer = MoMLayer(
                    d_model,
                    n_heads,
                    head_dim,
                    expand_v,
                    num_memories,
                    topk,
                    shared,
                    rule,
                    single_kv_proj,
                    capacity,
                    conv_size,
                    renormalize=renormalize,
                    backend=backend,
                )
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
