"""Layers whose weight is assembled from templates, and layers that treat channels independently.

Each of them is three layers in one: member 0, member 1 and the full width; ``phase`` selects which one computes. The
tensors of all three exist from the start, so a state dict has the same names and shapes in every phase.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from callbacks.mixture_growth.assembly import TemplateBlock, assemble
from framework.errors import UserError
from framework.protocols import WeightPart

GROWN = 2
Kind = Literal["both", "in", "out"]
Init = Literal["kaiming", "official", "layer"]
MEMBER_SETS = ((0, 1, 0, 1), (0, 1, 1, 0))


def halves(width: int) -> tuple[int, int]:
    """Returns the widths of a layer's two members; if the width is odd, the first member has one channel more."""
    return width - width // 2, width // 2


def frozen_names(layer: nn.Module) -> frozenset[str]:
    """Returns the names of a plain layer's frozen parameters."""
    return frozenset(name for name, parameter in layer.named_parameters() if not parameter.requires_grad)


class Growing(nn.Module):
    """The base class of both kinds of layers.

    Attributes:
        phase: 0 or 1 if that member computes, 2 for the full width.
        frozen: Names of the plain layer's parameters that were frozen when it was converted, and stay frozen.
    """

    frozen: frozenset[str] = frozenset()

    def __init__(self) -> None:
        super().__init__()
        self.phase = 0

    def member_of(self, name: str) -> int | None:
        """Returns the member of a parameter of this layer; ``None`` if only the full width uses it."""
        raise NotImplementedError

    def used_when_grown(self, name: str) -> bool:
        """Returns whether the full width uses a parameter of this layer."""
        raise NotImplementedError

    def plain_name(self, name: str) -> str:
        """Returns the plain layer's parameter to which one of this layer corresponds."""
        raise NotImplementedError

    def learns(self, name: str, phase: int, freeze_members: bool = False) -> bool:
        """Returns whether a parameter of this layer is trained in a phase.

        Args:
            name: Name within the layer.
            phase: 0, 1 or 2.
            freeze_members: Whether the members' coefficients are frozen in phase 2.
        """
        if self.plain_name(name) in self.frozen:
            return False
        if phase != GROWN:
            return self.member_of(name) == phase
        return self.used_when_grown(name) and not (freeze_members and name in ("alpha_0", "alpha_1"))

    def folded(self) -> nn.Module:
        """Returns a plain layer of full width with this layer's output in its phase; the idle member is zero."""
        raise NotImplementedError


