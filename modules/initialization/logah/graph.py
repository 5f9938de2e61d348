"""The graph of a network: operations, the parameters that they hold, and how far apart they are.

Paper: LoGAH: Predicting 774-Million-Parameter Transformers using Graph HyperNetworks with 1/100 Parameters (Zhou,
Knyazev, Jolicoeur-Martineau, Fu 2024, arXiv 2405.16287), the graphs of GHN-3 (Knyazev, Hwang, Lacoste-Julien 2023,
arXiv 2303.04143).

Nodes are the operations that hold parameters, attention, sums, products and concatenations of two inputs, activations
and pooling; edges pass through everything else. They are read from ``torch.export``, so that a network of any code is
described in the same way; a network on the meta device costs no memory. An operation with a parameter that has no rule
is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn

from framework.errors import UserError
from framework.functional.evaluating import evaluating

Role = Literal["weight", "bias", "scale", "shift", "position", "token", "embedding"]
ROLES: tuple[Role, ...] = get_args(Role)
OPERATIONS = (
    "input",
    "linear",
    "conv",
    "embedding",
    "norm",
    "position",
    "token",
    "scale",
    "bias",
    "attention",
    "sum",
    "product",
    "concat",
    "activation",
    "pooling",
)
CUTOFF = 50  # longest distance that has an edge
_ACTIVATIONS = frozenset(
    [
        "relu",
        "relu6",
        "gelu",
        "silu",
        "tanh",
        "sigmoid",
        "elu",
        "selu",
        "celu",
        "leaky_relu",
        "mish",
        "softplus",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "prelu",
        "log_sigmoid",
        "softmax",
        "_softmax",
    ]
)
_POOLING = frozenset(
    [
        "max_pool1d",
        "max_pool2d",
        "max_pool3d",
        "avg_pool1d",
        "avg_pool2d",
        "avg_pool3d",
        "adaptive_avg_pool1d",
        "adaptive_avg_pool2d",
        "adaptive_avg_pool3d",
        "adaptive_max_pool1d",
        "adaptive_max_pool2d",
        "mean",
    ]
)
_ATTENTION = frozenset({"scaled_dot_product_attention"})
_PRODUCTS = frozenset(["matmul", "bmm", "mm", "baddbmm"])
_NORMS = frozenset(
    ["layer_norm", "native_layer_norm", "group_norm", "native_group_norm", "batch_norm", "instance_norm", "rms_norm"]
)
_SUMS = frozenset(["add", "add_", "sub", "sub_"])
_SCALINGS = frozenset(["mul", "mul_", "div", "div_"])
_JOINS = frozenset(["cat", "concat", "stack"])
# What leaves a parameter the same numbers, in another order or repeated.
_VIEWS = frozenset(
    [
        "expand",
        "permute",
        "transpose",
        "t",
        "view",
        "reshape",
        "unsqueeze",
        "squeeze",
        "contiguous",
        "clone",
        "detach",
        "alias",
        "to",
    ]
)


@dataclass(frozen=True)
class Slot:
    """A parameter that a node holds.

    Attributes:
        name: Of the parameter.
        role: What it is to the operation.
        shape: Its shape.
        transposed: Whether a matrix is (inputs, outputs), as in GPT-2.
    """

    name: str
    role: Role
    shape: tuple[int, ...]
    transposed: bool = False


@dataclass(frozen=True)
class Node:
    """An operation.

    Attributes:
        operation: One of :data:`OPERATIONS`.
        shape: (c_out, c_in, k_h, k_w) of its weight; ones where it has none.
        slots: Its parameters; those that another node holds already are not among them.
        reads: The parameter whose shape counts, and whether it is transposed.
        groups: Of a convolution.
    """

    operation: str
    shape: tuple[int, int, int, int] = (1, 1, 1, 1)
    slots: tuple[Slot, ...] = ()
    reads: tuple[str, bool] | None = None
    groups: int = 1


@dataclass(frozen=True)
class Graph:
    """A network's graph, in the order of computation.

    Attributes:
        nodes: The operations.
        edges: Pairs of nodes, from an input to what reads it.
        distances: (n, n) int64, edges of the shortest path from row to column; 0 where there is none, or a longer one
            than :data:`CUTOFF`.
        tied: Parameters that are the same tensor as another one: its name by theirs.
    """

    nodes: tuple[Node, ...]
    edges: tuple[tuple[int, int], ...]
    distances: Tensor
    tied: Mapping[str, str]

    @property
    def slots(self) -> list[tuple[int, Slot]]:
        """Every parameter with the number of its node."""
        return [(number, slot) for number, node in enumerate(self.nodes) for slot in node.slots]


def shortest_paths(count: int, edges: Sequence[tuple[int, int]]) -> Tensor:
    """Returns the numbers of edges (n, n) of the shortest directed paths; 0 where there is none up to the cut-off.

    Args:
        count: Number of nodes n.
        edges: Pairs of nodes.
    """
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import shortest_path

    if not edges:
        return torch.zeros(count, count, dtype=torch.long)
    rows, columns = zip(*edges, strict=True)
    matrix = coo_array((np.ones(len(edges)), (rows, columns)), shape=(count, count)).tocsr()
    found = shortest_path(matrix, directed=True, unweighted=True)
    found[~np.isfinite(found) | (found > CUTOFF)] = 0
    return torch.from_numpy(found).long()


def trace(net: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None = None) -> Graph:
    """Returns the graph of a network.

    Args:
        net: The network; on the meta device it takes no memory.
        args: Its inputs, of which only shapes and types matter, on its device.
        kwargs: Its named inputs.

    Raises:
        UserError: it cannot be exported, or an operation with a parameter has no rule.
    """
    try:
        with evaluating(net):
            exported = torch.export.export(net, args, dict(kwargs or {}), strict=False)
    except Exception as error:  # whatever forward raises
        reason = str(error).strip().splitlines()
        raise UserError(
            f"{type(net).__name__} has no graph here: torch.export cannot follow it "
            f"({reason[0][:200] if reason else type(error).__name__})"
        ) from error
    return _Reader(net, exported).graph()


class _Reader:
    """Reads the nodes of an exported program one after the other."""

    def __init__(self, net: nn.Module, exported: torch.export.ExportedProgram) -> None:
        self.net, self.exported = net, exported
        own: dict[int, str] = {}
        self.tied: dict[str, str] = {}
        for name, parameter in net.named_parameters(remove_duplicate=False):
            first = own.setdefault(id(parameter), name)
            if first != name:
                self.tied[name] = first
        self.names = {
            holder: self.tied.get(name, name) for holder, name in exported.graph_signature.inputs_to_parameters.items()
        }
        self.nodes: list[Node] = [Node("input")]
        self.edges: dict[tuple[int, int], None] = {}
        self.live: dict[fx.Node, frozenset[int]] = {}  # the nodes whose values an fx node passes on
        self.carried: dict[fx.Node, tuple[str, bool]] = {}  # a parameter that an fx node is, and whether turned over
        self.placed: set[str] = set()
        self.runs: dict[str, int] = {}  # modules whose operations are one node, and which
        self.last_module = ""

    def graph(self) -> Graph:
        """Returns the graph.

        Raises:
            UserError: a parameter is held by an operation without a rule, or by none.
        """
        given = set(self.exported.graph_signature.user_inputs)
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                if node.name in self.names:
                    self.carried[node] = self.names[node.name], False
                self.live[node] = frozenset({0}) if node.name in given else frozenset()
            elif node.op == "call_function":
                self._read(node)
                self.last_module = module_of(node)
        parameters = dict(self.net.named_parameters())
        missing = [name for name in parameters if name not in self.placed]
        if missing:
            shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
            raise UserError(f"{type(self.net).__name__}: no operation with a rule reads {shown}")
        edges = tuple(self.edges)
        return Graph(tuple(self.nodes), edges, shortest_paths(len(self.nodes), edges), dict(self.tied))

    def _add(self, node: fx.Node, made: Node) -> None:
        number = len(self.nodes)
        self.nodes.append(made)
        self._connect(node, number)
        self.live[node] = frozenset({number})

    def _connect(self, node: fx.Node, number: int) -> None:
        for source in node.all_input_nodes:
            for before in self.live.get(source, ()):
                if before != number:
                    self.edges[before, number] = None

    def _slot(self, node: fx.Node, role: Role) -> Slot | None:
        """The parameter that an fx node is, unless another node holds it."""
        name, turned = self.carried[node]
        if name in self.placed:
            return None
        self.placed.add(name)
        return Slot(name, role, tuple(self.net.get_parameter(name).shape), turned)

    def _read(self, node: fx.Node) -> None:
        name = name_of(node)
        held = [source for source in node.all_input_nodes if source in self.carried]
        sources = [source for source in node.all_input_nodes if self.live.get(source)]
        if held and not sources and name in _VIEWS and len(node.all_input_nodes) == 1:
            parameter, turned = self.carried[held[0]]
            self.carried[node] = parameter, turned ^ (name in ("t", "transpose", "permute"))
            self.live[node] = frozenset()
        elif held:
            self._holder(node, name, held, len(sources))
        elif self._joined(node, name):
            pass
        elif name in _ATTENTION:
            self._add(node, Node("attention"))
        elif name in _PRODUCTS and len(sources) > 1:
            self._add(node, Node("attention"))
            self.runs[f"{module_of(node)}:attention"] = len(self.nodes) - 1
        elif len(sources) > 1 and name in _SUMS | _SCALINGS | _JOINS:
            kind = "sum" if name in _SUMS else "product" if name in _SCALINGS else "concat"
            self._add(node, Node(kind))
        elif sources and (name in _ACTIVATIONS or name in _POOLING or self._activates(node)):
            self._add(node, Node("pooling" if name in _POOLING else "activation"))
            self.runs[module_of(node)] = len(self.nodes) - 1
        else:
            self.live[node] = frozenset().union(*(self.live[source] for source in sources))

    def _joined(self, node: fx.Node, name: str) -> bool:
        """Whether the operation is a further one of an activation's module, or of an attention by hand."""
        path = module_of(node)
        number = self.runs.get(path) if path == self.last_module and self._activates(node) else None
        if number is None and name in {*_PRODUCTS, "softmax", "_softmax"}:
            number = self.runs.get(f"{path}:attention")
            if number is not None and not any(number in self.live.get(s, ()) for s in node.all_input_nodes):
                number = None  # the next attention of this module
        if number is None:
            return False
        self._connect(node, number)
        self.live[node] = frozenset({number})
        return True

    def _activates(self, node: fx.Node) -> bool:
        """Whether the operation is of a module that computes an activation, maybe by several operations."""
        path = module_of(node)
        try:
            module = self.net.get_submodule(path)
        except AttributeError:
            return False
        if path == "" or next(module.children(), None) is not None or next(module.parameters(), None) is not None:
            return False
        kind = type(module)
        return kind.__module__.startswith(("torch.nn.modules.activation", "transformers.activations")) or (
            "activation" in kind.__module__
        )

    def _holder(self, node: fx.Node, name: str, held: list[fx.Node], live: int) -> None:
        """Adds an operation that reads parameters.

        Raises:
            UserError: there is no rule for it.
        """
        rule = _HOLDERS.get(name)
        if rule is None and name in _PRODUCTS and len(held) == 1:
            rule = _matrix
        if rule is None and name in _SUMS and len(held) == 1:
            rule = _added
        if rule is None and name in _SCALINGS and len(held) == 1:
            rule = _scaled
        if rule is None and name in _JOINS and len(held) == 1 and live:
            rule = _joined_token
        made = None if rule is None else rule(self, node, held)
        if made is None:
            parameter = self.carried[held[0]][0]
            raise UserError(
                f"{type(self.net).__name__}: the operation {name} with the parameter {parameter} has no rule"
            )
        self._add(node, made)


