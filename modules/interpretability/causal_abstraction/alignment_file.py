"""An alignment map saved alone: ``alignment.safetensors`` with the map, ``alignment.json`` with where it belongs.

A host of hundreds of megabytes is not saved with it: the JSON holds its hash, and another host is refused.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from framework.checkpoints.weights_file import read_weights_file
from framework.errors import UserError
from framework.files import write_text, written
from framework.readers.text import read_text
from modules.interpretability.causal_abstraction.hosts import network_hash
from modules.interpretability.causal_abstraction.interchange import Interchange, InterchangeModel
from modules.interpretability.causal_abstraction.maps import MapConfig, build_map

TENSORS, FACTS = "alignment.safetensors", "alignment.json"


def save_alignment(model: InterchangeModel, config: MapConfig, folder: str | Path) -> Path:
    """Writes the map and the facts about it into a folder, which is made, and returns it.

    Args:
        model: The host with its map.
        config: From which the map was built.
        folder: The folder.

    Raises:
        UserError: a file cannot be written.
    """
    from safetensors.torch import save_file

    folder = Path(folder).expanduser()
    where = {**model.interchange.as_dict(), "partition": model.partition}
    facts = {
        "version": 1,
        "map": asdict(config),
        "features": model.alignment.features,
        "dtype": str(_dtype_of(model.alignment)).removeprefix("torch."),
        "interchange": where,
        "host_sha256": network_hash(model.network),
    }
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.alignment.state_dict().items()}
    with written(folder / TENSORS) as temporary:
        save_file(state, temporary)
    write_text(folder / FACTS, json.dumps(facts, indent=2) + "\n")
    return folder


def load_alignment(folder: str | Path, host: nn.Module) -> InterchangeModel:
    """Puts a saved map back on its host; it gives the same logits, bit for bit.

    A class of your own has to be imported first: the file imports nothing.

    Args:
        folder: The folder.
        host: The network that the map was fitted to.

    Raises:
        UserError: a file is missing or broken, or the host is another one.
    """
    folder = Path(folder).expanduser()
    path = folder / FACTS
    try:
        facts = json.loads(read_text(path, expected="alignment.json, as save_alignment writes it"))
        config, where = MapConfig(**facts["map"]), Interchange.from_dict(facts["interchange"])
        features, expected, dtype = int(facts["features"]), facts["host_sha256"], getattr(torch, facts["dtype"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path}: not what save_alignment writes ({error})") from error
    found = network_hash(host)
    if found != expected:
        raise UserError(
            f"{path}: belongs to a host with SHA-256 {expected[:12]}…, this one has {found[:12]}…; an alignment says "
            "nothing about another network"
        )
    alignment = build_map(config, features, may_import=False).to(dtype)
    state, _ = read_weights_file(folder / TENSORS, "alignment") if alignment.state_dict() else ({}, {})
    try:
        alignment.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{folder / TENSORS}: does not fit {config.label}: {error}") from error
    return InterchangeModel(host, alignment, where).eval()


def _dtype_of(module: nn.Module) -> Any:
    return next((p.dtype for p in module.parameters()), torch.float32)
