"""More than its share: a sandbox is held to its limits, and can be ended whatever it does."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path

import pytest

from holdfast.gateway.confinement import Confinement
from holdfast.gateway.groups import Groups, groups
from holdfast.gateway.sandbox import launch
from holdfast.workspace.freeze import begun
from tests.gateway.cell import PATH, closed, gone, needed, python, said, until

MIB = 1 << 20


@pytest.fixture(autouse=True)
def sandboxes() -> None:
    needed()


async def test_a_fork_bomb_is_bounded_and_can_be_ended() -> None:
    mark = secrets.token_hex(8)
    bomb = [*python("import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"), mark]
    confined = await launch(Confinement(processes=30), bomb, PATH, listen=closed)
    try:
        assert await asyncio.to_thread(until, lambda: len(begun(confined.pid)) >= 28)
        assert max(len(begun(confined.pid)) for _ in range(20)) <= 33
    finally:
        confined.kill()
    assert await confined.wait() == -9
    assert gone(mark)


async def test_a_program_that_asks_for_too_much_memory_is_refused_it() -> None:
    program = "try: x = bytearray(200 << 20)\nexcept MemoryError: print('refused')"
    assert await said(python(program), confinement=Confinement(memory_bytes=64 * MIB)) == (0, "refused\n")


async def test_many_processes_together_do_not_get_more_memory_than_one() -> None:
    if groups().memory is None:
        pytest.skip("no control group may be made here: memory is limited for each process only")
    program = """
import mmap, os, time
for _ in range(8):
    if os.fork() == 0:
        x = bytearray(40 << 20)
        m = mmap.mmap(-1, 40 << 20); m.write(bytes(40 << 20))
        time.sleep(60); os._exit(0)
ended = os.wait()
print("one was ended", ended[1])
"""
    code, text = await said(python(program), confinement=Confinement(memory_bytes=128 * MIB))
    assert text in {"one was ended 9\n", ""}, "the first that is ended may be the one that tells"
    assert code in {0, -9}


@pytest.mark.parametrize("folder", ["/tmp", "/dev/shm"])
async def test_temporary_files_end_at_their_limit(folder: str) -> None:
    program = f"""
import os
size = 0
try:
    with open("{folder}/x", "wb", buffering=0) as file:
        while True:
            size += file.write(bytes(1 << 20))
except OSError as error:
    print(size >> 20, error.strerror)
"""
    code, text = await said(python(program), confinement=Confinement(tmp_bytes=8 * MIB))
    assert (code, text) == (0, "8 No space left on device\n")


async def test_a_file_of_the_workspace_ends_at_its_limit(tmp_path: Path) -> None:
    program = "open('x', 'wb').write(bytes(9 << 20))"
    confinement = Confinement(workspace=tmp_path, file_bytes=8 * MIB)
    code, text = await said(python(program), confinement=confinement)
    assert (code, "File too large" in text) == (1, True)
    assert (tmp_path / "x").stat().st_size == 8 * MIB


async def test_descriptors_end_at_their_limit() -> None:
    program = """
import os
held = []
try:
    while True: held.append(os.dup(0))
except OSError as error:
    print(len(held) + 3, error.strerror)
"""
    code, text = await said(python(program), confinement=Confinement(open_files=64))
    assert (code, text) == (0, "64 Too many open files\n")


async def test_a_program_that_computes_too_long_is_ended() -> None:
    code, _text = await said(python("while True: pass"), confinement=Confinement(cpu_s=1))
    assert code == -9


async def test_a_program_cannot_widen_its_limits() -> None:
    program = """
import resource
for name in ("NPROC", "DATA", "AS", "NOFILE", "FSIZE", "CORE"):
    number = getattr(resource, "RLIMIT_" + name)
    soft, hard = resource.getrlimit(number)
    try:
        resource.setrlimit(number, (hard, hard + 1)); print(name)
    except ValueError:
        pass
"""
    assert await said(python(program)) == (0, "")


def test_where_control_groups_may_be_made_is_found_in_both_versions(tmp_path: Path) -> None:
    from holdfast.gateway.groups import found

    second = tmp_path / "unified"
    own = second / "user.slice" / "session.scope"
    own.mkdir(parents=True)
    for place, passed in ((second, "cpu memory pids"), (own.parent, "memory pids"), (own, "")):
        (place / "cgroup.subtree_control").write_text(passed + "\n")
        (place / "cgroup.procs").write_text("")
    assert found(f"0::/{own.relative_to(second)}\n", f"cgroup2 {second} cgroup2 rw 0 0\n") == Groups(
        processes=own.parent, memory=own.parent
    )
    first = tmp_path / "pids"
    first.mkdir()
    (first / "cgroup.procs").write_text("")
    assert found("8:pids:/gone\n0::/\n", f"cgroup {first} cgroup rw,pids 0 0\n") == Groups(processes=first, memory=None)
    assert found("0::/\n", "proc /proc proc rw 0 0\n") == Groups(processes=None, memory=None)


def test_a_control_group_of_version_2_gets_all_limits_in_one(tmp_path: Path) -> None:
    limits = Groups(processes=tmp_path, memory=tmp_path).limits(Confinement(processes=10, memory_bytes=5 * MIB))
    assert limits == [(os.fspath(tmp_path), {"pids.max": "13", "memory.max": str(5 * MIB)})]