def name_of(node: fx.Node) -> str:
    """Returns the operation's name: ``linear`` of ``aten.linear.default``."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target._schema.name).partition("::")[2]
    return getattr(target, "__name__", str(target))


def module_of(node: fx.Node) -> str:
    """Returns the dotted name of the module in whose forward an operation was called."""
    stack = node.meta.get("nn_module_stack")
    return str(list(stack.values())[-1][0]) if stack else ""


def _arguments(node: fx.Node) -> dict[str, Any]:
    """The arguments by the names of the operation's schema."""
    target: Any = node.target
    names = [argument.name for argument in target._schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}


def _made(
    reader: _Reader, operation: str, pairs: Sequence[tuple[Any, Role]], flip: bool = False, groups: int = 1
) -> Node | None:
    """The node of an operation, whose first parameter gives its shape; matrices are (inputs, outputs) with ``flip``.

    ``None`` if its weight is a parameter of another number of dimensions, of which these are views.
    """
    given = [(part, role) for part, role in pairs if isinstance(part, fx.Node) and part in reader.carried]
    for part, role in given:
        own = reader.net.get_parameter(reader.carried[part][0])
        if role in ("weight", "embedding") and own.ndim != part.meta["val"].ndim:
            return None
    slots = []
    for part, role in given:
        slot = reader._slot(part, role)
        if slot is not None:
            slots.append(replace(slot, transposed=slot.transposed ^ flip) if role == "weight" else slot)
    name, turned = reader.carried[given[0][0]]
    reads = name, turned ^ flip
    shape = shape_of(operation, tuple(reader.net.get_parameter(name).shape), reads[1])
    return Node(operation, shape, tuple(slots), reads, groups)


