"""Alembic as people really use it, on a real server: what is read, what is refused, what a downgrade does, and what is known when it ends badly."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from bot.databases.postgres import PostgresDatabase
from bot.durable import application
from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.model import Plan
from bot.place import Connect
from bot.runners.local import LocalRunner
from bot.settings import inherited
from bot.tools.alembic import AlembicTool
from bot.tools.alembic_settings import AlembicSettings
from tests.conftest import MakeDatabase
from tests.contract.projects import (
    HEAD,
    SCRIPTS,
    UNDONE,
    UNTOUCHED,
    Project,
    Script,
    async_by_environment,
    by_environment,
    env,
    env_for,
    make,
    seed,
    stands,
)

DRIVERS = ["psycopg2", "psycopg", "asyncpg"]
GENEROUS = 30.0  # seconds


@dataclass
class Doing:
    """What a step hands to the tool, without a journal behind it."""

    plan: Plan
    run: str = "r1"
    step: str = "downgrade"
    attempt: int = 1
    current: bool = True
    rehearsing: bool = False
    stopped: Mapping[str, Any] = field(default_factory=dict)
    remembered: dict[str, Any] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    @property
    def application(self) -> str:
        return application(self.run, self.step, self.attempt)

    async def may_begin(self) -> bool:
        return self.current

    async def remember(self, **facts: Any) -> None:
        self.remembered |= facts

    async def progress(self, text: str) -> None:
        self.told.append(text)


@dataclass
class Shop:
    """A target: its own database, the server's superuser, and a place for the project."""

    own: Connect
    server: Connect
    directory: Path
    database: PostgresDatabase

    def project(self, env_py: str, **options: Any) -> Project:
        return make(self.directory, env_py, **options)

    def tool(self, runner: LocalRunner | None = None, **settings: Any) -> AlembicTool:
        given = {"directory": self.directory, "python": sys.executable, **settings}
        return AlembicTool(AlembicSettings(**given), runner or LocalRunner(LocalRunner.Settings()), self.database, inherited=inherited())

    async def downgrade(self, env_py: str, body: str | None = None, *, to: str = "0004", **options: Any) -> dict[str, Any]:
        project = self.project(env_py, downgrade=body, **options)
        return dict(await self.tool().downgrade(to, Doing(project.plan(to=to))))

    def url(self, driver: str = "psycopg2") -> str:
        return self.own.url(f"postgresql+{driver}")


@pytest.fixture
def shop(server: Connect, make_database: MakeDatabase, tmp_path: Path) -> Shop:
    own = seed(make_database("shop"))
    return Shop(own, server, tmp_path / "project", PostgresDatabase(target="shop", tool=own, admin=server))


@pytest.fixture
def other(make_database: MakeDatabase) -> Connect:
    """Another database of the same shape, which nobody means."""
    return seed(make_database("other"))


async def until(what: Callable[[], Awaitable[Any]], *, during: asyncio.Future[Any] | None = None) -> Any:
    async with asyncio.timeout(GENEROUS):
        while not (found := await what()):
            assert during is None or not during.done(), during
            await asyncio.sleep(0.02)
    return found


# ------------------------------------------------------------------ reading


async def test_reading_tells_the_whole_history_and_where_the_database_stands(shop: Shop) -> None:
    shop.project(by_environment())
    history = await shop.tool().read()
    newest = history.revisions[0]
    assert [one.revision for one in history.revisions] == ["0005", "0004", "0003", "0002", "0001"]
    assert (history.heads, history.bases, history.current) == (("0005",), ("0001",), ("0005",))
    assert (history.version_table, history.version_table_schema, history.one_transaction, history.remarks) == ("alembic_version", "public", True, ())
    assert (newest.down, newest.message, newest.date) == (("0004",), "add scoring fields", "2026-11-18 02:11:09.123456")
    assert newest.path == "migrations/versions/0005_add_scoring_fields.py"
    assert newest.downgrade == "real"
    assert newest.source == "def downgrade():\n    op.drop_column('orders', 'score')\n"


async def test_reading_leaves_no_trace_in_the_project(shop: Shop) -> None:
    shop.project(by_environment())
    before = sorted(shop.directory.rglob("*"))
    await shop.tool().read()
    assert sorted(shop.directory.rglob("*")) == before


async def test_the_scripts_hash_is_that_of_the_file(shop: Shop) -> None:
    project = shop.project(by_environment())
    history = await shop.tool().read()
    assert {one.revision: one.sha256 for one in history.revisions} == {revision: project.sha256(revision) for revision in SCRIPTS}


