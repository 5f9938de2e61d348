"""Learngene: starts a vision transformer of any depth from one base and one slope, trained once for all depths.

Paper: Xia, Zhang, Yang, Chen, Chen, Geng, 2024, "Transformer as Linear Expansion of Learngene", AAAI, arXiv 2312.05614.

Layer i of L gets θ_i = θ_B + (i/L) θ_A in every tensor of its block, weights, biases and norms; embeddings, final norm
and, if its shape is the same, the head are copied. Afterwards all layers are independent. The file is written by a run
of ``finetuning/tleg`` (its folder can be given), or by ``framework.checkpoints.learngene_file.save_learngene`` with
``extract_learngene`` from any vision transformer in timm's layout. The plain function is
``framework.functional.learngene.expand_into``. If no file is given, a module that can make a learngene from its data
(``HasLearngene``) makes one.

Expected numbers: on scikit-learn's digits an expansion to untrained depths has an accuracy of 86 to 95 % before
training, and after one epoch more than random weights have after six (``reproduce tleg``).

Cost: reading the file, once. It comes after techniques that draw weights, which it overwrites, and before those that
add noise, shrink, rank or adapt: an expansion can be combined with a warm start, KappaTune or LoRA. ``mixture_growth``
draws every layer again as templates, so the two cannot be combined.

Limits: one vision transformer in the model, of the file's width, patches and heads; use a low learning rate or a
warm-up, because a high one destroys the expansion within an epoch. A head of the same shape is copied even if its
classes differ; then use ``head: skip``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from framework.checkpoints.learngene_file import FILE, read_learngene
from framework.checkpoints.weights_file import file_sha256
from framework.editing import Context, Edit
from framework.editing.capabilities import PLAIN_LAYERS, TRAINED_WEIGHTS, TRAINING_DATA
from framework.errors import UserError
from framework.functional.learngene import Head, LearngeneTensors, expand_into, find_transformer, matched, within
from framework.protocols import HasLearngene
from framework.settings import one_of

if TYPE_CHECKING:
    from torch import nn

    from framework.editing import Plan


class Learngene(Edit):
    """Starts the model's vision transformer from a learngene, at the transformer's depth.

    Args:
        path: File of a learngene (``.safetensors``), or folder of the run that wrote it; ``None`` if the module makes
            one.
        head: Whether the classifier is copied: ``if_fits`` if its shape agrees, ``skip`` never, ``strict`` always.

    Raises:
        UserError: a setting is not accepted (in the constructor); the file is missing, broken or does not fit, or the
            model has no vision transformer (at the start).
    """

    technique = "learngene"
    changes = frozenset({"values"})
    phase = "predict"
    needs = frozenset({PLAIN_LAYERS})

    def __init__(self, path: str | Path | None = None, head: Head = "if_fits") -> None:
        one_of(get_args(Head), head=head)
        self.path, self.head = path, head
        self._genes: LearngeneTensors | None = None

    @property
    def offers(self) -> frozenset[str]:  # type: ignore[override] # without a file, the module trains one
        """Trained weights, of a file or of the training data."""
        return frozenset({TRAINED_WEIGHTS} if self.path is not None else {TRAINED_WEIGHTS, TRAINING_DATA})

    def decide(self, model: nn.Module, context: Context) -> dict[str, Any]:
        """Returns the file with its hash, its training depth, the tensors to write and the head's tensors to keep.

        Raises:
            UserError: there is no file and the module cannot make a learngene, the file is broken, or it does not fit
                the model.
        """
        name, transformer = find_transformer(model)
        if self.path is not None:
            genes = read_learngene(self.path, "learngene.path")
        elif isinstance(model, HasLearngene):
            genes = model.make_learngene(context.datamodule, bool(getattr(context.trainer, "fast_dev_run", False)))
        else:
            raise UserError(
                f"learngene.path: None is not accepted with {type(model).__name__}, which trains none; the file or "
                "run folder that finetuning/tleg writes"
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
        """Prints a line on the expansion."""
        depth = len(find_transformer(model)[1].blocks)  # type: ignore[arg-type]
        kept = plan.decision["kept"]
        rank_zero_info(
            f"{self.name}: expanded to depth {depth} (trained at {plan.decision['trained_depth']}), "
            f"{len(plan.decision['tensors'])} tensors" + (f"; {', '.join(kept)} kept as drawn" if kept else "")
        )
