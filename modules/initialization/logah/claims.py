"""What predicted weights are worth without and with training, at a reduced scale (arXiv 2405.16287)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.claims import Bound, Claim, Reproduction, at_least, over_seeds
from modules.initialization.logah.families import Task, build
from modules.initialization.logah.plots import curves_figure

if TYPE_CHECKING:
    from framework.runs.experiment import Experiment

CONFIG = "initialization/logah"
SEEDS = (0, 1)
# Hidden widths; in the training there are one to three layers of 32 to 128.
KNOWN = ((96,), (72, 104), (128, 128, 128))
TWICE, THRICE, WIDER = (256, 256), (384, 384, 384), (480,)
NETWORKS = (*KNOWN, TWICE, THRICE, WIDER)
EPOCHS, RATE = 3, 1e-3
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)  # from which a random start gets its own best
REPORTED = Bound("reported", math.isfinite)
SCALE = "perceptrons on scikit-learn's digits; 3,000 steps with one network each; d = 32, r = 16, ck = 512, two layers"

Curves = dict[str, list[float]]


def curves(experiment: Experiment, seconds: float) -> dict[str, Curves]:
    """Returns the test accuracies over the epochs, from 0 on, by start and by network.

    Starts: ``predicted``; ``random`` (He) with the same rate; ``random, tuned``, with the rate that is best after the
    last epoch.

    Args:
        experiment: A run of the hypernetwork.
        seconds: How long it took.
    """
    model: Any = experiment.model
    data: Any = experiment.datamodule
    train, test = whole(data.train_dataloader()), whole(data.test_dataloader())
    found: dict[str, Curves] = {}
    for widths in NETWORKS:
        net = build("mlp", Task(), {"widths": list(widths), "bias": False})
        with torch.no_grad():
            for name, value in model.predict_weights(net).values.items():
                net.get_parameter(name).copy_(value)
        own: Curves = {"predicted": trained(net, RATE, train, test)}
        random = {rate: trained(he(net), rate, train, test) for rate in RATES}
        own["random"] = random[RATE]
        own["random, tuned"] = max(random.values(), key=lambda values: values[-1])
        found["-".join(map(str, widths))] = own
    return found


def whole(loader: Any) -> tuple[Tensor, Tensor]:
    """Returns all batches of a loader as one."""
    xs, ys = zip(*loader, strict=True)
    return torch.cat(xs), torch.cat(ys)


def he(net: nn.Module) -> nn.Module:
    """Draws the weights afresh as He et al. do, from a seed of its own."""
    generator = torch.Generator().manual_seed(0)
    for parameter in net.parameters():
        nn.init.kaiming_normal_(parameter, nonlinearity="relu", generator=generator)
    return net


def trained(net: nn.Module, rate: float, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> list[float]:
    """Returns the test accuracy before training and after each epoch; batches of 64, AdamW.

    Args:
        net: The network; it is trained in place.
        rate: Learning rate.
        train: Images and classes.
        test: Images and classes.
    """
    optimizer = torch.optim.AdamW(net.parameters(), rate)
    generator = torch.Generator().manual_seed(0)
    found = [accuracy(net, test)]
    for _ in range(EPOCHS):
        for part in torch.randperm(len(train[0]), generator=generator).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(train[0][part]), train[1][part]).backward()
            optimizer.step()
        found.append(accuracy(net, test))
    return found


@torch.no_grad()
def accuracy(net: nn.Module, test: tuple[Tensor, Tensor]) -> float:
    """Returns the share of images that a network classifies rightly."""
    return float((net(test[0]).argmax(1) == test[1]).float().mean())


def claims(run: Reproduction) -> Iterator[Claim]:
    """The table of networks by the widths of their hidden layers."""
    jobs = [[f"--seed_everything={seed}", f"--model.seed={seed}", "--run.monitor=null"] for seed in SEEDS]
    found = run.fits(CONFIG, jobs, of=curves)
    run.figure("curves", curves_figure(found[0]))
    details = {f"seed {seed}": values for seed, values in zip(SEEDS, found, strict=True)}
    names = ["-".join(map(str, widths)) for widths in NETWORKS]
    text = "hidden layers {}: accuracy of predicted weights without training"
    papers = ("0.956, 0.966", "0.960, 0.968", "0.961, 0.963", "0.953, 0.953", "0.910, 0.908", "0.941, 0.941")
    bounds = [at_least(0.9)] * len(KNOWN) + [at_least(0.8), REPORTED, REPORTED]
    for name, paper, bound in zip(names, papers, bounds, strict=True):
        values = of(found, name, "predicted", 0)
        yield over_seeds(text.format(name), f"none; reference {paper}", values, bound, SCALE, details, min)
        details = {}
    text = "hidden layers {}: predicted and one epoch, less random and three, the same rate (points)"
    for name in names[: len(KNOWN)]:
        gains = less(of(found, name, "predicted", 1), of(found, name, "random", EPOCHS))
        yield over_seeds(text.format(name), "0 or more", gains, at_least(0.0), SCALE)
    text = "hidden layers {}: predicted and one epoch, less random and three at its own best rate (points)"
    for name in names:
        gains = less(of(found, name, "predicted", 1), of(found, name, "random, tuned", EPOCHS))
        yield over_seeds(text.format(name), "none", gains, REPORTED, SCALE)


def of(found: Sequence[Mapping[str, Curves]], network: str, start: str, epoch: int) -> list[float]:
    """Returns the accuracies of a network over the seeds."""
    return [values[network][start][epoch] for values in found]


def less(one: Sequence[float], other: Sequence[float]) -> list[float]:
    """Returns the differences in points."""
    return [100 * (a - b) for a, b in zip(one, other, strict=True)]
