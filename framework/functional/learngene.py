"""Learngenes: one base and one slope for every tensor of a transformer's blocks, from which any depth is built.

Block i of L has θ_i = θ_B + (i/L) θ_A, i from 0 to L−1, for each of its tensors: weights, biases and norms (Xia et al.
2024, "Transformer as Linear Expansion of Learngene", arXiv 2312.05614; the coefficient is that of the authors' code,
which never reaches 1). Tensors outside the blocks (embeddings, final norm, head) are shared by all depths.

Models are vision transformers in timm's layout: a module with ``patch_embed`` and ``blocks``. A file holds tensors
``base.<name>``, ``slope.<name>`` and ``shared.<name>`` in safetensors, with heads and depth in its metadata.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.matching import compare_tensors, shortened
from framework.settings import at_least, one_of

Head = Literal["if_fits", "skip", "strict"]


@dataclass(frozen=True)
class LearngeneTensors:
    """The tensors of a learngene, stored once for all depths.

    Attributes:
        base: θ_B by the tensor's name within a block.
        slope: θ_A, with the same names and shapes.
        shared: Tensors outside the blocks, by name within the model; the final norm as ``norm``.
        heads: Number of attention heads of a block, which cannot be seen from shapes; 0 if not known.
        depth: Depth at which it was trained or fitted.
    """

    base: Mapping[str, Tensor]
    slope: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    heads: int = 0
    depth: int = 0

    def parameters_at(self, depth: int) -> int:
        """Returns the number of parameters of a model of this depth."""
        return depth * _numbers(self.base) + _numbers(self.shared)

    @property
    def parameters(self) -> int:
        """The number of stored parameters."""
        return _numbers(self.base) + _numbers(self.slope) + _numbers(self.shared)


def _numbers(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors.values())


def layers(base: Mapping[str, Tensor], slope: Mapping[str, Tensor], depth: int) -> dict[str, Tensor]:
    """Returns θ_B + (i/L) θ_A of every tensor, with the layers along a new first dimension.

    Args:
        base: θ_B by name.
        slope: θ_A by name.
        depth: L.

    Returns:
        Tensors by name, shape ``(L, …)``; differentiable.

    Raises:
        UserError: the depth is below 1.
    """
    at_least(1, depth=depth)
    result = {}
    for name, b in base.items():
        share = torch.arange(depth, dtype=b.dtype, device=b.device) / depth
        result[name] = b + share.view(-1, *[1] * b.ndim) * slope[name]
    return result


def expand(learngene: LearngeneTensors, depth: int) -> dict[str, Tensor]:
    """Returns the state dict of a transformer of a depth: ``blocks.<i>.<name>`` and the shared tensors."""
    stacks = layers(learngene.base, learngene.slope, depth)
    blocks = {f"blocks.{i}.{name}": stack[i] for i in range(depth) for name, stack in stacks.items()}
    return {**blocks, **learngene.shared}


def stacked_blocks(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Splits the state dict of a transformer.

    Returns:
        Tensors of its blocks, by name within a block, shape ``(L, …)``; and all others.

    Raises:
        UserError: there are no blocks, or they differ in names or shapes.
    """
    found: dict[int, dict[str, Tensor]] = {}
    rest = {}
    for key, value in state.items():
        first, _, name = key.removeprefix("blocks.").partition(".")
        if key.startswith("blocks.") and first.isdecimal():
            found.setdefault(int(first), {})[name] = value
        else:
            rest[key] = value
    if not found:
        raise UserError(f"learngene: no tensor is named blocks.<i>.<name>; they are {', '.join([*state][:5])}, …")
    shapes = [{name: tuple(value.shape) for name, value in found[i].items()} for i in sorted(found)]
    if any(other != shapes[0] for other in shapes):
        raise UserError("learngene: the blocks differ in the names or shapes of their tensors")
    names = found[min(found)]
    return {name: torch.stack([found[i][name] for i in sorted(found)]) for name in names}, rest


def fit_line(stack: Tensor) -> tuple[Tensor, Tensor, float]:
    """Fits θ_i = B + (i/L) A over the layers of one tensor by least squares, in double precision.

    Args:
        stack: ``(L, …)``.

    Returns:
        B and A, shape ``(…)``, and R², the share of the variance between layers that the line explains (1 if there is
        no variance).
    """
    rows = stack.double().flatten(1)
    share = torch.arange(len(rows), dtype=torch.float64) / len(rows)
    centred, mean = share - share.mean(), rows.mean(0)
    spread = rows - mean
    slope = centred @ spread / centred.square().sum().clamp(min=1e-300)
    base = mean - share.mean() * slope
    total = float(spread.square().sum())
    left = float((spread - centred[:, None] * slope).square().sum())
    shape = stack.shape[1:]
    return base.view(shape).to(stack.dtype), slope.view(shape).to(stack.dtype), 1 - left / total if total else 1.0


