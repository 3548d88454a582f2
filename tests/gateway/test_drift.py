"""World drift: what a run has seen is read again, in a world that other people change. The check changes nothing,
writes nothing, and says `same` only of what it has compared."""

import asyncio
import contextlib
import gc
import hashlib
import json
import sys
import threading
import urllib.error
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from holdfast import Drift, Drifted, Happened, NotHappened, RetryAfter, agent, open_store, tool
from holdfast.agent.run import Agent
from holdfast.core.drift import Fate
from holdfast.core.effect import Kind
from holdfast.core.payload import pack_text
from holdfast.core.record import Claim, Intent, Promoted
from holdfast.embedded import House
from holdfast.errors import Corrupt, Misuse, NoCandidate, Unknown
from holdfast.gateway import drift as asking
from holdfast.gateway.history import read_log
from tests.gateway.wiki import Wiki, wiki
from tests.stage import RUN, life, of, records

SAME, OURS, MOVED, GONE, UNKNOWN = Fate.SAME, Fate.OURS, Fate.MOVED, Fate.GONE, Fate.UNKNOWN


@pytest.fixture(scope="module")
def web() -> Iterator[Wiki]:
    with wiki() as served:
        yield served


@dataclass
class Place:
    name: str
    north: float


@dataclass
class Tools:
    """The agent's tools for a wiki. Those that write may tell the version that they left."""

    web: Wiki
    versions: bool = True
    page: Any = None
    put: Any = None
    drop: Any = None

    def __post_init__(self) -> None:
        @tool(kind="read", name="wiki.page", resource=["page"])
        def page(page: str) -> Happened[Any]:
            try:
                text, etag = self.web.request("GET", page)
            except urllib.error.HTTPError as error:
                raise NotHappened(f"HTTP {error.code}") from error
            return Happened(text, etag)

        @tool(kind="idempotent", name="wiki.put", resource=["page"])
        def put(page: str, text: Any) -> Happened[None]:
            _, etag = self.web.request("PUT", page, text)
            return Happened(None, etag if self.versions else None)

        @tool(kind="idempotent", name="wiki.drop", resource=["page"])
        def drop(page: str) -> None:
            self.web.request("DELETE", page)

        self.page, self.put, self.drop = page, put, drop


def runs(*calls: Callable[[], Any]) -> Agent:
    """An agent that makes these calls, takes no for an answer, and then waits for somebody."""

    @agent
    def caller(run: Any, task: Any) -> str:
        for call in calls:
            with contextlib.suppress(NotHappened):
                call()
        run.wait_for("go")
        return "done"

    return caller


def fates(house: House, node: str = RUN) -> dict[str, Fate]:
    return {drift.node: drift.fate for drift in house.drift(node)}


def one(house: House, node: str = RUN) -> Drift:
    (found,) = house.drift(node)
    return found


# --- a world that others change ---


def test_a_world_that_nobody_touched_is_the_same(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "still", {"title": "Tide"})
    with open_store("memory://") as house:
        life(house, runs(lambda: tools.page("still"), lambda: tools.page("none"), lambda: tools.page("still")))
        found = house.drift(RUN)
        assert [(drift.tool, drift.fate, drift.holds) for drift in found] == [("wiki.page", SAME, True)] * 2
        assert [drift.then for drift in found] == [None, found[1].now]
        assert "HTTP 404" in found[0].why


def test_a_page_that_somebody_else_edits_has_moved(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "edited", {"title": "Tide", "words": 3})
    with open_store("memory://") as house:
        life(house, runs(lambda: tools.page("edited")))
        web.request("PUT", "edited", {"title": "Ebb", "words": 3})
        moved = one(house)
        assert (moved.fate, moved.then, moved.now) == (MOVED, '"v1"', '"v2"')
        assert moved.changes == ('title: "Tide" → "Ebb"',)
        assert moved.args == '{"page":"edited"}'
        assert not moved.holds


def test_a_page_that_somebody_else_deletes_is_gone_and_one_that_appears_has_moved(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "deleted", 1)
    with open_store("memory://") as house:
        life(house, runs(lambda: tools.page("deleted"), lambda: tools.page("appears")))
        web.request("DELETE", "deleted")
        web.request("PUT", "appears", 1)
        assert [(drift.fate, drift.why) for drift in house.drift(RUN)] == [
            (GONE, "HTTP 404"),
            (MOVED, "it is there now; then: HTTP 404"),
        ]


