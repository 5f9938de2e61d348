"""Instantiates one class of a config from ``class_path`` and ``init_args``, and checks their types."""

from __future__ import annotations

import warnings
from typing import Any

import jsonargparse
from jsonargparse import ArgumentError

from framework.errors import UserError
from framework.library_errors import first_line

# Lightning, and therefore we too, use names of jsonargparse that newer versions deprecate.
RENAMED = r"(?s).*(was deprecated in v4\.|JSONARGPARSE_DEPRECATION)"


def instantiate(base: type, settings: dict[str, Any], where: str) -> Any:
    """Instantiates one class of a config from ``class_path`` and ``init_args``, and checks their types.

    Args:
        base: The class, or a base class of it.
        settings: ``class_path`` and ``init_args``.
        where: Their key in the config, for messages.

    Raises:
        UserError: an argument is not accepted; the message starts with ``where``.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=RENAMED)
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(base, "model")
        try:
            typed = parser.parse_object({"model": settings})
        except (ArgumentError, TypeError, ValueError, KeyError) as error:
            raise UserError(f"{where}: {first_line(error)}") from error
        return parser.instantiate_classes(typed).model
