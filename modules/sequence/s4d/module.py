"""S4D as LightningModules: a classifier and a regressor of whole sequences."""

from __future__ import annotations

from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Accuracy, MeanSquaredError, Metric

from framework.module import Module, OptimizerConfig, ScheduleConfig, as_dataclass
from framework.protocols import KernelData
from framework.settings import above, at_least, between, finite, one_of
from modules.sequence.s4d.layer import SSM
from modules.sequence.s4d.memory import memory_r2
from modules.sequence.s4d.model import Activation, FinalActivation, Norm, Pooling, S4DBackbone, pool

Batch = tuple[Tensor, ...] | list[Tensor]


class S4DModule(Module):
    """The base class of both tasks: backbone, pooling, head, steps.

    A batch is ``(x, y)`` or ``(x, y, lengths)``; x is (B, L, d_input) or tokens (B, L), lengths (B,) counts the samples
    that are not padding.

    Args:
        outputs: Size of the head.
        d_input: Features of each sample; not used with a vocabulary.
        vocabulary: Number of tokens where inputs are integers, else ``None``.
        d_model: H, channels of every layer.
        n_layers: Blocks.
        ssm: The state space model of each channel: its size, how it starts, is discretised and stored.
        norm: ``layer`` or ``batch``.
        prenorm: Norm before each layer rather than after the residual sum.
        dropout: Probability of dropping a feature.
        tie_dropout: One dropout mask for all samples of a sequence.
        activation: After each SSM: ``gelu``, ``relu``, ``silu`` or ``id``.
        final_act: Of each block's position-wise map: ``glu`` or ``id``.
        pooling: ``mean`` over time or the ``last`` sample.
        rate: Factor on Δ: 2 runs a trained model on input sampled half as often.
        optimizer: The optimiser; AdamW at 1e-2 is the paper's.
        schedule: The learning-rate schedule.

    Raises:
        UserError: an argument is not accepted.
    """

    score_name: str
    moved: ClassVar[dict[str, str]] = {"ssm_lr": "ssm.lr"} | {
        name: f"ssm.{name}"
        for name in (
            *("d_state", "init", "disc", "real_transform", "dt_transform", "dt_min", "dt_max", "n_ssm", "channels"),
            *("bidirectional", "train_B", "imag_scale", "random_real", "dss_length"),
        )
    }

    def __init__(
        self,
        outputs: int,
        d_input: int = 1,
        vocabulary: int | None = None,
        d_model: int = 64,
        n_layers: int = 4,
        ssm: SSM = SSM(),
        norm: Norm = "layer",
        prenorm: bool = False,
        dropout: float = 0.0,
        tie_dropout: bool = True,
        activation: Activation = "gelu",
        final_act: FinalActivation = "glu",
        pooling: Pooling = "mean",
        rate: float = 1.0,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.save_hyperparameters(ignore=["outputs"])
        one_of(get_args(Pooling), pooling=pooling)
        above(0, rate=rate)
        self.pooling, self.rate = pooling, rate
        self.backbone = S4DBackbone(
            d_input=d_input,
            vocabulary=vocabulary,
            d_model=d_model,
            n_layers=n_layers,
            ssm=as_dataclass(SSM, ssm),
            norm=norm,
            prenorm=prenorm,
            dropout=dropout,
            tie_dropout=tie_dropout,
            activation=activation,
            final_act=final_act,
        )
        self.head = nn.Linear(d_model, outputs)

    def get_classifier(self) -> nn.Module:
        """Returns the output layer, by the name that timm's models have for it: techniques train it whole."""
        return self.head

    def forward(self, x: Tensor, lengths: Tensor | None = None, rate: float | None = None) -> Tensor:
        """Returns the head's outputs (B, n_classes or n_outputs).

        Args:
            x: (B, L, d_input), or tokens (B, L).
            lengths: (B,) samples that are not padding.
            rate: Factor on Δ; the module's own ``rate`` if left out.

        Raises:
            UserError: the sequences have no samples.
        """
        features = self.backbone(x, lengths, self.rate if rate is None else rate)
        return self.head(pool(features, self.pooling, lengths))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """The training objective, a mean over the batch."""
        raise NotImplementedError

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """The number logged as ``score_name`` for one batch."""
        raise NotImplementedError

    def _unpack(self, batch: Batch | Tensor) -> tuple[Tensor, Any, Tensor | None]:
        if isinstance(batch, Tensor):
            return batch, None, None
        x, *rest = batch
        return x, (rest[0] if rest else None), (rest[1] if len(rest) > 1 else None)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns one step on a batch; logs its ``train/loss`` and score."""
        x, target, lengths = self._unpack(batch)
        output = self(x, lengths)
        loss = self.loss(output, target)
        self.log("train/loss", loss, prog_bar=True)
        if self.records_step:
            self.log(f"train/{self.score_name}", self.score(output.detach(), target))
        return loss

    def _evaluate(self, batch: Batch, stage: str, metric: Metric) -> None:
        x, target, lengths = self._unpack(batch)
        output = self(x, lengths)
        shown: dict[str, Any] = {"prog_bar": stage == "val", "batch_size": len(x)}
        self.log(f"{stage}/loss", self.loss(output, target), sync_dist=True, **shown)
        metric.update(output, target)
        self.log(f"{stage}/{self.score_name}", metric, **shown)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs ``val/loss`` and the score."""
        self._evaluate(batch, "val", self.val_metric)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Logs ``test/loss`` and the score."""
        self._evaluate(batch, "test", self.test_metric)

    def _metrics(self, make: Any) -> None:
        self.val_metric: Metric = make()
        self.test_metric: Metric = make()

    # --- what callbacks ask for (framework.protocols) ---

    @torch.no_grad()
    def kernel_data(self, length: int) -> list[KernelData]:
        """Kernels, basis functions and modes of every layer, for :class:`framework.protocols.HasKernels`."""
        found = []
        for index, layer in enumerate(self.backbone.layers):
            dt, modes, weights, _ = layer.continuous(self.rate)
            time = torch.arange(length, dtype=dt.dtype, device=dt.device)
            middle = dt.argsort()[len(dt) // 2]
            basis = (weights[middle, :, None] * torch.exp(dt[middle] * modes[middle, :, None] * time)).real
            found.append(
                KernelData(
                    name=f"layer {index}",
                    kernel=layer.kernel(length, self.rate)[0].float().cpu(),
                    basis=basis.float().cpu(),
                    modes=modes.reshape(-1).cpu(),
                    steps=dt.float().cpu(),
                )
            )
        return found

    @torch.no_grad()
    def memory_curves(self, delays: list[int], samples: int) -> dict[str, list[float]]:
        """Linear memory of each layer's modes, for :class:`framework.protocols.HasMemory`.

        Each layer is represented by the channel with the median step size.
        """
        curves = {}
        for index, layer in enumerate(self.backbone.layers):
            dt, modes, _, _ = layer.continuous(self.rate)
            middle = dt.argsort()[len(dt) // 2]
            system = modes[middle].cpu().numpy()
            curves[f"layer{index}"] = memory_r2(system, delays, dt=float(dt[middle]), samples=samples).tolist()
        return curves

    @torch.no_grad()
    def metrics_at_rate(self, batch: Batch, rate: int) -> dict[str, Tensor]:
        """Scores on every ``rate``-th sample of the input, with Δ scaled to match.

        For :class:`framework.protocols.RateTransferable`.
        """
        x, target, lengths = self._unpack(batch)
        if lengths is not None:
            lengths = torch.div(lengths + rate - 1, rate, rounding_mode="floor")
        output = self(x[:, ::rate], lengths, self.rate * rate)
        return {"loss": self.loss(output, target), self.score_name: self.score(output, target)}


class S4DClassifier(S4DModule):
    """Classifies sequences with a stack of S4D layers.

    Args:
        d_input: Features of each sample; not used with a vocabulary.
        n_classes: Classes.
        label_smoothing: Of the cross-entropy, in [0, 1).
        **kwargs: As :class:`S4DModule`'s.

    Raises:
        UserError: an argument is not accepted.
    """

    score_name = "accuracy"

    def __init__(self, d_input: int = 1, n_classes: int = 10, label_smoothing: float = 0.0, **kwargs: Any) -> None:
        at_least(2, n_classes=n_classes)
        between(0, 1, "[)", label_smoothing=label_smoothing)
        super().__init__(outputs=n_classes, d_input=d_input, **kwargs)
        self.label_smoothing = label_smoothing
        self._metrics(lambda: Accuracy(task="multiclass", num_classes=n_classes))

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(output.float(), target, label_smoothing=self.label_smoothing)

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Accuracy of a batch."""
        return (output.argmax(-1) == target).float().mean()

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Class ``probabilities`` (B, n_classes), ``prediction`` (B,), and ``target`` where the batch has it."""
        x, target, lengths = self._unpack(batch)
        probabilities = self(x, lengths).float().softmax(-1)
        found = {"probabilities": probabilities, "prediction": probabilities.argmax(-1)}
        return found if target is None else found | {"target": target}


class S4DRegressor(S4DModule):
    """Predicts numbers from sequences with a stack of S4D layers.

    Args:
        d_input: Features of each sample; not used with a vocabulary.
        n_outputs: Numbers to predict.
        target_mean: Subtracted from the target before training and added to the prediction, in the target's unit.
        target_std: The target's unit divided by this is what the loss sees; errors are logged in the target's unit.
        **kwargs: As :class:`S4DModule`'s.

    Raises:
        UserError: an argument is not accepted.
    """

    score_name = "rmse"

    def __init__(
        self, d_input: int = 1, n_outputs: int = 1, target_mean: float = 0.0, target_std: float = 1.0, **kwargs: Any
    ) -> None:
        at_least(1, n_outputs=n_outputs)
        above(0, target_std=target_std)
        super().__init__(outputs=n_outputs, d_input=d_input, **kwargs)
        finite(target_mean=target_mean, target_std=target_std)
        self.target_mean, self.target_std = target_mean, target_std
        self._metrics(lambda: MeanSquaredError(squared=False))

    def forward(self, x: Tensor, lengths: Tensor | None = None, rate: float | None = None) -> Tensor:
        """Predictions (B, n_outputs) in the target's unit; see the base class for the arguments."""
        return super().forward(x, lengths, rate).float() * self.target_std + self.target_mean

    def loss(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean squared error in units of ``target_std``."""
        return F.mse_loss(output, target.to(output.dtype).view_as(output)) / self.target_std**2

    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """Root mean squared error of a batch, in the target's unit."""
        return F.mse_loss(output, target.to(output.dtype).view_as(output)).sqrt()

    def _unpack(self, batch: Batch | Tensor) -> tuple[Tensor, Any, Tensor | None]:
        x, target, lengths = super()._unpack(batch)
        return x, None if target is None else target.float().view(len(x), -1), lengths

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Returns ``prediction`` (B, n_outputs) in the target's unit, and ``target`` where the batch has it."""
        x, target, lengths = self._unpack(batch)
        found = {"prediction": self(x, lengths)}
        return found if target is None else found | {"target": target}
