"""What the papers on generalised-Gaussian priors say, in a form that can fail.

Distributions, rates and RF8 are measured on a million samples. Training is that of ``initialization/gg_prior`` in a
plain loop, the pull written out as the paper's formula; one run also goes through ``fit``, with the technique.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.claims import Bound, Claim, Reproduction, at_least, at_most, close_to, over_seeds, within
from framework.figures import new_figure
from framework.functional import generalized_gaussian as gg
from framework.functional.compression import rf8
from framework.functional.compression.entropy_code import decode_rans, encode_rans, write_exp_golomb
from framework.functional.compression.histogram import deep_shape_
from framework.functional.compression.rate import bits_per_weight, by_frequency, level_counts, quantise, sqnr
from modules.initialization.gg_prior import pruned, weight_report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = "initialization/gg_prior"
SEEDS = (0, 1, 2)
SAMPLES = 1_000_000
TESTS = 25
STD = 0.02
SCALE = "digits (1,438 images, tested on 359), MLP 64-128-128-10, 20 epochs with the pull and 10 without, 3 seeds"
STEP, PULLED = 3e-4, 20  # λ/N, and epochs with it
CURVE = (3e-5, 1e-4, 3e-4, 6e-4, 1e-3)
CURVE_SEEDS = SEEDS[:2]
SHAPES = (0.3, 0.5, 1.0, 1.5, 2.0)
REPAIR = 5

# Rates of a million samples of deviation 0.02 at step 2⁻¹³: exp-Golomb, entropy, fixed length.
RATES = {0.5: (12.42, 8.78, 12), 1.0: (14.12, 9.29, 12), 2.0: (14.92, 9.40, 11)}


def claims(run: Reproduction) -> Iterator[Claim]:
    """Distributions, rates, RF8, the remapping of a histogram, and training with the pull."""
    yield from distribution()
    yield from rates()
    yield from eight_bits()
    yield from remapping()
    yield from training(run)


def distribution() -> Iterator[Claim]:
    """The sampler and the estimator."""
    from scipy import stats

    known = {0.5: 10 / 3, 1.0: 2.0, 2.0: math.pi / 2}
    errors = [abs(gg.ratio(nu) / value - 1) for nu, value in known.items()]
    yield Claim("ρ(ν) at 0.5, 1, 2, largest relative error", "10/3, 2, π/2", max(errors), at_most(1e-12))
    off, invariant, deviation = [], [], []
    rejected: dict[str, list[float]] = {}
    for index, nu in enumerate((0.5, 1.0, 2.0, 3.0)):
        w = gg.sample((SAMPLES,), nu, STD, index)
        found = gg.fit(w).shape
        off.append(abs(found - min(nu, gg.HIGHEST)))
        invariant += [abs(gg.fit(w * c).shape - found) for c in (0.25, 3.7, 64.0)]
        part = w[:200_000].double().numpy()
        deviation.append(abs(part.std() / STD - 1) if nu >= 1 else 0.0)
        oracle = stats.gennorm(nu, scale=gg.scale_of_std(STD, nu))
        for seed in range(TESTS):  # a single sample fails at 0.01 in one of a hundred cases though all is well
            drawn = gg.sample((200_000,), nu, STD, [index, seed]).double().numpy()
            rejected.setdefault(f"{nu:g}", []).append(float(stats.kstest(drawn, oracle.cdf).pvalue))
    yield Claim("|ν estimated − ν| for 0.5, 1, 2, 3, the largest", "0.01 grid", max(off), at_most(0.0101))
    yield Claim("ν estimated from c·w − from w, the largest", "0", max(invariant), at_most(0.0))
    yield Claim(
        "standard deviation of 2e5 samples, ν ≥ 1, largest relative error", "√(ξ/n)", max(deviation), at_most(0.01)
    )
    every = [p for values in rejected.values() for p in values]
    yield Claim(
        f"share of {len(every)} samples of 2e5 that scipy's gennorm rejects at 0.01 (Kolmogorov-Smirnov)",
        "0.01",
        mean(float(p <= 0.01) for p in every),
        at_most(0.05),
        details=rejected,
        seeds=TESTS,
    )


def rates() -> Iterator[Claim]:
    """Bits of samples, by formula and as written."""
    closed = []
    for nu, (eg, entropy, fixed) in RATES.items():
        w = gg.sample((SAMPLES,), nu, STD, 7)
        rate = bits_per_weight(w)
        details = {"exp_golomb": rate.eg, "entropy": rate.entropy, "fixed": rate.fixed, "levels": rate.levels}
        known = f"none; reference {eg}"
        yield Claim(f"exp-Golomb bits, ν = {nu:g}", known, rate.eg, close_to(eg, absolute=0.05), details=details)
        yield Claim(
            f"entropy in bits, ν = {nu:g}", f"none; reference {entropy}", rate.entropy, close_to(entropy, absolute=0.02)
        )
        yield Claim(f"bits of fixed length, ν = {nu:g}", f"none; reference {fixed}", rate.fixed, close_to(fixed))
        closed.append(abs(rate.entropy - gg.entropy(gg.scale_of_std(STD, nu), nu) / math.log(2) - 13))
        if nu == 0.5:
            symbols, (levels, counts) = quantise(w).numpy(), level_counts(w)
            ranked = by_frequency(levels, counts)
            rank_of = np.empty(len(levels), np.int64)
            rank_of[np.searchsorted(levels, ranked)] = np.arange(len(ranked))
            _, blocks = write_exp_golomb(rank_of[np.searchsorted(levels, symbols)])
            written = int(blocks.sum()) / len(symbols)
            yield Claim("exp-Golomb bits as written − by formula, ν = 0.5", "0", abs(written - rate.eg), at_most(1e-9))
            code = encode_rans(symbols, levels, counts)
            same = bool(np.array_equal(decode_rans(code), symbols))
            ratio = 8 * _bytes(code) / len(symbols) / rate.entropy
            yield Claim(
                "bits of the entropy code with its table over the entropy, ν = 0.5 (decoded exactly)",
                "lower bound 1",
                ratio if same else math.nan,
                within(1.0, 1.02),
            )
    yield Claim("|entropy − (h/ln 2 + 13)|, the largest", "0", max(closed), at_most(0.02))


def _bytes(code: dict[str, Any]) -> int:
    return sum(_bytes(part) if isinstance(part, dict) else getattr(part, "nbytes", 8) for part in code.values())


def eight_bits() -> Iterator[Claim]:
    """RF8."""
    grid = torch.linspace(1, 2, 1_000_001, dtype=torch.float64)
    rounded = rf8.round_to_rf8(grid)
    error = (rounded / grid - 1).abs()
    yield Claim("RF8: different values in [1, 2]", "8", len(rounded.unique()), close_to(8))
    yield Claim("RF8: largest relative error", "0.1082", float(error.max()), close_to(0.1082, absolute=1e-4))
    yield Claim("RF8: where, in [1, 2]", "1.3536", float(grid[error.argmax()]), close_to(1.3536, absolute=1e-4))
    for nu in RATES:
        w = gg.sample((SAMPLES,), nu, STD, 3)
        yield Claim(
            f"RF8: signal to noise in dB, ν = {nu:g}, through 8-bit codes",
            "none; reference 28.0",
            sqnr(w, rf8.decode(rf8.encode(w))),
            close_to(28.0, absolute=0.1),
        )


def remapping() -> Iterator[Claim]:
    """DeepShape on Laplace-distributed weights."""
    shapes, deviations, inversions = [], [], 0
    for seed in SEEDS:
        w = gg.sample((SAMPLES,), 1.0, STD, 11 + seed)
        after = w.clone()
        done = deep_shape_([after])
        inside = quantise(w).abs() <= done.cutoff
        fit = gg.fit(after[inside])
        shapes.append(abs(fit.shape - 0.8 * done.shape))
        deviations.append(abs(fit.std / math.sqrt(gg.variance(done.target_alpha, done.target_shape)) - 1))
        inversions += int((after[inside][w[inside].argsort(stable=True)].diff() < 0).sum())
        inversions += int((after[~inside] != w[~inside]).sum())
    yield Claim(
        "DeepShape: |ν fitted after − 0.8 ν|, the largest of 3 samples",
        "0",
        max(shapes),
        at_most(0.05),
        seeds=len(SEEDS),
    )
    yield Claim(
        "DeepShape: deviation over the target's, largest error", "0", max(deviations), at_most(0.05), seeds=len(SEEDS)
    )
    yield Claim(
        "DeepShape: pairs out of order, and weights changed beyond the cutoff",
        "0",
        inversions,
        at_most(0),
        seeds=len(SEEDS),
    )


@dataclass
class Trained:
    """A network after training.

    Attributes:
        model: The network.
        accuracy: Test accuracy in points.
        pruned: The same with the smallest 80 % of all parameters at 0.
        weights: Measures of its weights (:func:`modules.initialization.gg_prior.weight_report`).
        shapes: ν after each epoch.
    """

    model: nn.Module
    accuracy: float
    pruned: float
    weights: dict[str, float]
    shapes: list[float] = field(default_factory=list)


@dataclass
class _Task:
    """The data and the training of the shipped config for one seed."""

    model: nn.Module
    loader: Any
    test: tuple[Tensor, Tensor]
    lr: float
    epochs: int

    @classmethod
    def of_config(cls, seed: int) -> _Task:
        """Builds them as ``fit`` does."""
        from framework.runs.experiment import build
        from framework.runs.quiet import quiet_lightning

        quiet_lightning()
        silent = ["--wandb.mode=disabled", "--trainer.enable_progress_bar=false"]
        experiment = build(CONFIG, overrides=[f"--seed_everything={seed}", *silent])
        data: Any = experiment.datamodule
        data.setup("fit")
        data.setup("test")
        parts = list(data.test_dataloader())
        test = (torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts]))
        model: Any = experiment.model
        lr = model.optimizer_config.lr
        return cls(model.backbone, data.train_dataloader(), test, lr, int(experiment.trainer.max_epochs or 0))

    def train(
        self,
        per_weight_step: float = 0.0,
        eps: float = 1.0,
        epochs: int | None = None,
        start: nn.Module | None = None,
        first: int = 0,
        pulled: int = PULLED,
    ) -> Trained:
        """AdamW without decay on the batches that ``fit`` takes; the pull after each step of the first epochs."""
        model = copy.deepcopy(self.model if start is None else start)
        parameters = list(model.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=self.lr, weight_decay=0.0)
        shapes = []
        for epoch in range(first, first + (self.epochs if epochs is None else epochs)):
            self.loader.set_epoch(epoch)
            for x, y in self.loader:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
                if per_weight_step and epoch < pulled:
                    pull(parameters, per_weight_step, eps)
            shapes.append(gg.fit(parameters).shape)
        return self.measure(model, shapes)

    def measure(self, model: nn.Module, shapes: list[float] | None = None) -> Trained:
        """Accuracies and rates of a network as it is."""
        full = self.accuracy(model)
        with pruned(model, 0.8):
            without = self.accuracy(model)
        return Trained(model, full, without, weight_report(model.parameters()), shapes or [])

    @torch.no_grad()
    def accuracy(self, model: nn.Module) -> float:
        """Test accuracy in points."""
        x, y = self.test
        return 100 * float((model(x).argmax(-1) == y).double().mean())


@torch.no_grad()
def pull(parameters: list[nn.Parameter], per_weight_step: float, eps: float) -> None:
    """w ← w − (λ/N) ν sign(w) (|w| + ε)^(ν−1), ν of all weights as one sample: the plain formula."""
    shape = gg.fit(parameters).shape
    for w in parameters:
        w.sub_(per_weight_step * shape * w.sign() * (w.abs() + eps) ** (shape - 1))


def training(run: Reproduction) -> Iterator[Claim]:
    """The pull, its two regimes, its curve over λ; trained networks remapped and in 8 bits; the initialisation."""
    tasks = {seed: _Task.of_config(seed) for seed in SEEDS}
    plain = {seed: task.train() for seed, task in tasks.items()}
    cheap = {seed: task.train(STEP) for seed, task in tasks.items()}
    yield from effects(plain, cheap)
    small = {seed: task.train(STEP, eps=1e-5) for seed, task in tasks.items()}
    versions = {"without the pull": plain, "ε = 1": cheap, "ε = 1e-5": small}
    shapes = {name: [trained.weights["shape"] for trained in by.values()] for name, by in versions.items()}
    text = "ε = 1e-5 with the same λ/N: ν at the end (ε = 1: see above)"
    paper = "two versions that differ in kind"
    yield over_seeds(text, paper, shapes["ε = 1e-5"], at_least(2.0), SCALE, shapes)
    curve = {0.0: [plain[seed] for seed in CURVE_SEEDS]}
    for step in CURVE:
        curve[step] = [cheap[s] if step == STEP else tasks[s].train(step) for s in CURVE_SEEDS]
    bits = [mean(t.weights["bits_10"] for t in found) for found in curve.values()]
    yield Claim(
        "exp-Golomb bits at 2⁻¹⁰ from one λ to the next larger, the largest change",
        "falls with λ",
        max(b - a for a, b in pairwise(bits)),
        at_most(0.0),
        scale=f"{SCALE}; 2 of them",
        details={f"{step:g}": value for step, value in zip(curve, bits, strict=True)},
        seeds=len(CURVE_SEEDS),
    )
    run.figure("bits_and_accuracy", curve_figure(curve))
    yield from after_training(run, tasks, plain, cheap)
    yield from initialisations(run, tasks)
    run.figure("shapes", shapes_figure(plain, cheap, small))
    yield from through_fit(run, cheap[0])


def effects(plain: dict[int, Trained], cheap: dict[int, Trained]) -> Iterator[Claim]:
    """The pull against none."""

    def both(read: Any) -> dict[str, Any]:
        return {"without": [read(plain[s]) for s in SEEDS], "with": [read(cheap[s]) for s in SEEDS]}

    shape, bits = both(lambda t: t.weights["shape"]), both(lambda t: t.weights["bits_10"])
    yield Claim(
        "BackSlash: ν, mean (without: above 2)",
        "falls; reference 0.57",
        mean(shape["with"]),
        at_most(0.9),
        SCALE,
        shape,
        seeds=len(SEEDS),
    )
    yield Claim(
        "without it: ν, mean",
        "none; reference 2.3",
        mean(shape["without"]),
        at_least(2.0),
        SCALE,
        shape,
        seeds=len(SEEDS),
    )
    yield Claim(
        "BackSlash: exp-Golomb bits at 2⁻¹⁰, with over without",
        "fewer, up to 90 % less; reference 0.72",
        mean(bits["with"]) / mean(bits["without"]),
        at_most(0.8),
        SCALE,
        bits,
        seeds=len(SEEDS),
    )
    for key, paper in (("bits", "fewer; reference 0.79"), ("entropy_10", "fewer; reference 0.86")):
        found = both(lambda t, key=key: t.weights[key])
        yield Claim(
            f"BackSlash: {'exp-Golomb bits at 2⁻¹³' if key == 'bits' else 'entropy at 2⁻¹⁰'}, with over without",
            paper,
            mean(found["with"]) / mean(found["without"]),
            at_most(0.95),
            SCALE,
            found,
            seeds=len(SEEDS),
        )
    accuracy, pruned_to = both(lambda t: t.accuracy), both(lambda t: t.pruned)
    yield Claim(
        "BackSlash: test accuracy lost (points)",
        "1.90 at λ = 1000 (language models); reference -0.1",
        mean(accuracy["without"]) - mean(accuracy["with"]),
        at_most(1.0),
        SCALE,
        accuracy,
        seeds=len(SEEDS),
    )
    yield Claim(
        "BackSlash: accuracy gained where the smallest 80 % are 0 (points)",
        "robust to 80 % pruning; reference 2.7",
        mean(pruned_to["with"]) - mean(pruned_to["without"]),
        at_least(1.5),
        SCALE,
        pruned_to,
        seeds=len(SEEDS),
    )


def after_training(
    run: Reproduction, tasks: dict[int, _Task], plain: dict[int, Trained], cheap: dict[int, Trained]
) -> Iterator[Claim]:
    """The remapping and RF8 of trained networks."""
    at_once, repaired, eight, control, remapped_plain = {}, {}, {}, {}, {}
    for seed, task in tasks.items():
        model = copy.deepcopy(cheap[seed].model)
        deep_shape_(model)
        at_once[seed] = task.measure(model)
        repaired[seed] = task.train(epochs=REPAIR, start=model, first=task.epochs)
        control[seed] = task.train(epochs=REPAIR, start=cheap[seed].model, first=task.epochs)
        model = copy.deepcopy(plain[seed].model)
        deep_shape_(model)
        remapped_plain[seed] = task.measure(model)
        model = copy.deepcopy(cheap[seed].model)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(rf8.decode(rf8.encode(parameter)))
        eight[seed] = task.measure(model)
    groups = {"trained": cheap, "remapped": at_once, "repaired": repaired, "as many epochs, not remapped": control}
    groups |= {"without the pull": plain, "without the pull, remapped": remapped_plain}
    details = {
        f"{name}: {key}": [read(found[s]) for s in SEEDS]
        for name, found in groups.items()
        for key, read in (("accuracy", lambda t: t.accuracy), ("bits at 2⁻¹⁰", lambda t: t.weights["bits_10"]))
    }
    bits = [mean(found[s].weights["bits_10"] for s in SEEDS) for found in groups.values()]
    lost = mean(cheap[s].accuracy - repaired[s].accuracy for s in SEEDS)
    scale = f"{SCALE}; then {REPAIR} epochs of repair"
    saved = f"{SCALE}; at once"
    yield Claim(
        "DeepShape without BackSlash: exp-Golomb bits at 2⁻¹⁰ over those before",
        "fewer",
        bits[5] / bits[4],
        Bound("< 1", lambda ratio: ratio < 1),
        saved,
        details,
        seeds=len(SEEDS),
    )
    yield Claim(
        "DeepShape after BackSlash: exp-Golomb bits at 2⁻¹⁰ over those before",
        "fewer",
        bits[1] / bits[0],
        Bound("< 1", lambda ratio: ratio < 1),
        saved,
        details,
        seeds=len(SEEDS),
    )
    yield Claim(
        "DeepShape after BackSlash: test accuracy lost at once (points)",
        "small",
        mean(cheap[s].accuracy - at_once[s].accuracy for s in SEEDS),
        at_most(1.0),
        saved,
        details,
        seeds=len(SEEDS),
    )
    yield Claim(
        "DeepShape after BackSlash and repair: bits over those of as many epochs without remapping",
        "fewer",
        bits[2] / bits[3],
        Bound("< 1", lambda ratio: ratio < 1),
        scale,
        details,
        seeds=len(SEEDS),
    )
    yield Claim(
        "DeepShape and repair: test accuracy lost (points)",
        "small",
        lost,
        at_most(1.0),
        scale,
        details,
        seeds=len(SEEDS),
    )
    found = {"float32": [cheap[s].accuracy for s in SEEDS], "rf8": [eight[s].accuracy for s in SEEDS]}
    loss = mean(found["float32"]) - mean(found["rf8"])
    yield Claim("RF8: test accuracy lost (points)", "small", loss, at_most(0.5), SCALE, found, seeds=len(SEEDS))
    run.figure(
        "weights",
        histogram_figure(
            {
                "without the pull": plain[0].model,
                "BackSlash": cheap[0].model,
                "BackSlash, then DeepShape and repair": repaired[0].model,
            }
        ),
    )


def initialisations(run: Reproduction, tasks: dict[int, _Task]) -> Iterator[Claim]:
    """Test accuracy after six epochs from initial weights of different shapes, at He's deviation."""
    found: dict[float, list[float]] = {}
    for shape in SHAPES:
        for seed, task in tasks.items():
            model = copy.deepcopy(task.model)
            for index, layer in enumerate(m for m in model.modules() if isinstance(m, nn.Linear)):
                gg.fill_(layer.weight, shape, gg.scale_of_std(math.sqrt(2 / layer.in_features), shape), [seed, index])
                nn.init.zeros_(layer.bias)
            found.setdefault(shape, []).append(task.train(epochs=6, start=model).accuracy)
    means = [mean(values) for values in found.values()]
    yield Claim(
        "initial shapes 0.3 to 2: spread of mean test accuracies (points); no order is claimed",
        "faster and better (language models); reference 1.3",
        max(means) - min(means),
        at_most(3.0),
        "digits, 6 epochs, 3 seeds",
        {f"{shape:g}": values for shape, values in found.items()},
        seeds=len(SEEDS),
    )
    run.figure("initial_shapes", initial_figure(found))


