"""Alembic on a copy: forward as well as back, every lock seen, and nothing that leads elsewhere."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from bot.databases.postgres import PostgresDatabase
from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.place import Connect
from bot.runners.local import LocalRunner
from bot.settings import inherited
from bot.tools.alembic import AlembicTool
from bot.tools.alembic_helper.normal import normalised
from bot.tools.alembic_settings import AlembicSettings
from bot.tools.watched import fence_of
from tests.conftest import MakeDatabase
from tests.contract.projects import (
    BOTH_WAYS,
    UNDONE,
    UNTOUCHED,
    Project,
    async_by_environment,
    by_environment,
    env,
    env_for,
    make,
    seed,
    stands,
)
from tests.contract.test_migration_tool import Doing, until

DRIVERS = ["psycopg2", "psycopg", "asyncpg"]
REHEARSING = {"BACKOUT_REHEARSAL": "1"}


@dataclass
class Copy:
    """A copy of a target, at 0005 unless it is empty, and the project whose scripts are tried on it."""

    own: Connect
    server: Connect
    directory: Path

    def project(self, env_py: str = "", **options: Any) -> Project:
        return make(self.directory, env_py or by_environment(), **{"scripts": BOTH_WAYS, **options})

    def tool(self, *, enters: Connect | None = None, extra: Mapping[str, str] = REHEARSING, **settings: Any) -> AlembicTool:
        database = PostgresDatabase(target="shop", tool=enters or self.own, admin=self.server)
        given = {"directory": self.directory, "python": sys.executable, **settings}
        return AlembicTool(AlembicSettings(**given), LocalRunner(LocalRunner.Settings()), database, inherited=inherited(), extra=extra)

    async def downgrade(self, body: str, env_py: str = "", *, rehearsing: bool = True, **options: Any) -> dict[str, Any]:
        project = self.project(env_py, downgrade=body, **options)
        return dict(await self.tool().downgrade("0004", Doing(project.plan(), rehearsing=rehearsing)))

    async def build(self, to: str, project: Project) -> dict[str, Any]:
        return dict(await self.tool().upgrade(to, Doing(project.plan(), rehearsing=True), from_=(), scripts=None))

    def execute(self, statement: str) -> list[Any]:
        with psycopg.connect(self.own.url(), autocommit=True) as session:
            done = session.execute(statement)
            return [row[0] for row in done.fetchall()] if done.description else []


@pytest.fixture
def copy(server: Connect, make_database: MakeDatabase, tmp_path: Path) -> Copy:
    return Copy(seed(make_database("copy")), server, tmp_path / "project")


@pytest.fixture
def empty(server: Connect, make_database: MakeDatabase, tmp_path: Path) -> Copy:
    return Copy(make_database("empty"), server, tmp_path / "project")


@pytest.fixture
def production(make_database: MakeDatabase) -> Connect:
    """Another database of the same shape, which nobody may touch."""
    return seed(make_database("production"))


# ------------------------------------------------------------------ forward


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_empty_database_is_built_from_nothing(empty: Copy, driver: str) -> None:
    facts = await empty.build("0005", empty.project(env_for(driver)))
    assert stands(empty.own) == UNTOUCHED
    assert facts["revisions"] == ["0001", "0002", "0003", "0004", "0005"]
    assert (facts["transactions"], facts["one_transaction"], facts["driver"]) == (1, True, driver)
    assert facts["statements"][0]["sql"].split()[:3] == ["CREATE", "TABLE", "orders"]
    assert facts["locks"] == []  # nobody can wait for a table that was not there


async def test_forward_stops_at_the_revision_that_was_named(empty: Copy) -> None:
    await empty.build("0002", empty.project())
    assert stands(empty.own) == ("0002", ("id", "name", "note"))


async def test_building_with_a_transaction_for_each_migration_counts_each(empty: Copy) -> None:
    facts = await empty.build("0003", empty.project(env(options=", transaction_per_migration=True")))
    assert (facts["transactions"], facts["one_transaction"]) == (3, False)


async def test_down_and_up_again_leads_back(copy: Copy) -> None:
    project = copy.project()
    doing = Doing(project.plan(), rehearsing=True)
    await copy.tool().downgrade("0004", doing)
    assert stands(copy.own) == UNDONE
    facts = await copy.tool().upgrade("0005", doing, from_=("0004",), scripts={"0005": project.sha256("0005")})
    assert stands(copy.own) == UNTOUCHED
    assert facts["revisions"] == ["0005"]
    assert [one["mode"] for one in facts["locks"]] == ["AccessExclusiveLock"]


async def test_a_script_that_changed_since_the_plan_is_not_run_forward(copy: Copy) -> None:
    project = copy.project()
    copy.execute("UPDATE alembic_version SET version_num = '0004'; ALTER TABLE orders DROP score")
    planned = {"0005": project.sha256("0005")}
    project.file("0005").write_text(project.file("0005").read_text() + "# one more line\n")
    with pytest.raises(StepFailed, match=r"scripts changed since the plan.*Nothing was executed"):
        await copy.tool().upgrade("0005", Doing(project.plan()), from_=("0004",), scripts=planned)
    assert stands(copy.own) == UNDONE


@pytest.mark.parametrize("planned", [(), ("0004",), ("0004", "0005")])
async def test_revisions_that_were_not_planned_are_not_run_forward(copy: Copy, planned: tuple[str, ...]) -> None:
    project = copy.project()
    copy.execute("UPDATE alembic_version SET version_num = '0004'")
    with pytest.raises(StepFailed, match="0005, which is not what was planned"):
        await copy.tool().upgrade("0005", Doing(project.plan()), from_=("0004",), scripts={one: project.sha256(one) for one in planned})


@pytest.mark.parametrize("from_", [(), ("0003",), ("0003", "0004")])
async def test_forward_begins_where_it_was_planned_to_begin(copy: Copy, from_: tuple[str, ...]) -> None:
    project = copy.project()
    copy.execute("UPDATE alembic_version SET version_num = '0004'")
    with pytest.raises(StepFailed, match=r"stands at 0004.*Nothing was executed"):
        await copy.tool().upgrade("0005", Doing(project.plan()), from_=from_, scripts=None)


def _turned_round(name: str) -> str:
    """An env.py that runs the other direction, whatever it was asked for."""
    turn = f"context.get_context()._migrations_fn = lambda heads, _: context.script.{name}"
    return by_environment().replace("    with context.begin_transaction():", f"    {turn}\n    with context.begin_transaction():")


async def test_an_upgrade_never_runs_a_downgrade(copy: Copy) -> None:
    project = copy.project(_turned_round("_downgrade_revs('0004', heads)"))
    for scripts in (None, {"0005": project.sha256("0005")}):
        with pytest.raises(StepFailed, match=r"not what was planned.*Nothing was executed"):
            await copy.tool().upgrade("0005", Doing(project.plan()), from_=("0005",), scripts=scripts)
    assert stands(copy.own) == UNTOUCHED


async def test_a_downgrade_never_runs_an_upgrade(copy: Copy) -> None:
    copy.execute("UPDATE alembic_version SET version_num = '0004'")
    project = copy.project(_turned_round("_upgrade_revs('0005', heads)"))
    plan = project.plan().model_copy(update={"from_": "0004"})
    with pytest.raises(StepFailed, match=r"not what was planned.*Nothing was executed"):
        await copy.tool().downgrade("0004", Doing(plan))
    assert stands(copy.own) == ("0004", UNTOUCHED[1])


async def test_env_sees_the_command_as_alembics_own_command_line_shows_it(empty: Copy) -> None:
    first = """