async def test_downgrades_that_do_nothing_are_told_apart(shop: Shop) -> None:
    bodies = {"0005": "pass", "0004": "'''nothing'''\nprint('hi')", "0003": "raise NotImplementedError('no way back')", "0002": "op.drop_table('x')"}
    project = shop.project(
        by_environment(), scripts={**SCRIPTS, **{key: dataclasses.replace(SCRIPTS[key], downgrade=body) for key, body in bodies.items()}}
    )
    text = project.file("0001").read_text()
    project.file("0001").write_text(text[: text.index("def downgrade")])
    history = await shop.tool().read()
    assert [one.downgrade for one in history.revisions] == ["empty", "empty", "raises", "real", "missing"]


async def test_several_heads_and_dependencies_are_told(shop: Shop) -> None:
    shop.project(by_environment(), scripts={**SCRIPTS, "0006": Script("0004", "other head", depends_on="0002")})
    history = await shop.tool().read()
    assert sorted(history.heads) == ["0005", "0006"]
    assert next(one for one in history.revisions if one.revision == "0006").depends_on == ("0002",)


async def test_a_database_at_no_revision_is_no_error(shop: Shop) -> None:
    shop.project(by_environment())
    await _execute(shop.own, "DELETE FROM alembic_version")
    assert (await shop.tool().read()).current == ()


async def test_a_missing_version_table_is_refused(shop: Shop) -> None:
    shop.project(by_environment())
    await _execute(shop.own, "DROP TABLE alembic_version")
    assert (await _refused(shop)).code == "version_table_missing"


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_env_that_writes_when_it_is_read_changes_nothing_and_is_named(shop: Shop, driver: str) -> None:
    create = "connection.execute(sa.text('create schema tenant')); connection.commit()"
    engine = f"create_engine(os.environ['DATABASE_URL'].replace('postgresql:', 'postgresql+{driver}:'))"
    shop.project(env(engine, before=create) if driver != "asyncpg" else _async_with(create.replace("connection.commit()", "pass")))
    history = await shop.tool().read()
    assert history.current == ("0005",)
    assert "create schema tenant" in history.remarks[0]
    assert await _fetch(shop.own, "SELECT count(*) FROM pg_namespace WHERE nspname = 'tenant'") == 0


async def test_a_version_table_elsewhere_is_found_even_when_env_can_not_be_run(shop: Shop) -> None:
    await _execute(
        shop.own, "CREATE SCHEMA tenant; ALTER TABLE alembic_version SET SCHEMA tenant; ALTER TABLE tenant.alembic_version RENAME TO versions"
    )
    create = "connection.execute(sa.text('create table tenant.x()')); connection.commit()"
    shop.project(
        env(
            "create_engine(os.environ['DATABASE_URL'])",
            first="SCHEMA = 'tenant'",
            before=create,
            options=", version_table='versions', version_table_schema=SCHEMA",
        )
    )
    history = await shop.tool().read()
    assert (history.version_table, history.version_table_schema, history.current) == ("versions", "tenant", ("0005",))


async def test_the_version_tables_schema_is_the_one_that_the_tools_session_sees(shop: Shop) -> None:
    await _execute(shop.own, "CREATE SCHEMA tenant; ALTER TABLE alembic_version SET SCHEMA tenant")
    shop.project(env(before="connection.execute(sa.text('set search_path to tenant')); connection.commit()"))
    history = await shop.tool().read()
    assert (history.version_table_schema, history.current) == ("tenant", ("0005",))


async def test_a_transaction_for_each_migration_is_told(shop: Shop) -> None:
    shop.project(env(options=", transaction_per_migration=True"))
    assert (await shop.tool().read()).one_transaction is False


async def test_an_engine_that_commits_each_statement_is_not_taken_for_one_transaction(shop: Shop) -> None:
    shop.project(env("create_engine(os.environ['DATABASE_URL'], isolation_level='AUTOCOMMIT')"))
    assert (await shop.tool().read()).one_transaction is False


async def test_connections_past_sqlalchemy_are_named(shop: Shop) -> None:
    shop.project(env(first="import psycopg2"))
    assert "migrations/env.py" in (await shop.tool().read()).remarks[0]


async def test_arguments_variables_and_special_characters_reach_env(shop: Shop) -> None:
    first = """
assert context.get_x_argument(as_dictionary=True) == {'tenant': 'a b'}
assert os.environ['HOW'] == '{"a": 1}'
"""
    shop.project(env("create_engine(os.environ['MINE'])", first=first))
    url = "postgresql+psycopg://{user}:{password}@{host}:{port}/{database}"
    await _execute(shop.server, f"""ALTER ROLE "{shop.own.user}" PASSWORD 'p@ss %/:word'""")
    own = shop.own.model_copy(update={"password": "p@ss %/:word"})
    shop.database = PostgresDatabase(target="shop", tool=own, admin=shop.server)
    history = await shop.tool(x=("tenant=a b",), env={"MINE": url, "HOW": '{"a": 1}'}).read()
    assert history.current == ("0005",)


# ------------------------------------------------------------------ reading that is refused


