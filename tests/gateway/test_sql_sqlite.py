"""The sql upstream on SQLite files: SQLite itself says what a statement would do."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import apsw
import pytest
from pydantic import ValidationError

from holdfast.core.canonical import canonical
from holdfast.core.contract import Level
from holdfast.core.effect import Happened, Kind, NotHappened
from holdfast.errors import BadCall, Misuse, RetryAfter
from holdfast.errors import NotHappened as DidNotHappen
from holdfast.gateway.upstreams import Declined, Prepared, Reply
from holdfast.gateway.upstreams.smtp import SmtpConfig
from holdfast.gateway.upstreams.sql import SqlConfig, SqlSystem, open_sql
from tests.gateway.outfit import Outfit

TABLES = """
CREATE TABLE customer (id INTEGER PRIMARY KEY, name TEXT, data BLOB);
CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER REFERENCES customer ON DELETE CASCADE);
CREATE TABLE audit (what TEXT);
CREATE TABLE holdfast_keys (key TEXT PRIMARY KEY, answer TEXT NOT NULL) STRICT;
CREATE VIEW names AS SELECT name FROM customer;
CREATE VIEW keys AS SELECT key FROM holdfast_keys;
CREATE TRIGGER seen AFTER UPDATE ON customer BEGIN INSERT INTO audit VALUES (old.name); END;
CREATE VIRTUAL TABLE words USING fts5 (word);
INSERT INTO customer (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c');
WITH RECURSIVE x(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM x WHERE n < 30)
    INSERT INTO orders SELECT n, 1 + n % 3 FROM x;
"""

ENDLESS = "with recursive x(n) as (values (1) union all select n + 1 from x)"

READS = """
select id, name from customer where id = ?
select * from names n join orders o on o.id = ?1
with recursive x(n) as (values (1) union all select n + 1 from x where n < 5) select * from x where n < ?
select count(*), upper(name), json_extract('{"a": 1}', '$.a'), '{"a": 1}' ->> 'a' from customer where id = ?
explain query plan delete from orders where id = ?
select ?; -- and nothing else
select name from sqlite_master where type = ?
""".strip().splitlines()

WRITES = [
    ("insert into customer (name) values (?)", {"insert"}),
    ("insert into customer (id) values (?) on conflict do update set name = 'x' returning id", {"insert", "update"}),
    ("replace into customer (id) values (?)", {"insert", "delete"}),
    ("update customer set name = ?", {"update", "insert"}),
    ("delete from customer where id = ?", {"delete"}),
    ("with x as (select ?) delete from orders where id in x", {"delete"}),
]

REFUSED = """
select 1; select 2
select 1; delete from orders
begin
begin immediate
commit
rollback
savepoint a
release a
attach '/tmp/other.db' as other
attach ':memory:' as other
detach main
pragma user_version = 3
pragma writable_schema = on
pragma table_info(customer)
select * from pragma_table_info('customer')
vacuum
vacuum into '/tmp/x.db'
analyze
reindex
select load_extension('x')
select readfile('/etc/passwd')
select writefile('/tmp/x', 'y')
select fts3_tokenizer('a')
select zeroblob(1000000000)
select randomblob(10)
select printf('%1000000000d', 1)
insert into audit values (load_extension('x'))
select * from sqlite_dbpage
select * from sqlite_stmt
select * from dbstat
update sqlite_master set sql = ''
delete from sqlite_sequence
select * from holdfast_keys
select * from HOLDFAST_KEYS
select * from keys
delete from holdfast_keys
drop table holdfast_keys
insert into audit select key from holdfast_keys
create temp table t (a)
create trigger t after insert on audit begin delete from orders; end
drop trigger seen
create virtual table t using fts5 (a)
drop table words
create temp view v as select 1
explain select load_extension('x')
select "no such column" from customer
select 'a
-- nothing
/* nothing */
;
""".strip().splitlines()


class Desk:
    """One declared file, and calls to it."""

    def __init__(self, system: SqlSystem, outfit: Outfit, path: Path) -> None:
        self.system = system
        self.outfit = outfit
        self.path = path

    async def prepare(self, statement: str, parameters: Any = (), **more: Any) -> Prepared:
        return await self.system.prepare("query", {"statement": statement, "parameters": parameters, **more})

    async def ask(self, statement: str, parameters: Any = (), key: str = "", **more: Any) -> Reply:
        prepared = await self.prepare(statement, parameters, **more)
        read = prepared.contract.kind is Kind.READ
        receipt = self.outfit.read() if read else await self.outfit.write(key)
        return await prepared.upstream.perform(None, receipt)

    async def value(self, statement: str, parameters: Any = (), **more: Any) -> Any:
        return (await self.ask(statement, parameters, **more)).value

    def count(self, what: str) -> Any:
        with apsw.Connection(str(self.path)) as connection:
            return connection.execute(f"SELECT count(*) FROM {what}").get  # noqa: S608 - a test's own words


@cache
def fresh() -> bytes:
    """The file as each test finds it."""
    connection = apsw.Connection(":memory:")
    connection.execute(TABLES)
    return connection.serialize("main")


async def desk_on(folder: Path, **more: Any) -> Desk:
    path = folder / "shop.db"
    path.write_bytes(fresh())
    outfit = Outfit(folder, "db", "db.query", {})
    told: dict[str, Any] = {
        "kind": "sql", "engine": "sqlite", "path": "shop.db", "keys": True,
        "writes": ["insert", "update", "delete", "ddl"],
    }  # fmt: skip
    return Desk(await open_sql("db", SqlConfig(**{**told, **more}), outfit.kit), outfit, path)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    desk = await desk_on(tmp_path)
    yield desk
    await desk.system.close()


@pytest.mark.parametrize("statement", READS)
async def test_a_read_is_let_through(desk: Desk, statement: str) -> None:
    assert (await desk.prepare(statement, [1])).contract.kind is Kind.READ
    assert "error" not in await desk.value(statement, [1])


@pytest.mark.parametrize(("statement", "verbs"), WRITES)
async def test_a_write_is_told_by_all_that_it_sets_off(desk: Desk, statement: str, verbs: set[str]) -> None:
    found = desk.system.database.classify(statement)
    assert (set(found.verbs), found.parameters) == (verbs, 1)


async def test_refused_is_what_is_not_proven(desk: Desk) -> None:
    let_through = []
    for statement in REFUSED:
        try:
            await desk.prepare(statement)
        except BadCall:
            continue
        let_through.append(statement)
    assert let_through == []


@pytest.mark.parametrize("statement", ["select 1 \0; delete from orders", "\0"])
async def test_a_nul_does_not_hide_what_stands_behind_it(desk: Desk, statement: str) -> None:
    with pytest.raises(BadCall, match="NUL"):
        await desk.prepare(statement)


async def test_a_change_of_tables_needs_a_person_and_is_carried_out(desk: Desk) -> None:
    for statement in ("create table z (a)", "create index i on z (a)", "alter table z rename to y", "drop table y"):
        prepared = await desk.prepare(statement)
        assert (prepared.contract.approval, prepared.blast) == (Level.ONE, None)
        await desk.ask(statement)
    assert desk.count("sqlite_master where name in ('y', 'z', 'i')") == 0


async def test_values_come_back_as_they_are(desk: Desk) -> None:
    answer = await desk.value(
        "select :i, :t, :f, :n, :l, x'00ff', 9e999", {"i": 2**63 - 1, "t": "'\"ü", "f": 0.1, "n": None, "l": [1, "a"]}
    )
    assert answer["rows"] == [[2**63 - 1, "'\"ü", 0.1, None, '[1,"a"]', "x'00ff'", "inf"]]


async def test_a_parameter_that_sqlite_cannot_hold_changes_nothing(desk: Desk) -> None:
    with pytest.raises(Declined, match="bad_parameter"):
        await desk.ask("insert into customer (id) values (?)", [2**63])
    with pytest.raises(Declined):
        await desk.ask("insert into customer (name) values (:a)", {"b": 1})
    assert desk.count("customer") == 3


async def test_what_would_change_more_rows_than_agreed_changes_none(desk: Desk) -> None:
    with pytest.raises(Declined) as refused:
        await desk.ask("update customer set name = 'x'", max_rows=5)  # three rows, and the trigger writes three more
    assert refused.value.reply.value["error"]["rows"] == 6  # type: ignore[index]
    answer = await desk.value("update customer set name = 'x'", max_rows=6)
    assert (answer["row_count"], answer["changed"], desk.count("customer where name = 'x'")) == (3, 6, 3)


async def test_rows_that_a_foreign_key_deletes_count(desk: Desk) -> None:
    with pytest.raises(Declined) as refused:
        await desk.ask("delete from customer where id = 1", max_rows=1)
    assert refused.value.reply.value["error"]["rows"] == 11  # type: ignore[index]


async def test_a_statement_that_never_ends_is_stopped(tmp_path: Path) -> None:
    desk = await desk_on(tmp_path, statement_s=0.2)
    answer = await desk.value(f"{ENDLESS} select count(*) from x")  # noqa: S608
    assert answer["error"]["code"] == "interrupted"
    with pytest.raises(Declined, match="interrupted"):
        await desk.ask(f"insert into audit {ENDLESS} select n from x", max_rows=10**9)  # noqa: S608
    assert desk.count("audit") == 0


async def test_an_answer_beyond_its_limit_is_refused(tmp_path: Path) -> None:
    desk = await desk_on(tmp_path, rows=10)
    answer = await desk.value("select o.id from orders o")
    assert answer["error"]["code"] == "too_many_rows"


async def test_a_database_that_somebody_else_holds_is_asked_again_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.gateway.upstreams.sql_sqlite.BUSY_MS", 10)
    prepared = await desk.prepare("delete from orders where id = 1")
    with apsw.Connection(str(desk.path)) as other, other:
        other.execute("insert into audit values ('x')")
        with pytest.raises(RetryAfter):
            await prepared.upstream.perform(None, await desk.outfit.write())


async def test_the_same_key_writes_once_and_gets_the_same_answer(desk: Desk) -> None:
    replies = await asyncio.gather(
        *(desk.ask("insert into customer (name) values ('x') returning id", key="0a" * 16) for _ in range(4))
    )
    assert (len({reply.data for reply in replies}), desk.count("customer")) == (1, 4)


async def running(desk: Desk, key: str, state: bool) -> None:
    """Until it is, or is no more."""
    for _ in range(60 * 100):
        if desk.system.database.running(key) is state:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never")


async def test_a_write_whose_waiter_is_gone_is_running_until_it_has_ended(desk: Desk) -> None:
    key = "0c" * 16
    statement = f"insert into audit {ENDLESS} select n from x"  # noqa: S608
    writing = asyncio.create_task(desk.ask(statement, key=key, max_rows=10**9))
    await running(desk, key, True)
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    await running(desk, key, False)
    prepared = await desk.prepare("delete from orders where id = 1")
    found = await prepared.upstream.probe(None, await desk.outfit.write(key))
    assert (isinstance(found, NotHappened), desk.count("audit")) == (True, 0)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
import apsw
from holdfast.gateway.upstreams.sql_database import Limits, Query
from holdfast.gateway.upstreams.sql_sqlite import SqliteDatabase

path, when, key = sys.argv[1:]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def watched(connection):
    if when == "before":
        connection.set_commit_hook(die)
    else:
        connection.trace_v2(apsw.SQLITE_TRACE_PROFILE, lambda told: told["sql"] == "COMMIT" and die())

apsw.connection_hooks.append(watched)
limits = Limits(rows=10, size_bytes=1000, statement_s=60)
database = SqliteDatabase(Path(path), limits, keys=True, pure=frozenset())
text = "delete from orders where id = 1 returning id"
query = Query(text=text, parameters=[], statement=database.classify(text))
asyncio.run(database.write(query, "", key=key, most=1))
"""


@pytest.mark.parametrize(("when", "left"), [("before", 30), ("after", 29)])
async def test_a_process_that_dies_at_commit_leaves_a_question_that_the_file_answers(
    desk: Desk, when: str, left: int
) -> None:
    key = "0d" * 16
    process = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", KILLED, str(desk.path), when, key], capture_output=True, timeout=60
    )
    assert process.returncode == -signal.SIGKILL
    prepared = await desk.prepare("delete from orders where id = 1 returning id")
    found = await prepared.upstream.probe(canonical(dict(prepared.args)), await desk.outfit.write(key))
    if when == "before":
        assert isinstance(found, NotHappened)
    else:
        assert isinstance(found, Happened)
        assert found.answer.value == {"columns": ["id"], "rows": [[1]], "row_count": 1, "changed": 1}
    assert desk.count("orders") == left


