"""What a statement is taken for. A read that is no read is the way out of the gateway, so the tables are of statements
that only look harmless."""

from __future__ import annotations

import pytest

from holdfast.errors import BadCall
from holdfast.gateway.upstreams.sql_classify import classify

READS = """
select a, b from t where a = $1
select * from s.t order by a desc nulls last limit 3 offset $1
select count(*), date_trunc('day', d) from t group by 2 having count(*) > 1
with recursive x(n) as (values (1) union all select n + 1 from x where n < 5) select * from x
select a from t union all select b from u except select c from v
select t.a, u.b from t left join u using (id) where t.a in (select b from v) and t.x between 1 and 2 and t.y ilike 'a%'
select case when a then 1 else 2 end, coalesce(a, b), a::text, array[1, 2], exists (select 1), current_date from t
select a at time zone 'utc', extract(year from d), substring(a from 1 for 2), trim(both 'x' from a) from t
select sum(x) filter (where y) over (partition by z order by w rows between 1 preceding and current row) from t
select rank() over w from t window w as (order by a)
select * from jsonb_to_recordset($1::jsonb) as x(a int, b text) where x.a > 1
select g.g from generate_series(1, 3) g
select g.n from generate_series(1, 3) as g(n)
select distinct on (a) a, row(1, 2) from t order by a
select a[1], a[1:2] from t
select a collate "C", grouping(a) from t group by grouping sets ((a), ())
select interval '1 day', b'101', 1.5, -3, true, null, date '2020-01-01', x'ff'
select 'it''s', E'a\\nb', $$delete from t$$, $q$drop table t;$q$, U&'\\0061'
explain select * from t
explain (costs off, format json) select 1
values (1, 'a'), (2, 'b')
table t
select 1; -- and nothing else
/* delete from t; */ select 1
select pg_catalog.lower('A'), now(), gen_random_uuid()
select "delete" from "drop table t"
""".strip().splitlines()

WRITES = [
    ("insert into t (a) values ($1), ($2)", {"insert"}, 2),
    (
        "insert into t values (1) on conflict (a) do update set b = excluded.b where t.c > 1 returning *",
        {"insert", "update"},
        1,
    ),
    ("insert into t values (1) on conflict do nothing", {"insert"}, 1),
    ("insert into t select * from u", {"insert"}, None),
    ("insert into t (id) values (nextval('s'))", {"insert"}, 1),
    ("update t set a = default, (b, c) = (select 1, 2) from u where t.id = u.id returning t.a", {"update"}, None),
    ("delete from t using u where t.id = u.id", {"delete"}, None),
    ("merge into t using s on t.id = s.id when matched and s.x then delete", {"merge"}, None),
    ("with d as (delete from t returning *) select count(*) from d", {"delete"}, None),
    ("with d as (delete from t returning *) insert into u select * from d", {"delete", "insert"}, None),
    ("select * from (with d as (update t set a = 1 returning *) select * from d) x", {"update"}, None),
    ("create table z (a int primary key, b text references t (x), check (a > 0))", {"ddl"}, None),
    ("create unique index on t (a, lower(b))", {"ddl"}, None),
    ("create view v as select 1", {"ddl"}, None),
    ("alter table t add column x int default 1", {"ddl"}, None),
    ("alter table t rename column a to b", {"ddl"}, None),
    ("drop table t", {"ddl"}, None),
    ("truncate t", {"ddl"}, None),
    ("comment on table t is 'x'", {"ddl"}, None),
]

