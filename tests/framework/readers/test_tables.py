"""Tables as users have them: one record a row, every fault named with its line."""

from __future__ import annotations

import csv
import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from framework.errors import UserError
from framework.readers.tables import Row, read_fields, read_numbers, read_rows
from framework.readers.unpacking import set_max_unpacked


def rows(path, text, encoding=None):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rows(path, encoding)


def test_a_quote_that_begins_a_field_of_a_tsv_swallows_no_rows(tmp_path):
    lines = ["text\tlabel", *(f'"so he said {i}\t{i % 2}' for i in range(3)), 'well" then\t1', "plain\t0"]
    found = rows(tmp_path / "a.tsv", "\n".join(lines))
    assert [row["text"] for row in found] == [*(f'"so he said {i}' for i in range(3)), 'well" then', "plain"]
    assert [row["label"] for row in found] == ["0", "1", "0", "1", "0"]


def test_whole_quoted_fields_of_a_tsv_lose_their_quotes_and_may_hold_line_feeds(tmp_path):
    assert rows(tmp_path / "a.tsv", 'text\tlabel\n"a ""b"" c"\t1\nd\t0\n')[0]["text"] == 'a "b" c'
    assert rows(tmp_path / "c.tsv", 'text\tlabel\n"well, so"\t1\nd\t0\n')[0]["text"] == "well, so"
    found = rows(tmp_path / "b.tsv", 'text\tlabel\n"two\nlines"\t1\n"a\ttab"\t0\n')
    assert [row["text"] for row in found] == ["two\nlines", "a\ttab"]
    assert [row.source.rpartition(", ")[2] for row in found] == ["line 2", "line 4"]