async def test_a_missing_table_of_keys_says_how_to_make_it(tmp_path: Path) -> None:
    desk = await desk_on(tmp_path)
    apsw.Connection(str(desk.path)).execute("DROP TABLE holdfast_keys")
    with pytest.raises(DidNotHappen) as refused:
        await desk.ask("delete from orders where id = 1")
    assert "CREATE TABLE holdfast_keys" in refused.value.fix


@pytest.mark.parametrize(
    "args",
    [
        {},
        {"statement": 1},
        {"statement": "select 1", "parameters": "x"},
        {"statement": "select ?", "parameters": []},
        {"statement": "select ?", "parameters": ["a\0b"]},
        {"statement": "select 1", "max_rows": 1},
        {"statement": "delete from orders", "max_rows": -1},
        {"statement": "delete from orders", "max_rows": True},
        {"statement": "select 1", "database": "other"},
        {"statement": "select '\ud800'"},
    ],
)
async def test_a_call_that_is_not_understood_is_refused(desk: Desk, args: dict[str, Any]) -> None:
    with pytest.raises(BadCall):
        await desk.system.prepare("query", args)


async def test_there_is_no_other_operation(desk: Desk) -> None:
    with pytest.raises(BadCall, match="no operation"):
        await desk.system.prepare("execute", {"statement": "select 1"})
    assert list(desk.system.operations()) == ["query"]


