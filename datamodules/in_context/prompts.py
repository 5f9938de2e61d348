"""Regression prompts, drawn on the device batch by batch, or from the user's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from datamodules.in_context.prompt_files import read_prompts
from framework.data import DataModule
from framework.data.loader import ExactLoader
from framework.data.seeding import mix
from framework.errors import UserError
from framework.functional.regression_prompts import SPECTRA, Function, PromptLaw
from framework.functional.regression_prompts import Prompts as Batch
from framework.settings import above, at_least, between, finite, not_empty, one_of

Covariance = Literal["identity", "ar", "exponential", "uniform"]
Source = Literal["gaussian", "diabetes", "breast_cancer", "digits"]
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


def covariance(kind: Covariance, dim: int, correlation: float, eigenvalues: list[float] | None) -> Tensor:
    """Returns Λ: the identity, Λ_ij = r^|i−j|, or diagonal.

    Args:
        kind: ``ar`` for r^|i−j|; else the identity.
        dim: d.
        correlation: r, above -1 and below 1.
        eigenvalues: The d numbers of a diagonal, above 0, whatever the kind; ``None`` for none.

    Returns:
        (d, d), float64.

    Raises:
        UserError: a setting is not accepted.
    """
    if eigenvalues is not None:
        above(0, eigenvalues=eigenvalues)
        if len(eigenvalues) != dim:
            raise UserError(f"eigenvalues: {eigenvalues} is not accepted; dim ({dim}) numbers")
        return torch.diag(torch.tensor(eigenvalues, dtype=torch.float64))
    if kind != "ar":
        return torch.eye(dim, dtype=torch.float64)
    between(-1, 1, "()", correlation=correlation)
    place = torch.arange(dim, dtype=torch.float64)
    return correlation ** (place[:, None] - place).abs()


def real_rows(source: Source, whiten: bool) -> Tensor:
    """Rows (n, d) of a data set of scikit-learn, each column with mean 0 and variance 1; constant columns left out.

    Args:
        source: One of :data:`Source` but the first.
        whiten: Whether columns are made uncorrelated too; directions without variance are left out.
    """
    from sklearn import datasets

    rows = np.asarray(getattr(datasets, f"load_{source}")().data, dtype=np.float64)
    rows = rows[:, rows.std(0) > 0]
    rows = (rows - rows.mean(0)) / rows.std(0)
    if whiten:
        u, s, _ = np.linalg.svd(rows, full_matrices=False)
        rows = u[:, s > 1e-8 * s[0]] * len(rows) ** 0.5
    return torch.as_tensor(rows)


class Prompts(DataModule):
    """Prompts ``x`` (N examples and the query) with labels ``y = f(⟨w, x⟩) + ε``, ``w ~ N(w*, Ψ)``, fresh at each step.

    A training batch holds ``inner_steps`` steps of ``batch_size`` prompts: ``x`` (K, B, N + 1, d) and ``y``
    (K, B, N + 1, T). An evaluation batch holds ``x`` (B, M + 1, d), ``y`` (B, M + 1, T), M of ``eval_lengths``. All are
    drawn on the device that trains, from (``seed``, epoch, number of the batch): any of them can be drawn again.

    Reads: ``.npz`` of prompts. Without a path: drawn from any prior, covariance, noise and shift, or rows of
    scikit-learn's data sets.

    Args:
        path: The user's prompts (:func:`~datamodules.in_context.prompt_files.read_prompts`): the last tenth evaluates,
            batches are drawn from the rest.
        source: Without a path, where x comes from: ``gaussian``, or standardised rows of scikit-learn's ``diabetes``,
            ``breast_cancer`` or ``digits`` (``dim`` must be their number of columns).
        whiten: Whether real rows are made uncorrelated.
        dim: d.
        length: N, examples of a training prompt.
        covariance: Λ of a Gaussian x: ``identity``, ``ar`` (``correlation`` to the distance), or ``exponential`` or
            ``uniform``: diagonal with entries that each prompt draws again, of mean 1.
        correlation: r of ``ar``.
        eigenvalues: A diagonal Λ instead.
        scale: c, multiplies every x before it is labelled.
        query_scale: Multiplies the query's x on top of it, also before it is labelled.
        prior_mean: w*: a number m for m (1, …, 1)/√d, or d numbers.
        prior_variance: Ψ = this times the identity.
        noise: σ², a variance.
        noisy_query: Whether the query's label has noise too.
        function: f: ``linear``, ``relu``, ``tanh``, ``sine``, ``square`` or ``sign``.
        blocks: For several labels a point: the coordinates that each one's task looks at, for example
            ``[[0, 1, 2, 3], [2, 3, 4, 5]]``.
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

    def __init__(
        self,
        path: str | Path | None = None,
        source: Source = "gaussian",
        whiten: bool = False,
        dim: int = 5,
        length: int = 20,
        covariance: Covariance = "identity",
        correlation: float = 0.5,
        eigenvalues: list[float] | None = None,
        scale: float = 1.0,
        query_scale: float = 1.0,
        prior_mean: float | list[float] = 0.0,
        prior_variance: float = 1.0,
        noise: float = 0.0,
        noisy_query: bool = False,
        function: Function = "linear",
        blocks: list[list[int]] | None = None,
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
        finite(correlation=correlation, eigenvalues=eigenvalues, scale=scale, query_scale=query_scale)
        finite(prior_mean=prior_mean, prior_variance=prior_variance, noise=noise)
        counts = {"dim": dim, "length": length, "batch_size": batch_size, "inner_steps": inner_steps}
        counts |= {"batches": batches, "eval_prompts": eval_prompts, "eval_batch_size": eval_batch_size}
        at_least(1, **counts)
        above(0, scale=scale, query_scale=query_scale)
        at_least(0, noise=noise, prior_variance=prior_variance, curriculum=curriculum)
        one_of(get_args(Source), source=source)
        one_of(get_args(Covariance), covariance=covariance)
        one_of(get_args(Function), function=function)
        self.eval_lengths = [max(1, length // 4), length, 4 * length] if eval_lengths is None else list(eval_lengths)
        not_empty(eval_lengths=self.eval_lengths)
        at_least(1, eval_lengths=self.eval_lengths)
        if length not in self.eval_lengths:
            self.eval_lengths.append(length)  # last: the others' prompts stay what they are without it
        self.path, self.source, self.whiten, self.dim, self.length = path, source, whiten, dim, length
        self.covariance, self.correlation, self.eigenvalues = covariance, correlation, eigenvalues
        self.scale, self.query_scale, self.prior_mean, self.prior_variance = (
            scale,
            query_scale,
            prior_mean,
            prior_variance,
        )
        self.noise, self.noisy_query, self.function, self.blocks = noise, noisy_query, function, blocks
        self.prompts, self.inner_steps, self.batches, self.curriculum = batch_size, inner_steps, batches, curriculum
        self.eval_prompts, self.seed = eval_prompts, seed
        self.files: tuple[Tensor, Tensor] | None = None

    def setup(self, stage: str) -> None:
        """Fixes the law, and reads the user's prompts.

        Raises:
            UserError: a setting is not accepted, or the file is missing, broken, of other sizes or too short.
        """
        self.law = self._law()
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

    def _law(self) -> PromptLaw:
        """What the settings say.

        Raises:
            UserError: they do not fit together.
        """
        mask = None
        if self.blocks is not None:
            mask = torch.zeros(len(self.blocks), self.dim, dtype=torch.float64)
            for row, block in zip(mask, self.blocks, strict=True):
                if not block or min(block) < 0 or max(block) >= self.dim:
                    raise UserError(f"blocks: {self.blocks} is not accepted; lists of coordinates below {self.dim}")
                row[block] = 1
        tasks = 1 if mask is None else len(mask)
        if isinstance(self.prior_mean, list):
            if len(self.prior_mean) != self.dim:
                raise UserError(f"prior_mean: {self.prior_mean} is not accepted; a number, or dim ({self.dim}) numbers")
            mean = torch.tensor(self.prior_mean, dtype=torch.float64)
        else:
            mean = torch.full((self.dim,), self.prior_mean / self.dim**0.5, dtype=torch.float64)
        x_cov, rows = covariance(self.covariance, self.dim, self.correlation, self.eigenvalues), None
        if self.source != "gaussian":
            rows = real_rows(self.source, self.whiten)
            if rows.shape[1] != self.dim:
                raise UserError(f"dim: {self.dim} is not accepted; {self.source} has {rows.shape[1]} columns")
            if self.query_scale != 1:
                raise UserError(f"query_scale: {self.query_scale} is not accepted with real rows; 1")
            x_cov = rows.T @ rows / len(rows)
        return PromptLaw(
            x_cov=x_cov,
            task_mean=mean.expand(tasks, -1).clone(),
            task_cov=self.prior_variance * torch.eye(self.dim, dtype=torch.float64),
            noise=self.noise,
            noisy_query=self.noisy_query,
            query_cov=None if self.query_scale == 1 else self.query_scale**2 * x_cov,
            spectrum=self.covariance if self.covariance in SPECTRA and self.source == "gaussian" else None,
            scale=self.scale,
            function=self.function,
            mask=mask,
            rows=rows,
        )

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
