"""Programs that the gateway itself runs for an upstream (MCP servers), each in a sandbox of its own.

Rules
1. They are no more trusted than an agent: no network, no workspace, nothing of this process but three pipes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from holdfast.gateway.confinement import Confinement, own_python
from holdfast.gateway.launcher import PATH, shown_for
from holdfast.gateway.sandbox import Confined, Doors, launch


async def start_confined(
    argv: Sequence[str], environment: Mapping[str, str], *, stdin: int, stdout: int, stderr: int
) -> Confined:
    """As `kit.Start`. The program sees its interpreter, and nothing else of the machine."""
    command, shown = shown_for(argv[0])
    confinement = Confinement(workspace=None, read_only=tuple(dict.fromkeys((*shown, *own_python()))), ports=())

    async def nothing(_doors: Doors) -> None:
        return

    given = {"PATH": PATH, "HOME": "/tmp", **environment}
    return await launch(
        confinement, [command, *argv[1:]], given, listen=nothing, stdin=stdin, stdout=stdout, stderr=stderr
    )
