"""Where code stands: what lies in the root, what a method's folder looks like, and who may know whom by name.

Which folder may import which is a contract (import-linter, in pyproject.toml); here is what contracts cannot say.
"""

from __future__ import annotations

import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from checkout import ROOT

from framework import catalogue
from framework.editing import Edit, Writer

PACKAGES = ("framework", "modules", "datamodules", "callbacks")
IN_THE_ROOT = {
    "__init__": "the public names",
    "__main__": "the command",
    "catalogue": "what there is to run",
    "errors": "what every file raises",
    "figures": "pictures",
    "files": "files written whole",
    "library_errors": "what libraries raise over a user's setting",
    "module": "the base that a newcomer subclasses",
    "paths": "where configs and packages are",
    "plain": "plain data",
    "settings": "checks of settings",
}
SAME_NAME = {"MatrixSensing": "a method's module and its data, both named by class path in saved configs"}

# Technique names in the machinery: what carries a name because it is one, and nothing else.
NAMED = {
    ("framework/__main__.py", "ema"): "an example in the help",
    ("framework/__main__.py", "rf8"): "the name of a format, as it is typed",
    ("framework/checkpoints/container.py", "rf8"): "the name of a format within a file",
    ("framework/checkpoints/export.py", "rf8"): "the name of a format within a file",
    ("framework/commands/export.py", "rf8"): "the name of a format, as it is typed",
    ("framework/checkpoints/learngene_file.py", "learngene"): "the name of a file format",
}


# The same in a technique.
NAMED_BY_TECHNIQUES = {
    ("callbacks/kappa_tune.py", "lora"): "a mode, as it is typed and as decisions in checkpoints have it",
}


# Calls that read files of users, by their last names; each is made where the file is checked.
READS = {
    "np.load", "np.loadtxt", "np.genfromtxt", "pickle.load", "pickle.loads", "torch.load", "Image.open", "gzip.open",
    "gzip.decompress", "zipfile.ZipFile", "tarfile.open", "csv.reader", "csv.DictReader", "wavfile.read",
    "parquet.read_table", "pd.read_csv", "shutil.unpack_archive",
}  # fmt: skip
READ_ELSEWHERE = {
    ("framework/checkpoints/reading.py", "torch.load"): "checkpoints, as weights only",
    ("framework/checkpoints/weights_file.py", "torch.load"): "weights, as weights only",
    ("framework/pages/results.py", "Image.open"): "the project's own figures",
    ("datamodules/images/embedded.py", "np.loadtxt"): "a file in an installed package",
}


@cache
def trees() -> dict[str, ast.Module]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in files}


def imports(tree: ast.AST) -> Iterator[str]:
    """Modules that a file imports, lazily too, except for type checks alone."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_root_of_the_framework_holds_what_a_newcomer_imports_or_every_folder_uses():
    assert {path.stem for path in (ROOT / "framework").glob("*.py")} == set(IN_THE_ROOT)


def test_every_folder_of_the_framework_says_what_it_is_for():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for folder in sorted((ROOT / "framework").glob("*/__init__.py")):
        assert ast.get_docstring(ast.parse(folder.read_text(encoding="utf-8"))), f"{folder} has no docstring"
        assert f"`{folder.parent.name}/`" in page, f"docs/architecture.md has no word on framework/{folder.parent.name}"


def test_every_method_is_a_folder_with_the_same_inner_names():
    for entry in catalogue.method_entries():
        folder = ROOT / "modules" / entry.field / entry.name
        assert (folder / "module.py").is_file(), f"{folder} has no module.py"
        face = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
        name = entry.class_path.rpartition(".")[2]
        assert name in {item.rpartition(".")[2] for item in imports(face)}, f"{folder} does not hand on {name}"
    odd = [path for path in (ROOT / "modules").rglob("*claims*.py") if path.name != "claims.py"]
    assert not odd


def test_a_technique_of_several_files_has_its_class_in_callback():
    folders = [path.parent for path in (ROOT / "callbacks").glob("*/__init__.py")]
    assert len(folders) > 4
    assert all((folder / "callback.py").is_file() for folder in folders)


def test_public_class_names_are_unique():
    places: dict[str, list[str]] = defaultdict(list)
    for file, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(file)
    assert {name: files for name, files in places.items() if len(files) > 1}.keys() == SAME_NAME.keys()


def test_no_method_imports_another_papers_method():
    """Those without a paper are bases to build on."""
    methods = {f"modules.{entry.field}.{entry.name}": entry for entry in catalogue.method_entries()}
    bases = {name for name, entry in methods.items() if entry.paper.startswith("none")}
    assert bases == {"modules.finetuning.causal_lm", "modules.sequence.transformer", "modules.vision.image_classifier"}

    def method_of(dotted: str) -> str | None:
        return next((name for name in methods if f"{dotted}.".startswith(f"{name}.")), None)

    wrong = [
        f"{file} imports {found}"
        for file, tree in trees().items()
        for found in imports(tree)
        if (own := method_of(file.removesuffix(".py").replace("/", ".")))
        and (other := method_of(found)) not in (None, own)
        and other not in bases
    ]
    assert not wrong


def named_techniques(tree: ast.Module, names: set[str]) -> set[str]:
    """Technique names that a file uses: as a text of its own, behind ``techniques.``, or in an import."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            words = set(re.findall(r"(?:techniques\.|--format |format )(\w+)", node.value)) | {node.value}
            found |= words & names
    for dotted in imports(tree):
        found |= set(dotted.split(".")) & names
    return found


