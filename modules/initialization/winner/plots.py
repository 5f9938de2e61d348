"""The figures: learning curves, waveform and spectrogram, spectra, activations and the tangent kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from framework.figures import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def psnr_figure(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    references: Mapping[str, float] | None = None,
    ylabel: str = "PSNR [dB]",
) -> Figure:
    """Draws PSNR against epochs.

    Args:
        curves: Label to (epoch, PSNR) pairs; labels that are equal up to a trailing ``#…`` share a colour.
        references: Label to a level, drawn as a dashed line.
        ylabel: Label with the PSNR's peak.
    """
    figure = new_figure(size=(5.2, 3.5))
    axes = figure.axes[0]
    colours: dict[str, str] = {}
    for label, points in curves.items():
        group, _, repeat = label.partition("#")
        known = group in colours
        colour = colours.setdefault(group, f"C{len(colours)}")
        epochs, values = zip(*points, strict=True) if points else ((), ())
        axes.plot(epochs, values, color=colour, alpha=0.85 if not repeat else 0.6, label=None if known else group)
    for label, level in (references or {}).items():
        axes.axhline(level, color="0.4", linestyle="--", linewidth=1, label=label)
    axes.set(xlabel="epoch", ylabel=ylabel)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    return figure


def waveform_figure(prediction: np.ndarray, target: np.ndarray, rate: int | None = None) -> Figure:
    """Draws target and fit of a signal (N,): the whole signal, a hundred samples of it, and both spectrograms.

    Args:
        prediction: The fit.
        target: The same shape.
        rate: Sample rate in Hz; by default time is in samples.
    """
    figure = new_figure(2, 2, size=(9.5, 5.6))
    whole, part, *spectrograms = figure.axes
    n, unit = len(target), "s" if rate else "samples"
    t = np.arange(n) / (rate or 1)
    whole.plot(t, target, color="0.65", linewidth=0.6, label="target")
    whole.plot(t, prediction - target, color="C3", linewidth=0.6, label="error")
    start = max(0, min(n - 100, int(np.argmax(np.abs(target))) - 50))
    shown = slice(start, start + 100)
    part.plot(t[shown], target[shown], "o-", color="0.65", markersize=2.5, linewidth=1, label="target")
    part.plot(t[shown], prediction[shown], color="C0", linewidth=1.2, label="fit")
    for axes in (whole, part):
        axes.set(xlabel=f"time [{unit}]")
        axes.legend(frameon=False, fontsize=7, loc="upper right")
    segment = int(2 ** np.clip(np.log2(max(n, 16) / 16), 4, 9))
    pictures = [_spectrogram(values, segment) for values in (target, prediction)]
    top = pictures[0].max()
    for axes, picture, title in zip(spectrograms, pictures, ("target", "fit"), strict=True):
        extent = (0, n / (rate or 1), 0, (rate or 1) / 2)
        image = axes.imshow(
            picture, origin="lower", aspect="auto", extent=extent, vmin=top - 80, vmax=top, cmap="magma"
        )
        axes.set(title=title, xlabel=f"time [{unit}]", ylabel="frequency [Hz]" if rate else "cycles / sample")
    figure.colorbar(image, ax=spectrograms, label="power [dB]")
    return figure


def _spectrogram(values: np.ndarray, segment: int) -> np.ndarray:
    padded = np.pad(values, (0, max(0, segment - len(values))))
    starts = range(0, len(padded) - segment + 1, max(1, segment // 2))
    frames = np.stack([padded[s : s + segment] for s in starts], 1) * np.hanning(segment)[:, None]
    return 10 * np.log10(np.abs(np.fft.rfft(frames, axis=0)) ** 2 + 1e-12)


def picture_figure(prediction: np.ndarray, target: np.ndarray) -> Figure:
    """Draws target, fit and error of a picture (H, W, C) in [-1, 1]."""
    height, width = target.shape[:2]
    figure = new_figure(1, 3, size=(10.5, 0.6 + 3.3 * height / width))
    error = np.abs(prediction - target).mean(-1)
    for axes, values, title in zip(figure.axes[:2], (target, prediction), ("target", "fit"), strict=True):
        shown = np.clip((values + 1) / 2, 0, 1)
        axes.imshow(shown[..., 0] if shown.shape[-1] == 1 else shown, cmap="gray", vmin=0, vmax=1)
        axes.set(title=title, xticks=[], yticks=[])
    image = figure.axes[2].imshow(error, cmap="magma", vmin=0)
    figure.axes[2].set(title="|error|", xticks=[], yticks=[])
    figure.colorbar(image, ax=figure.axes[2], shrink=0.85)
    return figure


def spectrum_figure(prediction: Tensor, target: Tensor, bands: int = 120) -> Figure:
    """Draws amplitude of target, fit and error against frequency, means over bands, first channel of (*grid, C)."""
    figure = new_figure()
    axes = figure.axes[0]
    for values, label, colour in (
        (target, "target", "0.6"),
        (prediction, "fit", "C0"),
        (prediction - target, "error", "C3"),
    ):
        amplitude = torch.fft.fftn(values[..., 0].double(), norm="forward").abs()
        along = [torch.fft.fftfreq(n, dtype=torch.float64).abs() * 2 for n in amplitude.shape]
        frequency = torch.stack(torch.meshgrid(*along, indexing="ij")).amax(0).flatten()
        count = min(bands, max(4, amplitude.shape[-1] // 4))
        band = (frequency * count).long().clamp(max=count - 1)
        total = torch.zeros(count, dtype=torch.float64).index_add_(0, band, amplitude.flatten().square())
        number = torch.zeros(count, dtype=torch.float64).index_add_(0, band, torch.ones_like(frequency))
        mean = (total / number.clamp(min=1)).sqrt()
        axes.plot((np.arange(count) + 0.5) / count, mean, color=colour, label=label, linewidth=1.2)
    axes.set(yscale="log", xlabel="frequency / Nyquist", ylabel="rms amplitude")
    axes.legend(frameon=False, fontsize=8)
    return figure


def activation_figure(pre: Sequence[Tensor], post: Sequence[Tensor]) -> Figure:
    """Draws power spectral density of each layer's pre-activations and activations at initialisation."""
    figure = new_figure(1, 2)
    for axes, spectra, title in zip(figure.axes, (pre, post), ("pre-activations", "activations"), strict=True):
        for index, spectrum in enumerate(spectra):
            bins = max(1, len(spectrum) // 150)
            usable = len(spectrum) // bins * bins
            smooth = spectrum[:usable].reshape(-1, bins).mean(1)
            axes.plot(np.linspace(0, 1, len(smooth)), smooth, color=f"C{index}", label=f"layer {index + 1}")
        axes.set(yscale="log", xlabel="frequency / Nyquist", title=title)
        axes.legend(frameon=False, fontsize=7)
    figure.axes[0].set(ylabel="power")
    return figure


def kernel_figure(kernels: Mapping[str, tuple[Tensor, Tensor]]) -> Figure:
    """Draws eigenvalues of tangent kernels, and their spectra.

    Args:
        kernels: Label to eigenvalues and spectrum (:func:`~modules.initialization.winner.ntk.kernel_spectrum`).
    """
    figure = new_figure(1, 2)
    left, right = figure.axes
    for label, (values, spectrum) in kernels.items():
        kept = values[values > 1e-12 * values[0]]
        left.plot(np.arange(1, len(kept) + 1), kept, label=label)
        right.plot(np.linspace(0, 1, len(spectrum)), spectrum / spectrum.sum(), label=label)
    left.set(xscale="log", yscale="log", xlabel="index", ylabel="eigenvalue")
    right.set(yscale="log", xlabel="frequency / Nyquist", ylabel="share of the kernel")
    for axes in figure.axes:
        axes.legend(frameon=False, fontsize=8)
    return figure
