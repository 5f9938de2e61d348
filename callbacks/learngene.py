"""Learngene: start a vision transformer of any depth from one base and one slope, trained once for all depths.

Paper: Xia, Zhang, Yang, Chen, Chen, Geng, 2024, "Transformer as Linear Expansion of Learngene", AAAI, arXiv 2312.05614.

Layer i of L gets θ_i = θ_B + (i/L) θ_A in every tensor of its block, weights, biases and norms; embeddings, final norm
and, where the classes are the same, head are copied. All layers are free afterwards. The file is what a run of
``finetuning/tleg`` writes (its folder will do), or what ``framework.checkpoints.learngene_file.save_learngene`` writes
of any vision transformer in timm's layout by ``extract_learngene``. The plain function is
``framework.functional.learngene.expand_into``. A module that can make a learngene of its data (``HasLearngene``) is
asked for one where no file is given.

Expected numbers: on scikit-learn's digits an expansion to depths never trained has 86 to 95 % before any training, and
one epoch later more than six epochs from random weights give (``reproduce tleg``).

Cost: reading the file, once. Composes: it comes after techniques that draw weights, which it overwrites, and before
those that add noise, shrink, rank or adapt: an expansion can be warm-started, tuned by KappaTune's choice, or given
LoRA's adapters. ``mixture_growth`` draws every layer anew as templates, so the two are refused together.

Limits: one vision transformer in the model, of the file's width, patches and heads; use a low rate or a warm-up, for a
high one undoes the expansion within an epoch. A head of the same shape is copied though its classes be others:
``head: skip`` then.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from framework.checkpoints.learngene_file import FILE, read_learngene
from framework.checkpoints.weights_file import file_sha256
from framework.editing import Context, Edit
from framework.editing.capabilities import PLAIN_LAYERS, TRAINED_WEIGHTS
from framework.errors import UserError
from framework.functional.learngene import Head, LearngeneTensors, expand_into, find_transformer, matched, within
from framework.protocols import HasLearngene
from framework.settings import one_of

if TYPE_CHECKING:
    from torch import nn

    from framework.editing import Plan


class Learngene(Edit):
    """Starts the model's vision transformer from a learngene, at the depth that it has.

    Args:
        path: File of a learngene (``.safetensors``), or folder of the run that wrote it; a module that can make one is
            asked for it for ``None``.
        head: Whether the classifier is taken: ``if_fits`` where its shape agrees, ``skip`` never, ``strict`` insists.

    Raises:
        UserError: a setting is not accepted (at once); the file is missing, broken or does not fit, or the model has no
            vision transformer (at the start).
    """

    technique = "learngene"
    changes = frozenset({"values"})
    phase = "predict"
    offers = frozenset({TRAINED_WEIGHTS})
    needs = frozenset({PLAIN_LAYERS})

    def __init__(self, path: str | Path | None = None, head: Head = "if_fits") -> None:
        one_of(get_args(Head), head=head)
        self.path, self.head = path, head
        self._genes: LearngeneTensors | None = None

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """The file with its hash, the depth it was trained at, what is written and what of the head is kept.

        Raises:
            UserError: there is no file and the module makes none, the file is broken, or it does not fit the model.
        """
        name, transformer = find_transformer(model)
        if self.path is not None:
            genes = read_learngene(self.path, "learngene.path")
        elif isinstance(model, HasLearngene):
            genes = model.make_learngene(context.datamodule, bool(getattr(context.trainer, "fast_dev_run", False)))
        else:
            raise UserError(
                f"learngene.path: None is not accepted with {type(model).__name__}, which makes none; the file or run "
                "folder that finetuning/tleg writes"
            )
        values, kept = matched(transformer, genes, self.head)
        self._genes = genes
        file = None if self.path is None else Path(self.path).expanduser()
        return {
            "path": self.path,
            "sha256": None if file is None else file_sha256(file / FILE if file.is_dir() else file),
            "trained_depth": genes.depth,
            "tensors": within(name, values),
            "kept": within(name, kept),
        }

    def initialise(self, model: nn.Module, decision: Mapping[str, Any], context: Context) -> None:
        """Writes the expansion."""
        assert self._genes is not None
        expand_into(model, self._genes, self.head)
        self._genes = None

    def report(self, model: nn.Module, plan: Plan, context: Context) -> None:
        """Says in one line what was expanded."""
        depth = len(find_transformer(model)[1].blocks)  # type: ignore[arg-type]
        kept = plan.decision["kept"]
        rank_zero_info(
            f"{self.name}: expanded to depth {depth} (trained at {plan.decision['trained_depth']}), "
            f"{len(plan.decision['tensors'])} tensors" + (f"; {', '.join(kept)} kept as drawn" if kept else "")
        )
