"""What a run leaves behind: the metrics log, W&B, predictions, provenance, and what the terminal shows."""

from collections.abc import Iterable
from typing import Any


def close_loggers(loggers: Iterable[Any], exit_code: int = 0) -> None:
    """Closes every logger that can be closed; to be called in a ``finally``."""
    for logger in loggers:
        if callable(getattr(type(logger), "close", None)):
            logger.close(exit_code)
