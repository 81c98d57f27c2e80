"""A server for copies: as production's where it counts, nothing else on it, gone afterwards; production is not touched whatever happens there."""

# ruff: noqa: ASYNC240  looks at small local files

from __future__ import annotations

import asyncio
import dataclasses
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import bot
from bot.databases import cutting, likeness
from bot.databases.connecting import connected
from bot.databases.likeness import literal
from bot.databases.scratch import _CONNECTIONS, ThrowawayScratches, _refuse_too_small, _said
from bot.embedded import EmbeddedPostgres
from bot.errors import ProgramFailed, Refusal, StepFailed
from bot.guardian import postmaster
from bot.place import Connect
from bot.throwaway import Throwaways, installed
from tests.conftest import MakeDatabase
from tests.contract.servers import execute, refused, session
from tests.contract.test_embedded import until


@dataclasses.dataclass
class Rehearsing:
    run: str = "r1"


WORK: Any = Rehearsing()

KILLED = """
import asyncio, sys
from pathlib import Path
from bot.databases.scratch import ThrowawayScratches
from bot.place import Connect
from bot.throwaway import Throwaways
class Work: run = "r1"
async def main():
    home, source = Path(sys.argv[1]), Connect.model_validate_json(sys.stdin.readline())
    async with ThrowawayScratches(source, source, Throwaways(home), lambda tool, admin, maintenance: (tool, admin), home).open(Work()) as scratch:
        await scratch.create("copy")
        print("open", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture
def home() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="backout-scratch-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def shop(make_database: MakeDatabase) -> Connect:
    return make_database("shop")


def scratches(source: Connect, tool: Connect, home: Path, clusters: Any = None) -> ThrowawayScratches:
    def at(tool: Connect, admin: Connect, maintenance: str) -> Any:
        return tool, admin

    return ThrowawayScratches(source, tool, clusters or Throwaways(home), at, home)


def tool_at(scratch: Any, name: str) -> Connect:
    found = scratch.at(name)[0]
    assert isinstance(found, Connect)
    return found


async def ask(connect: Connect, sql: str, *values: Any) -> Any:
    async with session(connect) as open_:
        return await open_.fetchval(sql, *values)


async def rows(connect: Connect, sql: str) -> list[tuple[Any, ...]]:
    async with session(connect) as open_:
        return [tuple(row) for row in await open_.fetch(sql)]


@asynccontextmanager
async def production(home: Path, major: int, *statements: str, **settings: str) -> AsyncIterator[Connect]:
    """A server of that major version, as its superuser, on its database shop."""
    programs = (await installed())[major] if major not in {16, 18} else None
    async with EmbeddedPostgres(home, name=f"production{major}", major=major, durable=False, programs=programs, settings=settings) as server:
        await execute(server, "CREATE ROLE app LOGIN PASSWORD 'secret-of-app'", "CREATE DATABASE shop OWNER app", *statements)
        yield server.model_copy(update={"database": "shop"})


def as_app(server: Connect) -> Connect:
    return server.model_copy(update={"user": "app", "password": "secret-of-app"})


# ------------------------------------------------------------------ production stays as it is

SHARED = {
    "roles": "SELECT (to_jsonb(r) - 'rolpassword')::text FROM pg_authid r ORDER BY 1",
    "members": "SELECT to_jsonb(m)::text FROM pg_auth_members m ORDER BY 1",
    "settings": "SELECT to_jsonb(s)::text FROM pg_db_role_setting s ORDER BY 1",
    "databases": "SELECT (to_jsonb(d) - 'datfrozenxid' - 'datminmxid')::text FROM pg_database d ORDER BY 1",
    "slots": "SELECT slot_name::text, plugin::text, slot_type, database::text FROM pg_replication_slots ORDER BY 1",
    "subscriptions": "SELECT subname::text, subenabled, subslotname::text FROM pg_subscription ORDER BY 1",
    "files": "SELECT sourcefile, sourceline, name, setting FROM pg_file_settings ORDER BY 1, 2",
    "work_mem": "SELECT reset_val FROM pg_settings WHERE name = 'work_mem'",
}

ATTACKS = (
    "DROP ROLE bystander",
    "ALTER ROLE clerk NOLOGIN",
    "ALTER ROLE clerk PASSWORD 'other'",
    "ALTER ROLE clerk SET work_mem = '64kB'",
    "REVOKE staff FROM clerk",
    "ALTER SYSTEM SET work_mem = '64kB'",
    "SELECT pg_reload_conf()",
    "ALTER DATABASE shop SET work_mem = '64kB'",
    "REVOKE CONNECT ON DATABASE shop FROM clerk",
    "DROP OWNED BY clerk",
    "DROP DATABASE other",
    "SELECT pg_drop_replication_slot('debezium')",
    "CREATE ROLE intruder SUPERUSER LOGIN",
    "DROP SUBSCRIPTION feed",
)


async def everything_shared(server: Connect) -> dict[str, list[tuple[Any, ...]]]:
    return {name: await rows(server, sql) for name, sql in SHARED.items()}


async def test_roles_settings_slots_and_other_databases_are_the_same_after_a_downgrade_that_tries_to_change_each(home: Path) -> None:
    statements = (
        "CREATE ROLE clerk LOGIN PASSWORD 'clerks'", "CREATE ROLE staff", "CREATE ROLE bystander", "GRANT staff TO clerk WITH ADMIN OPTION",
        "CREATE DATABASE other", "REVOKE CONNECT ON DATABASE shop FROM PUBLIC", "GRANT CONNECT ON DATABASE shop TO clerk",
        "ALTER DATABASE shop SET work_mem = '8MB'", "ALTER ROLE app SUPERUSER",
        "SELECT pg_create_physical_replication_slot('debezium')",
    )  # fmt: skip
    async with production(home, 18, *statements, wal_level="logical") as server:
        await execute(server, "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
        before = await everything_shared(server)
        refusals = []
        async with scratches(server, as_app(server), home).open(WORK) as scratch:
            await scratch.create("shop")
            await scratch.create("other")
            async with session(tool_at(scratch, "shop")) as app:
                for attack in ATTACKS:
                    try:
                        await app.execute(attack)
                    except asyncpg.PostgresError as error:
                        refusals.append((attack, type(error)))
            there = await everything_shared(scratch.superuser("shop"))
        assert await everything_shared(server) == before
        # Those that succeeded did so there: the test would see it if they had reached production.
        assert [attack for attack, _ in refusals] == ["SELECT pg_drop_replication_slot('debezium')", "DROP SUBSCRIPTION feed"]
        assert {name for name in before if there[name] != before[name]} >= {"roles", "members", "settings", "databases", "files", "work_mem"}
        await ask(server.model_copy(update={"user": "clerk", "password": "clerks"}), "SELECT 1")


async def test_no_password_of_production_is_on_it(server: Connect, shop: Connect, home: Path) -> None:
    async with scratches(server, shop, home).open(WORK) as scratch:
        with_password = await rows(scratch.superuser("postgres"), "SELECT rolname::text FROM pg_authid WHERE rolpassword IS NOT NULL")
        assert {name for (name,) in with_password} == {shop.user, scratch.superuser("postgres").user}
        await scratch.create("copy")
        assert tool_at(scratch, "copy").password != shop.password
        assert await ask(tool_at(scratch, "copy"), "SELECT current_user::text") == shop.user
        assert scratch.superuser("postgres").user != server.user


# ------------------------------------------------------------------ as production's

LIKENESS = {
    "roles": """SELECT rolname::text, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls, rolconnlimit
        FROM pg_roles WHERE rolname !~ '^pg_' AND rolname !~ '^backout' ORDER BY 1""",
    "members": """SELECT r.rolname::text, u.rolname::text, m.admin_option, to_jsonb(m) ->> 'inherit_option', to_jsonb(m) ->> 'set_option'
        FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid JOIN pg_roles u ON u.oid = m.member
        WHERE u.rolname !~ '^pg_' ORDER BY 1, 2, 3, 4""",
    "settings": """SELECT d.datname::text, r.rolname::text, s.setconfig FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase
        LEFT JOIN pg_roles r ON r.oid = s.setrole ORDER BY 1, 2""",
    "database": """SELECT pg_get_userbyid(datdba)::text, pg_encoding_to_char(encoding)::text, datcollate::text, datctype::text,
        (SELECT array_agg(format('%s %s %s', a.grantee::regrole, privilege_type, is_grantable) ORDER BY 1)
          FROM (SELECT * FROM aclexplode(datacl) ORDER BY grantee::regrole::text, privilege_type) a)
        FROM pg_database WHERE datname = current_database()""",
    "public": """SELECT pg_get_userbyid(nspowner)::text, (SELECT array_agg(format('%s %s %s', a.grantee::regrole, privilege_type, is_grantable))
          FROM (SELECT * FROM aclexplode(nspacl) ORDER BY grantee::regrole::text, privilege_type) a) FROM pg_namespace WHERE nspname = 'public'""",
}

HOSTILE = '"; DROP DATABASE "shop'
WEIRD = (
    "CREATE ROLE \"o'brien\\\" CREATEDB CREATEROLE CONNECTION LIMIT 7",
    'CREATE ROLE """; DROP DATABASE ""shop" NOINHERIT BYPASSRLS',
    'CREATE ROLE "ÄÖ ü" REPLICATION',
    'GRANT "ÄÖ ü" TO app WITH ADMIN OPTION',
    "GRANT pg_monitor TO app",
    "ALTER ROLE app SET search_path = '\"$user\"', 'odd \"schema', public",
    "ALTER ROLE app IN DATABASE shop SET \"app.tenant\" = 'a''b\\c'",
    "ALTER ROLE ALL SET statement_timeout = '77s'",
    "ALTER DATABASE shop SET default_transaction_read_only = on",
    "ALTER DATABASE shop SET search_path = shop, public",
    "REVOKE ALL ON DATABASE shop FROM PUBLIC",
    'GRANT CONNECT, CREATE ON DATABASE shop TO "ÄÖ ü" WITH GRANT OPTION',
)  # fmt: skip


