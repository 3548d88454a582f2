"""DBOS: so many workflows in one process, each of which takes steps. Run by the Python of DBOS's own environment.

python dbos_steps.py URL RUNS SECONDS SERVER
"""

import logging
import time

from dbos import DBOS, DBOSConfig, SetWorkflowID
from window import WARM, asked, text

url, window = asked()
config: DBOSConfig = {"name": "bench", "system_database_url": url, "log_level": "CRITICAL"}
logging.disable(logging.CRITICAL)
DBOS(config=config)


@DBOS.step()
def put(number: int, body: str) -> str:
    return text(number, 1000)


@DBOS.workflow()
def work(run: int) -> None:
    for number in range(WARM):
        put(number, text(number, 300))
    window.wait(run)
    number = WARM
    while window.open():
        put(number, text(number, 300))
        window.counts[run] += 1
        number += 1


DBOS.launch()
handles = []
for run in range(window.runs):
    with SetWorkflowID(f"w-{time.time_ns()}-{run}"):
        handles.append(DBOS.start_workflow(work, run))
for handle in handles:
    handle.get_result()
window.tell()
DBOS.destroy()
