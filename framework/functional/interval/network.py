"""Interval arithmetic along the graph of a network.

Paper: Understanding Certified Training with Interval Bound Propagation (Mao, Mueller, Fischer, Vechev 2024,
arXiv 2306.10426). A linear or convolutional layer maps centre and half-width to W c + b and |W| r, ReLU maps both
bounds, batch norm and normalisation multiply the half-width by |w|. The last linear layer is merged with the
differences of logits before the absolute value is taken (elision): row j of it is w_j − w_label.

The network is traced by ``torch.fx`` (without inputs), so residual sums and constants in ``forward`` are followed. An
operation without a rule is refused by name. Bounds are those of exact arithmetic; rounding is not accounted for.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.functional.interval.boxes import Box, box_between, pixel_box

ACCEPTED = (
    "linear and convolutional layers (padding with zeros), batch norm, ReLU, pooling, flatten and reshaping, dropout, "
    "sums, and sums and products with constants"
)
_CONV: dict[type[nn.Module], Callable[..., Tensor]] = {nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_SAME = (
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.AvgPool3d,
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.ZeroPad1d,
    nn.ZeroPad2d,
    nn.ZeroPad3d,
)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_LARGEST = (
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
_AFFINE_FUNCTIONS = (F.linear, F.conv1d, F.conv2d, F.conv3d, operator.matmul, torch.matmul)
_RELU_FUNCTIONS = (F.relu, F.relu_, torch.relu, torch.relu_)
_SAME_FUNCTIONS = (
    torch.flatten,
    torch.mean,
    torch.reshape,
    torch.squeeze,
    torch.unsqueeze,
    torch.permute,
    torch.transpose,
    F.avg_pool1d,
    F.avg_pool2d,
    F.avg_pool3d,
    F.adaptive_avg_pool1d,
    F.adaptive_avg_pool2d,
    F.adaptive_avg_pool3d,
)
_LARGEST_FUNCTIONS = (
    F.max_pool1d,
    F.max_pool2d,
    F.max_pool3d,
    torch.max_pool1d,
    torch.max_pool2d,
    F.adaptive_max_pool1d,
    F.adaptive_max_pool2d,
    F.adaptive_max_pool3d,
)
_DROPOUT_FUNCTIONS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout)
_SAME_METHODS = (
    "contiguous",
    "flatten",
    "mean",
    "permute",
    "reshape",
    "squeeze",
    "transpose",
    "type_as",
    "unflatten",
    "unsqueeze",
    "view",
)
_SHAPES = ("dim", "size", "numel")
_ATTRIBUTES = ("shape", "ndim", "dtype", "device")
_ADD = (operator.add, operator.iadd, torch.add)
_SUB = (operator.sub, operator.isub, torch.sub)
_MUL = (operator.mul, operator.imul, torch.mul)
_DIV = (operator.truediv, operator.itruediv, torch.div)

V = TypeVar("V")


@dataclass(frozen=True)
class Affine:
    """A linear or convolutional layer.

    Attributes:
        function: Of input, weight and bias.
        weight: (out, in, …).
        bias: (out,), if there is one.
    """

    function: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    weight: Tensor
    bias: Tensor | None


class Rules(Generic[V]):
    """What a network's operations do to the values of one kind of propagation."""

    def tensor(self, value: V) -> Tensor:
        """A tensor with the value's shape."""
        raise NotImplementedError

    def affine(self, value: V, layer: Affine, name: str) -> V:
        """Of a linear or convolutional layer."""
        raise NotImplementedError

    def scale(self, value: V, weight: Tensor | float, bias: Tensor | float, name: str) -> V:
        """Of weight · x + bias, element by element."""
        raise NotImplementedError

    def norm(self, value: V, layer: nn.Module, name: str) -> V:
        """Of a batch norm; by default with its running statistics."""
        return self.scale(value, *norm_scale(layer, layer.running_mean, layer.running_var, self.tensor(value)), name)  # type: ignore[arg-type]

    def relu(self, value: V, name: str) -> V:
        """Of max(x, 0)."""
        raise NotImplementedError

    def same(self, value: V, function: Callable[[Tensor], Tensor], name: str) -> V:
        """Of a linear function with no negative weight and no constant: of averages and other shapes."""
        raise NotImplementedError

    def largest(self, value: V, function: Callable[[Tensor], Tensor], name: str) -> V:
        """Of a largest value over windows."""
        raise NotImplementedError

    def add(self, one: V, other: V, sign: int, name: str) -> V:
        """Of a sum or a difference of two values."""
        raise NotImplementedError


