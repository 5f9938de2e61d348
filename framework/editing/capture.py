"""Captures what the forward pass of a training step computes, by hooks that exist only within the step.

There is no second forward pass: batch norm sees the batch once, and dropout draws once. The network's input is made to
require gradients before the network is called, so that the gradient by it has a graph (double backward).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from framework.data.seeding import mix
from framework.editing.names import choose
from framework.errors import UserError

_ONCE = once_differentiable(lambda ctx: None).__code__  # type: ignore[no-untyped-call]
_REENTRANT = "torch.utils.checkpoint with use_reentrant=True has no second derivative; use_reentrant=False has"
_REMEDIES = (
    (re.compile(r"use_reentrant=True"), _REENTRANT),
    (re.compile(r"aot_autograd does not .*double backward"), "a compiled network has no second derivative"),
    (re.compile(r"derivative for (\S+) is not implemented"), r"\1 has no second derivative; use an unfused form of it"),
    (re.compile(r"marked with @once_differentiable"), "a custom autograd function has no second derivative"),
)


@dataclass
class Captured:
    """The data that a penalty may use besides the batch and the output of ``training_step``.

    Attributes:
        seed: Numbers that fix this batch's random draws: of the run, the penalty, the rank and the batch.
        key: Key of the penalty in the config, for messages.
        output: The network's output: the tensor, its ``logits``, or the first of several. ``None`` if nothing was
            captured.
        input: The input (B, …) of the network, or the output of the embedding; no gradients flow through it. ``None``
            if only the output was captured.
        edge: Position of ``input`` in the autograd graph, for derivatives by it.
        source: ``input`` with the graph that it had in the step.
        call: Calls the network with another input, beside the step's other arguments; ``None`` with ``embed``.
        several: Whether there are other arguments.
        first: Whether this is the first step, in which :meth:`gradient` checks for functions without a second
            derivative.
    """

    seed: tuple[int, ...] = (0,)
    key: str = "penalty"
    output: Tensor | None = None
    input: Tensor | None = None
    edge: GradientEdge | None = None
    source: Tensor | None = None
    call: Callable[[Tensor], Any] | None = None
    several: bool = False
    first: bool = True

    @cached_property
    def generator(self) -> torch.Generator:
        """A generator on the CPU for this batch, separate from the global ones; draw on the CPU and move the result."""
        return torch.Generator().manual_seed(mix(*self.seed))

    def gradient(self, of: Tensor, along: Tensor | None = None) -> Tensor:
        """The gradient of ⟨of, along⟩ by the network's input, which can be differentiated again.

        Args:
            of: A scalar, or with ``along`` a tensor of any shape, computed from the network's output.
            along: Of the shape of ``of``.

        Returns:
            (B, …), as ``input``.

        Raises:
            UserError: ``of`` does not depend on the input, or a function on the way has no second derivative.
        """
        found = None
        if self.edge is not None and of.grad_fn is not None:
            if self.first:
                _refuse_once_differentiable(of.grad_fn, self.edge.node, self.key)
            with mistakes_of(self.key):
                (found,) = torch.autograd.grad(of, [self.edge], along, create_graph=True, allow_unused=True)
        if found is None:
            raise UserError(
                f"{self.key}: what is differentiated does not depend on the network's input, or not by operations that "
                "have a gradient, as where numbers become tokens; name the embedding (embed) or another network (net)"
            )
        return found


class Capture:
    """The hooks on one network, registered for a step and removed after it.

    Args:
        module: The LightningModule.
        net: Name of the submodule whose output is captured, and whose input without ``embed``; the module itself for
            ``None``.
        embed: Name of the submodule whose output counts as the input, as a token embedding's.
        inputs: Whether the input is made to require gradients.
        key: Key of the penalty in the config, for messages.

    Raises:
        UserError: there is no such submodule, or the network is compiled.
    """

    def __init__(
        self, module: nn.Module, net: str | None = None, embed: str | None = None, inputs: bool = True, key: str = ""
    ) -> None:
        refuse_compiled(module, key)
        self.module, self.inputs, self.key = module, inputs, key
        self.net = submodule(module, net, f"{key}.net")
        self.embed = submodule(module, embed, f"{key}.embed") if embed is not None else None
        self.asked = net, embed
        self._calls = {"net": 0, "embed": 0}
        self._captured = Captured()
        self._first = True

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A context manager for one training step that records the network's calls.

        Raises:
            UserError: the network was called twice, or got no input that can have gradients.
        """
        self._calls = dict.fromkeys(self._calls, 0)
        self._captured = Captured(key=self.key, first=self._first)
        self._called: dict[str, None] = {}
        with ExitStack() as stack:
            if self._first:
                for name, module in self.module.named_modules():
                    stack.callback(module.register_forward_pre_hook(self._noting(name)).remove)
            if self.inputs and self.embed is None:
                stack.callback(self.net.register_forward_pre_hook(self._open_input, with_kwargs=True).remove)
            if self.inputs and self.embed is not None:
                stack.callback(self.embed.register_forward_hook(self._open_embedding).remove)
            stack.callback(self.net.register_forward_hook(self._keep_output).remove)
            yield

    def captured(self, seed: tuple[int, ...]) -> Captured:
        """Returns what the last step computed.

        Args:
            seed: See :class:`Captured`.

        Raises:
            UserError: the network or the embedding was not called; the message lists the submodules that were.
        """
        for what, name in zip(self._calls, self.asked, strict=True):
            if not self._calls[what] and (what == "net" or (self.inputs and self.embed is not None)):
                outer = [n for n in self._called if n and n.rpartition(".")[0] not in self._called]
                outer = outer or [n for n in self._called if n]
                raise UserError(
                    f"{self.key}.{what}: {name or 'the module itself'} was not called in training_step, which calls "
                    f"{', '.join(outer) or 'nothing'}; name one of these"
                )
        self._first = False  # a step that returns no loss does not count: nothing is differentiated in it
        return replace(self._captured, seed=seed)

    def forget(self) -> None:
        """Drops what was captured, which keeps the step's graph in memory."""
        self._captured = Captured()

    def _noting(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any) -> None:
            self._called[name] = None

        return note

    def _count(self, what: str) -> None:
        self._calls[what] += 1
        if self._calls[what] > 1:
            name = self.asked[what == "embed"] or "the module itself"
            raise UserError(
                f"{self.key}.{what}: {name} is called more than once in training_step, and a penalty takes one call; "
                "name a submodule that is called once"
            )

    def _open_input(self, net: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        places = [*enumerate(args), *kwargs.items()]
        place, x = next(((p, x) for p, x in places if isinstance(x, Tensor) and x.is_floating_point()), (None, None))
        if x is None:
            raise UserError(
                f"{self.key}: {self.asked[0] or 'the module itself'} was given no tensor of floating type to "
                "differentiate by; for tokens name the embedding (embed)"
            )
        opened = self._open(x)

        mixed = torch.is_autocast_enabled(x.device.type)

        def given(other: Tensor) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if isinstance(place, int):
                return (*args[:place], other, *args[place + 1 :]), kwargs
            return args, kwargs | {str(place): other}

        def call(other: Tensor) -> Any:
            def fitting(value: Any) -> Any:  # autocast made the other arguments, and is off where this is called
                floating = mixed and isinstance(value, Tensor) and value.is_floating_point()
                return value.to(other.dtype) if floating else value

            positional, named = given(other)
            return net(*map(fitting, positional), **{name: fitting(value) for name, value in named.items()})

        self._captured.call, self._captured.several = call, len(places) > 1
        return given(opened)

    def _open_embedding(self, embed: nn.Module, args: Any, output: Any) -> Any:
        self._count("embed")
        if not (isinstance(output, Tensor) and output.is_floating_point()):
            raise UserError(f"{self.key}.embed: {self.asked[1]} gives no tensor of floating type")
        return self._open(output)

    def _open(self, x: Tensor) -> Tensor:
        """Returns ``x`` as part of a graph and stores its edge, which stays valid if later code works in place."""
        self._captured.input, self._captured.source = x.detach(), x
        if not torch.is_grad_enabled():
            return x
        if x.requires_grad:
            self._captured.edge = get_gradient_edge(x)
            return x
        # the batch's tensors keep their flags; unlike a leaf, the clone may be changed in place
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        self._captured.edge = get_gradient_edge(leaf)
        return leaf.clone()

    def _keep_output(self, net: nn.Module, args: Any, output: Any) -> None:
        self._count("net")
        output = getattr(output, "logits", output)
        output = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(output, Tensor):
            raise UserError(
                f"{self.key}.net: {self.asked[0] or 'the module itself'} returns a {type(output).__name__}; a tensor, "
                "something with logits, or a tuple that begins with a tensor is needed"
            )
        self._captured.output = output


def submodule(module: nn.Module, name: str | None, key: str) -> nn.Module:
    """Returns the submodule with this name or these last parts of a name; the module itself for ``None``.

    Args:
        module: The LightningModule.
        name: As :func:`framework.editing.matches` takes it.
        key: Key in the config, for messages.

    Raises:
        UserError: there is none (the message lists the nearest names), or there are several.
    """
    if name is None:
        return module
    found = choose([own for own, _ in module.named_modules() if own], [name], key=key)
    if name not in found and len(found) > 1:
        raise UserError(f"{key}: {name} is not accepted; it names {', '.join(found)}: give one of them")
    return module.get_submodule(name if name in found else found[0])


def refuse_compiled(module: nn.Module, key: str) -> None:
    """Refuses a compiled network, whose submodules call no hooks and which has no second derivative.

    Raises:
        UserError: the module or a submodule is compiled; the message names it.
    """
    for name, part in module.named_modules():
        compiled = isinstance(part, OptimizedModule) or getattr(part, "_compiled_call_impl", None) is not None
        if compiled or getattr(part, "_compiler_ctx", None) is not None:
            raise UserError(
                f"{key} and torch.compile cannot be combined: {name or type(part).__name__} is compiled, and what is "
                "compiled has no second derivative"
            )


@contextmanager
def mistakes_of(key: str) -> Iterator[None]:
    """Turns torch's errors about missing second derivatives into a UserError that names ``key``.

    Raises:
        UserError: there was such an error.
    """
    try:
        yield
    except RuntimeError as error:
        for pattern, remedy in _REMEDIES:
            if found := pattern.search(str(error)):
                raise UserError(f"{key} needs second derivatives, and {found.expand(remedy)}") from error
        raise


def _refuse_once_differentiable(root: Node, end: Node, key: str) -> None:
    """Refuses functions that are ``once_differentiable``: their gradients would silently count as constant."""
    for node in _between(root, end):
        function: Any = getattr(node, "_forward_cls", None)
        backward = getattr(function, "backward", None)
        if getattr(backward, "__code__", None) is _ONCE:
            raise UserError(
                f"{key} needs second derivatives, and {function.__module__}.{function.__qualname__} has none "
                "(once_differentiable)"
            )


def _between(root: Node, end: Node) -> set[Node]:
    """Returns the graph's nodes that a gradient passes from ``root`` to ``end``."""
    parents: dict[Node, list[Node]] = {root: []}
    left = [root]
    while left:
        node = left.pop()
        for child, _ in node.next_functions:
            if child is not None:
                if child not in parents and child != end:
                    left.append(child)
                parents.setdefault(child, []).append(node)
    passed, left = {end}, [end]
    while left:
        for parent in parents.get(left.pop(), []):
            if parent not in passed:
                passed.add(parent)
                left.append(parent)
    return passed
