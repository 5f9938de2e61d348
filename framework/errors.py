"""Exceptions that are shown as one short message: mistakes of the user, and runs that failed."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a config, a command, a file or a data set; shown as one short message, exit code 2, no traceback.

    Modules, datamodules and techniques raise it for settings and data that they cannot accept. The message names the
    key or the file, the value found and what is accepted. It is also raised if a file cannot be written, because the
    disk is full or the folder is read-only.
    """

    exit_code = 2


class RunFailed(UserError):
    """A run that failed although the code is correct: its loss is not finite, or one of its processes died.

    Shown in the same way, exit code 3.
    """

    exit_code = 3
