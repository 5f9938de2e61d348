"""Liger attention: o_t = α · GRM(q, k, v) + β · SWA(q, k, v), on a softmax attention's own projections.

Source: Lan et al. 2025, arXiv 2503.01496. An attention layer is converted by changing its class: its parameters, their
names and everything on them (adapters, norms of q and k, biases) stay unchanged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn

from callbacks.liger.gates import Variant, log_decay
from callbacks.liger.grm import grm
from callbacks.liger.window import Recent, remember, sliding_window_attention
from framework.errors import UserError
from framework.functional.rotary import angles, rotate
from framework.protocols import RotaryAttention
from framework.settings import above, at_least, between, one_of, power_of_two

TRANSFORMERS = ("LlamaAttention", "MistralAttention", "Qwen2Attention", "Qwen3Attention")
"""Attention layers of transformers that can be converted."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a layer's replacement of softmax attention.

    Attributes:
        variant: The recurrence, one of :data:`callbacks.liger.gates.KINDS`.
        tau: Temperature of the decays; ``None`` for the variant's own (16 for gla).
        window: w, number of tokens of the softmax attention, including the current one.
        alpha: Weight of the recurrence; 0 omits it.
        beta: Weight of the softmax attention; 0 omits it.
        slots: M, for ``gsa``.
        lower_bound: γ, for ``hgrn2``.
        chunk: Number of positions in a chunk of the recurrence, a power of two.

    Raises:
        UserError: a value is not accepted.
    """

    variant: Variant = "gla"
    tau: float | None = None
    window: int = 64
    alpha: float = 0.5
    beta: float = 0.5
    slots: int = 64
    lower_bound: float = 0.0
    chunk: int = 64

    def __post_init__(self) -> None:
        one_of(get_args(Variant), variant=self.variant)
        above(0, tau=self.tau)
        at_least(1, window=self.window, slots=self.slots)
        power_of_two(chunk=self.chunk)
        at_least(0, alpha=self.alpha, beta=self.beta)
        if self.alpha + self.beta == 0:
            raise UserError("alpha: 0 is not accepted with beta: 0; one of them above 0")
        between(0, 1, "[)", lower_bound=self.lower_bound)

    def to_plain(self) -> dict[str, Any]:
        """Returns it as a dict."""
        return asdict(self)


class LigerState(NamedTuple):
    """A layer's decoding state; its size does not depend on the number of tokens.

    Attributes:
        memory: State of the recurrence, ``(B, H_kv, d, d)`` float32 (gsa: ``(B, H_kv, M, 2 d)``); ``None`` for α = 0.
        recent: At most w − 1 rotated keys and values; ``None`` for β = 0.
        position: Number of tokens so far.
    """

    memory: Tensor | None
    recent: Recent | None
    position: int


class Projections(NamedTuple):
    """Projections of T tokens: q ``(B, H, T, d)``, k, v ``(B, H_kv, T, d)``, q and k rotated, and the gate's input."""

    q: Tensor
    k: Tensor
    v: Tensor
    rotated_q: Tensor
    rotated_k: Tensor
    gate: Tensor


def liger_attention(
    x: Projections,
    recipe: Recipe,
    state: LigerState | None = None,
    mask: Tensor | None = None,
    documents: Tensor | None = None,
    scale: float | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, LigerState]:
    """Computes the sum of both branches, before the output projection.

    Args:
        x: The tokens' projections.
        recipe: The settings.
        state: State after the previous tokens; ``None`` at the start.
        mask: ``(B, T)``, false at padding.
        documents: ``(B, T)`` numbers of packed documents, which do not attend to each other; only without a state.
        scale: Scale of the softmax attention; 1/√d by default.
        dropout: Dropout on the weights of the softmax attention.

    Returns:
        ``(B, H, T, d)`` in v's type, and the state after these tokens.
    """
    length = x.q.shape[2]
    memory, recent = (None, None) if state is None else (state.memory, state.recent)
    parts = []
    if recipe.alpha:
        decay = log_decay(x.gate, recipe.variant, recipe.tau, recipe.slots, recipe.lower_bound)
        starts = None
        if documents is not None:
            starts = torch.cat([torch.zeros_like(documents[:, :1], dtype=torch.bool), documents.diff() != 0], 1)
        form: Any = "recurrent" if length == 1 else "chunk"
        output, memory = grm(
            x.q, x.k, x.v, decay, recipe.variant, memory, mask=mask, starts=starts, form=form, chunk=recipe.chunk
        )
        parts.append(recipe.alpha * output.to(x.v.dtype))
    if recipe.beta:
        output = sliding_window_attention(
            x.rotated_q, x.rotated_k, x.v, recipe.window, mask, documents, recent, scale, dropout
        )
        parts.append(recipe.beta * output)
        recent = remember(x.rotated_k, x.v, recipe.window, mask, recent)
    return sum(parts[1:], parts[0]), LigerState(memory, recent, (0 if state is None else state.position) + length)


