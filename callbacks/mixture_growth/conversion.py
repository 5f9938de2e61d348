"""Plans which layers of a model are converted to templates, and converts them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from torch import nn

from callbacks.mixture_growth.layers import (
    GROWN,
    MEMBER_SETS,
    Growing,
    Init,
    Kind,
    PerChannel,
    TemplateBatchNorm,
    TemplateConv1d,
    TemplateConv2d,
    TemplateLayer,
    TemplateLinear,
)
from framework.editing import matches, nothing_matches
from framework.editing.names import all_names
from framework.errors import UserError
from framework.settings import at_least, one_of

CHANNELS = "channels"
# Names of the two layers of a transformer's MLP, relative to one module; the first may be several side by side.
PAIRS = (
    (("fc1",), "fc2"),
    (("c_fc",), "c_proj"),
    (("linear1",), "linear2"),
    (("gate_proj", "up_proj"), "down_proj"),
    (("lin1",), "lin2"),
    (("wi",), "wo"),
    (("wi_0", "wi_1"), "wo"),
    (("w1", "w3"), "w2"),
    (("w1",), "w2"),
    (("fc1_g", "fc1_x"), "fc2"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
    (("intermediate.dense",), "output.dense"),
    (("up_proj",), "down_proj"),
)
_COUPLING = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm, nn.CrossMapLRN2d)
_BATCH_NORM = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)


def is_weight_layer(module: nn.Module) -> bool:
    """Returns whether a plain layer can be converted: Linear, Conv1d and Conv2d without groups, GPT-2's Conv1D."""
    kind = type(module)
    if kind is nn.Linear or (kind.__name__ == "Conv1D" and kind.__module__.startswith("transformers.")):
        return True
    return kind in (nn.Conv1d, nn.Conv2d) and getattr(module, "groups", 0) == 1


def channels_of(module: nn.Module) -> int | None:
    """Returns the channels of a layer that treats them independently; ``None`` for any other."""
    if isinstance(module, _BATCH_NORM):
        return int(module.num_features)
    if type(module) is nn.PReLU and module.num_parameters > 1:
        return module.num_parameters
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        depthwise = 1 < module.groups == module.in_channels == module.out_channels
        return module.groups if depthwise and type(module) in (nn.Conv1d, nn.Conv2d) else None
    return None


def reason_against(module: nn.Module) -> str:
    """Returns why a network with this module cannot be split into two members."""
    kind = type(module)
    if isinstance(module, _COUPLING) or "LayerNorm" in kind.__name__ or "RMSNorm" in kind.__name__:
        return "it couples channels, so that two members side by side are not the wide network"
    if isinstance(module, nn.MultiheadAttention) or "ttention" in kind.__name__:
        return "attention is left whole"
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return "recurrent layers are not made of templates"
    if isinstance(module, nn.modules.conv._ConvNd) and getattr(module, "groups", 1) > 1:
        return f"it has {module.groups} groups; convolutions need 1, or as many as channels"
    if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
        return f"only Linear, Conv1d and Conv2d themselves are made of templates, not {kind.__name__}"
    return "its parameters are of a kind that is not known"