from alembic.config import CommandLine
given, own = vars(config.cmd_opts), vars(CommandLine().parser.parse_args(['upgrade', '0005']))
assert [part for part in given['cmd']] == [part for part in own['cmd']], (given['cmd'], own['cmd'])
assert {key: given[key] for key in ('revision', 'sql', 'tag')} == {key: own[key] for key in ('revision', 'sql', 'tag')}
assert not context.is_offline_mode() and context.get_revision_argument() == '0005'
"""
    await empty.build("0005", empty.project(env("create_engine(os.environ['DATABASE_URL'])", first=first)))
    assert stands(empty.own) == UNTOUCHED


async def test_a_way_forward_that_fails_says_which_upgrade_and_what_was_left(copy: Copy) -> None:
    scripts = {**BOTH_WAYS, "0005": dataclasses.replace(BOTH_WAYS["0005"], upgrade="op.execute('select 1/0')")}
    project = copy.project(scripts=scripts)
    copy.execute("UPDATE alembic_version SET version_num = '0003'; DROP TABLE customers")
    with pytest.raises(StepFailed, match=r"upgrade\(\) of 0005 failed: division by zero.*rolled back") as failed:
        await copy.tool().upgrade("0005", Doing(project.plan()), from_=("0003",), scripts=None)
    assert failed.value.facts["revisions"] == ["0004"]
    assert stands(copy.own)[0] == "0003"


async def test_an_attempt_that_is_not_the_current_one_moves_nothing_forward(empty: Copy) -> None:
    project = empty.project()
    with pytest.raises(StepFailed, match="Nothing was executed"):
        await empty.tool().upgrade("0005", Doing(project.plan(), current=False), from_=(), scripts=None)
    assert empty.execute("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace") == []


# ------------------------------------------------------------------ locks


def _locks(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(one["table"], one["mode"].removesuffix("Lock")) for one in facts["locks"]]


def _by_statement(facts: Mapping[str, Any]) -> list[tuple[str, str | None, str | None]]:
    return [(one["sql"].split()[0].lower(), one["table"], (one["lock"] or "").removesuffix("Lock")) for one in facts["statements"]]


KINDS_OF_LOCKS = """
op.execute("update orders set note = 'x'")
op.drop_index('ix_name')
op.execute("alter table orders validate constraint positive")
op.execute("create index on customers (id)")
op.execute("alter table orders add foreign key (score) references ratings")
op.execute("select count(*) from orders")
op.drop_table('customers')
op.execute("lock table ratings in share mode")
"""


MEASURED = {**{driver: env_for(driver) for driver in DRIVERS}, "async psycopg": async_by_environment("psycopg")}


@pytest.mark.parametrize("kind", MEASURED)
async def test_each_statements_strongest_new_lock_is_told(copy: Copy, kind: str) -> None:
    copy.execute("CREATE TABLE ratings AS SELECT g FROM generate_series(0, 9) g; ALTER TABLE ratings ADD PRIMARY KEY (g)")
    copy.execute("ALTER TABLE orders ADD CONSTRAINT positive CHECK (id > 0) NOT VALID")
    facts = await copy.downgrade(KINDS_OF_LOCKS, MEASURED[kind])
    assert facts["driver"] == kind.rsplit(maxsplit=1)[-1]
    assert _by_statement(facts) == [
        ("update", "public.orders", "RowExclusive"),
        ("drop", "public.orders", "AccessExclusive"),
        ("alter", None, ""),  # what it needs is held already
        ("create", "public.customers", "Share"),
        ("alter", "public.ratings", "ShareRowExclusive"),
        ("select", None, ""),
        ("drop", "public.customers", "AccessExclusive"),
        ("lock", None, ""),
        ("update", None, ""),  # the version table is not told
    ]
    assert sorted(_locks(facts)) == [
        ("public.customers", "AccessExclusive"),
        ("public.orders", "AccessExclusive"),
        ("public.ratings", "ShareRowExclusive"),
    ]
    assert _locks(facts)[-1][0] == "public.ratings"
    json.dumps(facts)


async def test_a_lock_is_held_from_its_statement_to_the_commit(copy: Copy) -> None:
    facts = await copy.downgrade("op.drop_column('orders', 'score')\nop.execute('select pg_sleep(0.2)')\nop.drop_table('customers')")
    drop, sleep, table, _ = facts["statements"]
    held = {one["table"]: one["held"] for one in facts["locks"]}
    assert drop["held"] == held["public.orders"] >= drop["ms"] + sleep["ms"] + table["ms"]
    assert table["held"] == held["public.customers"] < held["public.orders"]


async def test_a_transaction_for_each_migration_holds_its_locks_no_longer(copy: Copy) -> None:
    scripts = {**BOTH_WAYS, "0004": dataclasses.replace(BOTH_WAYS["0004"], downgrade="op.execute('select pg_sleep(0.3)')")}
    project = copy.project(env(options=", transaction_per_migration=True"), scripts=scripts)
    facts = await copy.tool().downgrade("0003", Doing(project.plan(to="0003"), rehearsing=True))
    sleep = next(one for one in facts["statements"] if "sleep" in one["sql"])
    assert _locks(facts) == [("public.orders", "AccessExclusive")]
    assert facts["locks"][0]["held"] < sleep["ms"]


async def test_of_two_transactions_the_longer_hold_is_told(copy: Copy) -> None:
    longer = "op.drop_column('orders', 'note')\nop.execute('select pg_sleep(0.3)')"
    project = copy.project(
        env(options=", transaction_per_migration=True"), scripts={**BOTH_WAYS, "0004": dataclasses.replace(BOTH_WAYS["0004"], downgrade=longer)}
    )
    facts = await copy.tool().downgrade("0003", Doing(project.plan(to="0003"), rehearsing=True))
    sleep = next(one for one in facts["statements"] if "sleep" in one["sql"])
    assert _locks(facts) == [("public.orders", "AccessExclusive")]
    assert facts["locks"][0]["held"] > sleep["ms"]


async def test_the_locks_of_a_failed_migration_are_told_too(copy: Copy) -> None:
    with pytest.raises(StepFailed) as failed:
        await copy.downgrade("op.drop_table('customers')\nop.execute('select 1/0')")
    assert _locks(failed.value.facts) == [("public.customers", "AccessExclusive")]


WEIRD = 'CREATE SCHEMA "Sch.ema"; CREATE TABLE "Sch.ema"."weird"".table" (id serial PRIMARY KEY, big text); CREATE TABLE "select" (x int)'


async def test_names_are_quoted_as_in_sql_and_a_dropped_tables_name_is_known(copy: Copy) -> None:
    copy.execute(WEIRD)
    facts = await copy.downgrade("""op.execute('drop table "Sch.ema"."weird"".table"')\nop.execute('alter table "select" drop x')""")
    expected = [('"Sch.ema"."weird"".table"', "AccessExclusive"), ('public."select"', "AccessExclusive")]
    assert [found[1:] for found in _by_statement(facts)][:2] == expected
    assert sorted(_locks(facts)) == expected  # neither its sequence, nor its index, nor its toast table


async def test_a_lock_on_an_index_is_told_for_its_table(copy: Copy) -> None:
    facts = await copy.downgrade("op.execute('alter index ix_name rename to ix_other')\nop.execute('reindex index ix_other')")
    assert _by_statement(facts)[:2] == [("alter", "public.orders", "ShareUpdateExclusive"), ("reindex", "public.orders", "AccessExclusive")]


async def test_what_the_migration_makes_itself_is_not_told(copy: Copy) -> None:
    body = "op.create_table('fresh', sa.Column('id', sa.Integer))\nop.execute('alter table fresh add b int')\nop.drop_table('fresh')"
    assert (await copy.downgrade(body))["locks"] == []


async def test_locks_of_a_savepoint_that_was_rolled_back_are_released(copy: Copy) -> None:
    body = """