@pytest.mark.parametrize(
    "told",
    [
        {"engine": "sqlite"},
        {"engine": "sqlite", "path": "x", "host": "y"},
        {"engine": "sqlite", "path": "x", "writes": ["grant"]},
        {"engine": "postgresql", "host": "x"},
        {"engine": "oracle", "path": "x"},
    ],
)
def test_a_configuration_that_contradicts_itself_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SqlConfig(**{"kind": "sql", **told})


async def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(Misuse, match="no database"):
        await desk_on(tmp_path, path="other.db")
    assert not (tmp_path / "other.db").exists()


def test_the_page_about_databases_and_mail_shows_configurations_that_hold() -> None:
    page = (Path(__file__).parents[2] / "docs" / "databases-and-mail.md").read_text()
    shown = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    told = {name: system for block in shown for name, system in block["upstreams"].items()}
    assert SqlConfig(**told["shop"]).keys
    assert SmtpConfig(**told["mail"]).reaches("anna@example.com")


async def test_the_page_about_databases_shows_a_table_of_keys_that_fits(desk: Desk) -> None:
    page = (Path(__file__).parents[2] / "docs" / "databases-and-mail.md").read_text()
    (statement,) = re.findall(r"In SQLite: `(CREATE TABLE [^`]+)`", page)
    with apsw.Connection(str(desk.path)) as connection:
        connection.execute("DROP TABLE holdfast_keys")
        connection.execute(statement)
    assert (await desk.value("delete from orders where id = 1"))["changed"] == 1