async def test_a_missing_revision_is_named_with_the_script_that_follows_it(shop: Shop) -> None:
    shop.project(by_environment(), scripts={**SCRIPTS, "0005": Script("00ff", "broken")})
    refusal = await _refused(shop)
    assert refusal.code == "broken_history"
    assert "00ff" in refusal.message
    assert "migrations/versions/0005_broken.py" in refusal.message


async def test_a_revision_that_is_there_twice_is_refused(shop: Shop) -> None:
    project = shop.project(by_environment())
    (project.file("0005").parent / "0005_again.py").write_text(project.file("0005").read_text())
    refusal = await _refused(shop)
    assert refusal.code == "broken_history"
    assert "0005_again.py" in refusal.message


async def test_a_circle_of_revisions_is_refused(shop: Shop) -> None:
    shop.project(by_environment(), scripts={"a1": Script("b2", "first"), "b2": Script("a1", "second")})
    refusal = await _refused(shop)
    assert refusal.code == "broken_history"
    assert "a1" in refusal.message


@pytest.mark.parametrize("line", ["import not_installed_here", "def broken("])
async def test_a_script_that_can_not_be_loaded_is_named(shop: Shop, line: str) -> None:
    project = shop.project(by_environment())
    project.file("0003").write_text(project.file("0003").read_text() + f"\n{line}\n")
    refusal = await _refused(shop)
    assert refusal.code == "broken_history"
    assert "0003_index.py" in refusal.message


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"python": "/nowhere/python"}, "/nowhere/python"),
        ({"directory": Path("/nowhere/shop")}, "/nowhere/shop"),
        ({"config": "other.ini"}, "other.ini"),
        ({"section": "staging"}, "script_location"),
    ],
)
async def test_a_tool_that_is_not_there_is_refused_with_what_is_missing(shop: Shop, settings: dict[str, Any], told: str) -> None:
    shop.project(by_environment())
    refusal = await _refused(shop, **settings)
    assert refusal.code == "tool_missing"
    assert told in refusal.message


async def test_a_python_without_alembic_is_refused(shop: Shop) -> None:
    shop.project(by_environment())
    refusal = await _refused(shop, python=sys._base_executable, env={"PYTHONNOUSERSITE": "1"})  # type: ignore[attr-defined]
    assert refusal.code == "tool_missing"
    assert "alembic" in refusal.message


async def test_an_env_that_leaves_or_raises_is_refused_with_its_last_lines(shop: Shop) -> None:
    shop.project(HEAD + "print('no licence'); sys.exit(3)\n")
    refusal = await _refused(shop)
    assert refusal.code == "tool_failed"
    assert "SystemExit" in refusal.message
    assert "no licence" in refusal.message


async def test_an_env_that_hangs_is_stopped(shop: Shop) -> None:
    shop.project(env(before="print('thinking', flush=True); connection.execute(sa.text('select pg_sleep(600)'))"))
    refusal = await _refused(shop, read_timeout="15s")  # long enough for a busy machine to come to the line that hangs
    assert refusal.code == "tool_timeout"
    assert "thinking" in refusal.message
    assert await _fetch(shop.server, f"SELECT count(*) FROM pg_stat_activity WHERE usename = '{shop.own.user}'") == 0


@pytest.mark.parametrize(
    "env_py",
    [
        env(before="connection.execute(sa.text('select 1'))"),
        env().replace("engine.connect()", "engine.begin()"),
    ],
    ids=["a statement before configure", "engine.begin"],
)
async def test_a_transaction_that_env_begins_is_refused(shop: Shop, env_py: str) -> None:
    project = shop.project(env_py)
    assert (await _refused(shop)).code == "external_transaction"
    with pytest.raises(StepFailed, match="Nothing was executed"):
        await shop.tool().downgrade("0004", Doing(project.plan()))
    assert stands(shop.own) == UNTOUCHED


async def test_several_version_tables_are_refused(shop: Shop) -> None:
    twice = env().split("\nwith engine")
    shop.project(twice[0] + "\nfor schema in ('public', 'public'):\n" + _indent("with engine" + twice[1]))
    assert (await _refused(shop)).code == "several_version_tables"


async def test_another_kind_of_database_is_refused(shop: Shop) -> None:
    shop.project(env("create_engine('sqlite://')"))
    refusal = await _refused(shop)
    assert refusal.code == "wrong_database"
    assert "sqlite" in refusal.message


# ------------------------------------------------------------------ downgrading


GOOD = {
    "the ini's URL": env(),
    "the environment's URL": by_environment(),
    "psycopg": by_environment("psycopg"),
    "async asyncpg": async_by_environment("asyncpg"),
    "async psycopg": async_by_environment("psycopg"),
    "a transaction for each": env(options=", transaction_per_migration=True"),
    "a statement that is committed": env(before="connection.execute(sa.text('set search_path to public')); connection.commit()"),
    "exit at the end": env() + "sys.exit(0)\n",
}


