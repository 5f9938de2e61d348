"""What the TLEG paper says, at the scale of scikit-learn's digits, in a form that can fail.

The learngene is distilled as the config says, in a plain loop, and expanded; descendants and fresh transformers are
trained beside each other. A short run of the same also goes through ``fit``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from framework.checkpoints.learngene_file import read_learngene
from framework.claims import Claim, Reproduction, at_least, at_most, within
from framework.data.seeding import mix, seeded
from framework.figures import new_figure
from framework.functional.learngene import LearngeneTensors, expand_into, extract_learngene, linearity
from framework.optim import OptimizerConfig, ScheduleConfig
from modules.finetuning.tleg.blocks import share_blocks, vit_arguments
from modules.finetuning.tleg.module import LearngeneAux, accuracy_at, distil
from modules.finetuning.tleg.plots import layers_figure
from modules.finetuning.tleg.tables import storage_rows
from modules.finetuning.tleg.training import accuracy, train
from modules.vision.image_classifier import build_backbone

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONFIG, DESCENDANT = "finetuning/tleg", "finetuning/tleg_descendant"
SEEDS = (0, 1)
DEPTHS = (3, 4, 6, 9)
ALL_DEPTHS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 18, 24)
EPOCHS = 6
FRESH = OptimizerConfig(lr=0.002, weight_decay=0.05, decay_1d=False)
SHORT = 5  # epochs of the run through fit
SCALE = "digits (1,438 images, tested on 359), width 48, auxiliary depth 6, 60 epochs, 2 seeds"
ZERO_SHOT = {3: "90.0 / 86.3", 4: "92.6 / 93.0", 9: "94.6 / 94.1"}
DEIT_S = {"num_classes": 1000, "image_size": 224, "in_chans": 3}


@dataclass
class _Outcome:
    """What one seed gave; accuracies in per cent.

    Attributes:
        zero_shot: Of the expansion before any training, by depth.
        difference: Largest difference of the logits at the trained depth, expanded and auxiliary.
        expanded: After each epoch, by depth.
        fresh: The same from random weights.
        scratch: After each epoch of the auxiliary depth from random weights, as long as the auxiliary network.
        states: Trained transformers, by label.
        flops: Of an epoch, by depth.
    """

    zero_shot: dict[int, float]
    difference: float
    expanded: dict[int, list[float]] = field(default_factory=dict)
    fresh: dict[int, list[float]] = field(default_factory=dict)
    scratch: list[float] = field(default_factory=list)
    states: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    flops: dict[int, float] = field(default_factory=dict)


def experiment(config: str, *overrides: str) -> Any:
    """Returns a shipped config, built; its data set up."""
    from framework.runs.experiment import build
    from framework.runs.quiet import quiet_lightning

    quiet_lightning()

    built = build(config, overrides=[*overrides, "--wandb.mode=disabled", "--trainer.enable_progress_bar=false"])
    data: Any = built.datamodule
    data.setup("fit")
    return built


def outcome(seed: int) -> _Outcome:
    """Everything for one seed."""
    built = experiment(CONFIG, f"--seed_everything={seed}")
    module, data = built.model, built.datamodule
    assert isinstance(module, LearngeneAux)
    epochs = int(built.trainer.max_epochs)
    module.find_teacher(data, seed)
    distil(module, data, epochs, seed)
    learngene = module.learngene()
    x = data.test_set.__getitems__(range(len(data.test_set)))[0]
    result = _Outcome({d: 100 * accuracy_at(module, data.test_set, d) for d in ALL_DEPTHS}, 0.0)
    finetune: Any = experiment(DESCENDANT).model
    for depth in DEPTHS:
        model = transformer(module, depth, seed)
        result.flops[depth] = epoch_flops(model, data)
        result.fresh[depth] = follow(model, data, EPOCHS, seed, FRESH)
        expand_into(model, learngene, "strict")
        if depth == learngene.depth:
            with torch.no_grad():
                result.difference = float((model(x) - module(x)).abs().max())
        result.expanded[depth] = follow(model, data, EPOCHS, seed, finetune.optimizer_config)
        result.states[f"expanded to depth {depth}, {EPOCHS} epochs"] = model.state_dict()
    model = transformer(module, learngene.depth, seed)
    result.scratch = follow(model, data, epochs, seed, module.optimizer_config)
    result.states[f"depth {learngene.depth} from scratch, {epochs} epochs"] = model.state_dict()
    return result


def transformer(module: LearngeneAux, depth: int, seed: int) -> nn.Module:
    """Returns a plain one of the auxiliary network's sizes with random weights."""
    arguments = vit_arguments(module.hparams["backbone_args"], depth)
    with seeded(mix(seed, depth)):
        return build_backbone(module.hparams["backbone"], backbone_args=arguments, **module.sizes)


