"""The Liger paper's claims in a form that can fail: identities in full, and two small models that are linearised.

The small models are trained by plain loops; one of them by ``fit`` too.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from callbacks.liger.attention import Projections, Recipe, liger_attention
from callbacks.liger.callback import Liger
from callbacks.liger.conversion import linearize, restore
from callbacks.liger.gates import KINDS, log_decay
from callbacks.liger.grm import grm
from callbacks.liger.window import looped_window_attention, sliding_window_attention
from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds
from framework.data.loader import ExactLoader
from framework.data.seeding import seeded
from framework.editing import Context, edit
from framework.editing.registry import find_technique
from framework.figures import new_figure
from framework.functional.rotary import angles, rotate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = "sequence/transformer_liger"
SEEDS = (0, 1)
WINDOW, LORA_LR = 8, 1e-3
VARIANTS: dict[str, dict[str, Any]] = {
    "Liger": {},
    "no SWA": {"alpha": 1.0, "beta": 0.0},
    "SWA only": {"alpha": 0.0, "beta": 1.0},
    "no gate": {"variant": "linear"},
    "gate projection": {"gate_projection": True},
    "α = β = 1": {"alpha": 1.0, "beta": 1.0},
}
MAIN = ("Liger", "no SWA", "SWA only", "no gate", "gate projection")  # over all seeds; the others over the first
RECALLED = ("Liger", "no SWA", "SWA only")


@dataclass(frozen=True)
class Toy:
    """A small softmax model, its data, and how both it and its linearised copies are trained.

    Attributes:
        model: Arguments of TransformerLM.
        data: Class and arguments of the datamodule.
        steps: Of the base.
        lr: Of the base.
        lora_steps: Of a copy.
        cosine: Whether the base's rate falls to zero.
        scale: What to say of it in the table.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    steps: int
    lr: float
    lora_steps: int
    cosine: bool
    scale: str


