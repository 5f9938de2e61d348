"""Makes figures, and saves them in the run folder and to every logger that accepts images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from framework.files import written

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from matplotlib.figure import Figure


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None) -> Figure:
    """Makes a figure outside pyplot's registry, so that it need not be closed and no display is needed.

    Args:
        rows: Number of rows of axes.
        columns: Number of columns of axes.
        size: Width and height in inches; by default 4.5 x 3.2 per pair of axes.

    Returns:
        The figure; its axes are in ``figure.axes``, row by row.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size or (4.5 * columns, 3.2 * rows), layout="constrained", dpi=120)
    figure.subplots(rows, columns)
    return figure


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes ``figure`` as PNG to ``path`` (folders are made) and returns the path.

    Raises:
        UserError: it cannot be written.
    """
    with written(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def log_figure(trainer: Trainer, name: str, figure: Figure) -> Path | None:
    """Writes ``<run folder>/figures/<name>.png`` and passes the figure to the loggers that show images.

    Only rank 0 writes; the other ranks return ``None``. Under ``fast_dev_run`` nothing is written.

    Args:
        trainer: The run's Trainer.
        name: Name of the file, without its suffix; loggers use ``figures/<name>``.
        figure: The figure.

    Returns:
        The file's path, or ``None``.
    """
    if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
        return None
    path = save_figure(figure, Path(trainer.default_root_dir) / "figures" / f"{name}.png")
    for logger in trainer.loggers:
        log_image = getattr(logger, "log_image", None)
        if callable(log_image):
            log_image(key=f"figures/{name}", images=[str(path)], step=trainer.global_step)
    return path