def through_fit(run: Reproduction, plain: Trained) -> Iterator[Claim]:
    """Seed 0 through ``fit``, with the technique."""
    measured = run.fit(CONFIG, "--seed_everything=0")
    bits = abs(measured["weights/bits_10"] - plain.weights["bits_10"])
    details = {
        "fit": {key: value for key, value in measured.items() if key.startswith(("weights/", "val/"))},
        "loop": {"accuracy": plain.accuracy, **plain.weights},
    }
    yield Claim("seed 0 through fit: |bits at 2⁻¹⁰ − those of the loop|", "0", bits, at_most(0.05), SCALE, details)
    yield Claim(
        "seed 0 through fit: |test accuracy − that of the loop| (points)",
        "0",
        abs(100 * measured["val/accuracy"] - plain.accuracy),
        at_most(0.6),
        SCALE,
        details,
    )


def mean(values: Any) -> float:
    """Returns the mean of some numbers."""
    values = list(values)
    return sum(values) / len(values)


def curve_figure(curve: dict[float, list[Trained]]) -> Figure:
    """Draws accuracy, whole and pruned, against bits, a point for each λ/N."""
    figure = new_figure(size=(5.6, 3.8))
    axes = figure.axes[0]
    bits = [mean(t.weights["bits_10"] for t in found) for found in curve.values()]
    for key, label, marker in (("accuracy", "all parameters", "o"), ("pruned", "smallest 80 % at 0", "s")):
        heights = [mean(getattr(trained, key) for trained in found) for found in curve.values()]
        axes.plot(bits, heights, f"{marker}-", label=label, markersize=4)
    for step, x, found in zip(curve, bits, curve.values(), strict=True):
        top = mean(t.accuracy for t in found)
        name = f"{step:g}" if step else "no pull"
        axes.annotate(name, (x, top), (0, 6), textcoords="offset points", ha="center", fontsize=7)
    axes.set(xlabel="exp-Golomb bits a weight at step $2^{-10}$", ylabel="test accuracy [%]")
    axes.set_title("BackSlash on digits, by λ/N", fontsize=9)
    axes.margins(y=0.15)
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    return figure