class LigerAttention(nn.Module):
    """A converted attention layer; a base class that :func:`convert` adds before the layer's own class.

    Attributes:
        recipe: Its settings.
        as_original: Whether it computes the output of the layer before the conversion.
    """

    recipe: Recipe
    as_original: bool
    head_dim: int

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)

    def _gate(self, x: Tensor, k: Tensor) -> Tensor:
        """Returns the gate's input: the key, or, in the ablation, a projection of the input."""
        projection = getattr(self, "gate_proj", None)
        return k if projection is None else self._heads(projection(x))


class LigerMixer(LigerAttention):
    """The conversion of a token mixer with the attributes of :class:`framework.protocols.RotaryAttention`."""

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module
    o_proj: nn.Module
    rope_base: float

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Maps (B, T, D) to the same shape; ``mask`` (B, T) is false at padding."""
        if self.as_original:
            return super().forward(x, mask)
        output, _ = liger_attention(self._projections(x, 0), self.recipe, mask=mask)
        return self.o_proj(output.transpose(1, 2).flatten(2))

    def extend(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Returns the output for the tokens that follow ``state``, and the new state."""
        if self.as_original:
            inherited: Any = super()
            return inherited.extend(x, state)
        position = 0 if state is None else state.position
        output, state = liger_attention(self._projections(x, position), self.recipe, state)
        return self.o_proj(output.transpose(1, 2).flatten(2)), state

    def _projections(self, x: Tensor, start: int) -> Projections:
        q, k, v = (self._heads(project(x)) for project in (self.q_proj, self.k_proj, self.v_proj))
        positions = torch.arange(start, start + x.shape[1], device=x.device)
        turn = angles(positions, self.head_dim, self.rope_base, q.dtype)
        return Projections(q, k, v, rotate(q, *turn), rotate(k, *turn), self._gate(x, k))


class LigerTransformersAttention(LigerAttention):
    """The conversion of transformers' Llama, Mistral, Qwen2 or Qwen3; ``generate`` works with a cache of fixed size."""

    layer_idx: int
    scaling: float
    attention_dropout: float

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, None]:
        """Has the signature of the layer's own ``forward``."""
        if self.as_original:
            return super().forward(
                hidden_states=hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **kwargs,
            )
        layer: Any = self
        q, k, v = (self._heads(project(hidden_states)) for project in (layer.q_proj, layer.k_proj, layer.v_proj))
        if hasattr(layer, "q_norm"):  # Qwen3 normalises each head
            q, k = layer.q_norm(q), layer.k_norm(k)
        cos, sin = (part.unsqueeze(1) for part in position_embeddings)
        x = Projections(q, k, v, rotate(q, cos, sin), rotate(k, cos, sin), self._gate(hidden_states, k))
        mask = tokens_present(attention_mask, q.shape[2])
        cached = None if past_key_values is None else _cached(past_key_values, self.layer_idx)
        dropout = self.attention_dropout if self.training else 0.0
        output, state = liger_attention(
            x, self.recipe, cached.state if cached else None, mask, scale=self.scaling, dropout=dropout
        )
        if cached is not None:
            cached.state = state
        return layer.o_proj(output.transpose(1, 2).flatten(2)), None


def tokens_present(attention_mask: Tensor | None, length: int) -> Tensor | None:
    """Returns which of the last ``length`` tokens are not padding, (B, T), from a layer's mask in transformers.

    Args:
        attention_mask: ``None``, (B, S), or (B or 1, 1, T, S): boolean, or float with 0 where a key is seen.
        length: T.

    Raises:
        UserError: the mask has another form.
    """
    if attention_mask is None:
        return None
    if not isinstance(attention_mask, Tensor) or attention_mask.ndim not in (2, 4):
        raise UserError(f"liger: a mask of type {type(attention_mask).__name__}; set attn_implementation to sdpa")
    if attention_mask.ndim == 2:
        return attention_mask[:, -length:].bool()
    seen = attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0
    # a token that is not padding attends to itself
    return seen[:, 0, :, -length:].diagonal(dim1=-2, dim2=-1)


