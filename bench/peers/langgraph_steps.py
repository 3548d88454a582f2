"""LangGraph: so many entrypoints in threads of one process, each of which calls tasks, `durability="sync"`, with the
saver of the database. Run by the Python of LangGraph's own environment.

python langgraph_steps.py URL RUNS SECONDS SERVER
"""

import contextlib
import sqlite3
import threading
import time
from typing import Any

from langgraph.func import entrypoint, task
from window import WARM, asked, text

url, window = asked()


@task
def put(number: int, body: str) -> str:
    return text(number, 1000)


def saver(closing: contextlib.ExitStack) -> Any:
    """The one for the database, as its documentation makes it."""
    if url.startswith("sqlite:///"):
        from langgraph.checkpoint.sqlite import SqliteSaver

        return SqliteSaver(sqlite3.connect(url.removeprefix("sqlite:///"), check_same_thread=False))
    from langgraph.checkpoint.postgres import PostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import ConnectionPool

    named = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool: Any = closing.enter_context(ConnectionPool(url, kwargs=named, min_size=1, max_size=window.runs, open=True))
    made = PostgresSaver(pool)
    made.setup()
    return made


with contextlib.ExitStack() as closing:

    @entrypoint(checkpointer=saver(closing))
    def work(run: int) -> int:
        for number in range(WARM):
            put(number, text(number, 300)).result()
        window.wait(run)
        number = WARM
        while window.open():
            put(number, text(number, 300)).result()
            window.counts[run] += 1
            number += 1
        return number

    def one(run: int) -> None:
        """One thread of the conversation."""
        named: Any = {"configurable": {"thread_id": f"w-{time.time_ns()}-{run}"}}
        work.invoke(run, named, durability="sync")

    threads = [threading.Thread(target=one, args=(run,)) for run in range(window.runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
window.tell()
