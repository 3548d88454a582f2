"""Agents that work in files. Their world is the directory they stand in, as that of the crew.

python -m tests.fleet.carriers URL RUN     leads one life of `builder`, and is killed when it is to place its second
                                           checkpoint, whose files are outside already
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from holdfast import Run, agent, open_store
from tests.fleet.crew import _while, write
from tests.workspace.census import census

SIZE = 300_000


def build(folder: Path, part: int) -> None:
    """One part more: a large file, a small one, a link, a mode, and an older file that changes; one goes."""
    (folder / f"part-{part}").write_bytes(random.Random(part).randbytes(SIZE))
    (folder / "deep" / str(part)).mkdir(parents=True)
    (folder / "deep" / str(part) / "note").write_text(f"part {part}\n")
    (folder / "deep" / str(part) / "note").chmod(0o640)
    (folder / f"link-{part}").symlink_to(f"deep/{part}/note")
    (folder / "log").write_text("".join(f"{number}\n" for number in range(part + 1)))
    (folder / f"link-{part - 2}").unlink(missing_ok=True)


def told(name: str, folder: Path) -> None:
    """What is in a directory, for the test to compare."""
    Path(name).write_text(repr(sorted(census(folder).items())))


@agent(state=list[int], workspace=True)
async def builder(run: Run, task: Any) -> int:
    """So many parts, each with a checkpoint; what it finds when it begins, and has at each checkpoint, is told. What it
    does beside them is lost with it."""
    assert run.workspace is not None
    begun = len(run.state)
    told(f"found-{begun}", run.workspace)
    for part in range(begun, task):
        write("at", part)
        (run.workspace / "half").write_text("half a part")
        await _while(f"stop-{part}")
        (run.workspace / "half").unlink()
        build(run.workspace, part)
        run.state.append(part)
        await run.checkpoint()
        told(f"kept-{part + 1}", run.workspace)
    return len(run.state)


@agent
async def idler(run: Run, task: Any) -> str:
    """Needs no files."""
    return "done"


async def die(url: str, run: str) -> None:
    from holdfast.store.postgres import PostgresStore
    from holdfast.store.postgres_batch import Job
    from tests.fleet import carriers  # by the name by which others know the agent

    async with open_store(url) as house:
        store = house.store
        assert isinstance(store, PostgresStore)
        soon, large = store.committer.soon, iter(range(1, 100))

        def interrupted(job: Job) -> asyncio.Future[object]:
            if any(row[1] >= 4 for row in job.rows) and next(large) == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            return soon(job)

        store.committer.soon = interrupted  # type: ignore[method-assign]
        await house.arun(carriers.builder, 3, id=run)


if __name__ == "__main__":
    asyncio.run(die(*sys.argv[1:]))
