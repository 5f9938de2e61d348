"""What a run leaves behind: the metrics log, W&B, predictions, provenance, and what the terminal shows."""

from collections.abc import Iterable
from typing import Any


def close_loggers(loggers: Iterable[Any], exit_code: int = 0) -> None:
    """Closes every logger that can be closed; to be called in a ``finally``.

    Raises:
        Exception: the first one of a logger that could not be closed, after all others are.
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
