"""Where the project's own packages and configs are, and whether a foreign folder hides them."""

from __future__ import annotations

import importlib.machinery
import re
import sys
from pathlib import Path

from framework.errors import UserError

PACKAGES = ("modules", "datamodules", "callbacks")


def root() -> Path:
    """The folder that holds ``framework`` and its three sibling packages."""
    return Path(__file__).resolve().parent.parent


def configs() -> Path:
    """The folder of the shipped configs: inside the package in a wheel, beside it in a checkout."""
    packaged = Path(__file__).resolve().parent / "configs"
    return packaged if packaged.is_dir() else root() / "configs"


def _found(package: str) -> Path | None:
    """The folder or file that ``import package`` would load, without importing anything."""
    loaded = sys.modules.get(package)
    if loaded is not None:
        origin = getattr(loaded, "__file__", None) or next(iter(getattr(loaded, "__path__", [])), None)
        return Path(origin).resolve() if origin else None
    # A fresh look-up: entries that the running interpreter cached would hide a folder made since.
    spec = importlib.machinery.PathFinder.find_spec(package)
    if spec is None:
        return None
    origin = spec.origin or next(iter(spec.submodule_search_locations or []), None)
    return Path(origin).resolve() if origin else None


def hidden() -> list[tuple[str, Path]]:
    """Packages of ours that something else hides, each with the folder (or file) that ``import`` would find."""
    found = [(package, _found(package)) for package in PACKAGES]
    return [(p, f.parent if f.name == "__init__.py" else f) for p, f in found if f and root() / p not in (f, f.parent)]


def refuse_if_hidden() -> None:
    """Raises one line naming the folder that hides one of our packages, and what to do.

    Raises:
        UserError: a package of ours is hidden.
    """
    clashes = hidden()
    if clashes:
        names = ", ".join(f"{folder} hides the framework's package {package!r}" for package, folder in clashes)
        raise UserError(
            f"{names}; run the console script `framework ...` or `python -P -m framework ...` instead, "
            "or start from another folder"
        )


def own_packages_first() -> None:
    """Lets our packages win over foreign folders of the same name, by moving our root to the front of ``sys.path``.

    The current folder is added at the end, so that a project's own package is found from its own folder. A script or
    a notebook in a folder with a ``modules`` of its own calls this before it imports anything of ours.

    Raises:
        UserError: a foreign package of that name has been imported already, so a change of path comes too late.
    """
    if hidden():
        sys.path.insert(0, str(root()))
        refuse_if_hidden()
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def at_home(argument: str) -> str:
    """An argument with the user's folder for a ``~/`` at its beginning or after ``--name=``, where no shell puts it."""
    return re.sub(r"^(--?[\w.-]+=|sqlite:///|--storage=sqlite:///)?~(?=/)", rf"\1{Path.home()}", argument)


def shipped_configs() -> dict[str, Path]:
    """Short name (``sequence/s4d``, ``callbacks/lora``) of every shipped config to its path, sorted."""
    folder = configs()
    return {str(path.relative_to(folder).with_suffix("")): path for path in sorted(folder.rglob("*.yaml"))}


def find_config(name: str, sweep: bool = False) -> Path:
    """A config by path, else by short name: ``configs/sequence/s4d.yaml``, ``sequence/s4d``, ``s4d``.

    Args:
        name: What the user typed.
        sweep: Whether a sweep file is looked for, or any other config.

    Raises:
        UserError: there is none, or a bare name fits several; the message lists the nearest.
    """
    asked, kind = ("sweep", "shipped sweeps") if sweep else ("--config", "shipped configs")
    path = Path(name).expanduser()
    if path.is_file():
        return path
    shipped = {key: path for key, path in shipped_configs().items() if key.startswith("sweeps/") == sweep}
    short = name.removeprefix("./").removeprefix("configs/").removesuffix(".yaml").removesuffix(".yml")
    if short in shipped:
        return shipped[short]  # also where a folder has that name: a shipped sweep's own, once it has run
    if path.is_dir():
        raise UserError(f"{asked}: {name} is a folder, a YAML or JSON file is needed")
    same_stem = [key for key in shipped if key.rsplit("/", 1)[-1] == short]
    if len(same_stem) == 1:
        return shipped[same_stem[0]]
    if same_stem:
        raise UserError(f"{asked}: {name} fits several {kind}: {', '.join(same_stem)}")
    from difflib import get_close_matches

    stems = {key.rsplit("/", 1)[-1]: key for key in shipped}
    near = get_close_matches(short, shipped, n=3) or [stems[s] for s in get_close_matches(short, stems, n=3)]
    hint = f"nearest {kind}: {', '.join(near)}" if near else f"{kind}: {', '.join(shipped)}"
    raise UserError(f"{asked}: no file {name}; {hint}")
