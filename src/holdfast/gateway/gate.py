"""Who stands at a door, with which right, and what may be reached from there.

Rules
1. A listener of a run is reached from the run's own sandbox only: who comes there without a handle has the run's own
   right. Everywhere else, and wherever a handle is shown, the handle says it; a wrong one is refused.
2. A right that is revoked loses its open connections at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from holdfast.core.canonical import JSON
from holdfast.errors import BadCall, HoldfastError, Refused
from holdfast.gateway.rights import PREFIX, Right, run_of
from holdfast.gateway.upstreams import Prepared, System
from holdfast.gateway.ward import Ward
from holdfast.gateway.wards import Wards

NONE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Visit:
    """Somebody at a door: the run that it is, and the right that it has shown."""

    ward: Ward
    right: Right
    door: str


class Gate:
    """The declared systems and the runs of one gateway. `kinds`: of what kind each system is; `hosts`: which system
    stands behind a host (`HOST:PORT`); `strict`: agents whose programs must always show a handle."""

    def __init__(
        self,
        wards: Wards,
        systems: Mapping[str, System],
        *,
        kinds: Mapping[str, str] = NONE,
        hosts: Mapping[str, str] = NONE,
        strict: frozenset[str] = frozenset(),
    ) -> None:
        self.wards = wards
        self.systems = systems
        self.kinds = kinds
        self._hosts = hosts
        self._strict = strict
        self._inside: dict[Right, set[asyncio.Task[object]]] = {}

    def visit(self, run: str | None, handle: str | None, door: str) -> Visit:
        """Who comes to a door. `run`: whose listener it is, None for one that is shared. Raises Refused."""
        shown = run_of(handle) if handle is not None else None
        if handle is not None and (
            shown is None
            or (run is not None and not hmac.compare_digest(shown.encode("utf-8", "surrogatepass"), run.encode()))
        ):
            raise Refused("the handle is of no capability of this run")
        name = shown if run is None else run
        taken = None if name is None else self.wards.by_run.get(name)
        if taken is None:
            raise Refused("no capability was shown" if name is None else "the run is not taken up here")
        if handle is not None:
            return Visit(taken.ward, taken.ward.rights.shown(handle, door), door)
        if taken.ward.agent in self._strict:
            raise Refused("no capability was shown", fix="send the handle: Authorization: Bearer …")
        taken.ward.rights.check(taken.right, door)
        return Visit(taken.ward, taken.right, door)

    def system_at(self, host: str, port: int) -> str | None:
        """The name of the system that is declared for a host."""
        return self._hosts.get(f"{host}:{port}")

    @contextlib.contextmanager
    def inside(self, visit: Visit) -> Generator[None]:
        """While the block lasts, a revocation of the visitor's right cancels it."""
        task = asyncio.current_task()
        assert task is not None, "a door serves in a task of its own"
        tasks = self._inside.setdefault(visit.right, set())
        tasks.add(task)
        try:
            yield
        finally:
            tasks.discard(task)
            if not tasks:
                self._inside.pop(visit.right, None)

    async def revoke(self, run: str, id: str, *, by: str, reason: str) -> None:
        """Revoke a capability of a run that is taken up here: nothing is sent by it from now on, and its open
        connections end. Raises Unknown, Refused."""
        taken = self.wards.by_run.get(run)
        if taken is None:
            raise Refused("the run is not taken up here: its capabilities are worth nothing already", where=run)
        revoking = asyncio.ensure_future(taken.ward.rights.revoke(id, by=by, reason=reason))
        await asyncio.sleep(0)  # in which it has begun: the right is ended before its record is durable
        for right, tasks in list(self._inside.items()):
            if any(each.id == id for each in right.line()):
                for task in tasks:
                    task.cancel()
        taken.ward.changed.set()
        await revoking

    async def prepare(self, visit: Visit, system: str, operation: str, args: Mapping[str, JSON]) -> Prepared:
        """Understand a call. What is not understood is refused, and the log says so. Raises Refused, BadCall."""
        found = self.systems.get(system)
        try:
            if found is None:
                raise BadCall(f"there is no system `{system}`", fix="holdfast config check lists what is declared")
            return await found.prepare(operation, args)
        except HoldfastError as error:
            await visit.ward.refuse(f"{system}.{operation}", dict(args), f"door {visit.door}", error.what)
            raise


def handle_in(headers: Mapping[str, str]) -> str | None:
    """The handle that a request shows: as bearer token, as API key, or as the password of a proxy or basic
    authorization. None where there is none, or something else."""
    for name in ("authorization", "x-api-key", "api-key", "proxy-authorization", "x-holdfast-capability"):
        value = headers.get(name, "")
        scheme, _, rest = value.partition(" ")
        if scheme.lower() == "basic" and rest:
            value = _password(rest)
        elif scheme.lower() == "bearer":
            value = rest.strip()
        if value.startswith(PREFIX):
            return value
    return None


def _password(encoded: str) -> str:
    import base64
    import binascii

    try:
        text = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
    name, _, password = text.partition(":")
    return password or name
