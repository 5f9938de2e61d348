"""What the UltraMemV2 paper says, and what follows from it, in a form that can fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, within
from framework.optim import OptimizerConfig, ScheduleConfig, build_optimizer, build_schedule
from modules.sequence.ultramem_v2.initialisation import target_variance
from modules.sequence.ultramem_v2.layers import MemoryConfig, UltraMemV2Layer, build_memory
from modules.sequence.ultramem_v2.module import FactModel
from modules.sequence.ultramem_v2.plots import bytes_figure, facts_figure, spread_figure
from modules.sequence.ultramem_v2.sizes import sizes, token_macs
from modules.sequence.ultramem_v2.tables import Ring
from modules.sequence.ultramem_v2.tdqkr import exhaustive, leading_pairs, tdqkr

PAPER = MemoryConfig(n_keys=360, d_key=192, top=32, d_value=192, d_pre=192)
# Reference accuracies of the fact table, and the models: FFN of 128 at D=64 beside a memory.
FACTS: dict[int, dict[str, float]] = {
    8192: {"FFN": 0.356, "PKM": 0.987, "TDQKR": 0.995, "V2": 0.982},
    12288: {"FFN": 0.168, "V2": 0.723},
}
MEMORIES = {
    "FFN": MemoryConfig("none"),
    "PKM": MemoryConfig("pkm", n_keys=64, top=16, heads=1),
    "TDQKR": MemoryConfig(n_keys=64, top=16, d_pre=0),
    "V2": MemoryConfig(n_keys=45, top=8),
}
CALIBRATED = {
    "N=64, m=16": {},
    "one core": {"cores": 1},
    "values only": {"d_pre": 0, "top": 32},
    "two key sets": {"key_expand": 2, "n_keys": 32},
    "N=100, m=48": {"d_key": 64, "n_keys": 100, "top": 48, "d_value": 64},
}
SEEDS = (0, 1, 2)
BYTE_SEEDS = (0, 1)
BYTE_STEPS = 400
PEER = ("--model.memory.kind=none", "--model.hidden=512", "--techniques.core_spectrum=null")
BARE = ("--techniques.memory_table=null", "--techniques.generate_sample=null")
TOY = "D=64, FFN of 128, 1,500 steps of 256 facts"
REDUCED = f"the embedded source code (4.7 MB) for enwik8, 4 blocks of 128, {BYTE_STEPS} steps of 1,024 bytes"


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities first, then the table of facts, then bytes."""
    with torch.random.fork_rng(devices=[]):
        yield from identities()
        yield from retrieval_and_initialisation(run)
        yield from facts(run)
    yield from language(run)


def _pair(core: Tensor) -> tuple[Tensor, Tensor]:
    zero = torch.zeros(1, len(core), dtype=core.dtype)
    u, t, _ = leading_pairs(core[None], zero, zero)
    return u[0], t[0]


def _core(ratio: float, rank: int = 2) -> Tensor:
    """Returns a core with singular values 1, ratio, ratio, …"""
    left, right = (torch.linalg.qr(torch.randn(rank, rank, dtype=torch.float64))[0] for _ in range(2))
    values = torch.full((rank,), ratio, dtype=torch.float64)
    values[0] = 1
    return left @ torch.diag(values) @ right


