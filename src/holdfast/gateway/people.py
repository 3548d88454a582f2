"""Who is at a local door: people and programs as the operating system knows them.

Rules
1. Nobody says who they are: the system does (the uid at the other end of a socket).
2. Root and the gateway's own user may do everything, and may speak for others; whoever else is not named may nothing.
"""

from __future__ import annotations

import grp
import os
import pwd
from collections.abc import Mapping
from dataclasses import dataclass

from holdfast.errors import Misuse, Refused
from holdfast.gateway.settings import Person


@dataclass(frozen=True, slots=True)
class Somebody:
    """A person at a door. `all`: may do everything, and speak for others."""

    name: str
    may: frozenset[str]
    all: bool

    def check(self, what: str) -> None:
        """Raises Refused unless this person may do it."""
        if not self.all and what not in self.may:
            raise Refused(f"{self.name} may not {what} here", fix="name what this person may under [people]")

    def speaks_as(self, by: str) -> None:
        """Raises Refused unless this person may give a word in the name of `by`."""
        if not self.all and by != self.name:
            raise Refused(f"{self.name} may not speak as {by}", fix=f"--by {self.name}")


class People:
    """The people that a configuration names; `group` (its name): who may connect to the sockets at all. Raises Misuse
    where there is no such group."""

    def __init__(self, declared: Mapping[str, Person], group: str | None = None) -> None:
        self._by_user = {person.user or name: (name, person) for name, person in declared.items()}
        self.group = None if group is None else _gid(group)

    def at(self, uid: int) -> Somebody:
        """Who this is. Raises Refused for somebody who is not named."""
        user = _user(uid)
        every = uid in (0, os.geteuid())
        name, person = self._by_user.get(user, (user, None))
        if person is None and not every:
            raise Refused(f"{user} is not known here", fix="name this person under [people] in holdfast.toml")
        return Somebody(name, frozenset(person.may if person else ()), every)

    def starter(self, uid: int) -> str | None:
        """The name of somebody who may start runs, or None."""
        try:
            found = self.at(uid)
            found.check("start")
        except Refused:
            return None
        return found.name


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Misuse(f"there is no group `{group}` on this machine", where="gateway.group", fix="make it") from None
