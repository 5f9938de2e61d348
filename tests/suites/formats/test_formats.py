"""Every format that a datamodule reads, with every fault that it can have: the same data, or the file named."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from formats.table import FAULTS, FORMATS, HARMLESS, Format
from framework import catalogue
from framework.errors import UserError

CASES = [
    pytest.param(row, fault, id=f"{row.name}-{fault}") for row in FORMATS for fault in FAULTS if fault not in row.exempt
]


class Command:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, trap: Path) -> None:
        self.trap = trap

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trap),)


def read(row: Format, path: Path, encoding: str | None = None) -> tuple[list[torch.Tensor], Any]:
    """All that a datamodule gives: its batches in a fixed order, and the names it found."""
    torch.manual_seed(0)
    data = row.read(str(path), encoding)
    data.setup("fit")
    loaders = [data.train_dataloader()]
    if data.val_set is not None:
        loaders.append(data.val_dataloader())
    if data.test_set is not None:
        loaders.append(data.test_dataloader())
    batches = [list(loader) for group in loaders for loader in (group if isinstance(group, list) else [group])]
    names = [getattr(data, name, None) for name in ("class_names", "label_names", "names")]
    return [leaf for leaf in tree_leaves(batches) if isinstance(leaf, torch.Tensor)], names


def same(one: tuple[list[torch.Tensor], Any], other: tuple[list[torch.Tensor], Any]) -> bool:
    equal = [torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one[0], other[0], strict=True)]
    return bool(equal) and all(equal) and one[1] == other[1]


def damage(row: Format, fault: str, file: Path, outside: Path) -> Path:
    """Gives the file a fault, and returns where it is afterwards."""
    whole = file.read_bytes()
    if fault in row.faults:
        file.unlink()
        row.faults[fault](file)
    elif fault == "empty":
        file.write_bytes(b"")
    elif fault == "truncated":
        file.write_bytes(whole[: len(whole) * 6 // 10])
    elif fault == "magic":
        file.write_bytes(b"\x00\x9cnothing of the kind" + whole[:50])
    elif fault == "encoding":
        file.write_bytes(whole.decode().encode("latin-1"))
    elif fault == "capitals":
        file = file.rename(file.with_name(file.stem + file.suffix.upper()))
    elif fault == "mark":
        file.write_bytes(b"\xef\xbb\xbf" + whole)
    elif fault == "hidden":
        (file.parent / f"._{file.name}").write_bytes(b"\x00\x05\x16\x07")
        for name in (".ipynb_checkpoints", "__MACOSX"):
            (file.parent / name).mkdir()
            (file.parent / name / file.name).write_bytes(b"not data")
    elif fault in ("link", "dangling"):
        target = outside / "elsewhere"
        file.rename(target)
        file.symlink_to(target)
        if fault == "dangling":
            target.unlink()
    else:
        assert fault == "pickle"
        poison = np.array([Command(outside / "trap")], dtype=object)
        if row.name.endswith("npz"):
            with np.load(file) as found:
                names = list(found)
            with file.open("wb") as opened:
                np.savez(opened, **dict.fromkeys(names, poison))
        elif file.suffix == ".npy":
            with file.open("wb") as opened:
                np.save(opened, poison)
        else:
            file.write_bytes(pickle.dumps(Command(outside / "trap")))
    return file


@pytest.mark.parametrize(("row", "fault"), CASES)
def test_a_fault_changes_nothing_or_is_refused_by_name(tmp_path: Path, row: Format, fault: str) -> None:
    folder, outside = tmp_path / "data", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    row.write(folder)
    file = folder / row.file
    expected = read(row, folder if row.folder else file) if fault in (*HARMLESS, "encoding") else None
    file = damage(row, fault, file, outside)
    path = folder if row.folder else file
    if fault in HARMLESS:
        assert expected is not None
        assert same(read(row, path), expected)
        return
    with pytest.raises(UserError) as refused:
        read(row, path)
    assert file.name.partition(".")[0] in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (outside / "trap").exists()
    if fault == "encoding":
        assert expected is not None
        assert same(read(row, path, "latin-1"), expected)
        assert "encoding" in str(refused.value)


def test_no_two_rows_have_one_name() -> None:
    assert len({row.name for row in FORMATS}) == len(FORMATS)


def test_a_fault_that_a_row_writes_is_one_it_can_have() -> None:
    for row in FORMATS:
        assert not set(row.faults) & set(row.exempt), row.name
        assert {"shapes", "numbers"} <= set(row.faults) | set(row.exempt), row.name


def test_every_datamodule_that_reads_a_path_has_a_row() -> None:
    read_here = {type(row.read("/nowhere", None)).__name__ for row in FORMATS}
    for entry in catalogue.datamodule_entries():
        name = entry.class_path.rpartition(".")[2]
        assert name in read_here or entry.reads.startswith(("nothing", "the data of another datamodule")), name


@pytest.mark.parametrize("name", ["../corpus.txt", "/corpus.txt", "C:\\corpus.txt", "a/../../corpus.txt"])
def test_a_member_that_leads_out_of_its_archive_is_refused(tmp_path: Path, name: str) -> None:
    from datamodules.sequence.tokens import TokenData

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(name, b"text" * 500)
    with pytest.raises(UserError, match=r"a\.zip: its member .* leads out of its folder"):
        TokenData(str(tmp_path / "a.zip")).setup("fit")
