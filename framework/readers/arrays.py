"""Arrays of the user, ``.npz`` and ``.npy``, and the checks that every datamodule makes of arrays."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike

from framework.errors import UserError
from framework.readers.unpacking import check_members, refuse_missing

_MAGIC = b"\x93NUMPY"
_PIECE = 1 << 24  # bytes of a large array that are in memory at a time
REAL = "fiub"
"""Kinds of numpy's types that are real numbers or truth values."""
OBJECTS = "Python objects (a pickle), which are not read"


def read_arrays(
    path: Path, expected: str, dtype: DTypeLike | None = None, only: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Returns the arrays of a ``.npz`` by name, or the array of a ``.npy`` under the name ``array``.

    The content says which of the two it is. Big-endian numbers become native ones. Pickled objects are not read: an
    array of them is empty, and refused by the checks below.

    Args:
        path: The file.
        expected: The expected contents, for the message.
        dtype: Type of real numbers to which arrays of real numbers are converted; by default they are not converted.
        only: Names of the arrays of a ``.npz`` that are read; by default all.

    Raises:
        UserError: there is no such file, it is truncated or broken, or unpacks to more than the limit.
    """
    refuse_missing(path, expected)
    try:
        with path.open("rb") as file:
            start = file.read(6)
            file.seek(0)
            if start == _MAGIC:
                found = {"array": _read(path, file, "the array", path.stat().st_size)}
            else:
                found = _read_zip(path, file, only)
    except UserError:
        raise
    except zipfile.BadZipFile as error:
        raise UserError(f"{path}: cannot be read as .npz or .npy ({error}); expected {expected}") from None
    except Exception as error:  # a damaged header, which is Python source, can raise nearly any
        raise UserError(f"{path}: cannot be read ({error}); expected {expected}") from None
    if dtype is None:
        return found
    return {name: converted(array, dtype) if array.dtype.kind in REAL else array for name, array in found.items()}


def read_array(path: Path, expected: str, dtype: DTypeLike | None = None) -> np.ndarray:
    """Returns the array of a ``.npy``.

    Args:
        path: The file.
        expected: The expected contents, for the message.
        dtype: As in :func:`read_arrays`.

    Raises:
        UserError: as :func:`read_arrays`, or the file is a ``.npz``.
    """
    found = read_arrays(path, expected, dtype)
    if "array" not in found:
        raise UserError(f"{path}: an .npz with {shapes_of(found)}; expected {expected}")
    return found["array"]


def converted(array: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Returns an array in another type; numbers too large for it become infinite, without a warning."""
    with np.errstate(over="ignore"):
        return array.astype(dtype, copy=False)


def map_array(path: Path, expected: str) -> np.ndarray:
    """Returns the array of a ``.npy`` memory-mapped, read only.

    Args:
        path: The file.
        expected: The expected contents, for the message.

    Raises:
        UserError: there is no such file, it is truncated or broken, or holds Python objects.
    """
    refuse_missing(path, expected)
    try:
        with path.open("rb") as file:
            if _check_header(path, file, "the array", path.stat().st_size).hasobject:
                raise UserError(f"{path}: the array holds {OBJECTS}")
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except UserError:
        raise
    except Exception as error:  # see above
        raise UserError(f"{path}: cannot be read ({error}); expected {expected}") from None


def array_shape(path: Path, name: str, expected: str) -> tuple[int, ...]:
    """Returns the shape of an array of a ``.npz``, of which only the header is read.

    Args:
        path: The file.
        name: The array.
        expected: The expected contents, for the message.

    Raises:
        UserError: as :func:`read_arrays`, the file is no ``.npz``, or has no such array of numbers.
    """
    return _member(path, name, expected, None)


def read_array_rows(path: Path, name: str, rows: np.ndarray, expected: str) -> np.ndarray:
    """Returns chosen rows of an array of a ``.npz``, without ever having all of the array in memory.

    Args:
        path: The file.
        name: The array, (N, …) in C order.
        rows: Their positions (M,), in increasing order.
        expected: The expected contents, for the message.

    Raises:
        UserError: as :func:`array_shape`, or the array is in Fortran order or shorter.
    """
    return _member(path, name, expected, rows)


def _member(path: Path, name: str, expected: str, rows: np.ndarray | None) -> Any:
    """Returns the shape of a member, or some rows of it."""
    refuse_missing(path, expected)
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename.removesuffix(".npy"): info for info in check_members(path, archive)}
            if name not in sizes:
                raise UserError(f"{path}: lacks {name} (it has {', '.join(sizes) or 'nothing'}); expected {expected}")
            with archive.open(sizes[name]) as member:
                if _check_header(path, member, repr(name), sizes[name].file_size).hasobject:
                    raise UserError(f"{path}: {name} holds {OBJECTS}")
                version = np.lib.format.read_magic(member)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, fortran, dtype = read(member)
                return shape if rows is None else _rows(path, name, member, shape, fortran, dtype, rows)
    except UserError:
        raise
    except Exception as error:  # see above
        raise UserError(f"{path}: cannot be read ({error}); expected {expected}") from None


