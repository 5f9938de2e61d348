"""The catalogue of methods, techniques, data, configs and sweeps, read from the sources without importing them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from framework import paths
from framework.config.yaml12 import load

_NOT_A_METHOD = ("callbacks", "sweeps")
_KINDS = ("Observer", "Penalty", "Edit", "Once", "Transform", "Writer")


@dataclass(frozen=True)
class Entry:
    """One method, technique or datamodule.

    Attributes:
        name: Its short name: the stem of its config, or of its file; the class path of a datamodule.
        field: The field of a method or a datamodule; empty for a technique.
        summary: First line of its docstring.
        paper: The ``Paper:`` line of its docstring, or empty.
        class_path: The class that a config names.
        configs: Short names of its shipped configs.
        claims: Module path of its claims, or empty.
        kind: The kind of a technique, and what it changes in a model.
        phase: The phase of a technique; empty if it has none, and the config's order holds.
        reads: The ``Reads:`` paragraph of a datamodule.
    """

    name: str
    field: str
    summary: str
    paper: str
    class_path: str
    configs: tuple[str, ...]
    claims: str = ""
    kind: str = ""
    phase: str = ""
    reads: str = ""


@dataclass(frozen=True)
class SweepEntry:
    """One shipped sweep file.

    Attributes:
        name: Short name of the file, as ``sweep`` accepts it.
        summary: First line of the comment at its start.
        paper: Its ``Paper:`` or ``Papers:`` line, or empty.
    """

    name: str
    summary: str
    paper: str


@cache
def docstring(path: Path) -> str:
    """Returns the docstring of a source file."""
    return ast.get_docstring(_tree(path)) or ""


def _tree(path: Path) -> ast.Module:  # not cached: every garbage collection would scan all nodes
    return ast.parse(path.read_text(encoding="utf-8"))


def _card(text: str, key: str = "Paper:") -> tuple[str, str]:
    """Returns the first line of a docstring, and the text after ``key`` up to the next empty line."""
    summary = text.splitlines()[0].strip() if text else ""
    value = ""
    for paragraph in text.split("\n\n"):
        for number, line in enumerate(lines := paragraph.splitlines()):
            if line.startswith(key):
                value = " ".join(part.strip() for part in lines[number:]).removeprefix(key).strip()
    return summary, value.rstrip(".")


@cache
def techniques() -> dict[str, str]:
    """Maps registered names to class paths, from files and the entry point group ``framework.techniques``."""
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
    """Yields the name of each technique with its file, or with the ``__init__.py`` of its folder."""
    folder = paths.root() / "callbacks"
    sources = {path.stem: path for path in folder.glob("*.py")}
    sources |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    for name, path in sorted(sources.items()):
        if not name.startswith("_"):
            yield name, path, _tree(path)


def _main_class(name: str, tree: ast.Module) -> str | None:
    """Returns the class whose name is the file's name in camel case, else the only public one."""
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
    """Returns every registered technique of this project."""
    shipped = paths.shipped_configs()
    entries = []
    for name, path, tree in _callback_files():
        if name not in techniques():
            continue
        summary, paper = _card(ast.get_docstring(tree) or "")
        fragment = f"callbacks/{name}"
        configs = (fragment,) if fragment in shipped else ()
        class_path = techniques()[name]
        cls, claims = _class(class_path, path, tree), _claims(path, f"callbacks.{name}")
        phase = ast.literal_eval(_attributes(cls).get("phase", ast.Constant("")))
        entries.append(Entry(name, "", summary, paper, class_path, configs, claims, _kind(cls), phase))
    return entries


def _kind(cls: ast.ClassDef) -> str:
    """Returns a technique's kind and what it changes in a model, from its class's bases and attributes."""
    bases = [base.id for base in cls.bases if isinstance(base, ast.Name)]
    kind = next(kind for base in bases for kind in _KINDS if base.endswith(kind))
    if kind in ("Observer", "Penalty", "Writer"):
        return kind.lower()
    given = _attributes(cls)
    changes = given.get("changes")
    found = ast.literal_eval(changes.args[0]) if isinstance(changes, ast.Call) else set()
    words = [word for word in ("structure", "trainability", "values") if word in found]
    optimizer = given.get("optimizer")
    if isinstance(optimizer, ast.Constant) and optimizer.value == "reset":
        words.append("resets the optimiser")
    return f"{kind.lower()}: {', '.join(words)}"


