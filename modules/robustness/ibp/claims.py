"""What the paper says of interval bounds and their tightness, at reduced size, in a form that can fail."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from framework.claims import Claim, Reproduction, at_least, at_most, close_to, over_seeds
from framework.functional.interval import IntervalNetwork, tightness
from modules.robustness.ibp.certify import VERDICTS, verdicts
from modules.robustness.ibp.networks import certified_network
from modules.robustness.ibp.plots import tightness_panels
from modules.robustness.ibp.theory import Autoencoder, orthonormal, train_autoencoder

if TYPE_CHECKING:
    from framework.runs.experiment import Experiment

CONFIG = "robustness/ibp"
SEEDS = (0, 1, 2)
SMALL = "digits of 8x8 pixels, 64-256-64-10, eps 0.1, 60 epochs"
ONE = f"{SMALL}; one seed"
EPS = (0.01, 0.03, 0.1, 0.2)
WIDTHS = (16, 64, 256)
# The paper's start: PyTorch's own weights, no regulariser.
PLAIN = ("--techniques.ibp_init=null", "--techniques.fast_regularizer=null")
STRATEGIES = {
    "standard": ("--model.strategy=standard", *PLAIN),
    "PGD": ("--model.strategy=pgd", *PLAIN),
    "SABR": ("--model.strategy=sabr", "--model.sabr_fraction=0.4"),
    "IBP": (),
}
# (width, tightness of IBP and of standard training, box radius of both), from the authors' result files.
EMBEDDING = ((10, 0.396, 0.356, 5.33, 9.29), (40, 0.214, 0.191, 12.63, 19.70), (80, 0.168, 0.148, 18.34, 28.62))


@dataclass
class TrainedClassifier:
    """A trained classifier on the test set.

    Attributes:
        natural: Accuracy.
        adversarial: Share that withstands the attack.
        certified: Share that is proven.
        tightness: Mean local tightness.
    """

    natural: float
    adversarial: float
    certified: float
    tightness: float


def arm(experiment: Experiment, seconds: float) -> TrainedClassifier:
    """Measures a run at the eps of its test."""
    model: Any = experiment.model
    data: Any = experiment.datamodule
    x, y = (torch.cat(parts) for parts in zip(*data.test_dataloader(), strict=True))
    found = verdicts(model.network, x, y, model.test_eps, steps=40)
    with torch.no_grad():
        natural = float((model.eval()(x).argmax(1) == y).float().mean())
    shares = {name: float((found == number).float().mean()) for number, name in enumerate(VERDICTS)}
    tight = tightness(model.network, x[:200], model.test_eps, y[:200]).mean
    return TrainedClassifier(natural, shares["certified"] + shares["unknown"], shares["certified"], tight)


def claims(run: Reproduction) -> Iterator[Claim]:
    """The start, the embedding, methods beside each other, and what eps and width do."""
    yield from at_the_start()
    yield from embedding()
    yield from digits(run)


def at_the_start() -> Iterator[Claim]:
    """Tightness of untrained networks; any images give it, normalised ones."""
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 10
    for network, local, deep in (("cnn_2", 0.1383, 0.0957), ("cnn_3", 0.02491, 0.01224)):
        found: dict[bool, list[float]] = {False: [], True: []}
        for seed in SEEDS:
            torch.manual_seed(seed)
            net = certified_network(network, 3, 32, 10, mean=(0.5,), std=(0.29,))
            for linear in (False, True):
                measured = tightness(IntervalNetwork(net), images, torch.ones_like(images), labels, linear=linear)
                found[linear].append(measured.mean)
        for linear, paper, name in ((False, local, "local"), (True, deep, "without ReLUs")):
            text = f"{network} at the start, CIFAR's size: tightness, {name}"
            scale = "64 images of noise for the test set"
            yield over_seeds(text, f"{paper:g}", found[linear], close_to(paper, relative=0.05), scale)
    deeper = []
    for network in ("cnn_2", "cnn_3", "cnn_5", "cnn_7"):
        torch.manual_seed(0)
        net = certified_network(network, 3, 32, 10, width=8, mean=(0.5,), std=(0.29,)).double()
        x = images[:4].double()
        deeper.append(tightness(IntervalNetwork(net), x, torch.ones_like(x), labels[:4], floor=0.0).mean)
    ratios = [b / a for a, b in itertools.pairwise(deeper)]
    text = "tightness at the start falls with depth (2, 3, 5, 7 layers of width 8): largest ratio of one to the next"
    yield Claim(text, "exponentially", max(ratios), at_most(0.5), "4 images of noise", {"tightness": deeper})


def embedding() -> Iterator[Claim]:
    """Linear autoencoders of points in a subspace: training on bounds makes boxes smaller and tighter."""
    generator = torch.Generator().manual_seed(0)
    basis = orthonormal(100, 40, generator)
    x = torch.randn(1000, 40, generator=generator, dtype=torch.float64) @ basis.T
    exact = Autoencoder(basis.T, basis)
    for name, paper, value in (
        ("box radius", 25.6, float(exact.layerwise.mean())),
        ("exact radius", 4.26, float(exact.exact.mean())),
        ("tightness", 0.167, exact.tightness),
    ):
        yield Claim(f"projection on 40 of 100 dimensions: {name}", f"{paper:g}", value, close_to(paper, relative=0.02))
    gains, narrower = [], []
    for width, tight, plain, radius, wide in EMBEDDING:
        found = [train_autoencoder(x, width, eps, torch.Generator().manual_seed(width)) for eps in (0.01, 0.0)]
        radii = [float(each.layerwise.mean()) for each in found]
        gains.append(found[0].tightness - found[1].tightness)
        narrower.append(1 - radii[0] / radii[1])
        for name, paper, value in (
            ("tightness, trained on bounds", tight, found[0].tightness),
            ("tightness, trained plainly", plain, found[1].tightness),
            ("box radius, trained on bounds", radius, radii[0]),
            ("box radius, trained plainly", wide, radii[1]),
        ):
            text = f"linear autoencoder, width {width}: {name}"
            yield Claim(text, f"{paper:g}", value, close_to(paper, relative=0.05), "one draw of points and start")
    text = "linear autoencoders: smallest gain of tightness by training on bounds"
    yield Claim(text, "0.02 to 0.04", min(gains), at_least(0.01), "widths 10, 40, 80")
    text = "linear autoencoders: smallest reduction of the box radius by it"
    yield Claim(text, "0.25 to 0.45", min(narrower), at_least(0.25), "widths 10, 40, 80")


def digits(run: Reproduction) -> Iterator[Claim]:
    """Methods beside each other, and what eps and width do to tightness."""
    jobs: list[tuple[str, ...]] = []
    for overrides in STRATEGIES.values():
        jobs += [(*overrides, f"--seed_everything={seed}") for seed in SEEDS]
    others = [eps for eps in EPS if eps != 0.1]
    for name in ("IBP", "PGD"):
        jobs += [(*STRATEGIES[name], f"--model.eps={eps}") for eps in others]
    narrow = WIDTHS[:-1]
    jobs += [(f"--model.width={width}", f"--model.hidden=[{width}]") for width in (*narrow, 256)]
    quiet = ("--run.monitor=null", "--techniques.propagation_tightness=null")
    found = iter(run.fits(CONFIG, [[*quiet, *job] for job in jobs], arm))
    methods = {name: [next(found) for _ in SEEDS] for name in STRATEGIES}
    sweep = {name: {eps: next(found) for eps in others} for name in ("IBP", "PGD")}
    widths = {width: next(found) for width in WIDTHS}
    details = {name: [vars(each) for each in arms] for name, arms in methods.items()}

    def values(name: str, field: str) -> list[float]:
        return [float(getattr(each, field)) for each in methods[name]]

    text = "tightness of IBP less that of SABR"
    yield over_seeds(
        text, "above", _less(values("IBP", "tightness"), values("SABR", "tightness")), at_least(0.0), SMALL
    )
    for name in ("IBP", "SABR"):
        text = f"tightness of {name} over that of PGD"
        ratios = [a / b for a, b in zip(values(name, "tightness"), values("PGD", "tightness"), strict=True)]
        yield over_seeds(text, "≫ 1; reference 9 and 7", ratios, at_least(4.0), SMALL, details)
    for name, reference in (("standard", 0.980), ("PGD", 0.984), ("SABR", 0.958), ("IBP", 0.956)):
        text = f"{name}: accuracy"
        yield over_seeds(text, f"none; reference {reference:g}", values(name, "natural"), at_least(0.85), SMALL)
    text = "certified accuracy of IBP"
    yield over_seeds(text, "none; reference 0.764", values("IBP", "certified"), at_least(0.6), SMALL)
    text = "certified accuracy of IBP less that of PGD"
    yield over_seeds(text, "above", _less(values("IBP", "certified"), values("PGD", "certified")), at_least(0.5), SMALL)
    text = "accuracy under attack of PGD less that of standard training"
    gain = _less(values("PGD", "adversarial"), values("standard", "adversarial"))
    yield over_seeds(text, "above; reference 0.54", gain, at_least(0.3), SMALL)
    curve = [sweep["IBP"].get(eps) or methods["IBP"][0] for eps in EPS]
    rises = [b.tightness - a.tightness for a, b in itertools.pairwise(curve)]
    text = "IBP, eps 0.01 to 0.2 in training and test: smallest rise of tightness from one to the next"
    table = {str(eps): vars(each) for eps, each in zip(EPS, curve, strict=True)}
    yield Claim(text, "rises", min(rises), at_least(0.0), ONE, table)
    other = [sweep["PGD"].get(eps) or methods["PGD"][0] for eps in EPS]
    text = "PGD at the same eps: largest tightness"
    yield Claim(text, "stays low; reference 0.13", max(each.tightness for each in other), at_most(0.25), ONE)
    falls = [widths[a].tightness - widths[b].tightness for a, b in itertools.pairwise(WIDTHS)]
    gains = [widths[b].certified - widths[a].certified for a, b in itertools.pairwise(WIDTHS)]
    scale = ONE.replace("64-256-64-10", "64-w-w-10, w 16, 64, 256")
    table = {str(width): vars(each) for width, each in widths.items()}
    text = "IBP, wider: smallest fall of tightness from one width to the next"
    yield Claim(text, "falls", min(falls), at_least(0.0), scale, table)
    text = "IBP, wider: smallest gain of certified accuracy from one width to the next"
    yield Claim(text, "rises", min(gains), at_least(0.0), scale)
    figure = tightness_panels(
        {name: [(e, a.tightness) for e, a in zip(EPS, c, strict=True)] for name, c in (("IBP", curve), ("PGD", other))},
        [(width, each.tightness, each.certified) for width, each in widths.items()],
        {name: _means(arms) for name, arms in methods.items()},
    )
    run.figure("tightness", figure)


def _less(one: Sequence[float], other: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(one, other, strict=True)]


def _means(arms: Sequence[TrainedClassifier]) -> tuple[float, float, float]:
    natural, proven, tight = (fmean(getattr(a, name) for a in arms) for name in ("natural", "certified", "tightness"))
    return natural, proven, tight
