"""Reading texts: plain files, JSON lines, CSV, Parquet and Arrow, alone or as the splits of a folder."""

from __future__ import annotations

import csv
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from framework.errors import UserError

SUFFIXES = (".txt", ".raw", ".tokens", ".md", ".jsonl", ".json", ".csv", ".parquet", ".arrow")
SPLITS = {"train": ("train",), "val": ("validation", "valid", "val", "dev"), "test": ("test",)}
Embedded = Literal["topics", "code"]
EMBEDDED: dict[Embedded, str] = {
    "topics": "the English prose of Python's own help topics (pydoc_data)",
    "code": "the source code of Python's standard library",
}

Row = dict[str, Any]


def embedded(name: Embedded) -> list[Row]:
    """Returns a text set that comes with Python, one row ``{"text": …}`` a document, in alphabetical order.

    Raises:
        UserError: there is no such set.
    """
    if name == "topics":
        from pydoc_data.topics import topics

        return [{"text": topics[key].strip() + "\n"} for key in sorted(topics)]
    if name == "code":
        folder = Path(sysconfig.get_paths()["stdlib"])
        return [{"text": file.read_text("utf-8", "replace")} for file in sorted(folder.glob("*.py"))]
    raise UserError(f"{name!r} is not a text set that comes with Python; accepted: {', '.join(EMBEDDED)}, or a path")


def find_splits(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> dict[str, list[Path]]:
    """The files of each split under ``path``: ``train``, ``val``, ``test``, or ``all`` where no name says a split.

    A file belongs to a split by its name (``train-00000-of-00001.parquet``, ``wiki.test.raw``, ``val.jsonl``) or by
    its folder's (``train/data-00000-of-00001.arrow``). The files of ``path`` itself are used where there are any, else
    those below; only those that end in ``suffixes``.

    Raises:
        UserError: there is no such path, or no file of a known kind.
    """
    if path.is_file():
        return {"all": [path]}
    if not path.is_dir():
        raise UserError(f"path: {path} not found; expected a file or a folder of them ({', '.join(suffixes)})")
    files = _texts(path.iterdir(), suffixes)
    within = files or _texts(path.rglob("*"), suffixes)
    if not within:
        raise UserError(f"path: {path} holds no data; expected files {', '.join(suffixes)}")
    found: dict[str, list[Path]] = {}
    for file in within:
        split = _split_of(file.name) or (None if files else _split_of(file.parent.name))
        if split:
            found.setdefault(split, []).append(file)
    return found or {"all": within}


def _texts(files: Any, suffixes: tuple[str, ...]) -> list[Path]:
    described = ("dataset_info.json", "dataset_dict.json", "state.json", "config.json")
    return sorted(f for f in files if f.is_file() and f.suffix in suffixes and f.name not in described)


def _split_of(name: str) -> str | None:
    words = name.lower().replace("-", ".").replace("_", ".").split(".")
    return next((split for split, names in SPLITS.items() if any(word in names for word in words)), None)


def read_rows(files: list[Path]) -> list[Row]:
    """Returns the rows of files, in order; a plain text file is one row with the column ``text``.

    Raises:
        UserError: a file is missing or broken.
    """
    rows: list[Row] = []
    for file in files:
        try:
            rows.extend(_read(file))
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError(f"{file}: not found") from error
        except Exception as error:  # each format has errors of its own
            raise UserError(f"{file}: cannot be read as {file.suffix} ({error})") from error
    return rows


def _read(file: Path) -> Iterator[Row]:
    if file.suffix == ".parquet":
        import pyarrow.parquet

        yield from pyarrow.parquet.read_table(file).to_pylist()
    elif file.suffix == ".arrow":
        import pyarrow

        with pyarrow.memory_map(str(file)) as source:
            try:
                table = pyarrow.ipc.open_stream(source).read_all()
            except pyarrow.ArrowInvalid:
                table = pyarrow.ipc.open_file(source).read_all()
            yield from table.to_pylist()
    elif file.suffix == ".csv":
        with file.open(encoding="utf-8", newline="") as text:
            yield from csv.DictReader(text)
    elif file.suffix in (".jsonl", ".json"):
        with file.open(encoding="utf-8") as text:
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield _json(file, number, line)
    else:
        yield {"text": file.read_text(encoding="utf-8")}


def _json(file: Path, number: int, line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{file}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{file}, line {number}: a {type(row).__name__}; expected an object with a column per key")
    return row
