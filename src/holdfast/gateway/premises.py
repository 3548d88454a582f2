"""The directory of a gateway, and the local sockets in it.

Rules
1. One gateway is at work in a directory at a time, and nobody's socket is taken from a living listener.
2. Nobody but the gateway's user reads in it. The members of its group, where one is named, may pass through it to the
   sockets.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Generator
from pathlib import Path

from holdfast.errors import Busy, Misuse

LONGEST_PATH = 107  # bytes: what the system has room for in the address of a local socket


@contextlib.contextmanager
def held(state: Path, group: int | None) -> Generator[None]:
    """While the block lasts this process is the gateway of `state`. Raises Busy while another is, Misuse for a
    directory that is not fit for it."""
    _make(state, group)
    try:
        lock = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unfit(state, f"the gateway's directory cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fix = "use the one that runs, or end it first; a gateway of its own has another `state` under [gateway]"
            raise Busy("a gateway is at work here already", where=str(state), fix=fix) from None
        yield
    finally:
        os.close(lock)


def _make(state: Path, group: int | None) -> None:
    mode = 0o700 if group is None else 0o710
    try:
        with contextlib.suppress(FileExistsError):
            state.mkdir(mode=0o700, parents=True)
        found = state.stat()
        if not stat.S_ISDIR(found.st_mode):
            raise _unfit(state, "the gateway's directory is no directory")
        if found.st_uid != os.geteuid():
            raise _unfit(state, f"the gateway's directory belongs to another user (uid {found.st_uid})")
        if stat.S_IMODE(found.st_mode) & 0o077 & ~mode:
            raise Misuse("others may look into the gateway's directory", where=str(state), fix=f"chmod 700 {state}")
        if group is not None:
            os.chown(state, -1, group)
            state.chmod(mode)
    except OSError as error:
        raise _unfit(state, f"the gateway's directory cannot be made: {error.strerror}") from None


def _unfit(state: Path, what: str) -> Misuse:
    return Misuse(what, where=str(state), fix="run the gateway as its user, or name another `state` under [gateway]")


def bound(path: Path, kind: int, group: int | None) -> socket.socket:
    """A local socket that listens at `path`, for its owner, and for `group` if given. Raises Busy while somebody
    listens there, Misuse where nobody can."""
    check_length(path)
    _free(path, kind)
    listener = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
        if group is not None:
            os.chown(path, -1, group)
            path.chmod(0o660)
        listener.listen(256)
    except OSError as error:
        listener.close()
        fix = "name a place that its user may write: `socket` and `door` under [gateway]"
        raise Misuse(f"nobody can listen here: {error.strerror}", where=str(path), fix=fix) from None
    finally:
        os.umask(before)
    return listener


def check_length(path: Path) -> None:
    """Raises Misuse for a path that is too long for a socket."""
    size_bytes = len(os.fsencode(path))
    if size_bytes > LONGEST_PATH:
        raise Misuse(
            f"the path of a socket is {size_bytes} bytes long; the system has room for {LONGEST_PATH}",
            where=str(path),
            fix="name a shorter one, as /run/holdfast: `state`, `socket` and `door` under [gateway]",
        )


def _free(path: Path, kind: int) -> None:
    """Take what nobody listens at any more out of the way."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Misuse("something else is where the socket is to be", where=str(path), fix="move it, or name another")
    with socket.socket(socket.AF_UNIX, kind) as trial:
        trial.setblocking(False)
        try:
            trial.connect(str(path))
        except OSError as error:
            if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
                path.unlink(missing_ok=True)
                return
    raise Busy("somebody listens here already", where=str(path), fix="end that gateway first, or name another socket")