def linearity(state: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns R² of the line over layers (see :func:`fit_line`), by the tensor's name within a block."""
    return {name: fit_line(stack)[2] for name, stack in stacked_blocks(state)[0].items()}


def find_transformers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns submodules with ``patch_embed`` and ``blocks``, by name."""
    return {
        name: part
        for name, part in model.named_modules()
        if isinstance(getattr(part, "patch_embed", None), nn.Module)
        and isinstance(getattr(part, "blocks", None), nn.Module)
    }


def find_transformer(model: nn.Module) -> tuple[str, nn.Module]:
    """Returns the only vision transformer within a model, and its name ('' if it is the model).

    Raises:
        UserError: there is none, or more than one.
    """
    found = find_transformers(model)
    if len(found) != 1:
        what = f"has {len(found)}: {', '.join(found)}" if found else "has none"
        raise UserError(
            "learngene: one vision transformer (a module with patch_embed and blocks) is needed, "
            f"{type(model).__name__} {what}"
        )
    return next(iter(found.items()))


def heads_of(transformer: nn.Module) -> int:
    """Returns the number of attention heads of its blocks; 0 if not known."""
    found = (getattr(part, "num_heads", None) for part in transformer.modules())
    return next((heads for heads in found if isinstance(heads, int)), 0)


def extract_learngene(model: nn.Module) -> LearngeneTensors:
    """Extracts the learngene of a vision transformer, on the CPU.

    If the model's ``blocks`` have ``base`` and ``slope``, these are used; otherwise a line is fitted to the layers of
    each tensor (with one layer, that layer).

    Raises:
        UserError: the model holds no vision transformer, more than one, or one whose blocks differ.
    """
    transformer = find_transformer(model)[1]
    blocks: Any = transformer.blocks
    state = {name: value.detach().cpu().clone() for name, value in transformer.state_dict().items()}
    depth: Any
    own = isinstance(getattr(blocks, "base", None), nn.Module) and isinstance(getattr(blocks, "slope", None), nn.Module)
    if own:
        base, slope = ({n: state.pop(f"blocks.{p}.{n}") for n in blocks.base.state_dict()} for p in ("base", "slope"))
        depth, shared = blocks.depth, state
    else:
        stacks, shared = stacked_blocks(state)
        lines = {name: fit_line(stack) for name, stack in stacks.items()}
        base, slope = ({name: line[part] for name, line in lines.items()} for part in (0, 1))
        depth = len(next(iter(stacks.values())))
    renamed = {_canonical(name): value for name, value in shared.items()}
    return LearngeneTensors(base, slope, renamed, heads_of(transformer), depth)


def _canonical(name: str) -> str:
    """Renames ``fc_norm``, the final norm of models that average before it, to ``norm``."""
    return name.removeprefix("fc_") if name.startswith("fc_norm.") else name


def matched(
    transformer: nn.Module, learngene: LearngeneTensors, head: Head = "if_fits"
) -> tuple[dict[str, Tensor], list[str]]:
    """Returns the values that a learngene gives to a transformer's tensors, at the transformer's depth.

    Args:
        transformer: A transformer in timm's layout; not changed.
        learngene: A learngene of the same width.
        head: Whether the classifier is used: ``if_fits`` if its shape agrees, ``skip`` never, ``strict`` always.

    Returns:
        Values by name within the transformer, and the names of the head's tensors that are not changed.

    Raises:
        UserError: a tensor is missing, unused or of another shape (all are listed), or the numbers of heads differ.
    """
    one_of(get_args(Head), head=head)
    own = transformer.state_dict()
    depth = len(transformer.blocks) if isinstance(transformer.blocks, nn.Sequential | nn.ModuleList) else 0
    if not depth:
        raise UserError(f"learngene: blocks of {type(transformer).__name__} are not a list of layers")
    state = expand(learngene, depth)
    if not any(name.startswith("norm.") for name in own):
        state = {f"fc_{n}" if n.startswith("norm.") else n: value for n, value in state.items()}
    kept: list[str] = []
    if head != "strict":
        names = [name for name in own if name.startswith("head.")]
        fits = all(name in state and state[name].shape == own[name].shape for name in names)
        if head == "skip" or not fits:
            kept = names
            state = {name: value for name, value in state.items() if not name.startswith("head.")}
    fit = compare_tensors({name: value for name, value in own.items() if name not in kept}, state)
    if not fit.complete:
        lines = shortened(fit.problems(own, state))
        raise UserError(f"learngene: does not fit {type(transformer).__name__} at depth {depth}:\n  {lines}")
    heads = heads_of(transformer)
    if learngene.heads and heads and learngene.heads != heads:
        raise UserError(f"learngene: was made with {learngene.heads} attention heads, the model has {heads}")
    return {name: state[name] for name in own if name in state}, kept


@torch.no_grad()
def expand_into(model: nn.Module, learngene: LearngeneTensors, head: Head = "if_fits") -> list[str]:
    """Writes a learngene's expansion into the vision transformer within a model, at the transformer's depth.

    Args:
        model: A model with one vision transformer in timm's layout.
        learngene: A learngene of the same width.
        head: See :func:`matched`.

    Returns:
        Names, within the model, of the head's tensors that keep their values.

    Raises:
        UserError: see :func:`find_transformer` and :func:`matched`; nothing was written.
    """
    name, transformer = find_transformer(model)
    state, kept = matched(transformer, learngene, head)
    own = transformer.state_dict()
    for key, value in state.items():
        own[key].copy_(value)
    return within(name, kept)


def within(owner: str, names: Iterable[str]) -> list[str]:
    """Returns names prefixed by a submodule's name."""
    return [f"{owner}.{name}".lstrip(".") for name in names]
