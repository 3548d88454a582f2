"""The demo: an agent moves a shop from one cloud to another, is killed half-way, and nothing happens twice.

Rules
1. Everything in the story is real: real servers, real protocols, a real SIGKILL. Nothing that is printed is
   written in advance; it is read from the log and counted in the world.
2. Every server is its own process on a loopback port of its own, and ends when the demo ends, however it ends.
3. The agent knows nothing of the demo: no line of it prepares for the kill.

`story` runs it; `world` starts the servers and counts what was left behind; `migration` is the agent, `tools` are
its tools; `plain` is the same agent without Holdfast.
"""