TEXT = Toy(
    {"d_model": 64, "n_layers": 2, "n_heads": 4},
    {
        "class_path": "datamodules.sequence.tokens.TokenData",
        "init_args": {"source": "topics", "length": 96, "batch_size": 32, "eval_batch_size": 81},
    },
    500,
    1e-3,
    100,
    False,
    f"Python's help topics as bytes (0.46 MB, not enwik8), 2 layers, D=64, H=4, T=96, w={WINDOW}, 500 + 100 steps",
)
RECALL = Toy(
    {"d_model": 64, "n_layers": 2, "n_heads": 2, "init_std": 0.1},
    {
        "class_path": "datamodules.sequence.mqar.Mqar",
        "init_args": {
            "vocab_size": 64,
            "length": 40,
            "pairs": 6,
            "alpha": 1.0,  # queries at all distances alike
            "train_samples": 64000,
            "eval_samples": 500,
            "batch_size": 64,
            "eval_batch_size": 250,
        },
    },
    1000,
    3e-3,
    300,
    True,
    f"MQAR V=64, T=40, 6 pairs at uniform distances, 2 layers, D=64, H=2, w={WINDOW}, 1,000 + 300 steps",
)
POSITIONS = (256, 1024, 4096, 16384)
OURS = "none; reference "


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities, decoding, and the two small models."""
    torch.manual_seed(0)
    yield from recurrences()
    yield from windows()
    yield from conversions()
    yield from decoding(run)
    yield from text(run)
    yield from recall(run)


def _base(toy: Toy, **changes: Any) -> tuple[Any, Any]:
    """Returns a softmax model, and its data."""
    from framework.runs.experiment import build
    from framework.runs.quiet import quiet_lightning

    quiet_lightning()
    arguments = {"vocab_size": "${data.init_args.vocab_size}", **toy.model, **changes}
    model = {"class_path": "modules.sequence.transformer.TransformerLM", "init_args": arguments}
    _, module, data = build({"model": model, "data": copy.deepcopy(toy.data), "wandb": {"mode": "disabled"}})
    return module, data


def _gap(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@torch.no_grad()
def recurrences() -> Iterator[Claim]:
    """The forms of the recurrences, and what they are in closed form."""
    q, k, v = torch.randn(3, 2, 4, 90, 16, dtype=torch.float64)
    worst = 0.0
    for variant in KINDS:
        gate = log_decay(k, variant, slots=8)
        reference, _ = grm(q, k, v, gate, variant, form="recurrent")
        forms: list[dict[str, Any]] = [{"form": "parallel"}, {"chunk": 16}, {"chunk": 64}]
        worst = max(worst, *(_gap(grm(q, k, v, gate, variant, **form)[0], reference) for form in forms))
    text = f"recurrent, parallel and chunked form agree in float64, T=90, d=16, {len(KINDS)} variants"
    yield Claim(text, "equal", worst, at_most(1e-10))
    q, k, v = torch.randn(3, 1, 2, 1024, 64)
    gate = log_decay(4 * k, "gla", tau=1.0)
    exact, _ = grm(q.double(), k.double(), v.double(), gate.double(), form="recurrent")
    yield Claim(
        "chunked form in float32 at strong gates, T=1,024", "equal", _gap(grm(q, k, v, gate)[0], exact), at_most(1e-4)
    )

    d = 64
    zero, one = torch.zeros(1, 1, 400, d, dtype=torch.float64), torch.ones(1, 1, 400, d, dtype=torch.float64)
    output = grm(zero, zero, one, log_decay(zero, "gla"))[0]
    yield Claim("q=k=0, v=1: first output", "1/d", float(output[0, 0, 0, 0]), close_to(1 / d, absolute=1e-9))
    limit = 1 / (d * (1 - 2 ** (-1 / 16)))
    text = "q=k=0, v=1: last output, τ=16, d=64"
    yield Claim(text, "0.36854267", float(output[0, 0, -1, 0]), close_to(limit, relative=1e-6))
    v = torch.randn(1, 1, 400, d, dtype=torch.float64)
    kept = grm(zero, zero + 1e9, v, log_decay(zero + 1e9, "gla"))[0]
    yield Claim("k → ∞: o = Σv/d", "0", _gap(kept, v.cumsum(2) / d), at_most(1e-6))
    gone = grm(zero, zero - 1e9, v, log_decay(zero - 1e9, "gla"))[0]
    yield Claim("k → −∞: o = v/d", "0", _gap(gone, v / d), at_most(1e-6))


@torch.no_grad()
def windows() -> Iterator[Claim]:
    """The attention to a window."""
    q, k, v = torch.randn(3, 2, 4, 200, 16)
    worst = max(
        _gap(sliding_window_attention(q, k, v, w), looped_window_attention(q, k, v, w)) for w in (1, 8, 64, 300)
    )
    yield Claim("windowed attention in blocks is the loop over tokens", "equal", worst, at_most(1e-6))
    yield Claim("a window of one returns v", "0", _gap(sliding_window_attention(q, k, v, 1), v), at_most(1e-6))
    others = [x.clone() for x in (k, v)]
    for x in others:
        x[:, :, 150 - 64] += 1
    change = _gap(
        sliding_window_attention(q, others[0], others[1], 64)[:, :, 150],
        sliding_window_attention(q, k, v, 64)[:, :, 150],
    )
    yield Claim("change of o_t when token t−w changes, w=64", "0", change, at_most(0.0))
    turn = angles(torch.arange(200), 16, 10000.0, torch.float32)
    x = Projections(q, k, v, rotate(q, *turn), rotate(k, *turn), k)
    recipe = Recipe(window=16)
    whole, _ = liger_attention(x, recipe)
    state, parts = None, []
    for t in range(200):
        part, state = liger_attention(Projections(*(y[:, :, t : t + 1] for y in x)), recipe, state)
        parts.append(part)
    yield Claim(
        "token by token is the forward pass, T=200, w=16", "equal", _gap(torch.cat(parts, 2), whole), at_most(1e-5)
    )


@torch.no_grad()
def conversions() -> Iterator[Claim]:
    """What a conversion leaves as it is."""
    model, _ = _base(TEXT, init_std=0.2)
    tokens = torch.randint(256, (2, 96))
    model.eval()
    expected, before = model(tokens), {name: tensor.shape for name, tensor in model.state_dict().items()}
    linearize(model, window=96, alpha=0.0, beta=1.0)
    yield Claim("α=0, β=1, w=T: change of the logits", "0", _gap(model(tokens), expected), at_most(1e-5))
    restore(model)
    linearize(model)
    after = {name: tensor.shape for name, tensor in model.state_dict().items()}
    yield Claim("names or shapes in the state dict that differ", "0", len(before.items() ^ after.items()), at_most(0))
    expected = model(tokens)
    _adapt(model)
    yield Claim("LoRA with B = 0: change of the logits", "0", _gap(model(tokens), expected), at_most(0.0))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    yield Claim("trained parameters, q, k, v at r=8, D=64, 2 layers", "2·3·8·(64 + 64)", trained, close_to(6144))
    heads, kv_heads, d, layers, rank, total = 32, 8, 128, 32, 8, 8_030_261_248
    wide, narrow = heads * d, kv_heads * d
    qkv = layers * rank * (2 * wide + 2 * (wide + narrow))
    with_output = qkv + layers * rank * 2 * wide
    yield Claim(
        "trained share of Llama-3-8B with q, k, v, o [%]",
        "0.085",
        100 * with_output / total,
        close_to(0.085, absolute=5e-4),
    )
    yield Claim(
        "trained share of Llama-3-8B with q, k, v [%]",
        "none; reference 0.059",
        100 * qkv / total,
        close_to(0.059, absolute=5e-4),
    )


def decoding(run: Reproduction) -> Iterator[Claim]:
    """What a decoding step costs, and what has to be kept, at which position."""
    softmax, _ = _base(TEXT, d_model=128)
    linear: Any = linearize(copy.deepcopy(softmax))
    token = torch.randint(256, (1, 1))
    found: dict[str, list[tuple[float, float]]] = {}
    with torch.no_grad():
        for name, model in {"softmax": softmax, "Liger": linear}.items():
            states = []
            for position in POSITIONS:
                if name == "Liger":
                    states.append(model.extend(torch.randint(256, (1, position)))[1])
                else:
                    states.append(_grown(model.extend(token.expand(1, 64))[1], position // 64))
            times: list[list[float]] = [[] for _ in states]
            for _ in range(40):  # the positions take turns
                for state, seen in zip(states, times, strict=True):
                    start = time.perf_counter()
                    model.extend(token, state)
                    seen.append(1e3 * (time.perf_counter() - start))
            sizes = [sum(x.nbytes for x in tree_leaves(state) if isinstance(x, Tensor)) for state in states]
            found[name] = [(statistics.median(seen), float(size)) for seen, size in zip(times, sizes, strict=True)]
    run.figure("decoding", decoding_figure(found))
    scale = "2 layers, D=128, H=4, w=64, batch 1, on this CPU"
    details = {name: [list(pair) for pair in pairs] for name, pairs in found.items()}
    growth = {name: [b / a for a, b in zip(pairs[0], pairs[-1], strict=True)] for name, pairs in found.items()}
    span = f"from {POSITIONS[0]:,} to {POSITIONS[-1]:,} tokens"
    yield Claim(
        f"Liger: growth of the decoding state {span}", "constant", growth["Liger"][1], close_to(1.0), scale, details
    )
    yield Claim(f"softmax: growth of the decoding state {span}", "linear", growth["softmax"][1], close_to(64.0), scale)
    yield Claim(f"Liger: growth of the time of a step {span}", "constant", growth["Liger"][0], at_most(1.5), scale)
    yield Claim(f"softmax: growth of the time of a step {span}", "linear", growth["softmax"][0], at_least(3.0), scale)


def _grown(state: Any, times: int) -> Any:
    """Returns a cache of softmax attention that is enlarged by a factor, as after more tokens."""
    return tree_map(lambda x: x.repeat(1, 1, times, 1) if isinstance(x, Tensor) else x, state)


# the two small models


def _losses(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean loss over the targets, and the share of them that are the likeliest token."""
    logits, targets = model(batch["input_ids"]), batch["targets"]
    right = (logits.argmax(-1) == targets).sum() / (targets >= 0).sum()
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()), right


