"""What the start of a sandboxed process costs over the bare process: interleaved, quiet, and beside busy processes.

    python -m bench.sandbox [--launches 60] [--busy 2]

Measured from asking until the program has said its first word, which it does at once. Every launch must work: one that
does not is counted, and makes the exit code 1.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator

from holdfast.errors import HoldfastError
from holdfast.gateway.confinement import Confinement
from holdfast.gateway.sandbox import Doors, launch, warm

CLASS = Confinement(ports=(8080, 443), dns=True)
SPEAK = ["/bin/echo", "here"]


async def bare() -> float:
    """Milliseconds from asking until a bare process has spoken."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(*SPEAK, stdout=subprocess.PIPE)
    assert process.stdout is not None, "it was asked for"
    await process.stdout.readline()
    took_ms = (time.perf_counter() - began) * 1000
    await process.wait()
    return took_ms


async def confined() -> float:
    """The same in a sandbox with five doors."""
    held: list[object] = []

    async def listen(doors: Doors) -> None:
        held.extend(door for some in doors.values() for door in some)

    read, write = os.pipe()
    spoken = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().add_reader(read, lambda: spoken.done() or spoken.set_result(None))
    try:
        began = time.perf_counter()
        try:
            started = await launch(CLASS, SPEAK, {"PATH": "/usr/bin:/bin"}, listen=listen, stdout=write)
        finally:
            os.close(write)
        await spoken
        took_ms = (time.perf_counter() - began) * 1000
        said = os.read(read, 100)
    finally:
        asyncio.get_running_loop().remove_reader(read)
        os.close(read)
    code = await started.wait()
    if (code, said) != (0, b"here\n"):
        raise HoldfastError(f"it ended with {code} and said {said!r}")
    return took_ms


@contextlib.contextmanager
def crowd(size: int) -> Generator[None]:
    """So many processes that compute without a pause."""
    others = [subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"]) for _ in range(size)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


async def measured(launches: int) -> tuple[dict[str, list[float]], int]:
    """Times of both, one after the other, and how many failed."""
    took: dict[str, list[float]] = {"bare": [], "sandbox": []}
    ways: dict[str, Callable[[], Awaitable[float]]] = {"bare": bare, "sandbox": confined}
    failed = 0
    for _ in range(launches):
        for name, way in ways.items():
            try:
                took[name].append(await way())
            except HoldfastError as error:
                failed += 1
                print(f"failed: {error}", file=sys.stderr)
    return took, failed


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--launches", type=int, default=60)
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="processes that compute beside it")
    given = parser.parse_args()
    began = time.perf_counter()
    warm()
    asyncio.run(confined())
    print(f"first launch of a process, with the start of its warden: {(time.perf_counter() - began) * 1000:.1f} ms\n")
    print(f"{'':8} {'':8} {'least':>8} {'median':>8} {'95 %':>8} {'most':>8}   ms")
    wrong = 0
    for name, size in (("quiet", 0), ("busy", given.busy)):
        with crowd(size):
            took, failed = asyncio.run(measured(given.launches))
        wrong += failed
        for way, times in took.items():
            row(name, way, sorted(times))
        over = statistics.median(took["sandbox"]) - statistics.median(took["bare"])
        print(f"{name:8} over the bare process, by medians: {over:.1f} ms; failed: {failed} of {given.launches}\n")
    return 1 if wrong else 0


def row(load: str, way: str, times: list[float]) -> None:
    """One line of the table."""
    late = times[min(len(times) - 1, round(len(times) * 0.95))]
    print(f"{load:8} {way:8} {times[0]:8.1f} {statistics.median(times):8.1f} {late:8.1f} {times[-1]:8.1f}")


if __name__ == "__main__":
    sys.exit(main())
