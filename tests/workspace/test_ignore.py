"""What a pattern covers, as a table."""

from __future__ import annotations

import pytest

from holdfast.errors import Misuse
from holdfast.workspace.ignore import Ignore

TABLE = [
    # pattern        covers                                    does not cover
    ("*.pyc", "a.pyc d/a.pyc d/e/.pyc", "a.py a.pyc.txt pyc"),
    ("build/", "build/ d/build/", "build d/build build.txt/ rebuild/"),
    ("/out", "out out/", "d/out outer"),
    ("docs/tmp", "docs/tmp docs/tmp/", "x/docs/tmp tmp docs"),
    ("**/cache/*.bin", "cache/x.bin a/cache/x.bin a/b/cache/.bin", "cache/d/x.bin cachex/x.bin xcache/x.bin"),
    ("a/**/z", "a/z a/b/z a/b/c/z", "az a/bz b/a/z"),
    ("logs/**", "logs/a logs/a/b", "logs log/a"),
    ("?.txt", "a.txt d/b.txt", ".txt ab.txt"),
    ("[ab]*.c", "a.c bx.c d/a.c", "c.c xa.c"),
    ("[!ab].c", "c.c", "a.c cc.c"),
    ("a.b", "a.b", "axb"),
    ("(x|y)+", "(x|y)+", "x y xx"),
    ("*", "a a/b .c", ""),
]


@pytest.mark.parametrize(("pattern", "covered", "free"), TABLE, ids=[row[0] for row in TABLE])
def test_a_pattern_covers_what_the_table_says(pattern: str, covered: str, free: str) -> None:
    ignore = Ignore([pattern])
    told = {path: ignore.covers(path.rstrip("/"), folder=path.endswith("/")) for path in (covered + " " + free).split()}
    assert told == {**dict.fromkeys(covered.split(), True), **dict.fromkeys(free.split(), False)}


def test_nothing_is_ignored_unless_somebody_says_so() -> None:
    assert not any(Ignore().covers(path, folder=folder) for path in ("a", ".git", "x/y") for folder in (True, False))


@pytest.mark.parametrize("pattern", ["", "/", "..", "a/../b", "a\0b"])
def test_a_pattern_that_names_nothing_is_refused(pattern: str) -> None:
    with pytest.raises(Misuse, match="not a pattern"):
        Ignore([pattern])


def test_a_pattern_cannot_take_forever() -> None:
    assert not Ignore(["*a*a*a*a*a*b"]).covers("a" * 40, folder=False)