@torch.no_grad()
def _evaluate(model: nn.Module, data: Any) -> tuple[float, float]:
    rows = [_losses(model, batch) for batch in ExactLoader(data.val_set, batch_size=data.eval_batch_size)]
    loss, right = (torch.stack(column).mean() for column in zip(*rows, strict=True))
    return float(loss), float(right)


def _train(model: nn.Module, data: Any, steps: int, lr: float, seed: int, cosine: bool = False) -> None:
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, fused=True)
    step = 0
    while step < steps:
        # another order and other windows in each round
        for batch in ExactLoader(
            data.train_set, batch_size=data.batch_size, shuffle=True, drop_last=True, seed=seed + step
        ):
            if cosine:
                factor = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * step / steps))
                for group in optimizer.param_groups:
                    group["lr"] = lr * factor
            optimizer.zero_grad()
            _losses(model, batch)[0].backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            step += 1
            if step == steps:
                break


def _adapt(model: nn.Module) -> None:
    """LoRA on q, k and v; gate projections are trained whole."""
    lora: Any = find_technique("lora")
    whole = ["mixer.gate_proj"] if any(name.endswith("mixer.gate_proj") for name, _ in model.named_modules()) else []
    technique = lora(rank=8, alpha=8.0, target_modules=["q_proj", "k_proj", "v_proj"], trainable_modules=whole)
    edit(model, technique, Context())


