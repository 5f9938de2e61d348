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
VERSION = 1
DTYPES = {
    str(dtype).removeprefix("torch."): dtype for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
}


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
        "version": VERSION,
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
        _check_types(facts, {"version": int, "features": int, "dtype": str, "host_sha256": str, "map": dict})
        if facts["version"] != VERSION:
            raise ValueError(f"version {facts['version']}, not {VERSION}")
        config, where = MapConfig(**facts["map"]), Interchange.from_dict(facts["interchange"])
        width = {"width": int} if config.width is not None else {}
        _check_types(facts["map"], {"name": str, "depth": int, "hidden_layers": int, "args": dict, **width})
        features, expected, dtype = facts["features"], facts["host_sha256"], DTYPES[facts["dtype"]]
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not what save_alignment writes ({error})") from error
    own = network_hash(host)
    if own != expected:
        raise UserError(
            f"{path}: belongs to a host with SHA-256 {expected[:12]}…, this one has {own[:12]}…; an alignment says "
            "nothing about another network"
        )
    alignment = build_map(config, features, may_import=False).to(dtype)
    state, _ = read_weights_file(folder / TENSORS, "alignment") if alignment.state_dict() else ({}, {})
    for name, value in alignment.named_parameters():
        found = state.get(name, value)
        if found.dtype != value.dtype or not bool(found.isfinite().all()):
            raise UserError(f"{folder / TENSORS}: {name} is not finite {facts['dtype']}, as {FACTS} says")
    try:
        alignment.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"{folder / TENSORS}: does not fit {config.label}: {error}") from error
    device = next((value.device for value in host.parameters()), torch.device("cpu"))
    return InterchangeModel(host, alignment, where).to(device).eval()


def _check_types(values: Any, expected: dict[str, type]) -> None:
    for name, kind in expected.items():
        if type(values[name]) is not kind:
            raise TypeError(f"{name} is {values[name]!r}, expected {kind.__name__}")


def _dtype_of(module: nn.Module) -> Any:
    return next((p.dtype for p in module.parameters()), torch.float32)
