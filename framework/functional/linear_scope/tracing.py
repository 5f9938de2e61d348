"""A network as the list of tensor operations that it carries out for one input (arXiv 1908.05168).

The operations are recorded below Python (``make_fx``), so functions, methods of tensors, operators and modules are all
seen, a module used twice is two operations, and what is written in place has been made explicit. The model itself is
not touched: it runs on copies of its parameters and buffers, and its modes are restored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.functional_tensor import FunctionalTensorMode, dispatch_functionalize
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as module_hooks
from torch.utils._python_dispatch import TorchDispatchMode

from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.functional.linear_scope.pixels import Standardised

NAME = "linear_scope"  # in messages


class NotFinite(UserError):
    """Images, or what a network makes of them, have NaN or infinite values."""


def own_of(model: nn.Module) -> nn.Module:
    """Returns the user's network, whose name and modules' names stand in messages."""
    return model.net if isinstance(model, Standardised) else model


def name_of(model: nn.Module) -> str:
    """Returns the name of its class."""
    return type(own_of(model)).__name__


@dataclass(frozen=True)
class Traced:
    """A traced network.

    Attributes:
        graph: Its operations, on copies of its parameters.
        output: f(x) of the traced run, (N, …).
        call: Runs the network itself on such copies.
        where: Returns, for the name of an operation such as ``aten.relu``, the names of the modules that use it.
    """

    graph: GraphModule
    output: Tensor
    call: Callable[[Tensor], Tensor]
    where: Callable[[str], list[str]]


def trace(model: nn.Module, x: Tensor, dtype: torch.dtype) -> Traced:
    """Traces ``model(x)`` in ``eval`` mode.

    Args:
        model: The network. Its first tensor output is used, or the attribute ``logits``.
        x: Images (N, …), of the type ``dtype``.
        dtype: The type in which parameters and buffers of a floating type are computed with.

    Raises:
        UserError: a value of a tensor decides what is computed, an operation is not seen by PyTorch, or the output is
            not finite.
    """

    def copied(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(x.device, kind, copy=True)

    state = {name: copied(value) for name, value in model.named_parameters()}
    state |= {name: copied(value) for name, value in model.named_buffers()}

    def call(z: Tensor) -> Tensor:
        with evaluating(model), torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            return _tensor_of(functional_call(model, state, (z,)))

    try:
        with torch.no_grad():
            # unlike torch.func.functionalize, it passes through autograd functions of one's own
            graph = make_fx(dispatch_functionalize(call, FunctionalTensorMode()))(x)
    except Exception as error:
        call(x)  # the network's own mistake is raised here
        raise UserError(
            f"{NAME}: {_first_cut(model, state, x) or name_of(model)} computes what depends on values of a "
            f"tensor (.item(), .tolist(), NumPy, a branch), which is not seen: {str(error).splitlines()[0]}"
        ) from error
    for node in graph.graph.nodes:
        node.meta.clear()  # it has tensors
    output = call(x)
    check_finite(output, f"the output of {name_of(model)}")
    traced = Traced(graph, output, call, lambda name: _modules_with(model, lambda: call(x), name))
    _check_seen(model, traced, x, state)
    return traced


def check_finite(values: Tensor, what: str) -> None:
    """Checks that there is no NaN and no infinity.

    Raises:
        NotFinite: there is one; ``what`` names the values.
    """
    if not bool(values.isfinite().all()):
        raise NotFinite(f"{NAME}: {what} has {int((~values.isfinite()).sum())} values that are not finite")


def _tensor_of(output: Any) -> Tensor:
    """Returns the tensor of a model's output: itself, its ``logits``, or the first of a tuple."""
    found = getattr(output, "logits", output)
    found = found[0] if isinstance(found, list | tuple) and found else found
    if not isinstance(found, Tensor):
        raise UserError(f"{NAME}: the model returns a {type(output).__name__}; a tensor is expected")
    return found


@torch.no_grad()
def _check_seen(model: nn.Module, traced: Traced, x: Tensor, state: dict[str, Tensor]) -> None:
    """Compares the operations with the network on a second input.

    Raises:
        UserError: the network's output differs, so that it does something that is not among them.
    """
    generator = torch.Generator(x.device).manual_seed(0)
    noise = torch.randn(x.shape, generator=generator, dtype=x.dtype, device=x.device)
    other = x + 0.1 * noise * (x.std() if x.numel() > 1 else 1.0)
    with sdpa_kernel(SDPBackend.MATH):
        expected, found = traced.call(other), traced.graph(other)
    scale = max(float(expected.abs().max()), 1e-30) if expected.numel() else 1.0
    if expected.shape == found.shape and float((expected - found).abs().max()) <= 1e-3 * scale:
        return
    name = _first_cut(model, state, x)
    raise UserError(
        f"{NAME}: {name or name_of(model)} computes something that is not seen (an extension, a branch on "
        f"values, random numbers): on a second input the recorded operations give another output, off by "
        f"{float((expected - found).abs().max()):.2g}"
    )


def _first_cut(model: nn.Module, state: dict[str, Tensor], x: Tensor) -> str:
    """Returns the first module whose input is tracked by autograd and whose output is not, or an empty text."""
    names = {module: f"{name} ({type(module).__name__})" for name, module in own_of(model).named_modules() if name}
    found: list[str] = []

    def tracked(value: Any) -> bool:
        items = value if isinstance(value, list | tuple) else (value,)
        return any(isinstance(item, Tensor) and item.requires_grad for item in items)

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in names and tracked(inputs) and not tracked(output):
            found.append(names[module])

    handle = module_hooks.register_module_forward_hook(hook)
    try:
        with evaluating(model), torch.enable_grad():
            functional_call(model, state, (x.detach().requires_grad_(),))
    except RuntimeError:  # NumPy refuses a tensor that autograd tracks
        pass
    finally:
        handle.remove()
    return found[0] if found else ""


def _modules_with(model: nn.Module, run: Callable[[], Any], operation: str) -> list[str]:
    """Returns the names of the modules in which an operation is called, in order, without repetitions."""
    names = {
        module: f"{name or 'the model'} ({type(module).__name__})" for name, module in own_of(model).named_modules()
    }
    stack: list[nn.Module] = []
    found: dict[str, None] = {}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if stack and _plain(operation_name(func)) == _plain(operation):
                found[names[stack[-1]]] = None
            return func(*args, **(kwargs or {}))

    def enter(module: nn.Module, inputs: Any) -> None:
        if module in names:
            stack.append(module)

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        if module in names and stack:
            stack.pop()

    handles = [
        module_hooks.register_module_forward_pre_hook(enter),
        module_hooks.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        with Watch():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return list(found)


def _plain(name: str) -> str:
    """Returns the name that an operation and its forms in place, without mutations and for inference share."""
    for part in ("_legit", "_no_training", "_no_stats"):
        name = name.replace(part, "")
    return name.replace("._", ".").rstrip("_")


def operation_name(target: Any) -> str:
    """Returns the name of an operation without its overload: ``aten.add``."""
    return ".".join(str(target).split(".")[:2])
