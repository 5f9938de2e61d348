"""Small attention models trained on regression prompts, with several seeds in one module: the base class.

Members differ in their initial weights and share the prompts. Each member is the same as in a run with its seed alone,
and the most expensive part, reading the prompts, is done once for all members.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw
from framework.module import as_dataclass
from framework.protocols import HandsOutPrompts
from framework.settings import above, at_least
from modules.ensemble import Batch, Ensemble
from modules.in_context.plots import lengths_figure
from modules.in_context.predictors import Predictor, baselines

Answer = Callable[[Tensor, Tensor], Tensor]
"""(E, B, T) of ``x`` (B, N + 1, d) and ``y`` (B, N + 1, T), as :meth:`InContext.answer`."""


class InContext(Ensemble):
    """A model that answers the query of a prompt, trained on new prompts at each of many inner steps.

    A training batch has ``x`` (K, B, N + 1, d) and ``y`` (K, B, N + 1, T) for K inner steps, an evaluation batch ``x``
    (B, M + 1, d), ``y`` (B, M + 1, T). Evaluations log the mean squared error at the query for each length,
    ``val/risk/M``, and that of the closed-form predictors, ``val/<predictor>/M`` (once: they do not change).
    ``val/loss`` is the error at the length of training, which must be among the evaluated lengths. A theory's
    prediction is logged as ``val/risk/M/theory``. ``risk.npz`` in the run folder has ``length`` (L,), ``risk`` (L, E),
    ``se`` (L, E), and each predictor (L,).

    Args:
        seeds: Number of members.
        base_seed: Seed of the first member; each later one adds 1.
        clip: Largest norm of a member's gradient; by default there is no clipping.
        inner_steps: Number of optimiser steps in one training batch.
        points: Approximate number of measurements.
        optimizer: By default Adam at 3e-3 without weight decay.
        schedule: Learning-rate schedule, in training batches.

    Raises:
        UserError: a setting is not accepted; the data are not prompts, or have another number of inner steps.
    """

    members_first: ClassVar[bool] = True
    """Whether the first dimension of each parameter is that of members; otherwise there is one member."""

    def __init__(
        self,
        seeds: int = 1,
        base_seed: int = 0,
        clip: float | None = None,
        inner_steps: int = 50,
        points: int = 100,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(inner_steps, points, optimizer or OptimizerConfig("adam", lr=3e-3, weight_decay=0.0))
        above(0, clip=clip)
        at_least(1, seeds=seeds)
        self.schedule_config = as_dataclass(ScheduleConfig, schedule)
        self.seeds, self.base_seed, self.clip = seeds, base_seed, clip
        self.law: PromptLaw | None = None
        self.train_length = 0
        self._sums: dict[str, dict[int, list[Tensor]]] = {}
        self._closed_form: dict[tuple[str, int], float] = {}

    def generators(self) -> list[torch.Generator]:
        """Returns one generator for each member's initial weights."""
        return [torch.Generator().manual_seed(self.base_seed + member) for member in range(self.seeds)]

    def setup(self, stage: str) -> None:
        """Gets the law of the prompts from the datamodule.

        Raises:
            UserError: it returns none, its ``inner_steps`` or its law do not fit the model, or it does not evaluate
                at the length of training.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, HandsOutPrompts):
            raise UserError(f"data: {type(data).__name__} has no regression prompts")
        steps = getattr(data, "inner_steps", self.inner_steps)
        if steps != self.inner_steps:
            raise UserError(f"model.inner_steps: {self.inner_steps}, but data.inner_steps is {steps}; they must agree")
        self.law, self.train_length = data.law, data.length
        lengths = getattr(data, "eval_lengths", [self.train_length])
        if self.train_length not in lengths:
            raise UserError(
                f"data.eval_lengths: {lengths} lacks data.length {self.train_length}, at which the loss is measured"
            )
        self.fits(data.law)

    def fits(self, law: PromptLaw) -> None:
        """Prepares data that depends on the law, and checks the law.

        Raises:
            UserError: the model has other dimensions.
        """

    def answer(self, x: Tensor, y: Tensor) -> Tensor:
        """(E, B, T) of ``x`` (B, N + 1, d) and ``y`` (B, N + 1, T); the last label is the query's and is not used."""
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Calls :meth:`answer`."""
        return self.answer(x, y)

    def settings(self) -> dict[str, Sequence[Any]]:
        """Returns ``seed`` of each member."""
        return {"seed": [self.base_seed + member for member in range(self.seeds)]}

    def part(self, batch: Batch, inner: int) -> Batch:
        """Returns the prompts of one inner step."""
        return {name: value[inner] for name, value in batch.items() if name in ("x", "y")}

    def losses(self, batch: Batch) -> Tensor:
        """Mean squared error at the query, (E,)."""
        return (self.answer(batch["x"], batch["y"]) - batch["y"][:, -1]).square().mean((1, 2))

    def gradients(self, batch: Batch) -> list[Tensor]:
        """Gradients by autograd; each member's norm is clipped at ``clip``."""
        found = super().gradients(batch)
        if self.clip is None:
            return found
        apart = 1 if self.members_first else 0
        norms = torch.stack([g.flatten(apart).square().sum(-1) for g in found]).sum(0).sqrt()
        factor = (self.clip / norms.clamp(min=1e-12)).clamp(max=1.0)
        return [g * factor.view(*factor.shape, *(1,) * (g.ndim - apart)) for g in found]

    def measure(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the loss on the next prompts; a subclass adds measurements of its weights."""
        inner = min(self.steps_taken % self.inner_steps, len(batch["x"]) - 1)
        return {"loss": self.losses(self.part(batch, inner)), **self.weights_measured()}

    def weights_measured(self) -> dict[str, Tensor]:
        """Returns the measurements of the weights: maps names to (E,)."""
        return {}

    def risk_theory(self, length: int) -> float:
        """Returns the predicted mean squared error of the trained model at a length; NaN without a prediction."""
        return float("nan")

    def predictors(self) -> dict[str, Predictor]:
        """Closed-form predictors to compare with."""
        return baselines(self.law) if self.law is not None else {}

    def _start_evaluation(self) -> None:
        self._sums = defaultdict(lambda: defaultdict(list))

    def on_validation_epoch_start(self) -> None:
        """Resets the counts."""
        self._start_evaluation()

    def on_test_epoch_start(self) -> None:
        """Resets the sums and the closed forms, because the test has other prompts."""
        self._start_evaluation()
        self._closed_form = {}

    def _evaluate(self, batch: Mapping[str, Tensor]) -> None:
        x, y = batch["x"], batch["y"]
        length, target = x.shape[1] - 1, y[:, -1]
        self._sums["risk"][length].append((self.answer(x, y) - target).square().mean(2))
        for name, predictor in self.predictors().items():
            if (name, length) not in self._closed_form:
                found = predictor(x[:, :-1], y[:, :-1], x[:, -1])
                self._sums[name][length].append((found - target).square().mean(1)[None])

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Squared errors of a batch of prompts of one length."""
        self._evaluate(batch)

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> None:
        """Squared errors of a batch of prompts of one length."""
        self._evaluate(batch)

    def predict_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """Returns the members' mean ``prediction`` of the query's labels (B, T), and the ``target``."""
        return {"prediction": self.answer(batch["x"], batch["y"]).mean(0), "target": batch["y"][:, -1]}

    def on_validation_epoch_end(self) -> None:
        """Logs the errors by length."""
        self._report("val")

    def on_test_epoch_end(self) -> None:
        """Logs the errors by length."""
        self._report("test")

    def _report(self, stage: str) -> None:
        errors = {length: torch.cat(parts, 1) for length, parts in self._sums["risk"].items()}
        for name in self.predictors():
            for length, parts in self._sums[name].items():
                self._closed_form[name, length] = float(torch.cat(parts, 1).mean())
        for length, values in errors.items():
            self.log(f"{stage}/risk/{length}", values.mean())
            if np.isfinite(theory := self.risk_theory(length)):
                self.log(f"{stage}/risk/{length}/theory", theory)
        for (name, length), value in self._closed_form.items():
            self.log(f"{stage}/{name}/{length}", value)
        if not errors:
            return
        self.log(f"{stage}/loss", errors[self._loss_length(errors, stage)].mean(), prog_bar=True)
        lengths = sorted(errors)
        table: dict[str, np.ndarray] = {"length": np.array(lengths)}
        table["risk"] = torch.stack([errors[m].mean(1) for m in lengths]).cpu().numpy()
        table["se"] = torch.stack([errors[m].std(1) / errors[m].shape[1] ** 0.5 for m in lengths]).cpu().numpy()
        table["theory"] = np.array([self.risk_theory(m) for m in lengths])
        for name in dict.fromkeys(name for name, _ in self._closed_form):
            table[name] = np.array([self._closed_form[name, m] for m in lengths])
        self.risks = table
        if self.trainer.is_global_zero and not self.trainer.sanity_checking and not self._fast():
            arrays: dict[str, Any] = table
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(folder / "risk.npz", **arrays)
            if stage == "test":
                self.log_figure("risk", lengths_figure(table))

    def _loss_length(self, errors: Mapping[int, Tensor], stage: str) -> int:
        if self.train_length in errors:
            return self.train_length
        if self.trainer.sanity_checking or self._fast():
            return min(errors)  # a trial run of a few batches, whose results are not kept
        raise UserError(
            f"trainer.limit_{stage}_batches: the loss is that at data.length {self.train_length}, but the evaluation "
            f"ended after the lengths {', '.join(map(str, sorted(errors)))}; more batches are needed"
        )

    def _fast(self) -> bool:
        return bool(getattr(self.trainer, "fast_dev_run", False))

    def draw(self) -> None:
        """Errors by length at the end of training; a subclass adds its own figures."""
        if hasattr(self, "risks"):
            self.log_figure("risk", lengths_figure(self.risks))


QUIET = ("--wandb.mode=disabled", "--trainer.logger=false", "--trainer.enable_checkpointing=false")


def prompts_of(config: str, *overrides: str) -> Any:
    """Returns the datamodule of a shipped experiment with other settings, after ``setup``."""
    from framework.runs.experiment import build

    _, _, data = build(config, overrides=[*QUIET, *overrides])
    data.setup("fit")
    return data


def trained(config: str, *overrides: str) -> tuple[InContext, Any]:
    """Returns a shipped experiment with other settings, fitted without a logger; the model and its datamodule.

    Args:
        config: A path or the short name of a shipped config.
        *overrides: Options as on the command line.
    """
    from framework.runs.experiment import build
    from framework.runs.quiet import quiet_lightning

    quiet_lightning()
    silent = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    trainer, model, data = build(config, overrides=[*QUIET, *silent, *overrides])
    trainer.fit(model, datamodule=data)
    return cast(InContext, model), data


@torch.no_grad()
def risk(answer: Answer, prompts: Mapping[str, Tensor], chunk: int = 8192) -> np.ndarray:
    """Mean squared errors at the query and their standard errors, (2, E), over prompts of one length.

    Args:
        answer: Function like :meth:`InContext.answer`.
        prompts: ``x`` (B, N + 1, d), ``y`` (B, N + 1, T).
        chunk: Prompts at a time.
    """
    parts = []
    for x, y in zip(prompts["x"].split(chunk), prompts["y"].split(chunk), strict=True):
        parts.append((answer(x, y) - y[:, -1]).square().mean(2))
    errors = torch.cat(parts, 1)
    return torch.stack([errors.mean(1), errors.std(1) / errors.shape[1] ** 0.5]).cpu().numpy()
