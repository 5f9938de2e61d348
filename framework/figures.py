"""Where pictures go: the run folder, and every logger that takes images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from framework.files import written

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from matplotlib.figure import Figure


def new_figure(rows: int = 1, columns: int = 1, size: tuple[float, float] | None = None) -> Figure:
    """A figure outside pyplot's registry, so that nothing has to close it and no display is needed.

    Args:
        rows: Rows of axes.
        columns: Columns of axes.
        size: Inches, width and height; by default 4.5 x 3.2 for each pair of axes.

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
    """Writes ``<run folder>/figures/<name>.png`` and hands the picture to the loggers that show images.

    Only rank 0 writes; the others get ``None``. Under ``fast_dev_run`` nothing is written.

    Args:
        trainer: Of the run.
        name: Of the file, without its suffix; the loggers get it as ``figures/<name>``.
        figure: The picture.

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
