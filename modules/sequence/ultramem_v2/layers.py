"""Memory layers on one table: UltraMemV2 and the related UltraMem, PEER and product keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.precision import full_precision
from framework.protocols import TableRead
from framework.settings import at_least, at_most, multiple_of, one_of
from modules.sequence.ultramem_v2.initialisation import (
    SAMPLES,
    calibrate,
    draw_linear,
    linear_std,
    target_variance,
    value_std,
)
from modules.sequence.ultramem_v2.keys import KeyScores
from modules.sequence.ultramem_v2.tables import Ring, ValueTable, row_products, row_sum
from modules.sequence.ultramem_v2.tdqkr import Selection, leading_pairs, product_keys, tdqkr

Kind = Literal["ultramem_v2", "ultramem", "peer", "pkm", "none"]
Init = Literal["paper", "released"]
HEADS = {"ultramem_v2": 1, "ultramem": 2, "peer": 8, "pkm": 4}


@dataclass(frozen=True)
class MemoryConfig:
    """Kind and sizes of a memory.

    Attributes:
        kind: ``ultramem_v2``; the related ``ultramem`` (values only, one query for all ranks, a projector for each
            block of virtual slots), ``peer`` (full-width experts, softmax, GELU) and ``pkm`` (product keys, softmax,
            values only); ``none``.
        n_keys: N; a layer's own table has N² rows.
        d_key: D_k.
        top: m, number of slots that a head reads for each token.
        d_value: D_v, width of a value; always D for ``peer``.
        d_pre: D_p, width of a pre-value; 0 for values only. Always D for ``peer`` and 0 for ``ultramem`` and ``pkm``.
        heads: Number of queries for each token; by default 1 for UltraMemV2, 2 for UltraMem, 8 for PEER, 4 for product
            keys.
        rank: r, of the Tucker core.
        cores: c; the value vector is split into c parts, each weighted by the score of its core.
        key_expand: h; there are h key sets for rows and for columns, and h² blocks of virtual slots.
        shared_tables: g, number of neighbouring layers whose tables a layer reads.
        shared_query: Whether all ranks share one query instead of one for each.
        shuffle: Whether slots are mapped to rows by a fixed random permutation.
        init: ``paper`` (appendix A: scores calibrated to mean 1, output variance of the FFN) or ``released`` (constants
            of the released code).
        penalty: α of the Tucker penalty; 0 for none.
        penalty_margin: τ, up to which singular values after the first are not penalised.
        balance: β of the balance loss; 0 for none.
    """

    kind: Kind = "ultramem_v2"
    n_keys: int = 64
    d_key: int = 32
    top: int = 16
    d_value: int = 32
    d_pre: int = 32
    heads: int | None = None
    rank: int = 2
    cores: int = 2
    key_expand: int = 1
    shared_tables: int = 1
    shared_query: bool = False
    shuffle: bool = True
    init: Init = "paper"
    penalty: float = 0.0
    penalty_margin: float = 0.15
    balance: float = 0.0

    def check(self) -> MemoryConfig:
        """Returns itself.

        Raises:
            UserError: a setting is not accepted.
        """

        def chosen(*names: str) -> dict[str, Any]:
            return {f"memory.{name}": getattr(self, name) for name in names}

        one_of(get_args(Kind), **chosen("kind"))
        one_of(get_args(Init), **chosen("init"))
        sizes = ("n_keys", "d_key", "top", "d_value", "rank", "cores", "key_expand", "shared_tables", "heads")
        at_least(1, **chosen(*sizes))
        at_least(0, **chosen("d_pre", "penalty", "penalty_margin", "balance"))
        slots = self.n_keys**2 * (self.key_expand**2 if self.kind.startswith("ultramem") else 1)
        at_most({"the slots": slots}, **chosen("top"))
        multiple_of({"cores": self.cores}, **chosen("d_value"))
        return self

    def widths(self, d_model: int) -> tuple[int, int]:
        """Returns D_v and D_p of the kind."""
        if self.kind == "peer":
            return d_model, d_model
        return self.d_value, self.d_pre if self.kind == "ultramem_v2" else 0


class MemoryLayer(nn.Module):
    """The base class of memory layers: keys, a window of the table, and the map from a token's slots to rows.

    Args:
        config: Sizes.
        d_model: D.
        hidden: Inner width of the parallel FFN, which determines the variance of the memory's output.
        table: The table, a submodule of its creator; by default the layer creates its own.
        ring: The windows of the table.
        index: ℓ, the layer's window.
    """

    shuffle: Tensor

    def __init__(
        self,
        config: MemoryConfig,
        d_model: int,
        hidden: int | None = None,
        table: ValueTable | None = None,
        ring: Ring | None = None,
        index: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.d_model, self.index = config, d_model, index
        self.hidden = hidden or 4 * d_model
        self.ring = ring or Ring(1, config.n_keys)
        self.width, self.pre_width = config.widths(d_model)
        self.heads = config.heads or HEADS[config.kind]
        self.expand = config.key_expand if isinstance(self, TuckerMemory) else 1
        self.slots = self.ring.side**2
        self.own_table = ValueTable(self.ring.rows, self.width, self.pre_width) if table is None else None
        self._table = [table or self.own_table]  # a list, because the table must be a submodule of one module only
        virtual = self.expand**2 * self.slots
        order = torch.randperm(virtual) if config.shuffle else torch.arange(virtual)
        self.register_buffer("shuffle", order.int())
        self.last_read: TableRead | None = None

    @property
    def table(self) -> ValueTable:
        """The table that the layer reads."""
        table = self._table[0]
        assert table is not None
        return table

    def forward(self, z: Tensor) -> Tensor:
        """Maps normed tokens (…, D) to the memory's output of the same shape."""
        flat = z.reshape(-1, self.d_model)
        chosen = self.select(flat)
        slots, block = self.addresses(chosen)
        scores = chosen.scores.view(*slots.shape, chosen.scores.shape[-1])
        self.last_read = TableRead(slots.detach(), scores.detach().mean(-1))
        return self.read(flat, self.ring.rows_of(slots, self.index), scores, block).view(z.shape)

    def addresses(self, chosen: Selection) -> tuple[Tensor, Tensor]:
        """Slots of the table's window, and blocks of virtual slots, each (T, heads·m)."""
        side = self.ring.side
        block = chosen.rows // side * self.expand + chosen.columns // side
        virtual = (block * side + chosen.rows % side) * side + chosen.columns % side
        virtual = self.shuffle[virtual].long().view(-1, self.heads * virtual.shape[-1])
        return virtual % self.slots, virtual // self.slots

    def select(self, z: Tensor) -> Selection:
        """Chooses slots: rows and columns of the grid (T·heads, m) and scores (T·heads, m, c)."""
        raise NotImplementedError

    def read(self, z: Tensor, rows: Tensor, scores: Tensor, block: Tensor) -> Tensor:
        """Maps tokens (T, D), rows (T, heads·m), scores (T, heads·m, c) and blocks to (T, D)."""
        raise NotImplementedError

    def standard_deviation(self, layers: int) -> float:
        """Returns the standard deviation of the table's initial entries, for a number of memory layers."""
        raise NotImplementedError

    def balance_loss(self) -> Tensor | None:
        """Returns the balance loss of the last forward pass in training, without its weight."""
        return None