REFUSED = """
select 1; select 2
select 1; delete from t
begin
commit
rollback; drop table t
savepoint a
start transaction read write
prepare transaction 'x'
set transaction read write
set role postgres
set local statement_timeout = 0
reset all
set session authorization postgres
show data_directory
discard all
select set_config('role', 'postgres', false)
select pg_terminate_backend(1)
select pg_cancel_backend(1)
select pg_advisory_lock(1)
select pg_try_advisory_xact_lock(1)
select pg_sleep(1)
select nextval('s')
select setval('s', 1)
select pg_notify('a', 'b')
notify a, 'b'
listen a
unlisten *
select dblink('dbname=x', 'delete from t')
select * from dblink_exec('x', 'y')
select lo_import('/etc/passwd')
select lo_unlink(1)
select pg_read_file('/etc/passwd')
select * from pg_ls_dir('/')
select pg_reload_conf()
select pg_switch_wal()
select query_to_xml('delete from t', true, true, '')
select * from ts_stat('select 1')
select ts_rewrite('a'::tsquery, 'select 1')
select pg_logical_emit_message(false, 'a', 'b')
select txid_current()
select pg_export_snapshot()
select public.lower('a')
select my_function(1)
select "PG_CATALOG".lower('a')
select U&"pg\\005fsleep"(1)
select U&"pg!005fsleep" UESCAPE '!' (1)
select pg_catalog."pg_sleep"(1)
select/**/pg_sleep/**/(1)
select (5).pg_sleep
select (1234).pg_terminate_backend
select ('abc'::text).upper
select pid.pg_sleep from generate_series(1, 2) as pid
select pid.pg_terminate_backend from generate_series(1, 9) as pid(n)
select float8.pg_sleep from cast(1 as float8)
select x.pg_sleep from cast(1 as float8) as x
select current_user.lower from current_user
select 1 from t where exists (select pg_sleep(1))
select a from t order by pg_sleep(1)
select count(*) filter (where pg_sleep(1) is null) from t
select case when pg_sleep(1) is null then 1 end
values (pg_sleep(1))
with x as materialized (select pg_sleep(1)) select 1
select * from t join lateral pg_sleep(1) on true
select * from rows from (pg_sleep(1), generate_series(1, 2))
select a from t limit (select pg_backend_pid())
select 1 operator(public.+) 2
select a from t order by a using operator(public.<)
select * into z from t
select * into temp z from t
create table z as select 1
create temp table z as table t
select * from t for update
select * from t for share skip locked
select * from (select * from t for no key update) x
lock table t
explain analyze delete from t
explain (analyze true) select pg_sleep(1)
explain (analyze false, wal) select 1
explain delete from t
explain with d as (delete from t returning *) select 1 from d
explain select pg_sleep(1)
explain execute p
execute p
prepare p as delete from t
deallocate all
declare c cursor with hold for select 1
fetch all from c
do $$ begin delete from t; end $$
call p()
copy t to '/tmp/x'
copy t to program 'sh'
copy (select 1) to stdout
copy t from stdin
grant all on t to public
revoke all on t from public
create role x superuser
alter role x password 'y'
drop role x
create function f() returns int language sql as 'select 1'
create trigger a before insert on t execute function f()
create rule r as on insert to t do instead nothing
create policy p on t using (true)
create extension dblink
create server s foreign data wrapper w
create event trigger e on ddl_command_start execute function f()
create schema s
create database d
create materialized view v as select 1
alter table t owner to x
alter table t disable trigger all
alter table t disable row level security
alter system set wal_level = minimal
alter database d set search_path = x
drop table t cascade
drop function f
drop schema public
truncate t cascade
drop index concurrently i
create index concurrently on t (a)
vacuum
analyze
cluster t
reindex table t
checkpoint
load 'x'
refresh materialized view v
security label on table t is 'x'
import foreign schema s from server x into y
insert into t values (pg_sleep(1))
delete from t where pg_terminate_backend(a)
update t set a = set_config('role', 'x', false)
insert into t select * from dblink('x', 'y') as z(a int)
update pg_settings set setting = '0' where name = 'statement_timeout'
insert into pg_catalog.pg_authid values (1)
delete from information_schema.tables
delete from other.public.t
select * from holdfast_keys
delete from s.holdfast_keys
with d as (update holdfast_keys set answer = '' returning *) select 1 from d
insert into t select key from holdfast_keys
drop table holdfast_keys
alter table holdfast_keys rename to x
select a from t tablesample system (1)
select xmlparse(document '<a/>')
select * from xmltable('/a' passing '<a/>' columns b text)
select $1, $3
select ? from t
select $$a
select 'a
-- nothing
/* nothing */
;
""".strip().splitlines()


@pytest.mark.parametrize("statement", READS)
def test_a_read_is_let_through(statement: str) -> None:
    assert classify(statement).reads


@pytest.mark.parametrize(("statement", "verbs", "rows"), WRITES)
def test_a_write_is_told_by_its_verbs_wherever_it_hides(statement: str, verbs: set[str], rows: int | None) -> None:
    found = classify(statement)
    assert (set(found.verbs), found.rows) == (verbs, rows)


@pytest.mark.parametrize("statement", REFUSED)
def test_what_is_not_proven_is_refused(statement: str) -> None:
    with pytest.raises(BadCall):
        classify(statement)


@pytest.mark.parametrize("statement", ["select 1 \0; delete from t", "\0", "select '\0'"])
def test_a_nul_does_not_hide_what_stands_behind_it(statement: str) -> None:
    with pytest.raises(BadCall, match="NUL"):
        classify(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "select " + "(" * 20_000 + "1" + ")" * 20_000,
        "select " + "1+" * 40_000 + "1",
        "select 1 " + "union select 1 " * 4_000,
        "select '" + "a" * 100_000 + "'",
    ],
)
def test_what_is_too_deep_or_too_long_is_refused(statement: str) -> None:
    with pytest.raises(BadCall):
        classify(statement)


def test_a_function_that_is_declared_pure_is_pure_only_under_its_name() -> None:
    pure = frozenset({"shop.price", "slug"})
    assert classify("select shop.price(1), slug('a')", pure=pure).reads
    for other in ("select price(1)", "select other.price(1)", "select shop.slug('a')", "select shop.lower('a')"):
        with pytest.raises(BadCall):
            classify(other, pure=pure)


def test_the_parameters_of_a_statement_are_counted() -> None:
    assert classify("select $2::int, $1, $2").parameters == 2