@pytest.mark.parametrize("kind", GOOD)
async def test_a_downgrade_works_with(shop: Shop, kind: str) -> None:
    facts = await shop.downgrade(GOOD[kind])
    assert stands(shop.own) == UNDONE
    assert facts["revisions"] == ["0005"]
    assert facts["transactions"] == 1


async def test_the_facts_tell_every_statement(shop: Shop) -> None:
    facts = await shop.downgrade(env(), to="0003")
    assert facts["revisions"] == ["0005", "0004"]
    assert [(one["sql"].split()[0], one["revision"]) for one in facts["statements"]] == [
        ("ALTER", "0005"), ("UPDATE", "0005"), ("DROP", "0004"), ("UPDATE", "0004"),
    ]  # fmt: skip
    assert facts["statements"][1]["rows"] == 1
    assert all(one["ms"] >= 0 for one in facts["statements"])
    assert (facts["driver"], facts["one_transaction"], facts["connections"], facts["statements_total"]) == ("psycopg2", True, 1, 4)
    json.dumps(facts)


async def test_a_folder_named_alembic_does_not_hide_the_library(shop: Shop) -> None:
    await shop.downgrade(by_environment(), folder="alembic", is_package=True)
    assert stands(shop.own) == UNDONE


async def test_a_project_with_pyproject_only_works(shop: Shop) -> None:
    await shop.downgrade(by_environment(), pyproject=True)
    assert stands(shop.own) == UNDONE


async def test_a_project_may_shadow_the_standard_library(shop: Shop) -> None:
    project = shop.project(by_environment())
    (project.directory / "json.py").write_text("raise RuntimeError('not this one')\n")
    (project.directory / "secrets.py").write_text("raise RuntimeError('not this one')\n")
    assert (await shop.tool().read()).current == ("0005",)


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_hard_coded_address_is_redirected(shop: Shop, other: Connect, driver: str) -> None:
    engine = f"create_engine({other.url(f'postgresql+{driver}')!r})"
    env_py = env(engine) if driver != "asyncpg" else async_by_environment().replace("os.environ['DATABASE_URL']", repr(other.url()))
    await shop.downgrade(env_py)
    assert (stands(shop.own), stands(other)) == (UNDONE, UNTOUCHED)


async def test_an_address_that_was_redirected_is_named(shop: Shop) -> None:
    shop.project(env())
    [remark] = (await shop.tool().read()).remarks
    assert "localhost:5432/nowhere" in remark


async def test_an_address_by_the_databases_other_name_is_proven_and_works(shop: Shop) -> None:
    again = shop.url().replace(f"@{shop.own.host}:", "@localhost:")
    first = f"create_engine(os.environ['DATABASE_URL']).connect().close(); create_engine({again!r}).connect().close()"
    await shop.downgrade(env("create_engine(os.environ['DATABASE_URL'])", first=first))
    assert stands(shop.own) == UNDONE


def _creator(other: Connect) -> str:
    return env(f"create_engine('postgresql+psycopg2://', creator=lambda: __import__('psycopg2').connect({other.url()!r}))")


def _swallowing(other: Connect) -> str:
    creator = f"creator=lambda: __import__('psycopg2').connect({other.url()!r})"
    first = f"""
try:
    create_engine('postgresql+psycopg2://', {creator}).connect()
except BaseException as error:
    print('could not', error)
"""
    return env("create_engine(os.environ['DATABASE_URL'])", first=first)


def _second_before(other: Connect) -> str:
    return env("create_engine(os.environ['DATABASE_URL'])", first=f"create_engine({other.url()!r}).connect().execute(sa.text('delete from orders'))")


def _read_before(other: Connect) -> str:
    return env("create_engine(os.environ['DATABASE_URL'])", first=f"create_engine({other.url()!r}).connect().execute(sa.text('select 1'))")


def _second_after(other: Connect) -> str:
    return env("create_engine(os.environ['DATABASE_URL'])", before=f"create_engine({other.url()!r}).connect().execute(sa.text('delete from orders'))")


@pytest.mark.parametrize("kind", [_creator, _swallowing, _second_before, _read_before, _second_after])
async def test_another_database_is_refused_whatever_env_does(shop: Shop, other: Connect, kind: Callable[[Connect], str]) -> None:
    project = shop.project(kind(other))
    refusal = await _refused(shop)
    assert refusal.code == "wrong_database"
    assert other.database in refusal.message
    assert other.password not in refusal.message
    with pytest.raises(StepFailed, match="Nothing was executed") as failed:
        await shop.tool().downgrade("0004", Doing(project.plan()))
    assert not isinstance(failed.value, OutcomeUnknown)
    assert other.password not in json.dumps(failed.value.facts) + failed.value.message
    assert (stands(shop.own), stands(other)) == (UNTOUCHED, UNTOUCHED)