@pytest.mark.parametrize("mark", ["\u2028", "\u0085", "\x0c", "\x0b", "\x1c", "\u2029"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_only_line_feeds_end_a_row(tmp_path, mark, suffix):
    text = f"one{mark}two"
    content = {
        ".csv": f"text,label\n{text},1\n",
        ".tsv": f"text\tlabel\r\n{text}\t1\r\n",
        ".jsonl": json.dumps({"text": text, "label": "1"}, ensure_ascii=False) + "\n",
    }[suffix]
    found = rows(tmp_path / f"a{suffix}", content)
    assert [dict(row) for row in found] == [{"text": text, "label": "1"}]


def test_a_quoted_line_feed_stays_in_a_csv(tmp_path):
    assert rows(tmp_path / "a.csv", 'text,label\n"one\ntwo\r\nthree",1\n')[0]["text"] == "one\ntwo\r\nthree"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "text,label\ngood,1\nbad, made,0\n", r"a\.csv, line 3: 3 fields, line 1 has 2: 'bad \|  made \| 0'"),
        ("a.csv", "text,label\ngood\n", r"a\.csv, line 2: 1 fields, line 1 has 2"),
        ("a.tsv", "text\tlabel\ngood\t1\t2\n", r"a\.tsv, line 2: 3 fields, line 1 has 2"),
        ("a.csv", 'text,label\n"never closed,1\nx,2\n', r"a\.csv, line 2: not a row of CSV \(unexpected end"),
        ("a.csv", "text,text,label\na,b,1\n", r"a\.csv: column 'text' occurs twice"),
        ("a.csv", "", r"a\.csv: is empty"),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "a": 2}\n', r"a\.jsonl, line 2: .*the key 'a' occurs twice"),
        ("a.jsonl", '{"a": NaN}\n', r"a\.jsonl, line 1: .*NaN is not a value of JSON"),
        ("a.jsonl", '{"a": 1} {"a": 2}\n', r"a\.jsonl, line 1: not JSON \(Extra data"),
        ("a.json", '{"a": [1,\n2]}', r"a\.json, line 1: not JSON"),
        ("a.json", '[{"a": 1}, 3]', r"a\.json, record 2: a int; an object"),
        ("a.xlsx", "PK", r"a\.xlsx: not a table that can be read; accepted: \.csv"),
        ("a.csv", b"text,label\ncaf\xe9,1\n", r"a\.csv, line 2: not utf-8 .*such as encoding: cp1252"),
        ("a.csv", "text,label\na,1\n".encode("utf-16-le"), r"a\.csv, line 1: holds NUL characters.*utf-16-le"),
        ("a.parquet", b"PAR1 and nothing", r"a\.parquet: not a \.parquet file that can be read"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        rows(tmp_path / name, text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json"])
def test_a_byte_order_mark_says_the_encoding(tmp_path, encoding, suffix):
    values = {"text": "neg\u00e9", "label": "1"}
    text = {".csv": "text,label\nnegé,1\n", ".tsv": "text\tlabel\nnegé\t1\n"}.get(suffix, json.dumps([values]))
    text = json.dumps(values) if suffix == ".jsonl" else text
    assert [dict(row) for row in rows(tmp_path / f"a{suffix}", text.encode(encoding))] == [values]


def test_the_encoding_may_be_said(tmp_path):
    assert rows(tmp_path / "a.csv", b"text\ncaf\xe9\n", "latin-1")[0]["text"] == "café"
    with pytest.raises(UserError, match="not ascii"):
        rows(tmp_path / "a.csv", b"text\ncaf\xe9\n", "ascii")


def test_a_field_may_be_longer_than_the_csv_modules_limit(tmp_path):
    before = csv.field_size_limit()
    long = "word " * 40_000
    assert rows(tmp_path / "a.csv", f'text,label\n"{long}",1\n')[0]["text"] == long
    assert csv.field_size_limit() == before


@pytest.mark.parametrize("name", ["a.CSV", "a.csv.gz", "a.Csv.GZ"])
def test_suffixes_in_any_case_and_gzipped(tmp_path, name):
    content = b"text,label\na,1\n"
    content = gzip.compress(content) if name.lower().endswith("gz") else content
    assert dict(rows(tmp_path / name, content)[0]) == {"text": "a", "label": "1"}


def test_what_spreadsheets_and_pandas_write(tmp_path):
    assert dict(rows(tmp_path / "a.csv", 'text;label\n"a;b";1,5\n')[0]) == {"text": "a;b", "label": "1,5"}
    assert dict(rows(tmp_path / "b.csv", ",text,label\n0,a,1\n")[0]) == {"text": "a", "label": "1"}
    assert [dict(row) for row in rows(tmp_path / "c.csv", "text,label\r\n\r\na,1\r\n\r\n")] == [
        {"text": "a", "label": "1"}
    ]


def test_parquet_and_arrow_whole_and_gzipped(tmp_path):
    table = pyarrow.table({"text": ["a", None], "n": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    for name in ("stream", "file"):
        new = pyarrow.ipc.new_stream if name == "stream" else pyarrow.ipc.new_file
        with pyarrow.OSFile(str(tmp_path / f"{name}.arrow"), "wb") as sink, new(sink, table.schema) as writer:
            writer.write_table(table)
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    expected = [{"text": "a", "n": 1}, {"text": None, "n": 2}]
    for name in ("a.parquet", "a.parquet.gz", "stream.arrow", "file.arrow"):
        assert [dict(row) for row in read_rows(tmp_path / name)] == expected
    assert read_rows(tmp_path / "a.parquet")[1].source.endswith("a.parquet, row 2")


def test_a_stream_of_arrow_that_was_cut_between_two_batches_is_refused(tmp_path):
    file = tmp_path / "a.arrow"
    batches = [pyarrow.record_batch({"n": [i] * 10}) for i in range(3)]
    with pyarrow.OSFile(str(file), "wb") as sink, pyarrow.ipc.new_stream(sink, batches[0].schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            cut = sink.tell()
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"a\.arrow: truncated, it has no end mark"):
        read_rows(file)


def test_what_unpacks_to_more_than_the_limit_is_refused(tmp_path):
    parquet.write_table(pyarrow.table({"n": [7] * 400_000}), tmp_path / "a.parquet", use_dictionary=False)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"text\n" + b"a\n" * 2_000_000))
    try:
        set_max_unpacked(0.002)
        for name in ("a.parquet", "a.csv.gz"):
            with pytest.raises(UserError, match=r"unpacks to more than 0\.002 GiB.*run\.max_unpacked_gib"):
                read_rows(tmp_path / name)
    finally:
        set_max_unpacked(8.0)
    assert len(read_rows(tmp_path / "a.parquet")) == 400_000


def test_cells_as_text():
    row = Row({"Text": "a", "n": 3, "none": None, "nan": float("nan"), "list": [1]}, "f.csv", 2)
    assert (row.text("text"), row.text("n"), row.text("none", "x"), row.text("other", "y")) == ("a", "3", "x", "y")
    for column, message in (
        ("none", "f.csv, line 2: column 'none' is empty"),
        ("nan", "is empty"),
        ("other", "column 'other' not found; it has Text, n"),
        ("list", "holds a list; text or a number"),
    ):
        with pytest.raises(UserError, match=message):
            row.text(column)
    assert Row({"a": "1", "A": "2"}).column("a") == "a"
    assert Row({"a": "1", "A": "2"}).column("aa") is None


def test_rows_without_a_header_and_numbers(tmp_path):
    (tmp_path / "a.tsv").write_text("one\ttwo\t3\n\nfour\tfive\t6\n")
    assert read_fields(tmp_path / "a.tsv") == [(1, ["one", "two", "3"]), (3, ["four", "five", "6"])]
    (tmp_path / "n.csv").write_bytes(b"\xef\xbb\xbf1,2\n3,4\n")
    assert read_numbers(tmp_path / "n.csv").tolist() == [[1, 2], [3, 4]]  # the mark does not make a header of the first
    (tmp_path / "h.csv").write_text("a,b\n3,4\n")
    assert read_numbers(tmp_path / "h.csv").tolist() == [[3, 4]]
    (tmp_path / "bad.csv").write_text("1,2\n3,x\n")
    with pytest.raises(UserError, match=r"bad\.csv, line 2: 'x' is not a number"):
        read_numbers(tmp_path / "bad.csv")
    with pytest.raises(UserError, match=r"none\.csv: not found"):
        read_numbers(tmp_path / "none.csv")
    with pytest.raises(UserError, match=r"is a folder"):
        read_fields(tmp_path)


def test_a_tsv_whose_quotes_are_doubled_may_hold_line_feeds_of_which_the_pieces_fit(tmp_path):
    """pandas: to_csv(sep='\\t') of code."""
    found = rows(tmp_path / "a.tsv", 'id\ttext\n1\t"def f():\n\treturn 1"\n2\t"x = ""a"""\n3\tplain\n')
    assert [row["text"] for row in found] == ["def f():\n\treturn 1", 'x = "a"', "plain"]


def test_a_csv_is_always_read_by_its_quotes(tmp_path):
    found = rows(tmp_path / "a.csv", 'text;label\n"a;b\nc";1\nd;2\n')
    assert [dict(row) for row in found] == [{"text": "a;b\nc", "label": "1"}, {"text": "d", "label": "2"}]
    assert rows(tmp_path / "b.csv", '"text, raw";label\na;1\n')[0]["text, raw"] == "a"
    assert rows(tmp_path / "c.csv", "sep=;\r\ntext;label\r\na;1\r\n")[0]["label"] == "1"
    assert rows(tmp_path / "d.csv", "text|label\na|1\n   \n\x1a")[0]["label"] == "1"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "text\tlabel\n1\ta\t0\n2\tb\t1\n", r"row names, write the file with row\.names=FALSE"),
        ("a.json", '{"text": {"0": "a"}, "label": {"0": 1}}', "orient='records'"),
        ("a.jsonl", '{"text": "hi \\ud83d"}\n', r"line 1: not JSON \(a character that is half of a pair"),
        ("a.jsonl", '{"text": ' + "[" * 100_000, r"line 1: not JSON \(nested too deeply\)"),
    ],
)
def test_what_other_programs_write(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        rows(tmp_path / name, text)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (",a,b\n0,5,6\n1,7,8\n", [[5, 6], [7, 8]]),  # the index that pandas writes
        ("0,1,label\n5,6,1\n", [[5, 6, 1]]),
        ("0,1\n5,6\n", [[0, 1], [5, 6]]),
    ],
)
def test_headers_of_tables_of_numbers(tmp_path, text, found):
    (tmp_path / "a.csv").write_text(text)
    assert read_numbers(tmp_path / "a.csv").tolist() == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0,1,2\n5,6,7\n", r"line 1: 0, 1, 2 … look like the names of columns"),
        ("0.5,O.3,1\n0.1,0.2,0\n", r"line 1: 'O\.3' is not a number; a header has no numbers"),
        ("0.5,,1\n", r"line 1: '' is not a number"),
        ("a,b\n1_0,2\n", r"line 2: '1_0' is not a number"),
    ],
)
def test_a_first_row_that_may_be_either_is_refused(tmp_path, text, message):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_numbers(tmp_path / "a.csv")


def test_a_small_parquet_file_that_becomes_large_is_refused(tmp_path):
    parquet.write_table(pyarrow.table({"text": ["x" * 10_000] * 2_000}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 2_000
    try:
        set_max_unpacked(0.005)
        with pytest.raises(UserError, match="unpacks to more than"):
            read_rows(tmp_path / "a.parquet")
    finally:
        set_max_unpacked(8.0)


def test_many_columns(tmp_path):
    names = ",".join(f"c{i}" for i in range(20_000))
    assert len(rows(tmp_path / "a.csv", f"{names}\n{names}\n")[0]) == 20_000
