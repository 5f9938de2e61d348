"""Training of certified classifiers (Mao et al. 2024, arXiv 2306.10426)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MeanMetric

from framework import OptimizerConfig, ScheduleConfig
from framework.errors import UserError
from framework.functional.attacks import pgd
from framework.functional.interval import (
    Box,
    IntervalNetwork,
    certified,
    pixel_box,
    smooth_eps,
    write_verifier_files,
)
from framework.protocols.bounds import BoundedStep
from framework.settings import at_least, between, one_of
from modules.classifier import Classifier
from modules.robustness.ibp.certify import VERDICTS, verdicts
from modules.robustness.ibp.networks import certified_network

Strategy = Literal["standard", "pgd", "ibp", "sabr"]
ADAM = OptimizerConfig("adam", lr=5e-4, weight_decay=0.0)


class IBPClassifier(Classifier):
    """A classifier trained on the clean inputs, on attacks, on interval bounds, or on bounds of small boxes (SABR).

    Batches are ``(x, y)``, ``x`` (B, channels, image_size, image_size) in [0, 1]: the network normalises them itself.
    Logs ``train/loss``, ``train/eps``, under ``val/`` the accuracy and ``certified`` (share of samples that are right
    in the whole box of ``test_eps``, by bounds), and under ``test/`` also ``adversarial`` (share that is right and
    withstands an attack) and the counts ``certified_count``, ``attacked_count``, ``unknown_count``, ``failed_count``
    (see :func:`~modules.robustness.ibp.certify.verdicts`).

    Args:
        network: ``mlp``, ``cnn_2``, ``cnn_3``, ``cnn_5``, ``cnn_7``, ``cnn_9``, ``cnn_11`` or ``cnn_13``.
        channels: Channels of the images.
        image_size: Side of the images in pixels.
        num_classes: Number of classes.
        width: See :func:`~modules.robustness.ibp.networks.certified_network`.
        hidden: See there.
        batch_norm: Whether batch norms follow hidden layers.
        mean: Of each channel, which the network subtracts; in [0, 1] units.
        std: By which it divides.
        strategy: What is trained on: ``standard`` (clean inputs), ``pgd`` (attacks), ``ibp`` (boxes of eps) or
            ``sabr`` (boxes of ``sabr_fraction`` eps around an attack).
        eps: Largest change of a pixel in training, from 0 to 1.
        test_eps: That of evaluation; ``eps`` by default.
        ramp_epochs: First and last epoch of the growth of eps from 0; ``null`` for no growth.
        certified_weight: Share of the loss on bounds; the rest is the clean cross-entropy.
        sabr_fraction: λ, the share of the half-width of SABR's boxes.
        attack_steps: Gradient steps of attacks in training; of ``pgd`` and ``sabr``.
        test_attack_steps: Of attacks in the test.
        verifier_samples: Number of test samples that the test writes for complete verifiers, to ``verifier`` in the run
            folder (see :func:`framework.functional.interval.write_verifier_files`); 0 for none.
        optimizer: The optimiser; by default Adam, rate 5e-4, no weight decay.
        schedule: The learning-rate schedule.

    Raises:
        UserError: a setting is not accepted (in the constructor); the datamodule's classes, size or channels differ,
            or it normalises its images (in ``setup``); files for verifiers cannot be written (at the end of the test).
    """

    net: nn.Sequential

    def __init__(
        self,
        network: str = "cnn_3",
        channels: int = 1,
        image_size: int = 28,
        num_classes: int = 10,
        width: int | None = None,
        hidden: list[int] | None = None,
        batch_norm: bool = False,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        strategy: Strategy = "ibp",
        eps: float = 0.1,
        test_eps: float | None = None,
        ramp_epochs: tuple[float, float] | None = (0.0, 20.0),
        certified_weight: float = 1.0,
        sabr_fraction: float = 0.4,
        attack_steps: int = 10,
        test_attack_steps: int = 40,
        verifier_samples: int = 0,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        super().__init__(num_classes, ADAM if optimizer is None else optimizer, schedule)
        one_of(get_args(Strategy), strategy=strategy)
        between(0, 1, eps=eps, test_eps=test_eps, certified_weight=certified_weight, sabr_fraction=sabr_fraction)
        at_least(1, attack_steps=attack_steps, test_attack_steps=test_attack_steps)
        at_least(0, verifier_samples=verifier_samples)
        if ramp_epochs is not None:
            at_least(0, ramp_epochs=list(ramp_epochs))
            if ramp_epochs[1] < ramp_epochs[0]:
                raise UserError(f"ramp_epochs: {list(ramp_epochs)} ends before it starts")
        self.save_hyperparameters()
        self.strategy, self.eps, self.ramp_epochs = strategy, eps, ramp_epochs
        self.test_eps = eps if test_eps is None else test_eps
        self.certified_weight, self.sabr_fraction = certified_weight, sabr_fraction
        self.attack_steps, self.test_attack_steps = attack_steps, test_attack_steps
        self.verifier_samples = verifier_samples
        self._kept: list[tuple[Tensor, Tensor]] = []
        self.net = certified_network(network, channels, image_size, num_classes, width, hidden, batch_norm, mean, std)
        self.bounded_step: BoundedStep | None = None
        self._network: IntervalNetwork | None = None
        self.shares = nn.ModuleDict({f"{part}_certified": MeanMetric() for part in ("val", "test")})
        self.shares["test_adversarial"] = MeanMetric()

    def setup(self, stage: str) -> None:
        """Compares the datamodule's images with the model's.

        Raises:
            UserError: classes, channels or size differ, or the images are normalised.
        """
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        for name in ("channels", "image_size"):
            found, given = getattr(data, name, None), self.hparams[name]
            if found is not None and found != given:
                raise UserError(f"model.init_args.{name}: {given}, but the data has {found}")
        if getattr(data, "normalize", False):
            raise UserError(
                "data.init_args.normalize: true is not accepted: eps counts in units where pixels are from 0 to 1, so "
                "the network normalises them itself (model.init_args.mean and std)"
            )

    @property
    def network(self) -> IntervalNetwork:
        """The network's graph; it is traced again if layers were replaced."""
        if self._network is None or not self._network.current:
            self._network = IntervalNetwork(self.net)
        return self._network

    def eps_now(self, batch_idx: int) -> float:
        """Returns eps of a training batch of the present epoch."""
        if self.ramp_epochs is None:
            return self.eps
        batches = int(self.trainer.num_training_batches)
        start, end = (epochs * batches for epochs in self.ramp_epochs)
        return smooth_eps(self.current_epoch * batches + batch_idx, start, end, self.eps)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Returns the loss of the strategy on a batch."""
        x, y = batch
        eps = self.eps_now(batch_idx)
        growing = self.ramp_epochs is not None and eps < self.eps
        bounds = None
        if self.strategy == "standard":
            loss = F.cross_entropy(self(x), y)
        elif self.strategy == "pgd":
            loss = F.cross_entropy(self(self.attacked(x, y, eps)), y)
        else:
            clean = None if self.certified_weight == 1 else F.cross_entropy(self(x), y)
            # the clean pass, if there is one, has updated the statistics of batch norms
            bounds = self.network.propagate(self.training_box(x, y, eps), y, x, update_statistics=clean is None)
            assert bounds.margins is not None
            loss = F.cross_entropy(bounds.margins, y)
            if clean is not None:
                loss = self.certified_weight * loss + (1 - self.certified_weight) * clean
        self.bounded_step = BoundedStep(bounds, eps, self.eps, growing)
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True, batch_size=len(y), sync_dist=True)
        self.log("train/eps", eps, on_step=False, on_epoch=True, batch_size=len(y), sync_dist=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Frees the step's bounds."""
        self.bounded_step = None

    def attacked(self, x: Tensor, y: Tensor, eps: float) -> Tensor:
        """Returns inputs (B, …) of a large loss within eps of x and within [0, 1]."""
        if eps == 0:
            return x
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))  # from the run's own generator
        size = 0.2 * eps
        late = 0.1 if self.attack_steps >= 20 else 1.0
        return pgd(
            self.net, x, y, eps, "linf", self.attack_steps, size, generator=generator, keep_best=True, decay=late
        )

    def training_box(self, x: Tensor, y: Tensor, eps: float) -> Box:
        """Returns the box of the inputs (IBP), or of ``sabr_fraction`` of its half-width around an attack (SABR)."""
        box = pixel_box(x, eps)
        if self.strategy == "ibp" or eps == 0:
            return box
        radius = self.sabr_fraction * box.radius
        centre = self.attacked(x, y, eps)
        return Box(torch.maximum(torch.minimum(centre, box.upper - radius), box.lower + radius), radius)

    def evaluate(self, batch: tuple[Tensor, Tensor], part: str) -> None:
        """Logs the scores of a batch under ``part``: ``val`` or ``test``."""
        super().evaluate(batch, part)
        x, y = batch
        if part == "val":
            proven = certified(self._margins(x, y), y)
            self._share("val_certified", proven)
            return
        left = self.verifier_samples - sum(len(labels) for _, labels in self._kept)
        if left > 0 and self.trainer.is_global_zero:
            self._kept.append((x[:left].cpu(), y[:left].cpu()))
        found = verdicts(self.network, x, y, self.test_eps, self.test_attack_steps)
        self._share("test_certified", found == VERDICTS.index("certified"))
        self._share("test_adversarial", (found == VERDICTS.index("certified")) | (found == VERDICTS.index("unknown")))
        for number, name in enumerate(VERDICTS):
            count = (found == number).sum().float()
            self.log(f"test/{name}_count", count, on_step=False, on_epoch=True, reduce_fx="sum", sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Writes the first samples for complete verifiers, if that was asked for."""
        if self._kept:
            x, y = (torch.cat(parts).to(self.device) for parts in zip(*self._kept, strict=True))
            self._kept = []
            write_verifier_files(Path(self.trainer.default_root_dir) / "verifier", self.net, x, y, self.test_eps)

    def _margins(self, x: Tensor, y: Tensor) -> Tensor:
        margins = self.network.propagate(pixel_box(x, self.test_eps), y).margins
        assert margins is not None
        return margins

    def _share(self, name: str, hits: Tensor) -> None:
        metric: Any = self.shares[name]
        metric.update(hits.float())
        self.log(name.replace("_", "/", 1), metric, batch_size=len(hits), prog_bar=name == "val_certified")
