"""Copies on a server that is not ours alone: another one that holds nothing else, or the target's own. Nothing is changed there, nothing is left."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import bot
from bot.databases import lodging
from bot.databases.scratch_elsewhere import OtherServerScratches
from bot.databases.scratch_same import SameServerScratches
from bot.embedded import EmbeddedPostgres
from bot.place import Connect
from bot.throwaway import installed
from tests.contract.servers import execute, refused, session
from tests.contract.test_scratch import ATTACKS, as_app, ask, everything_shared, home, production, rows, tool_at

__all__ = ["home"]


class Rehearsing:
    run = "r1"

    def __init__(self) -> None:
        self.told: list[str] = []

    async def progress(self, text: str) -> None:
        self.told.append(text)


def work() -> Any:
    return Rehearsing()


def at(tool: Connect, admin: Connect, maintenance: str) -> Any:
    return tool, admin


#: what `same` needs of a server: nobody enters a database because everybody may
CLOSED = ("REVOKE CONNECT ON DATABASE postgres, template1, shop FROM PUBLIC", "GRANT CONNECT ON DATABASE shop TO app")
CLERKS = (
    "CREATE ROLE clerk LOGIN PASSWORD 'clerks'", "CREATE ROLE staff", "CREATE ROLE bystander", "GRANT staff TO clerk WITH ADMIN OPTION",
    "CREATE DATABASE other", "REVOKE CONNECT ON DATABASE other FROM PUBLIC", "GRANT CONNECT ON DATABASE shop TO clerk",
    "ALTER DATABASE shop SET work_mem = '8MB'", "ALTER ROLE app SUPERUSER", "SELECT pg_create_physical_replication_slot('debezium')",
)  # fmt: skip


def same(server: Connect) -> SameServerScratches:
    return SameServerScratches(server, "postgres", as_app(server), at)


@asynccontextmanager
async def another(home: Path, major: int = 18, name: str = "another") -> AsyncIterator[Connect]:
    """A server that holds nothing else."""
    async with EmbeddedPostgres(home, name=name, major=major, durable=False) as server:
        yield server


def elsewhere(server: Connect, there: Connect) -> OtherServerScratches:
    return OtherServerScratches(server, as_app(server), there, at)


async def names(server: Connect) -> set[str]:
    return {row[0] for row in await rows(server, "SELECT datname::text FROM pg_database UNION SELECT rolname::text FROM pg_roles")}


# ------------------------------------------------------------------ the target's own server


async def test_on_the_same_server_each_of_the_attacks_is_refused_and_everything_shared_is_equal_before_and_after(home: Path) -> None:
    async with production(home, 18, *CLOSED, *CLERKS, wal_level="logical") as server:
        await execute(server, "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
        before = await everything_shared(server)
        passed = []
        async with same(server).open(work()) as scratch:
            await scratch.create("shop")
            await scratch.create("other")
            async with session(tool_at(scratch, "shop")) as role:
                for attack in ATTACKS:
                    try:
                        await role.execute(attack)
                        passed.append(attack)
                    except asyncpg.PostgresError:
                        continue
        assert await everything_shared(server) == before
        # To take from others what one never gave is a warning, and takes nothing.
        assert set(passed) <= {"REVOKE CONNECT ON DATABASE shop FROM clerk"}
        await ask(server.model_copy(update={"user": "clerk", "password": "clerks"}), "SELECT 1")


async def test_the_role_that_runs_it_may_enter_the_copies_and_nothing_else(home: Path) -> None:
    async with production(home, 18, *CLOSED) as server, same(server).open(work()) as scratch:
        await scratch.create("copy")
        copy = tool_at(scratch, "copy")
        assert copy.user.startswith("backout_scratch_")
        assert await ask(copy, "SELECT pg_get_userbyid(datdba) = current_user FROM pg_database WHERE datname = current_database()")
        for other in ("postgres", "shop", "template1"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await ask(copy.model_copy(update={"database": other}), "SELECT 1")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ask(as_app(server).model_copy(update={"database": copy.database}), "SELECT 1")
        await execute(copy, "CREATE TABLE t AS SELECT 1 AS n")
        await scratch.clone("copy", "before")
        assert await ask(tool_at(scratch, "before"), "SELECT n FROM t") == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await ask(as_app(server).model_copy(update={"database": tool_at(scratch, "before").database}), "SELECT 1")
        assert not scratch.owners
        assert "may do nothing else" in scratch.partial[0]


async def test_where_everybody_may_connect_it_is_refused_with_the_sql(home: Path) -> None:
    async with production(home, 18) as server:
        before = await everything_shared(server)
        refusal = await refused("rehearsal_impossible", same(server).open(work()).__aenter__())
        assert 'REVOKE CONNECT ON DATABASE "shop" FROM PUBLIC' in refusal.next
        assert await everything_shared(server) == before
        weak = as_app(server)
        refusal = await refused("rehearsal_impossible", SameServerScratches(weak, "postgres", weak, at).open(work()).__aenter__())
        assert "CREATEROLE CREATEDB" in refusal.next


@pytest.mark.parametrize("major", [15, 16, 18])
async def test_an_admin_who_is_no_superuser_can_make_and_remove_the_copies(home: Path, major: int) -> None:
    if major not in await installed():
        pytest.skip(f"no PostgreSQL {major} here")
    boss = ("CREATE ROLE boss LOGIN CREATEROLE CREATEDB PASSWORD 'secret-of-app'", "GRANT CONNECT ON DATABASE postgres, shop TO boss")
    async with production(home, major, *CLOSED, *boss) as server:
        admin = as_app(server).model_copy(update={"user": "boss"})
        before = await everything_shared(server)
        async with SameServerScratches(admin, "postgres", as_app(server), at).open(work()) as scratch:
            await scratch.create("copy")
            await execute(tool_at(scratch, "copy"), "CREATE TABLE t (n int)")
            await scratch.clone("copy", "before")
            await scratch.drop("before")
        assert await everything_shared(server) == before


# ------------------------------------------------------------------ a server for copies alone


async def test_on_another_server_roles_are_made_and_everything_is_gone_afterwards(home: Path) -> None:
    async with production(home, 18, *CLERKS) as server, another(home) as there:
        before, empty = await everything_shared(server), await everything_shared(there)
        async with elsewhere(server, there).open(work()) as scratch:
            await scratch.create("shop")
            await scratch.create("other")
            assert {"app", "clerk", "staff"} <= await names(there)
            assert scratch.says == "the server that rehearsal.server names, PostgreSQL 18"
            async with session(tool_at(scratch, "shop")) as app:
                assert await app.fetchval("SELECT current_user::text") == "app"
                await app.execute("CREATE ROLE intruder SUPERUSER LOGIN")
                await app.execute("DROP ROLE bystander")
                await app.execute("ALTER SYSTEM SET work_mem = '64kB'")
                await app.execute("SELECT pg_reload_conf()")
                await app.execute("SELECT pg_create_physical_replication_slot('left_behind')")
        async with asyncio.timeout(60):
            while (left := await everything_shared(there)) != empty:  # a reload takes a moment
                assert {name for name in empty if left[name] != empty[name]} == {"work_mem"}
        assert await everything_shared(server) == before


async def test_a_server_that_holds_something_else_or_is_the_targets_own_is_refused(home: Path) -> None:
    async with production(home, 18) as server, another(home) as there:
        refusal = await refused(
            "rehearsal_impossible", elsewhere(server, server.model_copy(update={"database": "postgres"})).open(work()).__aenter__()
        )
        assert "own server" in refusal.message
        await execute(there, "CREATE DATABASE precious", "CREATE ROLE somebody")
        refusal = await refused("rehearsal_impossible", elsewhere(server, there).open(work()).__aenter__())
        assert "database precious, role somebody" in refusal.message
        assert {"precious", "somebody"} <= await names(there)
        async with another(home, 16, "older") as older:
            refusal = await refused("rehearsal_impossible", elsewhere(server, older).open(work()).__aenter__())
        assert "an older one can't hold a copy" in refusal.message


# ------------------------------------------------------------------ gone afterwards

KILLED = """
import asyncio, sys
from bot.place import Connect
from tests.contract.test_scratch_lodging import elsewhere, same, work
async def main():
    server, there = (Connect.model_validate_json(sys.stdin.readline()) for _ in range(2))
    async with (same(server) if sys.argv[1] == "same" else elsewhere(server, there)).open(work()) as scratch:
        await scratch.create("copy")
        print("open", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["same", "elsewhere"])