def norm_scale(layer: nn.Module, mean: Tensor, variance: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns weight and bias of a batch norm with these statistics, shaped for its inputs.

    Args:
        layer: The batch norm.
        mean: (channels,).
        variance: (channels,).
        like: A tensor of the shape of its inputs.
    """
    weight = torch.rsqrt(variance + float(layer.eps))  # type: ignore[arg-type]
    if layer.weight is not None:
        weight = weight * layer.weight  # type: ignore[operator]
    bias = -mean * weight
    if layer.bias is not None:
        bias = bias + layer.bias  # type: ignore[operator]
    shape = 1, -1, *[1] * (like.ndim - 2)
    return weight.view(shape), bias.view(shape)


class BoxRules(Rules["Flow"]):
    """Propagates boxes, and where batch norms estimate statistics the inputs themselves beside them.

    Args:
        update_statistics: Whether batch norms that estimate statistics update their running ones.
    """

    def __init__(self, update_statistics: bool = True) -> None:
        self.update_statistics = update_statistics

    def tensor(self, value: Flow) -> Tensor:
        """The centre."""
        return value.box.centre

    def affine(self, value: Flow, layer: Affine, name: str) -> Flow:
        """W c + b and |W| r."""
        function, weight, bias = layer.function, layer.weight, layer.bias
        box = Box(function(value.box.centre, weight, bias), function(value.box.radius, weight.abs(), None))
        return Flow(box, None if value.clean is None else function(value.clean, weight, bias))

    def scale(self, value: Flow, weight: Tensor | float, bias: Tensor | float, name: str) -> Flow:
        """w c + b and |w| r."""
        box = Box(value.box.centre * weight + bias, value.box.radius * size_of(weight))
        return Flow(box, None if value.clean is None else value.clean * weight + bias)

    def norm(self, value: Flow, layer: nn.Module, name: str) -> Flow:
        """With the statistics of the inputs themselves in training mode."""
        if not estimates(layer):
            return super().norm(value, layer, name)
        clean = value.clean
        assert clean is not None
        if self.update_statistics:
            with torch.no_grad():
                layer(clean)
        variance, mean = torch.var_mean(clean, [0, *range(2, clean.ndim)], correction=0)
        return self.scale(value, *norm_scale(layer, mean, variance, clean), name)

    def relu(self, value: Flow, name: str) -> Flow:
        """Of both bounds."""
        box = box_between(value.box.lower.relu_(), value.box.upper.relu_())  # both are new tensors
        return Flow(box, None if value.clean is None else value.clean.relu())

    def same(self, value: Flow, function: Callable[[Tensor], Tensor], name: str) -> Flow:
        """Of centre and half-width."""
        box = Box(function(value.box.centre), function(value.box.radius))
        return Flow(box, None if value.clean is None else function(value.clean))

    def largest(self, value: Flow, function: Callable[[Tensor], Tensor], name: str) -> Flow:
        """Of both bounds."""
        box = box_between(function(value.box.lower), function(value.box.upper))
        return Flow(box, None if value.clean is None else function(value.clean))

    def add(self, one: Flow, other: Flow, sign: int, name: str) -> Flow:
        """Half-widths add up."""
        box = Box(one.box.centre + sign * other.box.centre, one.box.radius + other.box.radius)
        if one.clean is None or other.clean is None:
            return Flow(box, None)
        return Flow(box, one.clean + sign * other.clean)


@dataclass(frozen=True)
class Flow:
    """A box, and the inputs' own values if they are propagated too."""

    box: Box
    clean: Tensor | None


@dataclass(frozen=True)
class Bounds:
    """Bounds of a network over boxes of inputs.

    Attributes:
        layers: The box after each operation, by the name of the layer, or of the node of the graph if the operation is
            a function. The last layer is not among them if only ``margins`` were asked for.
        relus: The box before each ReLU, by its name.
        inputs: What the first linear or convolutional layer takes: the inputs after normalisation.
        output: Of the outputs (B, C); ``None`` if only ``margins`` were asked for.
        margins: Upper bounds of logit_j − logit_label (B, C), 0 for the label; ``None`` without labels.
    """

    layers: dict[str, Box]
    relus: dict[str, Box]
    inputs: Box
    output: Box | None
    margins: Tensor | None


class _Tracer(fx.Tracer):
    """Follows ``forward`` down to PyTorch's layers and to layers with LoRA adapters."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return hasattr(m, "get_delta_weight") or super().is_leaf_module(m, module_qualified_name)


class IntervalNetwork:
    """The graph of a network, along which boxes and linear maps are propagated.

    Attributes:
        relus: Names of the ReLUs.
        head: Node of the last layer, if it is linear.

    Args:
        net: Any module whose ``forward`` takes one tensor and can be traced by ``torch.fx``.

    Raises:
        UserError: it cannot be traced, or an operation has no rule.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._modules = tuple(net.modules())
        try:
            self.graph = _Tracer().trace(net)
        except Exception as error:  # what forward itself raises when it gets a proxy
            why = str(error).strip().splitlines()
            raise UserError(
                f"{type(net).__name__} has no interval bounds here: torch.fx cannot follow its forward "
                f"({why[0] if why else type(error).__name__}); name a network that it can follow"
            ) from error
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"]
        if not inputs:
            raise UserError(f"{type(net).__name__}.forward takes no input")
        self._input = inputs[0]
        (found,) = next(node for node in self.graph.nodes if node.op == "output").args
        if not isinstance(found, fx.Node):
            raise UserError(f"{type(net).__name__}.forward must return one tensor")
        self._output = found
        self._kinds: dict[fx.Node, str] = {}
        self._depends: dict[fx.Node, bool] = {}  # whether it has the input's values; shapes do not
        for node in self.graph.nodes:
            reached = any(self._depends[i] for i in node.all_input_nodes)
            if reached and node.op.startswith("call_"):
                self._kinds[node] = self._kind(node)
                self._check(node)
            self._depends[node] = node is self._input or (reached and self._kinds.get(node) != "shape")
        if not self._depends[found]:
            raise UserError(f"{type(net).__name__}.forward: the output does not depend on the input")
        self.relus = [self.name(node) for node, kind in self._kinds.items() if kind == "relu"]
        self.head = self._last_layer()

    @property
    def current(self) -> bool:
        """Whether the network still has the layers that it was traced with."""
        modules = tuple(self.net.modules())
        return len(modules) == len(self._modules) and all(a is b for a, b in zip(modules, self._modules, strict=True))

    def _last_layer(self) -> fx.Node | None:
        """The linear layer that gives the outputs, if only they depend on it."""
        node = self._output
        linear = node.op == "call_module" and self._kinds.get(node) == "affine" and len(node.users) == 1
        layer = affine_of(self._layer(node)) if linear else None
        return node if layer is not None and layer.function is F.linear else None

    @property
    def head_layer(self) -> Affine:
        """The last layer, with which differences of logits are merged.

        Raises:
            UserError: it is not linear.
        """
        layer = None if self.head is None else affine_of(self._layer(self.head))
        if layer is None:
            raise UserError(f"{type(self.net).__name__}: the output is not that of a linear layer")
        return layer

    def name(self, node: fx.Node) -> str:
        """The name of the layer, or of the node if the operation is a function."""
        return str(node.target) if node.op == "call_module" else node.name

    def _layer(self, node: fx.Node) -> nn.Module:
        return self.net.get_submodule(str(node.target))

    def _kind(self, node: fx.Node) -> str:
        """The kind of an operation, or an empty word if there is no rule for it."""
        if node.op == "call_module":
            return _module_kind(self._layer(node))
        if node.op == "call_method":
            target = str(node.target)
            if target in _SHAPES:
                return "shape"
            kinds = {"relu": "relu", "relu_": "relu", "add": "add", "add_": "add", "sub": "sub", "mul": "mul"}
            return "same" if target in _SAME_METHODS else {**kinds, "div": "div"}.get(target, "")
        if node.target is getattr:
            return "shape" if node.args[1] in _ATTRIBUTES else ""
        for kind, functions in _FUNCTIONS.items():
            if any(node.target is function for function in functions):
                return kind
        return ""

    def _check(self, node: fx.Node) -> None:
        """Refuses an operation without a rule.

        Raises:
            UserError: it has none.
        """
        kind = self._kinds[node]
        depends = [isinstance(argument, fx.Node) and self._depends[argument] for argument in node.args]
        known = {
            "": False,
            "mul": sum(depends[:2]) == 1,
            "div": depends[:2] == [True, False],
            "add": sum(depends) > 0,
            "sub": sum(depends) > 0,
        }.get(kind, depends[:1] == [True] and not any(depends[1:]))
        if not known:
            what = (
                type(self._layer(node)).__name__
                if node.op == "call_module"
                else getattr(node.target, "__name__", str(node.target))
            )
            raise UserError(f"{self.name(node)}: {what} has no interval bounds here; accepted: {ACCEPTED}")

    def _affine(self, node: fx.Node, known: dict[fx.Node, Any]) -> Affine:
        """The layer of a node, or the function with its weight."""
        if node.op == "call_module":
            layer = affine_of(self._layer(node))
            assert layer is not None
            return layer
        arguments: list[Any] = [fx.map_arg(argument, known.__getitem__) for argument in node.args]
        keywords: dict[str, Any] = {k: fx.map_arg(value, known.__getitem__) for k, value in node.kwargs.items()}
        weight = arguments[1] if len(arguments) > 1 else keywords.pop("weight")
        bias = arguments[2] if len(arguments) > 2 else keywords.pop("bias", None)
        target: Any = node.target
        if target in (operator.matmul, torch.matmul):
            return Affine(lambda x, w, b: x @ w, weight, None)
        rest = arguments[3:]
        return Affine(lambda x, w, b: target(x, w, b, *rest, **keywords), weight, bias)

    def run(self, rules: Rules[V], start: V, until: fx.Node | None = None) -> Iterator[tuple[fx.Node, V, V]]:
        """Propagates a value; yields each operation's node, the value before and the value after it.

        Args:
            rules: What operations do.
            start: The value of the input.
            until: The node before which it ends.
        """
        known: dict[fx.Node, Any] = {}
        last = {used: node for node in self.graph.nodes for used in node.all_input_nodes}
        for node in self.graph.nodes:
            if node is until or node.op == "output":
                return
            if node is self._input:
                known[node] = start
                continue
            if self._kinds.get(node) == "shape":
                known[node] = self._plain(node, known)(rules.tensor(known[node.args[0]]))
            elif not self._depends[node]:
                known[node] = self._constant(node, known)
            else:
                known[node] = self._apply(rules, node, known)
                yield node, known[node.all_input_nodes[0]], known[node]
            for used in node.all_input_nodes:  # memory: what is not needed again
                if last[used] is node:
                    known.pop(used, None)

    def _constant(self, node: fx.Node, known: dict[fx.Node, Any]) -> Any:
        arguments = fx.map_arg(node.args, known.__getitem__)
        keywords = fx.map_arg(node.kwargs, known.__getitem__)
        if node.op == "placeholder":
            return node.args[0] if node.args else None  # a further argument of forward, with its default
        if node.op == "get_attr":
            found: Any = self.net
            for part in str(node.target).split("."):
                found = getattr(found, part)
            return found
        if node.op == "call_module":
            return self._layer(node)(*arguments, **keywords)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
        target: Any = node.target
        return target(*arguments, **keywords)

    def _apply(self, rules: Rules[V], node: fx.Node, known: dict[fx.Node, Any]) -> V:
        kind, name, value = self._kinds[node], self.name(node), known[node.all_input_nodes[0]]
        if kind == "affine":
            return rules.affine(value, self._affine(node, known), name)
        if kind == "norm":
            return rules.norm(value, self._layer(node), name)
        if kind == "relu":
            return rules.relu(value, name)
        if kind == "dropout":  # as in evaluation
            return value
        if kind in ("same", "largest"):
            apply = self._plain(node, known)
            return rules.same(value, apply, name) if kind == "same" else rules.largest(value, apply, name)
        return self._arithmetic(rules, kind, node, known)

    def _plain(self, node: fx.Node, known: dict[fx.Node, Any]) -> Callable[[Tensor], Any]:
        """The operation as a function of its first argument."""
        if node.op == "call_module":
            return self._layer(node)
        rest = fx.map_arg(node.args[1:], known.__getitem__)
        keywords = {k: v for k, v in fx.map_arg(node.kwargs, known.__getitem__).items() if k != "input"}
        if node.op == "call_method":
            method = str(node.target)
            if method == "view":
                method = "reshape"  # half-widths can have other strides
            return lambda x: getattr(x, method)(*rest, **keywords)
        target: Any = node.target
        return lambda x: target(x, *rest, **keywords)

    def _arithmetic(self, rules: Rules[V], kind: str, node: fx.Node, known: dict[fx.Node, Any]) -> V:
        """A sum, difference, product or quotient, of two values or of one and a constant."""
        values: list[Any] = [known[a] if isinstance(a, fx.Node) else a for a in node.args[:2]]
        one, other = values
        depends = [isinstance(a, fx.Node) and self._depends[a] for a in node.args[:2]]
        name = self.name(node)
        if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("rounding_mode"):
            raise UserError(f"{name}: {kind} with {dict(node.kwargs)} has no interval bounds here")
        sign = -1 if kind == "sub" else 1
        if all(depends):
            return rules.add(one, other, sign, name)
        value, constant = (one, other) if depends[0] else (other, one)
        if kind == "add":
            return rules.scale(value, 1.0, constant, name)
        if kind == "sub":
            return rules.scale(value, 1.0, -constant, name) if depends[0] else rules.scale(value, -1.0, constant, name)
        return rules.scale(value, constant if kind == "mul" else 1 / constant, 0.0, name)

    def propagate(
        self,
        box: Box,
        labels: Tensor | None = None,
        clean: Tensor | None = None,
        update_statistics: bool = True,
    ) -> Bounds:
        """Propagates boxes with gradients, in the module's present mode; for trainings.

        Autocast is left aside: bounds are computed in the weights' own precision.

        Args:
            box: Of the inputs (B, …).
            labels: Classes (B,): then only ``margins`` are computed of the last layer, which is merged with them.
            clean: The inputs themselves, from which batch norms in training mode estimate their statistics; by default
                the centre.
            update_statistics: Whether these update their running statistics.

        Raises:
            UserError: there are labels, and the last layer takes no features (B, d).
        """
        with torch.autocast(box.centre.device.type, enabled=False):
            return self._propagate(box, labels, clean, update_statistics)

    def _propagate(self, box: Box, labels: Tensor | None, clean: Tensor | None, update_statistics: bool) -> Bounds:
        estimating = any(estimates(layer) for layer in self._modules)
        start = Flow(box, (box.centre if clean is None else clean) if estimating else None)
        layers: dict[str, Box] = {}
        relus: dict[str, Box] = {}
        first: Box | None = None
        merged = self.head if labels is not None else None
        after = start
        for node, before, after in self.run(BoxRules(update_statistics), start, merged):
            layers[self.name(node)] = after.box
            if self._kinds[node] == "relu":
                relus[self.name(node)] = before.box
            if self._kinds[node] == "affine" and first is None:
                first = before.box
        first = after.box if first is None else first
        if labels is None:
            return Bounds(layers, relus, first, after.box, None)
        if merged is None:
            return Bounds(layers, relus, first, after.box, separate_margins(after.box, labels))
        box = after.box
        if box.centre.ndim != 2:
            raise UserError(f"{self.name(merged)}: classes need features (B, d), not {tuple(box.centre.shape)}")
        return Bounds(layers, relus, first, None, merged_margins(box, self.head_layer, labels))

    @torch.no_grad()
    def bounds(self, x: Tensor, eps: float, labels: Tensor | None = None) -> Bounds:
        """Returns bounds of every layer in evaluation mode, over all inputs within ``eps`` of x and within [0, 1].

        Args:
            x: Inputs (B, …) in [0, 1] units.
            eps: Largest change of a number, from 0 to 1.
            labels: Classes (B,), for ``margins``.

        Raises:
            UserError: the inputs are outside [0, 1], or with an eps above 0 a layer's boxes have no width: nothing of
                the perturbation arrives there.
        """
        box = pixel_box(x, eps)
        with evaluating(self.net):
            found = self.propagate(box)
            assert found.output is not None
            if eps > 0 and len(x):
                _check_width(box, found)
            if labels is None:
                return found
            return Bounds(found.layers, found.relus, found.inputs, found.output, self.propagate(box, labels).margins)


def _check_width(box: Box, found: Bounds) -> None:
    for name, after in {"the input": box, **found.layers}.items():
        if not bool((after.radius > 0).any()) and not bool(after.radius.isnan().any()):
            raise UserError(
                f"{name}: with eps above 0 the boxes have zero width there: no perturbation arrives, as if the network "
                "is constant, or the inputs are rounded or looked up"
            )


def size_of(weight: Tensor | float) -> Tensor | float:
    """Returns the absolute value of a number, or of each entry of a tensor."""
    return weight.abs() if isinstance(weight, Tensor) else abs(weight)


def separate_margins(output: Box, labels: Tensor) -> Tensor:
    """Returns upper bounds of logit_j − logit_label (B, C) from the bounds of the logits; 0 for the label.

    Args:
        output: Of the logits (B, C).
        labels: Classes (B,).
    """
    own = F.one_hot(labels, output.centre.shape[1]).bool()
    lower = output.lower.gather(1, labels[:, None])
    return (output.upper - lower).masked_fill(own, 0.0)


def merged_margins(box: Box, head: Affine, labels: Tensor) -> Tensor:
    """Returns upper bounds of logit_j − logit_label (B, C) of a linear head: of rows w_j − w_label; 0 for the label.

    Args:
        box: Of the features (B, d).
        head: With a weight (C, d).
        labels: Classes (B,).
    """
    differences = head.weight[None] - head.weight[labels][:, None]  # (B, C, d)
    margins = torch.bmm(differences, box.centre[:, :, None]) + torch.bmm(differences.abs(), box.radius[:, :, None])
    if head.bias is None:
        return margins[:, :, 0]
    return margins[:, :, 0] + head.bias[None] - head.bias[labels][:, None]


def affine_of(layer: nn.Module) -> Affine | None:
    """Returns a layer's weight and bias, with LoRA adapters merged; ``None`` if it is not linear."""
    base: Any = layer
    weight_of = getattr(layer, "get_delta_weight", None)
    if weight_of is not None:
        base = layer.base_layer
    function = _function(base)
    if function is None:
        return None
    weight = base.weight
    if weight_of is not None and not layer.disable_adapters and not layer.merged:
        for adapter in layer.active_adapters:  # type: ignore[union-attr]
            weight = weight + weight_of(adapter)
    return Affine(function, weight, base.bias)


def _function(layer: Any) -> Callable[..., Tensor] | None:
    forward = type(layer).forward  # a parametrised layer is a subclass with the same one
    if forward is nn.Linear.forward:
        return F.linear
    for kind, function in _CONV.items():
        if forward is kind.forward and layer.padding_mode == "zeros":
            return partial(_convolve, function, (layer.stride, layer.padding, layer.dilation, layer.groups))
    return None


def _convolve(
    function: Callable[..., Tensor], settings: Sequence[Any], x: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    return function(x, weight, bias, *settings)


def estimates(layer: nn.Module) -> bool:
    """Whether a batch norm takes its statistics from the batch."""
    return isinstance(layer, _NORMS) and (layer.training or layer.running_mean is None)


def _module_kind(layer: nn.Module) -> str:
    if affine_of(layer) is not None:
        return "affine"
    kinds: tuple[tuple[str, tuple[type[nn.Module], ...]], ...] = (
        ("norm", _NORMS),
        ("relu", (nn.ReLU,)),
        ("dropout", _DROPOUT),
        ("same", _SAME),
        ("largest", _LARGEST),
    )
    if getattr(layer, "return_indices", False):
        return ""
    return next((kind for kind, classes in kinds if type(layer) in classes), "")


_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "affine": _AFFINE_FUNCTIONS,
    "relu": _RELU_FUNCTIONS,
    "same": _SAME_FUNCTIONS,
    "largest": _LARGEST_FUNCTIONS,
    "dropout": _DROPOUT_FUNCTIONS,
    "add": _ADD,
    "sub": _SUB,
    "mul": _MUL,
    "div": _DIV,
}