class TemplateLayer(Growing):
    """A linear layer or convolution whose weight consists of blocks mixed from templates (Pham et al. 2024).

    Block j is ``B_j = Σ_t alpha_j[t] · templates_s[t]`` with the set s = ``member_sets[j]``. If it is split both ways
    the weight is ``[[B_0, B_2], [B_3, B_1]]``, with outputs as rows; if only over inputs ``[B_0, B_1]``, only over
    outputs ``[B_0; B_1]``. Member m uses only B_m. If the width is odd, the second member has the smaller half, and its
    blocks omit the templates' last row or column.

    In evaluation mode and without gradients the assembled weight is cached, until a parameter is written to or a
    backward pass goes through the layer. Writes through ``parameter.data`` cannot be detected: call ``eval()`` after
    them, which clears the cache.

    Args:
        layer: The plain layer; its class, sizes, device and precision are used, its values are not.
        kind: ``both``, ``in`` or ``out``: the sides that are split between members.
        templates: T, number of templates in each of the two sets.
        member_sets: The set of each block.
        init: Initialisation of the templates: ``kaiming`` (each with the fan-in of a member), ``official`` (Kaiming on
            the tensor of all templates, which uses their number as that of outputs) or ``layer`` (``deviation``).
        deviation: With ``init: layer``, the standard deviation of a member's weight.
        bias_bound: Biases are drawn uniformly up to this bound.

    Raises:
        UserError: the layer is of another class, has groups, or is too narrow to be split.
    """

    templates_0: nn.Parameter
    templates_1: nn.Parameter
    alpha_0: nn.Parameter
    alpha_1: nn.Parameter
    bias_0: nn.Parameter
    bias_1: nn.Parameter
    padding_mode: str

    def __init__(
        self,
        layer: nn.Module,
        kind: str = "both",
        templates: int = 2,
        member_sets: Sequence[int] = (0, 1, 0, 1),
        init: str = "kaiming",
        deviation: float = 1.0,
        bias_bound: float = 0.0,
    ) -> None:
        super().__init__()
        self.kind, self.templates, self.member_sets = kind, int(templates), tuple(member_sets)
        self.init, self.deviation, self.bias_bound = init, float(deviation), float(bias_bound)
        self.original = type(layer)
        weight: Tensor = layer.weight  # type: ignore[assignment]
        self.frozen = frozen_names(layer)
        self.full = tuple(self.as_rows(weight).shape)
        widths = self.in_width, self.out_width = self.full[1], self.full[0]
        for width, sides in zip(widths, (("both", "in"), ("both", "out")), strict=True):
            if kind in sides and width < 2:
                raise UserError(f"a layer of {widths[0]} to {widths[1]} channels cannot be split ({kind})")
        rows, columns = self._rows(0), self._columns(0)
        sizes = (self.templates, rows[1] - rows[0], columns[1] - columns[0], *self.full[2:])
        factory: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        for number in (0, 1):
            self.register_parameter(f"templates_{number}", nn.Parameter(torch.zeros(sizes, **factory)))
        for number in range(self.blocks):
            self.register_parameter(f"alpha_{number}", nn.Parameter(torch.zeros(self.templates, **factory)))
        self.has_bias = layer.bias is not None
        if self.has_bias:
            for number in (0, 1):
                top, bottom = self._rows(number)
                self.register_parameter(f"bias_{number}", nn.Parameter(torch.zeros(bottom - top, **factory)))
            self.bias_grown = nn.Parameter(torch.zeros(self.out_width, **factory))
        places = [(number, *self._place(number)) for number in range(self.blocks)]
        self._blocks = tuple(TemplateBlock(self.member_sets[n], n, *rows, *columns) for n, rows, columns in places)
        self._kept: tuple[Any, Tensor] | None = None
        self.train(layer.training)

    # sizes

    @property
    def blocks(self) -> int:
        """The blocks of the full weight: 4, or 2 if only one side is split."""
        return 4 if self.kind == "both" else 2

    def _rows(self, half: int) -> tuple[int, int]:
        first = halves(self.out_width)[0]
        return (0, self.out_width) if self.kind == "in" else ((0, first), (first, self.out_width))[half]

    def _columns(self, half: int) -> tuple[int, int]:
        first = halves(self.in_width)[0]
        return (0, self.in_width) if self.kind == "out" else ((0, first), (first, self.in_width))[half]

    def _place(self, block: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the rows and columns of a block in the full weight."""
        row, column = ((0, 0), (1, 1), (0, 1), (1, 0))[block]
        return self._rows(row), self._columns(column)

    @staticmethod
    def as_rows(weight: Tensor) -> Tensor:
        """Returns a plain layer's weight with outputs first, inputs second."""
        return weight

    # values

    def alphas(self) -> list[nn.Parameter]:
        """Coefficients of each block, each ``(T,)``."""
        found: Any = self._parameters  # faster than by attribute, which matters for small layers
        return [found[name] for name in self.second_factors]

    def banks(self) -> list[nn.Parameter]:
        """Returns both sets of templates, each ``(T, rows, columns, …)``."""
        found: Any = self._parameters
        return [found["templates_0"], found["templates_1"]]

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws templates, coefficients and biases of the members."""
        alphas = self.alphas()
        start = torch.empty(len(alphas), self.templates, device=alphas[0].device, dtype=torch.float32)
        nn.init.orthogonal_(start)
        for alpha, row in zip(alphas, start, strict=True):
            alpha.copy_(row)
        for member, bank in enumerate(self.banks()):
            if self.init == "official":
                nn.init.kaiming_normal_(bank)
            elif self.init == "kaiming":
                nn.init.normal_(bank, std=math.sqrt(2 / bank[0, 0].numel()))
            else:
                nn.init.normal_(bank, std=self.deviation / float(start[member].norm()))
        if self.has_bias:
            for bias in (self.bias_0, self.bias_1):
                nn.init.uniform_(bias, -self.bias_bound, self.bias_bound)

    def block(self, number: int) -> Tensor:
        """Returns B_j, with the size of its rectangle."""
        (top, bottom), (left, right) = self._place(number)
        block = TemplateBlock(0, 0, 0, bottom - top, 0, right - left)
        bank, alpha = getattr(self, f"templates_{self.member_sets[number]}"), getattr(self, f"alpha_{number}")
        return assemble([bank], [alpha], [block], (bottom - top, right - left, *self.full[2:]))

    def whole(self) -> Tensor:
        """Returns W of the grown layer, outputs first."""
        return assemble(self.banks(), self.alphas(), self._blocks, self.full)

    def effective_weight(self) -> Tensor:
        """Returns the weight in the layer's phase, outputs first."""
        if self.training:
            return self._assembled()
        if torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
            return self._assembled()
        if torch.is_grad_enabled():
            weight = self._assembled()
            self._forget()
            if weight.requires_grad:  # fused optimisers write later, without a new tensor version
                weight.register_hook(self._forget)
            return weight
        used = [*self.banks(), *self.alphas()]
        key = (self.phase, torch.is_inference_mode_enabled(), [(id(p), p._version, p.data_ptr()) for p in used])
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self._assembled())
        return self._kept[1]

    def _forget(self, *_: Any) -> None:
        self._kept = None

    def _assembled(self) -> Tensor:
        return self.whole() if self.phase == GROWN else self.block(self.phase)

    @property
    def weight(self) -> Tensor:
        """That of an equal plain layer, in this phase."""
        return self.as_rows(self.effective_weight())

    @property
    def bias(self) -> Tensor | None:
        """That of an equal plain layer, in this phase."""
        if not self.has_bias:
            return None
        return self.bias_grown if self.phase == GROWN else getattr(self, f"bias_{self.phase}")

    def narrowed(self, x: Tensor, dim: int) -> Tensor:
        """Returns the input of the member that computes: unchanged, or its channels of an input of full width.

        Raises:
            UserError: the input has neither of the two widths.
        """
        if self.phase == GROWN or self.kind == "out":
            return x
        left, right = self._columns(self.phase)
        if x.shape[dim] == right - left:
            return x
        if x.shape[dim] == self.in_width:
            return x.narrow(dim, left, right - left)
        raise UserError(
            f"mixture_growth.layers: a layer split over its {self.in_width} inputs got {x.shape[dim]} from a member; "
            f"{right - left} were expected. Where channels are flattened or joined before it, their number must be "
            "even and members must stay apart"
        )

    # used by training, initialisations and other techniques

    def member_of(self, name: str) -> int | None:
        """Returns the member of templates, coefficients and biases 0 and 1."""
        stem, _, number = name.rpartition("_")
        return int(number) if stem in ("templates", "alpha", "bias") and number in ("0", "1") else None

    def used_when_grown(self, name: str) -> bool:
        """Returns true for all parameters except the members' biases."""
        return name not in ("bias_0", "bias_1")

    def plain_name(self, name: str) -> str:
        """Returns ``weight`` or ``bias``."""
        return "bias" if name.startswith("bias") else "weight"

    @property
    def second_factors(self) -> tuple[str, ...]:
        """Names of the coefficients, which multiply the templates."""
        return tuple(f"alpha_{number}" for number in range(self.blocks))

    def parameter_options(self) -> dict[str, dict[str, float]]:
        """Returns options without weight decay for coefficients."""
        return {name: {"weight_decay": 0.0} for name in self.second_factors}

    def weight_parts(self) -> list[WeightPart]:
        """Returns both sets of templates, with the fans of a member and the norm of its coefficients."""
        size = math.prod(self.full[2:])
        parts = []
        for member in (0, 1):
            rows, columns = self.banks()[member].shape[1:3]
            gain = float(self.alphas()[member].detach().norm())
            bias = f"bias_{member}" if self.has_bias else None
            parts.append(WeightPart(f"templates_{member}", columns * size, rows * size, gain, bias))
        return parts

    # copies and moves

    def train(self, mode: bool = True) -> TemplateLayer:
        """Sets the mode and clears the cached weight."""
        self._forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> TemplateLayer:
        self._forget()

        def applied(tensor: Tensor) -> Tensor:  # channels_last does not apply to templates
            return fn(tensor.reshape(len(tensor), -1)).view(tensor.shape) if tensor.ndim > 3 else fn(tensor)

        return super()._apply(applied, *args, **kwargs)  # type: ignore[return-value]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}

    def extra_repr(self) -> str:
        """Returns sizes and phase."""
        return f"{self.in_width}, {self.out_width}, kind={self.kind}, templates={self.templates}, phase={self.phase}"

    @torch.no_grad()
    def folded_tensors(self) -> tuple[Tensor, Tensor | None]:
        """Returns weight (outputs first) and bias of full width; outside of a member they are zero."""
        weight = self._assembled()
        if self.phase == GROWN:
            return weight, None if self.bias is None else self.bias.detach().clone()
        (top, bottom), (left, right) = self._place(self.phase)
        whole = weight.new_zeros(self.full)
        whole[top:bottom, left:right] = weight
        if self.bias is None:
            return whole, None
        bias = weight.new_zeros(self.out_width)
        bias[top:bottom] = self.bias
        return whole, bias

    def plain(self, weight: Tensor, bias: Tensor | None) -> nn.Module:
        """Returns a plain layer with these values, outputs first."""
        rows = weight.shape[0]
        with torch.device("meta"):
            layer = self._empty(weight.shape[1], rows)
        layer.weight = nn.Parameter(self.as_rows(weight).contiguous(), requires_grad="weight" not in self.frozen)
        if bias is not None:
            layer.bias = nn.Parameter(bias, requires_grad="bias" not in self.frozen)
        return layer.train(self.training)

    def _empty(self, inputs: int, outputs: int) -> nn.Module:
        raise NotImplementedError

    def folded(self) -> nn.Module:
        """Returns a plain layer of the original class, names and sizes."""
        return self.plain(*self.folded_tensors())


