"""Both heads as LightningModules on features (B, n)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.linear_heads import ClassStatistics, gaussian_head, logistic_loss
from framework.functional.linear_heads.logistic import as_rule, lbfgs, logits_of, rows_of
from framework.optim import mark
from framework.settings import above, at_least
from modules.classifier import Classifier
from modules.finetuning.discriminative_generative.plots import assumptions_figure
from modules.finetuning.discriminative_generative.theory import assumptions


class LinearHead(Classifier):
    """Base class of both heads: the check of the features, and the head as a plain layer.

    Args:
        features: n.
        num_classes: K.
        optimizer: The optimiser.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted; the data has other features or classes (in ``setup``).
    """

    def __init__(
        self,
        features: int,
        num_classes: int,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(num_classes, optimizer, schedule)
        at_least(1, features=features)
        self.features = features

    def setup(self, stage: str) -> None:
        """Compares the datamodule's classes and features with the model's.

        Raises:
            UserError: they differ.
        """
        super().setup(stage)
        found = getattr(getattr(self.trainer, "datamodule", None), "features", None)
        if found is not None and found != self.features:
            raise UserError(f"model.init_args.features: {self.features}, but the data has {found}")

    def forward(self, x: Tensor) -> Tensor:
        """Maps features (B, n) to logits (B, K)."""
        return self.net(x.to(next(self.net.parameters()).dtype))

    def linear(self) -> nn.Linear:
        """Returns the head as a plain layer, float32."""
        weight: Any = self.net.weight
        bias: Any = self.net.bias
        return as_rule(weight.detach(), bias.detach()).linear()


class GaussianHead(LinearHead):
    """Naive Bayes with one diagonal covariance, fitted in one epoch: counts, means and sums of squares, no gradient.

    A training step adds a batch to the statistics, in float64; after the last batch of an epoch they become weights.
    A batch need not contain every class. With several processes the statistics are gathered and merged, so the result
    is the same as with one process. ``assumptions.npz`` in the run folder has ``variances`` (n,), ``beta`` (K, K, K)
    and ``alpha`` (K, K) of :func:`modules.finetuning.discriminative_generative.theory.assumptions`.

    Args:
        features: n.
        num_classes: K.

    Raises:
        UserError: a setting is not accepted; at the end of the epoch, a class had no samples.
    """

    automatic_optimization = False

    net: nn.Linear
    counts: Tensor
    means: Tensor
    squares: Tensor

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__(features, num_classes, OptimizerConfig("sgd", lr=0.0, weight_decay=0.0))
        self.save_hyperparameters()
        self.net = nn.Linear(features, num_classes, dtype=torch.float64)
        nn.init.zeros_(self.net.weight)
        nn.init.zeros_(self.net.bias)
        for name, value in vars(ClassStatistics.zeros(num_classes, features)).items():
            self.register_buffer(name, value)

    @property
    def statistics(self) -> ClassStatistics:
        """Statistics of the epoch so far, in this process."""
        return ClassStatistics(self.counts, self.means, self.squares)

    @statistics.setter
    def statistics(self, value: ClassStatistics) -> None:
        for name, tensor in vars(value).items():
            getattr(self, name).copy_(tensor)

    def on_train_epoch_start(self) -> None:
        """Resets the statistics, unless training was resumed within an epoch."""
        if self.trainer.fit_loop.epoch_loop.batch_progress.current.ready == 0:
            self.statistics = ClassStatistics.zeros(self.num_classes, self.features).to(self.device)

    @torch.no_grad()
    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:  # type: ignore[override]
        """Adds a batch; the last one of the epoch fits the head."""
        x, y = batch
        self.statistics = self.statistics.merged(ClassStatistics.of(x, y, self.num_classes))
        trial = self.trainer.fast_dev_run and bool((self.counts == 0).any())  # type: ignore[attr-defined]
        if (
            self.trainer.is_last_batch and not trial
        ):  # here, because on_train_epoch_end comes after the epoch's validation
            self.fit_head()
            logits = self(x)
            self.log("train/loss", nn.functional.cross_entropy(logits, y), prog_bar=True)
            self.log("train/accuracy", (logits.argmax(1) == y).double().mean(), prog_bar=True)
        wrapped: Any = self.optimizers()
        wrapped.step()  # there are no gradients; Lightning counts training steps by optimiser steps

    @torch.no_grad()
    def fit_head(self) -> None:
        """Turns the statistics, of all processes, into weights."""
        if self.trainer.world_size > 1:
            every = [ClassStatistics(*parts) for parts in zip(*map(self.all_gather, self._parts()), strict=True)]
            total = every[0]
            for other in every[1:]:
                total = total.merged(other)
        else:
            total = self.statistics
        rule = gaussian_head(total)
        self.net.weight.copy_(rule.weight)
        self.net.bias.copy_(rule.bias)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.counts, self.means, self.squares

    def on_train_end(self) -> None:
        """Writes and plots the quantities that decide whether few samples are enough."""
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            found = assumptions(self.means.cpu(), self.statistics.variances.cpu())
            folder = Path(self.trainer.default_root_dir)
            folder.mkdir(parents=True, exist_ok=True)
            np.savez(folder / "assumptions.npz", **{name: value.numpy() for name, value in found._asdict().items()})
            self.log_figure("assumptions", assumptions_figure(found))


class LogisticLayer(nn.Module):
    """W and b of logistic regression, float64; two classes have a single row.

    Args:
        features: n.
        num_classes: K.
        std: Standard deviation of the initial W; b starts at 0.
    """

    def __init__(self, features: int, num_classes: int, std: float = 0.0) -> None:
        super().__init__()
        rows = rows_of(num_classes)
        self.weight = nn.Parameter(std * torch.randn(rows, features, dtype=torch.float64))
        self.bias = nn.Parameter(torch.zeros(rows, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, n) to logits (B, K)."""
        return logits_of(self.weight, self.bias, x)


