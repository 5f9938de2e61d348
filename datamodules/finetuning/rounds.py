"""Training data that arrives in rounds: the training set of any datamodule of this project, in growing parts.

The two settings of Ash & Adams, 2020 (arXiv 1910.08475): first a random share of the data and then all of it, and an
online setting in which every round adds some samples to the earlier ones.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from framework.data import DataModule
from framework.data.arrays import ArrayDataset
from framework.data.loader import draws_random_numbers
from framework.data.seeding import mix
from framework.errors import UserError
from framework.settings import above, at_least, between


def round_sizes(samples: int, per_round: float) -> list[int]:
    """Returns the number of samples in each round.

    Args:
        samples: Number of samples in the whole training set.
        per_round: Below 1, the share of the first of two rounds; at 1, one round with all samples; above 1, the number
            that each round adds (the last round adds the rest).

    Raises:
        UserError: ``per_round`` is not above 0, or is above 1 and not a whole number.
    """
    if not per_round > 0 or (per_round > 1 and per_round != int(per_round)):
        raise UserError(f"per_round: {per_round} is not accepted; a share in (0, 1], or a whole number of samples")
    if per_round == 1 or per_round >= samples:
        return [samples]
    if per_round < 1:
        return [max(1, round(per_round * samples)), samples]
    return [min(samples, (k + 1) * int(per_round)) for k in range(math.ceil(samples / per_round))]


def take(dataset: Any, rows: Tensor, like: Any = None) -> Dataset:
    """Some samples of a data set.

    Args:
        dataset: Map-style.
        rows: Indices of the samples, int64 (n,), in order.
        like: A data set whose transform is used instead of their own.

    Raises:
        UserError: ``like`` is given, and the data set's own transform cannot be separated from its data.
    """
    if isinstance(dataset, ArrayDataset):
        part = copy.copy(like if isinstance(like, ArrayDataset) else dataset)
        part.tensors = tuple(tensor[rows] for tensor in dataset.tensors)
        return part
    if like is not None and draws_random_numbers(dataset):
        raise UserError(
            "holdout: the training set's augmentation would be part of the test; data held in memory or without "
            "augmentation is needed"
        )
    return Subset(dataset, rows.tolist())


class RoundData(DataModule):
    """Serves the training set of another datamodule in rounds.

    Batches are those of the base datamodule. The order of the samples is a permutation fixed by ``order_seed``.
    Evaluation sets are the base's, or a share of its training set (``holdout``). The Trainer must ask for a loader each
    epoch: ``trainer.reload_dataloaders_every_n_epochs=1``. Another part must end a round, for example the technique
        ``accuracy_threshold``. The round is saved in checkpoints, so a resumed run is in the same one.

    Reads: the data of another datamodule, in rounds.

    Args:
        base: The datamodule: a class path, a class, or an instance (then without the arguments below that build it).
        base_args: Its constructor's arguments.
        path: Its ``path``, if it has this argument.
        per_round: Below 1, the share of the training set in the first of two rounds; at 1, one round with all samples;
            above 1, the number of samples that each round adds.
        max_rounds: Largest number of rounds; by default all.
        holdout: Share of the base's training set that becomes the validation and test set, instead of the base's own.
            The paper holds out a third. 0 keeps the base's sets.
        order_seed: Seed of the held-out share and of the samples' order.
        batch_size: Number of samples in a training batch, per process.
        later_batch_size: Batch size of the rounds after the first; by default the same.
        eval_batch_size: Number of samples in an evaluation batch; ``batch_size`` by default.
        num_workers: Loader processes.
        drop_last: Whether training drops an incomplete last batch.

    Attributes:
        round: The current round, from 0.
        rounds: Number of rounds (after ``setup``).

    Raises:
        UserError: a setting is not accepted (in the constructor); the Trainer does not reload the loaders, or there are
            fewer samples than needed (in ``setup``).
    """

    def __init__(
        self,
        base: Any = "datamodules.sequence.mnist1d.Mnist1D",
        base_args: dict[str, Any] | None = None,
        path: str | Path | None = None,
        per_round: float = 0.5,
        max_rounds: int | None = None,
        holdout: float = 0.0,
        order_seed: int = 0,
        batch_size: int = 128,
        later_batch_size: int | None = None,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size, num_workers, drop_last)
        above(0, per_round=per_round)
        round_sizes(2, per_round)
        between(0, 1, "[)", holdout=holdout)
        at_least(1, max_rounds=max_rounds)
        at_least(1, later_batch_size=later_batch_size)
        self.first_batch_size, self.later_batch_size = batch_size, later_batch_size
        self.per_round, self.max_rounds, self.holdout, self.order_seed = per_round, max_rounds, holdout, order_seed
        self.base = self._build(base, dict(base_args or {}), path)
        self.round = 0
        self.rounds = 0
        self.order: Tensor = torch.empty(0, dtype=torch.long)
        self._sizes: list[int] = []
        self._shown = -1

    def _build(self, base: Any, arguments: dict[str, Any], path: str | Path | None) -> DataModule:
        if isinstance(base, DataModule):
            if arguments or path is not None:
                raise UserError("base_args: not accepted if base is an instance")
            return base
        cls = base if isinstance(base, type) else _find_class(str(base))
        if not (isinstance(cls, type) and issubclass(cls, DataModule)):
            raise UserError(f"base: {base!r} is not a datamodule of framework.data.DataModule's kind")
        accepted = [name for name in inspect.signature(cls.__init__).parameters if name != "self"]
        for name in arguments:
            if name not in accepted:
                near = get_close_matches(name, accepted, n=1, cutoff=0.0)
                raise UserError(f"base_args: {cls.__name__} takes no {name!r}; nearest: {', '.join(near)}")
        if path is not None:
            if "path" not in accepted:
                raise UserError(f"path: {cls.__name__} takes none")
            arguments["path"] = path
        return cls(**arguments)

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the base datamodule (``num_classes``, ``channels``, ``class_names``, …)."""
        if name.startswith("_") or "base" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.__dict__["base"], name)

    def setup(self, stage: str | None = None) -> None:
        """Sets up the base, holds samples out, and draws the order, once.

        Raises:
            UserError: the Trainer does not ask for new data each epoch, the base has no training set of a known length,
                or the held-out share or the checkpoint's round does not fit.
        """
        trainer: Any = self.trainer
        if stage == "fit" and trainer is not None and trainer.reload_dataloaders_every_n_epochs != 1:
            raise UserError(
                f"trainer.reload_dataloaders_every_n_epochs: {trainer.reload_dataloaders_every_n_epochs} is not "
                "accepted with data in rounds; 1 is needed, or new data would never be seen"
            )
        if self._sizes:
            return
        base: Any = self.base
        base.setup(stage)
        whole: Any = self.base.train_set
        if whole is None or not hasattr(whole, "__len__"):
            raise UserError(f"base: {type(self.base).__name__} has no training set of a known length")
        generator = torch.Generator().manual_seed(mix(self.order_seed, 0x0DE5))
        order = torch.randperm(len(whole), generator=generator)
        held = round(self.holdout * len(whole))
        self.val_set, self.test_set, self.predict_set = self.base.val_set, self.base.test_set, self.base.predict_set
        if self.holdout:
            if not 0 < held < len(whole):
                raise UserError(f"holdout: {self.holdout} of {len(whole)} samples leaves one side empty")
            self.test_set = take(whole, order[:held].sort().values, like=self.base.test_set or whole)
            self.val_set, self.predict_set = self.test_set, None
        self.order = order[held:]
        self._sizes = round_sizes(len(self.order), self.per_round)[: self.max_rounds]
        self.rounds = len(self._sizes)
        self.collate_fn = self.base.collate_fn
        if self.round >= self.rounds:
            raise UserError(f"per_round: the checkpoint is in round {self.round}, there are {self.rounds} now")
        self._show()

    def _show(self) -> None:
        if self._sizes and self._shown != self.round:
            self.train_set = take(self.base.train_set, self.order[: self._sizes[self.round]])
            self._shown = self.round

    def train_dataloader(self) -> Any:
        """Shuffled batches of the current round's samples."""
        self.batch_size = self.later_batch_size if self.later_batch_size and self.round else self.first_batch_size
        return super().train_dataloader()

    def samples_in(self, number: int) -> int:
        """Returns the training samples of round ``number`` (after ``setup``)."""
        return self._sizes[number]

    def set_round(self, number: int) -> None:
        """Switches to round ``number``, from the next training loader on.

        Raises:
            UserError: there is no such round.
        """
        if number < 0 or (self._sizes and number >= self.rounds):
            raise UserError(f"round: there is no round {number}; there are {self.rounds}, from 0")
        self.round = number
        self._show()

    def advance(self) -> bool:
        """Switches to the next round; returns whether there was one."""
        if self.round + 1 >= self.rounds:
            return False
        self.set_round(self.round + 1)
        return True

    def state_dict(self) -> dict[str, Any]:
        """Returns the current round, and the settings that determine its samples."""
        return {"round": self.round, "samples": len(self.order), **self._fixed()}

    def _fixed(self) -> dict[str, Any]:
        return {"per_round": self.per_round, "holdout": self.holdout, "order_seed": self.order_seed}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restores the round of a checkpoint.

        Raises:
            UserError: the rounds have other sizes or another order now, or there are fewer.
        """
        now = {"samples": len(self.order) or state_dict.get("samples"), **self._fixed()}
        for key, value in now.items():
            if state_dict.get(key, value) != value:
                raise UserError(
                    f"{key}: the checkpoint's rounds were made with {state_dict[key]}, now it is {value}; "
                    "give the old value"
                )
        self.set_round(int(state_dict["round"]))


def _find_class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"base: no class {path!r}: {error}") from error
