"""The deep model: encoder, residual blocks of S4D layers, pooling."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from framework.errors import UserError
from framework.settings import at_least, between, one_of
from modules.sequence.s4d.layer import SSM, DiscreteSystem, S4DLayer

Norm = Literal["layer", "batch"]
Activation = Literal["gelu", "relu", "silu", "id"]
FinalActivation = Literal["glu", "id"]
Pooling = Literal["mean", "last"]
ACTIVATIONS: dict[Activation, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU, "id": nn.Identity}


class TiedDropout(nn.Module):
    """Dropout that drops a feature for the whole sequence: its mask is drawn once and shared over time."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Applies the mask to (B, L, H)."""
        if not self.training or self.p == 0:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.p)


class SequenceNorm(nn.Module):
    """LayerNorm over features, or BatchNorm over batch and time, of (…, H); padding stays out of the moments.

    Args:
        kind: ``layer`` or ``batch``.
        d_model: H.
    """

    def __init__(self, kind: Norm, d_model: int) -> None:
        super().__init__()
        self.norm: nn.Module = nn.LayerNorm(d_model) if kind == "layer" else nn.BatchNorm1d(d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalises (…, H); ``mask`` (…) is true on samples that are not padding.

        Raises:
            UserError: fewer than two samples in training, which have no variance for batch norm.
        """
        if isinstance(self.norm, nn.LayerNorm):
            return self.norm(x)
        samples = x.reshape(-1, x.shape[-1]) if mask is None else x[mask]
        if self.training and len(samples) < 2:
            raise UserError(
                f"norm: 'batch' is not accepted for {len(samples)} sample(s) in a training batch; at least 2"
            )
        normed = self.norm(samples)
        if mask is None:
            return normed.view_as(x)
        out = torch.zeros_like(x)
        out[mask] = normed.to(x.dtype)
        return out


class S4DBlock(nn.Module):
    """``x + dropout(mix(dropout(act(S4D(x)))))`` with the norm after the sum, or on the branch before it.

    Args:
        layer: The SSM.
        norm: ``layer`` or ``batch``.
        prenorm: Whether the norm comes before the layer instead of after the sum.
        dropout: Probability of dropping a feature.
        tie_dropout: Whether one mask holds for all samples of a sequence.
        activation: After the SSM: ``gelu``, ``relu``, ``silu`` or ``id``.
        final_act: Of the position-wise map: ``glu`` (H to 2H, gated) or ``id`` (H to H).
    """

    def __init__(
        self,
        layer: S4DLayer,
        *,
        norm: Norm,
        prenorm: bool,
        dropout: float,
        tie_dropout: bool,
        activation: Activation,
        final_act: FinalActivation,
    ) -> None:
        super().__init__()
        d_model, gated = layer.d_model, final_act == "glu"
        self.layer = layer
        self.norm = SequenceNorm(norm, d_model)
        self.prenorm = prenorm
        self.activation = ACTIVATIONS[activation]()
        self.mix = nn.Sequential(
            nn.Linear(layer.channels * d_model, 2 * d_model if gated else d_model),
            nn.GLU(dim=-1) if gated else nn.Identity(),
        )
        self.dropout = TiedDropout(dropout) if tie_dropout else nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None, rate: float = 1.0) -> Tensor:
        """Maps (B, L, H) to (B, L, H); samples where ``mask`` (B, L) is false do not reach the others."""
        z = self.norm(x, mask) if self.prenorm else x
        z = self.layer(z if mask is None else z * mask.unsqueeze(-1), rate)
        z = self.dropout(self.mix(self.dropout(self.activation(z))))
        return x + z if self.prenorm else self.norm(x + z, mask)

    def step(self, x: Tensor, state: Tensor, system: DiscreteSystem) -> tuple[Tensor, Tensor]:
        """Returns one sample (B, H) in evaluation."""
        z, state = self.layer.step(self.norm(x) if self.prenorm else x, state, system)
        z = self.mix(self.activation(z))
        return (x + z if self.prenorm else self.norm(x + z)), state


class S4DBackbone(nn.Module):
    """Encoder and ``n_layers`` blocks.

    Args:
        d_input: Features of each sample; ignored with a vocabulary.
        vocabulary: Number of tokens, for integer inputs.
        d_model: H.
        n_layers: Blocks.
        ssm: The state space model of each channel.
        norm: ``layer`` or ``batch``.
        prenorm: Norm before the layer rather than after the sum; a last norm is then added.
        dropout: Probability.
        tie_dropout: One dropout mask for all samples of a sequence.
        activation: ``gelu``, ``relu``, ``silu`` or ``id``.
        final_act: ``glu`` or ``id``.

    Raises:
        UserError: an argument is not accepted.
    """

    def __init__(
        self,
        d_input: int = 1,
        vocabulary: int | None = None,
        *,
        d_model: int = 64,
        n_layers: int = 4,
        ssm: SSM = SSM(),
        norm: Norm = "layer",
        prenorm: bool = False,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        activation: Activation = "gelu",
        final_act: FinalActivation = "glu",
    ) -> None:
        super().__init__()
        one_of(get_args(Norm), norm=norm)
        one_of(get_args(Activation), activation=activation)
        one_of(get_args(FinalActivation), final_act=final_act)
        between(0, 1, "[)", dropout=dropout)
        at_least(1, n_layers=n_layers)
        at_least(1, vocabulary=vocabulary)
        if vocabulary is None:
            at_least(1, d_input=d_input)
        at_least(1, d_model=d_model)
        self.d_input = d_input
        self.encoder = nn.Linear(d_input, d_model) if vocabulary is None else nn.Embedding(vocabulary, d_model)
        self.blocks = nn.ModuleList(
            S4DBlock(
                S4DLayer(d_model, ssm),
                norm=norm,
                prenorm=prenorm,
                dropout=dropout,
                tie_dropout=tie_dropout,
                activation=activation,
                final_act=final_act,
            )
            for _ in range(n_layers)
        )
        self.final_norm = SequenceNorm(norm, d_model) if prenorm else None

    @property
    def layers(self) -> list[S4DLayer]:
        """The SSM of each block."""
        return [block.layer for block in self.blocks]  # type: ignore[misc]

    def encode(self, x: Tensor) -> Tensor:
        """Embeds samples (…, d_input), or tokens (…) of an integer type, as (…, H).

        Raises:
            UserError: the input is of another type or has another number of features.
        """
        if isinstance(self.encoder, nn.Embedding):
            if x.is_floating_point():
                raise UserError(f"vocabulary: {self.encoder.num_embeddings} needs integer tokens, not {x.dtype}")
            return self.encoder(x)
        if x.shape[-1] != self.d_input:
            raise UserError(f"d_input: {self.d_input} does not match the data, which has {x.shape[-1]} features")
        return self.encoder(x)

    def forward(self, x: Tensor, lengths: Tensor | None = None, rate: float = 1.0) -> Tensor:
        """Features of every sample.

        Args:
            x: (B, L, d_input), or tokens (B, L).
            lengths: (B,) samples that are not padding; all if left out.
            rate: Factor on Δ in every layer.

        Returns:
            (B, L, H).
        """
        h = self.encode(x)
        mask = None if lengths is None else padding_mask(lengths, h.shape[1])
        for block in self.blocks:
            h = block(h, mask, rate)
        return h if self.final_norm is None else self.final_norm(h, mask)

    def initial_states(self, batch: int) -> list[Tensor]:
        """Zero states for :meth:`step`."""
        return [layer.initial_state(batch) for layer in self.layers]

    def systems(self, rate: float = 1.0) -> list[DiscreteSystem]:
        """Discretised layers for :meth:`step`."""
        return [layer.discrete(rate) for layer in self.layers]

    def step(self, x: Tensor, states: list[Tensor], systems: list[DiscreteSystem]) -> tuple[Tensor, list[Tensor]]:
        """One sample of a stream in evaluation: the features (B, H) that ``forward`` has there, and the next states."""
        h, after = self.encode(x), []
        for block, state, system in zip(self.blocks, states, systems, strict=True):
            h, state = block.step(h, state, system)  # type: ignore[operator]
            after.append(state)
        return (h if self.final_norm is None else self.final_norm(h)), after


def padding_mask(lengths: Tensor, length: int) -> Tensor:
    """Returns (B, L), true on the first ``lengths[b]`` samples."""
    return torch.arange(length, device=lengths.device) < lengths[:, None]


def pool(h: Tensor, how: str, lengths: Tensor | None = None) -> Tensor:
    """Reduces a sequence to one vector.

    Args:
        h: (B, L, H).
        how: ``mean`` over time; anything else takes the last sample that is not padding.
        lengths: (B,) samples that are not padding; all if left out.

    Returns:
        (B, H).

    Raises:
        UserError: the sequence has no samples.
    """
    at_least(1, length=h.shape[1])
    if how == "mean":
        if lengths is None:
            return h.mean(1)
        mask = padding_mask(lengths, h.shape[1]).unsqueeze(-1)
        return (h * mask).sum(1) / lengths[:, None].to(h.dtype)
    if lengths is None:
        return h[:, -1]
    return h[torch.arange(len(h), device=h.device), lengths - 1]
