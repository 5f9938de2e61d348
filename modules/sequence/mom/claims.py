"""What the MoM paper says, and what follows from it, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, close_to, over_seeds
from framework.protocols import Routing
from modules.sequence.mom.interference import measured_error, predicted_error
from modules.sequence.mom.layer import Memories, MoMLayer
from modules.sequence.mom.plots import interference_figure, recall_figure
from modules.sequence.mom.routing import balance_loss, pooled_balance_loss
from modules.sequence.mom.rules import RULES

REDUCED = "fused pairs: 1 layer, linear memories of 8 key dimensions, 32 of 64 keys, 1,000 steps"
SINGLE = {"memory.num_memories": 1, "memory.topk": 1, "memory.shared": "false"}
# Name, overrides of the config, reference accuracies of seeds 0 and 1 or of seed 0, number of seeds: more where the
# router decides how far seeds lie apart (0.1; those of a single memory lie 0.005 apart).
MODELS: dict[str, tuple[dict[str, object], tuple[float, ...], int]] = {
    "single": (SINGLE, (0.782, 0.781), 2),
    "single,\nvalues × 3": ({**SINGLE, "memory.expand_v": 18.0}, (0.780, 0.781), 1),
    "2 of 4": ({"memory.num_memories": 4, "memory.shared": "false"}, (0.941, 0.930), 4),
    "2 of 4\n+ shared": ({"memory.num_memories": 4}, (0.974, 0.972), 4),
    "2 of 8\n+ shared": ({"memory.num_memories": 8}, (0.983,), 1),
    "single,\nkeys × 3": ({**SINGLE, "head_dim": 24, "memory.expand_v": 2.0}, (0.984,), 1),
    "1 of 4": ({"memory.num_memories": 4, "memory.topk": 1, "memory.shared": "false"}, (0.494,), 1),
}


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities first, then the interference law, then what is trained."""
    yield from identities()
    yield from interference(run)
    yield from recall(run)
    yield from collapse(run)