class TuckerMemory(MemoryLayer):
    """Retrieval by a Tucker core (TDQKR), the base class of UltraMem and UltraMemV2.

    ``u`` and ``t``, the core's leading singular vectors, are buffers: set by the constructor, and updated by
    :func:`refresh` before each forward pass in training.

    Args:
        config: Sizes.
        d_model: D.
        *args: Arguments of :class:`MemoryLayer`.
        **kwargs: Arguments of :class:`MemoryLayer`.
    """

    u: Tensor
    t: Tensor

    def __init__(self, config: MemoryConfig, d_model: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, d_model, *args, **kwargs)
        shared = config.shared_query or config.kind == "ultramem"
        keys = self.expand * self.ring.side
        self.scores = KeyScores(d_model, config.d_key, keys, config.rank, self.heads, shared)
        self.cores = nn.Parameter(torch.rand(config.cores, config.rank, config.rank))
        self.register_buffer("u", torch.zeros(config.rank))
        self.register_buffer("t", torch.zeros(config.rank))
        self._balance: Tensor | None = None
        self.energy = float(config.top * self.heads)
        refresh([self])
        self.draw()

    @torch.no_grad()
    def draw(self) -> None:
        """Draws the query projection and calibrates the scores."""
        if self.config.init == "released":
            draw_linear(self.scores.query, self.config.d_key**-0.5)
            return
        draw_linear(self.scores.query, linear_std(self.d_model))
        if self.cores.is_meta:
            return
        selected = self.select(torch.randn(SAMPLES, self.d_model, device=self.cores.device)).scores
        std = calibrate(selected, [self.scores.query_gain, self.scores.key_gain], power=4)
        self.energy = self.config.top * self.heads * (1 + std**2)

    def select(self, z: Tensor) -> Selection:
        """TDQKR."""
        rows, columns = self.scores(z)
        with full_precision(z.device):
            cores, u, t = (part.to(rows.dtype) for part in (self.cores, self.u, self.t))
            chosen = tdqkr(rows, columns, cores, u, t, self.config.top)
            if self.training and self.config.balance:
                self._balance = balance_loss(rows, columns, u.clone(), t.clone(), chosen) if len(z) else None
        return chosen

    def balance_loss(self) -> Tensor | None:
        """As the base class says."""
        return self._balance

    def standard_deviation(self, layers: int) -> float:
        """Eq. 26; 0.02 in the released code."""
        if self.config.init == "released":
            return 0.02
        return value_std(self.d_model, self.hidden, layers, self.energy, self.width, self.pre_width)