def follow(model: nn.Module, data: Any, epochs: int, seed: int, optimizer: OptimizerConfig) -> list[float]:
    """Trains by cross-entropy on a cosine; test accuracy after each epoch, in per cent."""
    return train(
        model,
        lambda x, y: F.cross_entropy(model(x), y),
        data.train_set,
        epochs,
        data.batch_size,
        optimizer,
        ScheduleConfig("cosine"),
        seed,
        lambda: 100 * accuracy(model, data.test_set),
    )


def epoch_flops(model: nn.Module, data: Any) -> float:
    """FLOPs of training for one epoch."""
    x, y = data.train_set.__getitems__(range(data.batch_size))
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(model(x), y).backward()
    model.zero_grad()
    return counter.get_total_flops() * len(data.train_set) / len(x)


def claims(run: Reproduction) -> Iterator[Claim]:
    """What is stored, the experiment, and a short run through ``fit``."""
    yield from storage()
    results = []
    for seed in SEEDS:
        results.append(outcome(seed))
        shown = {d: f"{results[-1].zero_shot[d]:.1f}→{results[-1].expanded[d][-1]:.1f}" for d in DEPTHS}
        print(f"  seed {seed}: {shown}, from scratch {results[-1].scratch[-1]:.1f}", flush=True)
    yield from effects(results)
    yield from line_over_layers(results)
    last = results[-1].states
    chosen = [name for name in last if "scratch" in name or f"depth {DEPTHS[-1]}," in name]
    run.figure("depths", depths_figure(results))
    run.figure("layers", layers_figure({name: last[name] for name in chosen}))
    yield from through_fit(run)


def storage() -> Iterator[Claim]:
    """Numbers stored at the paper's size."""
    with torch.device("meta"):
        model = share_blocks(
            build_backbone("vit_small_patch16_224", backbone_args=vit_arguments(None, 1), **DEIT_S), 12
        )
    blocks: Any = model.blocks
    width = 384
    count = sum(p.numel() for p in blocks.parameters())
    yield Claim(
        "DeiT-S: numbers in the blocks of the auxiliary network / 2 (12 d² + 13 d)",
        "two blocks, at any depth",
        count / (2 * (12 * width**2 + 13 * width)),
        within(1.0, 1.0),
    )
    names = [*blocks.base.state_dict()]
    state = model.state_dict()
    base, slope = ({name: state[f"blocks.{part}.{name}"] for name in names} for part in ("base", "slope"))
    learngene = LearngeneTensors(base, slope, {n: v for n, v in state.items() if not n.startswith("blocks.")})
    depths = range(3, 13)
    ratio = storage_rows(learngene, depths)[-1]["ratio"]
    yield Claim(
        "DeiT-S: numbers stored, a model for each depth from 3 to 12 / one learngene",
        "around 19",
        ratio,
        at_least(19.0),
    )


def mean(values: Sequence[float]) -> float:
    """Returns the mean of some numbers."""
    return sum(values) / len(values)


def effects(results: Sequence[_Outcome]) -> Iterator[Claim]:
    """Accuracies, in points."""
    own = 6
    yield Claim(
        "logits of the expansion to the trained depth − the auxiliary network's, largest",
        "equal",
        max(r.difference for r in results),
        at_most(1e-5),
        scale=SCALE,
        seeds=len(SEEDS),
    )
    for depth, known in ZERO_SHOT.items():
        found = [r.zero_shot[depth] for r in results]
        yield Claim(
            f"accuracy of the expansion to depth {depth}, never trained, lowest seed (%)",
            f"none; reference {known}",
            min(found),
            at_least(80.0),
            scale=SCALE,
            details={"seeds": found},
            seeds=len(SEEDS),
        )
    for depth in DEPTHS:
        lead = [r.expanded[depth][0] - r.fresh[depth][-1] for r in results]
        yield Claim(
            f"depth {depth}: expanded after 1 epoch − random weights after {EPOCHS} (points), lowest seed",
            "better; reference 39 to 48",
            min(lead),
            at_least(25.0),
            scale=SCALE,
            details={"expanded": [r.expanded[depth] for r in results], "fresh": [r.fresh[depth] for r in results]},
            seeds=len(SEEDS),
        )
    for text, known, late in (
        ("auxiliary network", "0.25", [r.zero_shot[own] for r in results]),
        (f"expanded to depth 6 and {EPOCHS} epochs", "0.1", [r.expanded[own][-1] for r in results]),
    ):
        scratch = [r.scratch[-1] for r in results]
        yield Claim(
            f"{text} − 60 epochs from scratch (points)",
            f"comparable or better; reference {known}",
            mean(late) - mean(scratch),
            at_least(-2.0),
            scale=SCALE,
            details={"seeds": late, "scratch": scratch},
            seeds=len(SEEDS),
        )
    flops, long = results[0].flops, len(results[0].scratch)
    shared = long * flops[own] + EPOCHS * sum(flops.values())
    yield Claim(
        f"training FLOPs for depths {', '.join(map(str, DEPTHS))}: one learngene, {EPOCHS} epochs each / {long} each",
        "around 1/2",
        shared / (long * sum(flops.values())),
        at_most(0.5),
        scale=SCALE,
        details={str(depth): value for depth, value in flops.items()},
    )
    far = [mean([r.zero_shot[9], r.zero_shot[6]]) - r.zero_shot[24] for r in results]
    yield Claim(
        "expanded to depths 6 and 9 − to 24, four times the trained depth (points), lowest seed",
        "none",
        min(far),
        at_least(0.0),
        scale=SCALE,
        details={str(depth): [r.zero_shot[depth] for r in results] for depth in ALL_DEPTHS},
        seeds=len(SEEDS),
    )


