"""The observer of linear interpreters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor, nn

from callbacks.linear_scope.measures import classes_of, measure_classes, measure_pictures, spread_places
from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure
from framework.functional.linear_scope import (
    LinearInterpreter,
    NormMode,
    NotFinite,
    SmoothMode,
    Standardised,
    contributions,
)
from framework.functional.linear_scope.figures import (
    basis_figure,
    gallery_figure,
    progress_figure,
    residual_figure,
    votes_figure,
)
from framework.observing.linear_probe import batches_of
from framework.protocols import HasNormalisation
from framework.settings import above, at_least, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part = Literal["train", "val", "test"]


class LinearScope(Observer):
    """Logs what images and biases contribute, and draws votes, rows, columns, singular vectors and r.

    Args:
        every_n_epochs: Number of epochs between two looks; it also measures at the start.
        part: ``train``, ``val`` or ``test``: the data whose first images are used.
        points: Largest number of images that are measured, of a network whose output is not a picture.
        images: Number of images in the figures; 0 draws none. If the output is a picture, they are also the ones that
            are measured, at least one.
        classes: Number of classes of each image whose votes are drawn, those of the largest logits.
        k: Number of singular triples.
        radius: Distance within which a column's energy is near, in pixels of the output.
        raw_pixels: Whether x are pixels from 0 to 1, where the datamodule tells its normalisation.
        smooth_mode: Of units such as tanh and GELU: ``secant``, ``tangent``, or ``auto``: secant where σ(0) = 0.
        norm_mode: Of normalisations by an image's own statistics: ``linear_mean`` or ``frozen_mean``.
        chunk: Images, or probes of each image of the figures, that are computed together: memory grows with it.

    Raises:
        UserError: a setting is not accepted; there are no images of floating-point numbers, or the network cannot be
            interpreted (before training).
    """

    technique = "linear_scope"

    def __init__(
        self,
        every_n_epochs: int = 5,
        part: Part = "val",
        points: int = 500,
        images: int = 4,
        classes: int = 3,
        k: int = 16,
        radius: float = 4.0,
        raw_pixels: bool = True,
        smooth_mode: SmoothMode = "auto",
        norm_mode: NormMode = "linear_mean",
        chunk: int = 64,
    ) -> None:
        at_least(1, every_n_epochs=every_n_epochs, points=points, classes=classes, k=k, chunk=chunk)
        at_least(0, images=images)
        above(0, radius=radius)
        one_of(get_args(Part), part=part)
        one_of(get_args(SmoothMode), smooth_mode=smooth_mode)
        one_of(get_args(NormMode), norm_mode=norm_mode)
        self.every_n_epochs, self.part, self.points, self.images = every_n_epochs, part, points, images
        self.classes, self.k, self.radius, self.raw_pixels = classes, k, radius, raw_pixels
        self.smooth_mode, self.norm_mode, self.chunk = smooth_mode, norm_mode, chunk
        self.rows: list[dict[str, float]] = []

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot be called on images.

        Raises:
            UserError: it has no ``forward``.
        """
        if type(model).forward is pl.LightningModule.forward:
            raise UserError(f"{self.name}: {type(model).__name__} has no forward, it cannot be interpreted")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures at the start, without figures."""
        if not self.rows:
            self.rows.append({"epoch": 0.0, **self.look(trainer, pl_module, self.part)})

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks every ``every_n_epochs``, and logs."""
        epoch = trainer.current_epoch + 1
        if epoch % self.every_n_epochs:
            return
        self.rows.append({"epoch": float(epoch), **self.look(trainer, pl_module, self.part, f"_epoch{epoch}")})
        self._log(pl_module, self.rows[-1])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws the numbers over epochs."""
        if self.rows:
            log_figure(trainer, self.technique, progress_figure(self.rows))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks once in ``validate``."""
        if trainer.state.fn == "validate":
            self._log(pl_module, self.look(trainer, pl_module, "val", "_val"))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks once in ``test``."""
        self._log(pl_module, self.look(trainer, pl_module, "test", "_test"))

    def _log(self, pl_module: pl.LightningModule, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            if name != "epoch":
                pl_module.log(f"{self.technique}/{name}", value, rank_zero_only=True)

    def look(
        self, trainer: pl.Trainer, module: pl.LightningModule, part: str, suffix: str | None = None
    ) -> dict[str, float]:
        """Measures, draws, and returns the numbers.

        Args:
            trainer: The Trainer.
            module: The module.
            part: The data.
            suffix: Of the figures' names; without one none is drawn.

        Raises:
            UserError: the network cannot be interpreted, or the data has no images.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        x, labels = self._images(data, part)
        with torch.inference_mode(False):
            x = x.clone().to(module.device)
            model: nn.Module = module
            if self.raw_pixels and isinstance(data, HasNormalisation) and x.ndim == 4:
                mean, std = tuple(data.mean), tuple(data.std)
                if len(mean) in (1, x.shape[1]) and (set(mean) != {0.0} or set(std) != {1.0}):
                    model = Standardised(module, mean, std)
                    x = model.raw(x)
            names = [str(name) for name in getattr(data, "class_names", None) or ()]
            try:
                return self._measured(trainer, model, x, labels, names, suffix)
            except NotFinite as error:  # training has diverged; to stop it is not an observer's business
                rank_zero_warn(f"{error}; no numbers and figures of this look")
                return {"norm_ratio": float("nan"), "error": float("nan")}

    def _images(self, data: Any, part: str) -> tuple[Tensor, Tensor | None]:
        batch = next(iter(batches_of(data, part, f"{self.name}.part", size=self.points)), None)
        if batch is None:
            raise UserError(f"{self.name}.part: {part!r} is not accepted; it has no images")
        pair = (batch.get("x"), batch.get("y")) if isinstance(batch, Mapping) else batch
        first, second = pair[:2] if isinstance(pair, list | tuple) and len(pair) > 1 else (pair, None)
        if not isinstance(first, Tensor) or not first.is_floating_point():
            kind = first.dtype if isinstance(first, Tensor) else type(first).__name__
            raise UserError(f"{self.name}: a batch's input is {kind}; images of floating-point numbers are expected")
        labels = second[: self.points] if isinstance(second, Tensor) else None
        return first[: self.points], labels

    def _measured(
        self,
        trainer: pl.Trainer,
        model: nn.Module,
        x: Tensor,
        labels: Tensor | None,
        names: list[str],
        suffix: str | None,
    ) -> dict[str, float]:
        modes = self.smooth_mode, self.norm_mode
        shown = x[: max(1, self.images)]
        with LinearInterpreter(model, shown, *modes, chunk=self.chunk) as scope:
            pictures = len(scope.output_shape) == 3
            draws = suffix is not None and self.images and trainer.is_global_zero and x.ndim == 4
            for name, figure in self._figures(scope, labels, names, pictures) if draws else ():
                log_figure(trainer, f"{self.technique}_{name}{suffix}", figure)
            if pictures and x.ndim == 4:
                return measure_pictures(scope, self.radius)
        return measure_classes(model, x.split(self.chunk), labels, *modes)

    def _figures(
        self, scope: LinearInterpreter, labels: Tensor | None, names: list[str], pictures: bool
    ) -> Iterator[tuple[str, Figure]]:
        """Yields the figures of an open interpreter of images, each with its name."""
        with LinearInterpreter(scope.model, scope.x[:1], self.smooth_mode, self.norm_mode, self.chunk) as first:
            if pictures:
                places = spread_places(first.output_shape)
                titles = [f"output {row}, {column}" for _, row, column in places]
                yield (
                    "rows",
                    gallery_figure(first.rows(places).values[0].cpu(), titles, "rows of F: what a pixel reads", 9),
                )
                places = spread_places(first.input_shape)
                titles = [f"input {row}, {column}" for _, row, column in places]
                columns = first.columns(places).values[0].cpu()
                yield "columns", gallery_figure(columns, titles, "columns of F: what a pixel paints", 9)
                yield "residual", residual_figure(scope.x, scope.y, scope.residual())
                yield "basis", basis_figure(first.svd(self.k))
                return
            classes = scope.y[0].numel()
            names = names if len(names) == classes else [str(i) for i in range(classes)]
            top = scope.y.reshape(len(scope.y), -1).topk(min(self.classes, classes), 1).indices
            maps = contributions(scope, top).cpu()
            votes, rest = maps.flatten(2).sum(2), scope.residual().reshape(len(top), -1).gather(1, top).cpu()
            truth = classes_of(labels, classes) if classes > 1 else None
            yield "votes", votes_figure(scope.x, maps, top.cpu(), votes, rest, names, truth)
            chosen = list(range(min(classes, 12)))
            yield (
                "rows",
                gallery_figure(
                    first.rows(chosen).values[0].cpu(), [names[i] for i in chosen], "rows of F: what a logit reads"
                ),
            )
            yield "basis", basis_figure(first.svd(self.k), names)

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.rows = list(state_dict["rows"])