def shape_of(operation: str, shape: Sequence[int], transposed: bool) -> tuple[int, int, int, int]:
    """Returns (c_out, c_in, k_h, k_w) of an operation from the shape of its parameter.

    Args:
        operation: One of :data:`OPERATIONS`.
        shape: Of its weight, or of what it has instead.
        transposed: Whether a matrix is (inputs, outputs).
    """
    if operation in ("linear", "embedding"):
        out, inner = reversed(shape) if transposed else shape
        return out, inner, 1, 1
    if operation == "conv":
        out, inner, *kernel = shape
        height, width = [1] * (2 - len(kernel)) + list(kernel)
        return out, inner, height, width
    if operation == "position":
        side = int(shape[-2] ** 0.5)
        return 1, shape[-1], side, side
    if operation == "token":
        return 1, shape[-1], 1, 1
    count = 1
    for size in shape:
        count *= size
    return count, 1, 1, 1


def with_shapes(graph: Graph, net: nn.Module) -> Graph:
    """Returns a graph for another network of the same topology, whose parameters have the same names.

    Args:
        graph: Of a network of the family and the depth.
        net: The other network.
    """

    def of(name: str) -> tuple[int, ...]:
        return tuple(net.get_parameter(name).shape)

    nodes = []
    for node in graph.nodes:
        slots = tuple(replace(slot, shape=of(slot.name)) for slot in node.slots)
        shape = node.shape if node.reads is None else shape_of(node.operation, of(node.reads[0]), node.reads[1])
        nodes.append(replace(node, shape=shape, slots=slots))
    return replace(graph, nodes=tuple(nodes))


