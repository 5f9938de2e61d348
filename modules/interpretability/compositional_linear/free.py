"""Which geometry a loss produces: embeddings without an encoder, one free vector for each combination of values.

Paper: Uselis, Dittadi, Oh, 2026, "Compositional Generalization Requires Linear, Orthogonal Representations in Vision
Embedding Models", arXiv 2602.24264 (Appendix I.6; its temperature is not given, here it is learnt, from 10).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.linear_factors import measure_geometry
from framework.module import as_dataclass
from framework.settings import above, at_least, not_empty, one_of
from modules.ensemble import Batch, Ensemble
from modules.interpretability.compositional_linear.plots import free_figure

Space = Literal["euclidean", "spherical"]
Loss = Literal["ce", "bce"]
REACHED = 0.99  # accuracy of every concept from which a dimension is enough


class FreeEmbeddings(Ensemble):
    """Free embeddings z_c ~ N(0, I_d) and the probes of all concepts, trained together by full-batch Adam.

    All dimensions and seeds are trained at once: vectors are padded with zeros up to the largest dimension, which stay
    zeros, because their gradients are. Measured of each member are ``accuracy`` (mean over concepts), ``worst`` (the
    least of a concept), ``r2``, ``cross`` and ``within``, of unit vectors in the spherical space, and its ``scale``.

    Args:
        concepts: k.
        values: n, the number of values of each.
        dims: d of the members.
        seeds: Seeds of the members of each dimension.
        space: ``euclidean``: logits wᵀz + b; ``spherical``: scale · cos(w, z) + b.
        loss: ``ce``, softmax cross-entropy, or ``bce``, one-vs-rest, averaged over values; summed over concepts.
        scale: Of the spherical logits at the start; it is learnt.
        max_combinations: As the datamodule's.
        inner_steps: Steps in one training step.
        points: About how many times the members are measured.
        optimizer: By default Adam at a rate of 0.1.
        schedule: By default a cosine to 0, in training steps.

    Raises:
        UserError: a setting is not accepted; the datamodule has other combinations (in ``setup``).
    """

    def __init__(
        self,
        concepts: int = 2,
        values: int = 2,
        dims: list[int] | None = None,
        seeds: list[int] | None = None,
        space: Space = "euclidean",
        loss: Loss = "ce",
        scale: float = 10.0,
        max_combinations: int = 100_000,
        inner_steps: int = 20,
        points: int = 10,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(
            inner_steps, points, OptimizerConfig("adam", lr=0.1, weight_decay=0.0) if optimizer is None else optimizer
        )
        dims, seeds = [8] if dims is None else dims, [0, 1] if seeds is None else seeds
        not_empty(dims=dims, seeds=seeds)
        at_least(1, concepts=concepts, dims=dims, max_combinations=max_combinations)
        at_least(2, values=values)
        at_least(0, seeds=seeds)
        above(0, scale=scale)
        one_of(get_args(Space), space=space)
        one_of(get_args(Loss), loss=loss)
        self.save_hyperparameters()
        self.schedule_config = as_dataclass(ScheduleConfig, schedule, ScheduleConfig("cosine"))
        self.concepts, self.values, self.space, self.loss = concepts, values, space, loss
        self.members = [(d, seed) for d in dims for seed in seeds]
        self.combinations = min(values**concepts, max_combinations)
        count, widest = len(self.members), max(dims)
        drawn = [draw_member(self.combinations, concepts * values, d, seed) for d, seed in self.members]
        stacked = [
            torch.stack([F.pad(part, (0, widest - part.shape[-1])) for part in parts])
            for parts in zip(*((z, w) for z, w, _ in drawn), strict=True)
        ]
        self.z, self.w = (nn.Parameter(part) for part in stacked)
        self.b = nn.Parameter(torch.stack([b for _, _, b in drawn]))
        if space == "spherical":
            self.scale = nn.Parameter(torch.full((count,), float(scale)))
        self._targets: tuple[Tensor, Tensor] | None = None

    def begin(self, batch: Batch) -> None:
        """Checks the combinations.

        Raises:
            UserError: they are others than the model's.
        """
        shape, largest = tuple(batch["labels"].shape), int(batch["labels"].max()) + 1
        whole = self.combinations == self.values**self.concepts  # a part need not have the largest value
        if shape != (self.combinations, self.concepts) or largest > self.values or (whole and largest < self.values):
            raise UserError(
                f"model.init_args.concepts, values: {self.concepts} concepts of {self.values} values, "
                f"{self.combinations} combinations, but the data has {shape[1]} of {largest}, {shape[0]} combinations"
            )

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns d and the seed of each member."""
        return {"dim": [d for d, _ in self.members], "seed": [seed for _, seed in self.members]}

    def logits(self) -> Tensor:
        """Returns logits (E, C, k n)."""
        if self.space == "spherical":
            cosines = F.normalize(self.z, dim=-1) @ F.normalize(self.w, dim=-1).mT
            return self.scale[:, None, None] * cosines + self.b[:, None]
        return self.z @ self.w.mT + self.b[:, None]

    def losses(self, batch: Batch) -> Tensor:
        """Returns the loss of each member (E,), by torch's own functions."""
        labels = batch["labels"]
        logits = self.logits().unflatten(-1, (self.concepts, self.values))
        target = F.one_hot(labels, self.values).to(logits.dtype).expand_as(logits)
        if self.loss == "bce":
            each = F.binary_cross_entropy_with_logits(logits, target, reduction="none").mean(-1)
        else:
            each = -(target * logits.log_softmax(-1)).sum(-1)
        return each.sum(-1).mean(-1)

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Returns the gradients in closed form: autograd takes three times as long for so small models."""
        if self._targets is None or self._targets[0] is not batch["labels"]:
            hot = F.one_hot(batch["labels"], self.values).flatten(1).to(self.z.dtype)
            self._targets = batch["labels"], hot
        hot = self._targets[1]
        spherical = self.space == "spherical"
        z, w = self.z.detach(), self.w.detach()
        if spherical:
            length_z, length_w = z.norm(dim=-1, keepdim=True), w.norm(dim=-1, keepdim=True)
            z, w = z / length_z, w / length_w
            cosines = z @ w.mT
            logits = torch.addcmul(self.b.detach()[:, None], self.scale.detach()[:, None, None], cosines)
        else:
            logits = torch.baddbmm(self.b.detach()[:, None], z, w.mT)
        combinations = logits.shape[1]
        if self.loss == "bce":
            error = logits.sigmoid_().sub_(hot).div_(self.values * combinations)
        else:
            chance = logits.unflatten(-1, (self.concepts, self.values)).softmax(-1).flatten(-2)
            error = chance.sub_(hot).div_(combinations)
        grad_b = error.sum(1)
        if not spherical:
            return [error @ w, error.mT @ z, grad_b]
        grad_scale = (error * cosines).sum((1, 2))
        error = error * self.scale.detach()[:, None, None]
        grad_z, grad_w = error @ w, error.mT @ z
        grad_z = (grad_z - z * (z * grad_z).sum(-1, keepdim=True)) / length_z
        grad_w = (grad_w - w * (w * grad_w).sum(-1, keepdim=True)) / length_w
        return [grad_z, grad_w, grad_b, grad_scale]

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns accuracy and geometry of each member."""
        labels = batch["labels"]
        guesses = self.logits().unflatten(-1, (self.concepts, self.values)).argmax(-1)
        right = (guesses == labels).float().mean(1)
        found = {"accuracy": right.mean(-1), "worst": right.amin(-1), "loss": self.losses(batch)}
        z = F.normalize(self.z, dim=-1) if self.space == "spherical" else self.z
        parts = z.detach().double().cpu().numpy()
        values = labels.cpu().numpy()
        each = [
            measure_geometry(own[:, :d], values) if np.isfinite(own).all() else None  # it has diverged
            for own, (d, _) in zip(parts, self.members, strict=True)
        ]
        for name in ("r2", "cross", "within"):
            found[name] = torch.tensor([getattr(geometry, name, math.nan) for geometry in each])
        if self.space == "spherical":
            found["scale"] = self.scale
        return found

    def draw(self) -> None:
        """Draws accuracy and geometry over d."""
        self.log_figure("free_embeddings", free_figure(self.trajectory(), f"{self.loss}, {self.space}"))


def draw_member(combinations: int, outputs: int, dimension: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the start of one member: z ~ N(0, 1) (C, d), and w (m, d) and b (m,) as torch draws a linear layer.

    Args:
        combinations: C.
        outputs: m.
        dimension: d.
        seed: Seed.
    """
    generator = torch.Generator().manual_seed(seed * 100_003 + dimension)
    z = torch.randn(combinations, dimension, generator=generator)
    bound = 1 / math.sqrt(dimension)
    w = (2 * torch.rand(outputs, dimension, generator=generator) - 1) * bound
    return z, w, (2 * torch.rand(outputs, generator=generator) - 1) * bound


def least_dimension(trajectory: Mapping[str, np.ndarray], reached: float = REACHED) -> int | None:
    """Returns the smallest d at which the best seed has every concept right at the end, or ``None``.

    Args:
        trajectory: As :meth:`FreeEmbeddings.trajectory` returns it.
        reached: Accuracy from which a concept counts as right.
    """
    enough = trajectory["dim"][trajectory["worst"][-1] >= reached]
    return int(enough.min()) if len(enough) else None