class LogisticHead(LinearHead):
    """Multinomial logistic regression, ½ ‖W‖² + C Σ cross-entropy, by L-BFGS on all data at once or by any optimiser.

    ``optimizer.name: lbfgs`` (the default) minimises in one training step of at most ``max_iter`` iterations with a
    strong Wolfe line search; the batch must contain the whole training set. Any other optimiser takes mini-batches: SGD
    with ``momentum: 0.9``, a rate of 30 for scaled features, times 0.1 at epochs 60 and 80 of 100, ``init_std: 0.01``
    and ``c: null`` are the paper's settings.

    Args:
        features: n.
        num_classes: K; two classes share one weight vector, as in scikit-learn.
        c: C, the weight of the data; ``null`` for no penalty.
        max_iter: Iterations of L-BFGS.
        tolerance: Largest entry of the gradient of the mean loss at which it stops.
        init_std: Standard deviation of the initial weights.
        optimizer: ``lbfgs`` by default.
        schedule: The learning-rate schedule of another optimiser.

    Raises:
        UserError: a setting is not accepted; L-BFGS is given more than one batch (when training starts).
    """

    net: LogisticLayer

    def __init__(
        self,
        features: int,
        num_classes: int,
        c: float | None = 1.0,
        max_iter: int = 1000,
        tolerance: float = 1e-6,
        init_std: float = 0.0,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(features, num_classes, optimizer or OptimizerConfig("lbfgs"), schedule)
        self.save_hyperparameters()
        above(0, c=c)
        at_least(1, max_iter=max_iter)
        at_least(0, tolerance=tolerance, init_std=init_std)
        self.c = float("inf") if c is None else c
        self.max_iter, self.tolerance = max_iter, tolerance
        self.net = LogisticLayer(features, num_classes, init_std)

    @property
    def at_once(self) -> bool:
        """Whether one step is a complete minimisation."""
        return self.optimizer_config.name.lower() == "lbfgs"

    def configure_optimizers(self) -> Any:
        """Builds the optimiser; L-BFGS has neither parameter groups nor weight decay."""
        if not self.at_once:
            return super().configure_optimizers()
        optimizer = lbfgs(list(self.net.parameters()), self.max_iter, self.tolerance)
        mark(optimizer, self, self.optimizer_config.name)
        return optimizer

    def on_train_start(self) -> None:
        """Refuses several batches if the optimiser needs all data in one.

        Raises:
            UserError: L-BFGS gets more than one batch in an epoch, or more than one process.
        """
        batches = self.trainer.num_training_batches
        if self.at_once and batches != 1 and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(
                f"data.init_args.batch_size: {batches} batches an epoch, but optimizer lbfgs needs all samples in one; "
                "leave batch_size out, or take another optimizer"
            )
        if self.at_once and self.trainer.world_size > 1:
            raise UserError("trainer.devices: optimizer lbfgs runs in one process; set it to 1")

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the objective divided by C m; L-BFGS calls it many times in a step."""
        x, y = batch
        samples = len(y) if self.at_once else len(self.trainer.train_dataloader.dataset)  # type: ignore[union-attr]
        loss = logistic_loss(self.net.weight, self.net.bias, x.double(), y, self.c, samples)
        self.log("train/loss", loss.detach(), prog_bar=True)
        return loss