class UltraMemV2Layer(TuckerMemory):
    """``o = W_o Σ_i ŝ_i (p_i · W_p z) v_i``, eq. 15, over the m slots that TDQKR chooses.

    With ``d_pre`` 0 it is ``W_o Σ_i ŝ_i v_i``. To use it alone: ``UltraMemV2Layer(MemoryConfig(n_keys=64, ...),
    d_model=128)``; then call :func:`refresh` ``([layer])`` before each training step.

    Args:
        config: Sizes.
        d_model: D.
        *args: Arguments of :class:`MemoryLayer`.
        **kwargs: Arguments of :class:`MemoryLayer`.
    """

    def __init__(self, config: MemoryConfig, d_model: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, d_model, *args, **kwargs)
        self.pre = nn.Linear(d_model, self.pre_width, bias=False) if self.pre_width else None
        self.out = nn.Linear(self.width, d_model, bias=False)
        paper = self.config.init == "paper"
        draw_linear(self.out, linear_std(d_model) if paper else self.width**-0.5)
        if self.pre is not None:
            draw_linear(self.pre, linear_std(d_model) if paper else d_model**-0.5)
        if self.own_table is not None:
            self.own_table.draw(self.standard_deviation(layers=1))

    def read(self, z: Tensor, rows: Tensor, scores: Tensor, block: Tensor) -> Tensor:
        """Eq. 15; all blocks of virtual slots share one projector."""
        if self.pre is not None and self.table.pre_values is not None:
            scores = scores * row_products(self.pre(z), self.table.pre_values, rows).unsqueeze(-1)
        return self.out(row_sum(scores, self.table.values, rows))


class UltraMemLayer(TuckerMemory):
    """``o = Σ_e W_e Σ_{i in block e} ŝ_i v_i``: UltraMem (Huang et al. 2024, arXiv 2411.12364), h² blocks.

    Args:
        config: Sizes.
        d_model: D.
        *args: Arguments of :class:`MemoryLayer`.
        **kwargs: Arguments of :class:`MemoryLayer`.
    """

    def __init__(self, config: MemoryConfig, d_model: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, d_model, *args, **kwargs)
        self.blocks = self.expand**2
        self.out = nn.Linear(self.blocks * self.width, d_model, bias=False)
        draw_linear(self.out, linear_std(d_model) if self.config.init == "paper" else self.width**-0.5)
        if self.own_table is not None:
            self.own_table.draw(self.standard_deviation(layers=1))

    def read(self, z: Tensor, rows: Tensor, scores: Tensor, block: Tensor) -> Tensor:
        """Sums each block separately, with the scores of the other blocks set to zero."""
        sums = [row_sum(scores * (block == e).unsqueeze(-1), self.table.values, rows) for e in range(self.blocks)]
        return self.out(torch.cat(sums, -1))