def _cached(cache: Any, index: int) -> Any:
    """Returns the layer's part of a cache of transformers; at first a :class:`LigerCacheLayer` is put there."""
    kind = _cache_layer()
    while len(cache.layers) <= index:
        cache.layers.append(cache.layer_class_to_replicate())
    if not isinstance(cache.layers[index], kind):
        if cache.layers[index].get_seq_length():
            raise UserError(f"liger: the cache of layer {index} was filled by softmax attention; start with none")
        cache.layers[index] = kind()
    return cache.layers[index]


@cache
def _cache_layer() -> Any:
    from transformers.cache_utils import CacheLayerMixin

    class LigerCacheLayer(CacheLayerMixin):
        """A layer's state as a part of transformers' cache."""

        is_sliding = False
        state: LigerState | None = None

        def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
            self.is_initialized = True

        def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            raise UserError("liger: the cache of a linearised layer cannot be used by softmax attention")

        def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
            # older versions pass the positions
            length = query_length if isinstance(query_length, int) else query_length.shape[0]
            return self.get_seq_length() + length, 0

        def get_seq_length(self, *args: Any) -> int:
            return 0 if self.state is None else self.state.position

        def get_max_length(self) -> int:
            return -1

        get_max_cache_shape = get_max_length  # its name in older versions

        def offload(self) -> None:
            """Does nothing: the state is small."""

        def prefetch(self) -> None:
            """Does nothing: the state was not offloaded."""

        def reset(self) -> None:
            self.state = None

        def reorder_cache(self, beam_idx: Tensor) -> None:
            self.batch_select_indices(beam_idx)

        def batch_select_indices(self, indices: Tensor) -> None:
            self._each(lambda x: x[indices.to(x.device)])

        def batch_repeat_interleave(self, repeats: int) -> None:
            self._each(lambda x: x.repeat_interleave(repeats, 0))

        def crop(self, *args: Any) -> None:
            raise UserError("liger: tokens cannot be removed from a recurrent state, as assisted generation does")

        def _each(self, change: Any) -> None:
            if self.state is not None:
                memory, recent, position = self.state
                memory = None if memory is None else change(memory)
                if recent is not None:
                    present = None if recent.present is None else change(recent.present)
                    recent = Recent(change(recent.keys), change(recent.values), present)
                self.state = LigerState(memory, recent, position)

    return LigerCacheLayer


def kind_of(module: nn.Module) -> type[LigerAttention] | None:
    """Returns the class that converts a layer; ``None`` if it cannot be converted."""
    cls = type(module)
    if isinstance(module, LigerAttention):
        return None
    if cls.__name__ in TRANSFORMERS and cls.__module__.startswith("transformers."):
        return LigerTransformersAttention
    return LigerMixer if isinstance(module, RotaryAttention) else None


@cache
def _converted(kind: type[LigerAttention], base: type[nn.Module]) -> type[LigerAttention]:
    return type(f"Liger{base.__name__}", (kind, base), {"__module__": base.__module__, "__doc__": kind.__doc__})


def convert(module: nn.Module, recipe: Recipe) -> None:
    """Makes a softmax attention layer a Liger attention, in place.

    Raises:
        UserError: the layer's class is not known.
    """
    kind = kind_of(module)
    if kind is None:
        raise UserError(f"liger: {type(module).__name__} is no attention that can be converted")
    layer: Any = module
    layer.__class__ = _converted(kind, type(module))  # type: ignore[arg-type] # mypy takes a class's hash for its instances'
    layer.recipe, layer.as_original = recipe, False


def revert(module: LigerAttention) -> None:
    """Restores the layer's softmax attention, in place, with the current weights."""
    layer: Any = module
    layer.__class__ = next(cls for cls in type(module).__mro__[1:] if not issubclass(cls, LigerAttention))
    for name in ("recipe", "as_original"):
        delattr(layer, name)
    if hasattr(layer, "gate_proj"):
        del layer.gate_proj


__all__ = [
    "LigerAttention",
    "LigerState",
    "Projections",
    "Recipe",
    "convert",
    "kind_of",
    "liger_attention",
    "revert",
    "tokens_present",
]