def _example(memory: Memories = Memories()) -> tuple[MoMLayer, Tensor]:
    """Returns a layer in float64 whose outputs are of the order of 1, and 50 tokens in 3 rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = MoMLayer(16, 2, 8, memory).double()
        x = torch.randn(3, 50, 16, dtype=torch.float64)
    for parameter in layer.parameters():
        if parameter.ndim == 2:
            parameter.mul_(4.0)
    return layer, x


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


@torch.no_grad()
def identities() -> Iterator[Claim]:
    """The forms of the layer agree; memories are isolated; the balance loss has its values."""
    worst = {"forms": 0.0, "decoding": 0.0}
    for rule in RULES:
        layer, x = _example(Memories(rule=rule))
        layer.router.proj.weight[3] = 0
        layer.router.proj.weight[3, 0] = -1e3
        x[2, :, 0] = x[2, :, 0].abs() + 0.1  # row 2 leaves memory 3 empty
        mask = torch.ones(3, 50, dtype=torch.bool)
        mask[1, :17] = False
        found = []
        for backend in ("loop", "masked", "varlen"):
            layer.backend = backend
            found.append(layer(x, mask))
        worst["forms"] = max(worst["forms"], *(_distance(y, found[0]) for y in found[1:]))
        state, pieces = None, []
        for piece in (x[:, :20], *x[:, 20:].split(1, 1)):
            y, state = layer.extend(piece, state)
            pieces.append(y)
        worst["decoding"] = max(worst["decoding"], _distance(torch.cat(pieces, 1), layer(x)))
    what = f"{len(RULES)} rules, float64, an empty bucket"
    text = f"loop, masked and sorted form agree: {what}, padding"
    yield Claim(text, "equal", worst["forms"], at_most(1e-10))
    yield Claim(f"decoding token by token is the whole: {what}", "equal", worst["decoding"], at_most(1e-10))

    layer, x = _example(Memories(num_memories=1, topk=1, shared=False))
    memory = layer.memory(0)
    qkv = torch.cat([layer.q_proj(x), *memory(x)[:2]], -1).transpose(1, 2)
    assert layer.conv is not None
    assert layer.gate_proj is not None
    convolved = F.conv1d(F.pad(qkv, (3, 0)), layer.conv.weight[:, None], groups=48)
    o, _ = layer.rule(*F.silu(convolved).transpose(1, 2).split(16, -1), memory(x)[2], reference=True)
    plain = layer.o_proj(layer.norm(o).flatten(2) * F.silu(layer.gate_proj(x)))
    yield Claim("one memory is the base layer", "equal", _distance(layer(x), plain), at_most(1e-12))

    layer, x = _example()
    _, before = layer.extend(x)
    _, after = layer.extend(x[:, :1], before)
    idle = torch.cat([~layer.router(x[:, :1]).selected[:, 0], torch.zeros(3, 1, dtype=torch.bool)], 1)
    moved = max(_distance(a[idle], b[idle]) for a, b in zip(before, after, strict=True))
    yield Claim("a memory that is not chosen stays as it was", "no write, no decay", moved, at_most(0.0))

    def routing(chosen: list[int]) -> Routing:
        selected = torch.zeros(1, 4, 4, dtype=torch.bool)
        selected[..., chosen] = True
        return Routing(selected / len(chosen), selected, selected / len(chosen))

    first, second = routing([0, 1]), routing([2, 3])
    even = Routing(torch.full((1, 2, 4), 0.25), torch.tensor([[[1, 1, 0, 0], [0, 0, 1, 1]]]).bool(), first.weights)
    yield Claim("balance loss, even loads, 2 of 4", "k = 2", float(balance_loss(even)), close_to(2, absolute=1e-6))
    apart = float((balance_loss(first) + balance_loss(second)) / 2)
    yield Claim("balance loss by layers, two collapsed apart", "M = 4", apart, close_to(4, absolute=1e-6))
    pooled = float(pooled_balance_loss([first, second]))
    yield Claim("pooled over layers it does not see that", "none; reference 2", pooled, close_to(2, absolute=1e-6))


def interference(run: Reproduction) -> Iterator[Claim]:
    """Errors of random pairs in linear memories against the law, and its figure."""
    generator = torch.Generator().manual_seed(0)
    single = measured_error(generator, 1000, 65, 32, 32)
    wide = measured_error(generator, 1000, 65, 32, 96)
    law = "none; reference (n − 1)/d · (k/M) Σ g²"
    yield Claim("one memory, 65 pairs, d = 32: |o − v|²/|v|²", law, single, close_to(2.0, relative=0.03))
    yield Claim("the same with values × 3", law, wide, close_to(2.0, relative=0.05))
    settings: tuple[tuple[str, tuple[float, ...], bool], ...] = (
        ("1 of 4", (1.0,), True),
        ("2 of 4, equal weights", (0.5, 0.5), True),
        ("2 of 4, weights 0.7 and 0.3", (0.7, 0.3), True),
        ("2 of 4, equal weights, one key for all memories", (0.5, 0.5), False),
    )
    for name, weights, own in settings:
        error = measured_error(generator, 1000, 65, 32, 32, 4, weights, own)
        expected = predicted_error(65, 32, 4, weights, own)
        if name == "1 of 4":
            text = "one memory over 1 of 4: ratio of the errors"
            yield Claim(text, "none; reference 4", single / error, close_to(4.0, relative=0.1))
        paper = law if own else "none; the law with its cross terms"
        yield Claim(f"{name}: |o − v|²/|v|²", paper, error, close_to(expected, relative=0.03))

    pairs = (5, 9, 17, 33, 65, 129)
    curves: tuple[tuple[str, int, tuple[float, ...]], ...] = (
        ("one memory", 1, (1.0,)),
        ("1 of 4, or 2 of 4 with own keys", 4, (1.0,)),
        ("1 of 8", 8, (1.0,)),
    )
    predicted = {name: [predicted_error(n, 32, m, w) for n in pairs] for name, m, w in curves}
    measured = {name: [measured_error(generator, 200, n, 32, 32, m, w) for n in pairs] for name, m, w in curves}
    run.figure("interference", interference_figure(predicted, measured, pairs))


def recall(run: Reproduction) -> Iterator[Claim]:
    """Query accuracy on fused pairs through ``fit``."""
    overrides, owner = [], []
    for name, (settings, _, seeds) in MODELS.items():
        for seed in range(seeds):
            chosen = [f"--model.{key}={value}" for key, value in settings.items()]
            overrides.append(["--techniques.memory_load=null", *chosen, f"--seed_everything={seed}"])
            owner.append(name)
    accuracy: dict[str, list[float]] = {name: [] for name in MODELS}
    for name, found in zip(owner, run.fits("sequence/mom_recall", overrides), strict=True):
        accuracy[name].append(found["val/accuracy"])
    run.figure("recall", recall_figure(accuracy, {name: reference for name, (_, reference, _) in MODELS.items()}))
    of = {name.replace("\n", " "): values for name, values in accuracy.items()}
    mean = {name: float(np.mean(values)) for name, values in of.items()}

    def gap(text: str, reference: str, high: str, low: str, bound: Bound) -> Claim:
        """Each value is a seed of ``high`` less the mean of ``low``: their seeds have nothing in common."""
        values = [value - mean[low] for value in of[high]]
        return over_seeds(text, reference, values, bound, REDUCED, {high: of[high], low: of[low]})

    text = "recall: expanding the values of a single memory gains nothing"
    yield gap(text, "none; reference 0.001", "single, values × 3", "single", close_to(0.0, absolute=0.03))
    yield gap("recall: 2 of 4 memories over a single one", "more; reference 0.15", "2 of 4", "single", at_least(0.10))
    text = "recall: 2 of 4 over a single one with values × 3"
    yield gap(text, "more; reference 0.15", "2 of 4", "single, values × 3", at_least(0.10))
    text = "recall: a shared memory added to 2 of 4"
    yield gap(text, "more; reference 0.03", "2 of 4 + shared", "2 of 4", at_least(0.02))
    yield gap("recall: 8 memories over 4", "more; reference 0.01", "2 of 8 + shared", "2 of 4 + shared", at_least(0.0))
    text = "recall: a single memory with keys × 3 (the state of 2 of 4 + shared)"
    yield over_seeds(text, "none; reference 0.984", of["single, keys × 3"], at_least(mean["2 of 4"]), REDUCED)
    text = "recall: 1 of 4 renormalised falls below a single memory"
    yield gap(text, "none; reference −0.29", "1 of 4", "single", at_most(-0.05))


def collapse(run: Reproduction) -> Iterator[Claim]:
    """The loads of a small language model's memories with and without the balance loss (Fig. 9)."""
    small = ["--trainer.max_epochs=2", "--techniques.length_extrapolation=null", "--data.eval_windows=16"]
    cells = [*((0.01, seed) for seed in range(3)), *((0.0, seed) for seed in range(2))]
    overrides = [[f"--model.aux_weight={weight}", *small, f"--seed_everything={seed}"] for weight, seed in cells]
    loads: dict[float, list[dict[str, float]]] = {0.01: [], 0.0: []}
    for (weight, _), found in zip(cells, run.fits("sequence/mom", overrides), strict=True):
        loads[weight].append({name: found[f"val/load_{name}"] for name in ("min", "max", "entropy")})
    scale = "0.3M parameters, 200 steps of 4,096 bytes"
    details = {"with": loads[0.01], "without": loads[0.0]}
    least, most = ([load[name] for load in loads[0.01]] for name in ("min", "max"))
    text = "with the balance loss: smallest load of a memory"
    yield over_seeds(text, "0.12 to 0.37 (Fig. 9)", least, at_least(0.12), scale, details)
    yield over_seeds("with the balance loss: largest load", "0.12 to 0.37 (Fig. 9)", most, at_most(0.37), scale)
    ratios = [math.log(max(load["min"], 1e-6) / value) for load, value in zip(loads[0.0], least, strict=False)]
    text = "without it: smallest load, log of the ratio to that with it, largest"
    yield over_seeds(text, "near 0 share (Fig. 9)", ratios, at_most(0.0), scale, by=max)
