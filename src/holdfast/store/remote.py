"""A store whose one writer is a gateway: read, and written to by people, through its admin door.

Rules
1. No run is advanced through it: that is the gateway's. What people say about runs is placed by the gateway.
2. What comes back is believed as far as its digests hold, like anything else that is read.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import socket
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from holdfast import errors
from holdfast.core.canonical import JSON
from holdfast.core.entry import Entry
from holdfast.core.payload import Blob
from holdfast.errors import HoldfastError, Misuse, Refused, Stopped, Waiting
from holdfast.store import NOTHING, Branch, Draft, Grant
from holdfast.store.worker import Worker

TIMEOUT_S = 60.0
_RAISED: tuple[type[HoldfastError], ...] = (
    errors.HoldfastError, errors.Misuse, errors.BadCall, errors.BadContract, errors.Unknown, errors.Unreadable,
    errors.NotHappened, errors.Refused, errors.Cancelled, errors.Busy, errors.Claimed, errors.Fenced, errors.Conflict,
    errors.Drifted, errors.Stopped, errors.StoreFull, errors.Unwritable, errors.Corrupt, errors.RolledBack,
)  # fmt: skip
_WAITING: tuple[type[Waiting], ...] = (
    errors.Held, errors.InDoubt, errors.Asleep, errors.AwaitingSignal, errors.Ready, errors.Superseded,
)  # fmt: skip


def error_of(told: object) -> HoldfastError | Waiting:
    """The error that a gateway tells people of, as it was raised there."""
    found: Mapping[str, object] = cast("Mapping[str, object]", told) if isinstance(told, dict) else {}
    what, where, fix = (str(found.get(name, "")) for name in ("what", "where", "fix"))
    for waiting in _WAITING:
        if waiting.__name__ == found.get("type"):
            return waiting(what, where=where, fix=fix)
    raised = next((kind for kind in _RAISED if kind.__name__ == found.get("type")), errors.Stopped)
    return raised(what or "the gateway failed", where=where, fix=fix)


class RemoteStore:
    """The store behind the admin door at `path`. Raises Stopped where nobody listens there."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(
        self,
        branch: str,
        *,
        after: int = 0,
        key: bytes | None = None,
        unclaimed: bool = False,
        newest: int | None = None,
        upto: int | None = None,
    ) -> list[Entry]:
        """As `Store.read`."""
        found = await self.ask(
            "read",
            branch=branch, after=after, key=None if key is None else key.hex(), unclaimed=unclaimed, newest=newest,
            upto=upto,
        )  # fmt: skip
        with self._reading():
            return [_entry(each) for each in found]

    async def blob(self, digest: bytes) -> Blob:
        """As `Store.blob`."""
        found = await self.ask("blob", digest=digest.hex())
        with self._reading():
            return Blob(bytes.fromhex(found["digest"]), base64.b64decode(found["data"]), bool(found["rope"]))

    async def branches(self, prefix: str = "") -> list[Branch]:
        """As `Store.branches`."""
        found = await self.ask("branches", prefix=prefix)
        with self._reading():
            return [
                Branch(
                    each["name"], each["seq"], bytes.fromhex(each["digest"]), each["epoch"], each["at_ms"],
                    each["holder"],
                )
                for each in found
            ]  # fmt: skip

    async def append(
        self,
        branch: str,
        drafts: Sequence[Draft],
        *,
        epoch: int,
        after: int | None = None,
        barrier: bool = False,
        release: bool = False,
        alone: bool = False,
        blobs: Sequence[Blob] = (),
        watch: Mapping[str, int] = NOTHING,
        stands_on: Entry | None = None,
    ) -> list[Entry]:
        """As `Store.append`, for what needs no claim. It is always durable when this returns."""
        if epoch or release:
            raise self._not_here()
        found = await self.ask(
            "append",
            branch=branch, after=after, watch=dict(watch), stands_on=None if stands_on is None else _put(stands_on),
            drafts=[{"key": each.key.hex(), "body": each.body.decode(), "recall": each.recall} for each in drafts],
            blobs=[
                {"digest": each.digest.hex(), "data": base64.b64encode(each.data).decode(), "rope": each.rope}
                for each in blobs
            ],
        )  # fmt: skip
        with self._reading():
            return [_entry(each) for each in found]

    async def fork(self, node: str, *, kind: str, by: str, why: str, edits: Sequence[JSON]) -> str:
        """Begin a branch at `node`; its name. The gateway judges it, as `fork` does. Raises as that."""
        found = await self.ask("fork", node=node, kind=kind, by=by, why=why, edits=list(edits))
        with self._reading():
            return str(found["branch"])

    async def claim(self, branch: str) -> Grant:
        """Never: the gateway advances its runs."""
        raise self._not_here()

    async def close(self) -> None:
        """Nothing is kept."""

    def _not_here(self) -> Misuse:
        return Misuse(
            "the runs of this store are advanced by its gateway", where=str(self._path), fix="holdfast run --sandbox …"
        )

    async def ask(self, what: str, **asked: object) -> Any:
        """What the gateway answers. Raises what it says, Stopped where it cannot be reached."""
        return await asyncio.to_thread(self._ask, what, asked)

    def ask_now(self, what: str, **asked: object) -> Any:
        """As `ask`, outside a loop."""
        return self._ask(what, asked)

    def _ask(self, what: str, asked: Mapping[str, object]) -> Any:
        connection = _Local(self._path)
        with contextlib.closing(connection):
            try:
                connection.request("POST", f"/{what}", json.dumps(asked), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                data = answer.read()
            except PermissionError:
                raise Refused(
                    "this user may not connect to the gateway",
                    where=str(self._path),
                    fix="ask whoever runs it to put you into its [gateway] group, and under [people]",
                ) from None
            except (OSError, http.client.HTTPException) as error:
                why = getattr(error, "strerror", None) or str(error) or "it has closed the connection"
                fix = "is it running? holdfast gateway; its admin door is named by --gateway, or gateway:///PATH"
                raise Stopped(f"the gateway does not answer: {why}", where=str(self._path), fix=fix) from None
        try:
            body: object = json.loads(data)
        except ValueError:
            raise self._strange() from None
        if answer.status == 200:
            return body
        raise error_of(cast("dict[str, object]", body).get("error") if isinstance(body, dict) else None)

    @contextlib.contextmanager
    def _reading(self) -> Generator[None]:
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._strange() from None

    def _strange(self) -> Stopped:
        return Stopped(
            "what answers here is no gateway of this version",
            where=str(self._path),
            fix="use the Holdfast that the gateway is of: holdfast --version",
        )


class RemoteReader(RemoteStore):
    """The reading side of the store behind the admin door at `path`. Has what looking at runs needs; what needs more
    asks for the store's files, which are the gateway's. Reads are not of one moment: what a log has stays, and it
    grows."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.path = path

    @contextlib.contextmanager
    def moment(self) -> Generator[None]:
        """As `Reader.moment`, as far as the log only grows."""
        yield

    def owners(self) -> dict[str, Worker]:
        """As `Reader.owners`."""
        found = self.ask_now("owners")
        with self._reading():
            return {
                name: Worker(each["id"], each["place"], each["pid"], each["born"], each["host"])
                for name, each in found.items()
            }


class _Local(http.client.HTTPConnection):
    """HTTP over a local socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT_S)
        self.sock.connect(str(self._path))


def _entry(found: Mapping[str, Any]) -> Entry:
    return Entry(
        branch=found["branch"], seq=found["seq"], epoch=found["epoch"], at_ms=found["at_ms"],
        key=bytes.fromhex(found["key"]), body=base64.b64decode(found["body"]), digest=bytes.fromhex(found["digest"]),
    )  # fmt: skip


def _put(entry: Entry) -> dict[str, object]:
    return {
        "branch": entry.branch, "seq": entry.seq, "epoch": entry.epoch, "at_ms": entry.at_ms, "key": entry.key.hex(),
        "body": base64.b64encode(entry.body).decode(), "digest": entry.digest.hex(),
    }  # fmt: skip