def test_what_the_run_itself_wrote_is_told_apart_from_what_others_wrote(web: Wiki) -> None:
    tools = Tools(web)
    for page in ("mine", "also"):
        web.request("PUT", page, 1)
    with open_store("memory://") as house:
        calls = [lambda p=p: tools.page(p) for p in ("mine", "also", "made")]
        calls += [lambda p=p: tools.put(p, 2) for p in ("mine", "also", "made")]
        life(house, runs(*calls))
        ours = house.drift(RUN)
        assert [drift.fate for drift in ours] == [OURS] * 3
        assert [drift.writes for drift in ours] == [("r@6",), ("r@8",), ("r@10",)]
        assert all(drift.holds for drift in ours)
        web.request("PUT", "also", 3)
        web.request("DELETE", "made")
        # the run had seen that it was not there, and so it is again; but the run has made it since
        assert [drift.fate for drift in house.drift(RUN)] == [OURS, MOVED, GONE]


def test_without_versions_the_runs_own_write_may_hide_another(web: Wiki) -> None:
    tools = Tools(web, versions=False)
    web.request("PUT", "silent", 1)
    with open_store("memory://") as house:
        life(house, runs(lambda: tools.page("silent"), lambda: tools.put("silent", 2)))
        web.request("PUT", "silent", 3)
        assert one(house).fate is OURS
        life(house, runs(lambda: tools.page("silent"), lambda: tools.put("silent", 2), lambda: tools.drop("silent")))
        web.request("DELETE", "silent")
        assert one(house).fate is OURS


def test_a_check_at_a_node_looks_at_what_was_seen_up_to_there(web: Wiki) -> None:
    tools = Tools(web)
    for page in ("first", "second"):
        web.request("PUT", page, 1)
    with open_store("memory://") as house:
        life(house, runs(lambda: tools.page("first"), lambda: tools.page("second")))
        web.request("PUT", "second", 2)
        assert fates(house, f"{RUN}@3") == {"r@3": SAME}
        assert fates(house, f"{RUN}@main:4") == {"r@3": SAME, "r@4": MOVED}
        assert fates(house, f"{RUN}@main") == {"r@3": SAME, "r@4": MOVED}


def test_a_write_after_the_node_is_still_the_runs_own(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "later", 1)
    with open_store("memory://") as house:
        life(house, runs(lambda: tools.page("later"), lambda: tools.put("later", 2)))
        assert fates(house, f"{RUN}@3") == {"r@3": OURS}


def test_the_check_writes_nothing_and_calls_no_write(web: Wiki, tmp_path: Path) -> None:
    tools = Tools(web)
    web.request("PUT", "watched", 1)
    with open_store(f"sqlite:///{tmp_path}/runs.db") as house:
        life(house, runs(lambda: tools.page("watched"), lambda: tools.put("watched", 2), lambda: tools.drop("other")))
        before, log = len(web.asked()), records(house)
        house.drift(RUN)
        assert [said for said in web.asked()[before:] if not said.startswith("GET")] == []
        assert records(house) == log
        assert asyncio.run(house.store.branches())[0].seq == len(log)


# --- forks ---


def forks(tools: Tools, *before: str, at: list[str]) -> Agent:
    """An agent that reads some pages, and writes those in `at`."""

    @agent
    def caller(run: Any, task: Any) -> str:
        for page in before:
            tools.page(page)
        for page in list(at):
            tools.put(page, f"{run.branch} was here")
        return run.wait_for("go")

    return caller


def test_what_another_branch_wrote_after_the_two_parted_is_the_runs_own_too(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "parted", 1)
    at = ["parted"]
    with open_store("memory://") as house:
        life(house, forks(tools, "parted", at=at))
        branch = house.fork(f"{RUN}@3", by="ann")
        at.clear()
        life(house, forks(tools, "parted", at=at))
        assert fates(house, f"{RUN}@3") == {"r@3": OURS}
        (inherited,) = house.drift(RUN)
        assert (inherited.node, inherited.fate, inherited.writes) == (f"r@{branch}:3", OURS, ("r@4",))
        web.request("PUT", "parted", 7)
        assert one(house).fate is MOVED


