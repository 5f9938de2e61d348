"""What the KappaTune paper says, and what follows from its premises, in a form that can fail."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from framework.claims import Claim, Reproduction, at_least, at_most, close_to
from framework.data.seeding import seeded
from framework.figures import new_figure
from framework.functional.spectra import condition_numbers, isotropy_bound
from modules.finetuning.kappa_tune import ExpertNetwork, accuracy
from modules.pretrained import pretrain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG = "finetuning/kappa_tune"
SEEDS = tuple(range(10))
FEWER = {"random": 5, "full": 5}  # seeds of what is only reported
EPOCHS = 30  # on task B, at most
CHOSEN = 16  # of the 48 expert matrices
TARGET = 0.9  # cross-entropy on B's training part at which every run stops
SETTINGS = ("lowest", "highest", "random", "full")
DENSE = {"experts": 0, "blocks": 6, "hidden": 48}
DENSE_SEEDS = SEEDS[:3]
SCALE = "tiny mixture of experts, MNIST-1D and its reversal, {} seeds"


def claims(run: Reproduction) -> Iterator[Claim]:
    """Identities first, then the experiment."""
    yield from identities()
    yield from experiment(run)


def _matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_extremes(side: int, kappa: float, norm: float) -> Tensor:
    """Singular values of largest Σ ln σ_i at a given κ and c = Σ σ_i²: all but the two extremes √(c/n)."""
    smallest = math.sqrt(2 * norm / (side * (1 + kappa**2)))
    values = torch.full((side,), math.sqrt(norm / side), dtype=torch.float64)
    values[0], values[-1] = kappa * smallest, smallest
    return values


def identities() -> Iterator[Claim]:
    """The condition number, the entropy bound, and what the shape alone gives."""
    for shape in ((64, 32), (33, 77), (300, 200)):
        w = _matrix(*shape)
        found, exact = condition_numbers({"w": w})["w"].exact, float(torch.linalg.cond(w))
        yield Claim(f"κ of {shape[0]}x{shape[1]} is σ_max/σ_min", "equal", abs(found / exact - 1), at_most(1e-6))
    w = _matrix(64, 32)
    q = torch.linalg.qr(_matrix(64, 64, 1))[0]
    forms = {"c W": 7.5 * w, "Wᵀ": w.T, "Q W": q @ w, "rows permuted": w.flip(0)}
    values = [s.exact for s in condition_numbers({"w": w, **forms}).values()]
    change = max(abs(value / values[0] - 1) for value in values)
    yield Claim(f"κ is invariant under {', '.join(forms)}", "invariant", change, at_most(1e-5))

    w = _matrix(6, 6)
    entropy = 0.5 * math.log((2 * math.pi * math.e) ** 6 * float(torch.linalg.det(w @ w.T)))
    logs = float(torch.linalg.svdvals(w).log().sum())
    error = abs(entropy - 3 * math.log(2 * math.pi * math.e) - logs)
    yield Claim("h(Wx) = h(x) + Σ ln σ_i, 6x6", "equal", error, at_most(1e-10))

    worst = 0.0
    for kappa in (1.0, 2.0, 10.0, 1000.0):
        logs = float(with_extremes(20, kappa, 3.0).log().sum())
        worst = max(worst, abs(logs - 10 * math.log(3.0 / 20) - isotropy_bound(kappa)))
    yield Claim("κ costs ln(2κ/(1+κ²)) nats at the least: attained", "follows", worst, at_most(1e-10))
    singular = torch.linalg.svdvals(torch.stack([_matrix(20, 20, seed) for seed in range(1000)]))
    kappas, norms = singular[:, 0] / singular[:, -1], singular.square().sum(1)
    excess = singular.log().sum(1) - 10 * (norms / 20).log() - torch.tensor([isotropy_bound(float(k)) for k in kappas])
    yield Claim("the same: exceeded by 1,000 random matrices, nats", "≤ 0", float(excess.max()), at_most(0.0))

    found = condition_numbers({"w": _matrix(1024, 256)})["w"].exact
    yield Claim("κ of a Gaussian 1024x256: its shape alone", "(1+√r)/(1−√r) = 3", found, close_to(3.0, relative=0.1))
    w = _matrix(16, 72)
    same = abs(condition_numbers({"w": w.view(16, 8, 3, 3)})["w"].exact / float(torch.linalg.cond(w)) - 1)
    yield Claim("κ of a convolution's kernel is that of (out, in·k·k)", "equal", same, at_most(1e-6))


# The experiment, all settings and seeds at once.


@dataclass
class _Outcome:
    """What one setting gave, a value for each seed.

    Attributes:
        before: Accuracy on A before.
        after: Accuracy on A after.
        learnt: Test accuracy on B.
        loss: Cross-entropy on B's training part at the end.
        epochs: Epochs on B.
        trained: Trainable parameters.
        path: For each seed, (forgetting, accuracy on B) after each epoch.
    """

    before: list[float] = field(default_factory=list)
    after: list[float] = field(default_factory=list)
    learnt: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    path: list[list[tuple[float, float]]] = field(default_factory=list)

    @property
    def forgetting(self) -> list[float]:
        """Accuracy on A before minus after."""
        return [b - a for b, a in zip(self.before, self.after, strict=True)]


def chosen_tensors(network: nn.Module, setting: str, seed: int, pattern: str, count: int) -> list[str]:
    """Names of the trained matrices: of those whose name holds ``pattern``, the lowest, highest or random κ, or all."""
    weights = {n: p.detach() for n, p in network.named_parameters() if pattern in n and p.ndim == 2}
    spectra = condition_numbers(weights)
    names = sorted(weights, key=lambda name: (spectra[name].kappa, name))
    if setting == "highest":
        names = names[::-1]
    elif setting == "random":
        names = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    return names if setting == "full" else names[:count]


def learn_b(
    networks: Sequence[nn.Module],
    trained: Sequence[Sequence[str]],
    batches: Any,
    tasks: Mapping[str, Mapping[str, Tensor]],
    lr: float,
    weight_decay: float,
    epochs: int = EPOCHS,
    target: float = TARGET,
) -> list[tuple[int, float, list[tuple[float, float]]]]:
    """Trains many networks on B at once by AdamW, each until its loss on the training part is at most ``target``.

    Args:
        networks: Of one form; they are given the weights that come out.
        trained: For each, the names of the parameters that are trained.
        batches: ``batches(epoch)`` yields for every step the rows of B's training part, (networks, B).
        tasks: ``a`` and ``b``, each with ``x``, ``y``, ``x_test``, ``y_test``.
        lr: Learning rate.
        weight_decay: Decoupled weight decay, of trained parameters only.
        epochs: Largest number of epochs.
        target: Cross-entropy.

    Returns:
        For each network the epochs it took, the loss, and (accuracy on A, accuracy on B) at the start and after each.
    """
    form = networks[0]
    moving = sorted({name for names in trained for name in names})
    states = [dict(network.named_parameters()) for network in networks]
    left = list(range(len(networks)))
    found: list[Any] = [None] * len(networks)
    paths: list[list[tuple[float, float]]] = [[] for _ in networks]
    weights = {name: torch.stack([state[name].detach() for state in states]) for name in states[0]}
    masks = {n: torch.tensor([n in names for names in trained], dtype=torch.float32) for n in moving}
    first = {name: torch.zeros_like(weights[name]) for name in moving}
    second = {name: torch.zeros_like(weights[name]) for name in moving}
    x, y = tasks["b"]["x"], tasks["b"]["y"]

    def loss_of(own: dict[str, Tensor], rest: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(form, {**rest, **own}, (x,)), y)

    gradient = vmap(grad_and_value(loss_of))

    @torch.no_grad()
    def measure() -> list[float]:
        losses = []
        for place, model in enumerate(left):
            state = {name: values[place] for name, values in weights.items()}
            losses.append(float(F.cross_entropy(functional_call(form, state, (x,)), y)))
            right = []
            for task in ("a", "b"):
                guess = functional_call(form, state, (tasks[task]["x_test"],)).argmax(-1)
                right.append(float((guess == tasks[task]["y_test"]).double().mean()))
            paths[model].append((right[0], right[1]))
        return losses

    measure()
    step = 0
    for epoch in range(epochs):
        for rows in batches(epoch):
            step += 1
            rows = rows[left]
            own = {name: weights[name] for name in moving}
            rest = {name: values for name, values in weights.items() if name not in masks}
            gradients, _ = gradient(own, rest, x[rows], y[rows])
            for name in moving:
                shape = (-1,) + (1,) * (weights[name].ndim - 1)
                mask = masks[name].view(shape)
                g = gradients[name].mul_(mask)
                weights[name].mul_(1 - lr * weight_decay * mask)
                first[name].lerp_(g, 0.1)
                second[name].mul_(0.999).addcmul_(g, g, value=0.001)
                size = (second[name] / (1 - 0.999**step)).sqrt_().add_(1e-8)
                weights[name].addcdiv_(first[name], size, value=-lr / (1 - 0.9**step))
        losses = measure()
        stay = [place for place, loss in enumerate(losses) if loss > target and epoch + 1 < epochs]
        for place, model in enumerate(left):
            if place not in stay:
                found[model] = (epoch + 1, losses[place], paths[model])
                with torch.no_grad():
                    for name, parameter in states[model].items():
                        parameter.copy_(weights[name][place])
        left = [left[place] for place in stay]
        if not left:
            break
        for values in (weights, masks, first, second):
            for name in values:
                values[name] = values[name][stay]
    return found


def run_all(
    seeds: Sequence[int],
    datamodule: Any,
    sizes: Mapping[str, int],
    pattern: str,
    count: int,
    settings: Sequence[str] = SETTINGS,
    epochs: int = EPOCHS,
    pretrain_epochs: int = 20,
    target: float = TARGET,
    optimizer: Mapping[str, float] | None = None,
    pretrain_options: Mapping[str, Any] | None = None,
) -> dict[str, _Outcome]:
    """Pre-trains one network a seed on A, then trains copies of it on B, one a setting.

    Initialisation, pre-training and the order of the samples are those of ``fit`` with ``seed_everything`` at the seed.
    """
    import copy

    tasks = {"a": datamodule.task_a, "b": datamodule.task_b}
    networks, trained, loaders, kinds, orders_of = [], [], [], [], []
    for number, seed in enumerate(seeds):
        with seeded(seed):
            torch.manual_seed(seed)
            network = ExpertNetwork(**sizes)
            loaders.append(datamodule.train_dataloader())
            pretrain(
                network, tasks["a"]["x"], tasks["a"]["y"], epochs=pretrain_epochs, seed=seed, **(pretrain_options or {})
            )
        for setting in settings:
            if number >= FEWER.get(setting, len(seeds)):
                continue
            kinds.append(setting)
            orders_of.append(number)
            networks.append(copy.deepcopy(network))
            trained.append(chosen_tensors(network, setting, seed, pattern, count))

    def batches(epoch: int) -> Iterator[Tensor]:
        orders = []
        for loader in loaders:
            loader.set_epoch(epoch)
            orders.append([torch.as_tensor(rows) for rows in loader.batch_sampler])
        for step in zip(*orders, strict=True):
            yield torch.stack(step)[orders_of]

    found = learn_b(networks, trained, batches, tasks, **(optimizer or {"lr": 1e-3, "weight_decay": 0.01}),
                    epochs=epochs, target=target)  # fmt: skip
    outcomes = {setting: _Outcome() for setting in settings}
    for setting, network, names, (took, loss, path) in zip(kinds, networks, trained, found, strict=True):
        outcome = outcomes[setting]
        outcome.before.append(path[0][0])
        outcome.after.append(accuracy(network, tasks["a"]["x_test"], tasks["a"]["y_test"]))
        outcome.learnt.append(path[-1][1])
        outcome.loss.append(loss)
        outcome.epochs.append(took)
        sizes_of = dict(network.named_parameters())
        outcome.trained.append(sum(sizes_of[name].numel() for name in names))
        outcome.path.append([(path[0][0] - a, b) for a, b in path])
    return outcomes


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def experiment(run: Reproduction, seeds: Sequence[int] = SEEDS) -> Iterator[Claim]:
    """Forgetting at equal loss on B, for the lowest, the highest, a random third and all of the expert matrices."""
    from framework.runs.experiment import build

    data = build(CONFIG, overrides=["--wandb.mode=disabled", f"--run.root={run.folder / 'runs'}"]).datamodule
    assert data is not None
    data.setup("fit")
    found = run_all(seeds, data, {}, ".experts.", CHOSEN)
    dense = run_all(DENSE_SEEDS, data, DENSE, ".weight", 4, ("lowest", "highest", "random"))
    details: dict[str, Any] = {
        setting: {
            "forgetting": outcome.forgetting,
            "task B": outcome.learnt,
            "loss": outcome.loss,
            "epochs": outcome.epochs,
            "parameters": outcome.trained[0],
        }
        for setting, outcome in found.items()
    }
    scale = SCALE.format(len(seeds))
    mean = {setting: _mean(outcome.forgetting) for setting, outcome in found.items()}
    worst = max(loss for setting in ("lowest", "highest") for loss in found[setting].loss)
    yield Claim(
        "lowest and highest κ reach the same training loss on task B (largest)",
        "equal new-task loss",
        worst,
        at_most(TARGET),
        scale,
        seeds=len(seeds),
    )
    yield Claim(
        "mean forgetting, lowest κ over highest κ",
        "lowest forgets less",
        mean["lowest"] / mean["highest"],
        at_most(0.8),
        scale,
        details,
        seeds=len(seeds),
    )
    gap = _mean(found["lowest"].learnt) - _mean(found["highest"].learnt)
    yield Claim(
        "test accuracy on B, lowest κ less highest κ", "no worse", gap, at_least(-0.02), scale, seeds=len(seeds)
    )
    before = _mean(found["lowest"].before)
    yield Claim(
        "accuracy on A after pre-training",
        "none; reference 0.648",
        before,
        close_to(0.648, absolute=0.04),
        scale,
        seeds=len(seeds),
    )

    seed = seeds[0]
    metrics = run.fit(CONFIG, f"--seed_everything={seed}", "--techniques.kappa_tune.order=lowest")
    forgot = found["lowest"].forgetting[0]
    yield Claim(
        f"seed {seed} through fit: forgetting less the batched run's",
        "equal",
        abs(metrics["val/forgetting"] - forgot),
        at_most(0.01),
        scale,
        {"fit": metrics["val/forgetting"], "batched": forgot, "task B, fit": metrics["val/accuracy"]},
    )
    text = ", ".join(f"{s} {m:.3f} ({len(found[s].loss)} seeds)" for s, m in mean.items())
    print(f"  not claimed: mean forgetting {text}; loss of random {max(found['random'].loss):.3f} at most")
    text = ", ".join(f"{setting} {_mean(o.forgetting):.3f}" for setting, o in dense.items())
    print(f"  not claimed: dense residual network, 4 of 14 matrices, {len(DENSE_SEEDS)} seeds: {text}", flush=True)
    run.figure("forgetting", forgetting_figure(found, dense))


def forgetting_figure(found: Mapping[str, _Outcome], dense: Mapping[str, _Outcome]) -> Figure:
    """Draws forgetting against what was learnt of B, epoch by epoch; and forgetting at the end, seed by seed.

    Args:
        found: Outcomes of the mixture of experts by setting.
        dense: The same of the dense network.
    """
    figure = new_figure(1, 2, size=(10.0, 3.8))
    left, right = figure.axes
    colours = dict(zip(SETTINGS, ("C0", "C3", "0.5", "C2"), strict=True))
    labels = {"lowest": "lowest κ", "highest": "highest κ", "random": "random", "full": "all experts"}
    for setting, outcome in found.items():
        length = min(len(path) for path in outcome.path)
        curve = np.mean([path[:length] for path in outcome.path], axis=0)
        left.plot(curve[:, 1], curve[:, 0], "o-", color=colours[setting], markersize=3, label=labels[setting])
        for path in outcome.path:
            left.plot(*np.array(path)[-1][::-1], ".", color=colours[setting], alpha=0.35)
    left.set(xlabel="test accuracy on B", ylabel="forgetting of A", title="while B is learnt (mean; dots: ends)")
    left.legend(frameon=False, fontsize=8)
    ticks = []
    for offset, outcomes, name in ((0, found, ""), (len(found), dense, "\ndense")):
        for place, (setting, outcome) in enumerate(outcomes.items(), start=offset):
            jitter = np.linspace(-0.15, 0.15, len(outcome.forgetting))
            right.plot(place + jitter, outcome.forgetting, ".", color=colours[setting], alpha=0.7)
            right.hlines(_mean(outcome.forgetting), place - 0.3, place + 0.3, color=colours[setting])
            ticks.append((place, f"{labels[setting]}{name}"))
    right.axhline(0, color="0.7", linewidth=0.8)
    right.set_xticks([place for place, _ in ticks], [text for _, text in ticks], size=7)
    right.set(ylabel="forgetting of A", title=f"at a training loss of {TARGET:g} on B (lines: means)")
    return figure
