"""Stage 1, which trains the auxiliary network and writes its learngene; stage 2, a transformer initialised from one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from framework.checkpoints.learngene_file import FILE, save_learngene
from framework.errors import UserError
from framework.functional.learngene import LearngeneTensors, extract_learngene, linearity
from framework.module import OptimizerConfig, ScheduleConfig, as_dataclass
from framework.settings import above, at_least, between, one_of
from modules.finetuning.tleg.blocks import LinearBlocks, expanded_logits, share_blocks, vit_arguments
from modules.finetuning.tleg.distillation import (
    Form,
    TeacherConfig,
    build_teacher,
    distillation_loss,
    teacher_logits,
)
from modules.finetuning.tleg.plots import depths_figure, layers_figure
from modules.finetuning.tleg.tables import storage_rows, write_rows
from modules.finetuning.tleg.training import accuracy, train
from modules.vision.image_classifier import ImageClassifier


@dataclass(frozen=True)
class AuxiliaryConfig:
    """The settings of a short first stage in the same run.

    Attributes:
        depth: Layers of the auxiliary network.
        epochs: Number of epochs of its distillation.
        lr: Learning rate of its distillation (AdamW, cosine).
        weight_decay: Weight decay of its matrices.

    Raises:
        UserError: a setting is not accepted.
    """

    depth: int = 6
    epochs: int = 60
    lr: float = 0.002
    weight_decay: float = 0.05

    def __post_init__(self) -> None:
        at_least(1, **{"auxiliary.epochs": self.epochs})
        above(0, **{"auxiliary.lr": self.lr})


class LearngeneAux(ImageClassifier):
    """Stage 1: a vision transformer whose layers all come from one base and one slope, distilled from a teacher.

    Logs what :class:`~modules.vision.image_classifier.ImageClassifier` does, and for each of ``zero_shot_depths`` under
    ``val/`` and ``test/accuracy_depth_<L>`` the accuracy of the expansion to that depth without training.
    Writes ``learngene.safetensors``, ``zero_shot.csv`` and ``storage.csv`` to the run folder.

    Args:
        depth: Layers of the auxiliary network.
        teacher: The source of the teacher.
        alpha: Share of the distillation in the loss; the rest is cross-entropy.
        tau: Temperature of the distillation.
        form: ``batchmean``, or ``numel`` as DeiT's code divides.
        zero_shot_depths: Depths to which the learngene is expanded in every evaluation.
        backbone_args: Further arguments of the vision transformer's constructor, such as ``{patch_size: 4}``.
        **kwargs: Arguments of :class:`~modules.vision.image_classifier.ImageClassifier`. Give the optimiser ``decay_1d:
            false``, so that norms and biases, including the slope's, have no weight decay.

    Raises:
        UserError: a setting is not accepted, or the backbone is no vision transformer (in the constructor); the teacher
            cannot be loaded, or the data differs (in ``setup``); a technique changed the structure of the blocks
            (before training).
    """

    def __init__(
        self,
        depth: int = 12,
        teacher: TeacherConfig | None = None,
        alpha: float = 1.0,
        tau: float = 1.0,
        form: Form = "batchmean",
        zero_shot_depths: list[int] | None = None,
        backbone_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in ("weights", "drop_path_rate"):
            if kwargs.get(name):
                raise UserError(f"{name}: {kwargs[name]} is not accepted, the layers of this network are not its own")
        super().__init__(backbone_args=vit_arguments(backbone_args, 1), **kwargs)
        between(0, 1, alpha=alpha)
        above(0, tau=tau)
        one_of(get_args(Form), form=form)
        self.zero_shot_depths = list(dict.fromkeys(zero_shot_depths or ()))
        at_least(1, zero_shot_depths=self.zero_shot_depths)
        self.alpha, self.tau, self.form = alpha, tau, form
        self.teacher_config = as_dataclass(TeacherConfig, teacher)
        share_blocks(self.backbone, depth)
        self._tensors = {*self._blocks.state_dict()}
        self._teacher: list[nn.Module] = []  # in a list, so that it is not a submodule and not in checkpoints
        self.depth_accuracy = nn.ModuleDict(
            {
                f"{part}_{depth}": MulticlassAccuracy(self.num_classes, average="micro")
                for part in ("val", "test")
                for depth in self.zero_shot_depths
            }
        )

    @property
    def _blocks(self) -> LinearBlocks:
        blocks = self.backbone.blocks
        assert isinstance(blocks, LinearBlocks)
        return blocks

    @property
    def sizes(self) -> dict[str, int]:
        """Returns the settings that a classifier of the same data needs."""
        return {"num_classes": self.num_classes, "image_size": self.image_size, "in_chans": self.in_chans}

    def find_teacher(self, data: Any, seed: int, trial: bool = False) -> None:
        """Loads or trains the teacher, unless there is one already (see :func:`build_teacher`)."""
        if not self._teacher and self.alpha:
            self._teacher.append(build_teacher(self.teacher_config, data, self.sizes, seed, trial))

    def setup(self, stage: str) -> None:
        """Compares the data with the model, and prepares the teacher for training."""
        super().setup(stage)
        if stage == "fit":
            self.find_teacher(self.trainer.datamodule, torch.initial_seed(), bool(self.trainer.fast_dev_run))  # type: ignore[attr-defined]

    def on_fit_start(self) -> None:
        """Moves the teacher to the model's device; refuses blocks whose structure was edited.

        Raises:
            UserError: a technique added parameters to the blocks, which would not be on a line over layers.
        """
        edited = {*self._blocks.state_dict()} ^ self._tensors
        if edited:
            raise UserError(
                f"techniques: blocks.{min(edited)} was edited, but the layers of the auxiliary network share their "
                "weights and are written as a learngene; edit the structure of a descendant instead"
            )
        for teacher in self._teacher:
            teacher.to(self.device)

    def objective(self, x: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Returns (1 − α) cross-entropy + α distillation."""
        loss = logits.new_zeros(())
        if self.alpha:
            (teacher,) = self._teacher
            loss = self.alpha * distillation_loss(logits, teacher_logits(teacher, x, logits), self.tau, self.form)
        if self.alpha < 1:
            loss = loss + (1 - self.alpha) * super().objective(x, logits, target)
        return loss

    def _evaluate(self, batch: tuple[Tensor, Tensor], part: str) -> tuple[Tensor, Tensor]:
        logits, y = super()._evaluate(batch, part)
        for depth in self.zero_shot_depths:
            metric: Any = self.depth_accuracy[f"{part}_{depth}"]
            metric.update(expanded_logits(self.backbone, batch[0], depth), y)
            self.log(f"{part}/accuracy_depth_{depth}", metric, batch_size=len(y))
        return logits, y

    def learngene(self) -> LearngeneTensors:
        """Returns the current base and slope of the blocks, and the shared tensors."""
        return extract_learngene(self.backbone)

    def on_train_end(self) -> None:
        """Writes the learngene, its accuracies by depth and the table of storage."""
        if not self.trainer.is_global_zero or getattr(self.trainer, "fast_dev_run", False):
            return
        folder = Path(self.trainer.default_root_dir)
        learngene = self.learngene()
        save_learngene(learngene, folder / FILE)
        measured = self.trainer.callback_metrics
        found = {d: measured.get(f"val/accuracy_depth_{d}") for d in self.zero_shot_depths}
        scores = {depth: float(value) for depth, value in found.items() if value is not None}
        storage = storage_rows(learngene, self.zero_shot_depths or [self._blocks.depth])
        write_rows(folder / "storage.csv", storage)
        if scores:
            rows = [
                {"depth": d, "val_accuracy": score, "trained": int(d == self._blocks.depth)}
                for d, score in scores.items()
            ]
            write_rows(folder / "zero_shot.csv", rows)
            self.log_figure("depths", depths_figure(scores, self._blocks.depth, storage))
        rank_zero_info(f"learngene: {learngene.parameters:,} numbers for any depth, in {folder / FILE}")