def test_a_branch_is_not_excused_by_what_another_one_wrote_before_it_was_read(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "read-later", 1)
    with open_store("memory://") as house:
        life(house, forks(tools, at=["read-later"]))
        house.fork(f"{RUN}@2", by="ann")
        life(house, forks(tools, "read-later", at=[]))
        web.request("PUT", "read-later", 7)
        assert one(house).fate is MOVED
        web.request("PUT", "read-later", 8)


def test_an_effect_that_was_adopted_is_asked_about_where_it_was_adopted() -> None:
    net = Net()

    @agent
    def maker(run: Any, task: Any) -> str:
        net.tool("a")
        return run.wait_for("go")

    with open_store("memory://") as house:
        life(house, maker)
        branch = house.fork(f"{RUN}@2", by="ann")
        life(house, maker)
        adopted = one(house)
        assert (adopted.tool, adopted.effect, adopted.fate) == ("net.make", True, SAME)
        assert adopted.node.startswith(f"r@{branch}:")
        net.there = False
        assert one(house).fate is GONE


def test_an_answer_that_somebody_put_in_the_place_of_a_reading_says_nothing_of_the_world(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "what-if", 1)
    with open_store("memory://") as house:
        life(house, forks(tools, "what-if", at=[]))
        branch = house.fork(f"{RUN}@3", kind="what-if", answers={3: 99}, by="ann")
        life(house, forks(tools, "what-if", at=[]), branch=branch)
        assert house.drift(f"{RUN}@{branch}") == []
        assert fates(house, RUN) == {"r@3": SAME}


def test_a_branch_that_takes_back_what_it_stands_on_is_told_so() -> None:
    gone: list[str] = []

    def probe(name: str) -> Any:
        return Happened(name)

    def undo(name: str) -> None:
        gone.append(name)

    @tool(kind="reversible", name="net.up", resource=["name"], probe=probe, undo=undo)
    def up(name: str) -> str:
        return name

    @agent
    def maker(run: Any, task: Any) -> str:
        up("a")
        return run.wait_for("go")

    with open_store("memory://") as house:
        life(house, maker)
        house.fork(f"{RUN}@2", by="ann")
        life(house, forks(Tools(Wiki("")), at=[]))
        house.clear(RUN)
        assert gone == ["a"]
        assert [(drift.fate, drift.why) for drift in house.drift(f"{RUN}@4")] == [(GONE, "the run took it back at r@9")]
        assert house.drift(f"{RUN}@main") == []


# --- promotion ---


def editor(tools: Tools, seen: list[str]) -> Agent:
    """An agent that reads a page, tries to reword it in two ways, and writes the better one."""

    @agent
    async def edit(run: Any, task: Any) -> Any:
        old = await run.call(tools.page, page=task)
        way = await run.explore(["a", "b", "c"], score=lambda attempt: {"a": 1, "b": 3, "c": 2}[attempt.candidate])
        if not seen or seen[-1] != run.branch:
            seen.append(run.branch)
        detail = await run.call(tools.page, page=f"{task}-{way}")
        await run.call(tools.put, page=task, text=[old, way, detail])
        return await run.offer(way) or way

    return edit


def puts(web: Wiki, page: str) -> int:
    return web.asked().count(f"PUT /{page}")


@pytest.fixture
def pages(web: Wiki, request: pytest.FixtureRequest) -> str:
    """Four pages that only this test knows."""
    name = f"p{abs(hash(request.node.name))}"
    for page in (name, *(f"{name}-{way}" for way in "abc")):
        web.request("PUT", page, 1)
    return name


class Moving:
    """Wiki tools under which a page moves as soon as it has been read so often."""

    def __init__(self, web: Wiki, page: str, after: int) -> None:
        self.web, self.page, self.after = web, page, after

    def request(self, method: str, page: str, body: Any = None) -> tuple[Any, str | None]:
        found = self.web.request(method, page, body)
        if (method, page) == ("GET", self.page):
            self.after -= 1
            if self.after == 0:
                self.web.request("PUT", self.page, "somebody else")
        return found


def test_the_best_candidate_is_promoted_in_a_world_that_stands_still(web: Wiki, pages: str) -> None:
    with open_store("memory://") as house:
        assert life(house, editor(Tools(web), []), pages) == "b"
        assert puts(web, pages) == 2
        assert [record.branch for record in of(Promoted, house)] == ["b3"]


