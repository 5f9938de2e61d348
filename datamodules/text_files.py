"""Reading texts: plain files and tables, alone or as the splits of a folder."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.parts import part_of
from framework.errors import UserError
from framework.readers import tables
from framework.readers.listing import has_suffix, list_files
from framework.readers.tables import Row
from framework.readers.text import read_text

PLAIN = (".txt", ".raw", ".tokens", ".md")
SUFFIXES = tuple(suffix + packed for suffix in (*PLAIN, *tables.SUFFIXES) for packed in ("", ".gz"))
# What comes with a data set or a tokenizer of Hugging Face.
_DESCRIPTIONS = re.compile(r"(dataset_\w+|state|(\w+_)?config|tokenizer|vocab|added_tokens|special_tokens_map)\.json")
Embedded = Literal["topics", "code"]
EMBEDDED: dict[Embedded, str] = {
    "topics": "the English prose of Python's own help topics (pydoc_data)",
    "code": "the source code of Python's standard library",
}


def embedded(name: Embedded) -> list[Row]:
    """Returns a text set that comes with Python, one row ``{"text": …}`` a document, in alphabetical order.

    Raises:
        UserError: there is no such set.
    """
    if name == "topics":
        from pydoc_data.topics import topics

        return [Row({"text": topics[key].strip() + "\n"}) for key in sorted(topics)]
    if name == "code":
        folder = Path(sysconfig.get_paths()["stdlib"])
        return [Row({"text": read_text(file)}, file) for file in sorted(folder.glob("*.py"))]
    raise UserError(f"{name!r} is not a text set that comes with Python; accepted: {', '.join(EMBEDDED)}, or a path")


def find_splits(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, list[Path]]:
    """The files of each split under ``path``: ``train``, ``val``, ``test``, or ``all`` where no name says a split.

    A file belongs to a split by its name (``train-00000-of-00001.parquet``, ``wiki.test.raw``, ``val.jsonl``) or by
    its folder's (``train/data-00000-of-00001.arrow``); see :data:`datamodules.parts.PARTS`. The files of ``path``
    itself are used where there are any, else those below; only those that end in ``suffixes``, and no hidden ones.
    Beside tables, plain texts (``README.md``) are left out. What is left out is printed.

    Args:
        path: A file, or a folder.
        suffixes: What the files of a folder end in, in lower case.

    Raises:
        UserError: there is no such path, or no file of a known kind.
    """
    if path.is_file():
        return {"all": [path]}
    if not path.is_dir():
        raise UserError(
            f"path: {path} not found; expected a file or a folder of them ({', '.join(filter(None, suffixes))})"
        )
    files = _data(path, suffixes, deep=False)
    within = files or _data(path, suffixes, deep=True)
    if not within:
        raise UserError(f"path: {path} holds no data; expected files {', '.join(filter(None, suffixes))}")
    left_out = [file for file in within if has_suffix(file.name, _PLAIN_NAMES)]
    within = [file for file in within if file not in left_out] or left_out
    found: dict[str, list[Path]] = {}
    for file in within:
        split = _split_of(file.name) or (None if files else _split_of(file.parent.name))
        if split:
            found.setdefault(split, []).append(file)
    used = found or {"all": within}
    taken = {file for part in used.values() for file in part}
    if rest := sorted({*within, *left_out} - taken):
        names = ", ".join(str(file.relative_to(path)) for file in rest[:5])
        rank_zero_info(f"{path}: {len(rest)} files are not used, for they are of no split: {names}")
    return used


_PLAIN_NAMES = tuple(suffix + packed for suffix in PLAIN for packed in ("", ".gz"))


def _data(folder: Path, suffixes: tuple[str, ...], deep: bool) -> list[Path]:
    files = list_files(folder, suffixes, deep).files
    return [file for file in files if not _DESCRIPTIONS.fullmatch(file.name.lower())]


def _split_of(name: str) -> str | None:
    return next((part for word in re.split(r"[-._]", name) if (part := part_of(word))), None)


def read_documents(files: list[Path], encoding: str | None = None) -> list[Row]:
    """Returns the rows of files, in order; a file that is not a table is one row with the column ``text``.

    Args:
        files: The files.
        encoding: Encoding of those without a byte order mark; UTF-8 by default.

    Raises:
        UserError: a file is missing or broken, not of the encoding, or a row does not fit its header.
    """
    rows: list[Row] = []
    for file in files:
        if tables.suffix_of(file) in tables.SUFFIXES:
            rows += tables.read_rows(file, encoding)
        else:
            rows.append(Row({"text": read_text(file, encoding)}, file))
    return rows
