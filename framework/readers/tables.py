"""Tables of the user: CSV, TSV, JSON lines, JSON lists, Parquet and Arrow; each also gzipped.

The suffix, in any case, says the format. CSV follows RFC 4180: a quoted field may hold commas, quotes (doubled) and
line feeds. TSV has a row in each line, so that a quote that begins a field is a character like any other; where all
such fields are whole quoted ones the quotes are taken off. A TSV file whose lines are not all of one length, or in
which quotes are doubled, is read like CSV. Every row has as many fields as the header, and every name occurs once; JSON
has no NaN. Text is UTF-8 unless a byte order mark or the user says otherwise, and a row keeps its file and line for
messages.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
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
_BLANK = " \x1a"  # the last character of files from DOS
_QUOTED = re.compile(r'"(?:[^"]|"")*"')


class Row(dict[str, Any]):
    """One row of a table, column name to value.

    Args:
        values: The values by column.
        path: The file that it was read from.
        number: Its place in the file; 0 if it has none.
        unit: What is counted: ``line``, ``row`` or ``record``.

    Attributes:
        source: The file and the line (or, without lines, the row) that it was read from, for messages.
    """

    __slots__ = ("_number", "_path", "_unit")

    def __init__(
        self,
        values: Mapping[str, Any] | Iterable[tuple[str, Any]],
        path: Path | str = "",
        number: int = 0,
        unit: str = "line",
    ) -> None:
        super().__init__(values)
        self._path, self._number, self._unit = path, number, unit

    @property
    def source(self) -> str:
        """The file and the line; made when it is needed, for a table has millions of rows."""
        return f"{self._path}, {self._unit} {self._number}" if self._number else str(self._path or "a row")

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

    A file of another suffix than ``.csv`` is read as TSV.

    Args:
        path: The file.
        encoding: Encoding without a byte order mark; UTF-8 by default.

    Raises:
        UserError: as :func:`read_rows`.
    """
    content = decode(path, read_bytes(path, "a .csv or .tsv table"), encoding)
    return _fields(path, content)


def read_numbers(path: Path, encoding: str | None = None, header: bool = True) -> np.ndarray:
    """Returns a CSV or TSV file of numbers, float64 (rows, columns).

    A first row of texts is a header; a column without a name in it (the index that pandas writes) is left out.

    Args:
        path: The file.
        encoding: Encoding without a byte order mark; UTF-8 by default.
        header: Whether the first row may be a header; a matrix has none.

    Raises:
        UserError: as :func:`read_rows`, a field is not a number, or the first row may be a header or not.
    """
    rows = read_fields(path, encoding)
    first = 0
    if header and rows and _is_header(path, *rows[0]):
        first = 1 if not rows[0][1][0].strip() else 0
        rows = rows[1:]
    if not rows:
        raise UserError(f"{path}: has no rows of numbers")
    values: list[list[float]] = []
    for line, fields in rows:
        found = [_number(field) for field in fields[first:]]
        if None in found:
            raise UserError(f"{path}, line {line}: {fields[first:][found.index(None)]!r} is not a number")
        values.append(found)  # type: ignore[arg-type]
    return np.array(values, np.float64)


def _is_header(path: Path, line: int, fields: list[str]) -> bool:
    numbers = [_number(field) for field in fields]
    texts = [place for place, number in enumerate(numbers) if number is None]
    named = [number is None or number == place for place, number in enumerate(numbers)]
    if texts and all(named):  # names, or the numbers that pandas gives to columns without one
        return True
    if texts:
        raise UserError(f"{path}, line {line}: {fields[texts[0]]!r} is not a number; a header has no numbers")
    if len(fields) > 2 and all(named):
        raise UserError(
            f"{path}, line {line}: 0, 1, 2 … look like the names of columns; delete this line, or name them"
        )
    return False


def _number(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)
    except ValueError:
        return None


def _with_header(path: Path, content: str) -> list[Row]:
    rows = iter(_fields(path, content))
    try:
        _, header = next(rows)
    except StopIteration:
        raise UserError(f"{path}: is empty; a header with the names of the columns was expected") from None
    header = [name.strip() for name in header]
    kept = [index for index, name in enumerate(header) if name]  # unnamed: the index that pandas writes
    names = [header[index] for index in kept]
    _refuse_repeated(path, names)
    if len(kept) == len(header):
        return [Row(zip(names, fields, strict=True), path, line) for line, fields in rows]
    return [Row(((name, fields[i]) for name, i in zip(names, kept, strict=True)), path, line) for line, fields in rows]


def _refuse_repeated(path: Path, names: list[str]) -> None:
    repeated = sorted(name for name, times in Counter(names).items() if times > 1)
    if repeated:
        raise UserError(f"{path}: column {', '.join(map(repr, repeated))} occurs twice; each name once is expected")


def _fields(path: Path, content: str) -> list[tuple[int, list[str]]]:
    """Returns line number and fields of each row, as many in each as in the first; blank lines are left out."""
    if suffix_of(path) != ".csv":
        return _tab_separated(path, content)
    comma, content = _comma_of(content)
    rows = list(_quoted_fields(path, content, comma))
    _refuse_ragged(path, rows)
    return rows


