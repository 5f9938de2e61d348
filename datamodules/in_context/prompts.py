"""Regression prompts, generated on the device batch by batch, or from the user's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.in_context.law import LawConfig, Source
from datamodules.in_context.prompt_files import read_prompts
from framework.data import DataModule
from framework.data.loader import ExactLoader
from framework.data.seeding import mix
from framework.errors import UserError
from framework.functional.regression_prompts import PromptLaw
from framework.functional.regression_prompts import Prompts as Batch
from framework.module import as_dataclass
from framework.settings import at_least, not_empty, one_of

TRAIN, VAL, TEST, OTHER = range(4)  # streams of random numbers


class _Requests(Dataset):
    """Prompts by their place; a batch of them is a request (stream, examples, number), drawn on the device.

    Args:
        stream: Of random numbers.
        lengths: M, one after the other.
        prompts: Of each length, a multiple of ``together`` where there are several.
        together: Prompts of a request, the loader's batch size.
    """

    draws_random_numbers = False

    def __init__(self, stream: int, lengths: list[int], prompts: int, together: int = 1) -> None:
        self.stream, self.lengths, self.prompts, self.together = stream, lengths, prompts, together

    def __len__(self) -> int:
        return len(self.lengths) * self.prompts

    def __getitem__(self, index: int) -> Tensor:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Tensor:
        """Returns the request (3,) of a batch."""
        length, place = divmod(indices[0], self.prompts)
        return torch.tensor([self.stream, self.lengths[length], place // self.together])


class Prompts(DataModule):
    """Prompts ``x`` (N examples and the query) with labels ``y = f(⟨w, x⟩) + ε``, ``w ~ N(w*, Ψ)``, fresh at each step.

    A training batch holds ``inner_steps`` steps of ``batch_size`` prompts: ``x`` (K, B, N + 1, d) and ``y``
    (K, B, N + 1, T). An evaluation batch holds ``x`` (B, M + 1, d), ``y`` (B, M + 1, T), M of ``eval_lengths``. All are
    drawn on the device that trains, from (``seed``, epoch, number of the batch): any of them can be drawn again.

    Reads: ``.npz`` of prompts, finite numbers only. Without a path: drawn from any prior, covariance, noise and
        shift, or rows of scikit-learn's data sets.

    Args:
        path: The user's prompts (:func:`~datamodules.in_context.prompt_files.read_prompts`): the last tenth evaluates,
            batches are drawn from the rest.
        source: Without a path, where x comes from: ``gaussian``, or standardised rows of scikit-learn's ``diabetes``,
            ``breast_cancer`` or ``digits`` (``dim`` must be their number of columns).
        whiten: Whether real rows are made uncorrelated.
        dim: d.
        length: N, examples of a training prompt.
        law: The distributions of the examples, the tasks and the labels.
        batch_size: Number of prompts per step.
        inner_steps: Number of steps per batch; the same as the module's.
        batches: Number of batches in an epoch.
        curriculum: If above 0, prompts start with 5 coordinates that are not zero and 10 examples; after this number of
            steps there is one coordinate more, and two examples, up to d and N (Garg et al. 2022).
        eval_lengths: M; by default N/4, N and 4N. N, at which ``val/loss`` is measured, is added if it is missing.
        eval_prompts: Number of prompts of each M in a validation; ten times as many in a test.
        eval_batch_size: Number of these per batch.
        seed: Seed of all draws.

    Raises:
        UserError: a setting is not accepted; the file cannot be read or is something else (in ``setup``).
    """

    law: PromptLaw
    moved: ClassVar[dict[str, str]] = {
        name: f"law.{name}"
        for name in (
            *("covariance", "correlation", "eigenvalues", "scale", "query_scale", "prior_mean", "prior_variance"),
            *("noise", "noisy_query", "function", "blocks"),
        )
    }

    def __init__(
        self,
        path: str | Path | None = None,
        source: Source = "gaussian",
        whiten: bool = False,
        dim: int = 5,
        length: int = 20,
        law: LawConfig = LawConfig(),
        batch_size: int = 256,
        inner_steps: int = 50,
        batches: int = 20,
        curriculum: int = 0,
        eval_lengths: list[int] | None = None,
        eval_prompts: int = 16384,
        eval_batch_size: int = 4096,
        seed: int = 0,
    ) -> None:
        together = min(eval_batch_size, eval_prompts)
        super().__init__(batch_size=1, eval_batch_size=together)
        counts = {"dim": dim, "length": length, "batch_size": batch_size, "inner_steps": inner_steps}
        counts |= {"batches": batches, "eval_prompts": eval_prompts, "eval_batch_size": eval_batch_size}
        at_least(1, **counts)
        at_least(0, curriculum=curriculum)
        one_of(get_args(Source), source=source)
        self.eval_lengths = [max(1, length // 4), length, 4 * length] if eval_lengths is None else list(eval_lengths)
        not_empty(eval_lengths=self.eval_lengths)
        at_least(1, eval_lengths=self.eval_lengths)
        if length not in self.eval_lengths:
            self.eval_lengths.append(length)  # last: the others' prompts stay what they are without it
        self.path, self.source, self.whiten, self.dim, self.length = path, source, whiten, dim, length
        self.law_config = as_dataclass(LawConfig, law)
        self.prompts, self.inner_steps, self.batches, self.curriculum = batch_size, inner_steps, batches, curriculum
        self.eval_prompts, self.seed = eval_prompts, seed
        self.files: tuple[Tensor, Tensor] | None = None

    def setup(self, stage: str) -> None:
        """Fixes the law, and reads the user's prompts.

        Raises:
            UserError: a setting is not accepted, or the file is missing, broken, of other sizes or too short.
        """
        self.law = self.law_config.build(self.dim, self.source, self.whiten)
        if self.path is not None:
            x, y = read_prompts(Path(self.path).expanduser())
            if x.shape[2] != self.dim or y.shape[2] != self.law.tasks:
                mine = f"dim {self.dim} and {self.law.tasks} labels"
                raise UserError(
                    f"path: {self.path} has d = {x.shape[2]} and {y.shape[2]} labels; the config says {mine}"
                )
            if len(x) < 10:
                raise UserError(f"path: {self.path} has {len(x)} prompts; at least 10 are needed")
            self.files, self.length, self.eval_lengths = (x, y), x.shape[1] - 1, [x.shape[1] - 1]
        self.train_set = _Requests(TRAIN, [self.length], self.batches)
        self.val_set = self._evaluation(VAL, self.eval_prompts)
        self.test_set = self._evaluation(TEST, 10 * self.eval_prompts)

    def _evaluation(self, stream: int, prompts: int) -> _Requests:
        """Prompts of each length; whole batches of them, or what there is in the file."""
        together = self.eval_batch_size
        whole = -(-prompts // together) * together
        if self.files is not None:
            whole = len(self.files[0]) - self._kept()
        return _Requests(stream, self.eval_lengths, whole, together)

    def train_dataloader(self) -> Any:
        """Yields batches by number, in order: their contents are random."""
        return ExactLoader(self.train_set)

    def _generator(self, *place: int, device: torch.device | str = "cpu") -> torch.Generator:
        return torch.Generator(device).manual_seed(mix(self.seed, *place))

    def draw(self, prompts: int, length: int, index: int = 0, law: PromptLaw | None = None) -> Batch:
        """Prompts of this law, or of another, that neither training nor evaluation sees; on the CPU.

        Args:
            prompts: B.
            length: N.
            index: Another number, other prompts.
            law: By default this one's.
        """
        generator = self._generator(OTHER, length, index)
        return (self.law if law is None else law).sample(prompts, length, generator)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        """Draws the prompts of a request (3,), on its device."""
        stream, length, number = (int(value) for value in batch)
        epoch = self.trainer.current_epoch if stream == TRAIN and self.trainer is not None else 0
        generator = self._generator(stream, length, number, epoch, device=batch.device)
        steps = self.inner_steps if stream == TRAIN else 1
        count = steps * self.prompts if stream == TRAIN else self.eval_batch_size
        if self.files is not None:
            found = self._from_files(stream, number, count, generator)
        else:
            law, length = self._stage(length) if stream == TRAIN and self.curriculum else (self.law, length)
            found = law.sample(count, length, generator)
        if stream != TRAIN:
            return found
        return {name: value.reshape(steps, self.prompts, *value.shape[1:]) for name, value in found.items()}

    def _stage(self, length: int) -> tuple[PromptLaw, int]:
        """Returns the law and the length that the curriculum has come to."""
        grown = 0 if self.trainer is None else self.trainer.global_step * self.inner_steps // self.curriculum
        return self.law.with_changes(active=min(self.dim, 5 + grown)), min(length, 10 + 2 * grown)

    def _kept(self) -> int:
        """How many of the user's prompts train."""
        assert self.files is not None
        return len(self.files[0]) - max(1, len(self.files[0]) // 10)

    def _from_files(self, stream: int, number: int, count: int, generator: torch.Generator) -> Batch:
        """Rows of the user's prompts: for training drawn with replacement, else in order."""
        assert self.files is not None
        kept, device = self._kept(), generator.device
        if stream == TRAIN:
            chosen = torch.randint(kept, (count,), generator=generator, device=device).cpu()
        else:
            start = kept + number * count
            chosen = torch.arange(start, min(start + count, len(self.files[0])))
        x, y = (value[chosen].to(device) for value in self.files)
        return {"x": x, "y": y}
