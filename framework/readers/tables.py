"""Tables of the user: CSV, TSV, JSON lines, JSON lists, Parquet and Arrow; each also gzipped.

The suffix, in any case, says the format. CSV follows RFC 4180: a quoted field may hold commas, quotes (doubled) and
line feeds. TSV has a row in each line, so that a quote that begins a field is a character like any other; where all
such fields are whole quoted ones the quotes are taken off, and a file whose lines are not all of one length is read
like CSV. Every row has as many fields as the header, and every name occurs once; JSON has no NaN. Text is UTF-8 unless
a byte order mark or the user says otherwise, and a row keeps its file and line for messages.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.readers.text import decode
from framework.readers.unpacking import check_unpacked, is_gzip, read_bytes, refuse_missing

DELIMITED = (".csv", ".tsv")
JSON = (".jsonl", ".ndjson", ".json")
COLUMNAR = (".parquet", ".arrow")
SUFFIXES = (*DELIMITED, *JSON, *COLUMNAR)

_END = b"\xff\xff\xff\xff\0\0\0\0"
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class Row(dict[str, Any]):
    """One row of a table, column name to value.

    Args:
        values: The values by column.
        path: The file that it was read from.
        place: Its place in the file, such as ``line 3``.

    Attributes:
        source: The file and the line (or, without lines, the row) that it was read from, for messages.
    """

    __slots__ = ("_path", "_place")

    def __init__(self, values: Mapping[str, Any], path: Path | str = "", place: str = "") -> None:
        super().__init__(values)
        self._path, self._place = path, place

    @property
    def source(self) -> str:
        """The file and the line; made when it is needed, for a table has millions of rows."""
        return f"{self._path}, {self._place}" if self._place else str(self._path or "a row")

    def text(self, column: str, missing: str | None = None) -> str:
        """Returns a cell as text.

        Args:
            column: Its column; in any case if no column has exactly this name.
            missing: Returned if the cell or the column is missing; without it that is refused.

        Raises:
            UserError: the cell is missing, or is not text, a number or a truth value.
        """
        name = self.column(column)
        value = None if name is None else self[name]
        if value is None or (isinstance(value, float) and value != value):
            if missing is not None:
                return missing
            what = "is empty" if name is not None else f"not found; it has {', '.join(self) or 'no column'}"
            raise UserError(f"{self.source}: column {column!r} {what}")
        if not isinstance(value, (str, bool, int, float)):
            raise UserError(
                f"{self.source}: column {column!r} holds a {type(value).__name__}; text or a number expected"
            )
        return str(value)

    def column(self, name: str) -> str | None:
        """Returns the row's own spelling of a column name: exactly this, or the only one that differs in case."""
        if name in self:
            return name
        near = [own for own in self if own.lower() == name.lower()]
        return near[0] if len(near) == 1 else None


def suffix_of(path: str | Path) -> str:
    """Returns the suffix of a file in lower case, that before ``.gz`` where there is one."""
    path = Path(path)
    last = path.suffix.lower()
    return Path(path.stem).suffix.lower() if last == ".gz" else last


def read_rows(path: Path, encoding: str | None = None) -> list[Row]:
    """Returns the rows of a table.

    Args:
        path: The file, of one of :data:`SUFFIXES`.
        encoding: Encoding of CSV, TSV and JSON without a byte order mark; UTF-8 by default.

    Raises:
        UserError: the file is missing, of another format, truncated or broken, not of the encoding, or a row does not
            fit its header; the message names file and line.
    """
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: not a table that can be read; accepted: {', '.join(SUFFIXES)}, each also with .gz")
    if suffix in COLUMNAR:
        return _columnar(path, suffix)
    content = decode(path, read_bytes(path, f"a {suffix} table"), encoding)
    return _json(path, content) if suffix in JSON else _with_header(path, content)


def read_fields(path: Path, encoding: str | None = None) -> list[tuple[int, list[str]]]:
    """Returns all rows of a CSV or TSV file, the first included, each as the number of its line and its fields.

    A file of another suffix is read as TSV.

    Args:
        path: The file.
        encoding: Encoding without a byte order mark; UTF-8 by default.

    Raises:
        UserError: as :func:`read_rows`.
    """
    content = decode(path, read_bytes(path, "a .csv or .tsv table"), encoding)
    return list(_fields(path, content, "," if suffix_of(path) == ".csv" else "\t"))


def read_numbers(path: Path, encoding: str | None = None) -> np.ndarray:
    """Returns a CSV or TSV file of numbers, float64 (rows, columns); a first row with a text in it is a header.

    Args:
        path: The file.
        encoding: Encoding without a byte order mark; UTF-8 by default.

    Raises:
        UserError: as :func:`read_rows`, or a field is not a number.
    """
    rows = read_fields(path, encoding)
    if rows and any(_number(field) is None for field in rows[0][1]):
        rows = rows[1:]
    if not rows:
        raise UserError(f"{path}: has no rows of numbers")
    values: list[list[float]] = []
    for line, fields in rows:
        found = [_number(field) for field in fields]
        if None in found:
            raise UserError(f"{path}, line {line}: {fields[found.index(None)]!r} is not a number")
        values.append(found)  # type: ignore[arg-type]
    return np.array(values, np.float64)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _with_header(path: Path, content: str) -> list[Row]:
    comma = "," if suffix_of(path) == ".csv" else "\t"
    first = content.lstrip("\r\n").partition("\n")[0]
    if comma == "," and "," not in first:  # what spreadsheets write where the comma is the decimal point
        comma = next((other for other in (";", "\t") if other in first), ",")
    rows = _fields(path, content, comma)
    try:
        _, header = next(rows)
    except StopIteration:
        raise UserError(f"{path}: is empty; a header with the names of the columns was expected") from None
    header = [name.strip() for name in header]
    kept = [index for index, name in enumerate(header) if name]  # unnamed: the index that pandas writes
    names = [header[index] for index in kept]
    _refuse_repeated(path, names)
    whole = len(kept) == len(header)
    return [
        Row(dict(zip(names, fields if whole else (fields[i] for i in kept), strict=True)), path, f"line {line}")
        for line, fields in rows
    ]