def test_a_candidate_whose_reading_has_moved_is_not_promoted_and_the_next_best_is(web: Wiki, pages: str) -> None:
    tools = Tools(Moving(web, f"{pages}-b", 1))  # type: ignore[arg-type]
    with open_store("memory://") as house:
        assert life(house, editor(tools, []), pages) == "c"
        assert [record.branch for record in of(Promoted, house)] == ["b4"]
        assert puts(web, pages) == 2


def test_where_all_candidates_stand_on_what_has_moved_none_is_promoted(web: Wiki, pages: str) -> None:
    tools = Tools(Moving(web, pages, 1))  # type: ignore[arg-type]
    with open_store("memory://") as house:
        ending = life(house, editor(tools, []), pages)
        assert isinstance(ending, NoCandidate)
        assert "the world has moved on since the branch read it: `wiki.page` at r@b3:3 has moved" in str(ending)
        assert of(Promoted, house) == []
        assert puts(web, pages) == 2, "two by somebody else, none by the agent"


def speculated(house: House, tools: Tools, page: str) -> tuple[Agent, str]:
    """A speculative branch that has read a page and planned to write another one."""

    @agent
    def caller(run: Any, task: Any) -> str:
        text = tools.page(page)
        if run.branch != "main":
            tools.put(f"{page}-a", text)
        return run.wait_for("go")

    life(house, caller)
    branch = house.fork(f"{RUN}@3", kind="speculative", by="ann")
    life(house, caller, branch=branch)
    return caller, branch


def test_a_person_does_not_promote_a_branch_that_stands_on_what_has_moved(web: Wiki, pages: str) -> None:
    with open_store("memory://") as house:
        caller, branch = speculated(house, Tools(web), pages)
        web.request("PUT", pages, 2)
        with pytest.raises(Drifted) as drifted:
            house.promote(RUN, branch, by="ann")
        assert f"`wiki.page` at r@{branch}:3 has moved" in drifted.value.what
        assert of(Promoted, house) == []
        house.promote(RUN, branch, by="ann", check_drift=False)
        life(house, caller)
        assert puts(web, f"{pages}-a") == 2


def test_a_branch_is_promoted_whatever_has_moved_that_told_no_version(web: Wiki, pages: str) -> None:
    now = [1]

    @tool(kind="read", name="world.clock")
    def clock() -> int:
        now[0] += 1
        return now[0]

    @agent
    def caller(run: Any, task: Any) -> str:
        clock()
        return run.wait_for("go")

    with open_store("memory://") as house:
        life(house, caller)
        branch = house.fork(f"{RUN}@3", kind="speculative", by="ann")
        life(house, caller, branch=branch)
        house.promote(RUN, branch, by="ann")
        assert now == [2], "nobody asked again"


def test_what_another_branch_wrote_is_no_excuse_for_a_promotion(web: Wiki, pages: str) -> None:
    tools = Tools(web)
    at: list[str] = []
    caller = forks(tools, pages, at=at)
    with open_store("memory://") as house:
        life(house, caller)
        branch = house.fork(f"{RUN}@3", kind="what-if", by="ann")
        life(house, caller, branch=branch)
        at.append(pages)
        life(house, caller)
        assert one(house, f"{RUN}@{branch}").fate is OURS
        with pytest.raises(Drifted):
            house.promote(RUN, branch, by="ann")


# --- versions and answers ---


def test_where_no_version_is_told_the_answers_are_compared_whatever_their_order() -> None:
    world: dict[str, Any] = {"title": "Tide", "pages": 3}

    @tool(kind="read", name="world.look")
    def look() -> Any:
        return world

    with open_store("memory://") as house:
        life(house, runs(look))
        world = {"pages": 3.0, "title": "Tide"}
        assert one(house).fate is SAME
        world = {"pages": 4, "title": "Tide"}
        assert (one(house).fate, one(house).changes) == (MOVED, ("pages: 3 → 4",))


def test_a_version_that_is_the_same_decides_whatever_the_answer_says() -> None:
    told: list[Any] = [Happened({"read_at": 1}, etag='"v1"')]

    @tool(kind="read", name="world.look")
    def look() -> Any:
        return told[-1]

    with open_store("memory://") as house:
        life(house, runs(look))
        told.append(Happened({"read_at": 2}, etag='W/"v1"'))
        assert one(house).fate is SAME
        told.append(Happened({"read_at": 1}, etag='"v2"'))
        assert one(house).fate is MOVED
        told.append({"read_at": 1})
        assert one(house).fate is SAME, "no version this time: the answers are compared"
        told.append({"read_at": 2})
        assert one(house).fate is MOVED


