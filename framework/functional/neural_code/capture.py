"""Reads neural codes from any network: which of its activations are on for each example.

Paper: He, Lei, Ji, Tao, 2021, "Neural networks behave as hash encoders: An empirical study", arXiv 2101.05490.

A bit is 1 where the input of an activation is above 0 (exactly 0 counts as 0). For ReLU this is 1[output > 0], and
codes are the paper's: equal codes mean the same linear region. For other activations it is the sign of their input,
which says nothing about linear regions; such codes are of another kind (``sign_code``).

Activations are found where they are called, not by the class of a module: a ``torch.overrides.TorchFunctionMode`` sees
every call of ``relu``, ``gelu``, …, of a module, of ``torch.nn.functional`` or of a tensor, in place or not, before it
changes its input. One module that is called twice gives two layers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from framework.errors import UserError
from framework.functional.evaluating import evaluating
from framework.settings import not_empty, one_of

Space = Literal["each", "any"]
"""Whether each position of a map (B, C, H, W) has a bit, or each channel one that is 1 if any position is above 0."""
Kind = Literal["neural_code", "sign_code"]

RELU = frozenset({"relu", "relu6", "leaky_relu", "prelu", "rrelu"})
SMOOTH = frozenset(
    {"gelu", "silu", "mish", "elu", "selu", "celu", "tanh", "sigmoid", "hardtanh", "hardswish", "hardsigmoid"}
    | {"softplus", "softsign", "log_sigmoid"}
)
SINE = frozenset({"sin"})
OUTPUT = "output"


@dataclass(frozen=True)
class CodeLayer:
    """One layer of a code.

    Attributes:
        name: The module in which the activation is called (``forward`` for the model itself); its second call is
            ``name#2``.
        function: The activation (``relu``, ``gelu``, …), or ``output`` for the output of a module chosen by name.
        bits: Number of bits.
    """

    name: str
    function: str
    bits: int


def _activation(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """Returns the name of an activation, or an empty text for any other function."""
    name = getattr(function, "__name__", "").strip("_")
    if name == "hardtanh":  # how torch calls ReLU6
        return "relu6" if (args[1] if len(args) > 1 else kwargs.get("min_val", -1.0)) == 0 else name
    if name == "threshold":
        levels = [*args[1:3], *(kwargs[key] for key in ("threshold", "value") if key in kwargs)]
        return "relu" if levels and not any(levels) else ""
    if name in ("clamp", "clamp_min"):
        low = args[1] if len(args) > 1 else kwargs.get("min")
        high = args[2] if len(args) > 2 else kwargs.get("max")
        return "relu" if isinstance(low, int | float) and low == 0 and high is None else ""
    return name if name in RELU | SMOOTH | SINE else ""


class _Recorder(TorchFunctionMode):
    """Passes the input of each activation, and the outputs of some modules, to ``take``, in the order of execution.

    Args:
        model: The model.
        outputs: Names of modules whose output is taken.
        take: Called with name, function and tensor.
    """

    def __init__(self, model: nn.Module, outputs: set[str], take: Callable[[str, str, Tensor], None]) -> None:
        super().__init__()
        self.take, self.outputs = take, outputs
        self.modules = list(model.named_modules())
        self.inside: list[str] = []
        self.calls: dict[tuple[str, str], int] = {}
        self.handles: list[Any] = []

    def __enter__(self) -> _Recorder:
        for name, module in self.modules:
            self.handles.append(module.register_forward_pre_hook(self._enter(name)))
            self.handles.append(module.register_forward_hook(self._leave(name)))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for handle in self.handles:
            handle.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        return lambda module, inputs: self.inside.append(name)

    def _leave(self, name: str) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: Any, output: Any) -> None:
            self.inside.pop()
            if name in self.outputs:
                while isinstance(output, tuple | list) and output:
                    output = output[0]
                if isinstance(output, Tensor):
                    self._take(name, OUTPUT, output)

        return leave

    def _take(self, name: str, function: str, value: Tensor) -> None:
        kind = OUTPUT if function == OUTPUT else ""
        call = self.calls[name, kind] = self.calls.get((name, kind), 0) + 1
        shown = name or "forward"  # a function that the model itself calls
        self.take(f"{shown}#{call}" if call > 1 else shown, function, value)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = _activation(func, args, kwargs)
        value = (args[0] if args else kwargs.get("input")) if name else None
        if isinstance(value, Tensor) and value.is_floating_point():
            self._take(self.inside[-1] if self.inside else "", name, value.detach())
        return func(*args, **kwargs)


class CodeReader:
    """Finds the activations of a model and reads its codes.

    By default the layers are all its ReLU-like activations (ReLU, ReLU6, leaky, parametric and randomised ReLU,
    clamping at 0); if it has none, all other activations (GELU, SiLU, tanh, sigmoid, …); if it has none of those,
    sines. A layer counts if it has one row, or equally many, for each example of a batch, and each example's row does
    not depend on the others.

    The model is called in ``eval`` mode, without gradients and uncompiled; the modes are restored. Inputs of a floating
    type are converted to that of its parameters. What is NaN counts as off, with a warning.

    Args:
        model: The model; called with a batch of inputs.
        x: Some inputs (B, …), on which the layers are found.
        layers: Names of layers, entirely or their last parts, with ``*`` and ``?`` as in a shell. A name that is no
            activation's is that of a module, whose output is then read in the same way (for an activation that is not
            found, name the module before it).
        space: ``each``, or ``any`` for one bit for each channel of a map (B, C, H, W).
        key: The setting with the names, for messages.

    Attributes:
        layers: The layers, in the order of execution.
        kind: ``neural_code`` if all layers are ReLU-like, otherwise ``sign_code``.

    Raises:
        UserError: no layer is found, or a name is none of the model's; the message has the nearest names.

    Warns if inputs of the last layer are NaN: that happens where a training has diverged, and such codes say nothing.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        layers: Sequence[str] | None = None,
        space: Space = "each",
        key: str = "layers",
    ) -> None:
        one_of(get_args(Space), space=space)
        layers = [layers] if isinstance(layers, str) else layers
        not_empty(**{key: layers})
        self.model, self.space, self.key = model, space, key
        self.outputs: set[str] = set()
        found = self._find(x)
        if layers is None:
            chosen = self._default(found)
        else:
            names = [name for name, _ in model.named_modules() if name]
            called = {name for name, _ in found}
            for pattern in layers:
                if not _matching(called, pattern):
                    self.outputs |= set(_matching(names, pattern))
            found = self._find(x) if self.outputs else found
            chosen = self._named(found, layers, names)
        self.layers = tuple(CodeLayer(name, function, bits) for (name, function), bits in chosen.items())
        self.kind: Kind = "neural_code" if all(function in RELU for _, function in chosen) else "sign_code"

    @property
    def bits(self) -> int:
        """D, the number of bits of a code."""
        return sum(layer.bits for layer in self.layers)

    @property
    def offsets(self) -> list[int]:
        """The first bit of each layer, and D: layer i has the bits ``offsets[i]`` to ``offsets[i + 1] - 1``."""
        found = [0]
        for layer in self.layers:
            found.append(found[-1] + layer.bits)
        return found

    def __call__(self, x: Tensor) -> Tensor:
        """Returns the codes of inputs (B, …): bool (B, D), on the model's device.

        Raises:
            UserError: for these inputs the model calls other activations than for those it was examined on.
        """
        wanted = {(layer.name, layer.function): layer for layer in self.layers}
        parts: dict[tuple[str, str], Tensor] = {}
        undefined: dict[str, Tensor] = {}
        last = self.layers[-1]

        def take(name: str, function: str, value: Tensor) -> None:
            layer = wanted.get((name, function))
            if layer is last:  # NaN of an earlier one arrives here
                undefined[name] = value.isnan().any()
            if layer is not None:
                bits = self._bits(value, len(x))
                if bits is None or bits.shape[1] != layer.bits:
                    raise UserError(
                        f"{self.key}: {name} has {tuple(value.shape)} for {len(x)} examples; expected {layer.bits} "
                        "numbers for each, as for the first batch"
                    )
                parts[name, function] = bits

        self._run(x, take)
        missing = [name for name, function in wanted if (name, function) not in parts]
        if missing:
            raise UserError(f"{self.key}: {missing[0]} is not called for all inputs, so it has no place in a code")
        if undefined[last.name]:
            warnings.warn(f"{self.key}: {last.name} has NaN for some inputs; these bits are 0", stacklevel=2)
        return torch.cat([parts[layer.name, layer.function] for layer in self.layers], 1)

    def _run(self, x: Tensor, take: Callable[[str, str, Tensor], None]) -> None:
        first = next((p for p in self.model.parameters() if p.is_floating_point()), None)
        if first is not None:
            x = x.to(first.device, first.dtype if x.is_floating_point() else None)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(evaluating(self.model))
            stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.enter_context(_Recorder(self.model, self.outputs, take))
            self.model(x)

    def _bits(self, value: Tensor, examples: int) -> Tensor | None:
        """Returns bits (B, d), or ``None`` if the tensor does not have equally many rows for each example."""
        if value.ndim == 0 or not examples or len(value) % examples or not value.numel():
            return None
        on = value > 0
        if self.space == "any" and on.ndim > 3:
            on = on.flatten(2).any(2)
        return on.reshape(examples, -1)

    def _find(self, x: Tensor) -> dict[tuple[str, str], int]:
        """Returns name and function of every layer that can be read, in the order of execution, with its bits."""
        three = x[torch.arange(3) % len(x)]
        seen: list[dict[tuple[str, str], Tensor]] = []

        def take(name: str, function: str, value: Tensor) -> None:
            seen[-1].setdefault((name, function), value.clone())

        for inputs in (three, three[:2]):
            seen.append({})
            self._run(inputs, take)
        found = {}
        for layer, value in seen[0].items():
            other = seen[1].get(layer)
            if other is None or value.ndim == 0 or len(value) % 3 or len(value) * 2 != len(other) * 3:
                continue
            a, b = value.reshape(3, -1)[:2].float(), other.reshape(2, -1).float()
            scale = float(a.nan_to_num(posinf=0.0, neginf=0.0).abs().max()) if a.numel() else 0.0
            bits = self._bits(value, 3)
            if bits is not None and torch.allclose(a, b, rtol=1e-2, atol=1e-3 * scale, equal_nan=True):
                found[layer] = bits.shape[1]
        return found

    def _default(self, found: dict[tuple[str, str], int]) -> dict[tuple[str, str], int]:
        for family in (RELU, SMOOTH, SINE):
            chosen = {layer: bits for layer, bits in found.items() if layer[1] in family}
            if chosen:
                return chosen
        raise UserError(
            f"{self.key}: {type(self.model).__name__} calls no activation for each example; name modules, whose "
            "outputs' signs are then the code"
        )

    def _named(
        self, found: dict[tuple[str, str], int], layers: Sequence[str], names: list[str]
    ) -> dict[tuple[str, str], int]:
        chosen = set()
        for pattern in layers:
            hits = {layer for layer in found if _matching([layer[0]], pattern)}
            if not hits and _matching(names, pattern):
                raise UserError(f"{self.key}: {pattern!r} names a module without numbers for each example of a batch")
            if not hits:
                every = sorted({*names, *(name for name, _ in found)})
                near = get_close_matches(pattern, every, n=5, cutoff=0.0)
                raise UserError(f"{self.key}: {pattern!r} names nothing in the model; nearest: {', '.join(near)}")
            chosen |= hits
        return {layer: bits for layer, bits in found.items() if layer in chosen}


def _matching(names: Iterable[str], pattern: str) -> list[str]:
    """Returns the names that match entirely or in their last parts, also without the number of a call."""
    forms = (pattern, f"*.{pattern}")
    return [
        name for name in names if any(fnmatchcase(n, form) for n in (name, name.partition("#")[0]) for form in forms)
    ]
