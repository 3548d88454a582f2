"""The gateway as a process: a configuration, and what was made of it.

Rules
1. It owns the store, the vault, the policy and the systems. Whoever wants something of them comes to a door.
2. What cannot be opened as it is declared keeps it from starting; nothing is left half open.
3. It fails closed: without a policy everything is denied, without a store nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import cast
from urllib.parse import urlsplit

from holdfast.core.canonical import JSON
from holdfast.core.contract import Contract
from holdfast.core.policy import Denied, Facts, Policy, Verdict
from holdfast.errors import BadCall, HoldfastError, Misuse, Refused
from holdfast.gateway.admin import AdminDoor
from holdfast.gateway.ca import Authority
from holdfast.gateway.closure import tree_of
from holdfast.gateway.config import Config
from holdfast.gateway.dial import Dialer
from holdfast.gateway.diverge import OnDivergence
from holdfast.gateway.doors.table import application
from holdfast.gateway.environment import Place, environment_of
from holdfast.gateway.gate import Gate
from holdfast.gateway.health import ENDING, Health, HealthDoor, broken, writable
from holdfast.gateway.launching import LATE, LaunchDoor, Listening
from holdfast.gateway.line import node_of, read_payload
from holdfast.gateway.meters import metrics
from holdfast.gateway.news import heard_by, heard_in, news
from holdfast.gateway.people import People
from holdfast.gateway.premises import bound, check_length, held
from holdfast.gateway.recorded import how_it_ended
from holdfast.gateway.remote import address_of, elsewhere, tls_of
from holdfast.gateway.room import StarterRoom, Tell
from holdfast.gateway.serve import Listeners
from holdfast.gateway.servers import start_confined
from holdfast.gateway.upstreams import System, Undoes, Upstream
from holdfast.gateway.upstreams.kinds import open_upstream
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.wards import Taken, Wanted, Wards
from holdfast.store.owners import owners_of
from holdfast.store.url import Opening, open_url

LEAST_S, POLL_S = 1.0, 0.2
MOST_INPUT = 100_000  # characters of an environment's variable: the system takes no more than 128 KiB


class NoPolicy:
    """Silence: nothing is allowed."""

    digest = "0" * 32

    def judge(self, facts: Facts) -> Verdict:
        """As `Policy.judge`."""
        return Denied("no policy", "no policy is declared, and silence denies")


class Gateway:
    """A running gateway. An asynchronous context manager."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._authorities: dict[str, Authority | None] = {}
        self._rooms: dict[str, StarterRoom] = {}
        self._late: dict[str, asyncio.Task[None]] = {}
        self._open = AsyncExitStack()
        self.policy: Policy = NoPolicy()
        self.remote: str | None = None  # where agents elsewhere find the doors
        self.telling: HealthDoor | None = None

    async def __aenter__(self) -> Gateway:
        try:
            await self._start()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self.health.stage = ENDING
        await self._open.aclose()

    async def _start(self) -> None:
        config = self.config
        _check_user(config.gateway.user)
        for path in (config.launching, config.door, config.socket):
            check_length(path)
        self.people = People(config.people, config.gateway.group)
        self._open.enter_context(held(config.state, self.people.group))
        self.opening: Opening = open_url(config.store)
        self._open.push_async_callback(self.opening.store.close)
        self.policy = _policy(config)
        systems: dict[str, System] = {}
        self.wards = Wards(
            self.opening.store, lambda: self.policy, patience_s=config.gateway.patience_s,
            find=lambda tool: _undoing(systems, tool),
        )  # fmt: skip
        self.vault = config.vault(self.opening.store)
        kit = Kit(
            vault=self.vault, dialer=Dialer(config.gateway.private), folder=config.folder, state=config.state,
            start=start_confined,
        )  # fmt: skip
        await self._open_health()
        for name, declared in config.upstreams.items():
            systems[name] = await open_upstream(name, declared, kit)
            self._open.push_async_callback(systems[name].close)
        self._open.push_async_callback(self._let_all_go)
        strict = frozenset(name for name, agent in config.agents.items() if agent.require_handle)
        kinds = {name: str(getattr(each, "kind", "")) for name, each in config.upstreams.items()}
        self.gate = Gate(self.wards, systems, kinds=kinds, hosts=_hosts(config), strict=strict)
        self.listeners = Listeners(self.gate, application)
        self._open.push_async_callback(self.listeners.close)
        await self._open_doors()
        self.health.stage = ""

    async def _open_health(self) -> None:
        store, wards = self.opening.store, self.wards
        self.health = Health(
            {"store": writable(store), "policy": self._has_a_policy},
            broken=lambda: broken(store),
            metrics=lambda: metrics(wards.by_run.values(), wards.tally, store),
        )
        if self.config.gateway.health is not None:
            self.telling = HealthDoor(self.health, self.config.gateway.health)
            await self.telling.open()
            self._open.push_async_callback(self.telling.close)  # after all that it tells of, but the store

    async def _open_doors(self) -> None:
        config = self.config
        people = self.people
        launching = LaunchDoor(config.launching, self, people.starter, people.group)
        await launching.open()
        self._open.push_async_callback(launching.close)
        admin = AdminDoor(
            config.socket, self.opening.store, self.gate, people, self._terms, lambda: owners_of(config.store),
            self.health,
        )  # fmt: skip
        await admin.open()
        self._open.push_async_callback(admin.close)
        await self.listeners.shared(bound(config.door, socket.SOCK_STREAM, people.group), None)
        self._open.callback(config.door.unlink, missing_ok=True)
        if config.gateway.remote is not None:
            listener = elsewhere(config.gateway.remote)
            self.remote = address_of(config.gateway.remote, listener)
            await self.listeners.shared(listener, tls_of(config.gateway.remote, config.folder))

    async def _has_a_policy(self) -> None:
        if isinstance(self.policy, NoPolicy):
            raise Misuse("no policy is declared, and silence denies", where="policy.files", fix="holdfast policy init")

    async def _let_all_go(self) -> None:
        for run in list(self.wards.by_run):
            with contextlib.suppress(HoldfastError):
                await self.wards.close(run, ended=False)

    # --- for those who start programs (`Starter`) ---

    async def take_up(self, asked: Mapping[str, JSON], by: str, tell: Tell) -> dict[str, JSON]:
        """As `Starter.take_up`: `run`, `agent`, `input`, `containment`, `on_divergence`, and `place` (a `Place`)."""
        unknown = asked.keys() - {"run", "agent", "input", "containment", "on_divergence", "place"}
        if unknown:
            raise BadCall(f"`{min(unknown)}` is nothing that a run is taken up with")
        if asked.get("place") not in [each.value for each in Place]:
            raise BadCall("a program is in a sandbox, local or remote", fix="use the Holdfast that the gateway is of")
        place = Place(asked["place"])
        declared = self.config.agents.get(str(asked.get("agent")))
        keeps = declared is not None and declared.workspace
        if keeps and place is not Place.SANDBOX:
            fix = "run it with --sandbox, or take `workspace` out of its [agents.NAME]"
            raise BadCall("the files of this agent are captured with a sandbox only", fix=fix)
        try:
            taken = await self._taken(asked, by)
        except BadCall:
            raise
        except Misuse:
            ended = await how_it_ended(self.opening.store, asked)
            if ended is None:
                raise
            return {"run": asked["run"], "ended": ended}
        run = taken.ward.rights.run
        try:
            environment = await self._given(taken)
            environment |= environment_of(self.config, taken, place, self.remote)
        except BaseException:
            await self.wards.close(run, ended=False)
            raise
        authority = Authority(run) if place is Place.SANDBOX else None
        self._authorities[run] = authority
        if keeps:
            taken.room = self._rooms[run] = StarterRoom(tell)
        self._late[run] = asyncio.create_task(self._tell_late(run, tell))
        return {
            "run": run,
            "handle": taken.handle,
            "capability": taken.right.id,
            "environment": cast(JSON, environment),
            "authority": None if authority is None else authority.pem.decode(),
            "files": files_of(taken) if keeps else None,
        }

    async def _given(self, taken: Taken) -> dict[str, str]:
        """The input of a run as its program finds it: what it began with, or what a fork has put in its place."""
        line, started = taken.ward.mediator.line, taken.opened.started or taken.ward.mediator.line.log.started
        assert started is not None, "a run that was taken up has begun"
        given = line.log.settings.get("input", started.input)
        text = (await read_payload(line.store, given)).decode()
        return {} if text == "null" or len(text) > MOST_INPUT else {"HOLDFAST_INPUT": text}

    async def _taken(self, asked: Mapping[str, JSON], by: str) -> Taken:
        run, agent = asked.get("run"), asked.get("agent")
        if not isinstance(run, str) or not isinstance(agent, str):
            raise BadCall("a run and its agent must be named")
        declared = self.config.agents.get(agent)
        if declared is None:
            raise Refused(f"there is no agent `{agent}`", fix="declare what it may do: [agents.NAME] in holdfast.toml")
        setting = str(asked.get("on_divergence", "brief"))
        if setting not in tuple(OnDivergence):
            raise BadCall(f"`{setting}` is nothing to do on a divergence", fix="choose brief, ask or stop")
        wanted = Wanted(
            run=checked_name(run), agent=agent, terms=declared.terms(self.wards.now_ms()), by=by,
            input=asked.get("input"), containment=asked.get("containment"), on_divergence=OnDivergence(setting),
            restore=declared.restores,
        )  # fmt: skip
        return await self.wards.open(wanted)

    async def listen(self, run: str, listeners: Listening) -> None:
        """As `Starter.listen`."""
        authority = self._authorities.get(run)
        if authority is None:
            raise BadCall("this run has no listeners of its own", where=run)
        await self.listeners.inside(run, listeners, authority)

    async def over(self, run: str) -> dict[str, JSON]:
        """As `Starter.over`."""
        taken = self.wards.by_run[run]
        await taken.over.wait()
        return {"failed": taken.error is not None, "waits": taken.waits}

    async def _tell_late(self, run: str, tell: Tell) -> None:
        """Say so once a run has waited for so long that its program, which knows it, should have ended."""
        since_s, seen = 0.0, None
        while (taken := self.wards.by_run.get(run)) is not None:
            waiting = taken.waits_for
            if waiting is None or waiting is not seen:
                since_s, seen = time.monotonic(), waiting
            elif time.monotonic() - since_s >= 2 * max(self.config.gateway.patience_s, LEAST_S):
                await tell({LATE: True})
                return
            await asyncio.sleep(POLL_S)

    async def captured(self, run: str, told: Mapping[str, JSON]) -> None:
        """As `Starter.captured`."""
        room = self._rooms.get(run)
        if room is not None:
            await room.captured(told)

    async def news(self, asked: Mapping[str, JSON]) -> None:
        """As `Starter.news`."""
        await news(self.opening.store, heard_in(asked), self.wards.now_ms)

    async def let_go(self, run: str, ended: Mapping[str, JSON] | None) -> dict[str, JSON]:
        """As `Starter.let_go`: `answer`, `error`, or that it `waits`."""
        if run in self._late:
            self._late.pop(run).cancel()
        if run in self._rooms:
            self._rooms.pop(run).gone()
        await self.listeners.leave(run)
        self._authorities.pop(run, None)
        taken = self.wards.by_run.get(run)
        waiting = None if taken is None else taken.ward.mediator.parked
        heard = None if taken is None or waiting is None else heard_by(taken.ward.mediator.line, waiting)
        error = None if ended is None else ended.get("error")
        answer = None if ended is None else ended.get("answer")
        over = ended is not None and not ended.get("waits")
        await self.wards.close(run, answer=answer, error=None if error is None else str(error), ended=over)
        told: dict[str, JSON] = {"ended": True}
        if waiting is not None:
            told["waiting"] = {
                "type": type(waiting).__name__, "what": waiting.what, "where": waiting.where, "fix": waiting.fix,
                "until_ms": waiting.until_ms,
            }  # fmt: skip
        if heard is not None:
            told["heard"] = heard.told()
        return told

    def _terms(self, agent: str) -> str:
        """What a run of an agent may do, as it would be issued now. Raises Misuse where there is no such agent."""
        declared = self.config.agents.get(agent)
        if declared is None:
            raise Misuse(f"there is no agent `{agent}`", fix="holdfast config check lists what is declared")
        return declared.terms(self.wards.now_ms()).text()


