"""Leaky ReLU networks that differ in the structure of their initial recurrent weights, as a LightningModule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from framework import OptimizerConfig
from framework.data.seeding import mix
from framework.errors import UserError
from framework.functional.laziness import effective_ranks, kernel_alignment, representation_alignment
from framework.functional.structured_weights import low_rank_part, structure_of, structured
from framework.settings import above, at_least, at_most, between, finite, not_empty, one_of
from modules.dynamics.rich_lazy_rnn.network import Weights, gradients, recurrent_kernel, states
from modules.dynamics.rich_lazy_rnn.plots import laziness_figure, spectra_figure
from modules.ensemble import Batch, Ensemble

Dtype = Literal["float32", "float64"]
DTYPES: dict[Dtype, torch.dtype] = {"float32": torch.float32, "float64": torch.float64}
LOOKED_AT = 2000  # trials on which the loss is measured


class LeakyReluRNN(Ensemble):
    """Trains several networks, each step on a batch that they share, and measures how lazily they learn.

    There is a member for each triple of a seed, a ``g`` and an initial W_h. W_h is G (entries N(0, g²/H)) truncated to
    one of ``ranks``, or has one of ``structures``; it always has the norm of G. Members of one seed have the same W_x,
    W_o and (up to the factor g) G.

    Batches have ``x`` (N, T, I), classes ``y`` (N, T), or (N,) if only the last output counts, ``probe`` (P, T, I),
    ``test_x`` and ``test_y``. Step k of training uses the k-th ``batch_size`` trials; each pass over the trials has a
    new order. It records for each member

    - ``loss``, of the first 2,000 trials, and ``test_accuracy``, of the last output alone;
    - ``weight_change`` |W_h − W_h(0)|_F;
    - ``representation_alignment`` of the last states for the probe, and ``kernel_alignment`` of the tangent kernel of
      all outputs by W_h on its first ``kernel_trials``;
    - ``rank_participation`` and ``rank_entropy`` of W_h, both of :func:`framework.functional.laziness.effective_ranks`.

    Args:
        inputs: I.
        outputs: K.
        hidden: H.
        ranks: Exact ranks of W_h at the start, from 1 to H; by default 1, H/10 and H.
        structures: Further members: a dict from name to settings of a
            :class:`framework.functional.structured_weights.Structure`, for example ``{dale: {kind: dale, balanced:
            false}}``.
        g: Scales of the recurrent weights.
        seeds: Number of seeds.
        leak: a, above 0 to 1.
        centred_scale: c: outputs are c (o − o(0)) and the rate is divided by c², which makes any network lazy as c
            grows; ``None`` for plain outputs.
        batch_size: Number of trials of a step.
        kernel_trials: Number of the probe's trials for the kernel; the kernel's side is this times the outputs of a
            trial.
        dtype: ``float32`` or ``float64``.
        inner_steps: Number of optimiser steps in one training step.
        points: Approximate number of measurements.
        optimizer: By default SGD at a rate of 0.003 with momentum 0.9.

    Raises:
        UserError: a setting is not accepted; the data have another shape.
    """

    start_in: Tensor
    start_rec: Tensor
    start_out: Tensor

    def __init__(
        self,
        inputs: int = 3,
        outputs: int = 3,
        hidden: int = 100,
        ranks: list[int] | None = None,
        structures: dict[str, dict[str, Any]] | None = None,
        g: list[float] | None = None,
        seeds: int = 3,
        leak: float = 1.0,
        centred_scale: float | None = None,
        batch_size: int = 32,
        kernel_trials: int = 32,
        dtype: Dtype = "float32",
        inner_steps: int = 100,
        points: int = 10,
        optimizer: OptimizerConfig | None = None,
    ) -> None:
        plain = OptimizerConfig("sgd", lr=0.003, weight_decay=0.0, args={"momentum": 0.9})
        super().__init__(inner_steps, points, plain if optimizer is None else optimizer)
        finite(g=g, centred_scale=centred_scale)
        self.save_hyperparameters()
        at_least(
            1,
            inputs=inputs,
            outputs=outputs,
            hidden=hidden,
            seeds=seeds,
            batch_size=batch_size,
            kernel_trials=kernel_trials,
        )
        self.ranks = sorted({1, max(1, hidden // 10), hidden}) if ranks is None else list(ranks)
        self.structures = dict(structures or {})
        at_least(1, ranks=self.ranks)
        at_most({"hidden": hidden}, ranks=self.ranks)
        if len(set(self.ranks)) < len(self.ranks):
            raise UserError(f"ranks: {self.ranks} is not accepted; all different")
        if not self.ranks and not self.structures:
            raise UserError("ranks: [] is not accepted without structures; one or more whole numbers")
        self.scales = [1.25] if g is None else list(g)
        not_empty(g=self.scales)
        above(0, g=self.scales, centred_scale=centred_scale)
        between(0, 1, "(]", leak=leak)
        one_of(get_args(Dtype), dtype=dtype)
        self.inputs, self.outputs, self.hidden, self.seeds, self.leak = inputs, outputs, hidden, seeds, leak
        self.centred_scale, self.batch_size, self.kernel_trials = centred_scale, batch_size, kernel_trials
        self.seed = torch.initial_seed()
        start = Weights(*(w.to(DTYPES[dtype]) for w in self._start()))
        self.w_in, self.w_rec, self.w_out = (nn.Parameter(w) for w in start)
        for name, first in zip(("start_in", "start_rec", "start_out"), start, strict=True):
            self.register_buffer(name, first.clone())
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))
        self._first: tuple[Tensor, Tensor] | None = None

    def _start(self) -> Weights:
        """Returns the initial weights of all members, float64; each seed has its own generator."""
        parts: list[list[Tensor]] = [[], [], []]
        h = self.hidden
        for seed in range(self.seeds):
            generator = torch.Generator().manual_seed(mix(self.seed, seed))

            def uniform(*shape: int, generator: torch.Generator = generator) -> Tensor:
                return (2 * torch.rand(*shape, generator=generator, dtype=torch.float64) - 1) / shape[1] ** 0.5

            w_in, w_out = uniform(h, self.inputs), uniform(self.outputs, h)
            gaussian = torch.randn(h, h, generator=generator, dtype=torch.float64) / h**0.5
            full = [low_rank_part(gaussian, rank) for rank in self.ranks]
            for name, options in self.structures.items():
                own = torch.Generator().manual_seed(mix(self.seed, seed, 1))  # independent of the other members
                try:
                    full.append(structured(structure_of(options), gaussian, own))
                except UserError as error:
                    raise UserError(f"structures.{name}.{error}") from None
            for scale in self.scales:
                for w_rec in full:
                    for part, value in zip(parts, (w_in, scale * w_rec, w_out), strict=True):
                        part.append(value)
        return Weights(*(torch.stack(part) for part in parts))

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns ``seed``, ``g``, ``start`` (``rank 1``, or a structure's name) and ``rank`` (0 for a structure)."""
        starts = [*((f"rank {rank}", rank) for rank in self.ranks), *((name, 0) for name in self.structures)]
        rows = [(seed, g, *start) for seed in range(self.seeds) for g in self.scales for start in starts]
        return {
            name: list(column)
            for name, column in zip(("seed", "g", "start", "rank"), zip(*rows, strict=True), strict=True)
        }

    def begin(self, batch: Batch) -> None:
        """Compares the data's shape with the network's.

        Raises:
            UserError: the batch lacks a part, or has other inputs, more classes or too few trials.
        """
        if missing := [name for name in ("x", "y", "probe", "test_x", "test_y") if name not in batch]:
            raise UserError(f"the batch has {', '.join(batch)}; {', '.join(missing)} is needed too")
        x, y = batch["x"], batch["y"]
        if x.shape[2] != self.inputs:
            raise UserError(f"inputs: {self.inputs}, but the data have {x.shape[2]}")
        if int(y.max()) >= self.outputs:
            raise UserError(f"outputs: {self.outputs}, but the data have class {int(y.max())}")
        at_most({"the trials": len(x)}, batch_size=self.batch_size)

    def part(self, batch: Batch, inner: int) -> Batch:
        """Returns the trials of the next step; every trial is used once before any is used again."""
        trials = len(batch["x"])
        passes, place = divmod(self.steps_taken, trials // self.batch_size)
        if self._order[0] != passes or len(self._order[1]) != trials:
            generator = torch.Generator().manual_seed(mix(self.seed, passes, trials))
            order = torch.arange(trials) if passes == 0 else torch.randperm(trials, generator=generator)
            self._order = passes, order.to(batch["x"].device)
        rows = self._order[1][place * self.batch_size : (place + 1) * self.batch_size]
        return {"x": batch["x"][rows], "y": batch["y"][rows]}

    @property
    def weights(self) -> Weights:
        """Those of now."""
        return Weights(self.w_in, self.w_rec, self.w_out)

    @property
    def start(self) -> Weights:
        """Those of the start."""
        return Weights(self.start_in, self.start_rec, self.start_out)

    def _logits(self, x: Tensor, last_only: bool) -> tuple[Tensor, Tensor]:
        """States (E, T, B, H), and the outputs that count (E, T or 1, B, K)."""
        h = states(x, self.weights, self.leak)
        found = (h[:, -1:] if last_only else h) @ self.w_out[:, None].mT
        if self.centred_scale is not None:
            first = states(x, self.start, self.leak)
            first = (first[:, -1:] if last_only else first) @ self.start_out[:, None].mT
            found = self.centred_scale * (found - first)
        return h, found

    def losses(self, batch: Batch) -> Tensor:
        """Cross-entropy of each member, mean over trials and over the times with a target, (E,)."""
        x, y = _typed(batch["x"], self.w_rec), batch["y"].long()
        targets = y[None] if y.ndim == 1 else y.T
        logits = self._logits(x, y.ndim == 1)[1]
        chosen = logits.gather(-1, targets[None, ..., None].expand(len(logits), -1, -1, 1))[..., 0]
        return (logits.logsumexp(-1) - chosen).mean((1, 2))

    @torch.no_grad()
    def gradients(self, batch: Batch) -> list[Tensor]:
        """Gradients of :meth:`losses` as by autograd, divided by c² if outputs are centred."""
        x, y = _typed(batch["x"], self.w_rec), batch["y"].long()
        targets = y[None] if y.ndim == 1 else y.T
        h, logits = self._logits(x, y.ndim == 1)
        error = (logits.softmax(-1) - nn.functional.one_hot(targets, self.outputs)) / targets.numel()
        error /= self.centred_scale or 1.0
        if y.ndim == 1:
            error = torch.cat([error.new_zeros(len(error), h.shape[1] - 1, *error.shape[2:]), error], 1)
        return list(gradients(x, h, error, self.weights, self.leak))

    def _looked_at(self, probe: Tensor, weights: Weights, last_only: bool) -> tuple[Tensor, Tensor]:
        """Last states for the probe (E, P, H), and the kernel of its first trials (E, N, N)."""
        kernel = recurrent_kernel(probe[: self.kernel_trials], weights, self.leak, last_only)
        return states(probe, weights, self.leak)[:, -1], kernel

    @torch.no_grad()
    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the measurements named in the class's docstring."""
        probe, last_only = _typed(batch["probe"], self.w_rec), batch["y"].ndim == 1
        if self._first is None:
            self._first = self._looked_at(probe, self.start, last_only)
        activity, kernel = self._looked_at(probe, self.weights, last_only)
        found = {
            "loss": self.losses({"x": batch["x"][:LOOKED_AT], "y": batch["y"][:LOOKED_AT]}),
            "weight_change": (self.w_rec - self.start_rec).flatten(1).norm(dim=1),
            "representation_alignment": representation_alignment(activity, self._first[0]),
            "kernel_alignment": kernel_alignment(kernel, self._first[1]),
        }
        found["rank_participation"], found["rank_entropy"] = effective_ranks(self.w_rec)
        targets = batch["test_y"].long()
        last = self._logits(_typed(batch["test_x"], self.w_rec), True)[1][:, 0].argmax(-1)
        found["test_accuracy"] = (last == (targets if targets.ndim == 1 else targets[:, -1])).double().mean(1)
        return found

    def draw(self) -> None:
        """The measurements against the initial weights, and the spectra of the initial recurrent weights."""
        self.log_figure("laziness", laziness_figure(final(self.trajectory())))
        self.log_figure("spectra", spectra_figure(self.first_recurrent_weights()))

    def first_recurrent_weights(self) -> dict[str, np.ndarray]:
        """W_h of the first seed and the first g before training, by the start's name."""
        names = self.settings()["start"][: len(self.ranks) + len(self.structures)]
        return {name: self.start_rec[index].cpu().double().numpy() for index, name in enumerate(names)}


def final(trajectory: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Each setting and the last measurement of each member from :meth:`Ensemble.trajectory`, all (E,)."""
    return {name: values[-1] if values.ndim == 2 else values for name, values in trajectory.items() if name != "step"}


def _typed(x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)