def identities() -> Iterator[Claim]:
    """Forms of the layer, signs, gradients, the ring, sizes."""
    torch.manual_seed(0)
    config = MemoryConfig(n_keys=6, d_key=5, top=36, d_value=4, d_pre=3, cores=1)
    layer = UltraMemV2Layer(config, 8).double()
    z = torch.randn(10, 8, dtype=torch.float64)
    rows, columns = layer.scores(z)
    scores = torch.einsum("pti,pq,qtj->tij", rows, layer.cores[0], columns).flatten(1)
    place, table = layer.shuffle.long(), layer.table
    assert table.pre_values is not None
    assert layer.pre is not None
    p, v = table.pre_values.weight[place], table.values.weight[place]
    error = float((layer(z) - layer.out((scores * (layer.pre(z) @ p.T)) @ v)).detach().abs().max())
    yield Claim("with m = N² the layer is its dense form (eq. 15), float64", "equal", error, at_most(1e-10))

    cores = torch.stack([_core(0.2, rank=3) for _ in range(8)])
    u, t, _ = leading_pairs(cores, torch.zeros(8, 3), torch.zeros(8, 3))
    least, untracked = 1.0, 0
    for _ in range(200):
        cores = cores + 0.01 * torch.randn_like(cores)
        before = u, t
        u, t, _ = leading_pairs(cores, u, t)
        least = min(least, float((u * before[0]).sum(-1).min()), float((t * before[1]).sum(-1).min()))
        untracked += int(((torch.linalg.svd(cores)[0][..., 0] * u).sum(-1) < 0).sum())
    yield Claim(
        "least inner product of consecutive (u, t) over 200 small updates of 8 cores",
        "> 0",
        least,
        at_least(1e-6),
        details={"flips of torch's own signs": untracked},
    )
    rows, columns = (torch.randn(2, 80, 64, dtype=torch.float64) for _ in range(2))
    core = _core(0.1)
    u, t = _pair(core)
    flipped, mirror = tdqkr(rows, columns, core[None], -u, -t, 16), tdqkr(-rows, -columns, core[None], u, t, 16)
    same = float(((flipped.rows == mirror.rows) & (flipped.columns == mirror.columns)).float().mean())
    yield Claim("(-u, -t) selects the mirror of what (u, t) does", "all", same, at_least(1.0))

    torch.manual_seed(0)
    shared, layers = build_memory(MemoryConfig(n_keys=24, d_key=8, top=4), 16, 64, 2)
    torch.stack([layer(torch.randn(3, 16)).square().sum() for layer in layers]).sum().backward()
    read = torch.zeros(shared.rows, dtype=torch.bool)
    for memory in layers:
        assert memory.last_read is not None
        read[memory.ring.rows_of(memory.last_read.slots, memory.index)] = True
    assert shared.values.weight.grad is not None
    touched = shared.values.weight.grad.abs().sum(1) > 0
    yield Claim(
        "rows with a gradient that were not read, and rows read without one",
        "0",
        float((touched != read).sum()),
        at_most(0),
        details={"read": int(read.sum()), "of": shared.rows},
    )

    wrong = 0
    for count, size, share in ((4, 6, 1), (4, 6, 2), (4, 6, 4), (3, 5, 2)):
        ring = Ring(count, size, share)
        windows = [ring.rows_of(torch.arange(ring.side**2), index) for index in range(count)]
        wrong += sum(len(window.unique()) != ring.side**2 for window in windows)
        covered = torch.cat(windows)
        wrong += int(len(covered.unique()) != ring.rows or (share == 1 and len(covered) != ring.rows))
    wrong += int(Ring(4, 6, 4).side ** 2 != Ring(4, 6, 4).rows)
    text = "ring windows that are not bijections, not disjoint at g = 1 or not all at g = L"
    yield Claim(text, "0", wrong, at_most(0))

    torch.manual_seed(0)
    layer = UltraMemV2Layer(MemoryConfig(n_keys=16, top=4, d_key=8), 24)
    z = torch.randn(50, 24)
    first = layer(z)
    layer.u.zero_()
    layer.t.zero_()
    change = float(((layer(z) - first).norm() / first.norm()).detach())
    yield Claim("first forward: change of the output without its u, t", "> 0", change, at_least(0.1))

    found = sizes(50304, 768, 20, 2496, PAPER)
    yield Claim("227M/1.2B: parameters", "1 180 753 920", found.total, close_to(1_180_753_920))
    yield Claim("227M/1.2B: of them in tables", "995 328 000", found.tables, close_to(995_328_000))
    yield Claim(
        "227M/1.2B: parameters that a token uses, embedding included, in millions",
        "225",
        found.activated / 1e6,
        close_to(225, absolute=1.5),
    )


