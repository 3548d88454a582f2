"""The sql upstream against a real PostgreSQL: what it lets through, what it counts, and what it knows after a crash."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.core.canonical import canonical
from holdfast.core.capability import Terms
from holdfast.core.contract import Level
from holdfast.core.effect import Encoding, Happened, Kind, NotHappened
from holdfast.errors import BadCall, InDoubt, Refused
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.sql import SqlConfig, SqlSystem, open_sql
from holdfast.gateway.upstreams.sql_functions import COUNTING, PURE
from holdfast.gateway.wards import Wanted, Wards
from holdfast.store import Store
from holdfast.store.sqlite import SqliteStore
from tests.gateway.lodge import Rules
from tests.gateway.outfit import Outfit
from tests.gateway.sql_server import READER, WRITER, Cut, Relay, Server

WAIT_S = 60
TABLES = """
DROP SCHEMA public CASCADE; CREATE SCHEMA public; GRANT USAGE, CREATE ON SCHEMA public TO writer;
GRANT USAGE ON SCHEMA public TO reader;
CREATE TABLE customer (id int PRIMARY KEY, name text, unseen bool);
CREATE TABLE orders (id int PRIMARY KEY, customer int REFERENCES customer ON DELETE CASCADE, total numeric);
CREATE TABLE late (id int UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO customer SELECT n, 'c' || n FROM generate_series(1, 5) n;
INSERT INTO orders SELECT n, 1 + n % 5, n * 1.10 FROM generate_series(1, 50) n;
CREATE TABLE holdfast_keys (key text PRIMARY KEY, answer text, made timestamptz NOT NULL DEFAULT now());
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer; ALTER TABLE late OWNER TO writer;
GRANT SELECT ON customer, orders TO reader;
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.stop()


@pytest.fixture
async def relay(server: Server) -> AsyncIterator[Relay]:
    with server.owner() as owner:
        owner.execute(TABLES)
    async with Relay(server) as relay:
        yield relay


class Desk:
    """One declared database, and calls to it."""

    def __init__(self, system: SqlSystem, outfit: Outfit) -> None:
        self.system = system
        self.outfit = outfit

    async def prepare(self, statement: str, *parameters: Any, **more: Any) -> Prepared:
        return await self.system.prepare("query", {"statement": statement, "parameters": [*parameters], **more})

    async def ask(self, statement: str, *parameters: Any, key: str = "", **more: Any) -> Reply:
        prepared = await self.prepare(statement, *parameters, **more)
        read = prepared.contract.kind is Kind.READ
        receipt = self.outfit.read() if read else await self.outfit.write(key)
        return await prepared.upstream.perform(None, receipt)

    async def value(self, statement: str, *parameters: Any, **more: Any) -> Any:
        return (await self.ask(statement, *parameters, **more)).value


async def desk_on(relay: Relay, folder: Path, store: Store | None = None, **more: Any) -> Desk:
    secrets = {"writer": WRITER, "reader": READER, "wrong": "not-the-password"}
    outfit = Outfit(folder, "db", "db.query", secrets, store)
    told: dict[str, Any] = {
        "kind": "sql", "engine": "postgresql", "host": "127.0.0.1", "port": relay.port, "database": "postgres",
        "role": "writer", "credential": "writer", "read_role": "reader", "read_credential": "reader", "tls": False,
        "writes": ["insert", "update", "delete", "merge", "ddl"], "keys": True,
    }  # fmt: skip
    return Desk(await open_sql("db", SqlConfig(**{**told, **more}), outfit.kit), outfit)


@pytest.fixture
async def desk(relay: Relay, tmp_path: Path) -> Desk:
    return await desk_on(relay, tmp_path)


def count(server: Server, what: str) -> Any:
    with server.owner() as owner:
        cursor = owner.execute(f"SELECT count(*) FROM {what}".encode())  # noqa: S608 - a test's own words
        found = cursor.fetchone()
    assert found is not None
    return found[0]


# --- reads ---


async def test_a_read_answers_columns_and_rows(desk: Desk) -> None:
    answer = await desk.value("select id, name from customer where id < $1 order by id", 3)
    assert answer == {"columns": ["id", "name"], "rows": [[1, "c1"], [2, "c2"]], "row_count": 2}


async def test_a_read_without_rows_still_names_its_columns(desk: Desk) -> None:
    assert await desk.value("select id from customer where id = 99") == {"columns": ["id"], "rows": [], "row_count": 0}


async def test_no_digit_of_a_value_is_lost(desk: Desk) -> None:
    answer = await desk.value(
        "select 12345678901234567890.123456789::numeric, 9007199254740993::int8, 0.1::float8, 'nan'::float8, true,"
        " null, decode('00ff', 'hex'), timestamptz '2026-01-02 03:04:05.000006+01', array[1, null], '{\"a\": 1}'::jsonb"
    )
    assert answer["rows"] == [
        ["12345678901234567890.123456789", 9007199254740993, 0.1, "NaN", True, None, "\\x00ff",
         "2026-01-02 02:04:05.000006+00", "{1,NULL}", '{"a": 1}'],
    ]  # fmt: skip


async def test_parameters_keep_their_value_whatever_stands_in_them(desk: Desk) -> None:
    hostile = ["'; drop table t; --", "\\", '"', "{a,b}", "NULL", "ü\n\t", "$1", "%s"]
    answer = await desk.value(
        "select $1::text, $2::text[], $3::jsonb ->> 'a', $4::bool, $5::text",
        hostile[0],
        hostile,
        {"a": "x"},
        True,
        None,
    )
    (row,) = answer["rows"]
    again = await desk.value("select unnest($1::text[])", hostile)
    assert [row[0], row[2:], [value for (value,) in again["rows"]]] == [hostile[0], ["x", True, None], hostile]


async def test_an_answer_beyond_its_limit_is_refused_and_says_what_to_do(relay: Relay, tmp_path: Path) -> None:
    desk = await desk_on(relay, tmp_path, rows=10, size_bytes=2000)
    many = await desk.value("select n from generate_series(1, 100000) n")
    large = await desk.value("select string_agg(name || $1, '') from customer", "x" * 1000)
    assert [many["error"]["code"], large["error"]["code"]] == ["too_many_rows", "too_large"]
    assert "LIMIT" in many["error"]["fix"]


async def test_what_the_database_says_no_with_is_the_answer_of_a_read(desk: Desk) -> None:
    answer = await desk.value("select * from nowhere")
    assert answer["error"]["code"] == "42P01"


async def test_a_read_goes_by_the_role_that_cannot_write(desk: Desk) -> None:
    answer = await desk.value("select current_user, current_setting from (select 1 as current_setting) x")
    assert answer["rows"] == [["reader", 1]]


async def test_a_read_that_was_taken_for_one_wrongly_still_cannot_write(
    server: Server, relay: Relay, tmp_path: Path
) -> None:
    desk = await desk_on(relay, tmp_path, read_role="writer", read_credential="writer", pure=["sneaky"])
    with server.owner() as owner:
        owner.execute(
            "create function sneaky() returns int language sql volatile security definer"
            " as 'delete from customer; select 1'"
        )
    answer = await desk.value("select sneaky()")
    assert answer["error"]["code"] == "25006"  # read_only_sql_transaction


async def test_a_read_that_runs_too_long_is_stopped_by_the_database(relay: Relay, tmp_path: Path) -> None:
    desk = await desk_on(relay, tmp_path, statement_s=0.2)
    answer = await desk.value("select count(*) from generate_series(1, 1000000000000) n")
    assert answer["error"]["code"] == "57014"


async def test_a_read_without_parameters_goes_by_the_protocol_that_takes_one_statement(
    relay: Relay, desk: Desk
) -> None:
    await desk.value("select 4711 as unlikely")
    at = relay.said.index(b"select 4711")
    message = relay.said[:at].rfind(b"P\0")
    assert 0 <= at - message < 10  # a Parse message, with a name of no length


async def test_a_backslash_means_nothing_even_if_the_role_would_have_it(server: Server, desk: Desk) -> None:
    with server.owner() as owner:
        owner.execute("alter role reader set backslash_quote = on")
        owner.execute("alter role reader set DateStyle = 'German'")
    answer = await desk.value("select '\\', date '2026-01-02'")
    with server.owner() as owner:
        owner.execute("alter role reader reset all")
    assert answer["rows"] == [["\\", "2026-01-02"]]


# --- writes ---


async def test_a_write_answers_how_many_rows_it_changed(server: Server, desk: Desk) -> None:
    answer = await desk.value("update customer set name = $1 where id <= 2 returning id", "x", max_rows=2)
    assert answer == {"columns": ["id"], "rows": [[1], [2]], "row_count": 2, "changed": 2}
    assert count(server, "customer where name = 'x'") == 2


async def test_what_would_change_more_rows_than_agreed_changes_none(server: Server, desk: Desk) -> None:
    with pytest.raises(Declined) as refused:
        await desk.ask("update customer set name = 'x'", max_rows=4)
    told = refused.value.reply.value["error"]  # type: ignore[index]
    assert (told["rows"], told["max_rows"]) == (5, 4)
    assert count(server, "customer where name = 'x'") == 0


async def test_rows_that_a_foreign_key_deletes_count(server: Server, desk: Desk) -> None:
    with pytest.raises(Declined) as refused:
        await desk.ask("delete from customer where id = 1", max_rows=1)
    assert refused.value.reply.value["error"]["rows"] == 11  # type: ignore[index]
    answer = await desk.value("delete from customer where id = 1", max_rows=11)
    assert (answer["row_count"], answer["changed"], count(server, "orders")) == (1, 11, 40)


async def test_rows_that_are_deleted_inside_with_count(desk: Desk) -> None:
    with pytest.raises(Declined) as refused:
        await desk.ask("with d as (delete from orders returning 1) select count(*) from d", max_rows=1)
    assert refused.value.reply.value["error"]["rows"] == 50  # type: ignore[index]


async def test_max_rows_is_the_blast_radius_that_is_judged(desk: Desk) -> None:
    prepared = [
        await desk.prepare("delete from orders", max_rows=7),
        await desk.prepare("delete from orders"),
        await desk.prepare("insert into orders values (100, 1, 1), (101, 1, 1)"),
        await desk.prepare("select 1"),
    ]
    assert [each.blast for each in prepared] == [7, 1, 2, None]
    assert [each.args.get("max_rows") for each in prepared] == [7, 1, 2, None]


async def test_a_write_is_irreversible_and_a_change_of_tables_needs_a_person(desk: Desk) -> None:
    write, ddl = await desk.prepare("delete from orders"), await desk.prepare("drop table orders")
    assert (write.contract.kind, write.contract.probe, write.contract.approval) == (
        Kind.IRREVERSIBLE, True, Level.NONE,
    )  # fmt: skip
    assert (ddl.contract.kind, ddl.contract.approval, ddl.blast) == (Kind.IRREVERSIBLE, Level.ONE, None)


async def test_a_change_of_tables_is_carried_out(server: Server, desk: Desk) -> None:
    await desk.ask("create table fresh (id int primary key, at timestamptz default now())")
    assert count(server, "fresh") == 0


async def test_a_write_that_is_not_declared_is_refused(relay: Relay, tmp_path: Path) -> None:
    desk = await desk_on(relay, tmp_path, writes=["insert"])
    for statement in ("delete from orders", "with d as (delete from orders returning id) insert into late table d"):
        with pytest.raises(BadCall, match="delete"):
            await desk.prepare(statement)


async def test_a_constraint_that_is_broken_proves_that_nothing_happened(server: Server, desk: Desk) -> None:
    with pytest.raises(Declined, match="23505") as refused:
        await desk.ask("insert into customer values (1, 'again')")
    assert refused.value.reply.value["error"]["code"] == "23505"  # type: ignore[index]
    assert count(server, "holdfast_keys") == 0


async def test_a_constraint_that_was_put_off_is_looked_at_before_commit(desk: Desk) -> None:
    with pytest.raises(Declined, match="23505"):
        await desk.ask("insert into late values (1), (1)")


async def test_nothing_is_written_where_the_database_does_not_count(server: Server, desk: Desk) -> None:
    with server.owner() as owner:
        owner.execute("alter role writer set track_counts = off")
    try:
        with pytest.raises(DidNotHappen, match="does not count"):
            await desk.ask("delete from orders", max_rows=100)
    finally:
        with server.owner() as owner:
            owner.execute("alter role writer reset track_counts")
    assert count(server, "orders") == 50


async def test_the_same_key_writes_once_and_gets_the_same_answer(server: Server, desk: Desk) -> None:
    key = "0a" * 16
    first = await desk.ask("insert into customer values (6, 'x') returning id", key=key)
    second = await desk.ask("insert into customer values (6, 'x') returning id", key=key)
    assert (first.data, count(server, "customer")) == (second.data, 6)


async def test_two_writes_under_one_key_at_once_write_once(server: Server, desk: Desk) -> None:
    key = "0b" * 16
    replies = await asyncio.gather(
        *(desk.ask("insert into customer values ((select max(id) + 1 from customer), 'x')", key=key) for _ in range(4))
    )
    assert (len({reply.data for reply in replies}), count(server, "customer")) == (1, 6)


async def test_a_missing_table_of_keys_says_how_to_make_it(server: Server, desk: Desk) -> None:
    with server.owner() as owner:
        owner.execute("drop table holdfast_keys")
    with pytest.raises(DidNotHappen) as refused:
        await desk.ask("delete from orders where id = 1")
    assert "CREATE TABLE holdfast_keys" in refused.value.fix


# --- what is known after a crash ---


async def probe(desk: Desk, statement: str, key: str) -> Happened[Reply] | NotHappened | None:
    prepared = await desk.prepare(statement)
    return await prepared.upstream.probe(canonical(dict(prepared.args)), await desk.outfit.write(key))


async def test_a_commit_that_never_arrived_is_doubt_until_the_probe_has_asked(
    server: Server, relay: Relay, desk: Desk
) -> None:
    relay.cut = Cut.BEFORE
    with pytest.raises(Exception, match="no answer to COMMIT") as lost:  # to the client it may have been sent
        await desk.ask("delete from orders where id = 1", key="01" * 16)
    assert not isinstance(lost.value, DidNotHappen)
    relay.cut = Cut.NEVER
    found = await probe(desk, "delete from orders where id = 1", "01" * 16)
    assert (isinstance(found, NotHappened), count(server, "orders")) == (True, 50)


async def test_a_connection_that_is_lost_before_the_statement_is_answered_proves_that_nothing_happened(
    server: Server, relay: Relay, desk: Desk
) -> None:
    relay.cut, relay.word = Cut.AFTER, b"delete from orders"
    with pytest.raises(DidNotHappen, match="before anything was committed"):
        await desk.ask("delete from orders where id = 1")
    assert count(server, "orders") == 50


async def test_a_commit_that_nobody_answered_is_doubt_and_the_probe_finds_its_answer(
    server: Server, relay: Relay, desk: Desk
) -> None:
    relay.cut = Cut.AFTER
    with pytest.raises(Exception, match="no answer to COMMIT") as lost:
        await desk.ask("delete from orders where id = 1 returning id", key="02" * 16)
    assert not isinstance(lost.value, DidNotHappen)
    relay.cut = Cut.NEVER
    found = await probe(desk, "delete from orders where id = 1 returning id", "02" * 16)
    assert isinstance(found, Happened)
    assert found.answer.value == {"columns": ["id"], "rows": [[1]], "row_count": 1, "changed": 1}
    assert count(server, "orders") == 49


async def test_without_a_table_of_keys_nobody_can_tell(relay: Relay, tmp_path: Path) -> None:
    desk = await desk_on(relay, tmp_path, keys=False)
    prepared = await desk.prepare("delete from orders where id = 1")
    assert not prepared.contract.probe
    assert await prepared.upstream.probe(None, await desk.outfit.write()) is None


async def test_a_probe_waits_for_a_transaction_that_is_still_at_work(server: Server, relay: Relay, desk: Desk) -> None:
    relay.cut = Cut.HOLD
    statement, key = "delete from orders where id = 1", "03" * 16
    writing = asyncio.create_task(desk.ask(statement, key=key))
    await asyncio.wait_for(relay.held.wait(), WAIT_S)
    relay.cut = Cut.NEVER
    probing = asyncio.create_task(probe(desk, statement, key))
    await until(server, "pg_stat_activity where wait_event_type = 'Lock' and query like 'INSERT INTO holdfast_keys%'")
    assert not probing.done()
    relay.release.set()
    await asyncio.wait_for(writing, WAIT_S)
    assert isinstance(await asyncio.wait_for(probing, WAIT_S), Happened)


async def until(server: Server, what: str) -> None:
    """Until at least one row is there."""
    for _ in range(WAIT_S * 20):
        if count(server, what):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"never: {what}")


