"""Every sequence layer in each precision, at each length, and on the meta device."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision, MixedPrecision, Precision
from torch import Tensor, nn

from callbacks.liger.attention import Recipe, convert
from callbacks.liger.gates import KINDS
from framework.errors import UserError
from framework.functional.gated_linear_attention import chunk_gla, parallel_gla, recurrent_gla
from modules.sequence.attention import SoftmaxAttention
from modules.sequence.decoder import SwiGLU
from modules.sequence.lightning_attention import LightningAttention, TransNormerLM
from modules.sequence.lightning_attention.layer import SimpleGLU, SRMSNorm
from modules.sequence.mom import RULES, Memories, MoMLayer, MoMLM, MoMRecall
from modules.sequence.s4d import S4DClassifier, S4DLayer, S4DRegressor
from modules.sequence.s4d.kernel import Discretisation
from modules.sequence.s4d.layer import SSM
from modules.sequence.s4d.model import S4DBlock
from modules.sequence.transformer import TransformerLM
from modules.sequence.ultramem_v2 import FactModel, MemoryConfig, UltraMemLM
from modules.sequence.ultramem_v2.layers import LAYERS

D, VOCABULARY = 8, 11
PRECISIONS: dict[str, Callable[[], Precision]] = {
    "32-true": Precision,
    "bf16-true": lambda: HalfPrecision("bf16-true"),
    "bf16-mixed": lambda: MixedPrecision("bf16-mixed", "cpu"),
}
SIZES = [(1, 0), (1, 1), (1, 7)]  # batch, length
TOLERANCE = 0.03  # eight steps of bfloat16


def vectors(batch: int, length: int) -> Tensor:
    return torch.randn(batch, length, D)


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (batch, length))


def questions(batch: int, length: int) -> Tensor:
    count = batch * length
    return torch.stack([torch.randint(0, 5, (count,)), torch.randint(5, 7, (count,))], 1)


@dataclass(frozen=True)
class Row:
    """A layer of the grid.

    Attributes:
        make: Returns the layer.
        inputs: Returns its input for a batch and a length.
        width: Of its output ``(batch, length, width)``.
        mixed: Type of its output under bf16-mixed, from float32 inputs.
        true: The same under bf16-true.
        refused: Sizes for which it raises a UserError, to the setting that the message names.
        shape: Shape of the output, where it is not ``(batch, length, width)``.
        whole: Whether every parameter gets a gradient, also from no tokens.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Tensor] = vectors
    width: int = D
    mixed: torch.dtype = torch.bfloat16
    true: torch.dtype = torch.bfloat16
    refused: Mapping[tuple[int, int], str] = field(default_factory=dict)
    shape: Callable[[int, int], tuple[int, ...]] | None = None
    whole: bool = True

    def output_shape(self, batch: int, length: int) -> tuple[int, ...]:
        return (batch, length, self.width) if self.shape is None else self.shape(batch, length)


class Recurrence(nn.Module):
    """A form of gated linear attention, with queries, keys, values and decays from one learnt map."""

    def __init__(self, form: Callable[..., Any]) -> None:
        super().__init__()
        self.form, self.proj = form, nn.Linear(D, 4 * D)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v, gate = self.proj(x).chunk(4, -1)
        output = self.form(q, k, v, -gate.exp())
        return output if isinstance(output, Tensor) else output[0]


class MoMReference(nn.Module):
    """A rule of MoM, token by token."""

    def __init__(self, rule: Any) -> None:
        super().__init__()
        self.rule = RULES[rule](D, 2, 4)
        self.proj, self.gates = nn.Linear(D, 3 * D), self.rule.gate_projection()

    def forward(self, x: Tensor) -> Tensor:
        gates = None if self.gates is None else self.gates(x)
        return self.rule(*self.proj(x).chunk(3, -1), gates, reference=True)[0].flatten(2).to(x.dtype)


def s4d_block(norm: Any) -> S4DBlock:
    layer = S4DLayer(D, SSM(d_state=4))
    return S4DBlock(layer, norm=norm, prenorm=True, dropout=0.0, tie_dropout=True, activation="gelu", final_act="glu")


def liger(variant: Any, window: int = 3) -> nn.Module:
    layer = SoftmaxAttention(D, 2, 1)
    convert(layer, Recipe(variant=variant, window=window, slots=3, chunk=4))
    return layer