async def test_a_second_engine_in_the_middle_of_a_migration_is_stopped_and_the_end_is_unknown(shop: Shop, other: Connect) -> None:
    body = f"op.drop_column('orders', 'score')\nsa.create_engine({other.url()!r}).connect().execute(sa.text('delete from orders'))"
    with pytest.raises(OutcomeUnknown, match="stopped in the middle"):
        await shop.downgrade(by_environment(), body)
    assert (stands(shop.own), stands(other)) == (UNTOUCHED, UNTOUCHED)


async def test_migrations_in_a_child_process_are_refused(shop: Shop) -> None:
    child = env("create_engine(os.environ['DATABASE_URL'])", first="pid = os.fork()\nif pid:\n    os.waitpid(pid, 0); sys.exit(0)\n")
    project = shop.project(child)
    with pytest.raises(StepFailed, match="child process"):
        await shop.tool().downgrade("0004", Doing(project.plan()))
    assert stands(shop.own) == UNTOUCHED


async def test_what_a_child_process_did_is_said_though_its_parent_ends_at_once(shop: Shop) -> None:
    slow = """
import threading, time
pump = sys.modules['_backout.frames'].NOW.pump
close = pump.close
def later(wait):
    time.sleep(0 if threading.current_thread() is threading.main_thread() else 1)
    close(wait)
pump.close = later
pid = os.fork()
if pid:
    os.waitpid(pid, 0); sys.exit(0)
"""
    project = shop.project(env("create_engine(os.environ['DATABASE_URL'])", first=slow))
    with pytest.raises(StepFailed, match="child process"):
        await shop.tool().downgrade("0004", Doing(project.plan()))


async def test_a_child_process_that_lives_on_holds_nobody_up(shop: Shop) -> None:
    first = "if os.fork() == 0:\n    os.setsid(); import time; time.sleep(20); os._exit(0)\n"
    async with asyncio.timeout(15):
        await shop.downgrade(env("create_engine(os.environ['DATABASE_URL'])", first=first))
    assert stands(shop.own) == UNDONE


NOISE = r"""
import os, subprocess, sys
print("no newline", end="")
os.write(1, b"C level, no newline")
os.write(2, b'\n\x1edeadbeef 1.1/1 {"k": "done"}\n\x1e 1.1/1 {"k": "done"}\n')
subprocess.run(["sh", "-c", "echo child on stdout; echo child on stderr >&2"])
assert sys.stdin.read() == ""
print("x" * 200_000)
print("snow ☃ \udcff")
sys.__stdout__.write("the last line\n")
op.drop_column('orders', 'score')
"""


async def test_whatever_a_migration_prints_the_frames_survive(shop: Shop) -> None:
    facts = await shop.downgrade(by_environment(), NOISE)
    assert stands(shop.own) == UNDONE
    assert "the last line" in facts["output"]
    assert "☃" in facts["output"]
    assert len(facts["output"]) < 5_000


async def test_the_password_is_taken_out_of_what_is_printed(shop: Shop) -> None:
    facts = await shop.downgrade(
        by_environment(),
        'print(op.get_bind().engine.url.render_as_string(hide_password=False))\nop.execute("select \'" + op.get_bind().engine.url.password + "\'")',
    )
    assert "***" in facts["output"]
    assert shop.own.password not in json.dumps(facts)


async def test_no_password_is_in_the_environment_that_the_program_is_started_with(shop: Shop) -> None:
    body = "print('BORN WITH', op.get_bind().engine.url.password in open('/proc/self/environ').read(), 'DATABASE_URL' in __import__('os').environ)"
    facts = await shop.downgrade(by_environment(), body)
    assert "BORN WITH False True" in facts["output"]


async def test_a_program_that_was_started_ahead_runs_the_scripts_as_they_are_when_it_is_told(shop: Shop) -> None:
    project, runner = shop.project(by_environment()), LocalRunner(LocalRunner.Settings())
    tool = shop.tool(runner)
    await tool.prepare()
    try:
        assert [one.revision for one in (await tool.read()).revisions] == ["0005", "0004", "0003", "0002", "0001"]
        await tool.prepare()
        planned = project.plan(to="0004")
        project.file("0005").write_text(project.file("0005").read_text() + "\n# another script\n")
        with pytest.raises(StepFailed, match="Nothing was executed"):
            await tool.downgrade("0004", Doing(planned))
        await tool.prepare()
        await tool.downgrade("0004", Doing(project.plan(to="0004")))
        assert (await tool.read()).current == ("0004",)
    finally:
        await runner.clean(())


async def test_a_program_that_was_started_ahead_gives_way_when_the_applications_libraries_are_upgraded(shop: Shop) -> None:
    shop.project(by_environment())
    library, starts = shop.directory.parent / "library", shop.directory.parent / "starts"
    library.mkdir()
    starting = library / "sitecustomize.py"
    starting.write_text(f"open({str(starts)!r}, 'a').write('old ')")
    runner = LocalRunner(LocalRunner.Settings())
    tool = shop.tool(runner, env={"PYTHONPATH": str(library), "DATABASE_URL": "{url}"})
    await tool.prepare()
    try:
        (waiting,) = (one.program.pid for one in runner._ahead.values())
        await until(lambda: asyncio.to_thread(_is_in_select, waiting))
        starting.write_text(f"open({str(starts)!r}, 'a').write('the new one ')")
        assert (await tool.read()).current == ("0005",)
        assert starts.read_text() == "old the new one "
    finally:
        await runner.clean(())