def machinery() -> dict[str, ast.Module]:
    return {
        file: tree
        for file, tree in trees().items()
        if file.startswith("framework/") and not file.startswith("framework/functional/")
    }


def test_the_machinery_knows_no_technique_by_name():
    names = set(catalogue.techniques())
    found = {(file, name) for file, tree in machinery().items() for name in named_techniques(tree, names)}
    assert found == set(NAMED), "a technique says what it is by its class; formats that carry a name are listed here"


def test_no_technique_knows_another_by_name():
    """A phase and capabilities say what they are to each other."""
    names = set(catalogue.techniques())
    found = {
        (file, name)
        for file, tree in trees().items()
        if file.startswith("callbacks/") and not file.endswith("claims.py")
        for name in named_techniques(tree, names - {own_name(file)})
    }
    assert found == set(NAMED_BY_TECHNIQUES), "ask for a capability; settings that carry a name are listed here"


def own_name(file: str) -> str:
    return file.split("/")[1].removesuffix(".py")


def test_every_technique_that_changes_a_model_has_a_phase_and_names_no_other():
    for name, path in catalogue.techniques().items():
        module, _, attribute = path.rpartition(".")
        cls = getattr(importlib.import_module(module), attribute)
        assert (cls.phase is not None) == issubclass(cls, Edit | Writer), name
        assert (cls.before, cls.after, cls.conflicts) == ((), (), {}), name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('if technique.name == "lora": pass', {"lora"}),
        ("from callbacks.lora import lora_layers", {"lora"}),
        ("def f():\n    import callbacks.ema", {"ema"}),
        ('hint = f"use --techniques.warm_start.shrink={x}"', {"warm_start"}),
        ('"""Words about lora in a docstring."""', set()),
        ("# lora in a comment", set()),
        ('text = "flora and laziness"', set()),
    ],
)
def test_a_name_is_found_however_it_is_used(source, found):
    assert named_techniques(ast.parse(source), {"lora", "ema", "warm_start", "laziness"}) == found


def called(node: ast.Call) -> str:
    """The last two names of what is called: ``np.load``."""
    return ".".join(ast.unparse(node.func).split(".")[-2:])


def test_users_files_are_read_by_the_shared_readers_alone():
    calls = [
        (file, called(node))
        for file, tree in trees().items()
        if not file.startswith("framework/readers/")
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and called(node) in READS
    ]
    assert set(calls) == set(READ_ELSEWHERE)


def test_nothing_in_a_file_can_be_run():
    """No unpickling but of weights and plain arrays, no code from a folder, and no names that are looked up in one."""
    for file, tree in trees().items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            name = called(node)
            if name == "torch.load":
                assert ast.unparse(given.get("weights_only", ast.Constant(None))) == "True", file
            if name.endswith(".from_pretrained"):
                options = {ast.unparse(value) for key, value in given.items() if key is None}
                assert options & {"LOCAL", "wanted", "options", "where"}, f"{file}: {ast.unparse(node)} without **LOCAL"
            for key in ("allow_pickle", "trust_remote_code"):
                assert ast.unparse(given.get(key, ast.Constant(False))) == "False", f"{file}: {key}"
            assert name not in ("pickle.load", "pickle.loads", "dill.load", "joblib.load"), file


def test_no_line_of_a_users_file_ends_at_a_form_feed():
    """``str.splitlines`` splits at eleven characters; a file's lines end at line feeds."""
    for file, tree in trees().items():
        if file.startswith(("datamodules/", "framework/readers/")):
            names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
            allowed = file == "datamodules/finetuning/text.py"  # the first line of an error
            assert "splitlines" not in names or allowed, file


def test_the_framework_imports_its_own_names_from_where_they_stand():
    """``from framework import UserError`` is for those outside: inside it would be a circle through the lazy names."""
    modules = {path.stem for path in (ROOT / "framework").iterdir()}
    wrong = [
        f"{file}: {dotted}"
        for file, tree in trees().items()
        if file.startswith("framework/") and file != "framework/__init__.py"
        for dotted in imports(tree)
        if dotted.startswith("framework.") and dotted.count(".") == 1 and dotted.partition(".")[2] not in modules
    ]
    assert not wrong


def test_everything_that_is_public_lies_where_it_is_said_to_lie():
    import framework

    for name in framework.__all__:
        assert getattr(framework, name).__name__ == name
    assert set(framework._LAZY) < set(framework.__all__)
    assert all((ROOT / Path(*place.split("."))).exists() or (ROOT / (place.replace(".", "/") + ".py")).is_file()
               for place in framework._LAZY.values())  # fmt: skip
