"""Every public class and function says what goes in, and when it refuses.

Functions of three parameters and constructors of two have ``Args:``; methods may, for many are hooks of a fixed form.
Whatever has it names each parameter, and nothing else: the help of the command line is made of it.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path

import pytest
from checkout import ROOT

PACKAGES = ("framework", "modules", "datamodules", "callbacks")
CONSTRUCTORS = {"__init__", "__post_init__"}
NO_ARGS = {"main"}  # of a command: what it takes is in its `--help`

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    """The files whose docstrings are read by others: no claims, no plots."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in files if not path.stem.endswith("claims") and path.stem != "plots"]


@cache
def trees() -> dict[str, ast.Module]:
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in sources()}


@cache
def errors() -> frozenset[str]:
    """``UserError``, the classes derived from it, and the functions that make one."""
    nodes = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, Function | ast.ClassDef)]
    above = {node: node.bases if isinstance(node, ast.ClassDef) else [node.returns] for node in nodes}
    known, found = set[str](), {"UserError"}
    while found - known:
        known |= found
        found = {node.name for node in nodes if any(isinstance(a, ast.Name) and a.id in known for a in above[node])}
    return frozenset(known)


def checks(tree: ast.Module) -> set[str]:
    """Names of the checks that a file takes from ``framework.settings``; each of them raises a user's error."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    taken = {name.name for node in imports if node.module == "framework.settings" for name in node.names}
    return taken - {"brief"}  # which words a message


def named(call: ast.AST | None) -> str:
    """What a call calls, by its last name."""
    called = call.func if isinstance(call, ast.Call) else None
    return called.id if isinstance(called, ast.Name) else called.attr if isinstance(called, ast.Attribute) else ""


def refuses(body: ast.AST, checks: set[str]) -> bool:
    """Whether it raises a user's error itself, or by one of ``checks``."""
    return any(
        (isinstance(node, ast.Raise) and named(node.exc) in errors()) or named(node) in checks
        for node in ast.walk(body)
    )


def parameters(function: Function, *, method: bool) -> list[str]:
    """Names of what a caller gives; what ``*args`` and ``**kwargs`` take is another's to say."""
    args = [arg.arg for arg in function.args.posonlyargs + function.args.args]
    return args[1 if method else 0 :] + [arg.arg for arg in function.args.kwonlyargs]


def section(docstring: str, title: str) -> str:
    """The indented lines under ``title:``, empty where there are none."""
    _, _, rest = f"\n{docstring}".partition(f"\n{title}:\n")
    return "\n".join(takewhile(lambda line: not line or line.startswith(" "), rest.split("\n")))


def described(docstring: str) -> list[str]:
    """Names that ``Args:`` has a line for."""
    return re.findall(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?:", section(docstring, "Args"), re.MULTILINE)


def missing_raises(docstring: str) -> list[str]:
    told = re.findall(r"^ {4}(\w+): ", section(docstring, "Raises"), re.MULTILINE)
    return [] if errors() & {*told} else ["Raises: UserError"]


def missing_args(docstring: str, function: Function, least: float, *, method: bool = False) -> list[str]:
    """What ``Args:`` lacks, or names that are none; it may be left out where there are fewer than ``least``."""
    told, names = described(docstring), parameters(function, method=method)
    stars = [star.arg for star in (function.args.vararg, function.args.kwarg) if star]
    lacks = [f"Args: {name}" for name in names if name not in told] if told or len(names) >= least else []
    return lacks + [f"Args: {name} is no parameter" for name in told if name not in names + stars]


def public(nodes: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    for node in nodes:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def is_static(method: Function) -> bool:
    return any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in method.decorator_list)


def faults(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Public names of a file, with what their docstrings lack."""
    known = checks(tree)
    for node in public(tree.body):
        docstring = ast.get_docstring(node) or ""
        if isinstance(node, Function):
            lacks = missing_raises(docstring) if refuses(node, known) else []
            lacks += missing_args(docstring, node, math.inf if node.name in NO_ARGS else 3)
            yield node.name, lacks
            continue
        lacks = []
        for made in (item for item in node.body if isinstance(item, Function) and item.name in CONSTRUCTORS):
            lacks += missing_raises(docstring) if refuses(made, known) else []
            if made.name == "__init__":
                lacks += missing_args(docstring, made, 2, method=True)
        yield node.name, lacks
        for method in (item for item in public(node.body) if isinstance(item, Function)):
            docstring = ast.get_docstring(method) or ""
            lacks = missing_raises(docstring) if refuses(method, known) else []
            lacks += missing_args(docstring, method, math.inf, method=not is_static(method))
            yield f"{node.name}.{method.name}", lacks


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_say_what_goes_in_and_what_is_refused(package: str) -> None:
    files = {file: tree for file, tree in trees().items() if file.startswith(f"{package}/")}
    assert files
    found = [
        f"{file}: {name}: {', '.join(lacks)}" for file, tree in files.items() for name, lacks in faults(tree) if lacks
    ]
    assert not found, "docstrings lack:\n" + "\n".join(found)


FAULTY = '''
from framework.settings import at_least, brief

def three(a, b, *, c):
    """Takes three.

    Args:
        a: The first.
        d: What is not there.

    Returns:
        c: Not an argument.
    """
    raise UserError(brief(a))

class Checked:
    """Two settings."""
    def __init__(self, a, b):
        at_least(1, a=a)

    def load(self, path):
        """Fails.

        Raises:
            ValueError: which is no mistake of the user's.
        """
        raise nothing_matches(path, [])

class Sound:
    """Two settings.

    Args:
        a: The first,
            on two lines.
        b: The second.
        **kwargs: Of another.

    Raises:
        UserError: one is not accepted.
    """
    def __init__(self, a, b, **kwargs):
        at_least(1, a=a)

    def load(self, a, b, c):
        """Fails by a bug."""
        raise ValueError(brief(a))

def _hidden(a, b, c):
    raise UserError(a)
'''


def test_faults_are_found() -> None:
    assert dict(faults(ast.parse(FAULTY))) == {
        "three": ["Raises: UserError", "Args: b", "Args: c", "Args: d is no parameter"],
        "Checked": ["Raises: UserError", "Args: a", "Args: b"],
        "Checked.load": ["Raises: UserError"],
        "Sound": [],
        "Sound.load": [],
    }
