"""Matches the tensors of a file with those of a module by names, prefixes and shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from framework.errors import UserError

_SHOWN = 40


PREFIXES = ("module.", "model.", "net.", "backbone.", "_orig_mod.")
"""Prefixes that wrappers add to every name: DataParallel, Lightning modules, ``torch.compile``."""


def shape_text(tensor: Tensor) -> str:
    """Returns a shape as text: ``3x4`` or ``scalar``."""
    return "x".join(map(str, tensor.shape)) or "scalar"


@dataclass(frozen=True)
class WeightsMatch:
    """The comparison of a file's tensors with a model's, by name.

    Attributes:
        loaded: Names in both, with the same shape.
        missing: Names only in the model.
        unexpected: Names only in the file.
        reshaped: Names in both with different shapes: that in the file and that in the model.
    """

    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: dict[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether all tensors of both sides match."""
        return not (self.missing or self.unexpected or self.reshaped)

    def problems(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
        """Returns a line for each tensor that does not match: those missing in the file, then the file's others."""
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
        """Returns a table: the number of loaded tensors, and a line for each other tensor."""
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


def compare_tensors(own: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> WeightsMatch:
    """Compares a model's state dict with a file's by names and shapes."""
    both = [name for name in own if name in state]
    same = {name for name in both if own[name].shape == state[name].shape}
    return WeightsMatch(
        loaded=[name for name in both if name in same],
        missing=[name for name in own if name not in state],
        unexpected=[name for name in state if name not in own],
        reshaped={n: (shape_text(state[n]), shape_text(own[n])) for n in both if n not in same},
    )


def without_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Returns the tensors with ``prefix`` removed from the names that have it."""
    return {name.removeprefix(prefix): value for name, value in state.items()}


def match_prefix(
    own: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str | None = None, key: str = "weights"
) -> dict[str, Tensor]:
    """Adds or removes a prefix of the file's names, if that makes them match the model's.

    Args:
        own: The model's tensors.
        state: The file's.
        prefix: Prefix to remove from the file's names; ``None`` tries those of wrappers (:data:`PREFIXES`), removed or
            added, and uses the one with the most matching tensors.
        key: The setting that named the file, for messages.

    Raises:
        UserError: no name in the file has the given prefix, or two prefixes match equally well.
    """
    if prefix is not None:
        if prefix and not any(name.startswith(prefix) for name in state):
            raise UserError(f"prefix: no tensor of the file starts with {prefix!r}; they are {_some(list(state))}")
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
        raise UserError(f"{key}: the names match equally well with {' and with '.join(winners)}; give prefix")
    return choices[winners[0]]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def shortened(lines: Sequence[str]) -> str:
    """Returns the first lines of a message, indented."""
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join([*lines[:_SHOWN], *more])
