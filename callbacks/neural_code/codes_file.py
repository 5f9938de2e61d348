"""The file ``codes.npz``: packed codes with their layers and the examples that they belong to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from framework.errors import UserError
from framework.files import written
from framework.functional.neural_code import CodeLayer, unpack_bits
from framework.readers.arrays import check_arrays, read_arrays

EXPECTED = "codes as the technique neural_code writes them"


@dataclass(frozen=True)
class PartCodes:
    """Codes of one part of the data.

    Attributes:
        packed: uint8 (N, ⌈D/8⌉).
        ids: Index of each example in its data set, (N,).
        labels: Class of each example (N,), or -1.
    """

    packed: np.ndarray
    ids: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class CodesFile:
    """The contents of the file.

    Attributes:
        kind: ``neural_code`` or ``sign_code``.
        layers: Name, activation and number of bits of each layer, input side first.
        varying: Which bits vary over the examples, bool (D,).
        parts: Codes by part: ``train``, ``val``, ``test``.
    """

    kind: str
    layers: tuple[CodeLayer, ...]
    varying: np.ndarray
    parts: dict[str, PartCodes]

    @property
    def offsets(self) -> np.ndarray:
        """The first bit of each layer, and D."""
        return np.cumsum([0, *(layer.bits for layer in self.layers)])

    def unpacked(self, part: str) -> np.ndarray:
        """Returns the codes of a part as uint8 (N, D)."""
        return unpack_bits(self.parts[part].packed, int(self.offsets[-1]))


def write_codes(path: Path, codes: CodesFile) -> None:
    """Writes the file.

    Arrays: ``kind``, ``layers`` and ``functions`` (L,) text, ``offsets`` (L + 1,), ``varying`` (D,), and for each part
    ``<part>_codes`` uint8 (N, ⌈D/8⌉), ``<part>_ids`` (N,) and ``<part>_labels`` (N,).
    """
    arrays: dict[str, Any] = {
        "kind": np.array(codes.kind),
        "layers": np.array([layer.name for layer in codes.layers]),
        "functions": np.array([layer.function for layer in codes.layers]),
        "offsets": codes.offsets,
        "varying": codes.varying,
    }
    for name, part in codes.parts.items():
        arrays |= {f"{name}_codes": part.packed, f"{name}_ids": part.ids, f"{name}_labels": part.labels}
    with written(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def read_codes(path: str | Path) -> CodesFile:
    """Reads ``codes.npz``, or that of a run folder.

    Raises:
        UserError: there is no such file, it is broken, or holds something else.
    """
    path = Path(path).expanduser()
    path = path / "codes.npz" if path.is_dir() else path
    arrays = read_arrays(path, EXPECTED)
    missing = [name for name in ("kind", "layers", "functions", "offsets", "varying") if name not in arrays]
    if missing:
        raise UserError(f"{path}: lacks {', '.join(missing)}; expected {EXPECTED}")
    names = [name.removesuffix("_codes") for name in arrays if name.endswith("_codes")]
    shapes = {"offsets": "L", "varying": "D"}
    for name in names:
        shapes |= {f"{name}_codes": f"{name} bytes", f"{name}_ids": name, f"{name}_labels": name}
    sizes = check_arrays(arrays, shapes, path, EXPECTED)
    bits = np.diff(arrays["offsets"])
    whole = int(arrays["offsets"][-1]) == sizes["D"] and len(bits) == len(arrays["layers"]) == len(arrays["functions"])
    if not whole or (names and sizes["bytes"] != -(-sizes["D"] // 8)):
        raise UserError(f"{path}: its layers, bits and codes do not fit together; expected {EXPECTED}")
    rows = zip(arrays["layers"], arrays["functions"], bits, strict=True)
    parts = {n: PartCodes(arrays[f"{n}_codes"], arrays[f"{n}_ids"], arrays[f"{n}_labels"]) for n in names}
    return CodesFile(
        str(arrays["kind"]),
        tuple(CodeLayer(str(name), str(function), int(count)) for name, function, count in rows),
        arrays["varying"].astype(bool),
        parts,
    )
