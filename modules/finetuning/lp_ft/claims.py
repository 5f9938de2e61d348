"""What the paper says of linear probing before fine-tuning, on digits, in a form that can fail."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds
from framework.functional.calibration import calibration
from framework.observing.linear_probe import batches_of, see
from modules.finetuning.lp_ft.network import TransferMLP
from modules.finetuning.lp_ft.plots import calibration_figure, scale_figure, spectra_figure, training_figure
from modules.pretrained import pretrain

CONFIG = "finetuning/lp_ft"
SEEDS = tuple(range(5))
FEWER = SEEDS[:3]
LENGTHS = (10, 100)  # epochs of a head alone, and with its features
SCALES = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 50.0, 100.0)
SCALE = "digits 5-9 to 0-4, 150 labels, 10 epochs, {} seeds"
FT = ("--techniques.lp_ft.strategy=ft", "--model.optimizer.lr=0.001")
LP_FT = ("--model.optimizer.lr=0.001",)
NO_SPLIT = "--techniques.ntk_split=null"
LORA = ("--techniques.lora.rank=8", "--techniques.lora.alpha=8", "--model.optimizer.lr=0.001")


@dataclass
class _Outcome:
    """Of one run through ``fit``.

    Attributes:
        norms: ‖V‖ before the training and after each epoch.
        moves: Mean ‖φ − φ₀‖ of the test part, the same.
        fisher: FDR, the same.
        accuracy: On the test part.
        shifted: On its shifted, noisy copy.
        errors: Expected calibration error on the test part with T = 1, and with the T of the validation part.
        split: What ``ntk_split`` found, where it was asked.
        spectrum: Singular values of F, the same.
    """

    norms: list[float]
    moves: list[float]
    fisher: list[float]
    accuracy: float
    shifted: float
    errors: tuple[float, float]
    split: dict[str, float] = field(default_factory=dict)
    spectrum: Tensor | None = None


def fitted(run: Reproduction, seed: int, *overrides: str) -> _Outcome:
    """Returns one run of the shipped config with other settings."""
    from framework.runs.experiment import build
    from framework.runs.quiet import quiet_lightning

    quiet_lightning()
    silent = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--run.monitor=null"]
    experiment = build(CONFIG, overrides=[f"--seed_everything={seed}", *_places(run), *silent, *overrides])
    experiment.fit()
    found: dict[str, Any] = {getattr(c, "technique", ""): c for c in experiment.trainer.callbacks}  # type: ignore[attr-defined]
    drift, split, data = found["feature_drift"], found.get("ntk_split"), experiment.datamodule
    model = experiment.model.cpu()
    seen = see(model, "net.head", batches_of(data, "test"))
    away = see(model, "net.head", batches_of(data, "shifted"))
    calibrated = [calibration(seen.logits, seen.labels, t).ece for t in (1.0, found["temperature_scaling"].temperature)]
    right, shifted = (float((part.logits.argmax(1) == part.labels).double().mean()) for part in (seen, away))
    curves = {name: [row[name] for row in drift.rows] for name in ("norm", "diff", "fdr")}
    outcome = _Outcome(curves["norm"], curves["diff"], curves["fdr"], right, shifted, (calibrated[0], calibrated[1]))
    if split is not None:
        outcome.split, outcome.spectrum = split.found, split.spectrum
    return outcome


def _places(run: Reproduction) -> list[str]:
    return [f"--run.root={run.folder / 'runs'}", "--wandb.mode=disabled"]


def claims(run: Reproduction) -> Iterator[Claim]:
    """A random head, a probed one at two rates, heads of other sizes, adapters."""
    ft = [fitted(run, seed, *FT) for seed in SEEDS]
    probed = [fitted(run, seed, *LP_FT) for seed in SEEDS]
    slow = [fitted(run, seed, NO_SPLIT) for seed in SEEDS]
    yield from head_and_features(ft, probed, slow)
    yield from kernels(run, ft, probed)
    yield from calibrations(run, ft, probed)
    yield from scaling(run)
    yield from probing(run, ft, probed)
    yield from adapters(run)


def _text(values: Sequence[float]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def head_and_features(ft: list[_Outcome], probed: list[_Outcome], slow: list[_Outcome]) -> Iterator[Claim]:
    """The norm of the head, and how far features move."""
    scale = SCALE.format(len(SEEDS))
    growth = [a.norms[0] / b.norms[0] for a, b in zip(probed, ft, strict=True)]
    norms = {"random": [o.norms[0] for o in ft], "probed": [o.norms[0] for o in probed]}
    yield Claim(
        "‖V‖ probed over random, the least of the seeds",
        "26 (CB); reference 19 to 70",
        min(growth),
        at_least(10),
        scale,
        norms,
        seeds=len(SEEDS),
    )
    change = max(abs(o.norms[-1] / o.norms[0] - 1) for o in probed)
    text = "‖V‖ after LP-FT over that after LP, largest distance from 1"
    yield Claim(text, "0 (CB: 24.8 and 24.8)", change, at_most(0.02), scale, seeds=len(SEEDS))
    groups = {"ft": ft, "lp_ft": probed, "slow": slow}
    moves = {name: [o.moves[-1] for o in group] for name, group in groups.items()}
    ratio = min(a / b for a, b in zip(moves["ft"], moves["lp_ft"], strict=True))
    text = "Diff of FT over LP-FT at the same rate, the least"
    yield Claim(text, "reference 2.5 and more", ratio, at_least(2), scale, moves, seeds=len(SEEDS))
    most = max(moves["slow"])
    yield Claim(
        "Diff of LP-FT at a tenth of that rate, the largest",
        "reference 0.25 to 0.72",
        most,
        at_most(2),
        scale,
        seeds=len(SEEDS),
    )
    fisher = {name: [o.fisher[-1] for o in group] for name, group in groups.items()}
    fisher["before"] = [o.fisher[0] for o in ft]
    gap = min(a - b for a, b in zip(fisher["ft"], fisher["lp_ft"], strict=True))
    yield Claim(
        "FDR of FT less LP-FT, the least",
        "> 0; reference 51 to 57, 41 to 46",
        gap,
        at_least(0),
        scale,
        fisher,
        seeds=len(SEEDS),
    )
    right = {name: [o.accuracy for o in group] for name, group in groups.items()}
    better = float(np.mean(right["slow"]) - np.mean(right["ft"]))
    text = "test accuracy, mean of LP-FT (rate 1e-4) less FT (1e-3)"
    yield Claim(text, "3 points (CB), 2 (RTE, SST-2)", better, at_least(0), scale, right, seeds=len(SEEDS))
    wins = sum(a > b for a, b in zip(right["lp_ft"], right["ft"], strict=True))
    away = {name: [o.shifted for o in group] for name, group in groups.items()}
    others = sum(a > b for a, b in zip(away["slow"], away["ft"], strict=True))
    print(f"  not claimed: at the same rate LP-FT has the better test accuracy in {wins} of {len(SEEDS)} seeds")
    means = ", ".join(f"{name} {np.mean(values):.3f} ({_text(values)})" for name, values in away.items())
    print(f"  not claimed: shifted copy: {means}; slow LP-FT better than FT in {others} of {len(SEEDS)}", flush=True)


def kernels(run: Reproduction, ft: list[_Outcome], probed: list[_Outcome]) -> Iterator[Claim]:
    """The tangent kernel in two parts where fine-tuning starts."""
    scale = SCALE.format(len(SEEDS))
    ratios = {"random": [o.split["ft_ratio"] for o in ft], "probed": [o.split["ft_ratio"] for o in probed]}
    worst = max(ratios["random"])
    yield Claim(
        "FT ratio of a random head, the largest",
        "0.20 (CB), 0.21 (RTE)",
        worst,
        at_most(0.3),
        scale,
        ratios,
        seeds=len(SEEDS),
    )
    least = min(ratios["probed"])
    yield Claim(
        "FT ratio of a probed head, the least", "1.00 (CB), 0.99 (RTE)", least, at_least(0.95), scale, seeds=len(SEEDS)
    )
    norms = [b.split["norm_f"] / a.split["norm_f"] for a, b in zip(ft, probed, strict=True)]
    yield Claim(
        "‖F‖ probed over random, the least",
        "520 (CB)",
        min(norms),
        at_least(10),
        scale,
        {"seeds": norms},
        seeds=len(SEEDS),
    )
    for name, group, expected, text in (
        ("random", ft, 750, "N C = 750"),
        ("probed", probed, 600, "N (C − 1) = 600"),
    ):
        off = max((o.split["rank_f"] for o in group), key=lambda rank: abs(rank - expected))
        yield Claim(
            f"rank of F of a {name} head (the farthest)", text, off, close_to(expected), scale, seeds=len(SEEDS)
        )
    off = max((o.split["rank_p"] for o in [*ft, *probed]), key=lambda rank: abs(rank - 325))
    yield Claim("rank of P (the farthest)", "C (h + 1) = 325", off, close_to(325), scale, seeds=len(SEEDS))
    spectra = {"random head": ft[0].spectrum, "probed head": probed[0].spectrum}
    ranks = {"random head": ft[0].split["rank_f"], "probed head": probed[0].split["rank_f"]}
    run.figure("spectra", spectra_figure({k: v for k, v in spectra.items() if v is not None}, ranks))


def calibrations(run: Reproduction, ft: list[_Outcome], probed: list[_Outcome]) -> Iterator[Claim]:
    """Temperature scaling: of what is overconfident. A random head is hardly so here, and nothing is claimed of it."""
    errors = {
        name: ([o.errors[0] for o in group], [o.errors[1] for o in group])
        for name, group in {"FT": ft, "LP-FT": probed}.items()
    }
    before, after = errors["LP-FT"]
    text = "expected calibration error of LP-FT on the test part, scaled less not, mean"
    gain = float(np.mean(after) - np.mean(before))
    details = {"before": before, "after": after}
    yield Claim(text, "0.217 to 0.055 (RTE)", gain, at_most(0), SCALE.format(len(SEEDS)), details, seeds=len(SEEDS))
    before, after = errors["FT"]
    print(f"  not claimed: calibration error of FT {np.mean(before):.4f}, scaled {np.mean(after):.4f}", flush=True)
    run.figure("calibration", calibration_figure(errors))


def scaling(run: Reproduction) -> Iterator[Claim]:
    """Heads of other sizes, random."""
    moves = {
        f"seed {seed}": np.array(
            [fitted(run, seed, *FT, NO_SPLIT, f"--techniques.lp_ft.head_scale={s}").moves[-1] for s in SCALES]
        )
        for seed in FEWER
    }
    orders = [float(spearmanr(SCALES, values).statistic) for values in moves.values()]
    details = {name: values.tolist() for name, values in moves.items()}
    text = f"rank correlation of Diff with the head's scale ({SCALES[0]:g} to {SCALES[-1]:g}), the largest"
    scale = SCALE.format(len(FEWER))
    yield over_seeds(text, "falls; reference 45.9 to 9.8", orders, at_most(-0.7), scale, details, by=max)
    run.figure("head_scale", scale_figure(SCALES, moves))


def probing(run: Reproduction, ft: list[_Outcome], probed: list[_Outcome]) -> Iterator[Claim]:
    """A head trained alone grows on where one whose features can adapt has stopped."""
    from framework.runs.experiment import build

    grown: dict[str, list[list[float]]] = {"alone": [], "with": []}
    for seed in FEWER:
        data: Any = build(CONFIG, overrides=[f"--seed_everything={seed}", *_places(run)]).datamodule
        data.setup()
        x, y = data.train_set.tensors
        torch.manual_seed(seed)
        start = TransferMLP()
        pretrain(start, data.source["x"], data.source["y"], 30, 1e-3, 0.0, 64, seed)
        start.head.reset_parameters()
        for name, norms in grown.items():
            net = copy.deepcopy(start)
            net.backbone.requires_grad_(name == "with")
            norms.append([])
            for epochs in LENGTHS:
                tuned = copy.deepcopy(net)
                pretrain(tuned, x, y, epochs, 1e-3, 0.0, 16, seed)
                norms[-1].append(float(tuned.head.weight.detach().norm() - net.head.weight.detach().norm()))
    ratios = np.array(grown["alone"]) / np.array(grown["with"])
    text = f"growth of a random ‖V‖ in {LENGTHS[-1]} epochs, trained alone over with its features, the least"
    scale = SCALE.replace("10 epochs", f"{LENGTHS[-1]} epochs").format(len(FEWER))
    yield over_seeds(text, "stronger in LP", ratios[:, -1].tolist(), at_least(1), scale, grown, by=min)
    print(f"  not claimed: the same in {LENGTHS[0]} epochs: {_text(ratios[:, 0].tolist())}", flush=True)
    curves = [
        {name: np.array([getattr(o, part) for o in group]) for name, group in {"FT": ft, "LP-FT": probed}.items()}
        for part in ("norms", "moves")
    ]
    run.figure("training", training_figure(*curves))


def adapters(run: Reproduction) -> Iterator[Claim]:
    """LoRA from a random and from a probed head."""
    scale = SCALE.format(len(FEWER))
    heads = {"random": ("--techniques.lp_ft.strategy=ft",), "probed": ()}
    found = {name: [fitted(run, seed, *LORA, *more) for seed in FEWER] for name, more in heads.items()}
    details = {
        name: {"accuracy": [o.accuracy for o in group], "Diff": [o.moves[-1] for o in group]}
        for name, group in found.items()
    }
    ratios = {name: [o.split["ft_ratio"] for o in group] for name, group in found.items()}
    text = "FT ratio, LoRA from a random head, the largest"
    yield over_seeds(text, "0.0004 (CB)", ratios["random"], at_most(0.3), scale, details, by=max)
    text = "FT ratio, LoRA from a probed head, the least"
    yield over_seeds(text, "1.01 (CB)", ratios["probed"], at_least(0.95), scale, by=min)
