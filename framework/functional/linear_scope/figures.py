"""Pictures of an interpreter: votes of pixels, rows and columns, singular vectors, and r (arXiv 1908.05168)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from torch import Tensor

from framework.figures import new_figure
from framework.functional.linear_scope.interpreter import Basis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show_picture(axes: Axes, picture: Tensor, title: str = "") -> None:
    """Draws a picture, stretched from its smallest to its largest value.

    Args:
        axes: Where.
        picture: (C, H, W); in colours if C is 3.
        title: Above it.
    """
    picture = picture.detach().float().cpu()
    low, high = picture.min(), picture.max()
    scaled = (picture - low) / (high - low).clamp(min=1e-12)
    shown: Any = scaled.permute(1, 2, 0) if len(scaled) == 3 else scaled.mean(0)
    axes.imshow(shown.numpy(), cmap="gray")
    _bare(axes, title)


def show_signed(axes: Axes, picture: Tensor, title: str = "", limit: float | None = None) -> None:
    """Draws a picture of both signs, summed over its channels: red above 0, blue below.

    Args:
        axes: Where.
        picture: (C, H, W).
        title: Above it.
        limit: The value of the darkest red; by default the largest magnitude.
    """
    found = picture.detach().double().cpu().sum(0)
    limit = float(found.abs().max()) if limit is None else limit
    axes.imshow(found.numpy(), cmap="RdBu_r", vmin=-limit or -1, vmax=limit or 1)
    _bare(axes, title)


def _bare(axes: Axes, title: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title, fontsize=7)


def votes_figure(
    pictures: Tensor,
    maps: Tensor,
    outputs: Tensor,
    votes: Tensor,
    residual: Tensor,
    names: Sequence[str],
    targets: Tensor | None = None,
) -> Figure:
    """Draws each picture beside the contribution maps of some classes.

    Args:
        pictures: (N, C, H, W).
        maps: C_q (N, Q, C, H, W).
        outputs: The classes q (N, Q).
        votes: Σ_p C_q[p] (N, Q).
        residual: r_q (N, Q).
        names: Of all classes.
        targets: The true classes (N,).
    """
    count, shown = outputs.shape
    figure = new_figure(count, shown + 1, size=(1.5 * (shown + 1) + 0.3, 1.85 * count + 0.4))
    grid = [figure.axes[i * (shown + 1) : (i + 1) * (shown + 1)] for i in range(count)]
    for n, row in enumerate(grid):
        show_picture(row[0], pictures[n], f"true: {names[int(targets[n])]}" if targets is not None else "")
        limit = float(maps[n].sum(1).abs().max())
        for q, axes in enumerate(row[1:]):
            vote, rest = float(votes[n, q]), float(residual[n, q])
            title = f"{names[int(outputs[n, q])]}: {vote + rest:.2f} =\nvotes {vote:.2f} + r {rest:.2f}"
            show_signed(axes, maps[n, q], title, limit)
    figure.suptitle("votes of the pixels for the largest logits", fontsize=9)
    return figure


def gallery_figure(parts: Tensor, titles: Sequence[str], title: str, columns: int = 6) -> Figure:
    """Draws pictures of both signs, each on its own scale.

    Args:
        parts: (Q, C, H, W).
        titles: Of each.
        title: Of all.
        columns: Pictures beside each other.
    """
    columns = min(columns, len(parts))
    rows = ceil(len(parts) / columns)
    figure = new_figure(rows, columns, size=(1.5 * columns + 0.3, 1.75 * rows + 0.5))
    for number, axes in enumerate(figure.axes):
        if number < len(parts):
            show_signed(axes, parts[number], titles[number])
        else:
            axes.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return figure


def basis_figure(basis: Basis, names: Sequence[str] | None = None, most: int = 6) -> Figure:
    """Draws the singular values, and the leading eigen-inputs above their eigen-outputs.

    Args:
        basis: Of an interpreter of one picture.
        names: Of the outputs, if they are not a picture.
        most: Number of pairs.
    """
    count = min(most, len(basis.gains))
    figure = new_figure(2, count + 1, size=(1.5 * count + 3.4, 3.9))
    figure.clear()
    grid = figure.add_gridspec(2, count + 2)
    curve = figure.add_subplot(grid[:, :2])
    gains = basis.gains.cpu().numpy()
    curve.plot(range(1, len(gains) + 1), gains, "o-", markersize=3)
    wide = gains[-1] < 0.1 * gains[0]
    curve.set(xlabel="index", ylabel="singular value", yscale="log" if wide else "linear")
    if not wide:
        curve.set_ylim(0, None)
    for i in range(count):
        above, below = (figure.add_subplot(grid[row, i + 2]) for row in (0, 1))
        show_signed(above, basis.inputs[i], f"input {i + 1}")
        if basis.outputs.ndim == 4:
            show_signed(below, basis.outputs[i], f"output, gain {float(basis.gains[i]):.3g}")
        else:
            values = basis.outputs[i].flatten().cpu().numpy()
            below.bar(range(len(values)), values, color="C0")
            below.tick_params(labelsize=6)
            if names is not None and len(values) <= 12:
                below.set_xticks(range(len(values)), names, rotation=90 if max(map(len, names)) > 2 else 0)
            below.set_title(f"output, gain {float(basis.gains[i]):.3g}", fontsize=7)
    figure.suptitle("what the network passes on: eigen-inputs and eigen-outputs", fontsize=9)
    return figure


def residual_figure(pictures: Tensor, outputs: Tensor, residual: Tensor) -> Figure:
    """Draws input, output f, F x and r of pictures whose outputs are pictures.

    Args:
        pictures: (N, C, h, w).
        outputs: f (N, D, H, W).
        residual: r (N, D, H, W).
    """
    count = len(pictures)
    figure = new_figure(count, 4, size=(6.4, 1.7 * count + 0.4))
    for n in range(count):
        row = figure.axes[4 * n : 4 * n + 4]
        share = float(residual[n].norm() / outputs[n].norm().clamp(min=1e-12))
        show_picture(row[0], pictures[n], "x")
        show_picture(row[1], outputs[n], "f(x)")
        show_picture(row[2], outputs[n] - residual[n], "F x")
        show_signed(row[3], residual[n], f"r, ‖r‖/‖f‖ = {share:.2g}")
    return figure


def progress_figure(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Draws measurements over epochs: accuracies of f, of the votes and of r, or gains; and the share of r.

    Args:
        rows: Each with ``epoch`` and the names that were measured.
    """
    figure = new_figure(1, 2)
    left, right = figure.axes
    epochs = [row["epoch"] for row in rows]
    labels = {
        "acc_full": "f",
        "acc_votes": "votes F x alone",
        "acc_bias": "r alone",
        "dc_gain": "gain of a constant image",
        "locality": "energy of columns nearby",
    }
    for name, label in labels.items():
        if any(name in row for row in rows):
            left.plot(epochs, [row.get(name, float("nan")) for row in rows], "o-", markersize=3, label=label)
    if left.get_legend_handles_labels()[0]:
        left.legend(frameon=False, fontsize=8)
    left.set(xlabel="epochs", ylabel="accuracy" if any("acc_full" in row for row in rows) else "")
    right.plot(epochs, [row["norm_ratio"] for row in rows], "o-", markersize=3)
    right.set(xlabel="epochs", ylabel="mean of ‖r‖ / ‖f‖", ylim=(0, None))
    return figure