def test_bytes_and_large_answers_are_compared_whole_and_told_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    @tool(kind="read", name="world.look")
    def look(which: int) -> Any:
        return told[which]

    monkeypatch.setattr(asking, "COMPARED", 1000)
    with open_store("memory://") as house:
        told += [b"\0" * 10, "x" * 2000, {"a": "y" * 2000}]
        life(house, runs(*[lambda n=n: look(n) for n in range(3)]))
        assert [drift.fate for drift in house.drift(RUN)] == [SAME] * 3
        told[:] = [b"\1" * 10, "x" * 1999, {"a": "z" * 2000}]
        assert [(drift.fate, drift.changes) for drift in house.drift(RUN)] == [
            (MOVED, ("10 other bytes",)),
            (MOVED, ("2002 bytes → 2001 bytes",)),
            (MOVED, ("2008 other bytes",)),
        ]


def test_a_reading_is_repeated_with_the_values_that_it_was_made_with() -> None:
    asked: list[Any] = []

    @tool(kind="read", name="world.sun")
    def sun(day: date, place: Place, hours: int = 3, **more: Any) -> str:
        asked.append((day, place, hours, more))
        return "up"

    with open_store("memory://") as house:
        life(house, runs(lambda: sun(date(2026, 3, 1), Place("Oslo", 59.9), language="no")))
        assert one(house).fate is SAME
        assert asked == [(date(2026, 3, 1), Place("Oslo", 59.9), 3, {"language": "no"})] * 2


def test_a_reading_whose_arguments_no_longer_fit_is_unknown() -> None:
    def declare(kind: type) -> Any:
        def look(at: Any) -> int:
            return 1

        look.__annotations__["at"] = kind
        return tool(kind="read", name="world.look")(look)

    with open_store("memory://") as house:
        before = declare(str)
        life(house, runs(lambda: before("noon")))
        after = declare(date)
        assert (one(house).fate, "no longer fit" in one(house).why) == (UNKNOWN, True)
        assert before is not after


# --- effects ---


@dataclass
class Net:
    """A network that the agent makes, and that a probe can find. `etag` is told by both."""

    there: bool = False
    etag: str | None = None
    asked: list[str] = field(default_factory=list)
    tool: Any = None

    def __post_init__(self) -> None:
        def find(name: str) -> Any:
            self.asked.append(name)
            if not self.there:
                raise NotHappened("there is no such network")
            return Happened({"name": name, "state": "up"}, self.etag)

        @tool(kind="irreversible", name="net.make", probe=find)
        def make(name: str) -> Any:
            self.there = True
            return Happened({"name": name, "state": "pending"}, self.etag)

        self.tool = make


def test_an_effect_has_only_to_be_there_still() -> None:
    net = Net()
    with open_store("memory://") as house:
        life(house, runs(lambda: net.tool("a")))
        assert (one(house).fate, one(house).effect) == (SAME, True), "its answer was another one, but it is there"
        net.there = False
        assert (one(house).fate, one(house).why) == (GONE, "there is no such network")


def test_an_effect_whose_version_is_another_one_has_moved() -> None:
    net = Net(etag="v1")
    with open_store("memory://") as house:
        life(house, runs(lambda: net.tool("a")))
        assert one(house).fate is SAME
        net.etag = "v2"
        assert (one(house).fate, one(house).then, one(house).now) == (MOVED, "v1", "v2")


def test_an_effect_that_cannot_be_asked_about_is_left_out() -> None:
    @tool(kind="irreversible", name="mail.send")
    def send() -> Any:
        return Happened("sent", etag="v1")

    with open_store("memory://") as house:
        life(house, runs(send))
        assert house.drift(RUN) == []


# --- what cannot be told ---


def test_a_tool_that_is_not_declared_here_is_unknown() -> None:
    @tool(kind="read", name="world.forgotten")
    def look() -> int:
        return 1

    tools = [look]
    with open_store("memory://") as house:
        life(house, runs(lambda: tools[0]() + 0))  # the agent, which may linger, does not hold it
        house._functions.clear()
        tools.clear()
        del look
        gc.collect()
        found = one(house)
        assert (found.fate, found.holds) == (UNKNOWN, False)
        assert "name the agent's module" in found.why


