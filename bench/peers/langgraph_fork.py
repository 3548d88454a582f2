"""LangGraph: a graph whose one node is gone through `steps` times, with messages in its state, on SQLite; forked at one
of its checkpoints. Run by the Python of LangGraph's own environment.

python langgraph_fork.py FOLDER STEPS AT
"""

import json
import operator
import sqlite3
import sys
import time
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph

folder, steps, at = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
file = folder / "langgraph.db"
first: list[float] = []


class State(TypedDict):
    """What the graph carries."""

    k: int
    messages: Annotated[list[str], operator.add]


def put(state: State) -> dict[str, Any]:
    if state["k"] >= at:
        first.append(time.perf_counter())
    return {"k": state["k"] + 1, "messages": ["x" * 200]}


def way(state: State) -> str:
    return "put" if state["k"] < steps else END


def size() -> int:
    """The bytes that its tables hold."""
    kept = "SELECT ifnull(sum(length(checkpoint) + length(metadata)), 0) FROM checkpoints"
    written = "SELECT ifnull(sum(length(value)), 0) FROM writes"
    return sum(connection.execute(query).fetchone()[0] for query in (kept, written))


graph = StateGraph(State)
graph.add_node("put", put)
graph.add_edge(START, "put")
graph.add_conditional_edges("put", way)
connection = sqlite3.connect(file, check_same_thread=False)
saver = SqliteSaver(connection)
compiled = graph.compile(checkpointer=saver)
config: Any = {"configurable": {"thread_id": "w"}, "recursion_limit": steps + 10}
began = time.perf_counter()
compiled.invoke({"k": 0, "messages": []}, config, durability="sync")
making = time.perf_counter() - began
began = time.perf_counter()
known = next(state.config for state in compiled.get_state_history(config) if state.values.get("k") == at)
finding = 1000 * (time.perf_counter() - began)
before = size()
grown = 0.0
took: list[float] = []
for number in range(3):
    first.clear()
    began = time.perf_counter()
    forked = compiled.update_state(known, {"messages": [f"other {number}"]})
    paused = time.perf_counter()
    grown = size() - before
    began += time.perf_counter() - paused
    stream = compiled.stream(None, {**forked, "recursion_limit": steps + 10}, durability="sync")
    next(stream)
    took.append(1000 * (min(first) - began))
    stream.close()
    before = size()
sys.stdout.write(json.dumps({"ms": took, "bytes": grown, "find_ms": finding, "making_s": making}) + "\n")
