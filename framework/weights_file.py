"""Weights in a local file: reading them without executing anything, and comparing them with a model's, by tensor."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from framework.errors import UserError

_CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_SHOWN = 40
PREFIXES = ("module.", "model.", "net.", "backbone.", "_orig_mod.")
"""What wrappers put before every name: DataParallel, Lightning modules, ``torch.compile``."""


def read_weights_file(path: str | Path, key: str = "weights") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads a state dict: ``.safetensors``, or what ``torch.save`` wrote, opened with ``weights_only=True``.

    A state dict inside a checkpoint (under ``state_dict``, ``model``, …; the averaged one first, as timm does) is
    taken out. Weights that :func:`framework.export` compressed are whole again.

    Args:
        path: The file.
        key: The setting that named it, for messages.

    Returns:
        Tensors by name, and the checkpoint around them (empty if there is none).

    Raises:
        UserError: the file is missing, is not of its format, or holds something else than tensors by name.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError(f"{key}: {path} not found; expected a local file, .pth, .pt, .ckpt or .safetensors")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{key}: {path} holds more than tensors and plain data, or is broken: {error}") from error
    except Exception as error:  # safetensors and zip raise types of their own
        raise UserError(f"{key}: {path} cannot be read: {error}") from error
    around: dict[str, Any] = {}
    if isinstance(content, dict) and isinstance(content.get("compressed"), dict):
        from framework.compression.container import expand

        content = expand(content, f"{key}: {path}")
    if isinstance(content, Mapping):
        inner = next((content[name] for name in _CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if inner is not None:
            around, content = dict(content), inner
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{key}: {path} is not a state dict (tensors by name), nor a checkpoint with one inside")
    return {str(name): value for name, value in content.items()}, around


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with Path(path).expanduser().open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def shape_text(tensor: Tensor) -> str:
    """``3x4`` or ``scalar``."""
    return "x".join(map(str, tensor.shape)) or "scalar"


@dataclass(frozen=True)
class Fit:
    """How the tensors of a file fit those of a model, name by name.

    Attributes:
        loaded: In both, of one shape.
        missing: In the model only.
        unexpected: In the file only.
        reshaped: In both, with the shape in the file and the one in the model.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every tensor of either side has its counterpart."""
        return not (self.missing or self.unexpected or self.reshaped)

    def problems(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
        """A line for each tensor that does not fit: the model's missing ones, then the file's others in its order."""
        lines = [f"{name}: missing in the file, {shape_text(own[name])} expected" for name in self.missing]
        for name in state:
            if name in self.reshaped:
                old, new = self.reshaped[name]
                lines.append(f"{name}: {old} in the file, {new} in the model")
            elif name in own:
                continue
            else:
                lines.append(f"{name}: {shape_text(state[name])} in the file, the model has no such tensor")
        return lines

    def table(self) -> str:
        """How many tensors were loaded, and a line for each other one: its name and what became of it."""
        rows = [(name, f"shape {old} -> {new}: kept") for name, (old, new) in self.reshaped.items()]
        rows += [(name, "missing: kept") for name in self.missing]
        rows += [(name, "unexpected: not used") for name in self.unexpected]
        width = max((len(name) for name, _ in rows), default=0)
        total = len(self.loaded) + len(self.missing) + len(self.reshaped)
        return "\n".join(
            [
                f"{len(self.loaded)} of the model's {total} tensors loaded",
                *(f"  {n:<{width}}  {what}" for n, what in rows),
            ]
        )


def compare_tensors(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Fit:
    """Compares a model's state dict with a file's by names and shapes."""
    both = [name for name in own if name in state]
    same = {name for name in both if own[name].shape == state[name].shape}
    return Fit(
        loaded=[name for name in both if name in same],
        missing=[name for name in own if name not in state],
        unexpected=[name for name in state if name not in own],
        reshaped={n: (shape_text(state[n]), shape_text(own[n])) for n in both if n not in same},
    )


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors with ``prefix`` dropped from the names that have it; the others keep theirs."""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def match_prefix(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str | None = None, key: str = "weights"
) -> dict[str, Tensor]:
    """Brings the file's names to the model's where all of them have one prefix more or less.

    Args:
        own: The model's tensors.
        state: The file's.
        prefix: Dropped from the file's names; ``None`` tries what wrappers use (:data:`PREFIXES`), dropped or put
            before, and takes the one under which most tensors fit.
        key: The setting that named the file, for messages.

    Raises:
        UserError: no name of the file has the given prefix, or two prefixes fit equally well.
    """
    if prefix is not None:
        if prefix and not any(name.startswith(prefix) for name in state):
            raise UserError(f"prefix: no tensor of the file begins with {prefix!r}; they are {_some(list(state))}")
        return without_prefix(state, prefix)
    choices: dict[str, dict[str, Tensor]] = {"as it is": dict(state)}
    for text in PREFIXES:
        if any(name.startswith(text) for name in state):
            choices[f"{text!r} dropped"] = without_prefix(state, text)
        if any(name.startswith(text) for name in own):
            choices[f"{text!r} put before"] = {text + name: value for name, value in state.items()}
    counts = {
        choice: sum(name in own and own[name].shape == value.shape for name, value in tensors.items())
        for choice, tensors in choices.items()
    }
    best = max(counts.values())
    if counts["as it is"] == best:
        return choices["as it is"]
    winners = [choice for choice, count in counts.items() if count == best]
    if len(winners) > 1:
        raise UserError(f"{key}: the names fit equally well with {' and with '.join(winners)}; give prefix")
    return choices[winners[0]]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def shortened(lines: Sequence[str]) -> str:
    """Lines of a message, indented, the end cut off after many."""
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join([*lines[:_SHOWN], *more])
