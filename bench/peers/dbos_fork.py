"""DBOS: a workflow of `steps` steps, forked at one of them. Run by the Python of DBOS's own environment.

python dbos_fork.py FOLDER STEPS AT
"""

import json
import logging
import sys
import time
from pathlib import Path

from dbos import DBOS, DBOSConfig, SetWorkflowID

folder, steps, at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
file = folder / "dbos.db"
config: DBOSConfig = {"name": "bench", "system_database_url": f"sqlite:///{file}", "log_level": "CRITICAL"}
logging.disable(logging.CRITICAL)
DBOS(config=config)
first: list[float] = []


@DBOS.step()
def put(k: int, text: str) -> str:
    if k >= at:
        first.append(time.perf_counter())
    return f"ok {k} {text}"


@DBOS.workflow()
def work() -> str:
    for k in range(steps):
        put(k, "x" * 200)
    return "done"


def size() -> int:
    return sum(each.stat().st_size for each in folder.glob("dbos.db*"))


DBOS.launch()
began = time.perf_counter()
with SetWorkflowID("w"):
    work()
making = time.perf_counter() - began
before = size()
took: list[float] = []
for _ in range(3):
    first.clear()
    began = time.perf_counter()
    handle = DBOS.fork_workflow("w", at + 1)
    handle.get_result()
    took.append(1000 * (min(first) - began))
grown = (size() - before) / 3
DBOS.destroy()
sys.stdout.write(json.dumps({"ms": took, "bytes": grown, "making_s": making}) + "\n")
