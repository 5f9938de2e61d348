"""Observers that embed a fixed set of examples, and report numbers with intervals of one paired bootstrap.

The resamples depend on the number of examples, of resamples and the seed alone, so that all models of the same data are
measured on the same ones; their hash is in every report.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import Subset

from framework.data.loader import ExactLoader
from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure
from framework.files import write_text
from framework.functional.embedding_geometry import unit_rows
from framework.functional.resampling import indices_hash, resample_indices, sample_counts
from framework.observing.embeddings import embed, find_projection
from framework.observing.linear_probe import batches_of
from framework.protocols import HasExamples
from framework.settings import at_least, one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

Part = Literal["train", "val", "test"]
NOTE = (
    "These diagnostics are not part of a differentially private release: probes are fitted to the training data, and "
    "geometry is measured on raw examples, both without noise."
)


@dataclass(frozen=True)
class Look:
    """What was found at one moment.

    Attributes:
        numbers: What is logged, by name without the prefix.
        details: Plain data for the report.
    """

    numbers: dict[str, float]
    details: dict[str, Any]


class EmbeddingObserver(Observer):
    """Measures the embeddings of the same examples at the start, after some epochs, and at the end.

    A subclass implements :meth:`look` and :meth:`figure`. Numbers are logged as ``<technique>/<name>``; the report is
    ``<technique>.json`` in the run folder.

    Args:
        layer: Name of the layer whose input is the embedding; by default the model's head.
        part: Part of the data.
        epochs: Epochs after which to look beside the end, 0 being the start.
        normalize: Whether embeddings are divided by their norms.
        examples: Largest number of examples of the part; null for all. Of more they are drawn at random, and of a
            dataloader of others they are the first.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resamples and of the choice of examples.
        batch_size: Examples in a pass of the network.

    Raises:
        UserError: a setting is not accepted.
    """

    def __init__(
        self,
        layer: str | None,
        part: Part,
        epochs: Sequence[int],
        normalize: bool,
        examples: int | None,
        resamples: int,
        seed: int,
        batch_size: int,
    ) -> None:
        one_of(get_args(Part), part=part)
        at_least(0, epochs=epochs, seed=seed)
        at_least(2, examples=examples, resamples=resamples)
        at_least(1, batch_size=batch_size)
        self.layer, self.part, self.epochs, self.normalize = layer, part, tuple(epochs), normalize
        self.examples, self.resamples, self.seed, self.batch_size = examples, resamples, seed, batch_size
        self.rows: list[dict[str, Any]] = []
        self._final = -1  # the step of the look at the end
        self._embedding = ""  # the layer that was found

    def look(self, trainer: pl.Trainer, module: pl.LightningModule, part: Part, last: bool) -> Look:
        """Measures.

        Args:
            trainer: The Trainer.
            module: The module.
            part: Part of the data.
            last: Whether intervals are wanted too.
        """
        raise NotImplementedError

    def figure(self) -> Figure | None:
        """Draws the rows."""
        raise NotImplementedError

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot be called on inputs.

        Raises:
            UserError: it has no ``forward``.
        """
        if type(model).forward is pl.LightningModule.forward:
            raise UserError(f"{self.name}: {type(model).__name__} has no forward, so it gives no embeddings")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Embeds one batch, so that what cannot work is known before training.

        Raises:
            UserError: there is no such data or layer.
        """
        if trainer.global_step == 0:
            self.rows.clear()  # of an earlier training
        self._final = -1
        self.embed(trainer, pl_module, self.part, 1)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Looks before the first step."""
        if not self.rows and trainer.global_step == 0 and batch_idx == 0 and 0 in self.epochs:
            found = self._add(trainer, pl_module, 0, last=False)
            # straight to the loggers: what pl_module.log has here would be repeated in every row of the first epoch
            for logger in trainer.loggers:
                logger.log_metrics({**self._named(found), "epoch": 0}, step=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks after the epochs asked for, and after the last one."""
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or trainer.should_stop or trainer.global_step == trainer.max_steps
        if last or epoch in self.epochs:
            self._log(pl_module, self._add(trainer, pl_module, epoch, last))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the report and draws."""
        if self._final != trainer.global_step:  # training ended within an epoch, or by a callback after this one
            if self.rows and self.rows[-1]["step"] == trainer.global_step:
                self.rows.pop()
            self._add(trainer, pl_module, trainer.current_epoch, last=True)
        self._write(trainer, self.technique, self.part, {"rows": self.rows})
        figure = self.figure()
        if figure is not None:
            log_figure(trainer, self.technique, figure)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks once in ``validate``."""
        if trainer.state.fn == "validate":
            self._once(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Looks once in ``test``."""
        self._once(trainer, pl_module, "test")

    def _once(self, trainer: pl.Trainer, module: pl.LightningModule, part: Part) -> None:
        found = self.look(trainer, module, part, last=True)
        self._log(module, found)
        self._write(trainer, f"{self.technique}_{part}", part, {**found.numbers, **found.details})

    def _add(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int, last: bool) -> Look:
        found = self.look(trainer, module, self.part, last)
        self.rows.append({"epoch": epoch, "step": trainer.global_step, **found.numbers, **found.details})
        if last:
            self._final = trainer.global_step
        return found

    def _named(self, found: Look) -> dict[str, float]:
        return {f"{self.technique}/{name}": float(value) for name, value in found.numbers.items()}

    def _log(self, module: pl.LightningModule, found: Look) -> None:
        for name, value in self._named(found).items():
            module.log(name, value, rank_zero_only=True)

    def _write(self, trainer: pl.Trainer, name: str, part: Part, content: Mapping[str, Any]) -> None:
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        about = {"part": part, "layer": self._embedding, "normalize": self.normalize}
        report = {"note": NOTE, **about, **content}
        path = Path(trainer.default_root_dir) / f"{name}.json"
        write_text(path, json.dumps(_finite(report), indent=1) + "\n")
        rank_zero_info(f"{self.name}: {path}. {NOTE}")

    def counts(self, samples: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Returns how often each of so many samples is in each resample (R, N), and what a report says of it."""
        indices = resample_indices(samples, self.resamples, self.seed)
        about = {"samples": samples, "resamples": self.resamples, "seed": self.seed, "sha256": indices_hash(indices)}
        return sample_counts(indices), about

    def embed(
        self, trainer: pl.Trainer, module: pl.LightningModule, part: Part, most: int | None, outputs: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns embeddings (N, D) float32 as they are, or the module's outputs (N, …), and the targets of a part.

        Args:
            trainer: The Trainer.
            module: The module.
            part: Part of the data.
            most: Largest number of examples.
            outputs: Whether the module's outputs are returned instead.

        Raises:
            UserError: there is no such data or layer.
        """
        key = f"{self.name}.layer"
        layer = "" if outputs else find_projection(module, self.layer, key)
        self._embedding = layer or self._embedding
        batches = self._batches(trainer, part, most)
        with torch.inference_mode(False):
            found, targets = embed(module, batches, layer, "post" if outputs else "pre", module.device, key)
        # batches of others may go beyond it
        return found["post" if outputs else "pre"].numpy()[:most], targets.numpy()[:most]

    def scaled(self, z: np.ndarray) -> np.ndarray:
        """Returns embeddings (N, D) in float64, of norm 1 if that is asked for."""
        return unit_rows(z) if self.normalize else np.asarray(z, np.float64)

    def _batches(self, trainer: pl.Trainer, part: Part, most: int | None) -> Any:
        data = getattr(trainer, "datamodule", None)
        collate = getattr(data, "collate_fn", None)

        def loader(dataset: Any) -> Any:
            return ExactLoader(dataset, self.batch_size, False, collate_fn=collate, seed=0, ranks=lambda: (1, 0))

        if isinstance(data, HasExamples):
            found = loader(data.examples(part))
        else:
            found = batches_of(data, part, f"{self.name}.part", size=self.batch_size)
        if most is None:
            return found
        if isinstance(found, ExactLoader) and len(found.dataset) > most:
            rows = np.random.default_rng(self.seed).permutation(len(found.dataset))[:most]
            return loader(Subset(found.dataset, np.sort(rows).tolist()))
        return found if isinstance(found, ExactLoader) else _first(found, most)

    def state_dict(self) -> dict[str, Any]:
        """Returns the rows so far."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.rows = [dict(row) for row in state_dict["rows"]]


def _first(batches: Any, most: int) -> Any:
    """Batches until there are so many examples."""
    count = 0
    for batch in batches:
        yield batch
        count += len(batch[0] if isinstance(batch, tuple | list) else batch["x"])
        if count >= most:
            return


def _finite(value: Any) -> Any:
    """Plain data in which what is not finite is null."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