async def test_a_script_that_ends_as_one_that_gives_way_does_is_not_run_again(shop: Shop, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    with pytest.raises((StepFailed, OutcomeUnknown)):
        await shop.downgrade(by_environment(), f"open({str(ran)!r}, 'a').write('once '); __import__('os')._exit(98)")
    assert ran.read_text() == "once "


def _is_in_select(pid: int) -> bool:
    return bool(re.search("poll|select", Path(f"/proc/{pid}/wchan").read_text()))


async def test_the_password_is_in_no_argument_list(shop: Shop) -> None:
    body = "print('ARGS', op.get_bind().engine.url.password in open('/proc/self/cmdline').read())"
    facts = await shop.downgrade(by_environment(), body)
    assert "ARGS False" in facts["output"]


# ------------------------------------------------------------------ the bounds of the session (F13), the fence, the gate


@pytest.mark.parametrize("driver", DRIVERS)
async def test_the_bounds_hold_on_the_tools_own_connection(shop: Shop, driver: str) -> None:
    names = ("lock_timeout", "statement_timeout", "application_name", "client_connection_check_interval")
    body = f"for name in {names!r}:\n    print(name, op.get_bind().exec_driver_sql('show ' + name).scalar())"
    facts = await shop.downgrade(env_for(driver), body)
    assert facts["driver"] == driver
    for line in ("lock_timeout 5s", "statement_timeout 15min", "application_name backout/r1/downgrade/1", "client_connection_check_interval 1s"):
        assert line in facts["output"]


@pytest.mark.parametrize("driver", DRIVERS)
async def test_an_env_that_resets_a_bound_is_refused(shop: Shop, driver: str) -> None:
    reset = "connection.execute(sa.text('set lock_timeout = 0')); connection.commit()"
    engine = f"create_engine(os.environ['DATABASE_URL'].replace('postgresql:', 'postgresql+{driver}:'))"
    env_py = env(engine, before=reset) if driver != "asyncpg" else _async_with(reset)
    with pytest.raises(StepFailed, match=r"lock_timeout.*Nothing was executed"):
        await shop.downgrade(env_py)
    assert stands(shop.own) == UNTOUCHED


async def test_an_attempt_that_is_not_the_current_one_executes_nothing(shop: Shop) -> None:
    project = shop.project(by_environment())
    with pytest.raises(StepFailed, match="Nothing was executed") as failed:
        await shop.tool().downgrade("0004", Doing(project.plan(), current=False))
    assert not isinstance(failed.value, OutcomeUnknown)
    assert stands(shop.own) == UNTOUCHED


async def test_pid_and_backend_are_remembered_before_anything_is_executed(shop: Shop) -> None:
    project = shop.project(by_environment())
    doing = Doing(project.plan(), current=False)
    with pytest.raises(StepFailed):
        await shop.tool().downgrade("0004", doing)
    assert set(doing.remembered) == {"pid", "backend"}


async def test_a_revision_that_moved_is_refused(shop: Shop) -> None:
    project = shop.project(by_environment())
    await _execute(shop.own, "UPDATE alembic_version SET version_num = '0004'")
    with pytest.raises(StepFailed, match=r"stands at 0004.*Nothing was executed"):
        await shop.tool().downgrade("0003", Doing(project.plan(to="0003")))
    assert stands(shop.own) == ("0004", UNTOUCHED[1])


async def test_a_script_that_changed_since_the_plan_is_refused(shop: Shop) -> None:
    project = shop.project(by_environment())
    plan = project.plan()
    project.file("0005").write_text(project.file("0005").read_text() + "# one more line\n")
    with pytest.raises(StepFailed, match=r"scripts changed since the plan.*0005_add"):
        await shop.tool().downgrade("0004", Doing(plan))
    assert stands(shop.own) == UNTOUCHED


async def test_revisions_that_were_not_planned_are_refused(shop: Shop) -> None:
    project = shop.project(by_environment())
    with pytest.raises(StepFailed, match="0005, 0004, which is not what was planned"):
        await shop.tool().downgrade("0003", Doing(project.plan(to="0004")))
    assert stands(shop.own) == UNTOUCHED


async def test_a_plan_of_one_transaction_is_held_to_it(shop: Shop) -> None:
    project = shop.project(env(options=", transaction_per_migration=True"))
    with pytest.raises(StepFailed, match=r"one transaction.*Nothing was executed"):
        await shop.tool().downgrade("0003", Doing(project.plan(to="0003", one_transaction=True)))
    assert stands(shop.own) == UNTOUCHED


async def test_a_single_migration_in_a_transaction_of_its_own_is_one_transaction(shop: Shop) -> None:
    project = shop.project(env(options=", transaction_per_migration=True"))
    facts = await shop.tool().downgrade("0004", Doing(project.plan(one_transaction=True)))
    assert facts["one_transaction"] is True
    assert stands(shop.own) == UNDONE


# ------------------------------------------------------------------ bad ends


async def test_a_migration_that_raises_tells_where_and_what(shop: Shop) -> None:
    with pytest.raises(StepFailed, match="rolled back") as failed:
        await shop.downgrade(by_environment(), "op.drop_column('orders', 'score')\nprint('nearly')\nop.execute('select 1/0')")
    error = failed.value.facts["error"]
    assert not isinstance(failed.value, OutcomeUnknown)
    assert (error["sqlstate"], error["revision"], error["message"]) == ("22012", "0005", "division by zero")
    assert "0005_add_scoring_fields.py" in error["where"]
    assert "nearly" in failed.value.facts["output"]
    assert stands(shop.own) == UNTOUCHED


async def test_what_was_committed_before_a_failure_is_told(shop: Shop) -> None:
    scripts = {**SCRIPTS, "0004": Script("0003", "customers", "raise RuntimeError('boom')")}
    project = shop.project(env(options=", transaction_per_migration=True"), scripts=scripts)
    with pytest.raises(StepFailed, match=r"1 had been committed, 0005 was undone") as failed:
        await shop.tool().downgrade("0003", Doing(project.plan(to="0003")))
    assert failed.value.facts["revisions"] == ["0005"]
    assert stands(shop.own) == UNDONE


@pytest.mark.parametrize("driver", DRIVERS)
async def test_a_lock_timeout_names_who_held_the_lock(shop: Shop, driver: str) -> None:
    project = shop.project(env_for(driver))
    doing = Doing(project.plan())
    async with _session(shop.server, shop.own.database, "nightly report") as blocker:
        await blocker.execute("BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE")
        with pytest.raises(StepFailed, match="nightly report") as failed:
            await shop.tool(lock_timeout="2s").downgrade("0004", doing)
    assert not isinstance(failed.value, OutcomeUnknown)
    assert failed.value.facts["error"]["sqlstate"] == "55P03"
    assert failed.value.facts["blockers"][0]["application"] == "nightly report"
    assert any("nightly report" in text and "ALTER TABLE orders" in text for text in doing.told)
    assert stands(shop.own) == UNTOUCHED


async def test_a_terminated_session_is_an_unknown_end(shop: Shop) -> None:
    project = shop.project(by_environment(), downgrade="op.execute('select pg_sleep(60)')")
    doing = Doing(project.plan())
    work = asyncio.create_task(_caught(shop.tool().downgrade("0004", doing)))
    await until(lambda: _stuck(shop), during=work)
    await _execute(shop.server, f"SELECT pg_terminate_backend({doing.remembered['backend']})")
    assert isinstance(await work, OutcomeUnknown)


async def test_a_killed_tool_is_an_unknown_end_and_leaves_no_session(shop: Shop) -> None:
    project = shop.project(by_environment(), downgrade="op.execute('select pg_sleep(60)')")
    doing = Doing(project.plan())
    work = asyncio.create_task(_caught(shop.tool().downgrade("0004", doing)))
    await until(lambda: _stuck(shop), during=work)
    os.kill(doing.remembered["pid"], signal.SIGKILL)
    assert isinstance(await work, OutcomeUnknown)
    assert await shop.database.sessions(doing.application) == ()
    assert stands(shop.own) == UNTOUCHED


async def test_a_deadline_ends_the_work_at_the_target(shop: Shop) -> None:
    project = shop.project(by_environment(), downgrade="op.execute('select pg_sleep(60)')")
    doing = Doing(project.plan())
    with pytest.raises(OutcomeUnknown, match="did not end within 3 s"):
        await shop.tool(deadline="3s").downgrade("0004", doing)
    assert doing.remembered
    assert await shop.database.sessions(doing.application) == ()
    with pytest.raises(ProcessLookupError):
        os.kill(doing.remembered["pid"], 0)


async def test_a_cancellation_ends_the_work_at_the_target(shop: Shop) -> None:
    project = shop.project(by_environment(), downgrade="op.execute('select pg_sleep(60)')")
    doing = Doing(project.plan())
    work = asyncio.create_task(shop.tool().downgrade("0004", doing))
    await until(lambda: _stuck(shop), during=work)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert await shop.database.sessions(doing.application) == ()


# ------------------------------------------------------------------ kill -9 of Backout itself

BOT = """
import asyncio, json, sys
from bot.databases.postgres import PostgresDatabase
from bot.model import Plan
from bot.place import Connect
from bot.runners.local import LocalRunner
from bot.settings import inherited
from bot.tools.alembic import AlembicTool
from bot.tools.alembic_settings import AlembicSettings
from tests.contract.test_migration_tool import Doing
given = json.loads(sys.stdin.readline())
own, server = Connect(**given["own"]), Connect(**given["server"])
settings = AlembicSettings(directory=given["directory"], python=sys.executable, lock_timeout="60s")
database = PostgresDatabase(target="shop", tool=own, admin=server)
tool = AlembicTool(settings, LocalRunner(LocalRunner.Settings()), database, inherited=inherited())
asyncio.run(tool.downgrade("0004", Doing(Plan(**given["plan"]))))
"""


async def _kill_a_bot(shop: Shop, plan: Plan) -> None:
    """Start another Backout on this downgrade, and end it with SIGKILL while the migration waits for the test's lock."""
    given = {"own": shop.own.model_dump(), "server": shop.server.model_dump(), "directory": str(shop.directory), "plan": plan.model_dump(mode="json")}
    root = Path(__file__).parents[2]
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  the process that is killed
        sys.executable, "-c", BOT, cwd=root, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(given).encode() + b"\n")
    await process.stdin.drain()
    try:
        await until(lambda: _stuck(shop))
    finally:
        process.kill()
        await process.wait()