@pytest.mark.parametrize("major", [15, 16, 18])
async def test_roles_memberships_settings_owner_and_grants_are_as_in_production_whatever_their_names(home: Path, major: int) -> None:
    if major not in await installed():
        pytest.skip(f"no PostgreSQL {major} here")
    since_16 = (
        'GRANT "ÄÖ ü" TO "o\'brien\\" WITH INHERIT FALSE, SET TRUE, ADMIN FALSE GRANTED BY app',
        f"GRANT {quote(HOSTILE)} TO app WITH INHERIT TRUE, SET FALSE",
    )
    async with production(home, major, *WEIRD, *(since_16 if major >= 16 else ())) as server:
        await execute(
            server,
            "SET default_transaction_read_only = off",
            'GRANT CREATE ON SCHEMA public TO "o\'brien\\"',
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
        )
        async with scratches(server, as_app(server), home).open(WORK) as scratch:
            assert scratch.version // 10000 == major
            assert scratch.says == f"a throwaway server, PostgreSQL {major}"
            assert scratch.partial == ()
            await scratch.create("shop")
            copy = scratch.superuser("shop")
            for what, sql in LIKENESS.items():
                assert await rows(copy, sql) == await rows(server, sql), what
            tool = await rows(tool_at(scratch, "shop"), "SELECT current_setting('search_path'), current_setting('app.tenant')")
            assert tool == await rows(as_app(server), "SELECT current_setting('search_path'), current_setting('app.tenant')")


def quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@pytest.mark.parametrize("text", ["plain", "o'brien", "back\\slash", "\\' OR 1=1 --", "", "ü\n"])
async def test_a_text_constant_is_that_text_under_either_rule_for_backslashes(server: Connect, text: str) -> None:
    for conforming in ("on", "off"):
        async with session(server, standard_conforming_strings=conforming) as open_:
            assert await open_.fetchval(f"SELECT {literal(text)}") == text


async def test_a_clone_has_rows_settings_and_owner_and_a_dropped_one_is_gone(server: Connect, shop: Connect, home: Path) -> None:
    await execute(server, f"ALTER DATABASE {shop.database} SET work_mem = '9MB'")
    async with scratches(server, shop, home).open(WORK) as scratch:
        await scratch.create("first")
        await execute(tool_at(scratch, "first"), "CREATE TABLE t AS SELECT 1 AS n")
        await scratch.clone("first", 'sec"ond')
        second = tool_at(scratch, 'sec"ond')
        assert await rows(second, "SELECT n, current_setting('work_mem') FROM t") == [(1, "9MB")]
        async with session(second):
            await scratch.drop('sec"ond')
        await scratch.drop('sec"ond')
        names = await rows(scratch.superuser("postgres"), "SELECT datname::text FROM pg_database")
        assert ('sec"ond',) not in names
        assert ("first",) in names
        async with session(tool_at(scratch, "first")):
            with pytest.raises(StepFailed, match="being accessed by other users"):
                await scratch.clone("first", "third")