class TemplateLinear(TemplateLayer):
    """A :class:`torch.nn.Linear`, or GPT-2's ``Conv1D``, of templates; maps ``(…, in)`` to ``(…, out)``."""

    def __init__(self, layer: nn.Module, *args: Any, **kwargs: Any) -> None:
        self.__dict__["transposed"] = type(layer) is not nn.Linear
        super().__init__(layer, *args, **kwargs)
        self.transposed = type(layer) is not nn.Linear
        self.in_features, self.out_features = self.in_width, self.out_width

    def as_rows(self, weight: Tensor) -> Tensor:  # type: ignore[override]
        """Transposes the weight of GPT-2's layer, which has its inputs first."""
        return weight.t() if self.transposed else weight

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(…, in)`` to ``(…, out)``; in and out of the member that computes, or of the full width."""
        return F.linear(self.narrowed(x, -1), self.effective_weight(), self.bias)

    def _empty(self, inputs: int, outputs: int) -> nn.Module:
        if self.transposed:
            return self.original(outputs, inputs)
        return nn.Linear(inputs, outputs, bias=self.has_bias)


class _TemplateConv(TemplateLayer):
    _settings = ("stride", "padding", "dilation", "padding_mode")

    def __init__(self, layer: nn.Conv1d | nn.Conv2d, *args: Any, **kwargs: Any) -> None:
        if layer.groups != 1:
            raise UserError(f"a convolution with {layer.groups} groups cannot be split")
        super().__init__(layer, *args, **kwargs)
        for name in self._settings:
            setattr(self, name, getattr(layer, name))
        self.in_channels, self.out_channels, self.groups = self.in_width, self.out_width, 1
        self.kernel_size = layer.kernel_size
        self._padding = layer._reversed_padding_repeated_twice

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        function: Any = F.conv1d if weight.ndim == 3 else F.conv2d
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x = F.pad(x, self._padding, mode=self.padding_mode)
            padding = 0
        return function(x, weight, bias, self.stride, padding, self.dilation)

    def _empty(self, inputs: int, outputs: int) -> nn.Module:
        settings = {name: getattr(self, name) for name in self._settings}
        return self.original(inputs, outputs, self.kernel_size, bias=self.has_bias, **settings)  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(B, in, …)`` to ``(B, out, …)``; in and out of the member that computes, or of the full width."""
        return self._convolve(self.narrowed(x, 1), self.effective_weight(), self.bias)