async def test_when_the_bot_is_killed_the_work_goes_on_keeps_its_fence_and_refuses_a_twin(shop: Shop) -> None:
    body = """
import os, signal
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
op.execute("select pg_advisory_lock(77)")
print("after the bot died")
os.write(2, b"x" * 200_000)
op.drop_column('orders', 'score')
"""
    project = shop.project(by_environment(), downgrade=body)
    doing = Doing(project.plan())
    async with _session(shop.server, shop.own.database, "the test") as holder:
        await holder.execute("SELECT pg_advisory_lock(77)")
        await _kill_a_bot(shop, doing.plan)
        [orphan] = await shop.database.sessions(doing.application)
        with pytest.raises(StepFailed, match=f"Another process \\({orphan.pid}\\).*Nothing was executed"):
            await shop.tool().downgrade("0004", doing)
        assert [one.pid for one in await shop.database.sessions(doing.application)] == [orphan.pid]
    await until(lambda: _gone(shop, doing))
    assert stands(shop.own) == UNDONE
    with pytest.raises(StepFailed, match=r"stands at 0004.*Nothing was executed"):
        await shop.tool().downgrade("0004", doing)


async def test_an_orphan_gets_no_new_connection(shop: Shop) -> None:
    body = """
import os
op.drop_column('orders', 'score')
op.execute("select pg_advisory_lock(77)")
sa.create_engine(os.environ['DATABASE_URL']).connect().execute(sa.text("select 1"))
"""
    project = shop.project(by_environment(), downgrade=body)
    doing = Doing(project.plan())
    async with _session(shop.server, shop.own.database, "the test") as holder:
        await holder.execute("SELECT pg_advisory_lock(77)")
        await _kill_a_bot(shop, doing.plan)
    await until(lambda: _gone(shop, doing))
    assert stands(shop.own) == UNTOUCHED


