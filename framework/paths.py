"""Paths of the project's packages and configs, and the check that no other folder hides them."""

from __future__ import annotations

import importlib.machinery
import re
import sys
from pathlib import Path

from framework.errors import UserError

PACKAGES = ("modules", "datamodules", "callbacks")


def root() -> Path:
    """Returns the folder that contains ``framework`` and its three sibling packages."""
    return Path(__file__).resolve().parent.parent


def configs() -> Path:
    """Returns the folder of the shipped configs: inside the package in a wheel, beside it in a checkout."""
    packaged = Path(__file__).resolve().parent / "configs"
    return packaged if packaged.is_dir() else root() / "configs"


def _found(package: str) -> Path | None:
    """Returns the folder or file that ``import package`` would load, without importing anything."""
    loaded = sys.modules.get(package)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", [])), None)
        return Path(origin).resolve() if origin else None
    # Not from the interpreter's cache, which would not have a folder made since.
    spec = importlib.machinery.PathFinder.find_spec(package)
    if spec is None:
        return None
    origin = spec.origin or next(iter(spec.submodule_search_locations or []), None)
    return Path(origin).resolve() if origin else None


def hidden() -> list[tuple[str, Path]]:
    """Returns the project's packages that are hidden, each with the folder (or file) that ``import`` would find."""
    found = [(package, _found(package)) for package in PACKAGES]
    return [(p, f.parent if f.name == "__init__.py" else f) for p, f in found if f and root() / p not in (f, f.parent)]


def refuse_if_hidden() -> None:
    """Raises an error if another folder hides one of the project's packages; the message says what to do.

    Raises:
        UserError: a package is hidden.
    """
    clashes = hidden()
    if clashes:
        names = ", ".join(f"{folder} hides the framework's package {package!r}" for package, folder in clashes)
        raise UserError(
            f"{names}; run the console script `framework ...` or `python -P -m framework ...` instead, "
            "or start from another folder"
        )


def own_packages_first() -> None:
    """Gives the project's packages priority over other folders of the same name, through ``sys.path``.

    The project's root is moved to the front, and the current folder is added at the end, so that the user's own
    packages are found from there. A script or a notebook in a folder with its own ``modules`` must call this before it
    imports anything of this project.

    Raises:
        UserError: another package of that name has already been imported, so changing the path is too late.
    """
    if hidden():
        sys.path.insert(0, str(root()))
        refuse_if_hidden()
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def at_home(argument: str) -> str:
    """Expands ``~/`` at an argument's start or after ``--name=``, where shells do not expand it."""
    return re.sub(r"^(--?[\w.-]+=|sqlite:///|--storage=sqlite:///)?~(?=/)", rf"\1{Path.home()}", argument)


def shipped_configs() -> dict[str, Path]:
    """Maps the short name (``sequence/s4d``, ``callbacks/lora``) of every shipped config to its path, sorted."""
    folder = configs()
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def find_config(name: str, sweep: bool = False) -> Path:
    """Finds a config by path, else by short name: ``configs/sequence/s4d.yaml``, ``sequence/s4d``, ``s4d``.

    Args:
        name: The path or name.
        sweep: Whether to find a sweep file, or any other config.

    Raises:
        UserError: there is no such config, or a bare name matches several; the message lists the nearest.
    """
    asked, kind = ("sweep", "shipped sweeps") if sweep else ("--config", "shipped configs")
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = {key: path for key, path in shipped_configs().items() if key.startswith("sweeps/") == sweep}
    short = name.removeprefix("./").removeprefix("configs/").removesuffix(".yaml").removesuffix(".yml")
    if short in shipped:
        return shipped[short]  # also if a folder has that name, such as a shipped sweep's own after it has run
    if path.is_dir():
        raise UserError(f"{asked}: {name} is a folder, a YAML or JSON file is needed")
    same_stem = [key for key in shipped if key.rsplit("/", 1)[-1] == short]
    if len(same_stem) == 1:
        return shipped[same_stem[0]]
    if same_stem:
        raise UserError(f"{asked}: {name} matches several {kind}: {', '.join(same_stem)}")
    from difflib import get_close_matches

    stems = {key.rsplit("/", 1)[-1]: key for key in shipped}
    near = get_close_matches(short, shipped, n=3) or [stems[s] for s in get_close_matches(short, stems, n=3)]
    hint = f"nearest {kind}: {', '.join(near)}" if near else f"{kind}: {', '.join(shipped)}"
    raise UserError(f"{asked}: no file {name}; {hint}")