async def test_a_server_that_dies_in_the_middle_leaves_a_question_that_its_log_answers(
    server: Server, relay: Relay, desk: Desk
) -> None:
    relay.cut = Cut.AFTER
    with pytest.raises(Exception, match="no answer to COMMIT"):
        await desk.ask("delete from orders where id = 1", key="04" * 16)
    relay.cut, relay.held = Cut.HOLD, asyncio.Event()
    open_one = asyncio.create_task(desk.ask("delete from orders where id = 2", key="05" * 16))
    await asyncio.wait_for(relay.held.wait(), WAIT_S)
    await asyncio.to_thread(server.restart)
    relay.release.set()
    with pytest.raises(Exception, match="no answer to COMMIT"):
        await asyncio.wait_for(open_one, WAIT_S)
    relay.cut = Cut.NEVER
    committed = await probe(desk, "delete from orders where id = 1", "04" * 16)
    taken_back = await probe(desk, "delete from orders where id = 2", "05" * 16)
    assert (type(committed), type(taken_back), count(server, "orders")) == (Happened, NotHappened, 49)


async def test_a_recorded_call_is_carried_out_from_its_bytes(server: Server, desk: Desk) -> None:
    prepared = await desk.prepare("delete from orders where id = $1", 1)
    other = await desk.prepare("select 1")
    reply = await other.upstream.perform(canonical(dict(prepared.args)), await desk.outfit.write())
    assert (json.loads(reply.data)["changed"], count(server, "orders")) == (1, 49)
    assert prepared.upstream.read(reply.data, Encoding.JSON) == reply