def _toy(toy: Toy, names: Callable[[int], tuple[str, ...]]) -> tuple[list[tuple[float, float]], dict[str, list[Any]]]:
    """Trains a base for each seed, and linearised copies of it.

    Returns:
        Loss and accuracy of each base, and of each variant's copies right after the conversion and after LoRA.
    """
    module, data = _base(toy)
    data.setup("fit")
    arguments = {key: value for key, value in module.hparams.items() if not key.startswith("_")}
    bases: list[tuple[float, float]] = []
    found: dict[str, list[Any]] = {}
    for seed in SEEDS:
        with seeded(seed):
            base = type(module)(**arguments)
            _train(base, data, toy.steps, toy.lr, 1000 * seed, toy.cosine)
        bases.append(_evaluate(base, data))
        print(f"  {toy.scale.split()[0]}, seed {seed}: base {bases[-1][0]:.3f}", flush=True)
        for name in names(seed):
            with seeded(seed):
                copied = copy.deepcopy(base)
                edit(copied, Liger(window=WINDOW, chunk=16, **VARIANTS[name]), Context())
                zero_shot = _evaluate(copied, data)
                _adapt(copied)
                _train(copied, data, toy.lora_steps, LORA_LR, 1000 * seed + 500)
            found.setdefault(name, []).append((zero_shot, _evaluate(copied, data)))
            print(f"    {name}: {zero_shot[0]:.3f} to {found[name][-1][1][0]:.3f}", flush=True)
    return bases, found


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def text(run: Reproduction) -> Iterator[Claim]:
    """Loss of a byte model before, right after, and after LoRA."""
    bases, found = _toy(TEXT, lambda seed: tuple(VARIANTS) if seed == SEEDS[0] else MAIN)
    base = _mean(loss for loss, _ in bases)
    zero_shot = {name: _mean(row[0][0] for row in rows) for name, rows in found.items()}
    after = {name: _mean(row[1][0] for row in rows) for name, rows in found.items()}
    run.figure("text", toy_figure("validation loss [nats]", base, zero_shot, after))
    scale = f"{TEXT.scale}; {len(SEEDS)} seeds"
    details: dict[str, Any] = {name: [[list(pair) for pair in row] for row in rows] for name, rows in found.items()}
    recovered = [(z[0] - a[0]) / (z[0] - b[0]) for b, (z, a) in zip(bases, found["Liger"], strict=True)]
    ends = {name: [row[1][0] for row in rows] for name, rows in found.items()}
    beside = {name: [a - b for a, b in zip(ends[name], ends["Liger"], strict=True)] for name in MAIN}
    text = "share of the zero-shot gap that LoRA closes"
    paper = "base 71.7, no LoRA 61.7, Liger 67.6 (mean of tasks)"
    details["bases"] = [list(pair) for pair in bases]
    yield over_seeds(text, paper, recovered, at_least(0.85), scale, details)
    gained = [zero[0] - end[0] for zero, end in found["Liger"]]
    yield over_seeds("zero-shot loss − loss after LoRA [nats]", "> 0", gained, at_least(0.5), scale)
    lost = [end[0] - base_loss for (_, end), (base_loss, _) in zip(found["Liger"], bases, strict=True)]
    yield over_seeds("loss after LoRA − loss of the base [nats]", "> 0", lost, at_least(0.0), scale)
    text = "loss without SWA − loss of Liger [nats]"
    yield over_seeds(text, "PPL 3.75 against 2.96; reference 0.39", beside["no SWA"], at_least(0.2), scale)
    worst = max(after, key=after.__getitem__)
    yield Claim(
        "no SWA is the worst variant",
        "yes",
        float(worst == "no SWA"),
        at_least(1.0),
        scale,
        {"after": after},
        seeds=len(SEEDS),
    )
    text = "loss without a gate − loss of Liger [nats]"
    paper = "PPL 3.00 against 2.96; reference 0.044"
    yield over_seeds(text, paper, beside["no gate"], at_least(0.0), scale)
    text = "loss of SWA only − loss of Liger [nats] (the paper's order does not hold at d=16)"
    yield over_seeds(text, "PPL 3.01 against 2.96; reference −0.087", beside["SWA only"], at_most(0.0), scale)
    text = "loss with a gate projection − loss of Liger [nats] (nor here)"
    paper = "PPL 3.16 against 2.96; reference −0.035"
    yield over_seeds(text, paper, beside["gate projection"], at_most(0.0), scale)
    yield from _by_fit(run, base, after["Liger"])


