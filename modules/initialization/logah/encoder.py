"""The encoder of a graph: a Graphormer, whose attention sees how far two operations are apart.

Paper: LoGAH (Zhou, Knyazev, Jolicoeur-Martineau, Fu 2024, arXiv 2405.16287); the encoder is that of GHN-3 (Knyazev,
Hwang, Lacoste-Julien 2023, arXiv 2303.04143).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError
from framework.settings import at_least
from modules.initialization.logah.graph import CUTOFF, OPERATIONS, Graph

DEGREES, DEPTHS, DISTANCES = 101, 1001, 257  # sizes of the tables
KERNELS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 14, 16, 32)
MASKED = -(2.0**15)


def channel_sizes(classes: Sequence[int] = (10, 50257, 32000, 128256)) -> tuple[int, ...]:
    """Returns the numbers of channels that have an embedding; others count as the nearest.

    Args:
        classes: Numbers of outputs to have besides.
    """
    return tuple(sorted({1, 3, *classes, *range(8, 65, 8), *range(64, 4097, 16), *range(4096, 8193, 32)}))


@dataclass(frozen=True)
class GraphBatch:
    """Graphs of one size, padded.

    Attributes:
        operations: (G, n) int64, indices into ``OPERATIONS``.
        shapes: (G, n, 4) int64, indices into the tables of channels (two) and kernels (two).
        degrees: (G, n, 2) int64, edges into and out of each node.
        depths: (G, n) int64, distance from the input.
        distances: (G, n, n) int64.
        mask: (G, n) bool, which nodes there are.
    """

    operations: Tensor
    shapes: Tensor
    degrees: Tensor
    depths: Tensor
    distances: Tensor
    mask: Tensor


def nearest(values: Sequence[int], table: Sequence[int]) -> list[int]:
    """Returns the index of the nearest number of a table for each value; the smaller one of two as near."""
    return [min(range(len(table)), key=lambda i: (abs(table[i] - value), table[i])) for value in values]


class _Lookup:
    """Nearest indices into a table, each value looked for once."""

    def __init__(self, table: Sequence[int]) -> None:
        self.table, self.known = tuple(table), dict[int, int]()

    def __call__(self, value: int) -> int:
        if value not in self.known:
            self.known[value] = nearest([value], self.table)[0]
        return self.known[value]


class GraphEncoder(nn.Module):
    """Maps graphs to an embedding of each operation.

    Args:
        dim: Width d, a multiple of 4 and of ``heads``.
        layers: Transformer layers.
        heads: Attention heads.

    Raises:
        UserError: a number is below 1, or d is not a multiple.
    """

    def __init__(self, dim: int = 64, layers: int = 3, heads: int = 8) -> None:
        super().__init__()
        at_least(1, dim=dim, layers=layers, heads=heads)
        if dim % 4 or dim % heads:
            raise UserError(f"dim: {dim} is not accepted; a multiple of 4 and of the {heads} heads")
        self.channels, self.kernels = _Lookup(channel_sizes()), _Lookup(KERNELS)
        self.operation = nn.Embedding(len(OPERATIONS), dim)
        self.channel = nn.Embedding(len(self.channels.table), dim // 4)
        self.kernel = nn.Embedding(len(self.kernels.table), dim // 4)
        self.degree_in, self.degree_out = nn.Embedding(DEGREES, dim), nn.Embedding(DEGREES, dim)
        self.depth = nn.Embedding(DEPTHS, dim)
        self.distance = nn.Embedding(DISTANCES, dim, padding_idx=0)
        with torch.no_grad():
            self.distance.weight[1:] = sinusoids(DISTANCES - 1, dim)
            self.distance.weight[0] = 0
        self.edge = nn.Sequential(nn.Linear(2 * dim, dim), nn.ReLU(), nn.Linear(dim, heads))
        self.layers = nn.ModuleList(_Layer(dim, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)

    def batch(self, graphs: Sequence[Graph]) -> GraphBatch:
        """Returns padded indices of graphs, on the encoder's device.

        Args:
            graphs: The graphs.
        """
        count, size = len(graphs), max(len(graph.nodes) for graph in graphs)
        operations, depths = torch.zeros(count, size, dtype=torch.long), torch.zeros(count, size, dtype=torch.long)
        shapes = torch.zeros(count, size, 4, dtype=torch.long)
        degrees, mask = torch.zeros(count, size, 2, dtype=torch.long), torch.zeros(count, size, dtype=torch.bool)
        distances = torch.zeros(count, size, size, dtype=torch.long)
        for row, graph in enumerate(graphs):
            n = len(graph.nodes)
            operations[row, :n] = torch.tensor([OPERATIONS.index(node.operation) for node in graph.nodes])
            shapes[row, :n] = torch.tensor(
                [[*map(self.channels, node.shape[:2]), *map(self.kernels, node.shape[2:])] for node in graph.nodes]
            )
            found = graph.distances
            degrees[row, :n, 0], degrees[row, :n, 1] = (found == 1).sum(0), (found == 1).sum(1)
            depths[row, :n], distances[row, :n, :n], mask[row, :n] = found[0], found, True
        made = GraphBatch(
            operations, shapes, degrees.clamp(max=DEGREES - 1), depths.clamp(max=DEPTHS - 1), distances, mask
        )
        device = self.operation.weight.device
        return GraphBatch(*(part.to(device) for part in vars(made).values()))

    def forward(self, graphs: GraphBatch) -> Tensor:
        """Returns embeddings (G, n, d); those of padding are meaningless.

        Args:
            graphs: The graphs.
        """
        channels, kernels = self.channel(graphs.shapes[..., :2]), self.kernel(graphs.shapes[..., 2:])
        x = self.operation(graphs.operations) + torch.cat([channels.flatten(2), kernels.flatten(2)], 2)
        x = x + self.degree_in(graphs.degrees[..., 0]) + self.degree_out(graphs.degrees[..., 1])
        x = x + self.depth(graphs.depths)
        there = graphs.distances.clamp(max=CUTOFF)
        index = torch.where(there > 0, there + 2, 0)
        both = torch.cat([self.distance(index), self.distance(index.transpose(1, 2))], 3)
        bias = self.edge(both).permute(0, 3, 1, 2)  # (G, heads, n, n)
        bias = bias.masked_fill(~graphs.mask[:, None, None, :], MASKED)
        for layer in self.layers:
            x = layer(x, bias)
        return self.norm(x)


class _Layer(nn.Module):
    """A transformer layer with normalisation first."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        count, size, dim = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(count, size, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        x = x + self.proj(attended.transpose(1, 2).reshape(count, size, dim))
        return x + self.mlp(self.norm2(x))


def sinusoids(count: int, dim: int) -> Tensor:
    """Returns the sines and cosines (count, dim) of positions, as of a transformer.

    Args:
        count: Number of positions.
        dim: Even number of values.
    """
    places = torch.arange(count)[:, None]
    rates = torch.exp(torch.arange(0, dim, 2) * (-math.log(10000.0) / dim))
    return torch.stack([torch.sin(places * rates), torch.cos(places * rates)], 2).flatten(1)
