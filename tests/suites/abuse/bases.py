"""What is mutated: every shipped config, narrowed to run small, and every fragment over a config that it makes sense on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypernetworks import hypernetwork_folder
from small_runs import FRAGMENTS, METHODS, OFFLINE, PROMPTS, WHOLE, WRITERS, small_steps

from framework import catalogue
from framework.config import yaml12
from framework.config.compose import compose, read_command_line
from modules.initialization.logah import Space

SWITCHES = (
    "--trainer.fast_dev_run=true",
    "--trainer.accelerator=cpu",
    "--trainer.enable_model_summary=false",
    "--trainer.enable_progress_bar=false",
    "--wandb.mode=disabled",
)
DIGITS = "vision/image_classifier_digits"
# What a fragment is laid over, where it is not a plain classifier.
UNDER = {
    "core_spectrum": "sequence/ultramem_v2",
    "memory_table": "sequence/ultramem_v2",
    "memory_load": "sequence/mom",
    "memory_probe": "sequence/s4d",
    "kernel_plot": "sequence/s4d",
    "rate_transfer": "sequence/s4d",
    "generate_sample": "sequence/transformer",
    "throughput": "sequence/transformer",
    "length_extrapolation": "sequence/transformer",
    "liger": "sequence/transformer_liger",
    "recovery_report": "sequence/transformer_liger",
    "learngene": "finetuning/tleg_descendant",
    "dependency_sparsity": "interpretability/diverse_dictionary",
    "fast_regularizer": "robustness/ibp",
    "propagation_tightness": "robustness/ibp",
    "identifiability": "interpretability/diverse_dictionary",
    "mixture_growth": "initialization/mixture_growth",
    "prompt_shift": "in_context/icl_linear_models",
    "rebalance_factors": "dynamics/matrix_sensing",
    "copied_head": "representation/manifold_clustering",
    "winner": "initialization/winner",
    "lp_ft": "finetuning/lp_ft",
    "ntk_split": "finetuning/lp_ft",
    "feature_drift": "finetuning/lp_ft",
    "accuracy_threshold": "finetuning/warm_start",
}


def write_hypernetwork(folder: Path) -> None:
    """A hypernetwork for the perceptron of the digits."""
    hypernetwork_folder(folder, Space("mlp", bias=True))


# What a fragment reads, and where it is told so.
READS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "logah_init": (write_hypernetwork, ["--techniques.logah_init.path=data"]),
}


@dataclass(frozen=True)
class Base:
    """A config that runs.

    Attributes:
        name: The shipped config or fragment.
        tree: The composed tree, interpolations unresolved.
        places: Sections that a mutation may touch, as key paths.
        write: Writes the files that it reads into a folder, or ``None``.
    """

    name: str
    tree: dict[str, Any]
    places: tuple[tuple[str, ...], ...]
    write: Callable[[Path], Any] | None = None

    def config(self) -> str:
        """The unmutated config as text."""
        return yaml12.dump(self.tree)


def _composed(*arguments: str) -> dict[str, Any]:
    composed = compose(read_command_line(arguments), "fit", catalogue.techniques())
    assert not composed.problems, composed.problems
    return composed.tree


def small(name: str) -> tuple[list[str], Callable[[Path], Any] | None]:
    """Overrides that make a config run small, and the writer of its files."""
    if name in OFFLINE:
        return small_steps(name), None
    write, narrow = WRITERS[name]
    workers = [] if name.startswith((*WHOLE, PROMPTS)) else ["--data.num_workers=0"]
    return ["--trainer.precision=null", "--data.path=data", *small_steps(name), *workers, *narrow], write


def bases() -> list[Base]:
    """All of them, in a fixed order."""
    found = []
    for name in METHODS:
        overrides, write = small(name)
        tree = _composed("--config", name, *overrides)
        sections = [(key,) for key in ("model", "data", "trainer", "run") if key in tree]
        techniques = [("techniques", key) for key in tree["techniques"]]
        found.append(Base(name, tree, (*sections, *techniques), write))
    for name in FRAGMENTS:
        technique = name.removeprefix("callbacks/")
        under = UNDER.get(technique, DIGITS)
        overrides, write = small(under)
        write, own = READS.get(technique, (write, []))
        tree = _composed("--config", under, "--config", name, *overrides, *own)
        found.append(Base(name, tree, (("techniques", technique),), write))
    return found
