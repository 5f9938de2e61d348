"""What each technique is set to on each architecture; one entry here puts a technique through every suite."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from hypernetworks import hypernetwork_folder

from composition.probes import vit
from framework.checkpoints.learngene_file import FILE, save_learngene
from framework.data.seeding import seeded
from framework.functional.learngene import extract_learngene
from modules.initialization.logah import Space
from modules.initialization.logah.families import Family

CORE = ("gg_init", "winner", "mixture_growth", "warm_start", "kappa_tune", "lora")
OTHERS = (
    "ema",
    "backslash",
    "deep_shape",
    "rf8",
    "liger",
    "rebalance_factors",
    "structured_init",
    "lp_ft",
    "learngene",
    "logah_init",
    "weight_penalty",
    "input_gradient_penalty",
    "grok_align",
    "grokfast",
    "dependency_sparsity",
    "ibp_init",
    "fast_regularizer",
    "dp_sgd",
)
OBSERVERS = (
    "ntk_monitor",
    "laziness",
    "feature_drift",
    "ntk_split",
    "temperature_scaling",
    "linear_scope",
    "neural_code",
    "concept_geometry",
    "centroid_alignment",
    "grokking_delay",
    "robustness",
    "identifiability",
    "propagation_tightness",
    "representation_geometry",
    "utilization_gap",
)

GROWN, FOLDED = 2, 3  # epochs before which the members become one net, and plain layers
PENALTY = 0.01  # the weight of a term in the loss
LATE = 1  # the epoch of a mid-training edit where nothing grows

# Layers of networks that are not WINNER's own: the first two weights on the way from the input.
FIRST_TWO = {
    "mlp": ["net.0", "net.4"],
    "sine": ["net.0.linear", "net.1.linear"],
    "vit": ["net.patch_embed.proj", "net.blocks.0.attn.qkv"],
    "resnet": ["net.conv1", "net.layer1.0.conv1"],
    "gpt2": ["net.lm.transformer.h.0.attn.c_attn", "net.lm.transformer.h.0.mlp.c_fc"],
    "s4d": ["net.backbone.encoder", "net.backbone.blocks.0.mix.0"],
    "factored": ["net.layers.0", "net.layers.2"],
    "transformer": ["net.decoder.blocks.0.mixer.v_proj", "net.decoder.blocks.0.mixer.o_proj"],
}
# A layer that is neither of them, for a structure of its own.
STRUCTURED = {
    "mlp": "net.6",
    "sine": "net.2",
    "vit": "net.blocks.1.attn.qkv",
    "resnet": "net.layer2.0.conv1",
    "gpt2": "net.lm.transformer.h.1.mlp.c_fc",
    "s4d": "net.backbone.blocks.1.mix.0",
    "factored": "net.layers.2",
    "transformer": "net.decoder.blocks.1.mixer.v_proj",
}
# The norm of an S4D block couples all channels, and its convolutions have one kernel a channel: what can be split is
# where its mixing layers and the head read.
SPLIT = {
    "s4d": {"net.backbone.blocks.*.mix.0": "in", "net.head": "in"},
    "factored": {"net.layers.0": "out", "net.layers.2": "in"},
}

# Of models that do not name it as timm does.
HEADS = {"mlp": "net.6", "sine": "net.2"}
# What counts as a decoder: a part that is called once, on numbers.
DECODERS = {
    "mlp": "net.4",
    "sine": "net.1",
    "vit": "net.head",
    "resnet": "net.fc",
    "gpt2": "net.lm.lm_head",
    "s4d": "net.head",
    "factored": "net.layers.2",
    "transformer": "net.decoder.head",
}
# Where the input is tokens, what gives the numbers to differentiate by.
EMBEDDINGS = {"gpt2": "net.lm.transformer.wte", "transformer": "net.decoder.embedding"}
# Where there is no linear head, or more than that: rules say why.
HEADLESS = {
    "lp_ft": ("gpt2", "factored"),
    "feature_drift": ("gpt2", "factored", "transformer"),
    "ntk_split": ("gpt2", "factored", "transformer"),
    "linear_scope": ("gpt2", "transformer"),
    "robustness": ("gpt2", "transformer"),
}


@cache
def learngene_file() -> str:
    """A learngene for the small vision transformer, fitted to one of another depth; written once a process."""
    folder = tempfile.TemporaryDirectory(prefix="learngene-")
    _FOLDERS.append(folder)
    with seeded(5):
        learngene = extract_learngene(vit(depth=3))
    return str(save_learngene(learngene, Path(folder.name) / FILE))


# Networks of families that a hypernetwork can know.
FAMILIES: dict[str, Family] = {"mlp": "mlp", "factored": "mlp", "vit": "vit", "gpt2": "gpt2"}


@cache
def hypernetwork(family: Family) -> str:
    """The run folder of a hypernetwork for a family; written once a process."""
    folder = tempfile.TemporaryDirectory(prefix="hypernetwork-")
    _FOLDERS.append(folder)
    return str(hypernetwork_folder(Path(folder.name) / "run", Space(family)))


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # they go with the process


def folds(techniques: tuple[str, ...]) -> bool:
    """Whether the grown layers become plain ones in training, because other techniques act on them."""
    return "mixture_growth" in techniques and bool({"kappa_tune", "lora", "lp_ft"} & set(techniques))


def late(techniques: tuple[str, ...]) -> int:
    """The epoch of the mid-training edits: that of the growth, where something grows."""
    return GROWN if "mixture_growth" in techniques else LATE


def probed(techniques: tuple[str, ...]) -> int:
    """The epoch before which a head that is probed first is probed: one after the start, or after what comes before."""
    if folds(techniques):
        return FOLDED + 1
    return LATE + 1 if "liger" in techniques else 1


def settings(architecture: str, techniques: tuple[str, ...], forced: bool = False) -> dict[str, Mapping[str, Any]]:
    """The section ``techniques`` of a config."""
    grows: dict[str, Any] = {"member_epochs": [1, 1], "fold_epoch": FOLDED if folds(techniques) else None}
    if architecture in SPLIT:
        grows["layers"] = SPLIT[architecture]
    warm: dict[str, Any] = {"shrink": 0.6, "perturb": 0.1, "when": [late(techniques)]}
    arguments: dict[str, tuple[str, dict[str, Any]]] = {
        "gg_init": ("GGInit", {"shape": 1.0}),
        "winner": ("Winner", {"layers": FIRST_TWO[architecture], "s0": 0.3, "s1": 0.2, "w0": 5.0}),
        "mixture_growth": ("MixtureGrowth", grows),
        "warm_start": ("WarmStart", {**warm, "force": True} if forced else warm),
        "kappa_tune": ("KappaTune", {"fraction": 0.5}),
        "lora": ("LoRA", {"rank": 2, "dropout": 0.1}),
        "ema": ("EMA", {"decay": 0.8}),
        "backslash": ("BackSlash", {"per_weight_step": 1e-4}),
        # levels so far apart that more than one weight of these small models is on each
        "deep_shape": ("DeepShape", {"epoch": late(techniques), "step": 1 / 32, "adj_minnum": 1}),
        "rf8": ("RF8", {}),
        "liger": ("Liger", {"window": 4, "epoch": late(techniques)}),
        "rebalance_factors": ("RebalanceFactors", {"epoch": late(techniques)}),
        "learngene": ("Learngene", {"path": learngene_file() if "learngene" in techniques else None}),
        "logah_init": (
            "LogahInit",
            {
                "path": hypernetwork(FAMILIES.get(architecture, "mlp")) if "logah_init" in techniques else None,
                "noise": 0.0,
            },
        ),
        "structured_init": ("StructuredInit", {"rank": 1, "include": [f"{STRUCTURED[architecture]}.*"]}),
        "lp_ft": ("LPFT", {"head": HEADS.get(architecture), "probe_epochs": 1}),
        "weight_penalty": ("WeightPenalty", {"weight": PENALTY}),
        "input_gradient_penalty": (
            "InputGradientPenalty",
            {"weight": PENALTY, "embed": EMBEDDINGS.get(architecture)},
        ),
        "grok_align": ("GrokAlign", {"weight": PENALTY, "embed": EMBEDDINGS.get(architecture)}),
        "dependency_sparsity": (
            "DependencySparsity",
            {"weight": PENALTY, "columns": 3, "net": DECODERS[architecture]},
        ),
        "grokfast": ("Grokfast", {"alpha": 0.8, "lamb": 0.5}),
        # a seed, so that a run and its twin draw the same
        "dp_sgd": ("DPSGD", {"noise_multiplier": 0.5, "delta": 0.01, "accountant": "rdp", "seed": 7}),
        "centroid_alignment": (
            "CentroidAlignment",
            {"points": 3, "per_decade": 4, "embed": EMBEDDINGS.get(architecture)},
        ),
        # the probes log no accuracy in validation
        "grokking_delay": ("GrokkingDelay", {"monitor": "val/loss", "threshold": 0.1, "train_threshold": 0.1}),
        # in units where the probes' inputs N(0, 1) are from 0 to 1
        "robustness": ("Robustness", {"eps": [0.0, 0.05], "steps": 2, "points": 4, "mean": [0.5], "std": [0.1]}),
        "identifiability": ("Identifiability", {"splits": 2, "set_r2": "always", "groups": [[0], [1]]}),
        "ibp_init": ("IBPInit", {}),
        "fast_regularizer": (
            "FastRegularizer",
            {"weight": PENALTY, "eps": 0.1, "ramp_epochs": [0, 9], "mean": [0.5], "std": [0.1]},
        ),
        "propagation_tightness": ("PropagationTightness", {"eps": 0.05, "points": 4, "mean": [0.5], "std": [0.1]}),
        "feature_drift": ("FeatureDrift", {"head": HEADS.get(architecture)}),
        "representation_geometry": ("RepresentationGeometry", {"resamples": 5, "epochs": [0, 1, 2]}),
        "utilization_gap": ("UtilizationGap", {"resamples": 5, "epochs": [0, 1, 2]}),
        "ntk_split": ("NTKSplit", {"head": HEADS.get(architecture), "points": 6, "chunk": 3}),
        "temperature_scaling": ("TemperatureScaling", {"bins": 5}),
        "linear_scope": ("LinearScope", {"every_n_epochs": 2, "images": 1, "classes": 2, "k": 2}),
        "neural_code": ("NeuralCode", {"batch_size": 5, "classify": "always", "classifiers": ["kmeans", "logistic"]}),
        "concept_geometry": ("ConceptGeometry", {"features": "both", "steps": 4, "batch_size": 5}),
        "laziness": ("Laziness", {"every_n_steps": 4, "points": 2, "chunk": 2}),
        "ntk_monitor": ("NTKMonitor", {"every_n_steps": 4, "points": 3, "eigenvalues": 2, "chunk": 2}),
    }
    chosen = {name: arguments[name] for name in techniques}
    return {
        name: {"class_path": f"callbacks.{name}.{cls}", "init_args": values} for name, (cls, values) in chosen.items()
    }
