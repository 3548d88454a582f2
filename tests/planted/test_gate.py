"""The gate: each planted bug is found by the test that is said to find it, and by an expectation, not by an accident.

The source is copied, changed at one place, and put before the real one for a pytest of its own; the processes that the
crash tests start see the same copy.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.util import cache_from_source
from pathlib import Path

import pytest

from tests.planted.bugs import BUGS, Bug

ROOT = Path(__file__).parent.parent.parent
SRC = ROOT / "src"
PAGE = ROOT / "docs" / "planted-bugs.md"
AT_ONCE = 2
OPTIONS = ("-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-p", "no:anyio")
# What a bug is not found by: a change that does not even run.
ACCIDENT = re.compile(
    r"^.*\b(?:SyntaxError|ImportError|ModuleNotFoundError|NameError|AttributeError|TypeError): .*$", re.MULTILINE
)


def run(source: Path, scratch: Path, *node_ids: str) -> subprocess.CompletedProcess[str]:
    """A pytest of its own, in which `holdfast` is what lies in `source`."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, *node_ids],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(source), str(ROOT))),
            "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def planted(bug: Bug, folder: Path) -> Path:
    """A copy of the source with the bug in it."""
    half_written = shutil.ignore_patterns("*.pyc.*")  # what another process is just compiling
    shutil.copytree(SRC / "holdfast", folder / "holdfast", ignore=half_written)
    file = folder / "holdfast" / bug.file
    text = file.read_text()
    assert text.count(bug.old) == 1, (
        f"{bug.file} has the place of `{bug.name}` {text.count(bug.old)} times: move the bug"
    )
    changed = text.replace(bug.old, bug.new)
    compile(changed, bug.file, "exec")
    file.write_text(changed)
    Path(cache_from_source(str(file))).unlink(missing_ok=True)
    return folder


def found(bug: Bug, folder: Path) -> subprocess.CompletedProcess[str]:
    return run(planted(bug, folder / "src"), folder, bug.found_by)


@pytest.fixture(scope="module")
def trials(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[subprocess.CompletedProcess[str]]]]:
    """What comes of the bugs that this pytest asks for, a few at a time."""
    chosen = [item.name for item in request.session.items]
    bugs = [bug for bug in BUGS if any(f"[{bug.name}]" in name for name in chosen)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {bug.name: pool.submit(found, bug, tmp_path_factory.mktemp("planted")) for bug in bugs}
        pool.shutdown(cancel_futures=True)


def test_without_the_bugs_every_test_passes(tmp_path: Path) -> None:
    node_ids = sorted({bug.found_by for bug in BUGS})
    ran = run(SRC, tmp_path, *node_ids)
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"^\d+ passed in ", ran.stdout, re.MULTILINE), f"one of them was left out: {ran.stdout}"


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_planted_bug_is_found(trials: dict[str, Future[subprocess.CompletedProcess[str]]], bug: Bug) -> None:
    ran = trials[bug.name].result()
    assert ran.returncode == 1, f"nobody found it: {ran.stdout}{ran.stderr}"
    assert re.search(r"^1 failed\b(?!.*error)", ran.stdout, re.MULTILINE), ran.stdout
    assert not ACCIDENT.search(ran.stdout), ran.stdout


def test_every_bug_has_a_name_of_its_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    assert len({(bug.file, bug.old, bug.new) for bug in BUGS}) == len(BUGS)


def test_the_page_tells_of_every_bug_and_of_no_other() -> None:
    rows = re.findall(
        r"^\| (?P<name>[^|]+) \| `src/holdfast/(?P<file>[^`]+)` \| `(?P<test>[^`]+)` \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    assert [tuple(row) for row in rows] == [(bug.name, bug.file, bug.found_by.partition("[")[0]) for bug in BUGS]
