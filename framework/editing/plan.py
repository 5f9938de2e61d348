"""What a checkpoint knows of an edit: plain data, enough to make structure and trainability again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from framework.errors import UserError
from framework.plain import plain_data

SCHEMA = 1
KEY = "editing"  # of the ledger in a checkpoint


@dataclass(frozen=True)
class Plan:
    """One edit of a model, as decided.

    Attributes:
        technique: Registered name of the technique that made it, and can apply it again.
        name: The name under which the technique is configured.
        decision: What :meth:`~framework.editing.Edit.decide` returned: names, ranks, sizes, seeds.
        settings: The technique's own arguments when it decided.
        version: Of the technique's way to write a decision.
        trainable: Names of the trainable parameters after the edit; ``None`` if it does not touch trainability.
        epoch: Epochs that were complete when the edit was made.
        step: Optimiser steps that were done when the edit was made.
        seed: What the generators were seeded with for this edit.
    """

    technique: str
    name: str
    decision: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    version: int = 1
    trainable: list[str] | None = None
    epoch: int = 0
    step: int = 0
    seed: int = 0

    def to_plain(self) -> dict[str, Any]:
        """The plan as a dict of plain data."""
        return {key: plain_data(value, f"{self.name}.{key}") for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, data: Any) -> Plan:
        """Reads what :meth:`to_plain` wrote.

        Raises:
            UserError: a part is missing, unknown or of the wrong kind.
        """
        if not isinstance(data, dict):
            raise UserError(f"a plan in the checkpoint is a {type(data).__name__}, not a mapping")
        known = {part.name for part in fields(cls)}
        if unknown := sorted(str(key) for key in data.keys() - known):
            raise UserError(f"a plan in the checkpoint has unknown parts: {', '.join(unknown)}")
        kinds = {"technique": str, "name": str, "decision": dict, "settings": dict, "version": int}
        for key, kind in {**kinds, "epoch": int, "step": int, "seed": int}.items():
            if key not in data and key in ("technique", "name", "decision"):
                raise UserError(f"a plan in the checkpoint has no {key!r}")
            if key in data and (not isinstance(data[key], kind) or isinstance(data[key], bool)):
                raise UserError(f"a plan in the checkpoint has {key} {data[key]!r}; a {kind.__name__} is expected")
        names = data.get("trainable")
        if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise UserError("a plan in the checkpoint has a 'trainable' that is not a list of names")
        return cls(**data)
