"""Chooses modules and parameters by name patterns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from fnmatch import fnmatchcase

from torch import Tensor, nn

from framework.errors import UserError


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Returns whether any pattern matches ``name``, entirely or its last parts; ``*`` and ``?`` as in a shell.

    ``attn.qkv`` and ``blocks.*.attn.qkv`` both match ``net.blocks.0.attn.qkv``; ``kv`` does not.
    """
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}") for pattern in patterns)


def choose(
    names: Iterable[str], include: Sequence[str] | None, exclude: Sequence[str] = (), key: str = ""
) -> list[str]:
    """Returns the names that match ``include`` (all for ``None``) and do not match ``exclude``, in order.

    Args:
        names: Dotted names.
        include: Patterns as in :func:`matches`; ``None`` for all names.
        exclude: Patterns of names to leave out.
        key: Key of ``include`` in the config, for messages.

    Raises:
        UserError: a pattern of ``include`` matches nothing; the message lists the five nearest names.
    """
    names = list(names)
    for pattern in include or ():
        if not any(matches(name, [pattern]) for name in names):
            raise nothing_matches(pattern, names, key)
    return [name for name in names if (include is None or matches(name, include)) and not matches(name, exclude)]


def nothing_matches(pattern: str, names: Sequence[str], key: str = "") -> UserError:
    """Returns the error for a pattern that matches nothing, with the five nearest of ``names``.

    Args:
        pattern: The configured pattern.
        names: The existing names.
        key: Its key in the config; the message starts with it.
    """

    def likeness(name: str) -> float:
        parts = name.split(".")
        tails = (".".join(parts[i:]) for i in range(len(parts)))
        return max((SequenceMatcher(None, pattern, tail).ratio() for tail in tails), default=0.0)

    nearest = sorted(names, key=likeness, reverse=True)[:5]
    where = f"{key}: " if key else ""
    return UserError(f"{where}{pattern!r} names nothing in the model; nearest: {', '.join(nearest) or 'none'}")


def unique_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns every parameter once, under its first name, also if it is tied."""
    return dict(model.named_parameters(remove_duplicate=True))


def trained_parameters(
    model: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None, key: str = ""
) -> list[nn.Parameter]:
    """The parameters of floating type that patterns choose by name, tied ones once; some of them are trained.

    Those that are not may be trained later, so whoever acts on trained ones alone looks at ``requires_grad`` then.

    Args:
        model: Whose parameters.
        include: Patterns as :func:`matches` takes; ``None`` for all.
        exclude: Patterns too.
        key: Of the technique, for messages.

    Raises:
        UserError: a pattern names nothing, with the nearest names, or no chosen parameter is trained.
    """
    known = {
        name: parameter
        for name, parameter in unique_parameters(model).items()
        if parameter.is_floating_point() and parameter.numel()
    }
    trained = [name for name, parameter in known.items() if parameter.requires_grad]
    names = choose(known, include, exclude or (), f"{key}.include")
    if not set(names) & set(trained):
        shown = ", ".join(trained[:5]) + ", …" * (len(trained) > 5) if trained else "nothing"
        raise UserError(f"{key}: none of the parameters that include and exclude choose is trained; trained: {shown}")
    return [known[name] for name in names]


def matrices(
    model: nn.Module, include: Sequence[str] | None = None, exclude: Sequence[str] | None = None, key: str = ""
) -> dict[str, Tensor]:
    """Returns the floating-point parameters with at least two dimensions whose names match patterns, tied ones once.

    Args:
        model: The model.
        include: Patterns as in :func:`matches`; ``None`` for all.
        exclude: Patterns of names to leave out.
        key: Key of ``include`` in the config, for messages.

    Returns:
        Maps names to detached tensors that share the parameters' memory.

    Raises:
        UserError: there is none, or a pattern matches nothing; the message lists the nearest names.
    """
    known = {
        name: parameter.detach()
        for name, parameter in unique_parameters(model).items()
        if parameter.ndim > 1 and parameter.is_floating_point() and parameter.numel()
    }
    names = choose(known, include, exclude or (), key)
    if not names:
        raise nothing_matches(", ".join(include or ("*",)), list(known), key)
    return {name: known[name] for name in names}


def all_names(model: nn.Module) -> dict[int, list[str]]:
    """Maps each parameter (by identity) to all of its names, in order."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return names