def shapes_figure(plain: dict[int, Trained], cheap: dict[int, Trained], small: dict[int, Trained]) -> Figure:
    """Draws ν after each epoch."""
    figure = new_figure(size=(5.6, 3.6))
    axes = figure.axes[0]
    runs = {
        "without the pull": list(plain.values()),
        "BackSlash, ε = 1": list(cheap.values()),
        "BackSlash, ε = 1e-5": list(small.values()),
    }
    for index, (label, found) in enumerate(runs.items()):
        for number, trained in enumerate(found):
            epochs = range(1, len(trained.shapes) + 1)
            axes.plot(epochs, trained.shapes, color=f"C{index}", alpha=0.8, lw=1.2, label=None if number else label)
    axes.axvline(PULLED, color="0.6", lw=0.8, ls=":")
    axes.text(PULLED, axes.get_ylim()[1], " pull ends", va="top", fontsize=7, color="0.4")
    axes.set(xlabel="epoch", ylabel="ν of all parameters as one sample")
    axes.legend(frameon=False, fontsize=8)
    return figure


def histogram_figure(models: dict[str, nn.Module]) -> Figure:
    """Draws weights of three networks with the fitted densities, on a logarithmic axis."""
    figure = new_figure(1, len(models), (4.0 * len(models), 3.2))
    for axes, (name, model) in zip(figure.axes, models.items(), strict=True):
        w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
        fit, limit = gg.fit(w), 0.6
        heights = torch.histc(w, 121, -limit, limit) / (w.numel() * 2 * limit / 121)
        edges = np.linspace(-limit, limit, 122)
        axes.stairs(heights.numpy(), edges, fill=True, color="C0", alpha=0.45, label="weights")
        x = torch.linspace(-limit, limit, 601, dtype=torch.float64)
        axes.plot(x.numpy(), gg.density(x, fit.alpha, fit.shape).numpy(), color="C3", lw=1.2, label="fitted density")
        lowest = 0.3 / (w.numel() * 2 * limit / 121)
        axes.set(yscale="log", ylim=(lowest, 4 * float(heights.max())), xlabel="weight")
        bits = weight_report(model.parameters())["bits_10"]
        axes.set_title(f"{name}\nν = {fit.shape:.2f}, {bits:.1f} bits at $2^{{-10}}$", fontsize=9)
    figure.axes[0].set_ylabel("density")
    figure.axes[0].legend(frameon=False, fontsize=7, loc="upper left")
    return figure


def initial_figure(found: dict[float, list[float]]) -> Figure:
    """Draws accuracy against the shape of the initial weights."""
    figure = new_figure()
    axes = figure.axes[0]
    for shape, values in found.items():
        axes.plot([shape] * len(values), values, ".", color="C0", alpha=0.5)
    axes.plot(list(found), [mean(values) for values in found.values()], "o-", color="C0", markersize=4)
    axes.set(xlabel="ν of the initial weights", ylabel="test accuracy [%]", title="digits, 6 epochs, 3 seeds")
    return figure
