"""The LightningModule of coordinate networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from framework.errors import UserError
from framework.functional.spectral_centroid import grid_coordinates
from framework.module import Module, OptimizerConfig, ScheduleConfig, as_dataclass
from framework.protocols import HasTargetSignal, SineLayers
from framework.settings import above
from modules.initialization.winner import plots
from modules.initialization.winner.backbones import SIREN, Backbone, CoordinateNetwork, build_backbone
from modules.initialization.winner.metrics import PSNR, band_errors
from modules.initialization.winner.ntk import activation_spectra, kernel_spectrum, tangent_kernel

_POINTS = 2**16  # coordinates of one pass outside training
_PROBED = 256  # points of the tangent kernel
_HISTORY = "psnr_history"


class INR(Module):
    """A network that is trained on one signal: it maps coordinates to values, with mean squared error.

    Logged: ``train/loss``; in validation and test ``loss``, ``psnr`` (peak 2, the range of values in [-1, 1]: the
        textbook's definition) and ``psnr_peak1`` (the paper's, 6.02 dB less); if the data holds samples out,
        ``psnr_heldout`` (peak 2) is over these and the other three are over the training samples; in the test
        ``spectral_error/band_<k>``, the energy of the error divided by the target's in a quarter of the spectrum. The
        test writes ``reconstruction.wav``, ``.png`` or ``.npy``.

    Args:
        backbone: ``siren``, ``finer``, ``rff`` or ``relu_pe``.
        d_in: Input dimensions.
        channels: Outputs.
        width: H.
        hidden_layers: Number of hidden layers; for sines including the first layer.
        omega_first: ω₁ of ``siren`` and ``finer``; 30 by default.
        omega_hidden: ω₀ of layers of sines; 30 by default.
        backbone_args: Further arguments of the backbone, such as ``{levels: 8}``.
        diagnostics: Whether the spectra of activations and of the tangent kernel are plotted before training.
        optimizer: Adam with 1e-4 by default.
        schedule: By default the rate falls by 0.99 every 20 epochs.

    Raises:
        UserError: a setting is not accepted (in the constructor); the data's signal has other dimensions (in
            ``setup``).
    """

    def __init__(
        self,
        backbone: Backbone = "siren",
        d_in: int = 1,
        channels: int = 1,
        width: int = 256,
        hidden_layers: int = 4,
        omega_first: float | None = None,
        omega_hidden: float | None = None,
        backbone_args: dict[str, Any] | None = None,
        diagnostics: bool = True,
        optimizer: OptimizerConfig | None = None,
        schedule: ScheduleConfig | None = None,
    ) -> None:
        optimizer = optimizer or OptimizerConfig(name="adam", lr=1e-4, weight_decay=0.0)
        schedule = schedule or ScheduleConfig(name="step", every=20, gamma=0.99)
        super().__init__(optimizer, schedule)
        above(0, omega_first=omega_first, omega_hidden=omega_hidden)
        self.save_hyperparameters()
        self.save_hyperparameters(
            {"optimizer": as_dataclass(OptimizerConfig, optimizer), "schedule": as_dataclass(ScheduleConfig, schedule)}
        )
        self.d_in, self.channels, self.diagnostics = d_in, channels, diagnostics
        self.net: CoordinateNetwork = build_backbone(
            backbone,
            d_in=d_in,
            channels=channels,
            width=width,
            hidden_layers=hidden_layers,
            omega_first=omega_first,
            omega_hidden=omega_hidden,
            **(backbone_args or {}),
        )
        self.scores = nn.ModuleDict(
            {
                f"{part}_{name}": PSNR(peak)
                for part in ("val", "test")
                for name, peak in (("psnr", 2.0), ("psnr_peak1", 1.0), ("psnr_heldout", 2.0))
            }
        )
        self.psnr_history: list[list[float]] = []

    def sine_layers(self) -> SineLayers:
        """Returns the first two layers of a network of sines.

        Raises:
            UserError: the backbone does not start with two layers of sines.
        """
        if not isinstance(self.net, SIREN):
            raise UserError(
                f"backbone: {type(self.net).__name__} does not begin with two layers of sines, as siren and finer do; "
                "name the layers"
            )
        found = self.net.sine_layers()
        return replace(found, first=f"net.{found.first}", hidden=f"net.{found.hidden}")

    def forward(self, x: Tensor) -> Tensor:
        """Values (B, channels) at coordinates (B, d_in)."""
        return self.net(x)

    def setup(self, stage: str) -> None:
        """Compares the signal's dimensions with the network's.

        Raises:
            UserError: they differ.
        """
        target = self._target()
        if target is None:
            return
        found = (target.ndim - 1, target.shape[-1])
        for name, own, theirs in zip(("d_in", "channels"), (self.d_in, self.channels), found, strict=True):
            if own != theirs:
                raise UserError(f"model.{name}: {own} is not accepted, the signal {tuple(target.shape)} needs {theirs}")

    def _target(self) -> Tensor | None:
        data = getattr(self._trainer, "datamodule", None)
        return data.target_signal() if isinstance(data, HasTargetSignal) else None

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Mean squared error."""
        x, y = batch[:2]
        loss = F.mse_loss(self.net(x).float(), y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _evaluate(self, batch: tuple[Tensor, ...], part: str) -> None:
        x, y, held = batch
        values = self.net(x).float()
        trained = ~held
        for name, chosen in (("psnr", trained), ("psnr_peak1", trained), ("psnr_heldout", held)):
            if name == "psnr_heldout" and not self._holds_out:
                continue
            metric: Any = self.scores[f"{part}_{name}"]
            metric.update(values[chosen], y[chosen])
            self.log(f"{part}/{name}", metric, prog_bar=part == "val" and name == "psnr", batch_size=len(y))
        if bool(trained.any()):
            loss = F.mse_loss(values[trained], y[trained])
            self.log(f"{part}/loss", loss, batch_size=int(trained.sum()), sync_dist=True)

    @property
    def _holds_out(self) -> bool:
        data: Any = getattr(self._trainer, "datamodule", None)
        return bool(getattr(data, "holdout", 0))

    def validation_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """PSNR of a batch."""
        self._evaluate(batch, "val")

    def on_validation_epoch_end(self) -> None:
        """Stores the PSNR for the curve."""
        if not self.trainer.sanity_checking:
            metric: Any = self.scores["val_psnr"]
            value = float(metric.compute())
            self.psnr_history.append([self.trainer.current_epoch + 1, value])

    def test_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> None:
        """PSNR of a batch."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: tuple[Tensor, ...] | Tensor, batch_idx: int) -> dict[str, Tensor]:
        """Values (B, channels), and targets if the batch has them."""
        x, y = (batch, None) if isinstance(batch, Tensor) else (batch[0], batch[1])
        result = {"value": self.net(x).float()}
        return result if y is None else {**result, "target": y}

    @torch.no_grad()
    def reconstruct(self, shape: tuple[int, ...]) -> Tensor:
        """Returns the fit on a grid, (*shape, channels), on the CPU; at any resolution."""
        parts = grid_coordinates(shape).split(_POINTS)
        values = [self.net(part.to(self.device)).float().cpu() for part in parts]
        return torch.cat(values).reshape(*shape, self.channels)

    def on_fit_start(self) -> None:
        """Plots spectra of activations and of the tangent kernel before training."""
        trainer = self.trainer
        fresh = trainer.global_step == 0 and trainer.ckpt_path is None
        if not (self.diagnostics and fresh and trainer.is_global_zero) or getattr(trainer, "fast_dev_run", False):
            return
        target = self._target()
        points = 2048 if target is None else target.shape[self.d_in - 1]
        line = self._line(min(points, 2**14))
        pre, post = (activation_spectra(self.net, line, pre=choice) for choice in (True, False))
        self.log_figure("activations_start", plots.activation_figure(pre, post))
        kernel = kernel_spectrum(tangent_kernel(self.net, self._line(min(points, _PROBED))))
        self.log_figure("tangent_kernel_start", plots.kernel_figure({"at the start": kernel}))

    def _line(self, points: int) -> Tensor:
        """Points (points, d_in) along the last axis, through the middle."""
        x = torch.zeros(points, self.d_in)
        x[:, -1] = torch.linspace(-1, 1, points)
        return x.to(self.device)

    def on_fit_end(self) -> None:
        """Draws the learning curve."""
        if self.psnr_history:
            curve = {"validation": [(point[0], point[1]) for point in self.psnr_history]}
            self.log_figure("psnr", plots.psnr_figure(curve, ylabel="PSNR, peak 2 [dB]"))

    def on_test_epoch_end(self) -> None:
        """Logs the error in bands of the spectrum; writes the reconstruction and its pictures."""
        target = self._target()
        if target is None or not self.trainer.is_global_zero:
            return
        fit = self.reconstruct(tuple(target.shape[:-1]))
        for band, ratio in enumerate(band_errors(fit, target)):
            self.log(f"test/spectral_error/band_{band}", ratio, rank_zero_only=True)
        if getattr(self.trainer, "fast_dev_run", False):
            return
        rate = getattr(self.trainer.datamodule, "sample_rate", None)  # type: ignore[attr-defined]
        self._write(fit, rate)
        self.log_figure("spectrum", plots.spectrum_figure(fit, target))
        if self.d_in == 1:
            figure = plots.waveform_figure(fit[:, 0].numpy(), target[:, 0].numpy(), rate)
            self.log_figure("waveform", figure)
        elif self.d_in == 2 and self.channels in (1, 3):
            self.log_figure("picture", plots.picture_figure(fit.numpy(), target.numpy()))

    def _write(self, fit: Tensor, rate: int | None) -> None:
        folder = Path(self.trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        values = fit.clamp(-1, 1).numpy()
        if self.d_in == 1 and rate:
            from scipy.io import wavfile

            wavfile.write(folder / "reconstruction.wav", rate, np.round(values[:, 0] * 32767).astype(np.int16))
        elif self.d_in == 2 and self.channels in (1, 3):
            from PIL import Image

            bytes_ = np.round((values + 1) * 127.5).astype(np.uint8)
            Image.fromarray(bytes_[..., 0] if self.channels == 1 else bytes_).save(folder / "reconstruction.png")
        else:
            np.save(folder / "reconstruction.npy", fit.numpy())

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the curve so far."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_HISTORY] = self.psnr_history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the curve."""
        super().on_load_checkpoint(checkpoint)
        self.psnr_history = list(checkpoint.get(_HISTORY, []))