def test_two_tools_of_one_name_are_not_chosen_between() -> None:
    @tool(kind="read", name="world.look")
    def look() -> int:
        return 1

    with open_store("memory://") as house:
        life(house, runs(look))

        @tool(kind="read", name="world.look")
        def other() -> int:
            raise AssertionError("nobody asked this one then")

        assert one(house).fate is UNKNOWN
        assert "different functions" in one(house).why
        assert other.holdfast.contract.kind is Kind.READ


@pytest.mark.parametrize("kind", ["idempotent", "irreversible"])
def test_what_was_a_read_and_writes_now_is_not_called(kind: str) -> None:
    made: list[Any] = []

    def declare(kind: str) -> Any:
        @tool(kind=kind, name="world.look")
        def look() -> int:
            made.append(kind)
            return 1

        return look

    with open_store("memory://") as house:
        first = declare("read")
        life(house, runs(first))
        second = declare(kind)
        assert one(house).fate is UNKNOWN
        assert f"declared {kind} now" in one(house).why
        assert made == ["read"]
        assert first is not second


def test_a_reading_that_people_agree_to_each_time_is_not_repeated() -> None:
    made: list[str] = []

    @tool(kind="read", name="records.open", approval="one")
    def open_record(patient: str) -> str:
        made.append(patient)
        return "healthy"

    with open_store("memory://") as house:
        life(house, runs(lambda: open_record("ann")))
        house.approve(f"{RUN}@3", by="doctor")
        life(house, runs(lambda: open_record("ann")))
        assert made == ["ann"]
        assert one(house).fate is UNKNOWN
        assert made == ["ann"]


def test_a_reading_with_secret_arguments_is_not_repeated_with_what_stands_for_them() -> None:
    given: list[str] = []

    def declare(secret: list[str]) -> Any:
        @tool(kind="read", name="bank.balance", identity=["account"], secret=secret)
        def balance(account: str, pin: str) -> int:
            given.append(pin)
            return 7

        return balance

    with open_store("memory://") as house:
        first = declare(["pin"])
        life(house, runs(lambda: first("a", pin="1234")))
        assert one(house).fate is UNKNOWN
        second = declare([])  # newer code no longer calls it a secret
        found = one(house)
        assert (found.fate, given) == (UNKNOWN, ["1234"])
        assert "1234" not in str(found)
        assert second is not first


@dataclass
class Whim:
    """A read that answers well at first, and then does what it likes."""

    does: Callable[[], Any] | None = None
    sync: Any = None
    later: Any = None
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        @tool(kind="read", name="whim.sync", timeout_s=self.timeout_s)
        def sync() -> Any:
            return 1 if self.does is None else self.does()

        @tool(kind="read", name="whim.later", timeout_s=self.timeout_s)
        async def later() -> Any:
            answer = 1 if self.does is None else self.does()
            return await answer if asyncio.iscoroutine(answer) else answer

        self.sync, self.later = sync, later

    def seen(self, house: House) -> None:
        @agent
        async def caller(run: Any, task: Any) -> None:
            await run.call(self.sync)
            await run.call(self.later)
            await run.wait_for("go")

        life(house, caller)


class Strange:
    def __str__(self) -> str:
        raise RuntimeError("nothing to say")


def loud(error: BaseException) -> Callable[[], Any]:
    def call() -> Any:
        raise error

    return call


@pytest.mark.parametrize(
    ("does", "why"),
    [
        (loud(ConnectionError("refused")), "ConnectionError: refused"),
        (loud(SystemExit(0)), "SystemExit: 0"),
        (loud(KeyboardInterrupt()), "KeyboardInterrupt: "),
        (loud(GeneratorExit()), "GeneratorExit: "),
        (loud(RetryAfter(7, "too many requests")), "too many requests; ask again in 7 s"),
        (loud(RuntimeError(Strange())), "RuntimeError: "),
        (object, "cannot be compared"),
        (lambda: Happened(object()), "cannot be compared"),
    ],
)
def test_what_a_tool_does_instead_of_answering_is_unknown(does: Callable[[], Any], why: str) -> None:
    whim = Whim()
    with open_store("memory://") as house:
        whim.seen(house)
        assert [drift.fate for drift in house.drift(RUN)] == [SAME, SAME]
        whim.does = does
        found = house.drift(RUN)
        assert [drift.fate for drift in found] == [UNKNOWN, UNKNOWN]
        assert all(why in drift.why for drift in found), found