# --- behind a ward ---


@pytest.mark.parametrize(("cut", "statements"), [(Cut.BEFORE, 2), (Cut.AFTER, 1)])
async def test_a_program_gets_the_answer_of_a_write_whose_commit_was_in_doubt(
    server: Server, relay: Relay, tmp_path: Path, cut: Cut, statements: int
) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    desk = await desk_on(relay, tmp_path, store)
    rules = Rules()
    wards = Wards(store, lambda: rules, patience_s=0)
    taken = await wards.open(Wanted(run="r", agent="clerk", terms=Terms(tools=("*",)), by="tester"))
    relay.cut = cut
    prepared = await desk.prepare("update orders set total = total + 1 where id = 1 returning id", max_rows=1)
    reply = await taken.ward.call(taken.right, prepared)
    taken.ward.delivered(prepared)
    await wards.close("r", answer={"exit": 0}, ended=True)
    await store.close()
    assert json.loads(reply.data) == {"columns": ["id"], "rows": [[1]], "row_count": 1, "changed": 1}
    assert count(server, "orders where id = 1 and total = 2.10") == 1
    assert relay.said.count(b"update orders set") == statements
    assert [facts.blast for facts in rules.judged][:1] == [1]


async def test_a_program_that_asked_for_too_few_rows_may_ask_for_more(
    server: Server, relay: Relay, tmp_path: Path
) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    desk = await desk_on(relay, tmp_path, store)
    rules = Rules()
    wards = Wards(store, lambda: rules, patience_s=0)
    taken = await wards.open(Wanted(run="r", agent="clerk", terms=Terms(tools=("*",)), by="tester"))
    few, more = [await desk.prepare("delete from orders where id < 4", max_rows=most) for most in (1, 3)]
    with pytest.raises(Declined) as declined:
        await taken.ward.call(taken.right, few)
    taken.ward.delivered(few)
    reply = await taken.ward.call(taken.right, more)
    await wards.close("r", answer={"exit": 0}, ended=True)
    await store.close()
    assert declined.value.reply.value["error"]["rows"] == 3  # type: ignore[index]
    assert (json.loads(reply.data)["changed"], count(server, "orders")) == (3, 47)
    assert [facts.blast for facts in rules.judged] == [1, 3]


