"""A sandbox lives no longer than the process that launched it, however that ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from holdfast.gateway.confinement import Confinement
from holdfast.gateway.groups import groups
from holdfast.gateway.sandbox import Doors, launch
from holdfast.workspace.freeze import begun
from tests.gateway.cell import PATH, alive, closed, gateway, gone, needed, of_process, said, sleeper, until

GATEWAY = """
import asyncio, sys
from holdfast.gateway.confinement import Confinement
from holdfast.gateway.sandbox import launch
from tests.gateway.cell import PATH, closed, sleeper

async def stuck(doors):
    await closed(doors)
    await asyncio.sleep(1000)

async def main():
    confined = await launch(Confinement(), sleeper(MARK), PATH, listen=LISTEN)
    await confined.wait()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def sandboxes() -> None:
    needed()


@contextlib.contextmanager
def launched(listen: str, *, ordinary: bool = False) -> Generator[tuple[int, str]]:
    """A gateway with a sandbox: its pid, and the mark of the sandbox's processes."""
    mark = secrets.token_hex(8)
    program = GATEWAY.replace("MARK", repr(mark)).replace("LISTEN", listen)
    with gateway(program, ordinary=ordinary) as process:
        try:
            yield process.pid, mark
        finally:
            process.kill()
            process.communicate()


def runs(mark: str) -> bool:
    """The program itself, and not only bubblewrap before it."""
    return any(not of_process(pid, "cmdline").startswith(b"bwrap") for pid in alive(mark))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sandbox_ends_with_its_gateway(number: int) -> None:
    with launched("closed") as (pid, mark):
        assert until(lambda: runs(mark))
        os.kill(pid, number)
        assert gone(mark)


def test_no_control_group_is_left_of_a_sandbox_that_ended_with_its_gateway() -> None:
    with launched("closed") as (pid, mark):
        assert until(lambda: runs(mark))
        made = in_groups(pid)
        if not made:
            pytest.skip("no control group may be made here")
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: not any(path.exists() for path in made))


@pytest.mark.root
def test_a_sandbox_ends_with_the_gateway_of_an_ordinary_user() -> None:
    with launched("closed", ordinary=True) as (pid, mark):
        assert until(lambda: runs(mark))
        os.kill(pid, signal.SIGKILL)
        assert gone(mark)


def test_a_sandbox_that_still_waits_ends_with_its_gateway() -> None:
    with launched("stuck") as (pid, mark):
        assert until(lambda: len(alive(mark)) >= 2)
        os.kill(pid, signal.SIGKILL)
        assert gone(mark)


async def test_a_sandbox_ends_with_its_warden_and_the_next_has_a_new_one() -> None:
    mark = secrets.token_hex(8)
    confined = await launch(Confinement(), sleeper(mark), PATH, listen=closed)
    os.kill(warden(), signal.SIGKILL)
    assert await confined.wait() == -9
    assert gone(mark)
    assert await said(["echo", "again"]) == (0, "again\n")


async def test_a_sandbox_dies_with_its_bubblewrap() -> None:
    mark = secrets.token_hex(8)
    confined = await launch(Confinement(), sleeper(mark), PATH, listen=closed)
    outer = next(pid for pid in begun(os.getpid()) if mark.encode() in of_process(pid, "cmdline").split(b"\0"))
    assert outer != confined.pid
    os.kill(outer, signal.SIGKILL)
    assert await confined.wait() == -9
    assert gone(mark)


def warden(gateway: int | None = None) -> int:
    return next(pid for pid in begun(gateway or os.getpid()) if b"warden.py" in of_process(pid, "cmdline"))


def test_a_sandbox_outlives_the_thread_that_launched_it() -> None:
    """The kernel kills what a thread has started when that thread ends; here nothing hangs on it."""
    mark = secrets.token_hex(8)
    held: list[object] = []

    async def start() -> None:
        held.append(await launch(Confinement(), sleeper(mark), PATH, listen=closed))

    starter = threading.Thread(target=lambda: asyncio.run(start()))
    starter.start()
    starter.join()
    try:
        assert until(lambda: runs(mark))
        assert asyncio.run(said(["echo", "x"])) == (0, "x\n")
        assert runs(mark)
    finally:
        held[0].kill()  # type: ignore[attr-defined]
    assert gone(mark)


async def test_a_gateway_keeps_no_descriptor_and_no_control_group_of_a_sandbox_that_ended() -> None:
    async def listen(doors: Doors) -> None:
        await closed(doors)

    await said(["true"], listen=listen)
    before = len(os.listdir("/proc/self/fd")), len(in_groups()), len(os.listdir(f"/proc/{warden()}/fd"))
    for _ in range(10):
        await said(["true"], listen=listen)
    assert until(lambda: len(os.listdir(f"/proc/{warden()}/fd")) <= before[2])
    assert len(os.listdir("/proc/self/fd")) <= before[0]
    assert len(in_groups()) <= before[1] + 1  # the last one may be let go of by the next launch


def in_groups(gateway: int | None = None) -> list[Path]:
    """The control groups of the warden of a gateway, or of this process."""
    places = {place for place in (groups().processes, groups().memory) if place}
    return [path for place in places for path in Path(place).glob(f"holdfast-{warden(gateway)}-*")]


@pytest.mark.soak
async def test_every_launch_of_many_works() -> None:
    for number in range(660):
        assert await said(["echo", str(number)]) == (0, f"{number}\n")


STARTER = """
import asyncio
from holdfast.gateway.confinement import Confinement
from holdfast.gateway.sandbox import launch
from tests.gateway.cell import PATH, closed, sleeper

async def always():
    while True:
        confined = await launch(Confinement(), sleeper(MARK), PATH, listen=closed)
        await asyncio.sleep(0.02)
        confined.kill()
        await confined.wait()

async def main():
    print("begun", flush=True)
    await asyncio.gather(always(), always(), always())

asyncio.run(main())
"""


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(90))
def test_nothing_is_left_whoever_is_killed_at_whatever_moment(seed: int) -> None:
    """The gateway, the warden or both, while sandboxes are made and ended all the time; every other as nobody."""
    chance, mark = random.Random(seed), secrets.token_hex(8)
    ordinary = os.geteuid() == 0 and seed % 2 == 1
    with gateway(STARTER.replace("MARK", repr(mark)), ordinary=ordinary) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "begun\n"
            time.sleep(chance.uniform(0, 0.25))
            for pid in chance.choice([[process.pid], wardens(process.pid), [process.pid, *wardens(process.pid)]]):
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        finally:
            process.kill()
            process.communicate()
    assert gone(mark)


def wardens(parent: int) -> list[int]:
    """The warden of a process, but not the makers of doors, which it has begun."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(pid) for pid in children if b"warden.py" in of_process(int(pid), "cmdline")]


def test_a_process_whose_warden_cannot_start_ends_without_a_word() -> None:
    program = (
        "import contextlib, sys\n"
        "sys.executable = '/nowhere/python'\n"
        "from holdfast.gateway import sandbox\n"
        "with contextlib.suppress(OSError):\n"
        "    sandbox.warm()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
