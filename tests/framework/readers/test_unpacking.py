"""Files unpacked up to a limit, archives that stay in their folder."""

from __future__ import annotations

import gzip
import stat
import zipfile

import pytest

from framework.errors import UserError
from framework.readers.unpacking import read_bytes, read_only_member, set_max_unpacked


@pytest.fixture
def limit():
    yield set_max_unpacked
    set_max_unpacked(8.0)


def test_gzip_by_content_and_no_further_than_the_limit(tmp_path, limit):
    (tmp_path / "a").write_bytes(gzip.compress(b"x" * 3_000_000))
    assert read_bytes(tmp_path / "a") == b"x" * 3_000_000
    limit(0.001)
    with pytest.raises(UserError, match=r"a: unpacks to more than 0\.001 GiB; .*run\.max_unpacked_gib"):
        read_bytes(tmp_path / "a")


@pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b[:12], lambda b: b[:30] + b"\0\0" + b[32:]])
def test_broken_gzip(tmp_path, damage):
    (tmp_path / "a.gz").write_bytes(damage(gzip.compress(bytes(range(256)) * 40)))
    with pytest.raises(UserError, match=r"a\.gz: the gzip stream is truncated or broken"):
        read_bytes(tmp_path / "a.gz")


def test_a_bomb_in_a_zip_is_not_unpacked(tmp_path, limit):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", bytes(3_000_000))
    assert len(read_only_member(tmp_path / "a.zip")) == 3_000_000
    limit(0.001)
    with pytest.raises(UserError, match="unpacks to more"):
        read_only_member(tmp_path / "a.zip")


def test_one_file_without_what_macos_adds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/", b"")
        archive.writestr("folder/a.txt", b"text")
        archive.writestr("__MACOSX/folder/._a.txt", b"\0\5")
        archive.writestr("folder/.DS_Store", b"\0")
    assert read_only_member(tmp_path / "a.zip") == b"text"
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("b.txt", b"more")
    with pytest.raises(UserError, match="holds 2 files; expected one"):
        read_only_member(tmp_path / "a.zip")


def test_a_link_in_an_archive(tmp_path):
    link = zipfile.ZipInfo("a.txt")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(UserError, match=r"a\.zip: its member 'a.txt' is a link"):
        read_only_member(tmp_path / "a.zip")


def test_what_is_no_archive(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"a\.zip: not a zip archive that can be read"):
        read_only_member(tmp_path / "a.zip")
