"""The format of compressed weights inside a checkpoint: plain tensors and data, decoded by :func:`expand`.

A compressed checkpoint is an ordinary one (``torch.load(weights_only=True)`` opens it) in which ``state_dict`` holds
the tensors that were not compressed, and ``compressed`` the others:

    schema, format, order (every name of the state dict), crc (of the codes), and
    rf8:      tensors: {name: {codes, top, dtype}}
    entropy:  coder, step, code, tensors: {name: {shape, dtype}}, in the order in which they are coded
    same:     {name: name of the tensor that it is tied to}
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from framework.errors import UserError
from framework.functional.compression import rf8
from framework.functional.compression.entropy_code import decode_ranks, decode_rans, encode_ranks, encode_rans
from framework.functional.compression.rate import level_counts, quantise

KEY = "compressed"
SCHEMA = 1
CODERS = {"rans": (encode_rans, decode_rans), "exp_golomb": (encode_ranks, decode_ranks)}

_SIGNED = {2: np.int16, 4: np.int32, 8: np.int64}
_UNSIGNED = {2: np.uint16, 4: np.uint32, 8: np.uint64}


def pack_rf8(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Encodes tensors in RF8.

    Raises:
        UserError: a tensor holds NaN or infinity; the message names it.
    """
    packed = {}
    for name, tensor in tensors.items():
        encoded = rf8.encode(tensor, name)
        packed[name] = {"codes": encoded.codes, "top": encoded.top, "dtype": encoded.dtype}
    return {"format": "rf8", "tensors": packed}


def pack_entropy(tensors: Mapping[str, Tensor], step: float, coder: str = "rans") -> dict[str, Any]:
    """Rounds tensors to multiples of ``step`` and encodes the levels of all tensors as one sequence.

    Args:
        tensors: Tensors of floating types and any shapes, by name.
        step: Distance between two levels, above 0.
        coder: ``rans`` or ``exp_golomb``.

    Returns:
        Plain data and tensors, as in this module's docstring.

    Raises:
        UserError: a tensor holds NaN, infinity or a number of too many steps; the message names it.
    """
    levels = []
    for name, tensor in tensors.items():
        try:
            levels.append(quantise(tensor, step).cpu().view(-1))
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
    code = (
        CODERS[coder][0](torch.cat(levels).numpy(), *level_counts(tensors.values(), step)) if levels else {"count": 0}
    )
    places = {n: {"shape": list(t.shape), "dtype": str(t.dtype).removeprefix("torch.")} for n, t in tensors.items()}
    return {"format": "entropy", "coder": coder, "step": step, "code": _to_tensors(code), "tensors": places}


def _to_tensors(code: Any) -> Any:
    """Turns arrays into tensors of the signed type of the same size, which every version of torch can store."""
    if isinstance(code, dict):
        return {key: _to_tensors(value) for key, value in code.items()}
    if isinstance(code, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(code).view(_SIGNED[code.itemsize]))
    return code


def _to_arrays(code: Any, name: str = "") -> Any:
    if isinstance(code, dict):
        return {key: _to_arrays(value, key) for key, value in code.items()}
    if isinstance(code, Tensor):
        array = code.contiguous().numpy()
        return array if name == "escaped" else array.view(_UNSIGNED[array.itemsize])
    return code


def _codes(packed: Any) -> Iterator[Tensor]:
    if isinstance(packed, Tensor):
        yield packed
    elif isinstance(packed, Mapping):
        for key in sorted(packed):
            yield from _codes(packed[key])


def checksum(packed: Mapping[str, Any]) -> int:
    """Returns the CRC-32 of the codes."""
    crc = 0
    for tensor in _codes({key: packed[key] for key in ("tensors", "code") if key in packed}):
        if tensor.numel():  # an empty tensor has no bytes
            crc = zlib.crc32(tensor.contiguous().view(-1).view(torch.uint8).numpy().data, crc)
    return crc


def code_bytes(packed: Mapping[str, Any]) -> int:
    """Returns the size in bytes of the codes with their tables, without the container."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _codes(packed))


def unpack(packed: Mapping[str, Any]) -> dict[str, Tensor]:
    """Decodes the tensors, on the CPU.

    Raises:
        UserError: the format is not known, or the data is damaged.
    """
    if packed.get("schema") != SCHEMA:
        raise UserError(f"compressed weights of schema {packed.get('schema')!r}; this program reads {SCHEMA}")
    kind = packed.get("format")
    if kind not in ("rf8", "entropy"):
        raise UserError(f"compressed weights of format {kind!r}; this program reads rf8 and entropy")
    try:
        if packed["crc"] != checksum(packed):
            raise UserError("the compressed weights are damaged: their checksum does not fit")
        if kind == "rf8":
            return {name: rf8.decode(rf8.Encoded(**part)) for name, part in packed["tensors"].items()}
        return _unpack_entropy(packed)
    except UserError:
        raise
    except Exception as error:  # wrong contents can raise any error in the decoders
        raise UserError(f"the compressed weights are damaged: {error}") from error


def _unpack_entropy(packed: Mapping[str, Any]) -> dict[str, Tensor]:
    levels = torch.from_numpy(CODERS[packed["coder"]][1](_to_arrays(packed["code"])))
    found, position = {}, 0
    for name, place in packed["tensors"].items():
        size = int(np.prod(place["shape"], dtype=np.int64))
        part = levels[position : position + size]
        position += size
        dtype = rf8.DTYPES[place["dtype"]]
        exact = torch.float64 if dtype == torch.float64 else torch.float32
        found[name] = part.to(exact).mul_(packed["step"]).to(dtype).view(place["shape"])
    if position != len(levels):
        raise UserError("the compressed weights are damaged: their number does not fit")
    return found


def expand(content: dict[str, Any], where: object, map_location: Any = "cpu") -> dict[str, Any]:
    """Returns a checkpoint with every weight in its ``state_dict``; one that is not compressed is returned unchanged.

    Args:
        content: The checkpoint, as ``torch.load`` returns it.
        where: The file, for messages.
        map_location: Device of the weights; anything that is not a device means the CPU.

    Raises:
        UserError: the compressed weights are damaged, or of a later version.
    """
    packed = content.get(KEY)
    if not isinstance(packed, dict) or not isinstance(content.get("state_dict"), dict):
        return content
    try:
        found = unpack(packed)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if isinstance(map_location, str | torch.device):
        found = {name: tensor.to(map_location) for name, tensor in found.items()}
    plain = content["state_dict"]
    same = packed.get("same", {})
    state = {}
    for name in packed.get("order", ()):
        source = same.get(name, name)
        if source not in found and source not in plain:
            raise UserError(f"{where}: the compressed weights are damaged: {name} is missing")
        state[name] = found[source] if source in found else plain[source]
    return {**{key: value for key, value in content.items() if key != KEY}, "state_dict": state}