async def test_what_a_killed_process_left_is_removed_and_what_lives_is_not(home: Path, kind: str) -> None:
    async with production(home, 18, *CLOSED) as server, another(home) as there:
        place, scratches = (server, same(server)) if kind == "same" else (there, elsewhere(server, there))
        await execute(place, "CREATE ROLE backout_scratch_0badf00d")  # named as ours, and not ours: no marker
        before = await names(place)
        process = await asyncio.create_subprocess_exec(  # noqa: TID251  it is killed
            sys.executable, "-c", KILLED, kind, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            cwd=Path(bot.__file__).parent.parent, env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        for connect in (server, there):
            process.stdin.write(connect.model_dump_json().encode() + b"\n")
        if kind == "elsewhere":
            await execute(place, "DROP ROLE backout_scratch_0badf00d")
        async with asyncio.timeout(120):
            assert await process.stdout.readline() == b"open\n"
        left = await names(place) - before
        assert [name for name in left if name.endswith("_copy")]
        await scratches.clean()
        assert await names(place) - before == left, "it lives"
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        async with asyncio.timeout(60):
            while await names(place) - before:
                await scratches.clean()
                await asyncio.sleep(0.1)
        assert ("backout_scratch_0badf00d" in await names(place)) is (kind == "same")


async def test_a_second_rehearsal_waits_for_the_first_and_a_cancelled_one_leaves_nothing(home: Path) -> None:
    async with production(home, 18, *CLOSED) as server:
        before = await names(server)
        waiting = Rehearsing()
        first = same(server).open(work())
        scratch = await first.__aenter__()
        second = same(server).open(waiting)  # type: ignore[arg-type]
        entering = asyncio.ensure_future(second.__aenter__())
        async with asyncio.timeout(60):
            while not waiting.told:  # noqa: ASYNC110  another task makes it true
                await asyncio.sleep(0.05)
        await scratch.create("copy")
        assert not await first.__aexit__(asyncio.CancelledError, asyncio.CancelledError(), None)
        await entering
        await second.__aexit__(None, None, None)
        assert await names(server) == before


async def test_a_database_that_only_has_a_name_like_ours_stays(server: Connect) -> None:
    await execute(server, "CREATE DATABASE backout_scratch_0badf00d_copy")
    try:
        async with lodging.alone(server, work()):
            pass
        await lodging.clean(server)
        assert "backout_scratch_0badf00d_copy" in await names(server)
    finally:
        await execute(server, "DROP DATABASE backout_scratch_0badf00d_copy")