def test_a_tool_that_cancels_itself_has_not_told() -> None:
    whim = Whim()
    with open_store("memory://") as house:
        whim.seen(house)
        whim.does = loud(asyncio.CancelledError())
        assert [drift.fate for drift in house.drift(RUN)] == [UNKNOWN, UNKNOWN]


def test_a_tool_that_never_answers_is_given_up_after_its_time() -> None:
    whim = Whim(timeout_s=0.2)
    let_go = threading.Event()
    with open_store("memory://") as house:
        whim.seen(house)

        def hang() -> Any:
            if threading.current_thread() is not threading.main_thread():
                return let_go.wait(60)
            return asyncio.sleep(60)

        whim.does = hang
        found = house.drift(RUN)
        let_go.set()
        assert [(drift.fate, drift.why) for drift in found] == [(UNKNOWN, "no answer within 0.2 s")] * 2


def test_a_tool_that_names_no_time_is_given_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    whim = Whim()
    monkeypatch.setattr(asking, "TIMEOUT_S", 0.2)
    with open_store("memory://") as house:
        whim.seen(house)
        whim.does = lambda: asyncio.sleep(60) if threading.current_thread() is threading.main_thread() else 1
        assert [drift.fate for drift in house.drift(RUN)] == [SAME, UNKNOWN]


def test_an_answer_that_was_never_written_down_cannot_be_compared() -> None:
    @tool(kind="read", name="world.look")
    def look() -> Any:
        return object()

    @agent
    def caller(run: Any, task: Any) -> None:
        with contextlib.suppress(Exception):
            look()
        run.wait_for("go")

    with open_store("memory://") as house:
        life(house, caller)
        assert one(house).fate is UNKNOWN


def test_what_was_pruned_is_unknown_and_what_was_damaged_stops_the_check() -> None:
    answers = iter([{"a": 1}, {"a": 2}, {"a": 3}])

    @tool(kind="read", name="world.look")
    def look() -> Any:
        return next(answers)

    with open_store("memory://") as house:
        life(house, runs(look))
        blobs = house.store._blobs  # type: ignore[attr-defined]
        answer = hashlib.sha256(b'{"a":1}').digest()
        kept = blobs.pop(answer)
        assert one(house).fate is UNKNOWN
        blobs[answer] = type(kept)(answer, b'{"a":7}', kept.rope)
        with pytest.raises(Corrupt):
            house.drift(RUN)


# --- many ---


def test_a_thousand_readings_are_each_asked_once_a_few_at_a_time() -> None:
    guard, at_work, most = threading.Lock(), 0, 0
    asked: list[int] = []

    @tool(kind="read", name="world.look")
    async def look(number: int) -> int:
        nonlocal at_work, most
        with guard:
            at_work += 1
            most = max(most, at_work)
        await asyncio.sleep(0.001)
        asked.append(number)
        at_work -= 1
        return -1 if number == 700 and len(asked) > 1000 else number

    @agent
    async def caller(run: Any, task: Any) -> None:
        for number in range(1000):
            await look(number)
        await run.wait_for("go")

    with open_store("memory://") as house:
        life(house, caller)
        assert sorted(asked) == list(range(1000))
        most = 0
        found = house.drift(RUN)
        assert sorted(asked[1000:]) == list(range(1000))
        assert 1 < most <= 16
        assert [drift.args for drift in found] == [f'{{"number":{number}}}' for number in range(1000)], "in log order"
        assert [drift.args for drift in found if drift.fate is not SAME] == ['{"number":700}']


def test_a_tool_that_does_not_answer_again_and_again_is_not_asked_for_all_the_rest() -> None:
    asked = 0
    silent = False

    @tool(kind="read", name="world.look", timeout_s=0.2)
    async def look(number: int) -> int:
        nonlocal asked
        asked += 1
        await asyncio.sleep(60 if silent else 0)
        return number

    @agent
    async def caller(run: Any, task: Any) -> None:
        for number in range(300):
            await look(number)
        await run.wait_for("go")

    with open_store("memory://") as house:
        life(house, caller)
        silent, asked = True, 0
        found = house.drift(RUN)
        assert {drift.fate for drift in found} == {UNKNOWN}
        assert asked <= 32
        assert "did not answer 3 times in a row" in found[-1].why