class TemplateConv1d(_TemplateConv):
    """A :class:`torch.nn.Conv1d` of templates."""


class TemplateConv2d(_TemplateConv):
    """A :class:`torch.nn.Conv2d` of templates."""


class PerChannel(Growing):
    """A layer that treats channels independently (depthwise convolution, PReLU): one per member and one of full width.

    Args:
        layer: The plain layer; its values are copied, for a member those of its channels.
        width: Number of channels.

    Raises:
        UserError: there is only one channel.
    """

    _counts: ClassVar[tuple[str, ...]] = ("num_features", "num_parameters", "in_channels", "out_channels", "groups")

    def __init__(self, layer: nn.Module, width: int) -> None:
        super().__init__()
        first, second = halves(width)
        if not second:
            raise UserError("a layer of 1 channel cannot be split")
        self.width = width
        self.frozen = frozen_names(layer)
        self.member_0 = self._part(layer, 0, first)
        self.member_1 = self._part(layer, first, width)
        self.whole = copy.deepcopy(layer)
        self.train(layer.training)

    def _part(self, layer: nn.Module, start: int, stop: int) -> nn.Module:
        part = copy.deepcopy(layer)
        for name, tensor in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
            if tensor.ndim and len(tensor) == self.width:
                piece = tensor.detach()[start:stop].clone()
                if isinstance(tensor, nn.Parameter):
                    setattr(part, name, nn.Parameter(piece, requires_grad=tensor.requires_grad))
                else:
                    setattr(part, name, piece)
        for name in self._counts:
            if getattr(part, name, None) == self.width:
                setattr(part, name, stop - start)
        return part

    def active(self) -> nn.Module:
        """Returns the plain layer that computes in this phase."""
        return (self.member_0, self.member_1, self.whole)[self.phase]

    def forward(self, x: Tensor) -> Tensor:
        """Applies the plain layer, on the channels of the member that computes or on all."""
        return self.active()(x)

    def member_of(self, name: str) -> int | None:
        """Returns the member whose part contains the parameter."""
        return {"member_0": 0, "member_1": 1}.get(name.partition(".")[0])

    def used_when_grown(self, name: str) -> bool:
        """Returns true only for parameters of the full width."""
        return name.startswith("whole.")

    def plain_name(self, name: str) -> str:
        """Returns the parameter's name within its part."""
        return name.partition(".")[2]

    def tensors(self) -> Iterator[tuple[str, Tensor, Tensor, Tensor]]:
        """Yields for every entry of a state dict its name, the members' tensors and that of the full width."""
        parts = [dict(part.state_dict(keep_vars=True)) for part in (self.member_0, self.member_1, self.whole)]
        for name, tensor in parts[2].items():
            yield name, parts[0][name], parts[1][name], tensor

    @torch.no_grad()
    def join(self) -> None:
        """Writes the members' values to the full width: concatenated by channel; of a count, the larger."""
        for _, first, second, whole in self.tensors():
            if whole.ndim and len(whole) == self.width:
                whole.copy_(torch.cat((first, second)))
            else:
                whole.copy_(torch.maximum(first, second))

    @torch.no_grad()
    def folded(self) -> nn.Module:
        """Returns the full width; for a member, padded so that the other's channels are zero or not used."""
        if self.phase == GROWN:
            return self.whole
        layer = copy.deepcopy(self.whole)
        start, stop = (0, halves(self.width)[0]) if self.phase == 0 else (halves(self.width)[0], self.width)
        values = self.active().state_dict()
        for name, tensor in layer.state_dict(keep_vars=True).items():
            if tensor.ndim and len(tensor) == self.width:
                tensor.fill_(1.0 if name == "running_var" else 0.0)
                tensor[start:stop] = values[name]
            else:
                tensor.copy_(values[name])
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name not in self.frozen)
        return layer


class TemplateBatchNorm(PerChannel):
    """Batch norm (1d, 2d, 3d) with statistics, scales and shifts of each member and of the full width."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(layer, int(layer.num_features))  # type: ignore[arg-type]
