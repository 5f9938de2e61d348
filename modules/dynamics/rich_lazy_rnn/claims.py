"""What Liu et al. say of rich and lazy learning, in a form that can fail."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from framework.claims import Claim, Reproduction, at_least, at_most, close_to
from modules.dynamics.rich_lazy_rnn import linear
from modules.dynamics.rich_lazy_rnn.module import LeakyReluRNN, final
from modules.dynamics.rich_lazy_rnn.plots import laziness_figure, spectra_figure, theory_figure
from modules.ensemble import Batch, prepared

CONFIG, DIGITS = "dynamics/rich_lazy_rnn", "dynamics/rich_lazy_rnn_digits"
STEPS, SCALE = 3000, "H = 100 (paper: 300), 3,000 steps (10,000)"
PLAIN = "--model.structures=null"
Table = dict[str, np.ndarray]


def model_of(config: str, *overrides: str) -> tuple[LeakyReluRNN, Batch]:
    """Returns a shipped experiment with other settings."""
    model, batch = prepared(config, *overrides)
    assert isinstance(model, LeakyReluRNN)
    return model, batch


def trained(config: str, *overrides: str, steps: int = STEPS) -> Table:
    """What its members end with."""
    model, batch = model_of(config, *overrides)
    return final(model.simulate(batch, steps, [0, steps]))


def by_seed(table: Table, measure: str, start: str, g: float | None = None) -> np.ndarray:
    """Returns a measure of the members with a start, seed by seed."""
    mine = table["start"] == start
    return table[measure][mine if g is None else mine & (table["g"] == g)]


def claims(run: Reproduction) -> Iterator[Claim]:
    """The closed form, the effect of rank, what shrinks it, other structures, other data."""
    yield from theory(run)
    yield from cognitive(run)
    yield from laziness_control()
    yield from structures(run)
    yield from digits(run)
    yield from through_fit(run)


def theory(run: Reproduction) -> Iterator[Claim]:
    """Two linear layers: the mean over tasks, the exceptions."""
    generator = torch.Generator().manual_seed(0)
    tasks, sigma = 300, 1e-3
    predicted: dict[int, dict[int, float]] = {}
    measured: dict[int, dict[int, tuple[float, float]]] = {}
    for d, ranks in ((3, (1, 2, 3)), (8, (1, 2, 4, 8))):
        predicted[d] = {r: linear.expected_alignment_of_rank(d, r) for r in range(1, d + 1)}
        measured[d], excess = {}, []
        for rank in ranks:
            beta = linear.sphere(tasks, d, generator)
            start = (
                linear.evenly_ranked(tasks, 2 * d, d, rank, sigma, generator),
                _readout(tasks, 2 * d, sigma, generator),
            )
            found = linear.alignment(start, linear.train(*start, beta))
            mean, error = float(found.mean()), float(found.std()) / tasks**0.5
            measured[d][rank] = mean, error
            excess.append(abs(mean - predicted[d][rank]) - 3 * error)
        text = f"two linear layers, d = {d}, ranks {ranks}: |mean KA − E[KA]| beyond 3 standard errors"
        yield Claim(
            text,
            "0",
            max(excess),
            at_most(0.003),
            f"{tasks} tasks",
            {"KA": measured[d], "E[KA]": predicted[d]},
            seeds=tasks,
        )
        text = f"the same: least rise of the mean KA from one of these ranks to the next, d = {d}"
        means = [mean for mean, _ in measured[d].values()]
        yield Claim(text, "> 0 (Theorem 1)", float(np.diff(means).min()), at_least(0), f"{tasks} tasks", seeds=tasks)
        text = f"full rank, d = {d}: standard error of KA over tasks"
        yield Claim(text, "0", measured[d][d][1], at_most(1e-5), f"{tasks} tasks", seeds=tasks)
    run.figure("theory", theory_figure(predicted, measured))

    d = 8
    beta = linear.sphere(tasks, d, generator)
    start = linear.aligned(beta[..., None], 2 * d, sigma, generator), _readout(tasks, 2 * d, sigma, generator)
    lowest = float(linear.alignment(start, linear.train(*start, beta)).min())
    yield Claim(
        "rank 1 aligned with the task: smallest KA",
        "1 (Prop. 1)",
        lowest,
        at_least(0.9999),
        f"{tasks} tasks",
        seeds=tasks,
    )

    shape = linear.anisotropic(d, 10.0, generator)
    beta = linear.sphere(tasks, d, generator) @ shape  # of the target w_T F x, F x the inputs
    beta = beta / beta.norm(dim=1, keepdim=True)
    leading = torch.linalg.svd(shape)[2][: d // 2].mT
    alignments: dict[str, float] = {}
    gaps: list[float] = []
    starts = {
        "rank d/2 along the leading inputs": linear.aligned(leading.expand(tasks, -1, -1), 2 * d, sigma, generator),
        "rank d": linear.evenly_ranked(tasks, 2 * d, d, d, sigma, generator),
        "rank d/2": linear.evenly_ranked(tasks, 2 * d, d, d // 2, sigma, generator),
    }
    for name, w1 in starts.items():
        start = w1, _readout(tasks, 2 * d, sigma, generator)
        found = linear.alignment(start, linear.train(*start, beta))
        gaps.append(float((found - linear.predicted_alignment(*start, beta)).abs().max()))
        alignments[name] = float(found.mean())
    text = "anisotropic inputs (κ = 10), d = 8: largest distance of any task's KA from its prediction, 3 starts"
    yield Claim(text, "0", max(gaps), at_most(0.003), f"{tasks} tasks", alignments, seeds=tasks)
    gain = alignments["rank d/2 along the leading inputs"] - alignments["rank d"]
    yield Claim(
        "the same: mean KA, rank d/2 along the leading inputs − rank d",
        "> 0",
        gain,
        at_least(0),
        f"{tasks} tasks",
        seeds=tasks,
    )


def _readout(tasks: int, hidden: int, sigma: float, generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(tasks, 1, hidden, generator=generator, dtype=torch.float64)
    return sigma * drawn / drawn.norm(dim=2, keepdim=True)


def cognitive(run: Reproduction) -> Iterator[Claim]:
    """Recurrent networks on two tasks; the same from smaller weights."""
    tables: list[Table] = []
    for task, name, reference in (("2af", "2AF", "0.39, 0.58"), ("dms", "DMS", "0.42, 0.62")):
        model, batch = model_of(CONFIG, PLAIN, f"--data.task={task}")
        table = final(model.simulate(batch, STEPS, [0, STEPS]))
        tables.append(table)
        if task == "2af":
            run.figure("spectra", spectra_figure(model.first_recurrent_weights()))
        found = {
            measure: {start: by_seed(table, measure, start).tolist() for start in ("rank 1", "rank 10", "rank 100")}
            for measure in ("kernel_alignment", "representation_alignment", "weight_change", "loss", "test_accuracy")
        }
        rise, other = (
            by_seed(table, measure, "rank 100") - by_seed(table, measure, "rank 1")
            for measure in ("kernel_alignment", "representation_alignment")
        )
        text = f"{name}: KA of full rank − KA of rank 1, least of three seeds"
        yield Claim(text, f"> 0; reference {reference}", float(rise.min()), at_least(0.25), SCALE, found, seeds=3)
        text = f"{name}: RA of full rank − RA of rank 1, least of three seeds"
        yield Claim(text, "> 0", float(other.min()), at_least(0), SCALE, seeds=3)
        ratio = by_seed(table, "weight_change", "rank 1").mean() / by_seed(table, "weight_change", "rank 100").mean()
        yield Claim(
            f"{name}: mean |W_h − W_h(0)|, rank 1 over full rank",
            "> 1 on average",
            float(ratio),
            at_least(1),
            SCALE,
            seeds=3,
        )
        losses = by_seed(table, "loss", "rank 1"), by_seed(table, "loss", "rank 100")
        if task == "2af":
            gap = float(np.abs(losses[0] / losses[1] - 1).max())
            yield Claim(
                "2AF: loss of rank 1 over full rank, largest distance from 1",
                "comparable",
                gap,
                at_most(0.2),
                SCALE,
                seeds=3,
            )
        else:
            text = "DMS: largest loss of rank 1 and full rank, over that of no choice (ln 2 / 8)"
            worst = float(np.concatenate(losses).max()) / (np.log(2) / 8)
            details = {"rank 1 over full rank": (losses[0] / losses[1]).tolist()}
            yield Claim(text, "both solved", worst, at_most(0.2), SCALE, details, seeds=3)
    accuracy = (
        by_seed(tables[1], "test_accuracy", "rank 1").min(),
        by_seed(tables[1], "test_accuracy", "rank 100").min(),
    )
    yield Claim(
        "DMS: least accuracy of the decision, rank 1 and full rank",
        "1",
        float(min(accuracy)),
        at_least(0.99),
        SCALE,
        seeds=3,
    )
    run.figure("rank", laziness_figure(*tables, titles=("2AF", "DMS")))

    small = trained(CONFIG, PLAIN, "--data.task=2af", "--model.ranks=[1, 100]", "--model.g=[0.5]")
    rises = [
        float((by_seed(t, "kernel_alignment", "rank 100") - by_seed(t, "kernel_alignment", "rank 1")).mean())
        for t in (small, tables[0])
    ]
    text = "2AF: mean rise of KA from rank 1 to full rank, g = 0.5 over g = 1.25"
    details = {"rise at g = 0.5": rises[0], "rise at g = 1.25": rises[1], "loss": small["loss"].tolist()}
    yield Claim(text, "smaller at small g", rises[0] / rises[1], at_most(1), SCALE, details, seeds=3)


def laziness_control() -> Iterator[Claim]:
    """Outputs c (o − o(0)) at a rate over c²: everything is lazy at a large c."""
    least: dict[str, float] = {}
    found: dict[str, Any] = {}
    for c in (5, 50, 500):
        table = trained(CONFIG, PLAIN, "--data.task=dms", "--model.ranks=[1, 100]", f"--model.centred_scale={c}")
        least[f"c = {c}"] = float(table["kernel_alignment"].min())
        found[f"c = {c}"] = {
            start: by_seed(table, "kernel_alignment", start).tolist() for start in ("rank 1", "rank 100")
        }
    text = "DMS, outputs c (o − o(0)), rate/c²: smallest KA of rank 1 and full rank, three seeds, c = 500"
    yield Claim(text, "→ 1; reference > 0.98 at c = 50", least["c = 500"], at_least(0.98), SCALE, found, seeds=3)
    rises = min(least["c = 50"] - least["c = 5"], least["c = 500"] - least["c = 50"])
    yield Claim("the same: least rise from c = 5 to 50 to 500", "> 0", rises, at_least(0), SCALE, least, seeds=3)


def structures(run: Reproduction) -> Iterator[Claim]:
    """Dale's law beside the Gaussian of its norm; chain motifs, of which nothing is asserted, in the details."""
    scale = "H = 60, 3,000 steps, 5 seeds"
    kinds = (
        "{Dale: {kind: dale}"
        + "".join(f", chain {p}: {{kind: chain, chain: {p}, correlation: 1.0}}" for p in (0.02, 0.08))
        + "}"
    )
    small = ["--data.task=2af", "--model.hidden=60", "--model.ranks=[60]", "--model.seeds=5"]
    table = trained(CONFIG, PLAIN, f"--model.structures={kinds}", *small)
    run.figure("structures", laziness_figure(table, titles=("2AF, H = 60, one norm",)))
    names = ("rank 60", "Dale", "chain 0.02", "chain 0.08")
    found = {
        measure: {name: by_seed(table, measure, name).tolist() for name in names}
        for measure in ("kernel_alignment", "loss", "rank_participation")
    }
    means = {name: float(by_seed(table, "kernel_alignment", name).mean()) for name in names}
    gap = means["rank 60"] - means["Dale"]
    text = "2AF: mean KA of the Gaussian − Dale's law (balanced), one norm"
    yield Claim(text, "> 0 (Fig. 2)", gap, at_least(0), scale, found, seeds=5)