def _refuse_repeated(path: Path, names: list[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{path}: column {', '.join(map(repr, repeated))} occurs twice; each name once is expected")


def _fields(path: Path, content: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yields line number and fields of each row, as many in each as in the first; blank lines are left out."""
    rows = None if delimiter == "," else _lines_of_fields(content, delimiter)
    if rows is None:
        try:
            rows = list(_quoted_fields(path, content, delimiter))
            _refuse_ragged(path, rows)
        except UserError:
            if delimiter == ",":
                raise
            _refuse_ragged(path, [(n, line.split(delimiter)) for n, line in _numbered(content)])
            raise
    yield from rows


def _numbered(content: str) -> list[tuple[int, str]]:
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line) for number, line in enumerate(lines, start=1) if line]


def _lines_of_fields(content: str, delimiter: str) -> list[tuple[int, list[str]]] | None:
    """Returns the rows if each line is one, else ``None``."""
    rows = [(number, line.split(delimiter)) for number, line in _numbered(content)]
    if len({len(fields) for _, fields in rows}) > 1:
        return None
    starting = [field for _, fields in rows for field in fields if field.startswith('"')]
    if not starting or not all(map(_QUOTED.fullmatch, starting)):
        return rows
    return [(number, [_unquoted(field) for field in fields]) for number, fields in rows]


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if field.startswith('"') else field


def _quoted_fields(path: Path, content: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    before = csv.field_size_limit(sys.maxsize)  # one limit for the whole process; a document is longer than 131,072
    line = 1
    try:
        for fields in reader:
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: not a row of {'CSV' if delimiter != chr(9) else 'TSV'} ({error})"
        ) from error
    finally:
        csv.field_size_limit(before)


def _refuse_ragged(path: Path, rows: list[tuple[int, list[str]]]) -> None:
    for line, fields in rows:
        if len(fields) != len(rows[0][1]):
            raise UserError(
                f"{path}, line {line}: {len(fields)} fields, line {rows[0][0]} has {len(rows[0][1])}: "
                f"{' | '.join(fields)[:80]!r}"
            )


def _json(path: Path, content: str) -> list[Row]:
    if content.lstrip().startswith("["):
        try:
            found = _loads(content)
        except ValueError as error:
            raise UserError(f"{path}: not a JSON list ({error})") from error
        return [_json_row(path, f"record {number}", row) for number, row in enumerate(found, start=1)]
    rows = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = _loads(line)
        except ValueError as error:
            raise UserError(
                f"{path}, line {number}: not JSON ({error}); an object in each line, or a list of objects, is expected"
            ) from error
        rows.append(_json_row(path, f"line {number}", row))
    return rows


def _json_row(path: Path, place: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise UserError(f"{path}, {place}: a {type(row).__name__}; an object with a value for each column is expected")
    return Row(row, path, place)


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_pairs, parse_constant=_constant)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice in an object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a value of JSON")


def _columnar(path: Path, suffix: str) -> list[Row]:
    refuse_missing(path, f"a {suffix} table")
    table = open_columnar(path, suffix)
    _refuse_repeated(path, table.column_names)
    rows = table.to_pylist()
    return [Row(row, path, f"row {number}") for number, row in enumerate(rows, start=1)]


def open_columnar(path: Path, suffix: str) -> Any:
    """Returns a Parquet or Arrow file as a ``pyarrow.Table``; a plain Arrow file is memory-mapped.

    Args:
        path: The file.
        suffix: ``.parquet`` or ``.arrow``.

    Raises:
        UserError: it is broken, or unpacks to more than the limit.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        packed = is_gzip(path)
        source: Any = pyarrow.BufferReader(bytes(read_bytes(path))) if packed else None
        if suffix == ".parquet":
            file = pyarrow.parquet.ParquetFile(source or path)
            groups = range(file.metadata.num_row_groups)
            check_unpacked(path, sum(file.metadata.row_group(i).total_byte_size for i in groups))
            return file.read()
        source = source or pyarrow.memory_map(str(path))
        if source.read(6) == b"ARROW1":
            opened = pyarrow.ipc.open_file(source)
            parts: Any = (opened.get_batch(i) for i in range(opened.num_record_batches))
        else:
            source.seek(max(0, source.size() - len(_END)))
            if source.read() != _END:  # a stream that was cut between two batches reads like a shorter one
                raise UserError(f"{path}: truncated, it has no end mark of Arrow")
            source.seek(0)
            opened = parts = pyarrow.ipc.open_stream(source)
        batches = list(_batches(path, parts))
        table = pyarrow.Table.from_batches(batches, opened.schema)
        table.validate(full=True)
        return table
    except UserError:
        raise
    except Exception as error:  # pyarrow raises many types
        raise UserError(f"{path}: not a {suffix} file that can be read ({error})") from error


def _batches(path: Path, batches: Any) -> Iterator[Any]:
    size = 0
    for batch in batches:
        size += batch.nbytes
        check_unpacked(path, size)
        yield batch