async def test_without_a_table_of_keys_a_person_is_asked(server: Server, relay: Relay, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "runs.db")
    desk = await desk_on(relay, tmp_path, store, keys=False)
    wards = Wards(store, Rules, patience_s=0)
    taken = await wards.open(Wanted(run="r", agent="clerk", terms=Terms(tools=("*",)), by="tester"))
    relay.cut = Cut.AFTER
    with pytest.raises(InDoubt):
        await taken.ward.call(taken.right, await desk.prepare("delete from orders where id = 1"))
    await wards.close("r", answer={"exit": 0}, ended=False)
    await store.close()
    assert count(server, "orders") == 49


# --- credentials and the way there ---


async def test_no_credential_is_in_what_comes_back(desk: Desk) -> None:
    reply = await desk.ask("select $1::text, $2::text", f"say {READER}!", READER.encode().hex())
    assert READER.encode() not in reply.data
    assert READER.encode().hex().encode() not in reply.data
    with pytest.raises(Declined) as refused:
        await desk.ask("insert into customer values ($1::int, 'x')", WRITER)
    assert WRITER not in str(refused.value) + json.dumps(refused.value.reply.value)


async def test_a_password_that_is_wrong_changes_nothing_and_is_not_named(relay: Relay, tmp_path: Path) -> None:
    desk = await desk_on(relay, tmp_path, credential="wrong")
    with pytest.raises(DidNotHappen, match="not reached") as refused:
        await desk.ask("delete from orders")
    assert "not-the-password" not in str(refused.value)


