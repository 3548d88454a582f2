"""A user's own tools run in a process of their own: what they answer and raise means what it means in embedded mode,
their death is doubt, and no byte of their credential leaves it."""

import asyncio
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import ValidationError

from holdfast.core.canonical import canonical
from holdfast.core.contract import Drift, Repeat
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.errors import BadCall, BadContract, Corrupt, Misuse, Refused, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway import frames
from holdfast.gateway.dial import Dialer
from holdfast.gateway.receipt import Receipt, for_effect, for_read
from holdfast.gateway.upstreams import Prepared
from holdfast.gateway.upstreams.hosted import HostedSystem, PythonConfig, contracts_of, open_python
from holdfast.gateway.upstreams.kit import Kit
from holdfast.gateway.vault import Vault
from holdfast.store.memory import MemoryStore
from tests.gateway.test_vault import BRANCH, KEY, intent, place

SECRET = "s3cr3t-canary-77"
HERE = Path(__file__).parent


class House:
    """A system with its store and its vault, and how a test calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = MemoryStore()
        self.world = folder / "world"
        self.token(SECRET)
        self.system: HostedSystem | None = None

    def token(self, value: str) -> None:
        (self.folder / "token").write_text(value)
        (self.folder / "token").chmod(0o600)

    def config(self, **changes: Any) -> PythonConfig:
        table = {
            "kind": "python",
            "modules": ["crm_tools"],
            "path": [str(HERE)],
            "environment": {"CRM_TOKEN": "credential:crm", "WORLD": str(self.world)},
            **changes,
        }
        return PythonConfig.model_validate(table)

    async def open(self, **changes: Any) -> HostedSystem:
        vault = Vault({"crm": "file:token"}, self.store, uses={"crm": {"crm"}}, folder=self.folder)
        kit = Kit(vault=vault, dialer=Dialer(), folder=self.folder)
        self.system = await open_python("crm", self.config(**changes), kit)
        return self.system

    async def receipt(self, tool: str, key: str = KEY) -> Receipt:
        return for_effect(BRANCH, await place(self.store, intent(tool, key)), tool, key)

    async def prepared(self, operation: str, **args: Any) -> Prepared:
        assert self.system is not None
        return await self.system.prepare(operation, args)

    async def call(self, operation: str, **args: Any) -> Any:
        """Carry out an effect that is written down."""
        call = await self.prepared(operation, **args)
        return await call.upstream.perform(None, await self.receipt(f"crm.{operation}"))

    async def read(self, operation: str, **args: Any) -> Any:
        call = await self.prepared(operation, **args)
        return (await call.upstream.perform(None, for_read(BRANCH, f"crm.{operation}"))).value

    def done(self) -> list[str]:
        return self.world.read_text().splitlines() if self.world.exists() else []


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    made = House(tmp_path_factory.mktemp("house"))
    system = await made.open()
    yield made
    await system.close()


@pytest.fixture
def house(opened: House) -> House:
    """One system for many tests: its world is empty, and its token the first, whenever a test begins."""
    opened.world.unlink(missing_ok=True)
    opened.token(SECRET)
    return opened


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - another process makes it true
            await asyncio.sleep(0.01)


# --- what is offered ---


async def test_contracts_come_from_the_module_under_the_name_of_the_system(house: House) -> None:
    found = {each.name: each for each in await contracts_of("crm", house.config(), house.folder)}
    assert sorted(found) == sorted(
        f"crm.{name}" for name in "die fail half leak list looks made probed slow starts update versioned waits".split()
    )
    update, slow = found["crm.update"], found["crm.slow"]
    assert (update.kind, update.identity, update.resource) == (Kind.IDEMPOTENT, ("customer",), ("customer",))
    assert (update.repeat, update.drift) == (Repeat.ONCE, Drift.ASK)
    assert (slow.kind, slow.timeout_ms) == (Kind.IRREVERSIBLE, 500)


async def test_a_tool_is_described_with_the_schema_of_its_arguments(house: House) -> None:
    assert house.system is not None
    told: Any = house.system.operations()["update"]
    assert told["description"] == "Set a customer's score."
    assert told["schema"]["required"] == ["customer", "score"]
    assert told["schema"]["properties"]["score"]["type"] == "integer"


async def test_a_call_is_bound_with_its_defaults_its_types_and_its_blast_radius(house: House) -> None:
    call = await house.prepared("update", customer="ada", score="5")
    assert call.args == {"customer": "ada", "score": 5, "note": "none"}
    assert (call.chosen, call.touches, call.blast) == ({"customer": "ada"}, {"customer": "ada"}, 3)


@pytest.mark.parametrize(
    ("operation", "args"),
    [
        ("absent", {}),
        ("__init__", {}),
        ("update", {"customer": "ada"}),
        ("update", {"customer": "ada", "score": "many"}),
        ("update", {"customer": "ada", "score": 1, "more": 1}),
        ("list", {"prefix": float("nan")}),
        ("list", {"prefix": "\ud800"}),
        ("list", {"prefix": "x" * (17 << 20)}),
        ("list", {"prefix": json.loads("[" * 500 + "]" * 500)}),
    ],
    ids=range(9),
)
async def test_what_is_not_declared_or_does_not_fit_is_refused(
    house: House, operation: str, args: dict[str, Any]
) -> None:
    with pytest.raises(BadCall):
        await house.prepared(operation, **args)


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("raise ValueError('broken')", "cannot be imported: ValueError: broken"),
        ("import nothing_of_this_name", "cannot be imported"),
        ("import os; os._exit(4)", "exit code 4"),
    ],
)
async def test_a_module_that_cannot_be_imported_is_told_with_the_reason(tmp_path: Path, source: str, told: str) -> None:
    (tmp_path / "broken_tools.py").write_text(source)
    with pytest.raises(Misuse, match=told):
        await House(tmp_path).open(modules=["broken_tools"], path=[str(tmp_path)])


async def test_tools_with_secret_arguments_are_not_offered(tmp_path: Path) -> None:
    source = "from holdfast import tool\n@tool(identity=['a'], secret=['b'])\ndef note(a: str, b: str) -> None: ...\n"
    (tmp_path / "secret_tools.py").write_text(source)
    with pytest.raises(BadContract, match="secret arguments"):
        await House(tmp_path).open(modules=["secret_tools"], path=[str(tmp_path)])


async def test_a_tool_that_a_module_only_imports_is_not_offered(tmp_path: Path) -> None:
    (tmp_path / "few_tools.py").write_text(
        "from holdfast import tool\nfrom crm_tools import die\n@tool(kind='read')\ndef one() -> int: return 1\n"
    )
    found = await contracts_of(
        "crm", House(tmp_path).config(modules=["few_tools"], path=[str(tmp_path), str(HERE)]), tmp_path
    )
    assert [each.name for each in found] == ["crm.one"]


# --- what a tool answers and raises ---


async def test_a_tool_is_called_with_its_key_and_its_answer_comes_back(house: House) -> None:
    reply = await house.call("update", customer="ada", score=5)
    assert reply.value == {"customer": "ada", "score": 5, "token_length": len(SECRET), "note": "none"}
    assert reply.encoding is Encoding.JSON
    assert house.done() == [f"update ada 5 {KEY}"]


async def test_a_call_is_carried_out_from_its_recorded_arguments(house: House) -> None:
    call = await house.prepared("update", customer="ada", score=5)
    recorded = canonical(dict(call.args))
    other = await house.prepared("update", customer="grace", score=1)
    reply = await other.upstream.perform(recorded, await house.receipt("crm.update"))
    assert reply.value["customer"] == "ada"
    assert house.done() == [f"update ada 5 {KEY}"]


async def test_the_version_that_a_tool_tells_is_kept(house: House) -> None:
    assert (await house.call("versioned", customer="ada")).etag == "v7"


async def test_a_read_needs_no_intent(house: House) -> None:
    assert await house.read("list", prefix="a") == ["ada", "alan"]


async def test_what_a_tool_raises_means_what_it_means_in_embedded_mode(house: House) -> None:
    with pytest.raises(DidNotHappen, match="no such customer"):
        await house.call("fail", how="not happened")
    with pytest.raises(RetryAfter) as later:
        await house.call("fail", how="later")
    assert later.value.seconds == 7.5
    for how, told in (("error", "ValueError: bad answer"), ("exit", "SystemExit")):
        with pytest.raises(RuntimeError, match=told):  # neither a refusal nor a retry: doubt
            await house.call("fail", how=how)
    assert (await house.call("fail", how="object")).encoding is Encoding.LOST


async def test_a_probe_tells_of_the_world(house: House) -> None:
    call = await house.prepared("probed", customer="ada")
    receipt = await house.receipt("crm.probed")
    assert await call.upstream.probe(None, receipt) == NotHappened("no ada")
    await call.upstream.perform(None, receipt)
    found = await call.upstream.probe(None, receipt)
    assert isinstance(found, Happened)
    assert (found.answer.value, found.etag) == ("found ada", "e1")
    assert await (await house.prepared("probed", customer="unknown")).upstream.probe(None, receipt) is None


async def test_an_undo_is_given_the_answer_and_a_key_of_its_own(house: House) -> None:
    call = await house.prepared("made", customer="ada")
    answer = await call.upstream.perform(None, await house.receipt("crm.made"))
    undo = await house.receipt("crm.made.undo", "1e" * 16)
    assert (await call.upstream.undo(None, answer, undo)).value == "gone"
    await call.upstream.undo(None, None, undo)
    assert house.done() == ["made ada", f"unmade ada id-ada {'1e' * 16}", f"unmade ada None {'1e' * 16}"]


# --- no credential without an intent ---


async def test_no_host_is_started_without_a_receipt(house: House) -> None:
    call = await house.prepared("update", customer="ada", score=5)
    forged = Receipt(BRANCH, 7, "crm.update", KEY, bytes(32))
    for receipt in (forged, for_effect(BRANCH, 7, "crm.update", KEY)):
        with pytest.raises(Refused):
            await call.upstream.perform(None, receipt)
    assert house.done() == []


async def test_the_host_that_lists_has_no_credential(tmp_path: Path) -> None:
    (tmp_path / "peeking_tools.py").write_text(
        "import os, pathlib\nfrom holdfast import tool\n"
        f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(repr(dict(os.environ)))\n"
        "@tool(kind='read')\ndef one() -> int: return 1\n"
    )
    house = House(tmp_path)
    system = await house.open(modules=["peeking_tools"], path=[str(tmp_path)])
    await house.prepared("one")
    await system.close()
    assert "CRM_TOKEN" not in (tmp_path / "seen").read_text()


# --- the process ---


async def test_a_host_sees_its_declared_environment_and_nothing_of_the_gateway(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_OWN", "not for tools")
    call = await house.prepared("looks")
    reply = await call.upstream.perform(None, for_read(BRANCH, "crm.looks"))
    seen = reply.value
    assert set(seen["environment"]) <= {
        "CRM_TOKEN", "WORLD", "PATH", "LANG", "HOME", "TMPDIR", "PYTHONUNBUFFERED", "PYTHONUTF8", "LC_CTYPE",
    }  # fmt: skip
    assert seen["environment"]["CRM_TOKEN"] == "[credential:crm]"
    assert Path(seen["cwd"]) != Path.cwd()
    kinds = {where.partition(":")[0] for where in seen["descriptors"]}
    assert kinds <= {"/dev/null", "pipe", "socket", "anon_inode", "/proc/self/fd"} | {
        where for where in kinds if where.startswith("/proc/")
    }
    assert sum(where.startswith("socket:") for where in seen["descriptors"]) == 3  # its own, and its loop's pair
    assert SECRET not in " ".join(seen["arguments"])


async def test_a_host_is_used_again_and_again(house: House) -> None:
    assert (await house.read("looks"))["pid"] == (await house.read("looks"))["pid"]


async def test_after_a_rotation_the_next_call_is_made_in_a_new_host_and_the_old_one_ends(house: House) -> None:
    before = (await house.read("looks"))["pid"]
    house.token("another-secret-8888")
    assert (await house.call("update", customer="ada", score=1)).value["token_length"] == len("another-secret-8888")
    await until(lambda: not _lives(before))


async def test_a_rotation_does_not_end_what_is_at_work(house: House, tmp_path: Path) -> None:
    call = await house.prepared("waits", until=str(tmp_path / "go"))
    working = asyncio.ensure_future(call.upstream.perform(None, await house.receipt("crm.waits")))
    await until(lambda: house.done() == ["waits begins"])
    house.token("another-secret-8888")
    await house.read("list")
    assert call.upstream.running(KEY)
    (tmp_path / "go").touch()
    assert (await working).value == "done"


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("how", ["killed", "exit"])
async def test_a_host_that_dies_at_a_call_leaves_it_in_doubt_and_the_next_call_has_a_new_one(
    house: House, how: str
) -> None:
    with pytest.raises(RuntimeError, match="died while it was at it"):
        await house.call("die", how=how)
    assert house.done() == [f"die {how}"]
    assert (await house.call("update", customer="ada", score=1)).value["score"] == 1


async def test_sigkill_of_a_host_in_a_call_is_doubt_and_nothing_counts_as_running(house: House, tmp_path: Path) -> None:
    pid = (await house.read("looks"))["pid"]
    call = await house.prepared("waits", until=str(tmp_path / "never"))
    working = asyncio.ensure_future(call.upstream.perform(None, await house.receipt("crm.waits")))
    await until(lambda: house.done() == ["waits begins"])
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="signal 9"):
        await working
    assert not call.upstream.running(KEY)


async def test_what_a_dead_host_had_started_dies_with_it(house: House, tmp_path: Path) -> None:
    pid = (await house.read("looks"))["pid"]
    call = await house.prepared("starts", until=str(tmp_path / "never"))
    working = asyncio.ensure_future(call.upstream.perform(None, await house.receipt("crm.starts")))
    await until(lambda: house.world.exists() and house.world.read_text().endswith("\n"))
    child = int(house.done()[0].removeprefix("child "))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="signal 9"):
        await working
    await until(lambda: not _lives(child) or _state(child) == "Z")


async def test_a_host_that_died_before_it_began_has_certainly_not_called(house: House) -> None:
    pid = (await house.read("looks"))["pid"]
    call, receipt = await house.prepared("update", customer="ada", score=1), await house.receipt("crm.update")
    os.kill(pid, signal.SIGSTOP)
    working = asyncio.ensure_future(call.upstream.perform(None, receipt))
    await until(lambda: call.upstream.running(KEY))
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DidNotHappen, match="before it was called"):
        await working
    assert house.done() == []


async def test_a_function_that_a_timeout_left_behind_counts_as_running_until_it_returns(
    house: House, tmp_path: Path
) -> None:
    call = await house.prepared("slow", until=str(tmp_path / "go"))
    working = asyncio.ensure_future(call.upstream.perform(None, await house.receipt("crm.slow")))
    await until(lambda: house.done() == ["slow begins"])
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    await house.read("list")  # the host has heard by now that nobody waits
    assert call.upstream.running(KEY)
    assert not call.upstream.running("1e" * 16)
    (tmp_path / "go").touch()
    await until(lambda: not call.upstream.running(KEY))
    assert house.done() == ["slow begins", "slow ends"]


async def test_a_coroutine_that_nobody_waits_for_any_more_is_given_up(house: House, tmp_path: Path) -> None:
    call = await house.prepared("waits", until=str(tmp_path / "go"))
    working = asyncio.ensure_future(call.upstream.perform(None, await house.receipt("crm.waits")))
    await until(lambda: house.done() == ["waits begins"])
    working.cancel()
    await until(lambda: not call.upstream.running(KEY))
    (tmp_path / "go").touch()
    await house.read("list")
    assert house.done() == ["waits begins"]


async def test_a_host_and_what_it_has_started_end_when_the_gateway_is_killed(tmp_path: Path) -> None:
    program = f"""
