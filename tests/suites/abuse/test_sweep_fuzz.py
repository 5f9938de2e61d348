"""Mistakes in every shipped sweep file, against the sweep command's own reading: it is read, or the key is named."""

from __future__ import annotations

import copy
import math
import os
import random
from pathlib import Path
from typing import Any

import pytest
import yaml

from framework import paths
from framework.commands.sweep import _check
from framework.errors import UserError
from framework.sweep.spec import read

SWEEPS = [name for name in paths.shipped_configs() if name.startswith("sweeps/")]
COUNT = 400 if os.environ.get("FUZZ") else 60
SEED = int(os.environ.get("FUZZ_SEED", "0"))
VALUES = {
    "wrong_type": ["text", 3, 1.5, True, ["a"], {"a": 1}, [[]], [None]],
    "huge": [10**9, 10**30, 1e308],
    "negative": [-1, -0.5, -(10**9)],
    "zero": [0, 0.0],
    "not_finite": [math.nan, math.inf, -math.inf],
    "null": [None],
    "empty": [[], {}, ""],
    "strange_text": ["größe", "🦜", "x" * 10_000, "${args}", "${nothing}", "${", "a\nb", "\x07"],
}


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [place for key, value in items for place in ((*path, key), *places(value, (*path, key)))]


def mutated(name: str, number: int) -> tuple[str, tuple[Any, ...], bytes]:
    """What was done, at which key, and the file."""
    rng = random.Random(f"{SEED}/{name}/{number}")
    text = paths.find_config(name, sweep=True).read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    kind = rng.choice(["deleted", "misspelt", "half", "tab", "bytes", *VALUES])
    if kind == "half":
        return kind, (), text[: rng.randrange(len(text))].encode()
    if kind == "tab":
        return kind, (), text.replace("\n  ", "\n\t", 1).encode()
    if kind == "bytes":
        return kind, (), bytes(rng.randrange(256) for _ in range(100))
    path = rng.choice(places(tree))
    inner = copy.deepcopy(tree)
    around = inner
    for key in path[:-1]:
        around = around[key]
    old = around.pop(path[-1]) if kind in ("deleted", "misspelt") else None
    if kind == "misspelt" and isinstance(around, dict):
        around[f"{path[-1]}x"] = old
    elif kind in VALUES:
        around[path[-1]] = rng.choice(VALUES[kind])
    return kind, path, yaml.safe_dump(inner, sort_keys=False, allow_unicode=True).encode()


@pytest.mark.parametrize("name", SWEEPS)
def test_a_mistake_is_read_or_named(name: str, tmp_path: Path) -> None:
    refused = 0
    for number in range(COUNT):
        kind, path, content = mutated(name, number)
        file = tmp_path / "sweep.yaml"
        file.write_bytes(content)
        try:
            _check(read(file))
        except UserError as error:
            refused += 1
            said = str(error)
            assert len(said) < 1000, (number, kind, path, said)
            assert any(str(key) in said for key in (*path, "sweep.yaml")), (number, kind, path, said)
        except Exception as error:
            raise AssertionError(f"mutation {number}: {kind} at {path}\n{content.decode(errors='replace')}") from error
    assert refused > COUNT / 4
