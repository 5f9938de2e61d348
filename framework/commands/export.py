"""``export last | best | RUN_FOLDER | CHECKPOINT``: writes a checkpoint's weights to a smaller checkpoint file."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from framework.commands.options import CommandParser, number


def _step(text: str) -> float:
    """Parses a step, which may also be written as a power: ``2^-13``."""
    power = re.fullmatch(r"\s*(\d+(?:\.\d*)?)\s*(?:\^|\*\*)\s*(-?\d+)\s*", text)
    return float(power[1]) ** int(power[2]) if power else float(text)


def command_line() -> CommandParser:
    """Builds the command's parser."""
    parser = CommandParser(
        "export",
        "last | best | RUN_FOLDER | CHECKPOINT [OPTION...]",
        "Writes a checkpoint's weights to a smaller file that opens as a checkpoint.",
        "The file has no optimiser states. validate, test and predict accept it as --ckpt_path, framework.open_model "
        "opens it, and a warm start can start from it.",
    )
    parser.add_argument(
        "checkpoint",
        nargs="*",
        metavar="CHECKPOINT",
        help="a checkpoint file; last or best of the newest run; a run folder for its last checkpoint",
    )
    parser.add_argument(
        "--format",
        default="rf8",
        help="rf8 (8 bits a weight), entropy (rounded to --step, coded close to the entropy), exp_golomb (rounded to "
        "--step, exp-Golomb codes of frequency ranks) or plain; default: rf8",
    )
    parser.add_argument(
        "--out", metavar="FILE", help="the file to write; default: beside the checkpoint, last.rf8.ckpt for last.ckpt"
    )
    parser.add_argument(
        "--step",
        type=number(_step, lambda step: 0 < step < math.inf, "a number above 0, such as 2^-13 or 0.001"),
        help="distance between two levels of the entropy codes: 2^-13 (default), 0.001, ...",
    )
    parser.add_argument(
        "--include",
        action="append",
        metavar="PATTERN",
        help="tensors to compress; may be repeated; default: all with at least two dimensions",
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="tensors not to compress; may be repeated"
    )
    parser.add_argument("--deep-shape", "--deep_shape", action="store_true", help="remap the weights' histogram first")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; the exit code is 0.

    Raises:
        UserError: an option is not accepted, not exactly one checkpoint is given, or it cannot be exported.
    """
    parser = command_line()
    options = parser.read(arguments)
    if options is None:
        return 0
    given = parser.only(options.checkpoint, "one checkpoint or run folder")
    from framework.checkpoints.export import STEP, export
    from framework.checkpoints.finding import find_checkpoint

    report = export(
        find_checkpoint(given) if given in ("last", "best") else given,
        options.out,
        options.format,
        step=options.step or STEP,
        include=options.include,
        exclude=options.exclude,
        deep_shape=options.deep_shape,
    )
    print(report.table())
    return 0
