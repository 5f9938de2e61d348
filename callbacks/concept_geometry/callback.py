"""The observer of the geometry of concepts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from callbacks.concept_geometry.figures import geometry_figure
from framework.data.arrays import ArrayDataset
from framework.data.loader import ExactLoader
from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure
from framework.files import write_text
from framework.functional.linear_factors import PENALTIES, study_embeddings
from framework.observing.embeddings import Features, embed, find_projection, wanted
from framework.observing.linear_probe import batches_of
from framework.observing.probe import pair_of
from framework.protocols import HasConcepts, HasExamples
from framework.readers.arrays import check_arrays, float32, labels_of, read_arrays, shapes_of
from framework.settings import at_least, between, not_empty, one_of

Part = Literal["train", "val", "test"]
SAME = "all examples have the same values of all concepts"
EXPECTED = ".npz with x (N, …), inputs of the model, and y_<concept> (N,) of each concept"


class ConceptGeometry(Observer):
    """Logs and draws the geometry of an encoder's embeddings (see the docstring of the package).

    Args:
        epochs: Epochs after which to look, 0 being the start; by default the start and each epoch. The end is always
            one.
        features: ``pre`` the projection, ``post`` it, or ``both``.
        projection: Name of the layer; by default the model's head.
        parts: Parts of the datamodule's data, of ``train``, ``val`` and ``test``, taken together.
        path: A file of examples instead: ``.npz`` with ``x`` (N, …), as the model takes them, and ``y_<concept>``.
        examples: Largest number of examples, drawn at random from more; null for all.
        fraction: Share of the combinations that probes are trained on for the accuracy on the others.
        geometry_fraction: Share of the combinations of the probes in whose span R² is projected.
        penalties: Weights of the probes' |w|²/2 to choose from; the scale is that of embeddings with a mean square of
            1 in each dimension.
        steps: Steps of each fit of the probes.
        seed: Seed of the splits by combinations.
        batch_size: Examples in a pass of the network.

    Raises:
        UserError: a setting is not accepted; before training: the module has no ``forward``, there is no such layer,
            the data are not labelled with concepts, or the file is broken.
    """

    technique = "concept_geometry"

    def __init__(
        self,
        epochs: tuple[int, ...] | None = None,
        features: Features = "pre",
        projection: str | None = None,
        parts: tuple[Part, ...] = ("train", "val"),
        path: str | Path | None = None,
        examples: int | None = 10_000,
        fraction: float = 0.1,
        geometry_fraction: float = 0.9,
        penalties: tuple[float, ...] = PENALTIES,
        steps: int = 500,
        seed: int = 0,
        batch_size: int = 256,
    ) -> None:
        self.epochs = None if epochs is None else tuple(epochs)
        self.features, self.projection, self.parts, self.path = features, projection, tuple(parts), path
        self.examples, self.fraction, self.geometry_fraction = examples, fraction, geometry_fraction
        self.penalties, self.steps, self.seed, self.batch_size = tuple(penalties), steps, seed, batch_size
        at_least(0, epochs=self.epochs, penalties=self.penalties)
        one_of(get_args(Features), features=features)
        one_of(get_args(Part), parts=self.parts)
        not_empty(parts=self.parts, penalties=self.penalties)
        at_least(4, examples=examples)
        at_least(1, steps=steps, batch_size=batch_size)
        between(0, 1, "()", fraction=fraction, geometry_fraction=geometry_fraction)
        if len(set(self.parts)) < len(self.parts):
            raise UserError(f"parts: {list(self.parts)} is not accepted; each part once")
        self.rows: list[dict[str, Any]] = []
        self._final = -1  # the step of the look at the end

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot be called on inputs.

        Raises:
            UserError: it has no ``forward``.
        """
        if type(model).forward is pl.LightningModule.forward:
            raise UserError(f"{self.name}: {type(model).__name__} has no forward, so it gives no embeddings")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Embeds a few examples, and splits the labels unless the first look does: what cannot work is known early.

        Raises:
            UserError: the encoder cannot be found or its output read, or the labels cannot be split.
        """
        if trainer.global_step == 0:
            self.rows.clear()  # of an earlier training
        self._final = -1
        batches, _ = self._batches(trainer, self.parts)
        self._embed(pl_module, [next(iter(batches))])
        if self.epochs is not None and 0 not in self.epochs:
            labels = self._labels(torch.cat([pair_of(batch, self.name)[1] for batch in batches]))
            if (labels == labels[0]).all():
                raise UserError(f"{self.name}.parts: {SAME}")
            labels = labels[self._rows(len(labels))]
            noise = np.random.default_rng(0).normal(size=(len(labels), 2))
            study_embeddings(noise, labels, *self._settings(steps=1))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Looks before the first step."""
        if not self.rows and trainer.global_step == 0 and batch_idx == 0 and (self.epochs is None or 0 in self.epochs):
            found = self._add(trainer, pl_module, 0)
            # straight to the loggers: what pl_module.log has here would be repeated in every row of the first epoch
            for logger in trainer.loggers:
                logger.log_metrics({**found, "epoch": 0}, step=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks after the epochs asked for, and after the last one."""
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or trainer.should_stop or trainer.global_step == trainer.max_steps
        if last or self.epochs is None or epoch in self.epochs:
            self._log(pl_module, self._add(trainer, pl_module, epoch))
            if last:
                self._final = trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes and draws the looks."""
        if self._final != trainer.global_step:  # training ended within an epoch, or by a callback after this one
            if self.rows and self.rows[-1]["step"] == trainer.global_step:
                self.rows.pop()
            self._add(trainer, pl_module, trainer.current_epoch)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        path = Path(trainer.default_root_dir) / f"{self.technique}.json"
        write_text(path, json.dumps({"rows": self.rows}, indent=1) + "\n")
        for name in wanted(self.features):
            log_figure(trainer, f"{self.technique}_{name}", geometry_figure(self.rows, name))

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks once in ``validate``."""
        if trainer.state.fn == "validate":
            self._log(pl_module, self._flat(self.look(trainer, pl_module, ("val",))))

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks once in ``test``."""
        self._log(pl_module, self._flat(self.look(trainer, pl_module, ("test",))))

    def _add(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int) -> dict[str, float]:
        found = self.look(trainer, module, self.parts)
        self.rows.append({"epoch": epoch, "step": trainer.global_step, **found})
        return self._flat(found)

    def _flat(self, found: dict[str, dict[str, Any]]) -> dict[str, float]:
        """The numbers to log by their names."""
        return {
            f"{self.technique}/{features}/{name}": float(value)
            for features, scores in found.items()
            for name, value in scores.items()
            if isinstance(value, float | int) and not isinstance(value, bool)
        }

    def _log(self, module: pl.LightningModule, found: dict[str, float]) -> None:
        for name, value in found.items():
            module.log(name, value, rank_zero_only=True)

    def look(
        self, trainer: pl.Trainer, module: pl.LightningModule, parts: tuple[Part, ...]
    ) -> dict[str, dict[str, Any]]:
        """Returns what was found, by ``pre`` and ``post``.

        Args:
            trainer: The Trainer.
            module: The module.
            parts: Parts of the data, if there is no file.

        Raises:
            UserError: as before training, or there are too few combinations.
        """
        batches, concepts = self._batches(trainer, parts)
        found, labels = self._embed(module, batches)
        if (labels == labels[0]).all():
            raise UserError(f"{self.name}.parts: {SAME}")
        names = concepts or tuple(f"concept_{i}" for i in range(labels.shape[1]))
        rows = self._rows(len(labels))
        result = {}
        for name, z in found.items():
            if not bool(torch.isfinite(z).all()):  # training has diverged; to stop it is not an observer's business
                result[name] = {"r2": float("nan")}
                continue
            result[name] = study_embeddings(z.numpy()[rows], labels[rows], *self._settings()).record(names)
        return result

    def _rows(self, count: int) -> np.ndarray:
        """Positions of the examples that are looked at, of so many."""
        if self.examples is None or count <= self.examples:
            return np.arange(count)
        return np.sort(np.random.default_rng(self.seed).permutation(count)[: self.examples])

    def _settings(self, steps: int | None = None) -> tuple[Any, ...]:
        return self.fraction, self.geometry_fraction, self.penalties, steps or self.steps, self.seed

    def _embed(self, module: pl.LightningModule, batches: Any) -> tuple[dict[str, Tensor], np.ndarray]:
        key = f"{self.name}.projection"
        projection = find_projection(module, self.projection, key)
        with torch.inference_mode(False):
            found, targets = embed(module, batches, projection, self.features, module.device, key)
        return found, self._labels(targets)

    def _labels(self, targets: Tensor) -> np.ndarray:
        if targets.is_floating_point() or targets.ndim > 2:
            raise UserError(
                f"{self.name}: targets of {targets.dtype} and shape {tuple(targets.shape)} are no values of concepts; "
                "whole numbers (B, k) or (B,), or give a file as path"
            )
        return targets.reshape(len(targets), -1).cpu().numpy()

    def _batches(self, trainer: pl.Trainer, parts: tuple[Part, ...]) -> tuple[Any, tuple[str, ...]]:
        """Returns all batches, and the names of the concepts if they are known."""
        if self.path is not None:
            file = Path(self.path).expanduser()
            arrays = read_arrays(file, EXPECTED)
            columns = [name for name in arrays if name.startswith("y_")]
            if not columns:
                raise UserError(f"{file}: no y_<concept> (it has {shapes_of(arrays)}); expected {EXPECTED}")
            check_arrays(arrays, {"x": "N ...", **dict.fromkeys(columns, "N")}, file, EXPECTED)
            y = np.stack([labels_of(arrays[name], name, file) for name in columns], 1)
            x = torch.from_numpy(float32(arrays["x"], "x", file))
            data = ArrayDataset(x, torch.from_numpy(y))
            return self._fewer([self._loader(data)]), tuple(name.removeprefix("y_") for name in columns)
        datamodule = getattr(trainer, "datamodule", None)
        found: list[Any] = []
        for part in parts:
            if isinstance(datamodule, HasExamples):
                found.append(self._loader(datamodule.examples(part)))
            else:
                found.append(batches_of(datamodule, part, f"{self.name}.parts", size=self.batch_size))
        names = tuple(datamodule.concepts) if isinstance(datamodule, HasConcepts) else ()
        return self._fewer(found), names

    def _fewer(self, loaders: list[Any]) -> Any:
        """All batches, where the numbers of examples are known of so many of them as are looked at only."""
        if self.examples is None or not all(isinstance(loader, ExactLoader) for loader in loaders):
            return _Chained(loaders)
        sizes = [len(loader.dataset) for loader in loaders]
        if sum(sizes) <= self.examples:
            return _Chained(loaders)
        rows, ends = self._rows(sum(sizes)), np.cumsum(sizes)
        parts = [
            rows[(rows >= end - size) & (rows < end)] - (end - size) for size, end in zip(sizes, ends, strict=True)
        ]
        return _Chained(
            [
                self._loader(Subset(loader.dataset, own.tolist()), loader.collate_fn)
                for loader, own in zip(loaders, parts, strict=True)
                if len(own)
            ]
        )

    def _loader(self, data: Any, collate_fn: Any = None) -> ExactLoader:
        return ExactLoader(data, self.batch_size, False, collate_fn=collate_fn, seed=0, ranks=lambda: (1, 0))

    def state_dict(self) -> dict[str, Any]:
        """Returns the looks so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.rows = [dict(row) for row in state_dict["rows"]]


class _Chained:
    """Batches of several loaders, one after the other."""

    def __init__(self, loaders: list[Any]) -> None:
        self.loaders = loaders

    def __iter__(self) -> Any:
        for loader in self.loaders:
            yield from loader
