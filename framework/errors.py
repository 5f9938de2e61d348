"""The one exception that means "the user's input is wrong"."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a config, a command, a file or a data set: shown as one short message, exit code 2, no traceback.

    Modules, datamodules and techniques raise it for settings and data that they cannot accept. The message names the
    key or the file, the value found and what is accepted.
    """
