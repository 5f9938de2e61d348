"""Builds the command line of a trial as W&B's agent does (``wandb/wandb_agent.py``, ``_command_run``).

A macro is a whole item of the file's ``command``; only ``${envvar:NAME}`` may be part of a longer one. The agent
silently drops an unknown macro and replaces an unset variable by its name; here both are errors. A ``${...}`` inside a
longer item that is not a macro, such as an interpolation of the program's own, is passed on unchanged.
"""

from __future__ import annotations

import json
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.errors import UserError
from framework.sweep.template import MACROS, VARIABLE

if TYPE_CHECKING:
    from framework.sweep.spec import Sweep


SUBCOMMANDS = ("fit", "validate", "test", "predict")

_ASKS = re.compile(r"-h$|--help\b|--[\w.]+\.help\b|--print_config\b")  # does not train
_HARMLESS_FLAGS = ("-u", "-B", "-q")
_ASSIGNMENT = re.compile(r"^([A-Za-z_][A-Za-z0-9_]*)=(.*)$", re.DOTALL)


def expand(
    sweep: Sweep,
    nested_values: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    params_file: Path | None = None,
    interpreter: str = sys.executable,
) -> list[str]:
    """Returns the command line that W&B's agent would run for a point; each item is one argument, no shell is used.

    Args:
        sweep: The sweep file.
        nested_values: Maps top-level names to values, from :meth:`~framework.sweep.spec.Sweep.nested`.
        environment: Environment variables for ``${envvar:NAME}``.
        params_file: Where ``${args_json_file}`` writes the parameters; the folder must exist.
        interpreter: Value of ``${interpreter}``. W&B's agent uses ``python``, whatever that is on its machine.

    Raises:
        UserError: an environment variable is not set, or there is no program.
    """
    argv: list[str] = []
    for item in sweep.command:
        missing = [name for name in VARIABLE.findall(item) if name not in environment]
        if missing:
            raise UserError(f"{sweep.path}: command: {item!r}: the environment variable {missing[0]} is not set")
        macro = item[2:-1] if item.startswith("${") and item.endswith("}") else ""
        if macro not in MACROS:
            argv.append(VARIABLE.sub(lambda match: environment[match.group(1)], item))
        elif macro == "env":
            argv += [] if platform.system() == "Windows" else ["/usr/bin/env"]
        elif macro == "interpreter":
            argv.append(interpreter)
        elif macro == "program":
            if sweep.program is None:
                raise UserError(f"{sweep.path}: command: ${{program}} needs the key program")
            argv.append(sweep.program)
        elif macro == "args_json_file":
            if params_file is None:
                raise ValueError("${args_json_file} needs a file")
            params_file.write_text(json.dumps(dict(nested_values)), encoding="utf-8")
            argv.append(str(params_file))
        else:
            argv += arguments(macro, nested_values)
    return argv


def arguments(macro: str, values: Mapping[str, Any]) -> list[str]:
    """Returns the items of one of the ``args`` macros; a value is written as by Python's ``str``."""
    if macro == "args_json":
        return [json.dumps(dict(values))]
    if macro == "args_no_equals":
        return [text for name, value in values.items() for text in (f"--{name}", str(value))]
    if macro == "args_no_boolean_flags":
        return [
            f"--{name}" if value is True else f"--{name}={value}"
            for name, value in values.items()
            if value is not False
        ]
    prefix = {"args": "--", "args_no_hyphens": "", "args_append_hydra": "+", "args_override_hydra": "++"}[macro]
    return [f"{prefix}{name}={value}" for name, value in values.items()]


def framework_arguments(
    argv: Sequence[str], environment: Mapping[str, str] = os.environ, executable: str = sys.executable
) -> list[str] | None:
    """Returns the subcommand and its arguments if a worker can run ``argv``: this framework with this Python.

    That is ``framework SUBCOMMAND …`` or ``python -m framework SUBCOMMAND …`` for fit, validate, test and predict,
    with or without ``/usr/bin/env``. ``python``, ``python3`` and this version's ``python3.x`` count as this Python, as
    does a path into its own folder; any other path does not. ``-u``, ``-B`` and ``-q`` have no effect on a running
    process and are accepted; other flags, options of ``env``, assignments that differ from the environment, and
    requests for help or the config need their own process.

    Args:
        argv: The command line from :func:`expand`.
        environment: The workers' environment.
        executable: The workers' Python.

    Returns:
        For example ``["fit", "--config", "sequence/s4d"]``; ``None`` if it must run in its own process.
    """
    queue = list(argv)
    if queue and queue[0] in ("/usr/bin/env", "env"):
        queue.pop(0)
        while queue and (match := _ASSIGNMENT.match(queue[0])):
            if environment.get(match.group(1)) != match.group(2):
                return None
            queue.pop(0)
    if not queue:
        return None
    program = queue.pop(0)
    if _is_ours(program, {"framework"}, executable):
        pass
    elif program == executable or _is_ours(program, _python_names(), executable):
        while queue and queue[0] in _HARMLESS_FLAGS:
            queue.pop(0)
        if queue[:2] != ["-m", "framework"]:
            return None
        queue = queue[2:]
    else:
        return None
    if not queue or queue[0] not in SUBCOMMANDS or any(_ASKS.match(item) for item in queue):
        return None
    return queue


def _python_names() -> set[str]:
    return {"python", "python3", f"python3.{sys.version_info.minor}"}


def _is_ours(program: str, names: set[str], executable: str) -> bool:
    """Returns whether it is one of ``names``, as a bare word or in the folder of this Python."""
    path = Path(program)
    return path.name in names and (program == path.name or path.parent == Path(executable).parent)
