"""Folders of users: links, hidden files, names of two Unicode forms."""

from __future__ import annotations

import pytest

from framework.errors import UserError
from framework.readers.listing import has_suffix, list_files, list_folders


def test_links_are_followed_and_hidden_files_left_out(tmp_path):
    folder, outside = tmp_path / "data", tmp_path / "outside"
    for path in (folder / "a", folder / ".ipynb_checkpoints", folder / "__MACOSX" / "a", outside):
        path.mkdir(parents=True)
        (path / "x.PNG").touch()
    for name in ("._x.png", "notes.txt"):
        (folder / "a" / name).touch()
    (folder / "linked").symlink_to(outside)
    (folder / "y.png").symlink_to(outside / "x.PNG")
    found = list_files(folder, (".png",))
    assert [str(file.relative_to(folder)) for file in found.files] == ["a/x.PNG", "linked/x.PNG", "y.png"]
    assert (found.hidden, found.others, found.links) == (3, 1, 1)
    assert found.left_out() == "3 hidden left out, 1 of other kinds left out, 1 linked folders followed"
    assert [file.name for file in list_files(folder, (".png",), deep=False).files] == ["y.png"]


def test_links_without_end_and_to_nothing(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"a/up: a link to a folder above it"):
        list_files(tmp_path, (".png",))
    (tmp_path / "a" / "up").unlink()
    (tmp_path / "a" / "x.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"x\.png: a link to a file that is not there"):
        list_files(tmp_path, (".png",))
    (tmp_path / "a" / "x.png").unlink()
    (tmp_path / "dog").symlink_to(tmp_path / "unmounted")
    for read in (list_folders, lambda folder: list_files(folder, (".png",))):
        with pytest.raises(UserError, match=r"dog: a link to a folder that is not there .*unmounted"):
            read(tmp_path)
    with pytest.raises(UserError, match=r"nowhere: cannot be read"):
        list_files(tmp_path / "nowhere", (".png",))


def test_folders_by_name_in_one_unicode_form(tmp_path):
    (tmp_path / "e\u0301te\u0301").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / "file").touch()
    assert list(list_folders(tmp_path)) == ["\u00e9t\u00e9"]
    (tmp_path / "\u00e9t\u00e9").mkdir()
    with pytest.raises(UserError, match=r"two folders named 'été', which differ only in their Unicode form"):
        list_folders(tmp_path)


@pytest.mark.parametrize(
    ("name", "suffixes", "found"),
    [
        ("a.PNG", (".png",), True),
        ("a.csv.GZ", (".csv.gz",), True),
        ("a.csv.gz", (".csv",), False),
        ("enwik8", ("", ".txt"), True),
        ("a.b", ("", ".txt"), False),
    ],
)
def test_suffixes(name, suffixes, found):
    assert has_suffix(name, suffixes) == found