bind = op.get_bind()
point = bind.begin_nested()
op.drop_table('customers')
point.rollback()
op.execute('select pg_sleep(0.3)')
op.drop_column('orders', 'score')
"""
    facts = await copy.downgrade(body)
    held = {one["table"]: one["held"] for one in facts["locks"]}
    assert stands(copy.own) == UNDONE
    assert set(held) == {"public.customers", "public.orders"}
    assert copy.execute("SELECT to_regclass('customers')::text") == ["customers"]


async def test_in_production_locks_are_not_read(copy: Copy) -> None:
    facts = await copy.downgrade("op.drop_column('orders', 'score')", rehearsing=False)
    assert facts["locks"] == []
    assert all((one["lock"], one["table"], one["held"]) == (None, None, None) for one in facts["statements"])
    assert stands(copy.own) == UNDONE


COUNTING = """
import sys
locks, reads = sys.modules['_backout.locks'], []
original = locks.raw
def raw(dbapi, statement):
    reads.append(statement)
    return original(dbapi, statement)
locks.raw = raw
"""


async def test_a_statement_that_is_repeated_with_other_values_is_measured_once(copy: Copy) -> None:
    loop = "for n in range(200):\n    op.execute(f\"update orders set note = 'n{n}' where id = {n}\")\nprint('READS', len(reads))"
    facts = await copy.downgrade(COUNTING + loop)
    assert "READS 1\n" in facts["output"] + "\n"
    assert facts["statements_total"] == 201


async def test_ddl_is_measured_each_time(copy: Copy) -> None:
    loop = "for n in range(5):\n    op.execute('alter table orders alter score set statistics 10')\nprint('READS', len(reads))"
    assert "READS 5" in (await copy.downgrade(COUNTING + loop))["output"]


async def test_the_time_of_measuring_is_nobodys(copy: Copy) -> None:
    """Reading the locks is made to take 2 s, twice: after the statement and before the commit. Nothing that is told grows by it."""
    slow = COUNTING.replace("reads.append(statement)", "reads.append(statement); __import__('time').sleep(2)")
    clock = asyncio.get_running_loop().time
    began = clock()
    facts = await copy.downgrade(slow + "op.drop_column('orders', 'score')")
    assert facts["seconds"] <= clock() - began - 4
    assert facts["locks"][0]["held"] < 2000
    assert sum(one["ms"] for one in facts["statements"]) < 2000


async def test_measuring_that_costs_too_much_waits_for_the_commit(copy: Copy) -> None:
    slow = COUNTING.replace("reads.append(statement)", "reads.append(statement); __import__('time').sleep(0.6)")
    body = "op.drop_column('orders', 'score')\nop.drop_index('ix_name')\nop.drop_table('customers')\nprint('READS', len(reads))"
    facts = await copy.downgrade(slow + body)
    assert "READS 1\n" in facts["output"] + "\n"
    assert sorted(_locks(facts)) == [("public.customers", "AccessExclusive"), ("public.orders", "AccessExclusive")]
    assert [lock for _, _, lock in _by_statement(facts)] == ["AccessExclusive", "", "", ""]


async def test_a_measurement_that_fails_is_not_the_migrations_fault(copy: Copy) -> None:
    broken = "import sys\ndef raw(*_): raise RuntimeError('canceling statement')\nsys.modules['_backout.locks'].raw = raw\n"
    with pytest.raises(OutcomeUnknown, match="locks of the migration could not be read"):
        await copy.downgrade(broken + "op.drop_column('orders', 'score')")
    assert stands(copy.own) == UNTOUCHED


CONCURRENTLY = """
op.execute("update orders set note = 'x'")
with op.get_context().autocommit_block():
    op.execute("create index concurrently ix_note on orders (note)")
    op.execute("drop index concurrently ix_name")