def _own(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _tied(model: nn.Module) -> dict[int, list[str]]:
    return {key: names for key, names in all_names(model).items() if len(names) > 1}


def _is_tied(module: nn.Module, tied: Mapping[int, list[str]]) -> bool:
    return any(id(parameter) in tied for parameter in module.parameters(recurse=False))


def obstacles(model: nn.Module) -> dict[str, str]:
    """Returns the modules because of which a model cannot be split as a whole, with the reasons."""
    found = {}
    tied = _tied(model)
    for name, module in model.named_modules():
        if isinstance(module, Growing):
            found[name] = "it is made of templates already"
        elif isinstance(module, _COUPLING):
            found[name] = reason_against(module)
        elif _own(module):
            if not is_weight_layer(module) and channels_of(module) is None:
                found[name or type(module).__name__] = reason_against(module)
            elif _is_tied(module, tied):
                found[name] = "its weight is tied to another's"
    return found


def classifiers(model: nn.Module) -> list[str]:
    """Returns the names of a model's output layers (from ``get_classifier``, as in timm's models)."""
    layers: set[int] = set()
    for module in model.modules():
        get = getattr(module, "get_classifier", None)
        if callable(get):
            with contextlib.suppress(NotImplementedError, AttributeError, TypeError):
                found = get()
                layers |= {id(part) for part in found.modules()} if isinstance(found, nn.Module) else set()
    return [name for name, module in model.named_modules() if id(module) in layers and is_weight_layer(module)]


def _whole(model: nn.Module, inputs: Sequence[str] | None, outputs: Sequence[str] | None) -> dict[str, str]:
    """Plans to convert every layer: the first split over outputs, the output layer over inputs, others both ways."""
    weights = [name for name, module in model.named_modules() if is_weight_layer(module)]
    if len(weights) < 2:
        raise UserError("mixture_growth: a network of two layers or more is needed")
    first = _named(weights, inputs, "input_layers") if inputs else weights[:1]
    last = _named(weights, outputs, "output_layers") if outputs else classifiers(model) or weights[-1:]
    if both := set(first) & set(last):
        raise UserError(f"mixture_growth.output_layers: {sorted(both)[0]} is also the first layer, nothing is between")
    start = weights.index(first[0])
    kinds, seen = {}, 0
    for name, module in model.named_modules():
        if name in weights:
            seen = max(seen, weights.index(name) + 1)
            kinds[name] = "out" if name in first else "in" if name in last else "both"
        elif channels_of(module) is not None:
            if seen <= start:
                raise UserError(
                    f"mixture_growth.layers: {name} ({type(module).__name__}) comes before {first[0]}, where there is "
                    "nothing to split yet; name the layers, or leave it out of the model"
                )
            kinds[name] = CHANNELS
    return kinds


def _named(names: Sequence[str], patterns: Sequence[str], key: str) -> list[str]:
    for pattern in patterns:
        if not any(matches(name, [pattern]) for name in names):
            raise nothing_matches(pattern, names, f"mixture_growth.{key}")
    return [name for name in names if matches(name, patterns)]


def _inside(model: nn.Module) -> dict[str, str]:
    """Plans to convert pairs of layers in transformers' MLPs: the first split over outputs, the second over inputs."""
    kinds: dict[str, str] = {}
    tied = _tied(model)
    for prefix, parent in model.named_modules():
        for firsts, second in PAIRS:
            layers = [_sub(parent, name) for name in (*firsts, second)]
            if not all(layer is not None and is_weight_layer(layer) for layer in layers):
                continue
            if any(_is_tied(layer, tied) for layer in layers if layer is not None):
                continue
            widths = [_widths(layer) for layer in layers if layer is not None]
            between = getattr(parent, "norm", None)  # between the two in timm
            coupled = isinstance(between, nn.Module) and any(True for _ in between.parameters())
            names = [f"{prefix}.{name}".lstrip(".") for name in (*firsts, second)]
            if coupled or any(name in kinds for name in names):
                continue
            if any(width[1] != widths[-1][0] for width in widths[:-1]) or widths[-1][0] < 2:
                continue  # gated in one layer: its halves belong together
            kinds |= {**dict.fromkeys(names[:-1], "out"), names[-1]: "in"}
    return kinds


def _sub(parent: nn.Module, name: str) -> nn.Module | None:
    with contextlib.suppress(AttributeError):
        return parent.get_submodule(name)
    return None


def _widths(layer: nn.Module) -> tuple[int, int]:
    weight: Any = layer.weight
    rows = weight.t() if type(layer).__name__ == "Conv1D" else weight
    return int(rows.shape[1]), int(rows.shape[0])


def plan_layers(
    model: nn.Module,
    layers: Mapping[str, str] | None = None,
    input_layers: Sequence[str] | None = None,
    output_layers: Sequence[str] | None = None,
) -> dict[str, str]:
    """Returns which layers to convert: maps names to ``both``, ``in``, ``out`` or ``channels``.

    With ``layers``, only those. Otherwise every layer, if every parameter of the model belongs to a layer that can be
    split (then the grown network with zero coefficients is the sum of its members); else the pairs of layers inside
    transformers' MLPs, with everything else shared by the members.

    Args:
        model: Any module.
        layers: Maps names or patterns to ``both``, ``in`` or ``out`` (batch norms: any of them).
        input_layers: In a fully converted model, layers that read its input; the first by default.
        output_layers: Layers that compute its output; ``get_classifier()`` or the last by default.

    Raises:
        UserError: nothing can be converted (the message has the reasons), a pattern matches nothing, or a named layer
            cannot be converted.
    """
    if layers is not None:
        return _explicit(model, layers)
    against = obstacles(model)
    if not against:
        return _whole(model, input_layers, output_layers)
    inside = {} if "it is made of templates already" in against.values() else _inside(model)
    if inside and (input_layers or output_layers):
        key = "input_layers" if input_layers else "output_layers"
        raise UserError(f"mixture_growth.{key}: not accepted if only the MLPs inside blocks are split; give layers")
    if inside:
        return inside
    lines = [f"{name} ({_kind(model, name)}): {reason}" for name, reason in list(against.items())[:8]]
    more = f"\n  and {len(against) - 8} more" if len(against) > 8 else ""
    raise UserError(
        "mixture_growth.layers: this model is not converted by itself; every layer with parameters must be Linear, "
        "Conv1d, Conv2d (one group, or depthwise), batch norm or PReLU, or there must be transformers' MLPs "
        "(fc1/fc2, c_fc/c_proj, …). Name layers with 'in', 'out' or 'both', or remove:\n  " + "\n  ".join(lines) + more
    )


def _kind(model: nn.Module, name: str) -> str:
    layer = _sub(model, name)
    return type(layer if layer is not None else model).__name__


def _explicit(model: nn.Module, layers: Mapping[str, str]) -> dict[str, str]:
    if not layers:
        raise UserError("mixture_growth.layers: {} is not accepted; names or patterns to both, in or out, or null")
    names = [name for name, module in model.named_modules() if name]
    tied = _tied(model)
    kinds: dict[str, str] = {}
    for pattern, kind in layers.items():
        one_of(get_args(Kind), **{f"mixture_growth.layers.{pattern}": kind})
        found = [name for name in names if matches(name, [pattern]) and _own(model.get_submodule(name))]
        if not found:
            raise nothing_matches(pattern, [n for n in names if _own(model.get_submodule(n))], "mixture_growth.layers")
        for name in found:
            module = model.get_submodule(name)
            if isinstance(module, Growing):
                raise UserError(f"mixture_growth.layers: {name} is made of templates already")
            if channels_of(module) is not None:
                kinds[name] = CHANNELS
            elif not is_weight_layer(module):
                raise UserError(
                    f"mixture_growth.layers: {name} ({type(module).__name__}) cannot be converted: "
                    f"{reason_against(module)}"
                )
            elif _is_tied(module, tied):
                raise UserError(f"mixture_growth.layers: {name} cannot be converted: its weight is tied to another's")
            else:
                kinds[name] = kind
    return {name: kinds[name] for name in names if name in kinds}


def describe(
    model: nn.Module,
    kinds: Mapping[str, str],
    templates: int = 2,
    member_sets: Sequence[int] = MEMBER_SETS[0],
    init: Init = "kaiming",
) -> dict[str, dict[str, Any]]:
    """Returns the description of each layer that :func:`convert` needs, as plain data.

    Args:
        model: The model before the conversion.
        kinds: The plan from :func:`plan_layers`.
        templates: T.
        member_sets: The set of each block.
        init: Initialisation of the templates, see :class:`~callbacks.mixture_growth.layers.TemplateLayer`.

    Raises:
        UserError: a setting is not accepted.
    """
    at_least(1, templates=templates)
    if tuple(member_sets) not in MEMBER_SETS:
        accepted = " or ".join(str(list(sets)) for sets in MEMBER_SETS)
        raise UserError(f"member_template_sets: {list(member_sets)} is not accepted; {accepted}")
    one_of(get_args(Init), init=init)
    found: dict[str, dict[str, Any]] = {}
    for name, kind in kinds.items():
        layer: Any = model.get_submodule(name)
        if kind == CHANNELS:
            found[name] = {"kind": kind}
            continue
        inputs, outputs = _widths(layer)
        for width, sides, what in ((inputs, ("both", "in"), "inputs"), (outputs, ("both", "out"), "outputs")):
            if kind in sides and width < 2:
                raise UserError(f"mixture_growth.layers: {name} has {width} {what}, which cannot be split")
        member_inputs = inputs if kind == "out" else (inputs + 1) // 2
        size = layer.weight[0, 0].numel() if layer.weight.ndim > 2 else 1
        drawn = layer.bias is not None and not layer.weight.is_meta and bool(layer.bias.detach().any())
        found[name] = {
            "kind": kind,
            "templates": int(templates),
            "member_sets": list(member_sets) if kind == "both" else list(member_sets)[:2],
            "init": init,
            "deviation": _deviation(layer) * math.sqrt(inputs / member_inputs) if init == "layer" else 1.0,
            "bias_bound": 1 / math.sqrt(member_inputs * size) if drawn else 0.0,
        }
    return found


def _deviation(layer: Any) -> float:
    return float(layer.weight.detach().float().std(correction=0))


def bank_groups(layers: Mapping[str, Mapping[str, Any]], model: nn.Module) -> list[list[str]]:
    """Returns groups of layers that can share templates: of the same class, kind, number and shape of templates."""
    groups: dict[Any, list[str]] = {}
    for name, settings in layers.items():
        if settings["kind"] != CHANNELS:
            layer = model.get_submodule(name)
            inputs, outputs = _widths(layer)
            rest = tuple(layer.weight.shape[2:])  # type: ignore[union-attr,operator,index]
            key = (type(layer), settings["kind"], settings["templates"], (inputs + 1) // 2, (outputs + 1) // 2, rest)
            whole = (inputs if settings["kind"] == "out" else 0, outputs if settings["kind"] == "in" else 0)
            groups.setdefault((*key, whole), []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def convert(
    model: nn.Module, layers: Mapping[str, Mapping[str, Any]], banks: Iterable[Sequence[str]] = (), phase: int = 0
) -> list[str]:
    """Replaces layers as described, in place, and sets the phase; converted layers are not converted again.

    Values that have to be drawn are zeros; see :func:`initialise`.

    Args:
        model: Any module.
        layers: The descriptions from :func:`describe`.
        banks: Groups of layers that share their sets of templates.
        phase: 0, 1 or 2.

    Returns:
        Names of the layers that were replaced.
    """
    places: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for attribute, child in module._modules.items():
            if child is not None:
                places.setdefault(id(child), []).append((module, attribute))
    replaced = []
    for name, settings in layers.items():
        old = model.get_submodule(name)
        if isinstance(old, Growing):
            continue
        new = _made(old, settings)
        for parent, attribute in places[id(old)]:
            setattr(parent, attribute, new)
        replaced.append(name)
    for group in banks:
        first: Any = model.get_submodule(group[0])
        for name in group[1:]:
            layer: Any = model.get_submodule(name)
            layer.templates_0, layer.templates_1 = first.templates_0, first.templates_1
    set_phase(model, phase)
    return replaced


def _made(old: nn.Module, settings: Mapping[str, Any]) -> Growing:
    arguments = dict(settings)
    if arguments["kind"] == CHANNELS:
        width = channels_of(old)
        assert width is not None
        return TemplateBatchNorm(old) if isinstance(old, _BATCH_NORM) else PerChannel(old, width)
    makers: dict[type, Callable[..., TemplateLayer]] = {nn.Conv1d: TemplateConv1d, nn.Conv2d: TemplateConv2d}
    return makers.get(type(old), TemplateLinear)(old, **arguments)


def initialise(model: nn.Module) -> None:
    """Draws templates, coefficients and biases of every template layer from the global generators."""
    for _, layer in template_layers(model):
        layer.reset_parameters()


def convert_to_templates(
    model: nn.Module,
    layers: Mapping[str, str] | None = None,
    input_layers: Sequence[str] | None = None,
    output_layers: Sequence[str] | None = None,
    *,
    templates: int = 2,
    member_template_sets: Sequence[int] = MEMBER_SETS[0],
    init: Init = "kaiming",
    banks: bool = False,
) -> dict[str, str]:
    """Converts a model to templates, in place, in phase 0 with new values (Pham et al. 2024).

    Args:
        model: Any module.
        layers: See :func:`plan_layers`.
        input_layers: See :func:`plan_layers`.
        output_layers: See :func:`plan_layers`.
        templates: T, number of templates in each of a layer's two sets.
        member_template_sets: The set of each block: ``[0, 1, 0, 1]`` or ``[0, 1, 1, 0]``.
        init: ``kaiming``, ``official`` or ``layer``.
        banks: Whether layers of the same shape share their sets of templates.

    Returns:
        The converted layers: name to ``both``, ``in``, ``out`` or ``channels``.

    Raises:
        UserError: the model cannot be converted, or a setting is not accepted.
    """
    kinds = plan_layers(model, layers, input_layers, output_layers)
    described = describe(model, kinds, templates, member_template_sets, init)
    convert(model, described, bank_groups(described, model) if banks else ())
    initialise(model)
    return kinds


def growing_layers(model: nn.Module) -> Iterator[tuple[str, Growing]]:
    """Returns every converted layer once, with its first name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, Growing))


def template_layers(model: nn.Module) -> Iterator[tuple[str, TemplateLayer]]:
    """Returns every template layer once, with its first name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, TemplateLayer))


def set_phase(model: nn.Module, phase: int, freeze_members: bool = False) -> None:
    """Selects which part computes and is trained: member 0, member 1 or the full width (2).

    Args:
        model: The converted model.
        phase: 0, 1 or 2.
        freeze_members: Whether the members' coefficients are frozen in phase 2.

    Raises:
        UserError: there is no such phase, or the model was not converted.
    """
    if phase not in (0, 1, GROWN):
        raise UserError(f"mixture_growth.phase: {phase} is not accepted; 0, 1 (members) or 2 (grown)")
    layers = list(growing_layers(model))
    if not layers:
        raise UserError("mixture_growth: the model has no layers made of templates; convert it first")
    for _, layer in layers:
        layer.phase = phase
        for name, parameter in layer.named_parameters():
            learns = layer.learns(name, phase, freeze_members)
            parameter.requires_grad_(learns)
            if not learns:
                parameter.grad = None


def phase_of(model: nn.Module) -> int | None:
    """Returns the model's phase; ``None`` if it has no converted layers."""
    return next((layer.phase for _, layer in growing_layers(model)), None)
