"""Probe heads: compares naive Bayes and logistic regression on a network's features, by number of labels.

Paper: Zheng, Wu, Bao, Cao, Li, Zhu, 2023, "Revisiting Discriminative vs. Generative Classifiers: Theory and
Implications", ICML, arXiv 2302.02334.

At the end of a training (or every ``every_n_epochs``) the features of a layer are computed for training and validation
data. For each number m of ``sizes`` m training samples are drawn, until they contain every class, and scaled to [0, 1]
by their own range; both heads are fitted to them and tested on the validation data, several times. The error of each is
logged as ``heads/naive_bayes/<m>`` and ``heads/logistic/<m>`` (at the best C), the number of samples from which
logistic regression is better as ``heads/crossover``; ``heads.npz`` in the run folder has all errors, and there is a
figure.

It works with any classifier whose ``forward`` takes the batch's input and data with ``train_set`` and ``val_set``; it
does not change the model, which is in ``eval`` mode meanwhile. Features of training data are less spread than those of
new data: for features of new data, ``draw_from: val`` draws from one half of the validation data and tests on the
other. Cost: one pass over the data, and milliseconds for each fit; with many features and a large C up to seconds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn

from framework.data.seeding import seeded
from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure
from framework.functional.evaluating import evaluating
from framework.functional.linear_heads import LearningCurve, curve_figure, learning_curve
from framework.functional.linear_heads.curve import as_metrics
from framework.observing.activity import activity_of
from framework.observing.probe import pair_of
from framework.settings import above, at_least, not_empty, one_of

Part = Literal["train", "val"]


def features_of(
    model: nn.Module, dataset: Any, layer: str | None = None, limit: int = 10_000, seed: int = 0, batch_size: int = 256
) -> tuple[Tensor, Tensor]:
    """Returns features (N, n) and classes (N,), on the CPU, of samples of a data set.

    Args:
        model: The model, in ``eval`` mode.
        dataset: A data set with ``__getitems__``, or of single samples.
        layer: Layer whose output is used; by default the input of the last layer with weights.
        limit: Largest number of samples, drawn at random.
        seed: Seed of the draw, and of random numbers in the data set.
        batch_size: Number of samples in a pass.

    Raises:
        UserError: a batch is not inputs and classes, or there is no such layer.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    rows = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(seed))[:limit]
    features, labels = [], []
    with seeded(seed):
        for part in rows.split(batch_size):
            x, y = _batch(dataset, part.tolist())
            features.append(activity_of(model, x.to(device), layer, "probe_heads.layer").cpu())
            labels.append(y.cpu())
    return torch.cat(features), torch.cat(labels)


def _batch(dataset: Any, rows: list[int]) -> tuple[Tensor, Tensor]:
    many = getattr(dataset, "__getitems__", None)
    batch = many(rows) if callable(many) else torch.utils.data.default_collate([dataset[row] for row in rows])
    x, y = pair_of(batch, "probe_heads")
    if y.is_floating_point() or y.ndim != 1:
        raise UserError("probe_heads: a batch must be a pair of inputs and their classes")
    return x, y


class ProbeHeads(Observer):
    """Logs and draws the learning curves of both heads on the features of a layer.

    Args:
        sizes: Numbers of samples m; those above the number of available samples are ignored.
        repeats: Number of draws for each.
        c: Values of C of logistic regression.
        layer: Layer whose output is used as features; by default the input of the last layer with weights.
        draw_from: ``train`` or ``val``: the data from which the heads' samples are drawn.
        scale: Whether features are scaled by each draw's range.
        every_n_epochs: Number of epochs between two measurements; 0 for the end only.
        limit: Largest number of samples of each part.
        seed: Seed of the draws.

    Raises:
        UserError: a setting is not accepted; at the start, the module has no ``forward`` or the data no training and
            validation sets; at the first measurement, a batch is not inputs and classes.
    """

    technique = "probe_heads"

    def __init__(
        self,
        sizes: tuple[int, ...] = (20, 50, 100, 200, 500, 1000),
        repeats: int = 5,
        c: tuple[float, ...] = (0.1, 1.0, 10.0),
        layer: str | None = None,
        draw_from: Part = "train",
        scale: bool = True,
        every_n_epochs: int = 0,
        limit: int = 10_000,
        seed: int = 0,
    ) -> None:
        self.sizes, self.repeats, self.c, self.layer = tuple(sizes), repeats, tuple(c), layer
        self.draw_from, self.scale, self.every_n_epochs = draw_from, scale, every_n_epochs
        self.limit, self.seed = limit, seed
        not_empty(sizes=self.sizes, c=self.c)
        at_least(2, sizes=self.sizes, limit=limit)
        if list(self.sizes) != sorted(set(self.sizes)):
            raise UserError(f"sizes: {list(self.sizes)} is not accepted; numbers in ascending order")
        above(0, c=self.c)
        one_of(get_args(Part), draw_from=draw_from)
        at_least(1, repeats=repeats)
        at_least(0, every_n_epochs=every_n_epochs)
        self.curve: LearningCurve | None = None

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot be called on inputs.

        Raises:
            UserError: it has no ``forward``.
        """
        if type(model).forward is pl.LightningModule.forward:
            raise UserError(f"{self.name}: {type(model).__name__} has no forward, so it has no features")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Refuses data without sets to draw from.

        Raises:
            UserError: one is missing, or of no known length.
        """
        data = getattr(trainer, "datamodule", None)
        for part in ("train_set", "val_set"):
            if not hasattr(getattr(data, part, None), "__len__"):
                raise UserError(f"{self.name}: {type(data).__name__} has no {part} that samples can be drawn from")

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures and logs."""
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or trainer.should_stop
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if last or (self.every_n_epochs and epoch % self.every_n_epochs == 0):
            self.curve = self._look(trainer, pl_module)
            for name, value in as_metrics(self.curve).items():
                pl_module.log(f"heads/{name}", value, rank_zero_only=True)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes and draws the last measurement."""
        if self.curve is None or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        arrays: dict[str, Any] = {"sizes": self.curve.sizes, **self.curve.errors}
        np.savez(folder / "heads.npz", **arrays)
        title = f"features of {self.layer or 'the last layer'}, n = {self._features}"
        log_figure(trainer, self.technique, curve_figure({title: self.curve}))

    def _look(self, trainer: pl.Trainer, module: pl.LightningModule) -> LearningCurve:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        with evaluating(module):
            outside = features_of(module, data.val_set, self.layer, self.limit, self.seed)
            if self.draw_from == "train":
                inside = features_of(module, data.train_set, self.layer, self.limit, self.seed)
            else:
                half = len(outside[1]) // 2
                inside, outside = (outside[0][:half], outside[1][:half]), (outside[0][half:], outside[1][half:])
        self._features = inside[0].shape[1]
        return learning_curve(inside, outside, self.sizes, self.repeats, self.c, self.seed, scale=self.scale)

    _features: int = 0