async def test_a_server_that_asks_for_the_password_in_the_clear_does_not_get_it(
    server: Server, relay: Relay, desk: Desk
) -> None:
    hba = server.data / "pg_hba.conf"
    before = hba.read_text()
    hba.write_text("local all postgres trust\nlocal all all password\n")
    try:
        with server.owner() as owner:
            owner.execute("select pg_reload_conf()")
        with pytest.raises(DidNotHappen, match="not reached"):
            await desk.ask("select 1")
    finally:
        hba.write_text(before)
        with server.owner() as owner:
            owner.execute("select pg_reload_conf()")
    assert READER.encode() not in relay.said


async def test_a_server_that_offers_no_tls_gets_nothing_where_tls_is_asked_for(relay: Relay, tmp_path: Path) -> None:
    desk = await desk_on(relay, tmp_path, tls=True)
    with pytest.raises(DidNotHappen, match="not reached"):
        await desk.ask("select 1")
    assert b"reader" not in relay.said


async def test_an_address_that_is_not_declared_is_not_dialled(relay: Relay, tmp_path: Path) -> None:
    for host in ("10.0.0.1", "169.254.169.254"):
        desk = await desk_on(relay, tmp_path, host=host)
        with pytest.raises(Refused, match="not dialled"):
            await desk.ask("select 1")


async def test_nothing_goes_to_a_public_address_in_the_clear(relay: Relay, tmp_path: Path) -> None:
    desk = await desk_on(relay, tmp_path, host="192.88.100.1")
    with pytest.raises(DidNotHappen, match="without TLS"):
        await desk.ask("select 1")


# --- the lists ---

_LEAVES_NO_TRACE = {"random", "gen_random_uuid", "uuidv4", "uuidv7", "clock_timestamp", "random_normal"}


def test_no_function_on_the_list_is_volatile_in_a_fresh_database(server: Server) -> None:
    with server.owner() as owner:
        volatile = owner.execute(
            "select distinct proname::text from pg_proc join pg_namespace n on n.oid = pronamespace"
            " where nspname = 'pg_catalog' and provolatile = 'v'"
        ).fetchall()
    assert PURE & {str(name) for (name,) in volatile} <= _LEAVES_NO_TRACE
    assert not COUNTING & PURE
