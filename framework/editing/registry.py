"""Finds techniques by registered name; a checkpoint stores only the name, never a path to import."""

from __future__ import annotations

from importlib import import_module

from framework import catalogue
from framework.editing.technique import IMPORTED, Edit
from framework.errors import UserError


def find_technique(name: str) -> type[Edit]:
    """Returns the technique registered as ``name``: shipped, from an installed package's entry points, or imported.

    Raises:
        UserError: there is no such technique.
    """
    if name in catalogue.techniques():  # another class with this name cannot replace it
        module, _, attribute = catalogue.techniques()[name].rpartition(".")
        found = getattr(import_module(module), attribute)
        if isinstance(found, type) and issubclass(found, Edit):
            return found
    if name not in IMPORTED:
        known = sorted({*IMPORTED, *catalogue.techniques()})
        raise UserError(
            f"the checkpoint was edited by {name!r}, which is not a registered technique; known: {', '.join(known)}; "
            "import the module that defines it, or register it in the entry point group framework.techniques"
        )
    return IMPORTED[name]
