"""The bytes of a file, unpacked from gzip or zip, up to a limit."""

from __future__ import annotations

import gzip
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from framework.errors import UserError

_GZIP = b"\x1f\x8b"
_PIECE = 1 << 20


class _Limit:
    """How many bytes one file may unpack to; ``run.max_unpacked_gib`` sets it."""

    gib: float = 8.0


def set_max_unpacked(gib: float) -> None:
    """Sets how much one compressed file may unpack to in this process, in GiB; 8 by default."""
    _Limit.gib = gib


def check_unpacked(path: Path, size: int) -> None:
    """Checks the unpacked size of a file, in bytes, against the limit.

    Raises:
        UserError: it is larger.
    """
    if size > _Limit.gib * 2**30:
        raise UserError(
            f"{path}: unpacks to more than {_Limit.gib:g} GiB; if that is right, set run.max_unpacked_gib higher"
        )


def refuse_missing(path: Path, expected: str) -> None:
    """Checks that ``path`` is a file.

    Args:
        path: The file.
        expected: What was expected, for the message.

    Raises:
        UserError: there is nothing there, or a folder.
    """
    try:
        there = path.is_file()
    except OSError as error:  # a name that is too long
        raise UserError(f"{str(path)[:80]} …: cannot be read ({error.strerror}); expected {expected}") from error
    if not there:
        what = "is a folder" if path.is_dir() else "not found"
        raise UserError(f"{path}: {what}; expected {expected}")


def is_gzip(path: Path) -> bool:
    """Returns whether the content of a file starts as gzip does."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def read_bytes(path: Path, expected: str = "a file") -> bytes | bytearray:
    """Returns the content of a file, unpacked if it is gzip (by its content, not by its name).

    Args:
        path: The file.
        expected: What was expected, for the message.

    Raises:
        UserError: it is missing, cannot be read, is a truncated or broken gzip stream, or unpacks to more than the
            limit.
    """
    refuse_missing(path, expected)
    try:
        if not is_gzip(path):
            return path.read_bytes()
        content = bytearray()
        with gzip.open(path) as stream:
            while piece := stream.read(_PIECE):
                content += piece
                check_unpacked(path, len(content))
        return content
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}: the gzip stream is truncated or broken ({error})") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); expected {expected}") from error


def check_members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """Returns the files in a zip archive, without its folders and without the hidden files that macOS adds.

    Raises:
        UserError: a name is absolute or leads out of the archive's folder, a member is a link, or together they unpack
            to more than the limit.
    """
    members = []
    for info in archive.infolist():
        name = PurePosixPath(info.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts or (name.parts[:1] and name.parts[0].endswith(":")):
            raise UserError(f"{path}: its member {info.filename!r} leads out of its folder; nothing was read")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise UserError(f"{path}: its member {info.filename!r} is a link; nothing was read")
        if not info.is_dir() and "__MACOSX" not in name.parts and not name.name.startswith("."):
            members.append(info)
    check_unpacked(path, sum(info.file_size for info in members))
    return members


@contextmanager
def zip_members(path: Path, expected: str = "a zip archive") -> Iterator[list[zipfile.Path]]:
    """A context manager that opens a zip archive, and yields its files in the order of their names, to read from.

    Args:
        path: The archive.
        expected: What was expected, for the message.

    Raises:
        UserError: it is missing, broken, encrypted or unpacks to more than the limit; also where a file is read within.
    """
    refuse_missing(path, expected)
    try:
        with zipfile.ZipFile(path) as archive:
            yield [zipfile.Path(archive, name) for name in sorted(i.filename for i in check_members(path, archive))]
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, RuntimeError, OSError) as error:
        raise UserError(f"{path}: not a zip archive that can be read ({error})") from error


def read_only_member(path: Path, expected: str = "a zip archive with one file") -> bytes:
    """Returns the content of the only file in a zip archive.

    Args:
        path: The archive.
        expected: What was expected, for the message.

    Raises:
        UserError: it is missing, broken, encrypted, unpacks to more than the limit, or does not hold one file.
    """
    with zip_members(path, expected) as members:
        if len(members) != 1:
            raise UserError(f"{path}: holds {len(members)} files; expected one")
        return members[0].read_bytes()