def mom(**memory: Any) -> MoMLayer:
    layer = MoMLayer(D, 2, memory=Memories(**memory))
    with torch.no_grad():
        layer.router.proj.weight.mul_(20)  # far from ties, which rounding would decide
    return layer


def memory(kind: Any, **settings: Any) -> MemoryConfig:
    # all slots are read, so that rounding does not choose others
    return MemoryConfig(
        kind=kind, n_keys=3, d_key=4, top=9, d_value=8, d_pre=0 if kind != "ultramem_v2" else 8, **settings
    )


LANGUAGE: dict[str, Any] = {"vocab_size": VOCABULARY, "d_model": D, "n_layers": 2, "n_heads": 2}


def model(make: Callable[..., nn.Module], **settings: Any) -> Row:
    return Row(lambda: make(**LANGUAGE, **settings), tokens, VOCABULARY)


NO_SAMPLES = {(1, 0): "length"}
ROWS = {
    **{
        f"gla {form.__name__}": Row(lambda form=form: Recurrence(form))
        for form in (recurrent_gla, parallel_gla, chunk_gla)
    },
    "softmax": Row(lambda: SoftmaxAttention(D, 2)),
    "softmax grouped": Row(lambda: SoftmaxAttention(D, 4, 2)),
    "swiglu": Row(lambda: SwiGLU(D, 16)),
    "sglu": Row(lambda: SimpleGLU(D, 16)),
    "srmsnorm": Row(SRMSNorm, mixed=torch.float32),
    "lightning": Row(lambda: LightningAttention(D, 2, torch.tensor([0.5, 0.0]), block=3)),
    "lightning lrpe": Row(lambda: LightningAttention(D, 2, torch.tensor([0.5, 0.1]), lrpe=True, block=4)),
    "lightning left": Row(lambda: LightningAttention(D, 2, torch.tensor([0.5, 0.1]), form="left_product")),
    **{f"mom {rule}": Row(lambda rule=rule: mom(rule=rule)) for rule in RULES},
    **{
        f"mom {rule} reference": Row(lambda rule=rule: MoMReference(rule), mixed=torch.float32)
        for rule in ("deltanet", "rwkv6")
    },
    "mom masked": Row(lambda: mom(backend="masked")),
    "mom loop": Row(lambda: mom(backend="loop"), whole=False),
    "mom capacity": Row(lambda: mom(capacity=0.5, shared=False, conv_size=0, rule="retnet")),
    **{
        f"s4d {disc}": Row(lambda disc=disc: S4DLayer(D, SSM(d_state=4, disc=disc)), mixed=torch.float32)
        for disc in get_args(Discretisation)
    },
    "s4d two ways": Row(
        lambda: S4DLayer(D, SSM(d_state=4, bidirectional=True, channels=2)), width=2 * D, mixed=torch.float32
    ),
    "s4d block": Row(lambda: s4d_block("layer"), mixed=torch.float32),
    "s4d batch norm": Row(lambda: s4d_block("batch"), mixed=torch.float32, refused={(1, 0): "norm", (1, 1): "norm"}),
    **{
        f"memory {kind}": Row(
            lambda kind=kind: LAYERS[kind](memory(kind), D), mixed=torch.float32 if kind == "peer" else torch.bfloat16
        )
        for kind in LAYERS
    },
    "memory balanced": Row(lambda: LAYERS["ultramem_v2"](memory("ultramem_v2", balance=0.1, key_expand=2), D)),
    **{f"liger {variant}": Row(lambda variant=variant: liger(variant)) for variant in KINDS},
    "liger window": Row(lambda: liger("gla", window=64)),
    "TransNormerLM": model(TransNormerLM),
    "TransformerLM": model(TransformerLM),
    "MoMLM": model(MoMLM, attention_every=2),
    **{f"UltraMemLM {kind}": model(UltraMemLM, memory=memory(kind)) for kind in LAYERS},
    "MoMRecall": Row(lambda: MoMRecall(keys=3, values=4, d_model=D, head_dim=4), tokens, 4),
    "FactModel": Row(
        lambda: FactModel(5, 2, 4, D, 16, memory("ultramem_v2")),
        questions,
        shape=lambda batch, length: (batch * length, 4),
    ),
    "S4DClassifier": Row(
        lambda: S4DClassifier(D, n_classes=3, d_model=D, n_layers=1, ssm=SSM(d_state=4)),
        refused=NO_SAMPLES,
        shape=lambda batch, length: (batch, 3),
    ),
    "S4DRegressor": Row(
        lambda: S4DRegressor(D, d_model=D, n_layers=1, ssm=SSM(d_state=4), pooling="last"),
        refused=NO_SAMPLES,
        shape=lambda batch, length: (batch, 1),
        mixed=torch.float32,
        true=torch.float32,
    ),
}
DECODING = [
    name
    for name in ROWS
    if name.startswith(("softmax", "lightning", "mom", "liger", "Trans", "MoM", "UltraMemLM"))
    and "reference" not in name
]


