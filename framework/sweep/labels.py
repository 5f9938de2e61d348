"""Shortens labels and values for tables and figures."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from framework.sweep.trial import Trial

_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")  # colours and cursor moves


def short_labels(labels: Sequence[str]) -> dict[str, str]:
    """Maps each label to the shortest ending that no other label has.

    ``model.lr`` and ``techniques.lora.rank`` become ``lr`` and ``rank``; if there is also ``data.lr``, ``model.lr``
    stays.
    """
    names = {label: label.split(".") for label in labels}
    short = {}
    for label, parts in names.items():
        short[label] = label
        for count in range(1, len(parts)):
            if not any(other != label and names[other][-count:] == parts[-count:] for other in names):
                short[label] = ".".join(parts[-count:])
                break
    return short


def fitting_label(label: str, short: str, width: int) -> str:
    """Returns as many of the label's last names as fit, and at least the short one.

    Args:
        label: Dotted names.
        short: Its short form from :func:`short_labels`.
        width: Number of characters.
    """
    while len(label) > width and label != short:
        label = label.partition(".")[2]
    return label


def distinct_texts(values: Sequence[Any], width: int) -> list[str]:
    """Returns the texts of different values, cut to ``width`` at the end or, if they would be equal, at the start."""
    texts = [value_text(value) for value in values]
    for cut in (
        [text if len(text) <= width else text[: width - 1] + "…" for text in texts],
        [text if len(text) <= width else "…" + text[1 - width :] for text in texts],
    ):
        if len(set(cut)) == len(cut):
            return cut
    return [f"{number}: {text}"[: width - 1] + "…" for number, text in enumerate(texts, 1)]


def one_line(text: str) -> str:
    """Returns the text without characters that move the cursor or end the line."""
    return "".join(c if c.isprintable() else " " for c in _ESCAPE.sub("", text)).strip()


def value_text(value: Any, width: int | None = None) -> str:
    """Formats a value for people: four digits of a float; lists and mappings as in YAML; cut to ``width``."""
    if isinstance(value, str):
        text = one_line(value)
    elif isinstance(value, float):
        text = str(int(value)) if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"
    elif isinstance(value, list | dict):
        text = one_line(json.dumps(value, ensure_ascii=False)).replace('"', "")
    else:
        text = json.dumps(value)
    return text if width is None or len(text) <= width else text[: max(width - 1, 0)] + "…"


def duration(seconds: float) -> str:
    """Formats seconds as ``12.3 s``, ``3 min 20 s`` or ``2 h 05 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def last_attempts(trials: Iterable[Trial]) -> list[Trial]:
    """Returns the last trial of each point, by point; ``trials`` are in the order of their attempts."""
    last = {trial.point: trial for trial in trials}
    return [last[point] for point in sorted(last)]
