"""The number of parameters, the number that a token uses, and its multiply-adds."""

from __future__ import annotations

from dataclasses import dataclass

from modules.sequence.ultramem_v2.layers import MemoryConfig


@dataclass(frozen=True)
class Sizes:
    """Parameters of a model without norms and cores, as the paper counts them.

    Attributes:
        attention: Parameters of the attention of all blocks.
        ffn: Parameters of the FFNs of all blocks.
        keys: Queries and keys of the memories.
        projections: W_p and W_o of the memories.
        tables: Values and pre-values.
        embedding: Parameters of the embedding, and of the head unless it is tied.
        head: The embedding's parameters that are used for a token's logits.
        read: Number of the tables' parameters that a token reads.
    """

    attention: int
    ffn: int
    keys: int
    projections: int
    tables: int
    embedding: int
    head: int
    read: int

    @property
    def total(self) -> int:
        """All parameters except embeddings."""
        return self.attention + self.ffn + self.keys + self.projections + self.tables

    @property
    def activated(self) -> int:
        """The parameters that a token uses, including the head."""
        return self.attention + self.ffn + self.keys + self.projections + self.read + self.head


def sizes(
    vocab_size: int, d_model: int, n_layers: int, hidden: int, config: MemoryConfig, tie_embeddings: bool = False
) -> Sizes:
    """Returns the sizes of a decoder with an UltraMemV2 memory (or ``none``) in each block.

    Args:
        vocab_size: Tokens.
        d_model: D.
        n_layers: L.
        hidden: Inner width of the FFN.
        config: Settings of the memories.
        tie_embeddings: Whether the head is the embedding's transpose.
    """
    memories = n_layers if config.kind == "ultramem_v2" else 0
    queries = 1 if config.shared_query else config.rank
    heads = config.heads or 1
    side = int(config.n_keys * config.shared_tables**0.5 + 1e-9) * config.key_expand
    keys = d_model * 2 * queries * heads * config.d_key + 2 * config.rank * heads * side * config.d_key
    width = config.d_value + config.d_pre
    return Sizes(
        attention=n_layers * 4 * d_model**2,
        ffn=n_layers * 3 * d_model * hidden,
        keys=memories * keys,
        projections=memories * d_model * width,
        tables=memories * config.n_keys**2 * width,
        embedding=vocab_size * d_model * (1 if tie_embeddings else 2),
        head=vocab_size * d_model,
        read=memories * heads * config.top * width,
    )


def token_macs(d_model: int, hidden: int, config: MemoryConfig) -> int:
    """Multiply-adds of the FFN and the memory of one block for a token, without attention.

    The m² candidates of TDQKR are counted, the choice of the largest is not.

    Args:
        d_model: D.
        hidden: Inner width of the FFN.
        config: Settings of the memory.
    """
    ffn = 3 * d_model * hidden
    if config.kind != "ultramem_v2":
        return ffn
    part = sizes(0, d_model, 1, 0, config)
    side = min(config.top, config.n_keys * config.key_expand)
    heads = config.heads or 1
    scoring = heads * (2 * config.rank * config.n_keys * config.key_expand + side * side * config.rank)
    return ffn + part.keys + part.projections + part.read + scoring