class DescendantViT(ImageClassifier):
    """Stage 2: a plain vision transformer of any depth, which the technique ``learngene`` initialises by its expansion.

    The technique reads a learngene's file. Without one, it calls this module for a short first stage on its data, and
    the file is written to the run folder. After training each weight's first principal component over layers is
    plotted.

    Args:
        depth: Layers.
        auxiliary: Settings of the first stage in the same run, used without a file.
        teacher: The source of the first stage's teacher.
        backbone_args: Further arguments of the vision transformer's constructor, such as ``{patch_size: 4}``.
        **kwargs: Arguments of :class:`~modules.vision.image_classifier.ImageClassifier`.

    Raises:
        UserError: a setting is not accepted (in the constructor); the datamodule's classes, channels or image size
            differ (in ``setup``).
    """

    def __init__(
        self,
        depth: int = 12,
        auxiliary: AuxiliaryConfig | None = None,
        teacher: TeacherConfig | None = None,
        backbone_args: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        at_least(1, depth=depth)
        super().__init__(backbone_args=vit_arguments(backbone_args, depth), **kwargs)
        self.auxiliary = as_dataclass(AuxiliaryConfig, auxiliary)
        self.teacher_config = as_dataclass(TeacherConfig, teacher)
        self._made: LearngeneTensors | None = None

    def make_learngene(self, data: Any, trial: bool = False) -> LearngeneTensors:
        """Runs the first stage: trains the teacher, then the auxiliary network, on ``data``'s training part.

        Args:
            data: A datamodule, after ``setup``.
            trial: Whether to train each for one step only.

        Raises:
            UserError: the data or the teacher does not fit.
        """
        if self._trainer is not None:
            self.setup("fit")  # a technique calls this before Lightning's setup, and the data must be checked first
        config = self.auxiliary
        seed = torch.initial_seed()
        first = LearngeneAux(
            backbone=self.hparams["backbone"],
            num_classes=self.num_classes,
            image_size=self.image_size,
            in_chans=self.in_chans,
            depth=config.depth,
            teacher=self.teacher_config,
            backbone_args=self.hparams["backbone_args"],
            optimizer=OptimizerConfig(lr=config.lr, weight_decay=config.weight_decay, decay_1d=False),
            schedule=ScheduleConfig("cosine"),
        )
        first.find_teacher(data, seed, trial)
        distil(first, data, config.epochs, seed, trial)
        depths = {
            depth: f"{100 * accuracy_at(first, data.val_set, depth):.1f}" for depth in (config.depth, self._depth)
        }
        rank_zero_info(
            f"auxiliary network of depth {config.depth} distilled, validation accuracy {depths[config.depth]} %; "
            f"expanded to depth {self._depth}: {depths[self._depth]} %"
        )
        self._made = first.learngene()
        return self._made

    @property
    def _depth(self) -> int:
        return int(self.hparams["depth"])

    def on_train_start(self) -> None:
        """Writes the learngene of a first stage in this run."""
        if self._made is not None and self.trainer.is_global_zero and not getattr(self.trainer, "fast_dev_run", False):
            save_learngene(self._made, Path(self.trainer.default_root_dir) / FILE)

    def on_train_end(self) -> None:
        """Plots the layers, if their structure is plain, and prints how close to a line they are."""
        if not self.trainer.is_global_zero or self._depth < 2 or getattr(self.trainer, "fast_dev_run", False):
            return
        state = {name: value.detach().cpu() for name, value in self.backbone.state_dict().items()}
        if "blocks.0.attn.qkv.weight" not in state:
            return
        self.log_figure("layers", layers_figure({f"depth {self._depth}": state}))
        explained = linearity(state)
        shown = ", ".join(f"{name} {explained[f'{name}.weight']:.2f}" for name in ("attn.qkv", "mlp.fc1"))
        rank_zero_info(f"layers after training: R² of the line over layers: {shown}")


def distil(module: LearngeneAux, data: Any, epochs: int, seed: int, trial: bool = False) -> None:
    """Trains an auxiliary network in place as ``fit`` does, but without a Trainer; it must have its teacher.

    Args:
        module: Changed in place.
        data: A datamodule after ``setup``, with ``train_set`` and ``batch_size``.
        epochs: Number of epochs.
        seed: Seed of the order and of augmentation.
        trial: Whether to end after one step.
    """
    train(
        module,
        lambda x, y: module.objective(x, module(x), y),
        data.train_set,
        epochs,
        data.batch_size,
        module.optimizer_config,
        module.schedule_config,
        seed,
        trial=trial,
    )


def accuracy_at(module: LearngeneAux, dataset: Any, depth: int) -> float:
    """Accuracy of an expansion on a data set.

    Args:
        module: Whose auxiliary network is expanded.
        dataset: A data set of ``(x, y)``.
        depth: Layers of the expansion.
    """
    return accuracy(lambda x: expanded_logits(module.backbone, x, depth), dataset)
