"""The observer of a network's codes."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

from callbacks.neural_code.codes_file import CodesFile, PartCodes, write_codes
from callbacks.neural_code.figures import code_figure
from callbacks.neural_code.reading import PartReader, Read, choose_rows, first_rank_buffers
from framework.editing import Context, Observer
from framework.errors import UserError
from framework.figures import log_figure
from framework.files import write_text
from framework.functional.neural_code import (
    CodeReader,
    Space,
    kmeans_purity,
    knn_classes,
    logistic_classes,
    redundancy_ratio,
    unpack_bits,
)
from framework.functional.neural_code.categories import NEIGHBOURS
from framework.settings import at_least, at_most, between, not_empty, one_of

Part = Literal["train", "val", "test"]
Classifier = Literal["kmeans", "knn", "logistic"]
When = Literal["end", "always"]
MOST_FLOATS = 8e9  # bytes of the codes that K-means and logistic regression convert
LARGE_FILE = 1e9  # bytes of codes from which a warning says how to have fewer


class NeuralCode(Observer):
    """Logs, draws and writes the codes of a network (see the docstring of the package).

    Args:
        epochs: Epochs after which codes are read, 0 being the start; by default the start and each epoch. The end is
            always one.
        parts: Parts of the data, of ``train``, ``val`` and ``test``; classifiers are fitted to ``train``.
        layers: Names of layers (entirely or their last parts, with ``*``); by default all ReLU-like activations or, if
            there are none, all others. The name of another module is that of its output, whose signs are read.
        space: ``each`` position of a feature map has a bit, or each channel, 1 if it is on at ``any`` position.
        classifiers: Which of ``kmeans``, ``knn`` and ``logistic`` to fit to the codes.
        classify: When to fit them: ``end``, or ``always``, after each of ``epochs``.
        examples: Largest number of examples of each part, drawn at random from larger ones; null for all.
        fit_examples: Largest number of them for the classifiers.
        max_iter: Largest number of iterations of logistic regression.
        under: Redundancy ratio from which the regime is under-expressive.
        sufficient: Redundancy ratio up to which it is sufficiently expressive.
        save: Whether codes are written to ``codes.npz``.
        batch_size: Examples in a pass of the network.

    Raises:
        UserError: a setting is not accepted; before training: the module has no ``forward``, no layer is found or a
            name is none, the data has no length or no classes, or its codes are too long for the classifiers.
    """

    technique = "neural_code"

    def __init__(
        self,
        epochs: tuple[int, ...] | None = None,
        parts: tuple[Part, ...] = ("train", "val"),
        layers: list[str] | None = None,
        space: Space = "each",
        classifiers: tuple[Classifier, ...] = ("kmeans", "knn", "logistic"),
        classify: When = "end",
        examples: int | None = 10_000,
        fit_examples: int = 5000,
        max_iter: int = 1000,
        under: float = 0.5,
        sufficient: float = 0.01,
        save: bool = True,
        batch_size: int = 256,
    ) -> None:
        self.epochs = None if epochs is None else tuple(epochs)
        self.parts, self.layers, self.space = tuple(parts), layers, space
        self.classifiers, self.classify, self.examples = tuple(classifiers), classify, examples
        self.fit_examples, self.max_iter, self.under = fit_examples, max_iter, under
        self.sufficient, self.save, self.batch_size = sufficient, save, batch_size
        at_least(0, epochs=self.epochs)
        not_empty(parts=self.parts, layers=layers)
        one_of(get_args(Part), parts=self.parts)
        one_of(get_args(Space), space=space)
        one_of(get_args(Classifier), classifiers=self.classifiers)
        one_of(get_args(When), classify=classify)
        at_least(1, examples=examples, max_iter=max_iter, batch_size=batch_size)
        at_least(NEIGHBOURS if "knn" in self.classifiers else 1, fit_examples=fit_examples)
        between(0, 1, under=under)
        at_least(0, sufficient=sufficient)
        at_most({"under": under}, sufficient=sufficient)
        if len(set(self.parts)) < len(self.parts):
            raise UserError(f"parts: {list(self.parts)} is not accepted; each part once")
        if {"knn", "logistic"} & set(self.classifiers) and "train" not in self.parts:
            raise UserError(f"parts: {list(self.parts)} is not accepted; knn and logistic are fitted to train")
        self.rows: list[dict[str, Any]] = []
        self.kind = self.technique
        self._codes: CodesFile | None = None
        self._final = -1  # the step of the last measurement with all that the end has

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses a module that cannot be called on inputs.

        Raises:
            UserError: it has no ``forward``.
        """
        if type(model).forward is pl.LightningModule.forward:
            raise UserError(f"{self.name}: {type(model).__name__} has no forward, so its codes cannot be read")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the code of one example of each part, so that what cannot work is known before training."""
        if trainer.global_step == 0:
            self.rows.clear()  # of an earlier training
        reader = self._reader(trainer, pl_module, 1)
        with first_rank_buffers(trainer, pl_module):
            self._examine(reader, {part: reader.read(part, 1, 0) for part in self.parts})

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Measures before the first step."""
        if not self.rows and trainer.global_step == 0 and batch_idx == 0 and (self.epochs is None or 0 in self.epochs):
            self._add(trainer, pl_module, 0)
            # straight to the loggers: what pl_module.log has here would be repeated in every row of the first epoch
            names = {f"{self.kind}/{k}": float(v) for k, v in self.rows[-1].items() if k not in ("epoch", "step")}
            for logger in trainer.loggers:
                logger.log_metrics({**names, "epoch": 0}, step=0)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures after the epochs asked for, and after the last one."""
        epoch = trainer.current_epoch + 1
        last = epoch == trainer.max_epochs or trainer.should_stop or trainer.global_step == trainer.max_steps
        if last or self.epochs is None or epoch in self.epochs:
            self._add(trainer, pl_module, epoch, last)
            self._log(pl_module, self.rows[-1])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draws and writes the measurements, and the codes of the end."""
        if self._final != trainer.global_step:  # training ended within an epoch, or by a callback after this one
            if self.rows and self.rows[-1]["step"] == trainer.global_step:
                self.rows.pop()
            self._add(trainer, pl_module, trainer.current_epoch, True)
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        folder = Path(trainer.default_root_dir)
        write_text(folder / "neural_code.json", json.dumps({"kind": self.kind, "rows": self.rows}, indent=1) + "\n")
        log_figure(trainer, self.technique, code_figure(self.rows, list(self.parts), self.under, self.sufficient))
        if self.save and self._codes is not None:
            write_codes(folder / "codes.npz", self._codes)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures where the command is ``validate``."""
        if trainer.state.fn == "validate":
            self._evaluate(trainer, pl_module, "val")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measures training and test data."""
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule, part: Part) -> None:
        data = getattr(trainer, "datamodule", None)
        trained = "train" in self.parts and getattr(data, "train_set", None) is not None
        row, codes = self._measure(trainer, pl_module, ("train", part) if trained else (part,), True)
        self._log(pl_module, {name: value for name, value in row.items() if not name.startswith("train/")})
        if self.save and trainer.is_global_zero and not getattr(trainer, "fast_dev_run", False):
            write_codes(Path(trainer.default_root_dir) / f"codes_{part}.npz", codes)

    def _add(self, trainer: pl.Trainer, module: pl.LightningModule, epoch: int, last: bool = False) -> None:
        row, self._codes = self._measure(trainer, module, self.parts, last or self.classify == "always")
        if last:
            self._final = trainer.global_step
            for part in self.parts:  # of the end alone: a sweep's value is the best one that is logged
                ratio = row[f"{part}/redundancy_ratio"]
                row[f"{part}/regime"] = 0 if ratio >= self.under else 2 if ratio <= self.sufficient else 1
        self.rows.append({"epoch": epoch, "step": trainer.global_step, **row})

    def _log(self, module: pl.LightningModule, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name not in ("epoch", "step"):
                module.log(f"{self.kind}/{name}", float(value), rank_zero_only=True)

    def _measure(
        self, trainer: pl.Trainer, module: pl.LightningModule, parts: tuple[Part, ...], classify: bool
    ) -> tuple[dict[str, float], CodesFile]:
        """Returns the measurements, by name without the prefix, and the codes; the same on all processes."""
        reader = self._reader(trainer, module, self.batch_size)
        keep = None if self.save else (self.fit_examples if classify and self.classifiers else 0)
        with first_rank_buffers(trainer, module):
            read = {part: reader.read(part, self.examples, keep) for part in parts}
        self._examine(reader, read)
        assert reader.codes is not None
        self.kind = reader.codes.kind
        ones = np.bitwise_or.reduce([found.columns.ones for found in read.values()])
        zeros = np.bitwise_or.reduce([found.columns.zeros for found in read.values()])
        varying = np.unpackbits(ones & zeros, count=reader.codes.bits).astype(bool)
        row: dict[str, float] = {"bits": reader.codes.bits, "varying_bits": int(varying.sum())}
        for part, found in read.items():
            ratio = redundancy_ratio(len(found.ids), found.distinct)
            row |= {
                f"{part}/redundancy_ratio": ratio,
                f"{part}/examples": len(found.ids),
                f"{part}/distinct": found.distinct,
            }
        if classify and self.classifiers:
            scores: Any = self._scores(read, varying) if trainer.is_global_zero else None
            row |= trainer.strategy.broadcast(scores)
        codes: dict[str, PartCodes] = {p: PartCodes(f.packed, f.ids[f.kept], f.labels[f.kept]) for p, f in read.items()}
        return row, CodesFile(self.kind, reader.codes.layers, varying, codes)

    def _reader(self, trainer: pl.Trainer, module: pl.LightningModule, batch_size: int) -> PartReader:
        make = partial(CodeReader, module, layers=self.layers, space=self.space, key=f"{self.name}.layers")
        return PartReader(trainer, module, make, batch_size, self.name)

    def _examine(self, reader: PartReader, read: dict[Part, Read]) -> None:
        """Refuses what the classifiers cannot be fitted to, on all processes alike."""
        assert reader.codes is not None
        bits, most = reader.codes.bits, self.examples
        counts = [found.total if most is None else min(found.total, most) for found in read.values()]
        for part, found in read.items():
            if self.classifiers and (found.labels < 0).any():
                raise UserError(f"{self.name}.classifiers: the {part} data has no classes; give [] for no classifiers")
        fitted = min(self.fit_examples, max(counts))
        floats = 8 * fitted * bits
        if {"kmeans", "logistic"} & set(self.classifiers) and floats > MOST_FLOATS:
            raise UserError(
                f"{self.name}.classifiers: kmeans and logistic would convert {fitted} codes of {bits} bits to float64, "
                f"{floats / 1e9:.0f} GB; leave them out, or have fewer bits (space: any, layers) or fit_examples"
            )
        size = sum(counts) * -(-bits // 8)
        if self.save and size > LARGE_FILE:
            rank_zero_warn(
                f"{self.name}: the codes to save take {size / 1e9:.0f} GB of memory, and as much of the disk; "
                "save: false, fewer examples or fewer bits (space: any, layers) avoid that"
            )

    def _scores(self, read: dict[Part, Read], varying: np.ndarray) -> dict[str, float]:
        """Returns the accuracies of the classifiers on codes without constant columns."""
        if not varying.any():
            varying = varying.copy()
            varying[0] = True  # all codes are one: any column says so
        bits, labels = {}, {}
        for part, found in read.items():
            rows = choose_rows(len(found.kept), self.fit_examples, seed=1)
            labels[part] = found.labels[found.kept][rows]
            bits[part] = unpack_bits(found.packed[rows], len(varying), varying)
        scores: dict[str, float] = {}
        if "kmeans" in self.classifiers:
            classes = len(np.unique(np.concatenate([*labels.values()])))
            scores |= {f"{part}/kmeans": kmeans_purity(bits[part], labels[part], classes) for part in read}
        others = [part for part in read if part != "train"]
        if "train" not in read:
            return scores
        if "knn" in self.classifiers:
            packed = {part: np.packbits(code, axis=1) for part, code in bits.items()}
            k = min(NEIGHBOURS, len(labels["train"]))
            for part in others:
                near = knn_classes(packed["train"], labels["train"], packed[part], bits["train"].shape[1], k)
                scores[f"{part}/knn"] = float((near == labels[part]).mean())
        if "logistic" in self.classifiers and others and len(np.unique(labels["train"])) > 1:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UserWarning)
                fitted = logistic_classes(
                    bits["train"], labels["train"], np.concatenate([bits[part] for part in others]), self.max_iter
                )
            for message in {str(item.message) for item in caught if item.category is UserWarning}:
                rank_zero_warn(f"{self.name}: {message}")
            for part, own in zip(
                others, np.split(fitted, np.cumsum([len(labels[p]) for p in others])[:-1]), strict=True
            ):
                scores[f"{part}/logistic"] = float((own == labels[part]).mean())
        return scores

    def state_dict(self) -> dict[str, Any]:
        """Returns the measurements so far."""
        return {"rows": self.rows, "kind": self.kind}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores them."""
        self.rows, self.kind = [dict(row) for row in state_dict["rows"]], state_dict["kind"]
