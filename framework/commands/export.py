"""``export last | best | RUN_FOLDER | CHECKPOINT``: writes its weights to a smaller file that opens as a checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from framework.commands.options import read_options
from framework.errors import UserError

USAGE = """usage: framework export last | best | RUN_FOLDER | CHECKPOINT [--format FORMAT] [--out FILE]

  last, best    that checkpoint of the newest run; a run folder means its last one
  --format      rf8 (8 bits a weight), entropy (rounded to --step, coded close to the entropy), exp_golomb (rounded to
                --step, exp-Golomb codes of frequency ranks) or plain; rf8 by default
  --out FILE    where to; beside the checkpoint by default, last.rf8.ckpt for last.ckpt
  --step STEP   between two levels of the entropy codes: 2^-13 (the default), 0.001, ...
  --include P   pattern of tensors to compress, several times; all of two and more dimensions by default
  --exclude P   pattern of tensors to leave as they are, several times
  --deep-shape  remaps the weights' histogram first

The file has no optimiser states: validate, test and predict take it by --ckpt_path, framework.open_model opens it, and
a warm start begins from it.
"""


def read_step(text: str) -> float:
    """A number above 0, also written as a power: ``2^-13``.

    Raises:
        UserError: it is not one.
    """
    power = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(?:\^|\*\*)\s*(-?\d+)\s*", text)
    try:
        value = float(power[1]) ** int(power[2]) if power else float(text)
    except (ValueError, OverflowError, ZeroDivisionError):
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise UserError(f"export: --step {text} is not accepted; a number above 0, such as 2^-13 or 0.001")
    return value


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code is 0.

    Raises:
        UserError: an option is not accepted, not one checkpoint is named, or it cannot be exported.
    """
    names = ("format", "out", "step", "include", "exclude")
    options = read_options("export", USAGE, arguments, values=names, flags=("deep-shape",))
    if options is None:
        return 0
    given = options.words
    if len(given) != 1:
        found = f"{len(given)} were given: {', '.join(given)}" if given else "none was given"
        raise UserError(f"export: one checkpoint or run folder is needed; {found}")
    from framework.checkpoints.export import STEP, export
    from framework.checkpoints.finding import find_checkpoint

    newest = given[0] in ("last", "best")
    report = export(
        find_checkpoint(given[0]) if newest else given[0],
        options.last("out"),
        options.last("format", "rf8"),
        step=read_step(step) if (step := options.last("step")) else STEP,
        include=options.values["include"] or None,
        exclude=options.values["exclude"],
        deep_shape="deep-shape" in options.flags,
    )
    print(report.table())
    return 0
