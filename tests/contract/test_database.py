"""A target's server, as it really behaves: identity, pooler, fence, challenge, version table, sessions."""

from __future__ import annotations

import asyncio
import datetime as dt

import asyncpg
import pytest

from bot.address import parse_url
from bot.databases.connecting import connected
from bot.databases.poolers import pooled
from bot.databases.postgres import PostgresDatabase
from bot.errors import ConfigError, FenceLost, OutcomeUnknown, StepFailed
from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.contract.servers import TransactionPooler, database_of, execute, physical_copy, refused, session


@pytest.fixture
def shop(make_database: MakeDatabase) -> Connect:
    return make_database("shop")


@pytest.fixture
def database(shop: Connect, server: Connect) -> PostgresDatabase:
    return database_of(shop, server)


async def until_waiting(admin: Connect, application: str) -> None:
    async with session(admin) as looking, asyncio.timeout(60):
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
        while not await looking.fetchval(query, application):  # noqa: ASYNC110  another session makes it true
            await asyncio.sleep(0.02)


# ------------------------------------------------------------------ the URL


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "password", "name", "sslmode"),
    [
        ("postgresql://app:secret@db.internal/shop", "db.internal", 5432, "app", "secret", "shop", None),
        ("postgres://a%40b:p%2Fw%23%25@db:6543/my%20shop?sslmode=verify-full", "db", 6543, "a@b", "p/w#%", "my shop", "verify-full"),
        ("postgresql://app@[::1]:5433/shop", "::1", 5433, "app", "", "shop", None),
    ],
)
def test_a_libpq_url_is_read(url: str, host: str, port: int, user: str, password: str, name: str, sslmode: str | None) -> None:
    expected = Connect(host=host, port=port, user=user, password=password, database=name, sslmode=sslmode)
    assert parse_url(url) == expected
    assert parse_url(expected.url()) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:hunter2@one:1,two:2/shop", "several servers"),
        ("postgresql://u:hunter2@one,two/shop", "several servers"),
        ("postgresql:///shop?host=/var/run/postgresql", "sockets are not supported"),
        ("postgresql://u:hunter2@%2Fvar%2Frun/shop", "sockets are not supported"),
        ("postgresql://u:hunter2@db/shop?host=other", "write the host"),
        ("postgresql+asyncpg://u:hunter2@db/shop", "without a driver"),
        ("postgresql://u:hunter2#x@db/shop", "%23"),
        ("postgresql://u:hunter2@db/", "a database"),
        ("postgresql://db/shop", "a user"),
        ("postgresql://u:hunter2@db:many/shop", "can't be read"),
        ("postgresql://u:hunter2@db/shop?options=-c%20x", "Leave it out"),
        ("postgresql://u:hunter2@db/shop?sslmode=maybe", "verify-full"),
    ],
)
def test_another_url_is_refused_with_what_to_write_and_without_its_secret(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------ getting in


async def test_what_keeps_us_out_is_told_by_its_code(shop: Connect, server: Connect) -> None:
    async def ask(**change: object) -> str:
        return str(await database_of(shop.model_copy(update=change), server).ask("SELECT 1"))

    said = await refused("wrong_credentials", ask(password="guessed-it"))
    assert "guessed-it" not in said.message + said.next
    await refused("database_missing", ask(database="nowhere"))
    await refused("unreachable", ask(port=1))
    await refused("unreachable", ask(host="nowhere.invalid"))
    await refused("unreachable", ask(sslmode="require"))


async def test_a_full_server_is_told_by_its_code(shop: Connect, server: Connect) -> None:
    await execute(server, f'ALTER ROLE "{shop.user}" CONNECTION LIMIT 1')
    async with session(shop):
        await refused("too_many_connections", database_of(shop, server).ask("SELECT 1"))


async def test_a_session_that_is_ended_in_the_middle_is_an_unknown_outcome(shop: Connect, server: Connect) -> None:
    async def work() -> None:
        async with connected(shop) as mine, session(server) as other:
            await other.fetchval("SELECT pg_terminate_backend($1)", await mine.fetchval("SELECT pg_backend_pid()"))
            await mine.fetchval("SELECT 1")

    with pytest.raises(OutcomeUnknown):
        await work()


async def test_every_session_of_ours_says_who_it_is_and_gives_up_early(shop: Connect) -> None:
    names = ("application_name", "lock_timeout", "client_connection_check_interval", "idle_session_timeout", "default_transaction_read_only")
    async with connected(shop) as mine:
        values = [await mine.fetchval("SELECT current_setting($1)", name) for name in names]
    assert values == ["backout/control", "3s", "1s", "0", "on"]


async def test_the_maintenance_database_is_never_the_target_itself(shop: Connect, server: Connect) -> None:
    with pytest.raises(ConfigError, match=r"targets\.shop\.maintenance_database"):
        database_of(shop, server, maintenance_database=shop.database)


# ------------------------------------------------------------------ which one it is


async def test_identity_names_the_very_database(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    identity = await database.identity()
    async with session(shop) as looking:
        oid = await looking.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
        system = await looking.fetchval("SELECT system_identifier::text FROM pg_control_system()")
    assert (identity.system, identity.oid, identity.database, identity.in_recovery) == (system, oid, shop.database, False)
    assert (identity.timeline, identity.version // 10000) == (1, 18)
    assert dt.datetime.fromisoformat(identity.started).tzinfo is not None


async def test_a_server_that_can_be_rolled_back_passes_the_examination(database: PostgresDatabase) -> None:
    await database.examine()


async def test_the_journals_own_server_is_refused(shop: Connect, server: Connect, journal_server: Connect) -> None:
    own = (await database_of(shop, server).identity()).system
    others = (await database_of(journal_server, journal_server, maintenance_database="template1").identity()).system

    async def asked() -> str:
        return own

    await refused("journal_server", database_of(shop, server, journal_system=own).examine())
    await refused("journal_server", database_of(shop, server, journal_system=asked).examine())
    await database_of(shop, server, journal_system=others).examine()


async def test_a_standby_is_refused(shop: Connect, server: Connect) -> None:
    async with physical_copy(server, standby=True) as copy:
        there = shop.model_copy(update={"port": copy.port})
        database = database_of(there, copy)
        identity = await database.identity()
        assert (identity.in_recovery, identity.timeline) == (True, 1)
        await refused("standby", database.examine())


async def test_a_challenge_is_seen_in_the_right_database_only_and_not_in_a_physical_copy(
    shop: Connect, server: Connect, make_database: MakeDatabase
) -> None:
    other = make_database("other")
    database = database_of(shop, server)
    async with physical_copy(server, standby=False) as copy:
        twin = shop.model_copy(update={"port": copy.port})
        assert (await database_of(twin, copy).identity()).same_database(await database.identity())
        query = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid::bigint = $1 AND objid::bigint = $2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        async with database.challenge() as (first, second):
            seen = []
            for connect in (shop, other, twin):
                async with session(connect) as looking:
                    seen.append(await looking.fetchval(query, first, second))
            assert seen == [1, 0, 0]
        await refused("wrong_database", database_of(twin, server).examine())


# ------------------------------------------------------------------ poolers


@pytest.mark.parametrize("last_in_first_out", [True, False])
async def test_a_transaction_pooler_is_refused_with_its_way_out(shop: Connect, server: Connect, *, last_in_first_out: bool) -> None:
    async with TransactionPooler(server, last_in_first_out=last_in_first_out) as port:
        said = await refused("transaction_pooler", database_of(shop.model_copy(update={"port": port}), server).examine())
        assert "server's own address" in said.next


async def test_a_pooler_in_front_of_admin_alone_is_refused_too(shop: Connect, server: Connect) -> None:
    async with TransactionPooler(server, last_in_first_out=True) as port:
        await refused("transaction_pooler", database_of(shop, server.model_copy(update={"port": port})).examine())


def test_pids_and_settings_give_a_pooler_away() -> None:
    mine, other = (7, "pg_catalog"), (8, "pg_catalog")
    assert pooled([mine, mine], other) is None
    assert "several sessions (7, 9)" in str(pooled([mine, (9, "pg_catalog")], other))
    assert "one session (7)" in str(pooled([mine, mine], mine))
    assert "did not stick" in str(pooled([(7, "public"), (7, "public")], other))
    assert "did not stick" in str(pooled([mine, mine], (8, "public")))


# ------------------------------------------------------------------ the fence


async def test_the_fence_has_one_holder_and_names_it(database: PostgresDatabase) -> None:
    async with database.fence("shop"):
        said = await refused("fence_taken", database.fence("shop").__aenter__())
        assert "(backout/control)" in said.message
        async with database.fence("another target"):
            pass
    async with database.fence("shop") as fence:
        assert await fence.prove() == await database.identity()


async def test_the_fence_leaves_the_database_free_to_be_cloned(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    async with database.fence("shop") as fence:
        await execute(server, f'CREATE DATABASE "{shop.database}_clone" TEMPLATE "{shop.database}"', f'DROP DATABASE "{shop.database}_clone"')
        await fence.prove()


async def test_a_lost_fence_is_told(database: PostgresDatabase, server: Connect) -> None:
    async with database.fence("shop") as fence:
        await execute(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backout/control'")
        with pytest.raises(FenceLost, match="session that holds the fence is lost"):
            await fence.prove()
    async with database.fence("shop"):
        pass


async def test_a_fence_whose_lock_is_gone_is_lost(database: PostgresDatabase) -> None:
    async with database.fence("shop") as fence:
        await fence._session.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(FenceLost, match="lock is gone"):
            await fence.prove()


async def test_a_fence_on_a_database_that_was_exchanged_is_lost(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    async with database.fence("shop") as fence:
        old, name = f'"{shop.database}_old"', f'"{shop.database}"'
        await execute(server, f"ALTER DATABASE {name} RENAME TO {old}")
        with pytest.raises(FenceLost, match="no database"):
            await fence.prove()
        await execute(server, f"CREATE DATABASE {name} TEMPLATE template0", f"DROP DATABASE {old}")
        with pytest.raises(FenceLost, match="oid was"):
            await fence.prove()


# ------------------------------------------------------------------ the version table


async def test_heads_are_the_rows_of_the_version_table(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE alembic_version (version_num varchar(32))")
    assert await database.heads("alembic_version", None) == ()
    await execute(shop, "INSERT INTO alembic_version VALUES ('0002'), ('0001')")
    assert await database.heads("alembic_version", None) == ("0001", "0002")


async def test_hostile_names_are_names(database: PostgresDatabase, shop: Connect) -> None:
    await execute(
        shop,
        'CREATE SCHEMA "s""; DROP TABLE kept; --"',
        "CREATE TABLE kept ()",
        """CREATE TABLE "s""; DROP TABLE kept; --"."weird"".table" AS SELECT 'r1' AS version_num""",
    )
    assert await database.heads('weird".table', 's"; DROP TABLE kept; --') == ("r1",)
    await refused("version_table_missing", database.heads("x; DROP TABLE kept", None))
    await refused("version_table_missing", database.heads("alembic_version", "no such schema"))
    await refused("version_table_missing", database.heads("kept", None))
    snapshot = await database.snapshot(count=True)
    assert snapshot.counts == {"public.kept": 0, '"s""; DROP TABLE kept; --"."weird"".table"': 1}
    assert 'column "s""; DROP TABLE kept; --"."weird"".table".version_num' in snapshot.objects


async def test_a_database_with_a_hostile_name_works_all_the_way(make_database: MakeDatabase, server: Connect) -> None:
    database = database_of(make_database("a=b\"; drop postgresql://x '"), server)
    await database.examine()
    async with database.fence("x") as fence:
        await fence.prove()
    assert (await database.ask("SELECT current_database()")).rows == ((database.tool.database,),)


async def test_the_tools_own_search_path_finds_the_version_table(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    await execute(shop, "CREATE SCHEMA mine", "CREATE TABLE mine.alembic_version AS SELECT '0007' AS version_num")
    await execute(server, f'ALTER ROLE "{shop.user}" SET search_path = mine')
    assert await database.heads("alembic_version", None) == ("0007",)


async def test_a_locked_version_table_is_unknown_and_not_missing(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE alembic_version (version_num text)")
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK TABLE alembic_version")
        with pytest.raises(OutcomeUnknown, match="gave up waiting"):
            await database.heads("alembic_version", None)


# ------------------------------------------------------------------ sessions


async def test_a_session_that_waits_is_seen_with_its_blocker_then_ended_and_gone(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    await execute(shop, "CREATE TABLE t (n int)")
    async with (
        session(shop, application_name="reader") as holder,
        session(shop, application_name="backout/r1/downgrade/1") as waiter,
        holder.transaction(),
    ):
        await holder.execute("LOCK TABLE t")
        waiting = asyncio.create_task(waiter.execute("DROP TABLE t"))
        await until_waiting(server, "backout/r1/downgrade/1")
        assert await database.sessions("backout/r1/downgrade") == ()
        (seen,) = await database.sessions("backout/r1/downgrade/1")
        assert (seen.query, seen.state) == ("DROP TABLE t", "active")
        (blocker,) = await database.blockers("backout/r1/downgrade/1")
        assert (blocker.pid, blocker.application) == (holder.get_server_pid(), "reader")
        assert await database.end_sessions("backout/r1/downgrade") == ()
        (ended,) = await database.end_sessions("backout/r1/downgrade/1")
        assert ended.pid == waiter.get_server_pid()
        assert await database.sessions("backout/r1/downgrade/1") == ()
        with pytest.raises((asyncpg.AdminShutdownError, asyncpg.ConnectionDoesNotExistError)):
            await waiting
    async with session(shop) as looking:
        assert await looking.fetchval("SELECT to_regclass('t')") == "t"


async def test_a_session_that_the_role_may_not_end_is_told(shop: Connect, server: Connect) -> None:
    async with session(server, application_name="backout/r1/downgrade/1"):
        with pytest.raises(StepFailed, match="permission denied to terminate"):
            await database_of(shop, shop).end_sessions("backout/r1/downgrade/1")
