"""Alignment maps: invertible maps of a layer's activity to latents, of growing power (arXiv 2507.08802, section 4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from framework.config.explain import UnknownClass, find_class
from framework.errors import UserError
from framework.settings import at_least, multiple_of, not_one_of

T = TypeVar("T")


class AlignmentMap(nn.Module):
    """The base class: a bijection φ of ℝ^d, with its inverse.

    A subclass defines ``forward`` and ``inverse``; its constructor takes ``features`` first.

    Args:
        features: d.

    Raises:
        UserError: a size is not accepted.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        at_least(1, features=features)
        self.features = features

    def forward(self, h: Tensor) -> Tensor:
        """Maps activity (B, d) to latents (B, d)."""
        raise NotImplementedError

    def inverse(self, z: Tensor) -> Tensor:
        """Maps latents (B, d) to activity (B, d)."""
        raise NotImplementedError


class IdentityMap(AlignmentMap):
    """φ(h) = h: latents are units. The partition is searched greedily, see :class:`CausalAbstraction`.

    Args:
        features: d.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        # It has no numbers: Lightning counts training steps by those of an optimiser, which needs a parameter.
        self.nothing = nn.Parameter(torch.zeros(0))

    def forward(self, h: Tensor) -> Tensor:
        """Returns h."""
        return h

    def inverse(self, z: Tensor) -> Tensor:
        """Returns z."""
        return z


class OrthogonalMap(AlignmentMap):
    """φ(h) = W h with W in O(d), rotations and reflections; the start is a random orthogonal matrix.

    Args:
        features: d.
    """

    def __init__(self, features: int) -> None:
        super().__init__(features)
        layer = nn.Linear(features, features, bias=False)
        nn.init.orthogonal_(layer.weight)
        self.layer = orthogonal(layer)

    def _apply(self, fn: Any, recurse: bool = True) -> OrthogonalMap:
        """Keeps W orthogonal to the new precision, where a matrix of float32 becomes one of float64."""
        base: Any = self.layer.parametrizations.weight[0].base  # type: ignore[index, union-attr]
        before = base.dtype
        super()._apply(fn, recurse)
        base = self.layer.parametrizations.weight[0].base  # type: ignore[index, union-attr]
        if base.dtype == torch.float64 != before and not base.is_meta:
            u, _, v = torch.linalg.svd(base)
            base.copy_(u @ v)
        return self

    @property
    def weight(self) -> Tensor:
        """W (d, d)."""
        return cast(Tensor, self.layer.weight)

    def forward(self, h: Tensor) -> Tensor:
        """Returns W h."""
        return F.linear(h, self.weight)

    def inverse(self, z: Tensor) -> Tensor:
        """Returns Wᵀ z."""
        return F.linear(z, self.weight.T)


class RevNet(AlignmentMap):
    """Additive coupling blocks on the halves (a, b): a' = a + F(b), b' = b + G(a'); volume is preserved.

    F and G are perceptrons with ReLU. Halves are not exchanged between blocks.

    Args:
        features: d, even.
        depth: Number of blocks (the paper's L_rn).
        width: Hidden units of F and G (the paper's d_rn); d by default.
        hidden_layers: Hidden layers of F and G.

    Raises:
        UserError: a size is not accepted.
    """

    def __init__(self, features: int, depth: int = 10, width: int | None = None, hidden_layers: int = 1) -> None:
        super().__init__(features)
        multiple_of(2, features=features)
        at_least(1, depth=depth, width=width, hidden_layers=hidden_layers)
        half, hidden = features // 2, width or features

        def network() -> nn.Sequential:
            layers: list[nn.Module] = [nn.Linear(half, hidden), nn.ReLU()]
            for _ in range(hidden_layers - 1):
                layers += [nn.Linear(hidden, hidden), nn.ReLU()]
            return nn.Sequential(*layers, nn.Linear(hidden, half))

        self.first = nn.ModuleList(network() for _ in range(depth))
        self.second = nn.ModuleList(network() for _ in range(depth))

    def forward(self, h: Tensor) -> Tensor:
        """Applies the blocks in order."""
        a, b = h.chunk(2, -1)
        for f, g in zip(self.first, self.second, strict=True):
            a = a + f(b)
            b = b + g(a)
        return torch.cat([a, b], -1)

    def inverse(self, z: Tensor) -> Tensor:
        """Undoes the blocks, the last one first."""
        a, b = z.chunk(2, -1)
        for f, g in zip(reversed(self.first), reversed(self.second), strict=True):
            b = b - g(a)
            a = a - f(b)
        return torch.cat([a, b], -1)


MAPS: dict[str, type[AlignmentMap]] = {"identity": IdentityMap, "orthogonal": OrthogonalMap, "revnet": RevNet}
"""The maps by name, in the order of their power."""


@dataclass(frozen=True)
class MapConfig:
    """Which alignment map.

    Attributes:
        name: ``identity``, ``orthogonal`` or ``revnet``; or the path of your own class, ``package.module.Class``, a
            subclass of :class:`AlignmentMap`.
        depth: Blocks of a RevNet.
        width: Hidden units within its blocks; as many as the layer has by default.
        hidden_layers: Hidden layers within its blocks.
        args: Arguments of your own class beside ``features``.
    """

    name: str = "revnet"
    depth: int = 10
    width: int | None = None
    hidden_layers: int = 1
    args: dict[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """A short name with the sizes, such as ``revnet 10x16``; a width for each hidden layer."""
        if self.name != "revnet":
            return self.name.rpartition(".")[2]
        return f"revnet {self.depth}" + f"x{'d' if self.width is None else self.width}" * self.hidden_layers


def build_map(config: MapConfig, features: int, may_import: bool = True) -> AlignmentMap:
    """Returns the alignment map of ``config`` for a layer of ``features`` numbers.

    Args:
        config: Which.
        features: d.
        may_import: Whether your own class may be imported; otherwise it has to be already.

    Raises:
        UserError: there is no such map, or it refuses its sizes.
    """
    if config.name == "revnet":
        return RevNet(features, config.depth, config.width, config.hidden_layers)
    if config.name in MAPS:
        return MAPS[config.name](features)
    if "." not in config.name:
        raise UserError(f"alignment.name: {not_one_of(config.name, MAPS)}, or the path of a class")
    return own_class(config.name, AlignmentMap, "alignment.name", {"features": features, **config.args}, may_import)


def own_class(path: str, base: type[T], key: str, arguments: Mapping[str, Any], may_import: bool) -> T:
    """Returns an object of a user's class.

    A checkpoint or an alignment file never makes anything be imported: for those ``may_import`` is false.

    Args:
        path: ``package.module.Class``.
        base: What it is a subclass of.
        key: The setting with its path, for messages.
        arguments: Of its constructor.
        may_import: Whether it may be imported; otherwise it has to be already.

    Raises:
        UserError: there is no such class, or it refuses its arguments.
    """
    if may_import:
        try:
            cls = find_class(path, base)
        except UnknownClass as error:
            raise UserError(f"{key}: {error}") from error
    else:
        known, left = {}, [base]
        while left:
            found = left.pop()
            known[f"{found.__module__}.{found.__qualname__}"] = found
            left += found.__subclasses__()
        if path not in known:
            raise UserError(f"{key}: {path!r} is named by a file, which imports nothing; import it first")
        cls = known[path]
    try:
        return cls(**arguments)
    except TypeError as error:
        raise UserError(f"{key}: {path} refused its arguments: {error}") from error