op.drop_column('orders', 'score')
"""


@pytest.mark.parametrize("kind", MEASURED)
async def test_statements_outside_a_transaction_are_left_alone(copy: Copy, kind: str) -> None:
    facts = await copy.downgrade(CONCURRENTLY, MEASURED[kind])
    assert stands(copy.own) == UNDONE
    assert copy.execute("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'orders'::regclass ORDER BY 1") == [
        "ix_note",
        "orders_pkey",
    ]
    assert [one["lock"] for one in facts["statements"][:4]] == ["RowExclusiveLock", None, None, "AccessExclusiveLock"]


async def test_an_engine_that_commits_each_statement_is_measured_without_a_transaction_of_ours(copy: Copy) -> None:
    body = "op.execute('create index concurrently ix_note on orders (note)')\nop.drop_column('orders', 'score')\nop.execute('vacuum orders')"
    facts = await copy.downgrade(body, env("create_engine(os.environ['DATABASE_URL'], isolation_level='AUTOCOMMIT')"))
    assert stands(copy.own) == UNDONE
    assert (facts["locks"], facts["one_transaction"]) == ([], False)


async def test_a_commit_in_the_migrations_own_words_ends_its_locks(copy: Copy) -> None:
    own = "op.execute('commit')\nop.execute('create index concurrently ix_note on orders (note)')\nop.execute('select pg_sleep(0.3)')"
    body = f"op.drop_table('customers')\n{own}"
    facts = await copy.downgrade(body, by_environment("psycopg2"))
    assert _locks(facts) == [("public.customers", "AccessExclusive")]
    assert facts["locks"][0]["held"] < facts["statements"][3]["ms"]


async def test_after_a_commit_in_its_own_words_no_transaction_is_opened_for_measuring(copy: Copy) -> None:
    """psycopg would refuse to change autocommit inside of one."""
    body = """
