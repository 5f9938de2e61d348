"""Operations on the two members: growing, folding, extracting one, loading one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from callbacks.mixture_growth.conversion import growing_layers, phase_of, set_phase, template_layers
from callbacks.mixture_growth.layers import GROWN, Growing, PerChannel, TemplateLayer
from framework.errors import UserError
from framework.settings import at_least, one_of

Mode = Literal["orthogonal", "orthogonal_all", "zero", "copy", "random", "none"]


def check_growth(mode: Mode, scale: float) -> None:
    """Checks the settings of growing.

    Raises:
        UserError: a setting is not accepted; the message names it.
    """
    one_of(get_args(Mode), mode=mode)
    at_least(0, scale=scale)


def least_direction(vectors: Tensor) -> Tensor:
    """Returns the unit vector with the smallest sum of squared products with the rows of ``(n, T)``.

    It is orthogonal to all of them if T > n. Its largest entry is positive.
    """
    vector = torch.linalg.svd(vectors.double(), full_matrices=True).Vh[-1]
    return vector * vector[vector.abs().argmax()].sign()


@torch.no_grad()
def new_coefficients(layer: TemplateLayer, mode: Mode = "orthogonal", scale: float = 1.0) -> None:
    """Writes the coefficients of the two new blocks of a layer; a layer that is split on one side only has none.

    ``orthogonal`` (the official code's): alpha_2 is kept, alpha_3 is the direction in which alpha_0, alpha_1 and
    alpha_2 vary least. ``orthogonal_all``: the same for alpha_2 first. ``zero``: zeros. ``copy``: alpha_0 and alpha_1
    plus noise of norm ``scale``. ``random``: uniform in [0, scale). ``none``: the initial values are kept.

    Args:
        layer: The template layer.
        mode: One of :data:`MODES`.
        scale: Norm of ``copy``'s noise, ``random``'s range and length of orthogonal coefficients.
    """
    check_growth(mode, scale)
    alphas = layer.alphas()
    if len(alphas) < 4 or mode == "none":
        return
    for number in (3,) if mode == "orthogonal" else (2, 3):
        alpha = alphas[number]
        if mode.startswith("orthogonal"):
            alpha.copy_(scale * least_direction(torch.stack([a.detach() for a in alphas[:number]])))
        elif mode == "zero":
            alpha.zero_()
        else:
            noise = torch.rand(alpha.shape).to(alpha)
            alpha.copy_(alphas[number - 2] + scale * noise / noise.norm() if mode == "copy" else scale * noise)


@torch.no_grad()
def normalise_members(layer: TemplateLayer) -> None:
    """Scales member 0's templates and coefficients to the norms of member 1's."""
    for first, second in ((layer.templates_0, layer.templates_1), (layer.alpha_0, layer.alpha_1)):
        first.mul_(second.norm() / first.norm())  # for templates shared by several layers this is 1 after the first


@torch.no_grad()
def write_growth(model: nn.Module, mode: Mode = "orthogonal", scale: float = 1.0, normalise: bool = False) -> None:
    """Writes the values of the grown network: new coefficients, joined biases and norms. The phase is not changed.

    Args:
        model: A model with growing layers; changed in place.
        mode: See :func:`new_coefficients`.
        scale: Scale of ``mode``, 0 or more.
        normalise: Whether member 0 is first scaled to the norms of member 1.

    Raises:
        UserError: the mode or the scale is not accepted.
    """
    check_growth(mode, scale)
    for _, layer in growing_layers(model):
        if isinstance(layer, PerChannel):
            layer.join()
        elif isinstance(layer, TemplateLayer):
            if normalise:
                normalise_members(layer)
            new_coefficients(layer, mode, scale)
            if layer.has_bias:
                pair: list[Any] = [layer.bias_0, layer.bias_1]
                layer.bias_grown.copy_(pair[0] + pair[1] if layer.kind == "in" else torch.cat(pair))


def grow(
    model: nn.Module,
    mode: Mode = "orthogonal",
    scale: float = 1.0,
    *,
    freeze_members: bool = False,
    normalise: bool = False,
) -> None:
    """Grows a converted model to its full width, in place; new values come from the global generators.

    With ``mode: zero`` the logits are the sum of the members' logits, for models converted as a whole.

    Args:
        model: The converted model with trained members.
        mode: Initialisation of the new blocks' coefficients, see :func:`new_coefficients`.
        scale: See :func:`new_coefficients`.
        freeze_members: Whether the members' coefficients are frozen afterwards.
        normalise: Whether member 0 is scaled to the norms of member 1 first.

    Raises:
        UserError: the model was not converted, or a setting is not accepted.
    """
    if phase_of(model) is None:
        raise UserError("mixture_growth: the model has no layers made of templates; convert it first")
    write_growth(model, mode, scale, normalise)
    set_phase(model, GROWN, freeze_members)


@torch.no_grad()
def copy_member(model: nn.Module, noise: float = 0.01) -> None:
    """Initialises member 1 with member 0 plus Gaussian noise of this standard deviation on its templates."""
    done: set[int] = set()
    for _, layer in growing_layers(model):
        if isinstance(layer, PerChannel):
            for _, first, second, _ in layer.tensors():
                second.copy_(first[: len(second)] if first.ndim else first)
        elif isinstance(layer, TemplateLayer):
            layer.alpha_1.copy_(layer.alpha_0)
            if layer.has_bias:
                layer.bias_1.copy_(layer.bias_0[: len(layer.bias_1)])
            if id(layer.templates_1) not in done:
                done.add(id(layer.templates_1))
                first, second = layer.banks()
                second.copy_(first + noise * torch.randn(first.shape).to(first))


def fold_(model: nn.Module) -> nn.Module:
    """Replaces the converted layers by plain layers of the original classes; the model's output does not change.

    In a member's phase they have full width, with zeros for the other member.
    """
    made: dict[int, nn.Module] = {}
    for module in list(model.modules()):
        for attribute, child in list(module._modules.items()):
            if isinstance(child, TemplateLayer | PerChannel):
                made.setdefault(id(child), child.folded())
                setattr(module, attribute, made[id(child)])
    return model


def _converted(model: nn.Module) -> dict[str, Growing]:
    layers = dict(growing_layers(model))
    if not layers:
        raise UserError("mixture_growth: the model has no layers made of templates; convert it first")
    return layers


def _of_member(layer: Any, index: int) -> Iterator[tuple[str, Tensor]]:
    if isinstance(layer, PerChannel):
        yield from (layer.member_0, layer.member_1)[index].state_dict().items()
        return
    with torch.no_grad():
        yield "weight", layer.as_rows(layer.block(index)).contiguous()
    if layer.has_bias:
        yield "bias", getattr(layer, f"bias_{index}").detach()


def member(model: nn.Module, index: int) -> dict[str, Tensor]:
    """Returns member ``index`` as the state dict of a plain network of half the width, including shared tensors.

    Args:
        model: The converted model, in any phase.
        index: 0 or 1.

    Raises:
        UserError: there is no such member, or the model was not converted.
    """
    if index not in (0, 1):
        raise UserError(f"mixture_growth.member: {index} is not accepted; 0 or 1")
    layers = _converted(model)
    state = {}
    for key, value in model.state_dict().items():
        name = next((n for n in layers if key.startswith(f"{n}.")), None)
        if name is None:
            state[key] = value.detach().clone()
    for name, layer in layers.items():
        state |= {f"{name}.{key}": value.detach().clone() for key, value in _of_member(layer, index)}
    return state


@torch.no_grad()
def load_member(
    model: nn.Module, index: int, state: Mapping[str, Tensor], source: int = 0, shared: bool = False
) -> list[str]:
    """Loads trained values into one member.

    ``state`` is that of a converted model, of which member ``source`` is used, or of a plain network of half the width;
    then the templates get the smallest correction, in the Euclidean norm, with which the block has that weight.

    Args:
        model: The converted model.
        index: The member to write to, 0 or 1.
        state: Tensors by name, as in ``model`` or from :func:`member`.
        source: The member of a converted model's state.
        shared: Whether shared tensors are loaded too.

    Returns:
        The names of the tensors that were written.

    Raises:
        UserError: the model was not converted; a tensor is missing or has another shape; layers that share templates
            are given plain weights.
    """
    if index not in (0, 1) or source not in (0, 1):
        raise UserError(f"mixture_growth.member: {index} and {source} are not accepted; 0 or 1")
    written: list[str] = []

    def take(target: Tensor, key: str) -> None:
        if key not in state:
            raise UserError(f"mixture_growth.load_member: {key} is missing in the loaded state")
        if target.shape != state[key].shape:
            found, expected = tuple(state[key].shape), tuple(target.shape)
            raise UserError(f"mixture_growth.load_member: {key} is {found}, {expected} was expected")
        target.copy_(state[key])
        written.append(key)

    layers = _converted(model)
    tied = [id(layer.templates_0) for _, layer in template_layers(model)]
    for name, layer in layers.items():
        if isinstance(layer, PerChannel):
            part = (layer.member_0, layer.member_1)[index]
            prefix = f"{name}.member_{source}"
            prefix = prefix if any(key.startswith(f"{prefix}.") for key in state) else name
            for key, tensor in part.state_dict(keep_vars=True).items():
                take(tensor, f"{prefix}.{key}")
        elif isinstance(layer, TemplateLayer):
            bank, alpha = layer.banks()[index], layer.alphas()[index]
            converted = f"{name}.templates_{source}" in state
            if converted:
                take(bank, f"{name}.templates_{source}")
                take(alpha, f"{name}.alpha_{source}")
            else:
                if tied.count(id(layer.templates_0)) > 1:
                    raise UserError(f"mixture_growth.load_member: {name} shares templates; give a converted state")
                weight = torch.empty_like(layer.as_rows(layer.block(index)))
                take(weight, f"{name}.weight")
                missing = layer.as_rows(weight) - layer.block(index)
                if not alpha.any():
                    alpha[0] = 1.0
                    missing = layer.as_rows(weight) - layer.block(index)
                corner = bank[:, : missing.shape[0], : missing.shape[1]]
                corner += alpha.view(-1, *[1] * missing.ndim) * missing / alpha.square().sum()
            if layer.has_bias:
                take(getattr(layer, f"bias_{index}"), f"{name}.bias_{source}" if converted else f"{name}.bias")
    if shared:
        for key, tensor in model.state_dict(keep_vars=True).items():
            if not any(key.startswith(f"{name}.") for name in layers) and key not in written:
                take(tensor, key)
    return written
