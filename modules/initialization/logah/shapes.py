"""Files of architectures: the authors' sets, ViTs-1K and GPTs-1K, or one's own (arXiv 2405.16287).

A table (JSON, JSON lines, CSV, Parquet …) with a row for each network. Vision transformers: ``num_layers``,
``hidden_dim``, ``num_heads``, ``patch_size``; GPT-2: ``n_layer``, ``n_embd``, ``n_head``, as the authors name them;
perceptrons: ``widths``, as text ``64-32``.

The authors' sets are pickles of their own classes, which are not read here: a pickle can run any code. For a file that
you trust, in their environment, this writes such a table, ``shapes.json``::

    import json, pickle, sys
    nets = pickle.load(open(sys.argv[1], "rb"))
    found = [net[0] if isinstance(net, tuple) else net.net_args for net in nets]
    json.dump([{key: int(value) for key, value in row.items()} for row in found], open("shapes.json", "w"))
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from framework.errors import UserError
from framework.readers.tables import Row, read_rows

if TYPE_CHECKING:
    from modules.initialization.logah.families import Family

LARGEST = 2**20  # of a width, a depth, a patch


def read_shapes(path: str | Path, family: Family, bias: bool = False) -> list[dict[str, Any]]:
    """Returns the architectures of a file, as :func:`modules.initialization.logah.families.build` takes them.

    Args:
        path: The table.
        family: Of its networks.
        bias: Whether perceptrons have biases.

    Raises:
        UserError: the file is no table, is empty, or a number is missing, not whole, too small or does not fit.
    """
    rows = read_rows(Path(path).expanduser())
    if not rows:
        raise UserError(f"{path}: no row; one for each network is expected")
    if family == "mlp":
        return [
            {"widths": [_whole(row, "widths", part) for part in row.text("widths").split("-")], "bias": bias}
            for row in rows
        ]
    names = ("num_layers", "hidden_dim", "num_heads") if family == "vit" else ("n_layer", "n_embd", "n_head")
    found = []
    for row in rows:
        depth, width, heads = (_whole(row, name, row.text(name)) for name in names)
        if width % heads:
            raise UserError(f"{row.source}: {names[1]} {width} is not a multiple of {names[2]} {heads}")
        shape: dict[str, Any] = {"depth": depth, "width": width, "heads": heads}
        found.append(
            {**shape, "patch_size": _whole(row, "patch_size", row.text("patch_size"))} if family == "vit" else shape
        )
    return found


def _whole(row: Row, name: str, text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (value.is_integer() and 1 <= value <= LARGEST):
        raise UserError(f"{row.source}: {name} {text!r} is not accepted; a whole number from 1 to {LARGEST:,}")
    return int(value)