op.drop_column('orders', 'score')
op.execute('commit')
op.get_bind().connection.dbapi_connection.autocommit = True
op.execute('create index concurrently ix_note on orders (note)')
op.get_bind().connection.dbapi_connection.autocommit = False
"""
    await copy.downgrade(body, by_environment("psycopg"))
    assert stands(copy.own) == UNDONE


async def test_a_second_connection_to_the_copy_has_locks_of_its_own(copy: Copy) -> None:
    body = """
import os
with sa.create_engine(os.environ['DATABASE_URL']).begin() as second:
    second.execute(sa.text('drop table customers'))
op.drop_column('orders', 'score')
"""
    facts = await copy.downgrade(body)
    assert sorted(_locks(facts)) == [("public.customers", "AccessExclusive"), ("public.orders", "AccessExclusive")]


# ------------------------------------------------------------------ the statements' text


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("select 1", "select  2"),
        ("select 'a'", "select 'it''s; -- \"b\"'"),
        ("select E'a\\'b', 1", "select E'', 2.5e-3"),
        ("select $$a$$", "select $body$ $$ ' $body$"),
        ("update t set u = '7d793037-a076-4e5b-8a7c-3e1d4b1f0a11'::uuid", "update t set u = ''::uuid"),
        ("select 1 /* a /* nested */ remark */ from t -- and one", "select\n\t1 from t"),
        ("insert into t values (0x1F, 1_000, .5, -3)", "insert into t values (1, 2, 3, -4.)"),
        ("do $$ begin drop table a; end $$", "do $x$ $x$"),
    ],
)
def test_texts_that_differ_in_literals_and_whitespace_are_the_same(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("drop table t_1", "drop table t_2"),
        ("drop table t1", "drop table t"),
        ('drop table "a 1"', 'drop table "a  1"'),
        ('drop table "1"', 'drop table "2"'),
        ("drop table a$1", "drop table a$2"),
        ("drop table é1", "drop table é2"),
        ("select $1", "select $2"),
        ("select %(a_1)s", "select %(a_2)s"),
        ("drop table date'1'", "drop table dates'1'"),
        ("drop table a", "drop table A"),
        ("select 'a' from x", "select 'a'' from x"),
        ("select E'\\' from x", "select '\\' from x"),
    ],
)
def test_texts_that_name_other_things_stay_apart(one: str, other: str) -> None:
    assert normalised(one) != normalised(other)


LITERALS = st.one_of(
    st.integers().map(str),
    st.decimals(allow_nan=False, allow_infinity=False).map(lambda number: f"{number:f}"),
    st.text().map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.text().map(lambda text: "E'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"),
    st.text(st.characters(exclude_characters="$")).map(lambda text: f"$q$ {text}$q$"),
    st.uuids().map(lambda uuid: f"'{uuid}'"),
)


@given(LITERALS, st.lists(LITERALS, max_size=3))
def test_no_literal_shows_in_a_text(first: str, rest: list[str]) -> None:
    values = ", ".join([first.lstrip("-"), *(one.lstrip("-") for one in rest)])
    assert (
        normalised(f'insert into "t 1" values ({values}) returning t2')
        == f'insert into "t 1" values ({", ".join("?" * (1 + len(rest)))}) returning t2'
    )


async def test_statements_have_one_sum_over_all_of_them_whatever_their_values(server: Connect, make_database: MakeDatabase, tmp_path: Path) -> None:
    async def sha(name: str, body: str) -> Any:
        copy = Copy(seed(make_database("copy")), server, tmp_path / name)
        return (await copy.downgrade(body))["statements_sha256"]

    update = "op.execute(\"update orders set note = '{}' where id < {}\")"
    many = "for n in range(120):\n    op.execute(f'select {{n}}')\nop.execute('select 1 as {}')"
    assert await sha("a", update.format("a", 5)) == await sha("b", update.format("it''s", 17))
    assert await sha("c", update.format("a", 5).replace("note", "name")) != await sha("d", update.format("a", 5))
    assert await sha("e", many.format("a")) != await sha("f", many.format("b"))  # beyond those that are kept with their text


# ------------------------------------------------------------------ nothing that leads elsewhere


async def _listening() -> tuple[asyncio.Server, list[object]]:
    """A port where somebody counts who knocks."""
    knocks: list[object] = []

    def knock(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocks.append(writer)
        writer.close()

    return await asyncio.start_server(knock, "127.0.0.1", 0), knocks


ASYNC_SECOND = """
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only
connection = await_only(create_async_engine({url!r}).connect().start())
await_only(connection.exec_driver_sql('delete from orders'))
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_second_database_is_not_even_entered_and_is_named(copy: Copy, production: Connect, kind: str) -> None:
    knocking, knocks = await _listening()
    port = knocking.sockets[0].getsockname()[1]
    for address in (production, production.model_copy(update={"port": port, "database": "audit"})):
        shutil.rmtree(copy.directory, ignore_errors=True)
        second = f"sa.create_engine({address.url()!r}).connect().execute(sa.text('delete from orders'))"
        if kind == "async":
            second = ASYNC_SECOND.format(url=address.url("postgresql+asyncpg"))
        with pytest.raises(OutcomeUnknown) as stopped:
            await copy.downgrade("op.drop_column('orders', 'score')\n" + second, async_by_environment() if kind == "async" else "")
        assert f"wants to connect to {address.host}:{address.port}/{address.database}" in stopped.value.message
        assert address.password not in stopped.value.message + json.dumps(stopped.value.facts)
        assert (stands(copy.own), stands(production)) == (UNTOUCHED, UNTOUCHED)
    knocking.close()
    await knocking.wait_closed()
    assert knocks == []
    with psycopg.connect(production.url()) as session:
        assert session.execute("SELECT count(*) FROM orders").fetchone() == (100,)


