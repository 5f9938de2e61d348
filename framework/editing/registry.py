"""Techniques by registered name: a checkpoint says a name, never what to import."""

from __future__ import annotations

from importlib import import_module

from framework import catalogue
from framework.editing.technique import IMPORTED, Edit
from framework.errors import UserError


def find_technique(name: str) -> type[Edit]:
    """The technique registered as ``name``: shipped, of an installed package's entry points, or imported already.

    Raises:
        UserError: there is none.
    """
    if name in catalogue.techniques():  # a class that merely took the name cannot stand in for it
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