@torch.no_grad()
def retrieval_and_initialisation(run: Reproduction) -> Iterator[Claim]:
    """Recall against exhaustive scoring; appendix A."""
    recall, unrestricted = {}, 0.0
    for ratio in (0.0, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0):
        found = []
        for seed in range(5):
            torch.manual_seed(seed)
            rows, columns = (torch.randn(2, 80, 64, dtype=torch.float64) for _ in range(2))
            core = _core(ratio)
            u, t = _pair(core)
            chosen = tdqkr(rows, columns, core[None], u, t, 16)
            best = [exhaustive(rows, columns, core[None], 16, *pair) for pair in ((u, t), ())]
            ids = chosen.rows * 64 + chosen.columns
            shares = [
                float(((b.rows * 64 + b.columns)[:, :, None] == ids[:, None]).any(-1).double().mean()) for b in best
            ]
            found.append(shares[0])
            unrestricted += shares[1] / 5 if ratio == 0 else 0.0
        recall[ratio] = min(found) if ratio <= 0.15 else float(np.mean(found))
    setting = "N=64, m=16, 80 tokens"
    for ratio in (0.0, 0.15):
        text = f"TDQKR finds the best slots with positive scores, λ₂/λ₁ = {ratio}: least recall of 5 draws"
        yield Claim(text, "none; reference 1.000", recall[ratio], at_least(1.0), scale=setting, seeds=5)
    text = "of the best slots of any sign, rank-1 core: recall"
    yield Claim(text, "none; reference 0.5", unrestricted, within(0.4, 0.6), scale=setting)

    ratios: dict[str, tuple[float, float]] = {}
    for name, options in CALIBRATED.items():
        pairs = []
        for seed in range(4):
            torch.manual_seed(seed)
            config = MemoryConfig(**{"n_keys": 64, "d_key": 32, "top": 16, **options})  # type: ignore[arg-type]
            layer = UltraMemV2Layer(config, 128, 512)
            variance = float(layer(torch.randn(500, 128)).var()) / target_variance(512, 128, 1)
            assert layer.last_read is not None
            pairs.append((float(layer.last_read.scores.mean()), variance))
        ratios[name] = (float(np.mean([mean for mean, _ in pairs])), float(np.mean([ratio for _, ratio in pairs])))
        text = f"calibrated, {name}: mean selected score"
        yield Claim(text, "1 (app. A)", ratios[name][0], close_to(1, absolute=0.05), seeds=4)
        text = f"calibrated, {name}: output variance over 0.064 k/(2L)"
        yield Claim(text, "1 (app. A); reference 0.93 to 1.07", ratios[name][1], within(0.85, 1.15), seeds=4)
    torch.manual_seed(0)
    released = UltraMemV2Layer(MemoryConfig(n_keys=64, top=16, init="released"), 128, 512)
    naive = float(released(torch.randn(500, 128)).var()) / target_variance(512, 128, 1)
    yield Claim("0.02 for all values instead: output variance over 0.064 k/(2L)", "far off", naive, at_most(0.5))
    run.figure("retrieval", spread_figure(recall, ratios))


