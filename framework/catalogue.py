"""What there is to run: methods, techniques, configs and sweeps, read from the sources without importing them."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from framework import paths
from framework.config.yaml12 import load

_NOT_A_METHOD = ("callbacks", "sweeps")


@dataclass(frozen=True)
class Entry:
    """One method or technique.

    Attributes:
        name: Its short name: the stem of its config, or of its file.
        field: The field of a method; empty for a technique.
        summary: First line of its docstring.
        paper: The ``Paper:`` line of its docstring, or empty.
        class_path: The class that a config names.
        configs: Short names of its shipped configs.
        claims: Module path of its claims, or empty.
    """

    name: str
    field: str
    summary: str
    paper: str
    class_path: str
    configs: tuple[str, ...]
    claims: str = ""


@dataclass(frozen=True)
class SweepEntry:
    """One shipped sweep file.

    Attributes:
        name: Short name of the file, as ``sweep`` takes it.
        summary: First line of the comment it begins with.
        paper: Its ``Paper:`` or ``Papers:`` line, or empty.
    """

    name: str
    summary: str
    paper: str


def _docstring(path: Path) -> tuple[ast.Module, str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return tree, ast.get_docstring(tree) or ""


def _card(docstring: str) -> tuple[str, str]:
    """Summary and paper of a module docstring; the paper may run over several lines up to the next empty one."""
    summary = docstring.splitlines()[0].strip() if docstring else ""
    paper = ""
    for paragraph in docstring.split("\n\n"):
        for number, line in enumerate(lines := paragraph.splitlines()):
            if line.startswith("Paper:"):
                paper = " ".join(part.strip() for part in lines[number:]).removeprefix("Paper:").strip()
    return summary, paper.rstrip(".")


@cache
def techniques() -> dict[str, str]:
    """Registered name to class path: ours by file, others' by the entry point group ``framework.techniques``."""
    found = {}
    for name, _, tree in _callback_files():
        class_name = _main_class(name, tree)
        if class_name:
            found[name] = f"callbacks.{name}.{class_name}"
    from importlib.metadata import entry_points

    for point in entry_points(group="framework.techniques"):
        found.setdefault(point.name, point.value.replace(":", "."))
    return found


def _callback_files() -> Iterator[tuple[str, Path, ast.Module]]:
    """The name of each technique with its file, or with the ``__init__.py`` of its folder."""
    folder = paths.root() / "callbacks"
    sources = {path.stem: path for path in folder.glob("*.py")}
    sources |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    for name, path in sorted(sources.items()):
        if not name.startswith("_"):
            yield name, path, _docstring(path)[0]


def _main_class(name: str, tree: ast.Module) -> str | None:
    """The class whose name is the file's name in camel case, else the only public one."""
    defined = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    imported = [
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"callbacks.{name}.")
        for alias in node.names
    ]
    classes = [cls for cls in [*defined, *imported] if not cls.startswith("_")]
    flat = name.replace("_", "")
    return next((c for c in classes if c.lower() == flat), classes[0] if len(classes) == 1 else None)


def technique_entries() -> list[Entry]:
    """Every registered technique of this project."""
    shipped = paths.shipped_configs()
    entries = []
    for name, path, tree in _callback_files():
        if name not in techniques():
            continue
        summary, paper = _card(ast.get_docstring(tree) or "")
        fragment = f"callbacks/{name}"
        configs = (fragment,) if fragment in shipped else ()
        entries.append(Entry(name, "", summary, paper, techniques()[name], configs, _claims(path, f"callbacks.{name}")))
    return entries


def method_entries() -> list[Entry]:
    """Every method: a file or folder of ``modules/<field>/`` with a config of the same name."""
    shipped = paths.shipped_configs()
    entries = []
    for short in shipped:
        field, _, name = short.rpartition("/")
        if field in _NOT_A_METHOD or not field:
            continue
        folder = paths.root() / "modules" / field
        source = next((p for p in (folder / f"{name}.py", folder / name / "__init__.py") if p.is_file()), None)
        if source is None:
            continue
        summary, paper = _card(_docstring(source)[1])
        variants = tuple(key for key in shipped if key == short or key.startswith(f"{short}_"))
        model = (load(shipped[short].read_text(encoding="utf-8")) or {}).get("model")
        class_path = model.get("class_path", "") if isinstance(model, dict) else str(model or "")
        claims = _claims(source, f"modules.{field}.{name}")
        entries.append(Entry(name, field, summary, paper, class_path, variants, claims))
    return sorted(entries, key=lambda entry: (entry.field, entry.name))


def sweep_entries() -> list[SweepEntry]:
    """Every shipped sweep file."""
    return [_sweep(name, path) for name, path in paths.shipped_configs().items() if name.startswith("sweeps/")]


def _sweep(name: str, path: Path) -> SweepEntry:
    comments = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    header = [line.removeprefix("#").strip() for line in comments]
    paper = next((line.partition(":")[2].strip() for line in header if line.startswith(("Paper:", "Papers:"))), "")
    return SweepEntry(name, header[0] if header else "", paper.rstrip("."))


def _claims(source: Path, module: str) -> str:
    """Module path of the claims: ``claims.py`` inside a method's folder, ``<name>_claims.py`` beside a single file."""
    if source.name == "__init__.py":
        return f"{module}.claims" if (source.parent / "claims.py").is_file() else ""
    return f"{module}_claims" if source.with_name(f"{source.stem}_claims.py").is_file() else ""


def main(arguments: Sequence[str]) -> int:
    """``list [--json]``: prints the catalogue."""
    from framework.errors import UserError

    unknown = [argument for argument in arguments if argument != "--json"]
    if unknown:
        raise UserError(f"list: unexpected argument {unknown[0]!r}; accepted: --json")
    methods, callbacks, sweeps = method_entries(), technique_entries(), sweep_entries()
    listed = {config for entry in (*methods, *callbacks) for config in entry.configs}
    listed |= {entry.name for entry in sweeps}
    others = [name for name in paths.shipped_configs() if name not in listed]
    if "--json" in arguments:
        tables: dict[str, Any] = {
            "methods": [asdict(entry) for entry in methods],
            "techniques": [asdict(entry) for entry in callbacks],
            "sweeps": [asdict(entry) for entry in sweeps],
            "configs": sorted(paths.shipped_configs()),
        }
        print(json.dumps(tables, indent=2, ensure_ascii=False))
        return 0
    _print_section("Methods", methods)
    _print_section("Techniques (add one with --config callbacks/NAME or --techniques.NAME=true)", callbacks)
    _print_section("Sweeps (run one with python -m framework sweep NAME)", sweeps)
    if others:
        print("Other configs")
        for name in others:
            print(f"  {name}")
        print()
    print("Run one: python -m framework fit --config NAME    Check a paper: python -m framework reproduce METHOD")
    return 0


def _print_section(title: str, entries: Sequence[Entry | SweepEntry]) -> None:
    print(title)
    width = max([20, *(len(entry.name) for entry in entries)])
    for entry in entries:
        print(f"  {entry.name:<{width}} {entry.summary}")
        if entry.paper:
            print(f"  {'':<{width}} {entry.paper}")
        if isinstance(entry, Entry) and entry.configs:
            print(f"  {'':<{width}} configs: {', '.join(entry.configs)}")
    if not entries:
        print("  none")
    print()