class PKMLayer(MemoryLayer):
    """``o = W_o Σ_i softmax(s)_i v_i`` over product keys (Lample et al. 2019, arXiv 1907.05242), heads summed.

    Args:
        config: Sizes.
        d_model: D.
        *args: Arguments of :class:`MemoryLayer`.
        **kwargs: Arguments of :class:`MemoryLayer`.
    """

    shared_keys = False

    def __init__(self, config: MemoryConfig, d_model: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, d_model, *args, **kwargs)
        gain = config.d_key**-0.25  # row and column scores of variance 1
        self.scores = KeyScores(
            d_model, config.d_key, self.ring.side, heads=self.heads, shared_keys=self.shared_keys, gain=gain
        )
        draw_linear(self.scores.query, linear_std(d_model))
        self.make_projections()
        if self.own_table is not None:
            self.own_table.draw(self.standard_deviation(layers=1))

    def make_projections(self) -> None:
        """Makes W_o."""
        self.out = nn.Linear(self.width, self.d_model, bias=False)
        draw_linear(self.out, linear_std(self.d_model))

    def select(self, z: Tensor) -> Selection:
        """Chooses slots by product keys, with softmax over each head's m."""
        rows, columns = self.scores(z)
        chosen = product_keys(rows, columns, self.config.top)
        return chosen._replace(scores=chosen.scores.softmax(1))

    def read(self, z: Tensor, rows: Tensor, scores: Tensor, block: Tensor) -> Tensor:
        """Returns the weighted sum of the values, projected."""
        return self.out(row_sum(scores, self.table.values, rows))

    def standard_deviation(self, layers: int) -> float:
        """Returns D_v^-1/2, as in the authors' code."""
        return float(self.width**-0.5)


class PEERLayer(PKMLayer):
    """``o = Σ_i softmax(s)_i GELU(p_i · z) v_i``, experts of one neuron with full width (He 2024, arXiv 2407.04153).

    Each head has its own query; keys and experts are shared.
    """

    shared_keys = True

    def make_projections(self) -> None:
        """PEER needs no calibration; measures Σ ŝ² over the slots that a token reads."""
        self.energy = self.heads / self.config.top
        if self.scores.keys.is_meta:
            return
        with torch.no_grad():
            sample = torch.randn(SAMPLES, self.d_model, device=self.scores.keys.device)
            self.energy = self.heads * float(self.select(sample).scores.square().sum((1, 2)).mean())

    def read(self, z: Tensor, rows: Tensor, scores: Tensor, block: Tensor) -> Tensor:
        """Returns the experts' outputs, weighted."""
        assert self.table.pre_values is not None
        hidden = F.gelu(row_products(z, self.table.pre_values, rows))
        return row_sum(scores * hidden.unsqueeze(-1), self.table.values, rows)

    def standard_deviation(self, layers: int) -> float:
        """Gives the output the variance that appendix A has for UltraMemV2; the equation is solved by bisection."""
        if self.config.init == "released":
            return 0.02
        target = target_variance(self.hidden, self.d_model, layers)
        x = torch.linspace(-6, 6, 1001, dtype=torch.float64, device="cpu")
        density = torch.exp(-x.square() / 2) / torch.exp(-x.square() / 2).sum()

        def variance(std: float) -> float:
            """Returns Σ ŝ² E[GELU(p·z)²] σ², p·z of deviation σ √D."""
            return self.energy * std**2 * float((F.gelu(std * self.d_model**0.5 * x).square() * density).sum())

        low, high = 0.0, 10.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if variance(middle) < target else (low, middle)
        return middle


