"""The records of a run: the metrics log, W&B, predictions and provenance; and the progress bar."""

from collections.abc import Iterable
from typing import Any


def close_loggers(loggers: Iterable[Any], exit_code: int = 0) -> None:
    """Closes every logger that can be closed; must be called in a ``finally``.

    Raises:
        Exception: a logger could not be closed; the first error is raised, after all other loggers are closed.
    """
    failed: Exception | None = None
    for logger in loggers:
        if callable(getattr(type(logger), "close", None)):
            try:
                logger.close(exit_code)
            except Exception as error:
                failed = failed or error
    if failed is not None:
        raise failed
