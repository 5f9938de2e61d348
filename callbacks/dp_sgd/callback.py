"""The technique: trains a module with DP-SGD, and accounts for the privacy that it spends."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler
from lightning.pytorch.trainer.connectors.data_connector import _DataLoaderSource
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from callbacks.dp_sgd.accounting import Accountant, epsilon_of, noise_multiplier_for, steps_within
from callbacks.dp_sgd.batches import rows, shared_by, size_of, tensors_of
from callbacks.dp_sgd.buffers import Buffers
from callbacks.dp_sgd.examining import Findings, depends_on_padding, examine
from callbacks.dp_sgd.gradients import clipped_sums, trainable, write_gradients, zero_sums
from callbacks.dp_sgd.report import Spending, report_of
from callbacks.dp_sgd.sampling import PoissonLoader, again, new_secret, seed_of_step
from callbacks.dp_sgd.step import PrivateStep, Silence
from framework.data.arrays import WholeBatch
from framework.data.loader import ExactLoader
from framework.data.seeding import seeded
from framework.editing import Context, Plan, Writer
from framework.editing.capabilities import TRAINING_DATA
from framework.editing.capture import refuse_compiled
from framework.editing.technique import callbacks_of
from framework.errors import UserError
from framework.files import write_text
from framework.settings import above, at_least, between, one_of

Gradients = Literal["auto", "vmap", "loop"]
_SAMPLERS = (RandomSampler, SequentialSampler, DistributedSampler)  # which draw every sample once


def _of_training(monitor: str | None) -> bool:
    return str(monitor).startswith("train")


def _shown(values: list[Any]) -> str:
    return ", ".join(map(str, values[:4])) or "none"


class _PoissonSource(_DataLoaderSource):
    """A source of training batches whose loader is replaced by one with Poisson sampling."""

    def __init__(self, source: _DataLoaderSource, convert: Any) -> None:
        super().__init__(source.instance, source.name)
        self.convert = convert

    def dataloader(self) -> Any:
        return self.convert(super().dataloader())


class DPSGD(Writer):
    """Clips each sample's gradient, adds Gaussian noise to their sum, and logs ε.

    Args:
        epsilon: ε that the whole training may spend. The noise is chosen for it, unless it is given; the training ends
            before it would spend more.
        noise_multiplier: σ, standard deviation of the noise divided by ``max_grad_norm``. 0 only clips, which is not
            private.
        delta: δ, below 1 divided by the number of samples.
        max_grad_norm: C, largest norm of a sample's gradient; ``None`` (only without noise) does not clip.
        accountant: ``prv`` (tight) or ``rdp`` (faster, larger ε).
        physical_batch_size: Number of samples whose gradients are in memory together; all of a batch by default.
        gradients: ``vmap`` (all samples at once), ``loop`` (one after another), or ``auto``: vmap where it works.
        seed: Seed of the sampling and the noise; by default from the operating system, because who knows it can
            subtract the noise.

    Raises:
        UserError: a setting is not accepted (in the constructor); the module, the data, the Trainer or another
            technique does not fit (before training); samples are not independent, or a parameter gets no gradient (in
            the first step).
    """

    technique = "dp_sgd"
    phase = "update"

    def __init__(
        self,
        epsilon: float | None = None,
        noise_multiplier: float | None = None,
        delta: float = 1e-5,
        max_grad_norm: float | None = 1.0,
        accountant: Accountant = "prv",
        physical_batch_size: int | None = None,
        gradients: Gradients = "auto",
        seed: int | None = None,
    ) -> None:
        if epsilon is None and noise_multiplier is None:
            raise UserError("epsilon: epsilon (the noise is chosen for it) or noise_multiplier is needed")
        above(0, epsilon=epsilon, max_grad_norm=max_grad_norm)
        at_least(0, noise_multiplier=noise_multiplier, seed=seed)
        between(0, 1, "()", delta=delta)
        one_of(get_args(Accountant), accountant=accountant)
        one_of(get_args(Gradients), gradients=gradients)
        at_least(1, physical_batch_size=physical_batch_size)
        if max_grad_norm is None and noise_multiplier != 0:
            raise UserError("max_grad_norm: null is only accepted with noise_multiplier 0: noise is scaled by it")
        if noise_multiplier == 0 and epsilon is not None:
            raise UserError(
                f"epsilon: {epsilon:g} is not accepted with noise_multiplier 0, which has no finite epsilon"
            )
        self.epsilon, self.noise_multiplier, self.delta = epsilon, noise_multiplier, delta
        self.max_grad_norm, self.accountant = max_grad_norm, accountant
        self.physical_batch_size, self.gradients, self.seed = physical_batch_size, gradients, seed
        self._loader: PoissonLoader | None = None
        self._step: PrivateStep | None = None
        self._trained: weakref.ref[pl.LightningModule] | None = None
        self._forget()

    def _forget(self) -> None:
        self._secret = 0
        self._sigma: float | None = None
        self._history: list[list[float]] = []
        self._findings: Findings | None = None
        self._whole_seen = False  # whether the independence of samples was seen, or cannot be
        self._allowed: int | None = None
        self._parameters: dict[str, nn.Parameter] = {}
        self._stale = True
        self._sums: list[Tensor] | None = None
        self._before_step: dict[str, Tensor] = {}
        self._rates: dict[int, float] = {}
        self._moved = False
        self._mapping = False
        self._shared: list[Any] | None = None  # what a batch has once for all its samples

    # what it has spent

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return int(sum(segment[2] for segment in self._history))

    @property
    def sigma(self) -> float:
        """σ of this training, known once it has started.

        Raises:
            UserError: it has not.
        """
        if self._sigma is None:
            raise UserError(f"{self.name}: the noise multiplier is not known before training starts")
        return self._sigma

    @property
    def sample_rate(self) -> float:
        """q, probability that a sample is in a batch; known once training has started.

        Raises:
            UserError: it has not.
        """
        if self._loader is None:
            raise UserError(f"{self.name}: the sampling rate is not known before training starts")
        return self._loader.rate

    def spent(self, delta: float | None = None) -> float:
        """Returns ε of the steps so far, at ``delta`` or the technique's own δ; infinite without noise."""
        return epsilon_of(self._history, self.delta if delta is None else delta, self.accountant)

    # before training

    def check(self, model: nn.Module, context: Context) -> None:
        """Refuses what cannot be private, or cannot be computed per sample.

        Raises:
            UserError: naming it, and what to do instead.
        """
        where = f"techniques.{self.name}"
        if not getattr(model, "automatic_optimization", True):
            raise UserError(
                f"{where} and manual optimisation cannot be combined: {type(model).__name__} may take steps with "
                "gradients that are not private (automatic_optimization is False)"
            )
        self._check_model(model)
        for other in context.offering(TRAINING_DATA, self):
            raise UserError(
                f"{where} and techniques.{other.name} cannot be combined: {other.name} computes what it writes into "
                "the model from the training data, without noise; leave it out, or train it on public data before"
            )
        if context.trainer is not None:
            self._check_trainer(context.trainer, where)

    def _check_model(self, model: nn.Module) -> None:
        where = f"techniques.{self.name}"
        for name, part in model.named_modules():
            if isinstance(part, _BatchNorm):
                raise UserError(
                    f"{where} and batch norm cannot be combined: {name} ({type(part).__name__}) makes each sample's "
                    "output depend on the whole batch, and its statistics are released without noise. Use group norm "
                    "(torch.nn.GroupNorm) or layer norm, or a model that has them"
                )
        refuse_compiled(model, where)

    def _check_trainer(self, trainer: Any, where: str) -> None:
        schedulers = [c for c in callbacks_of(trainer) if isinstance(c, GradientAccumulationScheduler)]
        if getattr(trainer, "accumulate_grad_batches", 1) != 1 or any(
            c.going_to_accumulate_grad_batches() for c in schedulers
        ):
            raise UserError(
                f"{where} and trainer.accumulate_grad_batches cannot be combined: several draws are not one Poisson "
                "sample. Use a larger data.batch_size, and physical_batch_size for memory"
            )
        if getattr(trainer, "gradient_clip_val", None):
            raise UserError(
                f"{where} and trainer.gradient_clip_val cannot be combined: each sample's gradient is clipped already "
                f"(max_grad_norm {self.max_grad_norm}); set trainer.gradient_clip_val to null"
            )
        precision = str(getattr(trainer, "precision", "32-true"))
        if precision.startswith("16"):
            raise UserError(
                f"{where} and trainer.precision {precision} cannot be combined: scaled gradients may overflow, and "
                "whether they do depends on the data; use 32-true or bf16-mixed"
            )
        if getattr(trainer, "overfit_batches", 0):
            raise UserError(
                f"{where} and trainer.overfit_batches cannot be combined: its batches are not Poisson samples"
            )
        loop = getattr(trainer, "fit_loop", None)
        if self.epsilon is not None and loop is not None and ((loop.min_epochs or 0) > 1 or (loop.min_steps or 0) > 0):
            raise UserError(
                f"{where}.epsilon and trainer.min_epochs or min_steps cannot be combined: the training ends when "
                "epsilon is spent"
            )

    def _check_monitors(self, trainer: pl.Trainer) -> None:
        """Refuses that a loss without noise decides on the training."""
        stops = [(c, c.monitor) for c in callbacks_of(trainer) if isinstance(c, EarlyStopping)]
        plateaus = [(c.scheduler, c.monitor) for c in trainer.lr_scheduler_configs if c.reduce_on_plateau]
        for owner, monitor in [*stops, *plateaus]:
            if _of_training(monitor):
                raise UserError(
                    f"techniques.{self.name} and {type(owner).__name__} of {monitor} cannot be combined: the training "
                    "would depend on private data without noise; monitor a validation metric"
                )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Draws a secret, and replaces the training loader by one with Poisson sampling."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        same = self._trained is not None and self._trained() is pl_module
        history = self._history if same else []  # what the same weights have spent adds up
        self._forget()
        self._history, self._trained = history, weakref.ref(pl_module)
        given = None if self.seed is None else again(self.seed, self.steps) if history else self.seed
        self._secret = trainer.strategy.broadcast(new_secret() if given is None else given)
        source = trainer.fit_loop._data_source
        if not isinstance(source, _PoissonSource):
            trainer.fit_loop._data_source = _PoissonSource(source, lambda loader: self._private_loader(trainer, loader))

    def _private_loader(self, trainer: pl.Trainer, loader: Any) -> PoissonLoader:
        """Returns a loader of the same data, with Poisson sampling.

        Raises:
            UserError: the data has no samples with an index, or δ is too large for their number.
        """
        where = f"techniques.{self.name}"
        kind = type(loader).__name__
        if not isinstance(loader, ExactLoader | DataLoader):
            raise UserError(f"{where}: Poisson sampling needs one loader of the training data, not a {kind}")
        dataset: Any = loader.dataset
        if isinstance(dataset, IterableDataset | WholeBatch) or not hasattr(dataset, "__len__"):
            raise UserError(
                f"{where}: Poisson sampling needs a data set whose samples are read by an index; a "
                f"{type(dataset).__name__} is none"
            )
        if not isinstance(loader.batch_size, int):
            raise UserError(
                f"{where}: Poisson sampling needs a loader with a batch_size, and no batch sampler of its own"
            )
        if isinstance(loader, DataLoader) and not isinstance(loader.sampler, _SAMPLERS):
            raise UserError(
                f"{where}: Poisson sampling draws from the whole data set and would ignore the loader's "
                f"{type(loader.sampler).__name__}; for a part of the data use torch.utils.data.Subset"
            )
        if self.delta >= 1 / len(dataset):
            raise UserError(
                f"{self.name}.delta: {self.delta:g} is not accepted for {len(dataset)} samples; below "
                f"1/{len(dataset)}, for example {0.1 / len(dataset):.2g}"
            )
        collate = loader.collate_fn
        if isinstance(loader, DataLoader) and collate is torch.utils.data.default_collate:
            collate = None
        self._loader = PoissonLoader(
            dataset,
            loader.batch_size,
            self._secret,
            num_workers=loader.num_workers,
            collate_fn=collate,
            ranks=lambda: (trainer.world_size, trainer.global_rank),
        )
        return self._loader

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Chooses the noise, unless the checkpoint has it, and the number of steps that the budget allows.

        Raises:
            UserError: the number of steps is not known, the optimiser calls its closure several times, a training loss
                decides on the training, or the checkpoint is of a training that was not private.
        """
        assert self._loader is not None
        self._loader.secret = self._secret
        self._check_model(pl_module)
        self._check_monitors(trainer)
        if trainer.global_step > self.steps:
            raise UserError(
                f"techniques.{self.name}: {trainer.global_step - self.steps} of the checkpoint's {trainer.global_step} "
                "steps were not private, and epsilon would leave them out. Continue a private training, or start one "
                "from weights that were trained on other data"
            )
        if any(isinstance(optimizer, torch.optim.LBFGS) for optimizer in trainer.optimizers):
            raise UserError(
                f"techniques.{self.name} and LBFGS cannot be combined: it computes gradients several times a step"
            )
        most = trainer.estimated_stepping_batches
        if not math.isfinite(most):
            raise UserError(
                f"techniques.{self.name}: the number of steps must be known; set trainer.max_epochs or max_steps"
            )
        rate, left = self._loader.rate, max(int(most) - trainer.global_step, 0)
        if self.noise_multiplier is not None:
            self._sigma = self.noise_multiplier
        elif self._sigma is None:
            assert self.epsilon is not None
            self._sigma = noise_multiplier_for(self.epsilon, self.delta, rate, int(most), self.accountant)
        assert self._sigma is not None
        epsilon_of([(self._sigma, rate, 1)], self.delta, "rdp")  # a missing package is an error now, not after an epoch
        if self.epsilon is not None:
            found = steps_within(self.epsilon, self.delta, self._sigma, rate, left, self._history, self.accountant)
            self._allowed = None if found == left else self.steps + found
            if self._allowed == 0:
                one = epsilon_of([(self._sigma, rate, 1)], self.delta, self.accountant)
                raise UserError(
                    f"{self.name}.epsilon: {self.epsilon:g} is not accepted with noise_multiplier {self._sigma:g}: one "
                    f"step spends {one:.3g} at delta {self.delta:g}"
                )
            if self._allowed == self.steps:
                self._end(trainer)
        if self._sigma == 0:
            rank_zero_warn(
                f"{self.name}: noise_multiplier 0 clips gradients and adds no noise: this training is NOT private"
            )
        rank_zero_info(
            f"{self.name}: noise multiplier {self._sigma:.4g}, sampling rate {rate:.4g}, up to {int(most)} steps, "
            f"delta {self.delta:g}"
        )
        self._write_report(trainer)

    # training

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Wraps the module's ``training_step``, outside all penalties, and finds the trained parameters.

        Raises:
            UserError: the budget is used up, and something keeps the Trainer from ending.
        """
        if self._allowed is not None and self.steps >= self._allowed:
            raise UserError(
                f"{self.name}: epsilon {self.epsilon:g} is spent, but the training continues; it is ended here"
            )
        self._step = PrivateStep(pl_module, lambda *given: self._private_step(trainer, pl_module, *given))
        if self._stale or batch_idx == 0:
            self._refresh(pl_module)
        if isinstance(trainer.strategy.model, DistributedDataParallel):
            trainer.strategy.model.require_backward_grad_sync = False  # the sums are added up here
        if not self._moved:
            self._before_step = {name: p.detach().clone() for name, p in self._parameters.items()}

    def _refresh(self, module: pl.LightningModule) -> None:
        self._parameters = trainable(module)
        for parameter in module.parameters():
            if not parameter.requires_grad:
                parameter.grad = None  # of a step before it was frozen
        self._silence, self._buffers = Silence(module), Buffers(module)
        if not self._parameters:
            raise UserError(f"techniques.{self.name}: {type(module).__name__} has no parameter to train")
        self._stale = False

    def on_model_edit(self, trainer: pl.Trainer, pl_module: pl.LightningModule, plan: Plan) -> None:
        """Looks at the edited model in the next step."""
        self._stale, self._findings, self._moved = True, None, False
        self._check_model(pl_module)

    def _private_step(
        self, trainer: pl.Trainer, module: pl.LightningModule, step: Any, batch: Any, rest: tuple[Any, ...]
    ) -> Any:
        """Computes the clipped sums of the batch's gradients, then lets the module make its step for what it logs."""

        def loss(samples: Any) -> Tensor:
            found = step(samples, *rest)
            found = found.get("loss") if isinstance(found, Mapping) else found
            if not isinstance(found, Tensor) or found.ndim:
                raise UserError(
                    f"techniques.{self.name}: {type(module).__name__}.training_step must return a loss for every "
                    f"sample, a scalar; it returned {type(found).__name__}"
                )
            return found

        size = size_of(batch)
        if not size and self._findings is None:  # nothing is known of the loss yet, nor needed
            self._sums = zero_sums(self._parameters)
            return self._without_samples(trainer, module, step, rest)
        if size:
            self._check_shared(batch, size)
        with self._silence():
            self._buffers.remember()
            if self._findings is None or (not self._whole_seen and size > 1):
                self._check_padding(trainer, module, loss)
                self._examine(module, loss, batch, size)
                self._check_buffers()
                self._buffers.remember()
            assert self._findings is not None
            with self._secretly_seeded(trainer):
                self._sums = clipped_sums(
                    module,
                    loss,
                    self._parameters,
                    batch,
                    self.max_grad_norm,
                    self._findings.method,
                    self.physical_batch_size,
                )
        if not size:
            return self._without_samples(trainer, module, step, rest)
        outputs = self._seen(step, batch, rest)
        self._check_buffers()
        self._mapping = isinstance(outputs, Mapping)
        found: Any = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        shown = found.detach().requires_grad_()  # a backward pass from here reaches no parameter
        return {**outputs, "loss": shown} if isinstance(outputs, Mapping) else shown

    def _check_buffers(self) -> None:
        for name in self._buffers.written():
            raise UserError(
                f"techniques.{self.name}: training_step writes to the buffer {name}, which would be released "
                "without noise; only modules that learn by gradients alone can be trained privately"
            )

    def _check_padding(self, trainer: pl.Trainer, module: pl.LightningModule, loss: Any) -> None:
        """Compares the first samples of the data, collated together and each alone."""
        assert self._loader is not None
        count = min(8, len(self._loader.dataset))
        together = self._loader.read(list(range(count)))
        for i in range(count):
            padded = rows(together, i, i + 1, count)
            alone, repeated = (self._loader.read([i], seed) for seed in (0, 1))
            if [t.shape for t in tensors_of(padded)] == [t.shape for t in tensors_of(alone)]:
                continue
            if not all(map(torch.equal, tensors_of(alone), tensors_of(repeated))):
                return  # random samples cannot be compared
            moved = [trainer.strategy.batch_to_device(part, module.device) for part in (padded, alone)]
            if depends_on_padding(module, loss, self._parameters, *moved):
                raise UserError(
                    f"techniques.{self.name}: a sample's loss depends on how far it is padded, and that on the other "
                    "samples of its batch, so that clipping does not bound what one sample changes; mask the padding "
                    "in training_step, or pad all samples to one length"
                )

    def _check_shared(self, batch: Any, size: int) -> None:
        found = shared_by(batch, size)
        if self._shared is None:
            self._shared = found
        if found != self._shared:
            raise UserError(
                f"techniques.{self.name}: batches have values that belong to no sample and differ between batches "
                f"({_shown(self._shared)}, then {_shown(found)}). If they are computed from all samples, clipping does "
                "not bound what one sample changes; give a value for each sample, or a constant"
            )

    @contextmanager
    def _secretly_seeded(self, trainer: pl.Trainer) -> Iterator[None]:
        """Draws dropout and the like from the secret.

        With a known seed, one sample more would shift the known draws of the samples after it, and so change their
        gradients too.
        """
        seed = seed_of_step(self._secret, self.steps, trainer.global_rank)
        with seeded(seed):
            if torch.cuda.is_available() and torch.cuda.is_initialized():
                torch.cuda.manual_seed(seed)
            yield

    def _examine(self, module: pl.LightningModule, loss: Any, batch: Any, size: int) -> None:
        method = None if self.gradients == "auto" else self.gradients
        self._findings = examine(module, loss, self._parameters, batch, method)
        self._whole_seen = size > 1
        if self._findings.method == "loop" and self.gradients != "loop":
            rank_zero_info(f"{self.name}: gradients are computed sample by sample, because of {self._findings.why}")
        if self._findings.weighted:
            rank_zero_warn(
                f"{self.name}: training_step weighs the samples of a batch (by their lengths or by class weights); "
                "with private gradients each counts alike"
            )

    def _seen(self, step: Any, batch: Any, rest: tuple[Any, ...]) -> Any:
        """The module's own step on the whole batch, for what it logs and returns."""
        with torch.set_grad_enabled(getattr(step, "penalised", None) is not None):  # penalties may differentiate
            return step(batch, *rest)

    def _without_samples(
        self, trainer: pl.Trainer, module: pl.LightningModule, step: Any, rest: tuple[Any, ...]
    ) -> Any:
        """Returns a loss of 0 for an empty batch, whose step still adds noise.

        With several ranks the module makes its step on a stand-in, for what it logs over all ranks.
        """
        if trainer.world_size > 1:
            assert self._loader is not None
            self._seen(step, trainer.strategy.batch_to_device(self._loader.stand_in, module.device), rest)
        zero = torch.zeros((), device=module.device, requires_grad=True)
        return {"loss": zero} if self._mapping else zero

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the private gradients, and counts the step."""
        assert self._sums is not None
        assert self._loader is not None
        assert self._sigma is not None
        sums, self._sums = self._sums, None
        write_gradients(
            self._parameters,
            sums,
            self._loader.rate * len(self._loader.dataset),
            self._sigma * (self.max_grad_norm or 0.0),
            self._secret,
            self.steps,
            torch.distributed.all_reduce if trainer.world_size > 1 else lambda flat: None,
        )
        if not self._moved:
            groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
            self._rates = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
        self._count()

    def _count(self) -> None:
        segment = [self.sigma, self.sample_rate]
        if self._history and self._history[-1][:2] == segment:
            self._history[-1][2] += 1
        else:
            self._history.append([*segment, 1])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Checks that the first step moved every parameter, and ends the training when the budget is used up.

        Raises:
            UserError: a parameter did not move.
        """
        self._unwrap()
        if not self._moved:
            self._check_moved()
        if self._allowed is not None and self.steps >= self._allowed:
            self._end(trainer)

    def _check_moved(self) -> None:
        rates = self._rates
        outside = [name for name, p in self._parameters.items() if id(p) not in rates]
        if outside:
            raise UserError(
                f"{self.name}: {outside[0]} requires gradients and is in no optimiser; freeze it or train it"
            )
        if not all(rates[id(p)] for p in self._parameters.values()):
            return  # a warm-up that begins at 0
        for name, parameter in self._parameters.items():
            still = torch.equal(self._before_step[name], parameter.detach())
            if still and parameter.grad is not None and bool(parameter.grad.any()):
                raise UserError(
                    f"{self.name}: {name} has a private gradient and the optimiser's step did not change it"
                )
        self._moved, self._before_step = True, {}

    def _end(self, trainer: pl.Trainer) -> None:
        rank_zero_info(f"{self.name}: epsilon {self.epsilon:g} is spent after {self.steps} steps, training ends")
        trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Logs ε, δ, σ, q and the number of steps."""
        spent = self.spent()
        values = {
            "epsilon": spent,
            "delta": self.delta,
            "noise_multiplier": self.sigma,
            "sample_rate": self.sample_rate,
            "steps": float(self.steps),
        }
        for name, value in values.items():
            if math.isfinite(value):
                pl_module.log(f"{self.name}/{name}", torch.tensor(value, dtype=torch.float64), rank_zero_only=True)
        self._write_report(trainer)

    def _write_report(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        assert self._loader is not None
        monitors = [getattr(c, "monitor", None) for c in trainer.checkpoint_callbacks]
        spending = Spending(
            epsilon=self.spent(),
            delta=self.delta,
            accountant=self.accountant,
            noise_multiplier=self.sigma,
            max_grad_norm=self.max_grad_norm,
            sample_rate=self.sample_rate,
            samples=len(self._loader.dataset),
            steps=self.steps,
            seed_is_given=self.seed is not None,
            chosen_by=tuple(str(m) for m in monitors if _of_training(m)),
        )
        text = report_of(spending, self._findings, getattr(trainer, "datamodule", None))
        write_text(Path(trainer.default_root_dir) / "privacy.md", text)

    # the end, and resuming

    def _unwrap(self) -> None:
        if self._step is not None:
            self._step.remove()
            self._step = None

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes the wrapper off."""
        self._unwrap()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Takes the wrapper off."""
        self._unwrap()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Takes the wrapper off, and gives the Trainer its own source of batches back."""
        self._unwrap()
        source = trainer.fit_loop._data_source
        if isinstance(source, _PoissonSource):
            trainer.fit_loop._data_source = _DataLoaderSource(source.instance, source.name)

    def state_dict(self) -> dict[str, Any]:
        """Returns the secret, the segments of σ, q and steps, and what was found out about the loss."""
        findings = None if self._findings is None else vars(self._findings)
        return {
            "secret": self._secret,
            "sigma": self._sigma,
            "history": [list(segment) for segment in self._history],
            "findings": None if findings is None else dict(findings),
            "whole_seen": self._whole_seen,
            "moved": self._moved,
            "mapping": self._mapping,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues with the checkpoint's secret and noise."""
        self._secret, self._sigma = state_dict["secret"], state_dict["sigma"]
        self._history = [list(segment) for segment in state_dict["history"]]
        self._findings = None if state_dict["findings"] is None else Findings(**state_dict["findings"])
        self._whole_seen, self._moved = state_dict["whole_seen"], state_dict["moved"]
        self._mapping = state_dict["mapping"]