LAYERS: dict[str, type[MemoryLayer]] = {
    "ultramem_v2": UltraMemV2Layer,
    "ultramem": UltraMemLayer,
    "peer": PEERLayer,
    "pkm": PKMLayer,
}


def build_memory(
    config: MemoryConfig,
    d_model: int,
    hidden: int,
    layers: int,
    depth: int | None = None,
    sparse: bool = False,
    boost: tuple[float, float] = (1.0, 1.0),
) -> tuple[ValueTable, list[MemoryLayer]]:
    """Returns a table and the layers that share it.

    Args:
        config: Kind and sizes.
        d_model: D.
        hidden: Inner width of the FFN.
        layers: Memory layers.
        depth: L, blocks of the model, by which the output's variance is divided; by default ``layers``.
        sparse: Whether the table's gradients are sparse.
        boost: See :class:`modules.sequence.ultramem_v2.tables.MemoryRows`.

    Raises:
        UserError: a setting is not accepted.
    """
    config.check()
    if config.kind == "none":
        raise UserError("memory.kind: 'none' has no layers to build")
    ring = Ring(layers, config.n_keys, config.shared_tables)
    width, pre_width = config.widths(d_model)
    table = ValueTable(ring.rows, width, pre_width, sparse, boost)
    made = [LAYERS[config.kind](config, d_model, hidden, table, ring, index) for index in range(layers)]
    deviations = [layer.standard_deviation(depth or layers) for layer in made]
    table.draw(sum(deviations) / layers)
    return table, made


@torch.no_grad()
def refresh(layers: Sequence[MemoryLayer]) -> None:
    """Updates u and t of all layers from their cores, by one batched SVD; called before each training step."""
    tucker = [layer for layer in layers if isinstance(layer, TuckerMemory)]
    if not tucker:
        return
    full = torch.float64 if tucker[0].cores.dtype == torch.float64 else torch.float32
    cores = torch.stack([layer.cores.sum(0) for layer in tucker]).to(full)
    u, t = (torch.stack([getattr(layer, name) for layer in tucker]).to(full) for name in ("u", "t"))
    u, t, _ = leading_pairs(cores, u, t)
    for layer, left, right in zip(tucker, u, t, strict=True):
        layer.u.copy_(left)
        layer.t.copy_(right)


def core_spectrum(layers: Sequence[MemoryLayer]) -> Tensor:
    """Singular values (L, r) of the summed cores of the layers that have one, in descending order; differentiable."""
    cores = [layer.cores.sum(0) for layer in layers if isinstance(layer, TuckerMemory)]
    if not cores:
        return torch.zeros(0, 1)
    return torch.linalg.svdvals(torch.stack(cores).float())


def tucker_penalty(spectrum: Tensor, margin: float) -> Tensor:
    """1/(r−1) Σ_{i≥2} max(0, λ_i − τ)², summed over layers; ``spectrum`` (L, r)."""
    return (spectrum[:, 1:] - margin).clamp(min=0).square().sum() / max(1, spectrum.shape[1] - 1)


def balance_loss(rows: Tensor, columns: Tensor, u: Tensor, t: Tensor, chosen: Selection) -> Tensor:
    """N Σ_n f_n p_n, of rows and of columns, averaged: f_n the share of choices of key n, p_n the mean of the softmax
    of the aggregated scores; 1 if both are uniform.

    Args:
        rows: (r, T, N).
        columns: (r, T, N).
        u: (r,).
        t: (r,).
        chosen: The chosen slots of the same tokens.
    """
    losses = []
    for scores, vector, ids in ((rows, u, chosen.rows), (columns, t, chosen.columns)):
        size = scores.shape[-1]
        ones = scores.new_ones(()).expand(ids.numel())
        share = scores.new_zeros(size).scatter_add_(0, ids.flatten(), ones) / ids.numel()
        chance = torch.einsum("r,rtn->tn", vector, scores).softmax(-1).mean(0)
        losses.append(size * (share * chance).sum())
    return (losses[0] + losses[1]) / 2
