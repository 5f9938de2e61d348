"""``python -m framework COMMAND …``, and the console script of the same name."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Sequence

from framework import paths
from framework.errors import UserError
from framework.runs.starter import end_with_starter

USAGE = """usage: framework COMMAND [--config FILE]... [--KEY=VALUE]...

  fit        train           --config sequence/s4d --model.d_model=32 --techniques.ema.decay=0.99
  validate   evaluate on the validation data          --ckpt_path last | best | FOLDER | FILE
  test       evaluate on the test data                --ckpt_path last | best | FOLDER | FILE
  predict    write predictions                        --ckpt_path last | best | FOLDER | FILE
  list       methods, techniques, data and configs    --json | --markdown [FILE...]
  compare    runs side by side over seeds             FOLDER... [--metric NAME] [--by KEY]
  reproduce  check a paper's claims on this machine   METHOD... | --all [--json FILE] [--page FILE]
  export     write a checkpoint's weights, compressed last | best | FOLDER | FILE [--format rf8|entropy|plain]
  sweep      run a W&B sweep file, without an account FILE [--count N] [--workers K] [--storage URL] [--resume]

Settings: --config takes a path or the short name of a shipped config and may be repeated; later files override earlier
ones, options override files; null switches a technique off. --print_config shows the composed config, COMMAND --help
every key, --model.help=CLASS the arguments of a class, --traceback the full trace of an error.

Exit codes: 0 done, 1 a bug, with its trace, 2 a mistake in the command or a file that cannot be written, 3 a run that
failed (its loss is not finite, a process died), 130, 143 and 138 stopped by SIGINT, SIGTERM or SLURM's SIGUSR1, all
saved.
"""


def _training(command: str) -> Callable[[Sequence[str]], int]:
    def run(arguments: Sequence[str]) -> int:
        from framework.commands.train import main

        return main(command, arguments)

    return run


def _list(arguments: Sequence[str]) -> int:
    from framework.commands.list import main

    return main(arguments)


def _compare(arguments: Sequence[str]) -> int:
    from framework.commands.compare import main

    return main(arguments)


def _reproduce(arguments: Sequence[str]) -> int:
    from framework.commands.reproduce import main

    return main(arguments)


def _export(arguments: Sequence[str]) -> int:
    from framework.commands.export import main

    return main(arguments)


def _sweep(arguments: Sequence[str]) -> int:
    from framework.commands.sweep import main

    return main(arguments)


def _worker(arguments: Sequence[str]) -> int:
    from framework.sweep.worker import main

    return main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    **{name: _training(name) for name in ("fit", "validate", "test", "predict")},
    "list": _list,
    "compare": _compare,
    "reproduce": _reproduce,
    "export": _export,
    "sweep": _sweep,
    "_worker": _worker,  # started by a sweep
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 2 for a user's mistake, 3 for a run that failed; both are shown as a
    message without a traceback.

    Raises:
        UserError: only with ``--traceback``; otherwise its message is printed.
    """
    end_with_starter()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    trace = "--traceback" in arguments
    arguments = [paths.at_home(argument) for argument in arguments if argument != "--traceback"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    try:
        paths.refuse_if_hidden()
        command = arguments[0]
        if command not in COMMANDS:
            from difflib import get_close_matches

            known = [name for name in COMMANDS if not name.startswith("_")]
            near = get_close_matches(command, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(known)}"
            raise UserError(f"{command!r} is not a command; {hint}")
        return COMMANDS[command](arguments[1:])
    except UserError as error:
        if trace:
            raise
        shown = "\n".join([f"error: {error}", *getattr(error, "__notes__", ())])
        print(_readable(shown), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:  # before or after training; during training the run is saved first
        print("SIGINT: stopped before there was anything to save", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `framework list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _readable(message: str) -> str:
    """Returns a message with long quoted words cut and control characters escaped."""
    plain = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in message)
    return re.sub(r"\S{300,}", lambda word: f"{word[0][:120]}...", plain)


def console() -> None:
    """Runs the console script: as ``python -m framework``, but no other folder can hide the project's packages."""
    paths.own_packages_first()
    sys.exit(main())


if __name__ == "__main__":
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:  # python -P: the user's own packages must be found too
        sys.path.append(here)
    sys.exit(main())