def _linear(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    given = _arguments(node)
    if given["weight"] not in reader.carried:
        return None
    return _made(reader, "linear", [(given["weight"], "weight"), (given.get("bias"), "bias")])


def _addmm(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    given = _arguments(node)
    if given["mat2"] not in reader.carried:
        return None
    return _made(reader, "linear", [(given["mat2"], "weight"), (given["self"], "bias")], flip=True)


def _matrix(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    if node.args[1] is not held[0] or len(held[0].meta["val"].shape) != 2:
        return None
    return _made(reader, "linear", [(held[0], "weight")], flip=True)


def _convolution(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    given = _arguments(node)
    weight = given["weight"]
    if weight not in reader.carried or given.get("transposed") or weight.meta["val"].ndim > 4:
        return None
    pairs: list[tuple[Any, Role]] = [(weight, "weight"), (given.get("bias"), "bias")]
    return _made(reader, "conv", pairs, groups=int(given.get("groups", 1)))


def _embedding(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    return _made(reader, "embedding", [(_arguments(node)["weight"], "embedding")])


def _norm(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    if any(part.meta["val"].ndim != 1 for part in held):
        return None
    given = _arguments(node)
    return _made(reader, "norm", [(given.get("weight"), "scale"), (given.get("bias"), "shift")])


def _added(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    shape = held[0].meta["val"].shape
    if len(shape) == 1:
        return _made(reader, "bias", [(held[0], "bias")])
    if len(shape) > 3 or (len(shape) == 3 and shape[0] != 1):
        return None
    return _made(reader, "position", [(held[0], "position")])


def _scaled(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    if sum(size != 1 for size in held[0].meta["val"].shape) > 1:
        return None
    return _made(reader, "scale", [(held[0], "scale")])


def _joined_token(reader: _Reader, node: fx.Node, held: list[fx.Node]) -> Node | None:
    return _made(reader, "token", [(held[0], "token")])


_HOLDERS: dict[str, Callable[[_Reader, fx.Node, list[fx.Node]], Node | None]] = {
    "linear": _linear,
    "addmm": _addmm,
    "conv1d": _convolution,
    "conv2d": _convolution,
    "convolution": _convolution,
    "embedding": _embedding,
    **dict.fromkeys(_NORMS, _norm),
}