async def test_reading_on_a_copy_enters_no_other_database(copy: Copy, production: Connect) -> None:
    copy.project(env("create_engine(os.environ['DATABASE_URL'])", before=f"create_engine({production.url()!r}).connect()"))
    with pytest.raises(Refusal, match=f"wants to connect to .*{production.database}") as refused:
        await copy.tool().read()
    assert refused.value.code == "wrong_database"
    assert production.password not in refused.value.message


async def test_the_copy_may_be_entered_twice_and_by_its_other_name(copy: Copy) -> None:
    again = copy.own.url().replace(f"@{copy.own.host}:", "@localhost:")
    body = f"sa.create_engine({again!r}).connect().close()\nop.drop_column('orders', 'score')"
    await copy.downgrade(body)
    assert stands(copy.own) == UNDONE


async def test_the_tools_process_and_its_children_know_nothing_of_production(
    copy: Copy, production: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("DATABASE_URL", "AUDIT_URL", "PROD_URL"):
        monkeypatch.setenv(name, production.url())
    monkeypatch.setenv("PGPASSWORD", production.password)
    body = """
import subprocess, sys
child = "import os; open('environ', 'w').write(repr(dict(os.environ)))"
subprocess.run([sys.executable, '-c', child], check=True)
op.drop_column('orders', 'score')
"""
    await copy.downgrade(body)
    environ = (copy.directory / "environ").read_text()
    assert copy.own.password in environ
    assert "'BACKOUT_REHEARSAL': '1'" in environ
    for secret in (production.password, production.database, production.user, "AUDIT_URL", "PROD_URL", "PGPASSWORD", "BACKOUT_CONNECT"):
        assert secret not in environ


async def test_a_password_file_in_the_home_folder_opens_nothing(
    copy: Copy, production: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".pgpass").write_text(f"*:*:*:*:{production.password}\n")
    (tmp_path / ".pgpass").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    where = f"host={production.host} port={production.port} dbname={production.database} user={production.user}"
    with pytest.raises(StepFailed, match="no password supplied"):
        await copy.downgrade(f"import psycopg2\npsycopg2.connect({where!r}).cursor().execute('delete from orders')")


async def test_a_copys_own_variables_are_filled_in_and_stand_above_the_targets(copy: Copy) -> None:
    first = "assert os.environ['AUDIT_URL'] == os.environ['DATABASE_URL'] and os.environ['WHO'] == os.environ['THEM'], dict(os.environ)\n"
    first += f"assert os.environ['WHO'] == {copy.own.user!r}"
    copy.project(env("create_engine(os.environ['AUDIT_URL'])", first=first))
    extra = {**REHEARSING, "AUDIT_URL": "{url}", "WHO": "{user}"}
    tool = copy.tool(extra=extra, env={"DATABASE_URL": "{url}", "AUDIT_URL": "postgresql://prod", "WHO": "nobody", "THEM": "{user}"})
    assert (await tool.read()).current == ("0005",)


# ------------------------------------------------------------------ by the run's own role


@asynccontextmanager
async def _run_role(copy: Copy) -> AsyncIterator[Connect]:
    """A login of the run's own that becomes the application's role (databases.md F8)."""
    role, app = sql.Identifier(f"backout_{copy.own.database}"), sql.Identifier(copy.own.user)
    enters = copy.own.model_copy(update={"user": f"backout_{copy.own.database}", "password": "of the run's own"})
    async with await psycopg.AsyncConnection.connect(copy.server.url(), autocommit=True) as admin:
        await admin.execute(sql.SQL("CREATE ROLE {} LOGIN IN ROLE {} PASSWORD {}").format(role, app, sql.Literal(enters.password)))
        await admin.execute(sql.SQL("ALTER ROLE {} SET role = {}").format(role, sql.Literal(copy.own.user)))
        await admin.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(app))
        try:
            yield enters
        finally:
            await admin.execute(sql.SQL("ALTER ROLE {} LOGIN").format(app))
            await admin.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_runs_own_role_works_as_the_applications(copy: Copy, driver: str) -> None:
    body = """
op.drop_column('orders', 'score')
op.create_table('made', sa.Column('id', sa.Integer))
print('IS', *op.get_bind().exec_driver_sql('select session_user, current_user').one())
"""
    project = copy.project(env_for(driver), downgrade=body)
    async with _run_role(copy) as enters:
        tool = copy.tool(enters=enters)
        assert (await tool.read()).current == ("0005",)
        facts = await tool.downgrade("0004", Doing(project.plan(), rehearsing=True))
        assert f"IS {enters.user} {copy.own.user}" in facts["output"]
        again = await tool.upgrade("0005", Doing(project.plan(), rehearsing=True), from_=("0004",), scripts={"0005": project.sha256("0005")})
    assert _locks(facts) == _locks(again) == [("public.orders", "AccessExclusive")]
    assert stands(copy.own) == UNTOUCHED
    assert copy.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'") == [copy.own.user]