def runner() -> asyncio.Runner:
    """What a gateway that is a process of its own runs on: the loop of libuv, on which a call costs less."""
    import uvloop

    return asyncio.Runner(loop_factory=uvloop.new_event_loop)


def files_of(taken: Taken) -> dict[str, JSON]:
    """The files that a run goes on with, for its starter: those of the checkpoint at `node` (`tree`), if there is one.
    `new`: nothing was known of the run before; `exactly`: its program goes on from there."""
    log = taken.opened.log
    node = node_of(log.branch, log.checkpoint_seq)
    tree = None if log.checkpoint is None else tree_of(log.checkpoint, node)
    return {
        "branch": log.branch, "new": taken.opened.started is None, "tree": None if tree is None else tree.hex(),
        "node": node, "exactly": taken.restores,
    }  # fmt: skip


def checked_name(run: str) -> str:
    """The name of a run. Raises BadCall."""
    if not run or len(run) > 100 or not all(sign.isascii() and (sign.isalnum() or sign in "-_.") for sign in run):
        raise BadCall("this cannot name a run", fix="use up to 100 letters, digits, `-`, `_` and `.`")
    return run


def _policy(config: Config) -> Policy:
    if not config.policies:
        return NoPolicy()
    from holdfast.gateway.cedar import Cedar

    return Cedar.load(*config.policies)


def _undoing(systems: Mapping[str, System], tool: str) -> tuple[Contract, Upstream] | None:
    name, _, operation = tool.partition(".")
    system = systems.get(name)
    return system.undoing(operation) if isinstance(system, Undoes) else None


def _hosts(config: Config) -> dict[str, str]:
    """Which system stands behind which host, for programs that know only that."""
    found: dict[str, str] = {}
    for name, upstream in config.upstreams.items():
        said = (getattr(upstream, key, None) for key in ("base", "base_url", "url"))
        base = urlsplit(str(next((each for each in said if each), "")))
        if base.hostname:
            port = base.port or (443 if base.scheme == "https" else 80)
            found.setdefault(f"{base.hostname.rstrip('.').lower()}:{port}", name)
    return found


def _check_user(user: str | None) -> None:
    if user is not None and pwd.getpwuid(os.geteuid()).pw_name != user:
        raise Misuse(f"the gateway must run under the user `{user}`", where="gateway.user", fix=f"sudo -u {user} …")