def digits(run: Reproduction) -> Iterator[Claim]:
    """Sequential digits, the class at the end."""
    scale = "8x8 digits, H = 100, 700 steps on 200 (100 epochs), 3 seeds"
    table = trained(DIGITS, "--model.ranks=[1, 5, 30, 100]", steps=700)
    run.figure("digits", laziness_figure(table, titles=("sequential digits",)))
    means = {
        s: float(by_seed(table, "kernel_alignment", s).mean()) for s in ("rank 1", "rank 5", "rank 30", "rank 100")
    }
    text = "sequential digits: mean KA of full rank − rank 5"
    details = {"KA": means, "accuracy": table["test_accuracy"].tolist()}
    yield Claim(text, "> 0", means["rank 100"] - means["rank 5"], at_least(0.1), scale, details, seeds=3)


def through_fit(run: Reproduction) -> Iterator[Claim]:
    """The shipped command gives one member of a batch what it has beside the others."""
    exact = [PLAIN, "--model.dtype=float64", "--trainer.max_epochs=1", "--data.passes=3"]
    alone = run.fit(CONFIG, *exact, "--model.ranks=[10]", "--model.seeds=1")
    table = trained(CONFIG, *exact, steps=300)
    gaps = [
        abs(alone[f"train/{measure}"] - float(by_seed(table, measure, "rank 10")[0]))
        for measure in ("kernel_alignment", "representation_alignment", "weight_change", "loss")
    ]
    text = "one seed and rank through fit, and among nine members, 300 steps: largest difference of four measures"
    yield Claim(text, "0", max(gaps), close_to(0, absolute=1e-9))
