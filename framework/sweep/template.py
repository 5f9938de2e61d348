"""The ``command`` of a sweep file: its macros, and the check of its items."""

from __future__ import annotations

import re
from difflib import get_close_matches

DEFAULT = ("${env}", "${interpreter}", "${program}", "${args}")
"""W&B's default command."""


MACROS = (
    "env",
    "interpreter",
    "program",
    "args",
    "args_no_hyphens",
    "args_no_equals",
    "args_no_boolean_flags",
    "args_json",
    "args_json_file",
    "args_append_hydra",
    "args_override_hydra",
)


VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]+)\}")


def mistakes(item: str) -> list[str]:
    """Returns messages on mistakes in one item of ``command``; the environment is not considered."""
    rest = VARIABLE.sub("", item)
    if "${envvar" in rest:
        return [f"{item!r}: an environment variable is written ${{envvar:NAME}}, in capitals, digits and underscores"]
    if item in (f"${{{name}}}" for name in MACROS):
        return []
    for name in MACROS:
        if f"${{{name}}}" in rest:
            return [f"{item!r}: W&B replaces ${{{name}}} only if it is a whole item; make it an item of its own"]
    if item == rest and item.startswith("${") and item.endswith("}"):  # the agent treats it as a macro and drops it
        near = get_close_matches(item[2:-1], MACROS, n=1)
        accepted = ", ".join(f"${{{name}}}" for name in (*MACROS, "envvar:NAME"))
        meant = f"did you mean ${{{near[0]}}}?" if near else f"accepted, each as an item of its own: {accepted}"
        return [f"{item!r} is not a macro of W&B; {meant}"]
    return []