def _class(class_path: str, path: Path, tree: ast.Module) -> ast.ClassDef:
    """Returns a technique's class, from its file or another one of its folder."""
    others = sorted(path.parent.glob("*.py")) if path.name == "__init__.py" else []
    bodies = [node for source in (tree, *(_tree(other) for other in others)) for node in source.body]
    name = class_path.rpartition(".")[2]
    return next(node for node in bodies if isinstance(node, ast.ClassDef) and node.name == name)


def _attributes(owner: ast.ClassDef | ast.Module) -> dict[str, Any]:
    """Returns the attributes that are assigned in the body of a class or a file."""
    given = {}
    for node in owner.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and isinstance(node, ast.Assign | ast.AnnAssign):
            given[target.id] = node.value
    return given


def phases() -> dict[str, str]:
    """The phases of techniques in their order, each with what a technique does in it."""
    return _constant("MEANING", "phases.py")


def capabilities() -> dict[str, str]:
    """What techniques may offer each other, each with what that means."""
    return _constant("CAPABILITIES", "capabilities.py")


def _constant(name: str, file: str) -> dict[str, str]:
    """A mapping of a file in ``framework/editing``, whose import would bring torch."""
    given = _attributes(_tree(Path(__file__).parent / "editing" / file))
    table = given[name]
    keys = [ast.literal_eval(given[key.id] if isinstance(key, ast.Name) else key) for key in table.keys]
    return dict(zip(keys, map(ast.literal_eval, table.values), strict=True))


def options_from_weights(file: Path) -> str:
    """Returns the options that start a training from the weights in a file, from a technique's ``from_weights``."""
    for name, path, tree in _callback_files():
        if name in techniques() and (text := _attributes(_class(techniques()[name], path, tree)).get("from_weights")):
            return str(ast.literal_eval(text)).format(path=file)
    return ""


def method_entries() -> list[Entry]:
    """Returns every method: a folder of ``modules/<field>/`` with a config of the same name."""
    shipped = paths.shipped_configs()
    entries = []
    for short in shipped:
        field, _, name = short.rpartition("/")
        if field in _NOT_A_METHOD or not field:
            continue
        folder = paths.root() / "modules" / field
        source = folder / name / "__init__.py"
        if not source.is_file():
            continue
        summary, paper = _card(docstring(source))
        variants = tuple(key for key in shipped if key == short or key.startswith(f"{short}_"))
        model = (load(shipped[short].read_text(encoding="utf-8")) or {}).get("model")
        class_path = model.get("class_path", "") if isinstance(model, dict) else str(model or "")
        claims = _claims(source, f"modules.{field}.{name}")
        entries.append(Entry(name, field, summary, paper, class_path, variants, claims))
    return sorted(entries, key=lambda entry: (entry.field, entry.name))


def datamodule_entries() -> list[Entry]:
    """Returns every datamodule: a class of ``datamodules/<field>/`` whose docstring has a ``Reads:`` paragraph."""
    entries = []
    for path in sorted((paths.root() / "datamodules").glob("*/*.py")):
        for node in _tree(path).body:
            if isinstance(node, ast.ClassDef):
                summary, reads = _card(ast.get_docstring(node) or "", "Reads:")
                field, class_path = path.parent.name, f"datamodules.{path.parent.name}.{path.stem}.{node.name}"
                if reads:
                    entries.append(Entry(class_path, field, summary, "", class_path, (), reads=reads))
    return entries


def sweep_entries() -> list[SweepEntry]:
    """Returns every shipped sweep file."""
    return [_sweep(name, path) for name, path in paths.shipped_configs().items() if name.startswith("sweeps/")]


def _sweep(name: str, path: Path) -> SweepEntry:
    comments = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    header = [line.removeprefix("#").strip() for line in comments]
    paper = next((line.partition(":")[2].strip() for line in header if line.startswith(("Paper:", "Papers:"))), "")
    return SweepEntry(name, header[0] if header else "", paper.rstrip("."))


def _claims(source: Path, module: str) -> str:
    """Returns the module path of the claims: ``claims.py`` in the folder of a method or a technique."""
    in_folder = source.name == "__init__.py" and (source.parent / "claims.py").is_file()
    return f"{module}.claims" if in_folder else ""
