"""Text of a file, in the encoding that it says or that the user says; never with characters replaced."""

from __future__ import annotations

import codecs
from pathlib import Path

from framework.errors import UserError
from framework.readers.unpacking import read_bytes

# The longer marks first: UTF-32's begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def check_encoding(**settings: str | None) -> None:
    """Checks that every setting is the name of a text encoding, or ``None``.

    Raises:
        UserError: one is not.
    """
    for key, encoding in settings.items():
        if encoding is None:
            continue
        try:
            is_text = codecs.lookup(encoding)._is_text_encoding  # base64 and the like are codecs too
        except (LookupError, TypeError, ValueError):
            is_text = False
        if not is_text:
            raise UserError(f"{key}: {encoding!r} is not accepted; an encoding of Python, such as utf-8 or cp1252")


def decode(path: Path, content: bytes | bytearray, encoding: str | None = None) -> str:
    """Returns the content of a file as text, line ends as they are.

    Args:
        path: The file, for messages.
        content: Its bytes.
        encoding: A byte order mark decides first; then this; UTF-8 if it is ``None``.

    Raises:
        UserError: the bytes are not of that encoding, or hold NUL characters (binary files, and UTF-16 without a byte
            order mark).
    """
    for mark, found in _MARKS:
        if content.startswith(mark):
            content, encoding = content[len(mark) :], found
            break
    encoding = encoding or "utf-8"
    try:
        text = bytes(content).decode(encoding)
    except UnicodeError as error:
        place = f", line {content.count(10, 0, error.start) + 1}" if isinstance(error, UnicodeDecodeError) else ""
        raise UserError(
            f"{path}{place}: not {encoding} ({error}); save it as UTF-8, or give its encoding, such as encoding: cp1252"
        ) from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(
            f"{path}, line {line}: holds NUL characters; it is not text, or its encoding is another (such as encoding: "
            "utf-16-le)"
        )
    return text


def read_text(path: Path, encoding: str | None = None, expected: str = "a text file") -> str:
    """Returns the text of a file, gzipped or not, every line end as ``\\n``.

    Args:
        path: The file.
        encoding: See :func:`decode`.
        expected: What was expected, for the message.

    Raises:
        UserError: it is missing, cannot be read, or is not text of that encoding.
    """
    return decode(path, read_bytes(path, expected), encoding).replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: Path, encoding: str | None = None, expected: str = "a text file") -> list[tuple[int, str]]:
    """Returns the lines of a text file that are not blank, each with its number from 1.

    Only line feeds and carriage returns end a line: form feeds and Unicode's separators are part of it.

    Args:
        path: The file.
        encoding: See :func:`decode`.
        expected: What was expected, for the message.

    Raises:
        UserError: as :func:`read_text`.
    """
    lines = enumerate(read_text(path, encoding, expected).split("\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]