def _by_fit(run: Reproduction, base: float, after: float) -> Iterator[Claim]:
    """The same model in one run of the command."""
    data, model = TEXT.data["init_args"], TEXT.model
    sizes = [f"--data.{key}={data[key]}" for key in ("length", "batch_size", "eval_batch_size")]
    sizes += [f"--model.{key}={value}" for key, value in model.items()]
    sizes.append(f"--model.optimizer.lr={TEXT.lr}")
    epochs = ["--trainer.limit_train_batches=100", "--trainer.max_epochs=6", "--techniques.liger.epoch=5"]
    technique = [f"--techniques.liger.window={WINDOW}", "--techniques.throughput=null"]
    found = run.fit(CONFIG, *sizes, *epochs, *technique)
    scale = f"{TEXT.scale}; 1 seed"
    text = "a run of the command gives the same loss of the base: difference [nats]"
    yield Claim(text, "0", abs(found["val/base_loss"] - base), at_most(0.1), scale)
    text = "and the same loss after LoRA: difference [nats]"
    yield Claim(text, "0", abs(found["val/loss"] - after), at_most(0.1), scale, {"fit": found})


def recall(run: Reproduction) -> Iterator[Claim]:
    """How many values a linearised model still finds again."""
    bases, found = _toy(RECALL, lambda seed: (*RECALLED, "no gate") if seed == SEEDS[0] else RECALLED)
    base = _mean(right for _, right in bases)
    zero_shot = {name: _mean(row[0][1] for row in rows) for name, rows in found.items()}
    after = {name: _mean(row[1][1] for row in rows) for name, rows in found.items()}
    run.figure("recall", toy_figure("accuracy of the queries", base, zero_shot, after))
    scale = f"{RECALL.scale}; {len(SEEDS)} seeds"
    details = {name: [[list(pair) for pair in row] for row in rows] for name, rows in found.items()}
    right = [accuracy for _, accuracy in bases]
    yield over_seeds("MQAR: accuracy of the softmax base", f"{OURS}1.00", right, at_least(0.95), scale)
    yield Claim(
        "MQAR: accuracy of Liger over that of SWA only, of their means",
        f"{OURS}0.252 / 0.098",
        after["Liger"] / after["SWA only"],
        at_least(2.0),
        scale,
        details,
        seeds=len(SEEDS),
    )
    text = "MQAR: accuracy of Liger − that without SWA"
    gains = [a[1][1] - b[1][1] for a, b in zip(found["Liger"], found["no SWA"], strict=True)]
    yield over_seeds(text, f"{OURS}0.252 − 0.209", gains, at_least(0.0), scale)
    yield Claim(
        "MQAR: highest accuracy right after the conversion",
        f"{OURS}≤ 0.17",
        max(zero_shot.values()),
        at_most(0.25),
        scale,
        seeds=len(SEEDS),
    )


# figures


def toy_figure(label: str, base: float, zero_shot: Mapping[str, float], after: Mapping[str, float]) -> Figure:
    """Draws, for each variant, what there is right after the conversion and after LoRA, and the base as a line."""
    figure = new_figure(size=(7.0, 3.4))
    axes = figure.axes[0]
    places = range(len(after))
    for shift, (name, values) in enumerate({"zero-shot": zero_shot, "after LoRA": after}.items()):
        bars = axes.bar([i + 0.4 * shift - 0.2 for i in places], [values[key] for key in after], 0.4, label=name)
        axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.axhline(base, color="C2", linestyle="--", label="softmax base")
    axes.set_xticks([*places], [*after], fontsize=8)
    axes.set(ylabel=label)
    axes.legend(frameon=False, fontsize=8)
    return figure


def decoding_figure(found: Mapping[str, list[tuple[float, float]]]) -> Figure:
    """Draws milliseconds per token and kilobytes of the state against the position."""
    figure = new_figure(columns=2)
    for axes, index, factor, label in zip(
        figure.axes, (0, 1), (1.0, 1e-3), ("ms per token", "state [kB]"), strict=True
    ):
        for name, pairs in found.items():
            axes.plot(POSITIONS, [factor * pair[index] for pair in pairs], "o-", label=name)
        axes.set(xscale="log", yscale="log", xlabel="tokens so far", ylabel=label)
        axes.legend(frameon=False)
    return figure