def train_facts(config: MemoryConfig, count: int, seed: int, steps: int = 1500) -> float:
    """Accuracy on ``count`` facts of 8 relations and 512 objects after training on them."""
    torch.manual_seed(seed)
    subjects = count // 8
    model = FactModel(subjects, 8, 512, memory=config, value_boost=4.0)
    optimizer = build_optimizer(model, OptimizerConfig("adamw", lr=1e-3, weight_decay=0.0))
    schedule = build_schedule(optimizer, ScheduleConfig("cosine"), steps)
    assert schedule is not None
    answers = torch.randint(512, (count,))
    questions = torch.cartesian_prod(torch.arange(subjects), subjects + torch.arange(8))
    order = torch.cat([torch.randperm(count) for _ in range(steps * 256 // count + 1)])
    for batch in order[: steps * 256].view(steps, 256):
        optimizer.zero_grad()
        F.cross_entropy(model(questions[batch]), answers[batch]).backward()
        optimizer.step()
        schedule.step()
    model.eval()
    with torch.no_grad():
        return float((model(questions).argmax(-1) == answers).double().mean())


def facts(run: Reproduction) -> Iterator[Claim]:
    """Facts learnt by heart, with and without a memory."""
    accuracy: dict[int, dict[str, list[float]]] = {}
    for count, references in FACTS.items():
        accuracy[count] = {name: [train_facts(MEMORIES[name], count, seed) for seed in SEEDS] for name in references}
        mean = {name: float(np.mean(values)) for name, values in accuracy[count].items()}
        for name, reference in references.items():
            details: dict[str, Any] = {"seeds": accuracy[count][name], "reference": reference}
            paper = f"none; reference {reference}"
            if name == "FFN":
                bound = close_to(reference, absolute=0.05)
                yield Claim(
                    f"{count:,} facts, FFN alone: accuracy", paper, mean[name], bound, TOY, details, seeds=len(SEEDS)
                )
                continue
            text = f"{count:,} facts, {name} above the FFN alone: accuracy"
            yield Claim(
                text,
                f"{paper} and {references['FFN']}",
                mean[name] - mean["FFN"],
                at_least(0.4),
                TOY,
                details,
                seeds=len(SEEDS),
            )
    plain = ("--techniques.memory_table=null", "--techniques.core_spectrum=null")
    fitted = run.fit("sequence/ultramem_v2_facts", *plain)["val/accuracy"]
    difference = abs(fitted - accuracy[8192]["V2"][0])
    text = "8,192 facts, V2: the shipped config through fit against the plain loop, accuracy"
    yield Claim(text, "equal", difference, at_most(0.03), TOY, {"fit": fitted, "loop": accuracy[8192]["V2"][0]})
    run.figure("facts", facts_figure(accuracy, FACTS))


def language(run: Reproduction) -> Iterator[Claim]:
    """Bytes: a memory in place of a part of the FFN."""
    config = MemoryConfig(n_keys=64, d_key=32, top=16)
    cost = token_macs(128, 416, config) / token_macs(128, 512, MemoryConfig("none"))
    text = "multiply-adds of FFN and memory over those of the wider FFN alone"
    yield Claim(text, "equal", cost, within(0.95, 1.0), REDUCED)
    losses: dict[str, list[float]] = {"FFN": [], "V2": []}
    ratios = []
    for seed in BYTE_SEEDS:
        options = [
            f"--seed_everything={seed}",
            "--trainer.max_epochs=1",
            f"--trainer.limit_train_batches={BYTE_STEPS}",
            *BARE,
        ]
        losses["FFN"].append(run.fit("sequence/ultramem_v2", *PEER, *options)["val/loss"])
        found = run.fit("sequence/ultramem_v2", *options)
        losses["V2"].append(found["val/loss"])
        ratios += [value for name, value in found.items() if name.startswith("core/") and name.endswith("/ratio")]
    gain = [a - b for a, b in zip(losses["FFN"], losses["V2"], strict=True)]
    yield Claim(
        "bytes: validation loss of the FFN alone minus that with memories, least of the seeds",
        "lower with memories",
        min(gain),
        at_least(0.01),
        REDUCED,
        {**losses, "gain": gain},
        seeds=len(BYTE_SEEDS),
    )
    details = {"layers": sorted(ratios), "median": float(np.median(ratios))}
    text = "bytes: least λ₁/λ₂ of the layers after training without a penalty"
    yield Claim(
        text,
        "≥ 4 in long training; reference 3.9 here",
        min(ratios),
        at_least(2),
        REDUCED,
        details,
        seeds=len(BYTE_SEEDS),
    )
    run.figure("bytes", bytes_figure(losses))