def _rows(
    path: Path, name: str, member: Any, shape: tuple[int, ...], fortran: bool, dtype: np.dtype, rows: np.ndarray
) -> np.ndarray:
    if not shape or (fortran and len(shape) > 1) or (len(rows) and rows[-1] >= shape[0]):
        order = "Fortran" if fortran else "C"
        raise UserError(f"{path}: {name} has the shape {shape} in {order} order; {int(rows[-1]) + 1} rows in C order")
    found = np.empty((len(rows), *shape[1:]), dtype.newbyteorder("="))
    width = math.prod(shape[1:]) * dtype.itemsize
    step = max(1, _PIECE // max(width, 1))
    for start in range(0, shape[0], step):
        count = min(step, shape[0] - start)
        piece = np.frombuffer(_exactly(member, count * width), dtype).reshape(count, *shape[1:])
        low, high = np.searchsorted(rows, [start, start + count])
        found[low:high] = piece[rows[low:high] - start]
    while member.read(1 << 16):  # to the end, where zipfile checks the sum of the bytes
        pass
    return found


def _exactly(member: Any, count: int) -> bytes:
    parts = []
    while count:
        part = member.read(count)
        if not part:
            raise EOFError("it ends too early")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_zip(path: Path, file: BinaryIO, only: Collection[str] | None) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    with zipfile.ZipFile(file) as archive:
        for info in check_members(path, archive):
            name = info.filename.removesuffix(".npy")
            if only is not None and name not in only:
                continue
            with archive.open(info) as member:
                if member.read(6) != _MAGIC:
                    raise UserError(f"{path}: its member {info.filename!r} is not an array of numpy")
                member.seek(0)
                found[name] = _read(path, member, repr(name), info.file_size)
                while member.read(1 << 16):  # to the end, where zipfile checks the sum of the bytes
                    pass
    return found


def _read(path: Path, file: Any, name: str, size: int) -> np.ndarray:
    if _check_header(path, file, name, size).hasobject:
        return np.empty(0, object)  # refused when it is used
    array = np.lib.format.read_array(file, allow_pickle=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _check_header(path: Path, file: Any, name: str, size: int) -> np.dtype:
    """Compares an array's size with that of its file before numpy makes room for it; leaves the file at its start.

    Returns:
        The array's type.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        return dtype
    needed = file.tell() + math.prod(shape) * dtype.itemsize
    if size < needed:
        raise UserError(f"{path}: truncated, {name} of shape {shape} needs {needed} bytes, {size} are there")
    file.seek(0)
    return dtype


def shapes_of(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns names and shapes, for a message."""
    return ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) or "nothing"


def real(array: np.ndarray, name: str, where: Path | str) -> np.ndarray:
    """Returns the array if it holds real numbers or truth values.

    Args:
        array: The array.
        name: Its name, for the message.
        where: Its file, for the message.

    Raises:
        UserError: it holds complex numbers, text, times or records.
    """
    if array.dtype.hasobject:
        raise UserError(f"{where}: {name} holds {OBJECTS}")
    if array.dtype.kind not in REAL:
        raise UserError(f"{where}: {name} holds {array.dtype.name}; real numbers are expected")
    return array


def check_arrays(
    arrays: Mapping[str, np.ndarray], shapes: Mapping[str, str], where: Path | str, expected: str = ""
) -> dict[str, int]:
    """Checks that arrays hold finite real numbers and that their shapes fit together.

    ::

        check_arrays(found, {"A": "m n1 n2", "y": "m"}, file)

    Args:
        arrays: The arrays by name; those that ``shapes`` does not name are not looked at.
        shapes: The names of each array's dimensions, with spaces between; ``...`` at the end for any more. A dimension
            of the same name has the same size in all arrays, and all are at least 1.
        where: The file, for the message.
        expected: The expected contents, for the message.

    Returns:
        The sizes of the dimensions by name.

    Raises:
        UserError: an array is missing, is not of real numbers, has NaN or infinite values, or has a shape that does not
            fit.
    """
    hint = f"; expected {expected}" if expected else ""
    if missing := [name for name in shapes if name not in arrays]:
        raise UserError(f"{where}: lacks {', '.join(missing)} (it has {shapes_of(arrays)}){hint}")
    sizes: dict[str, int] = {}
    first: dict[str, str] = {}
    for name, dimensions in shapes.items():
        array = real(arrays[name], name, where)
        wanted = dimensions.split()
        more = wanted[-1:] == ["..."]
        wanted = wanted[: len(wanted) - more]
        shape = f"({', '.join(dimensions.split())}{',' if len(dimensions.split()) == 1 else ''})"
        if array.ndim < len(wanted) or (array.ndim > len(wanted) and not more):
            raise UserError(f"{where}: {name} has the shape {array.shape}, not {shape}{hint}")
        if not array.size:
            raise UserError(f"{where}: {name} has the shape {array.shape}, which holds no numbers{hint}")
        for dimension, size in zip(wanted, array.shape, strict=False):
            if sizes.setdefault(dimension, size) != size:
                raise UserError(
                    f"{where}: {name} has the shape {array.shape}; {shape} with {dimension} = {sizes[dimension]}, as "
                    f"in {first[dimension]}, is expected{hint}"
                )
            first.setdefault(dimension, name)
        check_finite(array, name, where)
    return sizes


def float32(array: np.ndarray, name: str, where: Path | str) -> np.ndarray:
    """Returns real numbers as float32.

    Args:
        array: The array.
        name: Its name, for the message.
        where: Its file, for the message.

    Raises:
        UserError: it holds something else, or numbers that are not finite in float32.
    """
    found = converted(real(array, name, where), np.float32)
    check_finite(found, f"{name} in float32", where)
    return found


def check_finite(array: np.ndarray, name: str, where: Path | str) -> None:
    """Checks that an array of real numbers has no NaN and no infinite values.

    Args:
        array: The array.
        name: Its name, for the message.
        where: Its file, for the message.

    Raises:
        UserError: it has; the message says how many and where the first is.
    """
    if array.dtype.kind != "f":
        return
    finite = np.isfinite(array)
    if finite.all():
        return
    place = np.unravel_index(int(np.argmin(finite)), array.shape)
    at = ", ".join(str(int(index)) for index in place)
    bad = array.size - int(np.count_nonzero(finite))
    raise UserError(f"{where}: {bad} of {array.size} values of {name} are not finite, the first at [{at}]")


def check_symmetric(array: np.ndarray, name: str, where: Path | str) -> None:
    """Checks that a matrix equals its transpose to six digits.

    Args:
        array: The matrix (n, m).
        name: Its name, for the message.
        where: Its file, for the message.

    Raises:
        UserError: it does not, or is not square.
    """
    if array.ndim != 2 or array.shape[0] != array.shape[1]:
        raise UserError(f"{where}: {name} has the shape {array.shape}; a symmetric matrix is square")
    array = real(array, name, where).astype(np.float64)
    check_finite(array, name, where)
    difference = float(np.abs(array - array.T).max())
    if difference > 1e-6 * float(np.abs(array).max()):
        raise UserError(f"{where}: {name} is not symmetric, it differs from its transpose by up to {difference:.3g}")


def labels_of(array: np.ndarray, name: str, where: Path | str, classes: int | None = None) -> np.ndarray:
    """Returns classes as int64, (N,).

    Args:
        array: Whole numbers from 0 in any type, (N,).
        name: Its name, for the message.
        where: Its file, for the message.
        classes: Number of classes, if it is known.

    Raises:
        UserError: the array has another shape, or a value that is not such a number.
    """
    real(array, name, where)
    if array.ndim != 1 or not len(array):
        raise UserError(f"{where}: {name} has the shape {array.shape}; classes (N,) are expected")
    check_finite(array, name, where)
    limit = np.iinfo(np.int32).max if classes is None else classes - 1
    wrong = np.flatnonzero((array != np.rint(array)) | (array < 0) | (array > limit))
    if len(wrong):
        accepted = "whole numbers from 0" + ("" if classes is None else f" to {classes - 1}")
        raise UserError(f"{where}: {name}[{wrong[0]}] is {array[wrong[0]]}; {accepted} are expected")
    return array.astype(np.int64)