def line_over_layers(results: Sequence[_Outcome]) -> Iterator[Claim]:
    """R² of the line, weighed equally over the weight matrices of a block."""

    def explained(part: str) -> list[float]:
        states = [state for r in results for label, state in r.states.items() if part in label]
        return [mean([v for n, v in linearity(s).items() if n.endswith("weight") and "norm" not in n]) for s in states]

    expanded = explained("expanded")
    yield Claim(
        f"R² of the line over layers, expanded and {EPOCHS} epochs, all depths: lowest",
        "near a line",
        min(expanded),
        at_least(0.9),
        scale=SCALE,
        details={"expanded": expanded, "from scratch": explained("scratch")},
        seeds=len(SEEDS),
    )


def through_fit(run: Reproduction) -> Iterator[Claim]:
    """A short training by the command, beside the loop."""
    overrides = (f"--seed_everything={SEEDS[0]}", f"--trainer.max_epochs={SHORT}")
    run.fit(CONFIG, *overrides)
    folder = max((run.folder / "runs").glob("*/*/config.yaml"), key=lambda path: path.stat().st_mtime_ns).parent
    found = read_learngene(folder)
    built = experiment(CONFIG, *overrides)
    built.model.find_teacher(built.datamodule, SEEDS[0])
    distil(built.model, built.datamodule, SHORT, SEEDS[0])
    own = extract_learngene(built.model)
    pairs = [(a[name], b[name]) for a, b in ((found.base, own.base), (found.slope, own.slope)) for name in a]
    yield Claim(
        f"{SHORT} epochs through fit: learngene in the run folder − the loop's, largest difference",
        "none",
        max(float((a - b).abs().max()) for a, b in pairs),
        at_most(1e-6),
        scale=SCALE,
    )


def depths_figure(results: Sequence[_Outcome]) -> Figure:
    """Draws accuracy of the expansion by depth, and by epoch from there beside random weights."""
    figure = new_figure(1, 2, size=(10.5, 3.8))
    zero_shot, curves = figure.axes
    for number, result in enumerate(results):
        values = [result.zero_shot[depth] for depth in ALL_DEPTHS]
        zero_shot.plot(
            ALL_DEPTHS, values, "o-", color=f"C{number}", linewidth=1, markersize=4, label=f"seed {SEEDS[number]}"
        )
    zero_shot.axvline(6, color="0.6", linewidth=0.8, linestyle=":")
    zero_shot.set(
        xlabel="depth expanded to (dotted: trained)", ylabel="accuracy before any training [%]", ylim=(0, 100)
    )
    zero_shot.legend(frameon=False, fontsize=8, loc="lower right")
    at = range(1, EPOCHS + 1)
    for number, depth in enumerate(DEPTHS):
        start = mean([r.zero_shot[depth] for r in results])
        after = [mean([r.expanded[depth][i] for r in results]) for i in range(EPOCHS)]
        fresh = [mean([r.fresh[depth][i] for r in results]) for i in range(EPOCHS)]
        curves.plot([0, *at], [start, *after], "o-", color=f"C{number}", markersize=4, label=f"depth {depth}, expanded")
        curves.plot(at, fresh, "s--", color=f"C{number}", markersize=4, label=f"depth {depth}, random")
    curves.set(xlabel="epoch", ylabel="accuracy, mean of the seeds [%]", ylim=(0, 100))
    curves.legend(frameon=False, fontsize=7, loc="center right", bbox_to_anchor=(1.0, 0.74), ncols=2)
    return figure
