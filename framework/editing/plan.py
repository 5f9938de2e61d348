"""A plan: an edit as plain data in a checkpoint, enough to repeat its structure and trainability."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from framework.errors import UserError
from framework.plain import plain_data

SCHEMA = 1
KEY = "editing"  # key of the ledger in a checkpoint


@dataclass(frozen=True)
class Plan:
    """One edit of a model, with its decision.

    Attributes:
        technique: Registered name of the technique that made it, and can apply it again.
        name: The name under which the technique is configured.
        decision: What :meth:`~framework.editing.Edit.decide` returned: names, ranks, sizes, seeds.
        settings: The technique's own arguments when it decided.
        version: Version of the technique's decision format.
        trainable: Names of the trainable parameters after the edit; ``None`` if it does not touch trainability.
        epoch: Number of complete epochs when the edit was made.
        step: Number of optimiser steps when the edit was made.
        seed: Seed of the generators for this edit.
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
        """Returns the plan as a dict of plain data."""
        return {key: plain_data(value, f"{self.name}.{key}") for key, value in asdict(self).items()}

    @classmethod
    def from_plain(cls, data: Any) -> Plan:
        """Makes a plan from the dict of :meth:`to_plain`.

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
