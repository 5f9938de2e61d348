"""The exceptions that are shown as one short message: what the user got wrong, and what went wrong with a run."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in a config, a command, a file or a data set: shown as one short message, exit code 2, no traceback.

    Modules, datamodules and techniques raise it for settings and data that they cannot accept. The message names the
    key or the file, the value found and what is accepted. A file that cannot be written, because the disk is full or
    the folder is read-only, counts as one too.
    """

    exit_code = 2


class RunFailed(UserError):
    """A run that could not go on, by nothing that is wrong in the code: its loss is no finite number, or one of its
    processes was lost. Shown in the same way, exit code 3.
    """

    exit_code = 3