async def test_a_locale_that_is_not_there_makes_it_partial(server: Connect, shop: Connect, home: Path) -> None:
    like = await likeness.read(server.model_copy(update={"database": shop.database}), shop.user)
    strange = dataclasses.replace(like, database={**like.database, "datcollate": "xx_XX.UTF-8", "datctype": "xx_XX.UTF-8"})
    async with scratches(server, shop, home).open(WORK) as scratch:
        async with connected(scratch.superuser("postgres"), {"default_transaction_read_only": "off"}) as admin:
            (said,) = await likeness.make_empty(admin, strange, "strange")
        assert "sorted as C" in said
        assert "xx_XX.UTF-8" in said
        assert await rows(scratch.superuser("strange"), "SELECT datcollate::text FROM pg_database WHERE datname = 'strange'") == [("C",)]


async def test_a_tool_that_is_a_superuser_there_is_not_isolated(server: Connect, shop: Connect, home: Path) -> None:
    await execute(server, f"GRANT pg_execute_server_program TO {shop.user}")
    async with scratches(server, shop, home).open(WORK) as scratch:
        assert [said for said in scratch.partial if said.startswith("not isolated: ") and shop.user in said]


# ------------------------------------------------------------------ which server


class OneMajor(Throwaways):
    """A machine with nothing but these."""

    def __init__(self, home: Path, *majors: int) -> None:
        super().__init__(home)
        self.these = majors

    async def majors(self) -> tuple[int, ...]:
        return self.these


async def test_a_later_major_version_is_taken_and_said_and_an_older_one_never(home: Path) -> None:
    async with production(home, 16) as server, scratches(server, as_app(server), home, OneMajor(home, 18)).open(WORK) as scratch:
        assert scratch.partial == ("on PostgreSQL 18, production is 16",)
        assert scratch.says == "a throwaway server, PostgreSQL 18"
    async with production(home, 18) as server:
        opening = scratches(server, as_app(server), home, OneMajor(home, 16)).open(WORK)
        refusal = await refused("rehearsal_impossible", opening.__aenter__())
        assert "Production is PostgreSQL 18, and the newest here is 16" in refusal.message


async def test_a_missing_extension_is_refused_by_name_before_anything_is_restored(home: Path) -> None:
    """The wheel's server has no citext; Debian's has."""
    if 15 not in await installed():
        pytest.skip("no PostgreSQL with contrib here")
    async with production(home, 15) as server:
        await execute(server, "CREATE EXTENSION citext")
        refusal = await refused("rehearsal_impossible", scratches(server, as_app(server), home, OneMajor(home, 16, 18)).open(WORK).__aenter__())
        assert refusal.message == "extension citext is not on the throwaway server"
        assert refusal.next == "set rehearsal.server to a server that has it"
        assert not list(home.glob("scratch-*"))
        async with scratches(server, as_app(server), home).open(WORK) as scratch:
            assert scratch.version // 10000 == 15


async def test_there_is_room_to_lock_everything_at_once(server: Connect, shop: Connect, home: Path) -> None:
    for start in range(0, 3000, 500):
        await execute(shop, "".join(f"CREATE TABLE t{n} (n int PRIMARY KEY);" for n in range(start, start + 500)))
    async with scratches(server, shop, home).open(WORK) as scratch:
        locks = await ask(scratch.superuser("postgres"), "SELECT current_setting('max_locks_per_transaction')::int")
        assert locks * _CONNECTIONS > 2 * 3000


# ------------------------------------------------------------------ cut off


async def test_a_copy_has_no_way_out_and_statistics(home: Path) -> None:
    if 15 not in await installed():
        pytest.skip("no PostgreSQL with postgres_fdw here")
    async with production(home, 15) as server, scratches(server, as_app(server), home).open(WORK) as scratch:
        await scratch.create("copy")
        copy = scratch.superuser("copy")
        await execute(
            copy,
            "CREATE EXTENSION postgres_fdw",
            "CREATE SERVER \"ware house\" FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'h')",
            "CREATE USER MAPPING FOR app SERVER \"ware house\" OPTIONS (password 'secret')",
            'CREATE USER MAPPING FOR PUBLIC SERVER "ware house"',
            "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false, slot_name = 'feed')",
            "CREATE PUBLICATION pub FOR ALL TABLES",
            "CREATE SCHEMA cron CREATE TABLE job (n int)",
            "INSERT INTO cron.job VALUES (1)",
            "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
            "CREATE EVENT TRIGGER kept ON sql_drop EXECUTE FUNCTION f()",
            "CREATE TABLE orders AS SELECT n FROM generate_series(1, 1234) n",
            "CREATE TABLE parts (n int) PARTITION BY RANGE (n)",
            "CREATE TABLE part PARTITION OF parts DEFAULT",
        )
        said = await scratch.cut_off("copy")
        assert said == (
            "subscription feed was removed",
            "publication pub was removed",
            "the way of app into foreign server ware house was removed",
            "the way of everybody into foreign server ware house was removed",
            "the jobs of cron.job were removed",
        )  # fmt: skip
        for gone in ("pg_subscription", "pg_user_mappings", "pg_publication", "cron.job"):
            assert await ask(copy, f"SELECT count(*) FROM {gone}") == 0
        assert await ask(copy, "SELECT evtname::text FROM pg_event_trigger") == "kept"
        assert await ask(copy, "SELECT reltuples FROM pg_class WHERE relname = 'orders'") == 1234
        assert await scratch.cut_off("copy") == ("foreign server ware house has no user mappings: if it needs none, it still leads out",)
        await scratch.drop("copy")


