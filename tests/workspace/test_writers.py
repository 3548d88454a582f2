"""Files that are written while they are captured, and processes that are held still."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from holdfast.errors import Busy
from holdfast.workspace import Packs, Workspace, frozen
from tests.workspace.conftest import Place

# Writes the same number into two files, one after the other, forever: a capture in between would find two numbers.
PAIR = """
import os, sys, itertools
from pathlib import Path
root = Path(sys.argv[1])
for number in itertools.count():
    for name in ("first", "second"):
        with open(root / name, "r+b" if number else "wb") as file:
            file.write(b"%012d" % number * 2000)
    if not number:
        print("begun", flush=True)
"""


@contextmanager
def running(program: str, root: Path) -> Generator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", program, str(root)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.communicate()


BLOCK, ORDER = 150_000, [7, 2, 18, 11, 0, 15, 5, 13, 9, 1, 19, 4, 16, 8, 3, 12, 17, 6, 14, 10]


def test_a_file_that_changes_while_it_is_read_is_captured_as_it_was_at_one_moment(place: Place) -> None:
    """Its blocks are written in an order that jumps about: who reads them one after another, meanwhile, finds later
    writes without earlier ones."""
    path = place.root / "file"
    path.write_bytes(bytes(len(ORDER) * BLOCK))
    stop = threading.Event()

    def write() -> None:
        fd = os.open(path, os.O_WRONLY)
        for number in range(1, 4001):
            for block in ORDER:
                os.pwrite(fd, bytes([number % 256]) * BLOCK, block * BLOCK)
            if number % 40 == 0 and stop.wait(0.04):
                break
        os.close(fd)

    writer = threading.Thread(target=write)
    writer.start()
    trees: list[bytes] = []
    while writer.is_alive() and len(set(trees)) < 20:
        with contextlib.suppress(Busy):
            trees.append(place.files.capture().tree)
    stop.set()
    writer.join()
    assert len(set(trees)) > 3, "nothing was written meanwhile: this shows nothing"
    made = place.folder / "made"
    for tree in dict.fromkeys(trees):
        place.again(root=made).restore(tree)
        content = (made / "file").read_bytes()
        ends = content[BLOCK - 1 :: BLOCK]  # a block counts when its last byte is written
        newest = ends[ORDER[0]]
        assert all((newest - end) % 256 in (0, 1) for end in ends)
        written = {number for number, end in enumerate(ends) if end == newest}
        assert written == set(ORDER[: len(written)]), "a state that never existed"


def test_a_file_that_never_rests_is_busy_and_named(place: Place) -> None:
    program = (
        "import sys, os\nfrom pathlib import Path\n"
        "fd = os.open(Path(sys.argv[1]) / 'restless', os.O_RDWR | os.O_CREAT)\n"
        "os.truncate(fd, 8 << 20)\nprint('begun', flush=True)\n"
        "while True: os.pwrite(fd, os.urandom(100), 0)\n"
    )
    with running(program, place.root), pytest.raises(Busy, match="`restless` keeps changing"):
        capture_until_refused(place)
    place.files.capture()


def capture_until_refused(place: Place) -> None:
    """A busy machine may let a capture slip through."""
    for _ in range(100):
        place.files.capture()


def test_frozen_processes_leave_no_state_that_never_existed(place: Place) -> None:
    """Without the freezing the two files differ by one for about half the time."""
    with running(PAIR, place.root) as writer:
        trees: list[bytes] = []
        while len(trees) < 15:
            with frozen([writer.pid]):
                trees.append(place.files.capture().tree)
            time.sleep(0.003)
    assert len(set(trees)) > 3, "the writer never came to write: this shows nothing"
    for number, tree in enumerate(dict.fromkeys(trees)):
        made = place.folder / f"restored-{number}"
        place.again(root=made).restore(tree)
        first, second = ((made / name).read_bytes() for name in ("first", "second"))
        numbers = {one[at : at + 12] for one in (first, second) for at in range(0, 24_000, 12)}
        # The freeze may fall between the two writes, or within one: there are the last and the one before, no others.
        assert len(numbers) <= 2
        assert int(first[:12]) - int(second[:12]) in (0, 1)


COUNTER = """
import os, sys, threading, itertools
from pathlib import Path
def count(path):
    with path.open("wb", buffering=0) as file:
        for number in itertools.count():
            os.pwrite(file.fileno(), b"%09d" % number, 0)
for name in "ab":
    threading.Thread(target=count, args=(Path(sys.argv[1]) / name,)).start()
print("begun", flush=True)
"""


def read(root: Path) -> list[str]:
    return [(root / name).read_text() if (root / name).exists() else "" for name in "ab"]


def goes_on(root: Path) -> bool:
    before, until = read(root), time.monotonic() + 30
    while read(root) == before and time.monotonic() < until:
        time.sleep(0.01)
    return read(root) != before


def test_nothing_of_a_frozen_process_runs_and_then_it_goes_on(tmp_path: Path) -> None:
    with running(COUNTER, tmp_path) as process:
        with frozen([process.pid, process.pid]):
            before = read(tmp_path)
            time.sleep(0.1)
            assert read(tmp_path) == before
        assert goes_on(tmp_path)


def test_a_process_that_stood_still_before_is_not_set_going(tmp_path: Path) -> None:
    with running(COUNTER, tmp_path) as process:
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        before = read(tmp_path)
        with frozen([process.pid]):
            pass
        time.sleep(0.1)
        assert read(tmp_path) == before


def test_a_process_that_has_ended_is_no_error() -> None:
    process = subprocess.Popen(["/bin/sh", "-c", "exit"])
    process.wait()
    with frozen([process.pid]):
        pass


def test_who_dies_while_others_are_frozen_does_not_leave_them_so(tmp_path: Path) -> None:
    program = (
        "import os, sys; from holdfast.workspace import frozen\n"
        "with frozen([int(sys.argv[1])]): os.kill(os.getpid(), 9)\n"
    )
    with running(COUNTER, tmp_path) as process:
        died = subprocess.run([sys.executable, "-c", program, str(process.pid)], check=False, timeout=60)
        assert died.returncode == -signal.SIGKILL
        assert goes_on(tmp_path)


def test_an_error_inside_lets_the_processes_go_on(tmp_path: Path) -> None:
    with running(COUNTER, tmp_path) as process:
        with pytest.raises(ZeroDivisionError), frozen([process.pid]):
            raise ZeroDivisionError
        assert goes_on(tmp_path)


def test_a_change_right_after_a_capture_is_seen_by_the_next(tmp_path: Path) -> None:
    """Same size, at once, again and again: the clock of the file system is too coarse to tell one from the next."""
    root = tmp_path / "tree"
    root.mkdir()
    files = Workspace(root, Packs(tmp_path / "store"))
    path = root / "file"
    seen: set[bytes] = set()
    for number in range(100, 160):
        path.write_text(str(number))
        seen.add(files.capture().tree)
    assert len(seen) == 60
