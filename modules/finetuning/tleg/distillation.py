"""Soft distillation, and its teachers."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

import framework
from framework.data.seeding import mix, seeded
from framework.errors import UserError
from framework.optim import OptimizerConfig, ScheduleConfig
from framework.settings import above, at_least, at_most_one, one_of
from modules.finetuning.tleg.training import accuracy, train
from modules.vision.image_classifier import build_backbone
from modules.vision.weights import load_weights

Form = Literal["batchmean", "numel"]


def distillation_loss(student: Tensor, teacher: Tensor, tau: float = 1.0, form: Form = "batchmean") -> Tensor:
    """Returns τ² KL(teacher ‖ student) of softened predictions (Hinton et al. 2015; DeiT's soft form).

    Args:
        student: Logits ``(B, C)``.
        teacher: Logits ``(B, C)``.
        tau: Temperature, above 0.
        form: ``batchmean`` divides the sum by B; ``numel`` by B·C, as DeiT's code does; under AdamW this mainly changes
            the relative effect of ε and weight decay.

    Raises:
        UserError: the form is not known.
    """
    one_of(get_args(Form), form=form)
    total = F.kl_div(
        F.log_softmax(student / tau, -1), F.log_softmax(teacher / tau, -1), reduction="sum", log_target=True
    )
    return total * tau**2 / (student.numel() if form == "numel" else len(student))


@dataclass(frozen=True)
class TeacherConfig:
    """The source of the teacher: a checkpoint of a run, a file of weights, or a short training in this process.

    Attributes:
        checkpoint: Checkpoint or run folder of any classifier of this project.
        backbone: Otherwise: ``mlp`` or a model of timm, such as the paper's ``levit_384``.
        weights: Local file with the backbone's weights; without it the backbone is trained on the data, which is
            suitable for small data.
        args: Arguments of the backbone's constructor.
        epochs: Number of epochs of the short training.
        lr: Learning rate of the short training (AdamW, weight decay 0.01, cosine).

    Raises:
        UserError: a setting is not accepted.
    """

    checkpoint: str | Path | None = None
    backbone: str = "mlp"
    weights: str | Path | None = None
    args: dict[str, Any] = field(default_factory=dict)
    epochs: int = 60
    lr: float = 0.003

    def __post_init__(self) -> None:
        at_least(1, **{"teacher.epochs": self.epochs})
        above(0, **{"teacher.lr": self.lr})
        at_most_one(**{"teacher.checkpoint": self.checkpoint, "teacher.weights": self.weights})


def build_teacher(config: TeacherConfig, data: Any, sizes: dict[str, int], seed: int, trial: bool = False) -> nn.Module:
    """Returns a frozen teacher on the CPU, in evaluation mode.

    Args:
        config: The source of the teacher.
        data: A datamodule that is set up; used for a short training.
        sizes: ``num_classes``, ``image_size``, ``in_chans``.
        seed: Seed of a short training.
        trial: Whether to train for one step only.

    Raises:
        UserError: a file is missing or does not fit, or the teacher has other classes.
    """
    if config.checkpoint is not None:
        teacher: nn.Module = framework.open_model(config.checkpoint)
        found = getattr(teacher, "num_classes", sizes["num_classes"])
        if found != sizes["num_classes"]:
            raise UserError(f"teacher.checkpoint: {config.checkpoint} has {found} classes, not {sizes['num_classes']}")
    else:
        with seeded(mix(seed, 1)):
            teacher = build_backbone(config.backbone, backbone_args=config.args, **sizes)
        if config.weights is not None:
            load_weights(teacher, config.weights, "strict")
        else:
            train(
                teacher,
                lambda x, y: F.cross_entropy(teacher(x), y),
                data.train_set,
                config.epochs,
                data.batch_size,
                OptimizerConfig(lr=config.lr),
                ScheduleConfig("cosine"),
                seed,
                trial=trial,
            )
            held_out = 100 * accuracy(teacher, data.val_set)
            rank_zero_info(f"teacher: {config.backbone}, trained in place, validation accuracy {held_out:.1f} %")
    return teacher.eval().requires_grad_(False)


@torch.no_grad()
def teacher_logits(teacher: nn.Module, x: Tensor, like: Tensor) -> Tensor:
    """Returns the teacher's logits, of the student's shape.

    Args:
        teacher: Maps x to logits.
        x: Images ``(B, C, H, W)``.
        like: The student's logits.

    Raises:
        UserError: the logits have another shape.
    """
    logits = teacher(x)
    if logits.shape != like.shape:
        raise UserError(f"teacher: gives outputs of shape {tuple(logits.shape)}, the student {tuple(like.shape)}")
    return logits
