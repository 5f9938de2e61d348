"""Every public class and function says what goes in, and when it refuses."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("framework", "modules", "datamodules", "callbacks")
ERRORS = {"UserError", "RunFailed"}
CONSTRUCTORS = {"__init__", "__post_init__"}
NO_ARGS = {"main": "a command; its arguments are the parser's, and `--help` says them"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    """The files whose docstrings are read by others: no claims, no plots."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return [path for path in files if not path.stem.endswith("claims") and path.stem != "plots"]


def checks(tree: ast.Module) -> set[str]:
    """Names of the checks that a file takes from ``framework.settings``; each of them raises a user's error."""
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    taken = {name.name for node in imports if node.module == "framework.settings" for name in node.names}
    return taken - {"brief"}  # which words a message


def refuses(body: ast.AST, checks: set[str]) -> bool:
    """Whether it raises a user's error itself, or by one of ``checks``."""
    calls = (node for node in ast.walk(body) if isinstance(node, ast.Call))
    raised = (node.exc for node in ast.walk(body) if isinstance(node, ast.Raise))
    names = {call.func.id for call in calls if isinstance(call.func, ast.Name)} & checks
    return bool(names) or any(
        isinstance(error, ast.Call) and isinstance(error.func, ast.Name) and error.func.id in ERRORS for error in raised
    )


def parameters(function: Function, *, method: bool) -> list[str]:
    """Names of what a caller gives; what ``*args`` and ``**kwargs`` take is another's to say."""
    args = function.args
    return [arg.arg for arg in args.posonlyargs + args.args][1 if method else 0 :] + [
        arg.arg for arg in args.kwonlyargs
    ]


def section(docstring: str, title: str) -> str:
    """The indented lines under ``title:``, empty where there are none."""
    found = re.search(rf"^{title}:\n((?:(?: +.*)?\n?)+)", docstring, re.MULTILINE)
    return found[1] if found else ""


def described(docstring: str) -> list[str]:
    """Names that ``Args:`` has a line for."""
    return re.findall(r"^ {4}\*{0,2}(\w+)(?: \([^)]*\))?:", section(docstring, "Args"), re.MULTILINE)


def missing_raises(docstring: str) -> list[str]:
    return (
        [] if re.search(r"^ {4}(UserError|RunFailed): ", section(docstring, "Raises"), re.M) else ["Raises: UserError"]
    )


def missing_args(docstring: str, function: Function, least: int, *, method: bool = False) -> list[str]:
    """What ``Args:`` lacks, or names that are none; it may be left out where there are fewer than ``least``."""
    told, names = described(docstring), parameters(function, method=method)
    stars = [star.arg for star in (function.args.vararg, function.args.kwarg) if star]
    lacks = [f"Args: {name}" for name in names if name not in told] if told or len(names) >= least else []
    return lacks + [f"Args: {name} is no parameter" for name in told if name not in names + stars]


def public(nodes: list[ast.stmt]) -> Iterator[Function | ast.ClassDef]:
    for node in nodes:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def faults(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Public names of a file, with what their docstrings lack."""
    known = checks(tree)
    for node in public(tree.body):
        docstring = ast.get_docstring(node) or ""
        if isinstance(node, Function):
            lacks = missing_raises(docstring) if refuses(node, known) else []
            if node.name not in NO_ARGS:
                lacks += missing_args(docstring, node, least=3)
            yield node.name, lacks
            continue
        lacks = []
        for made in (item for item in node.body if isinstance(item, Function) and item.name in CONSTRUCTORS):
            lacks += missing_raises(docstring) if refuses(made, known) else []
            if made.name == "__init__":
                lacks += missing_args(docstring, made, least=2, method=True)
        yield node.name, lacks
        for method in public(node.body):
            if isinstance(method, Function) and refuses(method, known):
                yield f"{node.name}.{method.name}", missing_raises(ast.get_docstring(method) or "")


@pytest.mark.parametrize("package", PACKAGES)
def test_docstrings_say_what_goes_in_and_what_is_refused(package: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {name}: {', '.join(lacks)}"
        for path in sources()
        if path.relative_to(ROOT).parts[0] == package
        for name, lacks in faults(ast.parse(path.read_text()))
        if lacks
    ]
    assert not found, "docstrings lack:\n" + "\n".join(found)