async def test_what_can_not_be_cut_off_is_an_error(server: Connect, shop: Connect) -> None:
    await execute(shop, "CREATE SCHEMA cron CREATE VIEW job AS SELECT 1 AS n")
    with pytest.raises(StepFailed, match="cannot delete from view"):
        await cutting.cut_off(server.model_copy(update={"database": shop.database}))


# ------------------------------------------------------------------ gone afterwards


async def test_nothing_is_left_after_success_failure_and_cancellation(server: Connect, shop: Connect, home: Path) -> None:
    async def once(end: BaseException | None) -> Path:
        async with scratches(server, shop, home).open(WORK):
            (place,) = home.glob("scratch-r1-*")
            assert postmaster(place / "data") is not None
            if end is not None:
                raise end
        return place

    await once(None)
    assert not list(home.iterdir())
    for error in (StepFailed("the downgrade failed"), asyncio.CancelledError()):
        with pytest.raises(type(error)):
            await once(error)
        assert not list(home.iterdir())


async def test_a_cancellation_while_it_starts_leaves_nothing(server: Connect, shop: Connect, home: Path) -> None:
    opening: asyncio.Task[Any] = asyncio.ensure_future(scratches(server, shop, home).open(WORK).__aenter__())
    await until(lambda: bool(list(home.glob("scratch-*/new-*"))))
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not list(home.iterdir())


async def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(server: Connect, shop: Connect, home: Path) -> None:
    (home / "scratch.txt").write_text("not ours")
    (home / "journal").mkdir()
    mine = scratches(server, shop, home)
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  it is killed
        sys.executable, "-c", KILLED, str(home), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        cwd=Path(bot.__file__).parent.parent, env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(shop.model_copy(update={"password": shop.password}).model_dump_json().encode() + b"\n")
    async with asyncio.timeout(120):
        assert await process.stdout.readline() == b"open\n"
    (left,) = home.glob("scratch-r1-*")
    async with mine.open(WORK) as scratch:
        await mine.clean()
        assert left.exists()
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        await mine.clean()
        assert not left.exists()
        assert postmaster(left / "data") is None
        await scratch.create("still_here")
    assert sorted(path.name for path in home.iterdir()) == ["journal", "scratch.txt"]


async def test_a_server_that_can_not_start_says_why(server: Connect, shop: Connect, home: Path) -> None:
    class Misled(Throwaways):
        def start(self, name: str, major: int, *, superuser: str, settings: Mapping[str, str]) -> Any:
            return super().start(name, major, superuser=superuser, settings={**settings, "shared_preload_libraries": "not_there"})

    refusal = await refused("rehearsal_impossible", scratches(server, shop, home, Misled(home)).open(WORK).__aenter__())
    assert refusal.message == 'The throwaway server did not start: could not access file "not_there": No such file or directory.'
    assert not list(home.iterdir())


def test_a_database_that_does_not_fit_on_this_machine_is_refused_with_the_numbers(home: Path) -> None:
    with pytest.raises(Refusal, match=r"MB free under .*, and 2 copies of a database of 1,073,741,824 MB must fit") as caught:
        _refuse_too_small(home / "not" / "yet", 2**50, 2)
    assert caught.value.code == "rehearsal_impossible"


def test_the_line_that_says_why_is_found() -> None:
    log = "LOG: starting\nFATAL:  could not write lock file: No space left on device\nLOG: bye"
    assert _said(ProgramFailed("The embedded Postgres did not start.", output=log)) == "could not write lock file: No space left on device."
    assert _said(OSError(28, "No space left on device")) == "[Errno 28] No space left on device."