@contextmanager
def running(precision: Precision) -> Iterator[None]:
    """Runs in a precision as Lightning does; a warning is an error."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)  # torch has some warnings only once a process
    try:
        with precision.forward_context(), warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    finally:
        torch.set_warn_always(always)


def gradients(layer: nn.Module, x: Tensor, output: Tensor) -> dict[str, Tensor | None]:
    """Returns the gradients of a weighted sum of the output, by the parameters and a floating input."""
    given = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    if x.requires_grad:
        given["x"] = x
    weight = torch.linspace(-1, 1, output.numel(), dtype=torch.float32).view(output.shape)
    found = torch.autograd.grad((output.float() * weight).sum(), list(given.values()), allow_unused=True)
    return dict(zip(given, found, strict=True))


@torch.no_grad()
def distance(found: Iterable[Tensor | None], expected: Iterable[Tensor | None]) -> float:
    """Returns the relative distance of two lists of tensors, each as one vector."""
    one, other = (torch.cat([x.float().flatten() for x in part if x is not None]) for part in (found, expected))
    return float((one - other).norm() / other.norm().clamp(min=1e-6))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", ROWS)
def test_layer(name, precision):
    row, plugin = ROWS[name], PRECISIONS[precision]()
    torch.manual_seed(3)
    layer = plugin.convert_module(row.make()).train()
    exact = copy.deepcopy(layer).float()
    for batch, length in SIZES:
        x = plugin.convert_input(row.inputs(batch, length))
        x.requires_grad_(x.is_floating_point())
        if (batch, length) in row.refused:
            with running(plugin), pytest.raises(UserError, match=row.refused[batch, length]):
                layer(x)
            continue
        with running(plugin):
            output = layer(x)
            found = gradients(layer, x, output)
        kind = {"32-true": torch.float32, "bf16-true": row.true, "bf16-mixed": row.mixed}[precision]
        assert (output.shape, output.dtype) == (row.output_shape(batch, length), kind)
        assert output.isfinite().all()
        assert not row.whole or all(value is not None for value in found.values())
        assert all(value.isfinite().all() for value in found.values() if value is not None)
        if length and precision != "32-true":
            y = x.detach().float().requires_grad_() if x.is_floating_point() else x
            expected = exact(y)
            assert distance([output], [expected]) < TOLERANCE
            assert distance(found.values(), gradients(exact, y, expected).values()) < 2 * TOLERANCE


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
@pytest.mark.parametrize("name", ROWS)
def test_layer_on_meta(name, precision):
    row, plugin = ROWS[name], PRECISIONS[precision]()
    with torch.device("meta"):
        layer = plugin.convert_module(row.make())
        x = plugin.convert_input(row.inputs(1, 7))
    with running(plugin):
        output = layer(x)
    kind = torch.float32 if precision == "32-true" else row.true
    assert (output.shape, output.dtype, output.is_meta) == (row.output_shape(1, 7), kind, True)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", DECODING)
def test_tokens_in_pieces(name, precision):
    """Several tokens, none, one, and the rest after a state give what all of them give at once."""
    row, plugin = ROWS[name], PRECISIONS[precision]()
    torch.manual_seed(3)
    layer: Any = plugin.convert_module(row.make()).eval()
    exact = copy.deepcopy(layer).float()
    x = plugin.convert_input(row.inputs(2, 7))
    state, outputs = None, []
    with torch.no_grad(), running(plugin):
        for piece in x.split([3, 0, 1, 3], 1):
            output, state = layer.extend(piece, state)
            outputs.append(output)
    expected = exact(x.float() if x.is_floating_point() else x)
    assert distance([torch.cat(outputs, 1)], [expected]) < (1e-5 if precision == "32-true" else TOLERANCE)