# ------------------------------------------------------------------ small parts


def _async_with(statement: str) -> str:
    return async_by_environment().replace("def do(connection):\n", f"def do(connection):\n    {statement}\n")


def _indent(text: str) -> str:
    return "".join(f"    {line}" for line in text.splitlines(keepends=True))


async def _refused(shop: Shop, **settings: Any) -> Refusal:
    with pytest.raises(Refusal) as refused:
        await shop.tool(**settings).read()
    assert refused.value.next
    assert quote(shop.own.password) not in refused.value.message
    return refused.value


async def _caught(work: Awaitable[Any]) -> BaseException | None:
    try:
        await work
    except StepFailed as error:
        return error
    return None


async def _execute(connect: Connect, statement: str) -> None:
    session = await asyncpg.connect(connect.url())
    try:
        await session.execute(statement)
    finally:
        await session.close()


async def _fetch(connect: Connect, query: str) -> Any:
    session = await asyncpg.connect(connect.url())
    try:
        return await session.fetchval(query)
    finally:
        await session.close()


class _session:  # noqa: N801  reads as a function
    def __init__(self, connect: Connect, database: str, name: str) -> None:
        self._url, self._name = connect.model_copy(update={"database": database}).url(), name

    async def __aenter__(self) -> asyncpg.Connection:
        self._own = await asyncpg.connect(self._url, server_settings={"application_name": self._name})
        return self._own

    async def __aexit__(self, *_: object) -> None:
        await self._own.close()


async def _stuck(shop: Shop) -> bool:
    query = f"SELECT count(*) FROM pg_stat_activity WHERE wait_event IN ('PgSleep', 'advisory') AND usename = '{shop.own.user}'"
    return bool(await _fetch(shop.server, query))


async def _gone(shop: Shop, doing: Doing) -> bool:
    return not await shop.database.sessions(doing.application)
