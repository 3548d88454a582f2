"""The door for those who start programs: a run is taken up, its listeners are handed in, its end is told.

Rules
1. Only the gateway's own user, root, and users that the configuration names may start runs: the system says who asks.
2. Whoever has taken a run up holds it by the connection: when that is gone, so is the claim, as after a crash.
3. A message is one JSON object in one packet of a local socket; listeners come with it as descriptors.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from holdfast.core.canonical import JSON
from holdfast.errors import BadCall, HoldfastError, Refused, Waiting
from holdfast.gateway.doors.strict import object_of
from holdfast.gateway.doors.told import for_people
from holdfast.gateway.premises import bound
from holdfast.gateway.room import Tell
from holdfast.gateway.whole import whole

LARGEST = 160 << 10  # bytes of a message: a packet of a local socket holds no more
MOST_LISTENERS = 16
NAMES = 53
MOST_STARTERS = 256  # at once
_log = logging.getLogger("holdfast")
_PORT = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_INTERNET = (socket.AF_INET, socket.AF_INET6)
Listening = Mapping[int, Sequence[socket.socket]]
LATE = "late"  # what a starter is told unasked
PART = 32 << 10  # characters of a message that goes in pieces; as JSON in JSON it may be thrice as long
T = TypeVar("T")


class Starter(Protocol):
    """What is done for those who start programs."""

    async def take_up(self, asked: Mapping[str, JSON], by: str, tell: Tell) -> dict[str, JSON]:
        """Take a run up: its `run`, `handle`, `environment`, and what else its program needs. Of a run that has `ended`
        what it came to: nothing is taken up then. `tell` says something to the starter that it has not asked for: that
        its run waits and its program, which knows it, should have ended (`late`), or that its files are to be captured
        (`capture`)."""
        ...

    async def listen(self, run: str, listeners: Listening) -> None:
        """Serve the run on these sockets."""
        ...

    async def over(self, run: str) -> dict[str, JSON]:
        """When a program elsewhere has said that it is over: whether it `failed`, or `waits`."""
        ...

    async def let_go(self, run: str, ended: Mapping[str, JSON] | None) -> dict[str, JSON]:
        """The program has ended (`answer`, or `error`), or its starter is gone (None). What the run is `waiting` for
        now, and what it had `heard` then."""
        ...

    async def news(self, asked: Mapping[str, JSON]) -> None:
        """When a run that had heard this may go on. Raises BadCall."""
        ...

    async def captured(self, run: str, told: Mapping[str, JSON]) -> None:
        """The starter has captured the files of a run (`tree`), or says why not (`error`). Returns when they need not
        be kept for it any more."""
        ...


class LaunchDoor:
    """Listens at `path`. `may`: whether a user (uid) may start runs, and under which name."""

    def __init__(self, path: Path, starter: Starter, may: Callable[[int], str | None], group: int | None) -> None:
        self._path = path
        self._starter = starter
        self._may = may
        self._group = group
        self._listener: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Begin to listen."""
        listener = bound(self._path, socket.SOCK_SEQPACKET, self._group)
        self._listener = listener
        self._serving.add(asyncio.create_task(self._accept(listener)))

    async def close(self) -> None:
        """Let go of every run, and of the socket."""
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # no descriptor is left, or who came is gone: the others are still served
                _log.warning("nobody could be let in at the door for starters: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            if len(self._serving) > MOST_STARTERS:
                connection.close()
                continue
            task = asyncio.create_task(self._serve(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    async def _serve(self, connection: socket.socket) -> None:
        run: str | None = None
        connection.setblocking(False)
        try:
            by = self._may(peer_of(connection))
            while (message := await receive(connection)) is not None:
                asked, sockets = message
                try:
                    if by is None:  # told as an answer: what was sent before nobody listened might be lost
                        raise Refused("this user may not start runs", fix="name it under [people] in holdfast.toml")
                    run, answer = await self._answered(connection, run, asked, sockets, by)
                except (HoldfastError, Waiting) as error:
                    let_go_of(sockets)
                    answer = for_people(error).body()
                await say_all(connection, answer)
        except (HoldfastError, Waiting) as error:
            with contextlib.suppress(OSError):
                await say(connection, for_people(error).body())
        except OSError:
            pass  # the starter is gone
        finally:
            connection.close()
            if run is not None:
                await whole(self._starter.let_go(run, None))

    async def _answered(
        self, connection: socket.socket, run: str | None, asked: dict[str, Any], sockets: list[socket.socket], by: str
    ) -> tuple[str | None, dict[str, JSON]]:
        known = {name: cast("dict[str, JSON]", each) for name, each in asked.items() if isinstance(each, dict)}
        if known.keys() == {"open"} and run is None and not sockets:
            answer = await self._starter.take_up(known["open"], by, lambda message: _told(connection, message))
            return None if "ended" in answer else str(answer["run"]), answer
        if known.keys() == {"listen"} and run is not None:
            await self._starter.listen(run, _by_port(known["listen"], sockets))
            return run, {"listening": True}
        if known.keys() == {"end"} and run is not None and not sockets:
            return None, await self._starter.let_go(run, known["end"])
        if known.keys() == {"wait"} and run is not None and not sockets:
            return run, await self._while_there(connection, self._starter.over(run))
        if known.keys() == {"news"} and run is None and not sockets:
            await self._while_there(connection, self._starter.news(known["news"]))
            return None, {"news": True}
        if known.keys() == {"captured"} and run is not None and not sockets:
            await self._while_there(connection, self._starter.captured(run, known["captured"]))
            return run, {"kept": True}
        raise BadCall("the message is not understood", fix="open, listen or wait, end, in this order; or news")

    async def _while_there(self, connection: socket.socket, work: Awaitable[T]) -> T:
        """What comes of `work`, for as long as the starter is there. Raises ConnectionError."""
        over = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(receive(connection))
        try:
            await asyncio.wait([over, gone], return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                raise ConnectionError("the starter is gone, or says something out of turn")
            return over.result()
        finally:
            for each in (over, gone):
                each.cancel()
            await asyncio.gather(over, gone, return_exceptions=True)


async def _told(connection: socket.socket, message: Mapping[str, JSON]) -> None:
    with contextlib.suppress(OSError):  # it is gone, which is found out where it is listened to
        await say(connection, message)


def _by_port(ports: Mapping[str, JSON], sockets: list[socket.socket]) -> dict[int, list[socket.socket]]:
    """The sockets of a message, by port: each port says how many are its own, in order."""
    found: dict[int, list[socket.socket]] = {}
    left = list(sockets)
    for port, many in ports.items():
        if not (_PORT.fullmatch(port) and type(many) is int and 0 < many <= len(left)):
            raise BadCall("the listeners do not fit their ports")
        found[int(port)], left = left[:many], left[many:]
    if left:
        raise BadCall("there are more listeners than ports")
    for port, handed in found.items():
        for each in handed:
            if not _serves(each, port):
                raise BadCall("what came is no socket that listens")
            each.setblocking(False)
    return found


def _serves(each: socket.socket, port: int) -> bool:
    """Whether a socket is one that a run's listener may be: of the internet, and listening, or for names."""
    if each.family not in _INTERNET:
        return False
    if port == NAMES:
        return each.type == socket.SOCK_DGRAM
    return bool(each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def let_go_of(sockets: Sequence[socket.socket]) -> None:
    """Close what was handed in."""
    for each in sockets:
        each.close()


def peer_of(connection: socket.socket) -> int:
    """The uid of whoever is at the other end, as the system knows it."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    return uid


async def receive(connection: socket.socket) -> tuple[dict[str, Any], list[socket.socket]] | None:
    """The next message and its descriptors; None when the other end is gone. Raises BadCall."""
    data, numbers, flags = await _readable(connection, lambda: _received(connection))
    sockets: list[socket.socket] = []
    try:
        while numbers:
            sockets.append(_socket_of(numbers.pop(0)))
        if not data:
            let_go_of(sockets)
            return None
        if len(data) > LARGEST or flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise BadCall(f"a message is larger than {LARGEST} bytes, or carries too many listeners")
        return object_of(data), sockets
    except BadCall:
        let_go_of(sockets)
        for number in numbers:
            os.close(number)
        raise


def _socket_of(number: int) -> socket.socket:
    """The socket of a descriptor that came. Raises BadCall for any other kind of file, and closes it."""
    try:
        return socket.socket(fileno=number)
    except OSError:
        os.close(number)
        raise BadCall("what came is no socket") from None


def _received(connection: socket.socket) -> tuple[bytes, list[int], int]:
    room = socket.CMSG_SPACE(MOST_LISTENERS * array.array("i").itemsize)
    data, ancillary, flags, _ = connection.recvmsg(LARGEST + 1, room, socket.MSG_CMSG_CLOEXEC)
    numbers = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    return data, list(numbers), flags


async def say(connection: socket.socket, message: Mapping[str, JSON], sockets: Sequence[socket.socket] = ()) -> None:
    """Send a message, with descriptors. Raises BadCall if it is too large."""
    data = json.dumps(message).encode()
    if len(data) > LARGEST:
        raise BadCall(f"a message of {len(data)} bytes is too large", fix="put a large input into a file")
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [each.fileno() for each in sockets]))]
    while True:
        try:
            connection.sendmsg([data], rights if sockets else [])
            return
        except BlockingIOError:
            await asyncio.sleep(0.005)


async def say_all(connection: socket.socket, message: Mapping[str, JSON]) -> None:
    """Send a message of any size: one that is too large for a packet goes in several, for `whole_of`."""
    text = json.dumps(message)
    if len(text) <= LARGEST:
        await say(connection, message)
        return
    for place in range(0, len(text), PART):
        await say(connection, {"part": text[place : place + PART], "last": place + PART >= len(text)})


async def whole_of(
    first: dict[str, Any], more: Callable[[], Awaitable[dict[str, Any] | None]]
) -> dict[str, Any] | None:
    """The message that `first` begins, as `say_all` sent it; None if the other end is gone before its end."""
    texts, message = [str(first.get("part", ""))], first
    while "part" in message and not message["last"]:
        following = await more()
        if following is None:
            return None
        message = following
        texts.append(str(message["part"]))
    return object_of("".join(texts).encode()) if "part" in first else first


async def _readable(
    connection: socket.socket, read: Callable[[], tuple[bytes, list[int], int]]
) -> tuple[bytes, list[int], int]:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return read()
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(connection, lambda waiting=ready: waiting.done() or waiting.set_result(None))
            try:
                await ready
            finally:
                loop.remove_reader(connection)
