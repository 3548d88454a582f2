"""How much is in a workspace: what is too much is found before anything of it is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from holdfast.errors import Misuse, Unreadable
from holdfast.workspace import Budget
from holdfast.workspace.ignore import Ignore
from holdfast.workspace.place import DEEPEST

SMALL = Budget(entries=10, size_bytes=100_000)


def fill(folder: Path, many: int) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(many):
        (folder / str(number)).touch()


@pytest.mark.parametrize(("many", "fits"), [(9, True), (10, False)])
def test_entries_are_counted_with_their_directory(tmp_path: Path, many: int, fits: bool) -> None:
    fill(tmp_path / "a", many)
    if fits:
        SMALL.check(tmp_path, Ignore(()))
        return
    with pytest.raises(Misuse, match="more than 10 entries"):
        SMALL.check(tmp_path, Ignore(()))


def test_bytes_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(60_000))
    SMALL.check(tmp_path, Ignore(()))
    (tmp_path / "b").write_bytes(bytes(60_000))
    with pytest.raises(Misuse, match="100000 bytes"):
        SMALL.check(tmp_path, Ignore(()))


def test_a_hole_in_a_large_file_costs_nothing(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        file.truncate(1 << 40)
    SMALL.check(tmp_path, Ignore(()))


def test_many_small_files_that_are_holes_are_read_whole_and_so_they_count(tmp_path: Path) -> None:
    for number in range(5):
        with (tmp_path / str(number)).open("wb") as file:
            file.truncate(30_000)
    with pytest.raises(Misuse, match="100000 bytes"):
        SMALL.check(tmp_path, Ignore(()))


def test_what_is_ignored_does_not_count(tmp_path: Path) -> None:
    fill(tmp_path / "cache", 50)
    SMALL.check(tmp_path, Ignore(("cache/",)))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", 50)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "link").symlink_to(tmp_path / "elsewhere")
    (inner / "loop").symlink_to(inner)
    SMALL.check(inner, Ignore(()))


def test_directories_that_are_too_deep_are_said_to_be(tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(DEEPEST + 2):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    with pytest.raises(Unreadable, match="nested deeper"):
        Budget(entries=1000, size_bytes=1).check(tmp_path, Ignore(()))
