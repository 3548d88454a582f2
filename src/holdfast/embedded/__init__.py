"""Everything in one process: the agent, the gateway and the store. For development and trusted code.

This package alone joins agent and gateway. It guards against crashes, not against a hostile agent.
"""

from holdfast.embedded.house import House, open_store

__all__ = ["House", "open_store"]