# --- going on only in the world that was seen ---


def test_a_run_that_is_held_to_the_world_is_not_started_where_it_has_moved(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "held", 1)
    caller = runs(lambda: tools.page("held"), lambda: tools.put("held-out", 1))
    with open_store("memory://") as house:
        life(house, caller)
        house.signal(RUN, "go")
        web.request("PUT", "held", 2)
        before = records(house)
        ending = life(house, caller, check_drift=True)
        assert isinstance(ending, Drifted)
        assert "`wiki.page` at r@3 has moved" in ending.what
        assert "holdfast drift r" in ending.fix
        assert records(house) == before, "no claim, nothing"
        assert life(house, caller) == "done"
        assert life(house, caller, check_drift=True) == "done", "it has nothing to do any more"


def test_a_run_goes_on_in_the_world_that_it_has_seen_or_made(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "kept", 1)
    caller = runs(lambda: tools.page("kept"), lambda: tools.put("kept", 2))
    with open_store("memory://") as house:
        life(house, caller, check_drift=True)  # a run that does not exist yet has seen nothing
        house.signal(RUN, "go")
        assert life(house, caller, check_drift=True) == "done"
        assert len(of(Claim, house)) == 2


def test_a_run_is_not_started_where_nobody_can_tell() -> None:
    whim = Whim()

    with open_store("memory://") as house:
        whim.seen(house)
        whim.does = loud(ConnectionError("down"))
        ending = life(house, runs(), check_drift=True)
        assert isinstance(ending, Drifted)
        assert "`whim.sync` at r@3 cannot be told (ConnectionError: down)" in ending.what


def test_a_run_that_somebody_cancelled_is_told_that(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "cancelled", 1)
    caller = runs(lambda: tools.page("cancelled"))
    with open_store("memory://") as house:
        life(house, caller)
        web.request("PUT", "cancelled", 2)
        house.cancel(RUN, by="ann")
        assert "was cancelled by ann" in str(life(house, caller, check_drift=True))


async def test_each_time_that_it_goes_on_the_world_is_looked_at(web: Wiki) -> None:
    tools = Tools(web)
    web.request("PUT", "waited", 1)
    waits = asyncio.Event()

    @agent
    async def waiter(run: Any, task: Any) -> str:
        await run.call(tools.page, page="waited")
        try:
            return await run.wait_for("go")
        finally:
            waits.set()

    async with open_store("memory://") as house:
        running = asyncio.create_task(house.arun(waiter, id=RUN, check_drift=True))
        await asyncio.wait_for(waits.wait(), 60)
        web.request("PUT", "waited", 2)
        await house.desk.signal(f"{RUN}@main", "go", pack_text(b"1", 1, lambda _: False), by="ann")
        with pytest.raises(Drifted):
            await asyncio.wait_for(running, 60)
        log = (await read_log(house.store, f"{RUN}@main")).log
        assert (log.finished, len(log.claims)) == (None, 1)


# --- what is asked for ---


@pytest.mark.parametrize("place", ["", "@", "@3", "r@main:", "r@b:x", "r@1@2", "r:3"])
def test_a_place_that_is_none_is_refused(place: str) -> None:
    with open_store("memory://") as house, pytest.raises((Misuse, Unknown)):
        house.drift(place)


@pytest.mark.parametrize("place", ["r", "r@b2", "s@1", "r@99"])
def test_a_run_or_node_that_is_not_there_is_unknown(place: str) -> None:
    with open_store("memory://") as house:
        if place == "r@99":
            life(house, runs())
        with pytest.raises(Unknown):
            house.drift(place)


def test_a_run_that_saw_nothing_relies_on_nothing() -> None:
    with open_store("memory://") as house:
        life(house, runs())
        assert house.drift(RUN) == []
        assert of(Intent, house) == []


def test_what_is_told_is_json() -> None:
    net = Net(etag="v1")
    with open_store("memory://") as house:
        life(house, runs(lambda: net.tool("a")))
        from dataclasses import asdict

        told = json.loads(json.dumps(asdict(one(house))))
        assert told == {
            "node": "r@3", "tool": "net.make", "effect": True, "args": '{"name":"a"}', "fate": "same", "why": "",
            "then": "v1", "now": "v1", "changes": [], "writes": [],
        }  # fmt: skip
        assert sys.getsizeof(told) > 0
