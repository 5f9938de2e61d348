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
# What comes with data: descriptions, and what Hugging Face's libraries write beside data sets and tokenizers.
_DESCRIPTIONS = re.compile(
    r"(dataset_\w+|state|(\w+_)?config|tokenizer|vocab|added_tokens|special_tokens_map)\.json|cache-.*\.arrow|"
    r"(readme|licen[cs]e|notice|copying|citation|changelog|makefile)(\.\w+)?"
)
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
    a folder's (``train/data-00000-of-00001.arrow``, ``train/pos/0.txt``); see :data:`datamodules.parts.PARTS`. The
    files of ``path`` itself are used where there are tables or splits among them or nothing of that kind below,
    else all; only those that end in ``suffixes``, and no hidden ones. Beside tables, plain texts that name no split
    are left out, and so are descriptions (``README.md``, ``LICENSE``), caches and the packed copy of a file. What
    was taken and what was left out is printed.

    Args:
        path: A file, or a folder.
        suffixes: What the files of a folder end in, in lower case.

    Raises:
        UserError: there is no such path, no file of a known kind, two files of one name but for the suffix, or splits
            of the same name in several folders.
    """
    expected = ", ".join(filter(None, suffixes))
    if _is_file(path):
        return {"all": [path]}
    if not path.is_dir():
        raise UserError(f"path: {path} not found; expected a file or a folder of them ({expected})")
    plain = tuple(suffix + packed for suffix in PLAIN for packed in ("", ".gz"))

    def split_of(file: Path) -> tuple[str, Path] | None:
        return _split_of(file.relative_to(path))

    def is_data(file: Path) -> bool:
        return not has_suffix(file.name, plain) or split_of(file) is not None

    listing = list_files(path, suffixes, deep=False)
    top = files = _without_descriptions(listing.files)
    if not any(map(is_data, top)):
        listing = list_files(path, suffixes)
        files = _without_descriptions(listing.files)
    files = list(filter(is_data, files)) or top or files
    files = _without_copies(files)
    if not files:
        raise UserError(f"path: {path} holds no data; expected files {expected}")
    found: dict[str, list[Path]] = {}
    homes: set[str] = set()
    for file in files:
        if split := split_of(file):
            found.setdefault(split[0], []).append(file)
            homes.add(str(split[1]))
    if len(homes) > 1:
        raise UserError(
            f"path: {path} holds several data sets, in {' and '.join(sorted(homes))}; give the folder of one"
        )
    used = found or {"all": files}
    sizes = ", ".join(f"{len(part):,} to {_PURPOSE[split]}" for split, part in used.items())
    others = len(listing.files) - sum(map(len, used.values()))
    rest = [f"{others:,} not used"] if others else []
    rest += [more] if (more := listing.left_out()) else []
    rank_zero_info(f"{path}: files {sizes}{'; ' if rest else ''}{', '.join(rest)}")
    return used


_PURPOSE = {"train": "train on", "val": "validate on", "test": "test on", "all": "split"}


def _without_descriptions(files: list[Path]) -> list[Path]:
    return [file for file in files if not _DESCRIPTIONS.fullmatch(file.name.lower())]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # a name that is too long
        raise UserError(f"path: {str(path)[:80]} … cannot be read ({error.strerror})") from error


def _split_of(path: Path) -> tuple[str, Path] | None:
    """Returns the split of a file below a folder, and the folder in which that was said; the nearest name decides."""
    for place in (path, *path.parents):
        if part := _named_split(place.name):
            home = place.parent
            while _named_split(home.name) == part:  # train/train-0.parquet
                home = home.parent
            return part, home
    return None


def _named_split(name: str) -> str | None:
    return next((part for word in re.split(r"[-._]", name) if (part := part_of(word))), None)


def _without_copies(files: list[Path]) -> list[Path]:
    """Leaves out ``a.csv.gz`` beside ``a.csv``.

    Raises:
        UserError: two others have one name but for the suffix.
    """
    names = {str(file) for file in files}
    packed = (".gz", ".zip")
    kept = [file for file in files if file.suffix.lower() not in packed or str(file.with_suffix("")) not in names]
    first: dict[str, Path] = {}
    for file in kept:
        bare = str(file.with_suffix("").with_suffix("") if file.suffix.lower() == ".gz" else file.with_suffix(""))
        other = first.setdefault(bare, file)
        if other is not file and {tables.suffix_of(file), tables.suffix_of(other)} - set(PLAIN):
            raise UserError(f"path: {other} and {file.name} have one name; keep one of them")
    return kept


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