def _comma_of(content: str) -> tuple[str, str]:
    """Returns what separates the fields of a CSV file by its first line, and the content without a line ``sep=;``."""
    first, end, rest = content.lstrip("\r\n").partition("\n")
    if re.fullmatch(r"sep=.\r?", first):  # what Excel writes and reads
        return first[4], "\n" + rest
    for comma in (",", ";", "\t", "|"):  # spreadsheets write ; where the comma is the decimal point
        try:
            if len(next(csv.reader([first + end], delimiter=comma, strict=True), [])) > 1:
                return comma, content
        except csv.Error:
            continue
    return ",", content


def _tab_separated(path: Path, content: str) -> list[tuple[int, list[str]]]:
    lines = _lines_of_fields(content, "\t")
    fits = len({len(fields) for _, fields in lines}) <= 1
    starting = [field for _, fields in lines for field in fields if field.startswith('"')]
    whole = [field for field in starting if _QUOTED.fullmatch(field)]
    if fits and len(whole) == len(starting):
        return [(number, [_unquoted(field) for field in fields]) for number, fields in lines] if starting else lines
    # A doubled quote is a sign that fields are quoted: then some may hold line feeds, of which pieces fit by chance.
    if not fits or any('""' in field[1:-1] for field in whole):
        try:
            rows = list(_quoted_fields(path, content, "\t"))
            _refuse_ragged(path, rows)
            return rows
        except UserError:
            if not fits:
                _refuse_ragged(path, lines)
                raise
    return lines


def _lines_of_fields(content: str, delimiter: str) -> list[tuple[int, list[str]]]:
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(number, line.split(delimiter)) for number, line in enumerate(lines, start=1) if line.strip(_BLANK)]


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if field.startswith('"') else field


def _quoted_fields(path: Path, content: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    before = csv.field_size_limit(sys.maxsize)  # one limit for the whole process; a document is longer than 131,072
    line = 1
    try:
        for fields in reader:
            if len(fields) > 1 or (fields and fields[0].strip(_BLANK)):
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise UserError(
            f"{path}, line {line}: not a row of {'CSV' if delimiter != chr(9) else 'TSV'} ({error})"
        ) from error
    finally:
        csv.field_size_limit(before)


def _refuse_ragged(path: Path, rows: list[tuple[int, list[str]]]) -> None:
    sizes = [len(fields) for _, fields in rows]
    if len(set(sizes)) <= 1:
        return
    hint = "; if these are R's row names, write the file with row.names=FALSE"
    named = len(rows) > 2 and set(sizes[1:]) == {sizes[0] + 1}
    line, fields = next(row for row, size in zip(rows, sizes, strict=True) if size != sizes[0])
    raise UserError(
        f"{path}, line {line}: {len(fields)} fields, line {rows[0][0]} has {sizes[0]}: "
        f"{' | '.join(fields)[:80]!r}{hint if named else ''}"
    )


def _json(path: Path, content: str) -> list[Row]:
    if content.lstrip().startswith("["):
        try:
            found = _loads(content)
        except ValueError as error:
            raise UserError(f"{path}: not a JSON list ({error})") from error
        return [_json_row(path, number, "record", row) for number, row in enumerate(found, start=1)]
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
        rows.append(_json_row(path, number, "line", row))
    if len(rows) == 1 and rows[0] and all(isinstance(value, (dict, list)) for value in rows[0].values()):
        raise UserError(f"{path}: one object of columns; a list of rows is expected (pandas: orient='records')")
    return rows


def _json_row(path: Path, number: int, unit: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise UserError(
            f"{path}, {unit} {number}: a {type(row).__name__}; an object with a value for each column is expected"
        )
    return Row(row, path, number, unit)


def _loads(text: str) -> Any:
    try:
        found = _DECODER.decode(text)
        if "\\u" in text:  # half of a pair, as where a tweet was cut
            json.dumps(found, ensure_ascii=False).encode()
        return found
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except UnicodeEncodeError:
        raise ValueError("a character that is half of a pair (a surrogate)") from None


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} occurs twice in an object")
    return found


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a value of JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


def _columnar(path: Path, suffix: str) -> list[Row]:
    refuse_missing(path, f"a {suffix} table")
    table = open_columnar(path, suffix)
    _refuse_repeated(path, table.column_names)
    try:
        rows = table.to_pylist()
    except Exception as error:  # values that Python has no type for, such as a date after the year 9999
        raise UserError(f"{path}: holds values that cannot be read ({error})") from error
    return [Row(row, path, number, "row") for number, row in enumerate(rows, start=1)]


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
            # By small batches: with a dictionary a few bytes in the file become any number in memory.
            batches = list(_batches(path, file.iter_batches(4096)))
            table = pyarrow.Table.from_batches(batches, file.schema_arrow)
            table.validate(full=True)
            return table
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