async def test_the_runs_own_role_is_refused_by_another_database_as_any_other_is(copy: Copy, production: Connect) -> None:
    project = copy.project(env(f"create_engine('postgresql+psycopg2://', creator=lambda: __import__('psycopg2').connect({production.url()!r}))"))
    async with _run_role(copy) as enters:
        with pytest.raises(StepFailed, match=r"another database than the one meant.*Nothing was executed"):
            await copy.tool(enters=enters).downgrade("0004", Doing(project.plan(), rehearsing=True))
    assert stands(production) == UNTOUCHED


async def test_the_session_of_a_tool_that_just_ended_is_waited_for(copy: Copy) -> None:
    """Its backend may still hold the attempt's fence for a moment; a twin holds it for good."""
    project = copy.project()
    doing = Doing(project.plan(), rehearsing=True)
    async with await psycopg.AsyncConnection.connect(copy.own.url(), autocommit=True) as lingering:
        await lingering.execute("SELECT pg_advisory_lock(%s, %s)", fence_of(doing))
        work = asyncio.create_task(copy.tool().downgrade("0004", doing))
        waits = sql.SQL("SELECT 1 FROM pg_stat_activity WHERE application_name = {} AND query LIKE 'select pid from pg_locks%'")

        async def asks_for_the_fence() -> object:
            return await (await lingering.execute(waits.format(sql.Literal(doing.application)))).fetchone()

        await until(asks_for_the_fence, during=work)
    await work
    assert stands(copy.own) == UNDONE