import asyncio, pathlib
from holdfast.gateway.toolhost import start
here, folder = {str(HERE)!r}, {str(tmp_path)!r}
async def main():
    host = await start("crm", ["crm_tools"], [here], dict(WORLD=folder + "/world"), pathlib.Path(folder))
    print(host.pid, flush=True)
    await host.ask("call", key="ab" * 16, tool="crm_tools.starts", args=dict(until=folder + "/never"))
asyncio.run(main())
"""
    gateway = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    assert gateway.stdout is not None
    pid = int(await gateway.stdout.readline())
    world = tmp_path / "world"
    await until(lambda: world.exists() and world.read_text().endswith("\n"))
    child = int(world.read_text().split()[1])
    gateway.kill()
    await gateway.wait()
    for each in (pid, child):
        await until(lambda each=each: not _lives(each) or _state(each) == "Z")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


async def test_a_module_that_changed_since_it_was_listed_is_not_called(tmp_path: Path) -> None:
    source = "from holdfast import tool\n@tool(kind='{kind}')\ndef note(a: str) -> str: return a\n"
    (tmp_path / "shifting_tools.py").write_text(source.format(kind="irreversible"))
    house = House(tmp_path)
    system = await house.open(modules=["shifting_tools"], path=[str(tmp_path)])
    (tmp_path / "shifting_tools.py").write_text(source.format(kind="idempotent"))
    shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
    with pytest.raises(DidNotHappen, match="not what was listed"):
        await house.call("note", a="1")
    await system.close()


# --- no byte of the credential ---


async def test_a_credential_leaves_its_host_in_no_answer_no_error_and_no_printed_line(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    call = await house.prepared("leak")
    reply = await call.upstream.perform(None, for_read(BRANCH, "crm.leak"))
    assert reply.value == {"sent": "Bearer [credential:crm]", "hex": "[credential:crm]"}
    told = [reply.data.decode()]
    for how in ("not happened", "error"):
        with pytest.raises((DidNotHappen, RuntimeError)) as failed:
            await house.call("fail", how=how)
        told.append(repr(failed.value))
    await until(lambda: "child sees" in caplog.text)
    told.append(caplog.text)
    told += [
        path.read_text(errors="replace") for path in house.folder.rglob("*") if path.is_file() and path.name != "token"
    ]
    assert not [text for text in told if SECRET in text or SECRET.encode().hex() in text]
    assert "the token is [credential:crm]" in caplog.text


# --- what a host says is data ---


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b"nonsense", b'{"id": "1", "came": "reply"}', b'{"id": 1, "came": "granted"}', b"\xff", b"[" * 5000],
)
async def test_what_is_not_understood_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        frames.answer_of(data)


async def test_a_length_beyond_the_bound_is_refused_before_anything_is_read() -> None:
    with pytest.raises(Corrupt, match="too long"):
        frames.size_of(b"\xff\xff\xff\xff")


async def test_a_host_that_says_what_nobody_asked_is_ended_and_its_calls_are_in_doubt(tmp_path: Path) -> None:
    (tmp_path / "lying_tools.py").write_text(
        "import os, socket, time\nfrom holdfast import tool\n@tool()\ndef lie() -> str:\n"
        "    for name in os.listdir('/proc/self/fd'):\n"
        "        try: socket.socket(fileno=os.dup(int(name))).send(b'\\x00\\x00\\x00\\x02{}')\n"
        "        except OSError: pass\n"
        "    time.sleep(60)\n"
    )
    house = House(tmp_path)
    system = await house.open(modules=["lying_tools"], path=[str(tmp_path)])
    with pytest.raises(RuntimeError, match="died while it was at it"):
        await house.call("lie")
    await system.close()


@pytest.mark.parametrize(
    "change",
    [
        {"modules": []},
        {"modules": ["os; import sys"]},
        {"environment": {"PYTHONPATH": "x"}},
        {"environment": {"LD_PRELOAD": "x"}},
        {"environment": {"1A": "x"}},
        {"more": 1},
    ],
)
async def test_a_configuration_that_would_reach_further_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    assert House(tmp_path).config().credentials == ("crm",)
    with pytest.raises(ValidationError):
        House(tmp_path).config(**change)
