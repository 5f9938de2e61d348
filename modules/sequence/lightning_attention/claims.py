"""What the Lightning Attention-2 paper says, and what follows from it, in a form that can fail."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds
from modules.sequence.lightning_attention.attention import alibi_slopes, layer_slopes, lightning_attention
from modules.sequence.lightning_attention.plots import half_life_figure, loss_figure, time_figure
from modules.sequence.lightning_attention.reference import left_product, recurrence
from modules.sequence.lightning_attention.tiled import TiledAttention
from modules.sequence.transformer import TransformerLM

STEPS = 300
SEEDS = (0, 1)  # of the language models
SMALL = "4 layers, width 128, 4 heads, bytes of Python's help, 300 steps of 16 × 256"


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities, memory and time of the attention alone, then language models."""
    yield from identities()
    yield memory()
    yield from times(run)
    yield from flat()
    yield from language_models(run)


def _drawn(length: int, d: int = 64, e: int = 64, heads: int = 4, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [torch.randn(1, heads, length, size, dtype=dtype, generator=generator) for size in (d, d, e)]


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def identities() -> Iterator[Claim]:
    """The forms of the operator against its definition."""
    slopes = torch.tensor([0.0, -math.log(0.97), -math.log(0.5), 8.0], dtype=torch.float64)
    worst = state_error = 0.0
    for length in (1, 63, 64, 65, 197):
        q, k, v = _drawn(length, 24, 16)
        expected, last = recurrence(q, k, v, slopes)
        for block in (1, 16, 64, 256):
            found = lightning_attention(q, k, v, slopes, block=block, return_state=True)
            worst = max(worst, _relative(found[0], expected))
            state_error = max(state_error, _relative(found[1], last))
    yield Claim("tiles = definition, any length and block (float64)", "exact", worst, at_most(1e-9))
    yield Claim("last state = recurrence's, ragged lengths (float64)", "exact", state_error, at_most(1e-9))

    q, k, v = _drawn(4096, 64, 64)
    single = lightning_attention(q.float(), k.float(), v.float(), slopes.float())
    assert isinstance(single, Tensor)
    error = _relative(single.double(), left_product(q, k, v, slopes))
    yield Claim("float32 at n = 4096 against float64", "exact", error, at_most(1e-4))

    inputs = [x.requires_grad_() for x in _drawn(150, 24, 16)]
    upstream = torch.randn(1, 4, 150, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    q, k, v = inputs
    gradients = torch.autograd.grad(TiledAttention.apply(q, k, v, slopes, None, 64)[0], inputs, upstream)
    plain = torch.autograd.grad(recurrence(q, k, v, slopes)[0], inputs, upstream)
    error = max(_relative(one, other) for one, other in zip(gradients, plain, strict=True))
    yield Claim("own backward pass = autograd through the recurrence (float64)", "exact", error, at_most(1e-9))

    slope = layer_slopes("alibi", 8, 0, 24)[0]
    yield Claim("slope of the first head of 8, first layer", "1/2", float(slope), close_to(0.5, relative=1e-4))


def memory() -> Claim:
    """What the forward pass keeps for the backward pass."""
    d, e, length, heads = 64, 48, 4096, 4
    q, k, v = (x.float().requires_grad_() for x in _drawn(length, d, e, heads))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        lightning_attention(q, k, v, alibi_slopes(heads))
    ratio = sum(kept.values()) / ((2 * d + e) * length * 4 * heads)
    return Claim("bytes kept for the backward pass / those of q, k, v", "1", ratio, close_to(1, relative=0.05))


def _seconds(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """CPU seconds of each call, taken in turns: medians."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            times[name].append(time.process_time() - start)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def _slope(lengths: list[int], times: list[float]) -> float:
    """Exponent of the time in the length, by least squares of the logarithms."""
    x = [math.log(length) for length in lengths[: len(times)]]
    y = [math.log(t) for t in times]
    mean_x, mean_y = statistics.mean(x), statistics.mean(y)
    above = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - mean_x) ** 2 for a in x)


@torch.no_grad()
def times(run: Reproduction) -> Iterator[Claim]:
    """Time against length on one thread, b1 h4 d64 float32, forward pass."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lengths = [1024, 2048, 4096, 8192, 16384]
    seconds: dict[str, list[float]] = {"tiled, B = 64": [], "softmax (SDPA)": [], "left product": []}
    slopes = alibi_slopes(4)
    for length in lengths:
        q, k, v = _drawn(length, dtype=torch.float32)
        calls: dict[str, Callable[[], object]] = {
            "tiled, B = 64": lambda q=q, k=k, v=v: lightning_attention(q, k, v, slopes)  # type: ignore[misc]
        }
        if length <= 8192:
            calls["softmax (SDPA)"] = lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True)  # type: ignore[misc]
        if length <= 4096:
            calls["left product"] = lambda q=q, k=k, v=v: left_product(q, k, v, slopes)  # type: ignore[misc]
        for name, value in _seconds(calls, 5).items():
            seconds[name].append(value)
    torch.set_num_threads(threads)
    run.figure("time", time_figure(lengths, seconds))
    details = {name: dict(zip(lengths, values, strict=False)) for name, values in seconds.items()}
    scale = "one CPU thread, b1 h4 d64"
    tiled, softmax, left = seconds.values()
    yield Claim(
        "exponent of the time in n, tiled, 1k to 16k",
        "1 (flat TGS)",
        _slope(lengths, tiled),
        at_most(1.15),
        scale,
        details,
    )
    yield Claim("the same, left product, 1k to 4k", "2", _slope(lengths, left), at_least(1.8), scale)
    yield Claim("the same, softmax, 1k to 8k", "2", _slope(lengths, softmax), at_least(1.6), scale)
    yield Claim("left product / tiled at n = 2048", "none; reference 13", left[1] / tiled[1], at_least(5), scale)
    ratio = softmax[2] / tiled[2]
    yield Claim("softmax / tiled at n = 4096 (crossover below)", "1.2 on a GPU", ratio, at_least(1), scale)


def flat() -> Iterator[Claim]:
    """Tokens per second of a whole training step at a constant number of tokens."""
    from modules.sequence.lightning_attention.module import TransNormerLM

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ratios = {}
    for name, make in {"TransNormerLLM": TransNormerLM, "softmax": TransformerLM}.items():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = make(d_model=128, n_layers=4, n_heads=4)
            calls: dict[str, Callable[[], object]] = {}
            for length in (256, 1024, 4096):
                tokens = torch.randint(256, (4096 // length, length))
                parameters = list(model.parameters())
                calls[str(length)] = lambda m=model, t=tokens, p=parameters: torch.autograd.grad(  # type: ignore[misc]
                    m(t).logsumexp(-1).mean(), p, allow_unused=True
                )
            found = _seconds(calls, 3)
        ratios[name] = {length: 4096 / value for length, value in found.items()}
    torch.set_num_threads(threads)
    speed = ratios["TransNormerLLM"]
    yield Claim(
        "tokens per second, 4096 against 256, 4,096 tokens a step",
        "flat (38,615 at 1k, 38,596 at 94k)",
        speed["4096"] / speed["256"],
        at_least(0.85),
        "4 layers, width 128, one CPU thread",
        ratios,
    )


def language_models(run: Reproduction) -> Iterator[Claim]:
    """Training by tiles and by the left product, and a softmax model of the same size beside them."""
    settings = [f"--trainer.max_steps={STEPS}", "--trainer.max_epochs=-1", "--trainer.log_every_n_steps=10"]
    settings += [
        "--techniques.generate_sample=null",
        "--techniques.throughput=null",
        "--trainer.num_sanity_val_steps=0",
    ]
    settings += ["--trainer.val_check_interval=300", "--trainer.check_val_every_n_epoch=null"]
    linear, softmax = "sequence/lightning_attention", "sequence/transformer"
    models: dict[str, tuple[str, list[str], tuple[int, ...]]] = {
        "Lightning Attention-2": (linear, [], SEEDS),
        "left product": (linear, ["--model.form=left_product"], SEEDS[:1]),
        "softmax": (softmax, [], SEEDS),
    }
    losses: dict[str, list[float]] = {name: [] for name in models}
    for config in (linear, softmax):
        runs = [
            (name, seed, [*settings, *changed, f"--seed_everything={seed}", _run_name(name, seed)])
            for name, (its, changed, seeds) in models.items()
            for seed in seeds
            if its == config
        ]
        for (name, _, _), found in zip(runs, run.fits(config, [overrides for *_, overrides in runs]), strict=True):
            losses[name].append(found["val/loss"])
    run.figure("loss", loss_figure({name: _curve(run, _run_name(name, SEEDS[0])) for name in models}, 10))
    run.figure("half_lives", half_life_figure(_half_lives()))
    difference = abs(losses["Lightning Attention-2"][0] - losses["left product"][0])
    yield Claim(
        "loss by tiles − by the left product, equal seeds", "0.001 of 2.229", difference, at_most(2e-3), SMALL, losses
    )
    gaps = [a - b for a, b in zip(losses["Lightning Attention-2"], losses["softmax"], strict=True)]
    yield over_seeds("loss, linear − softmax of the same size", "none; on a par or better", gaps, at_most(0.1), SMALL)


def _run_name(name: str, seed: int) -> str:
    return f"--run.name={name.replace(' ', '_').lower()}_{seed}"


def _curve(run: Reproduction, name: str) -> list[float]:
    path = next((run.folder / "runs").rglob(f"{name.partition('=')[2]}/metrics.jsonl"))
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    return [row["train/loss"] for row in rows if "train/loss" in row]


def _half_lives() -> list[list[float]]:
    from modules.sequence.lightning_attention.module import TransNormerLM

    return TransNormerLM(d_model=64, n_layers=4, n_heads=8).half_lives()[:-1]
