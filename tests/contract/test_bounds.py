"""What a copy would cost a server, who is in its way, and what was written since the migration: asked of real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bot.databases.bounds import bounds, end, holders, objections, remarks, waiters, written_since
from bot.databases.connecting import CONTROL
from bot.errors import StepFailed
from bot.evidence import Bounds
from bot.place import Connect
from bot.process import start
from bot.throwaway import installed
from tests.conftest import MakeDatabase
from tests.contract.servers import Open, execute, session
from tests.contract.test_scratch import home, production

__all__ = ["home"]
WEIRD = '"we""ird"."ta.ble"'
MB = 1024**2


@pytest.fixture
def shop(make_database: MakeDatabase) -> Connect:
    return make_database("shop")


@pytest.fixture
def admin(server: Connect, shop: Connect) -> Connect:
    return server.model_copy(update={"database": shop.database})


@asynccontextmanager
async def waiting(open_: Open, statement: str, looker: Connect) -> AsyncIterator[asyncio.Task[str]]:
    """That statement waits for a lock; it is ended afterwards."""
    number = open_.get_server_pid()
    task = asyncio.create_task(open_.execute(statement))
    async with session(looker) as look, asyncio.timeout(60):
        while not await look.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND NOT granted)", number):  # noqa: ASYNC110  the server makes it true
            await asyncio.sleep(0.05)
    try:
        yield task
    finally:
        open_.terminate()
        await asyncio.gather(task, return_exceptions=True)


# ------------------------------------------------------------------ bounds


async def test_bounds_are_the_servers_own_numbers(shop: Connect, admin: Connect) -> None:
    await execute(shop, "CREATE TABLE t (id serial PRIMARY KEY)", "CREATE TABLE p (n int) PARTITION BY RANGE (n)", "CREATE VIEW v AS SELECT 1")
    async with session(admin) as look:
        extension = await look.fetchval("SELECT min(name) FROM pg_available_extensions WHERE name IN ('citext', 'vector')")
    await execute(admin, f"CREATE EXTENSION {extension}")
    found = await bounds(shop)
    async with session(admin) as look:
        size, slots, free, sequences = await look.fetchrow(
            "SELECT pg_database_size(current_database()), "
            "current_setting('max_locks_per_transaction')::int * current_setting('max_connections')::int, "
            "current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int, "
            "(current_setting('server_version_num')::int < 170000)::int"
        )  # type: ignore[misc]
    assert abs(found.size - size) < 1_000_000
    assert (found.relations, found.lock_slots, found.extensions) == (2 + sequences, slots, (extension,))
    assert free - 5 <= found.free_connections < free
    assert (found.idle_slots, found.standbys) == ((), 0)
    assert (await bounds(admin)).free_connections > found.free_connections


async def test_idle_slots_and_the_age_of_transactions_are_seen(home) -> None:  # type: ignore[no-untyped-def]
    slot = "SELECT pg_create_physical_replication_slot('debezium', true)"
    async with production(home, 16, slot, max_slot_wal_keep_size="64MB") as server, session(server) as open_, open_.transaction():
        await open_.execute("CREATE TABLE t (id serial)")
        found = await bounds(server)
        assert found.idle_slots == ("debezium",)
        assert found.safe_wal is not None
        assert 0 < found.safe_wal <= 96 * MB
        assert found.oldest_transaction > 0


async def test_who_replays_is_a_standby_and_a_consumer_of_changes_is_none(home) -> None:  # type: ignore[no-untyped-def]
    programs = (await installed()).get(15)
    if programs is None or not (programs / "pg_receivewal").exists():
        pytest.skip("no pg_receivewal here")
    async with production(home, 15, wal_level="logical") as server:
        await execute(server, "SELECT pg_create_logical_replication_slot('changes', 'test_decoding')")
        (home / "wal").mkdir()
        environment = {"PGPASSWORD": server.password}
        where = ["-h", server.host, "-p", str(server.port), "-U", server.user]
        consumer = ["-d", server.database, "--slot", "changes", "--start", "-f", str(home / "changes")]
        async with (
            start([str(programs / "pg_receivewal"), *where, "-D", str(home / "wal")], env=environment),
            start([str(programs / "pg_recvlogical"), *where, *consumer], env=environment),
            session(server) as look,
            asyncio.timeout(60),
        ):
            while await look.fetchval("SELECT count(*) FROM pg_stat_replication") < 2:  # noqa: ASYNC110  the server makes it true
                await asyncio.sleep(0.1)
            assert (await bounds(server)).standbys == 1


@pytest.mark.parametrize("kinds", [16, 18])
async def test_as_many_relations_are_counted_as_a_dump_locks(home, kinds: int) -> None:  # type: ignore[no-untyped-def]
    """Sequences are read in the dump's transaction before 17, and not since."""
    async with production(home, kinds) as server:
        await execute(server, *(f"CREATE TABLE t{n} (id serial)" for n in range(5)))
        assert (await bounds(server)).relations == (10 if kinds == 16 else 5)


def test_each_bound_that_is_exceeded_is_said_with_its_number() -> None:
    fine = Bounds(size=100 * MB, relations=100, lock_slots=6400, free_connections=50)
    assert objections(fine, max_size=1000 * MB) == ()

    def said(**change: object) -> str:
        (sentence,) = objections(fine.model_copy(update=change), max_size=1000 * MB)
        return sentence

    assert "1,001 MB" in said(size=1001 * MB)
    assert "50000 tables" in said(relations=50_000)
    assert "6400" in said(relations=6_399)
    assert "4 free connections" in said(free_connections=4)
    assert "0 free connections" in said(free_connections=-2)
    assert "debezium" in said(idle_slots=("debezium",), safe_wal=99 * MB)
    assert "300 MB behind" in said(standbys=1, lag=300 * MB)
    assert objections(fine.model_copy(update={"oldest_transaction": 7200.0, "idle_slots": ("a",), "safe_wal": 101 * MB}), max_size=1000 * MB) == ()
    assert remarks(fine.model_copy(update={"oldest_transaction": 7200.0})) == ("The oldest transaction has been open for 2 h.",)
    assert remarks(fine) == ()
    (standbys,) = remarks(fine.model_copy(update={"standbys": 2}))
    assert standbys.startswith("2 standbys replay")


# ------------------------------------------------------------------ who is in the way


async def test_holders_are_those_with_a_lock_now_also_idle_ones_and_those_that_wait(shop: Connect, admin: Connect) -> None:
    await execute(shop, 'CREATE SCHEMA "we""ird"', f"CREATE TABLE {WEIRD} (n int)", "CREATE TABLE other (n int)")
    async with session(shop) as idle, session(shop) as elsewhere, session(shop, application_name=CONTROL) as ours, session(shop) as queued:
        for open_, table in ((idle, WEIRD), (elsewhere, "other"), (ours, WEIRD)):
            await open_.execute(f"BEGIN; SELECT * FROM {table}")
        async with waiting(queued, f"ALTER TABLE {WEIRD} ADD m int", admin):
            found = await holders(admin, [WEIRD, "public.not_there"])
            assert {one.pid for one in found} == {idle.get_server_pid(), queued.get_server_pid()}
            mine = next(one for one in found if one.pid == idle.get_server_pid())
            assert (mine.user, mine.state, mine.query) == (shop.user, "idle in transaction", f"BEGIN; SELECT * FROM {WEIRD}")
            assert mine.age is not None
    assert await holders(admin, []) == ()


async def test_who_holds_a_part_of_a_table_holds_the_table(shop: Connect, admin: Connect) -> None:
    await execute(
        shop,
        "CREATE TABLE p (n int) PARTITION BY RANGE (n)",
        "CREATE TABLE q PARTITION OF p DEFAULT PARTITION BY RANGE (n)",
        "CREATE TABLE leaf PARTITION OF q DEFAULT",
    )
    async with session(shop) as open_, open_.transaction():
        await open_.execute("SELECT * FROM leaf")
        assert [one.pid for one in await holders(admin, ["public.p"])] == [open_.get_server_pid()]


async def test_a_prepared_transaction_is_named_though_it_has_no_session(home) -> None:  # type: ignore[no-untyped-def]
    async with production(home, 18, max_prepared_transactions="2") as server:
        await execute(server, "CREATE TABLE t (n int)", "BEGIN", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'left behind'")
        assert [(one.pid, one.state) for one in await holders(server, ["public.t"])] == [(0, "prepared transaction")]
        assert (await bounds(server)).oldest_transaction > 0
        await execute(server, "ROLLBACK PREPARED 'left behind'")


async def test_waiters_are_those_that_wait_for_that_application_only(shop: Connect, admin: Connect) -> None:
    await execute(shop, "CREATE TABLE a (n int)", "CREATE TABLE b (n int)")
    dump = "backout/run/back_up/1"
    async with session(shop, application_name=dump) as ours, session(shop) as theirs, session(shop) as one, session(shop) as two:
        await ours.execute("BEGIN; LOCK a IN ACCESS SHARE MODE")
        await theirs.execute("BEGIN; LOCK b IN ACCESS SHARE MODE")
        assert await waiters(admin, dump) == ()
        async with waiting(one, "DROP TABLE a", admin), waiting(two, "DROP TABLE b", admin):
            found = await waiters(admin, dump)
            assert [(who.pid, who.query) for who in found] == [(one.get_server_pid(), "DROP TABLE a")]
            assert await waiters(admin, "backout/run/back_up/2") == ()


async def test_named_sessions_are_ended_and_no_others(server: Connect, shop: Connect) -> None:
    async with session(shop) as one, session(shop) as two, session(shop, application_name="backout/run/downgrade/1") as ours:
        numbers = [open_.get_server_pid() for open_ in (one, two, ours)]
        ended = await end(server, [numbers[0], numbers[2], 2**30])
        assert [who.pid for who in ended] == [numbers[0]]
        async with session(server) as look:
            living = await look.fetch("SELECT pid FROM pg_stat_activity WHERE pid = ANY ($1)", numbers)
        assert {row[0] for row in living} == set(numbers[1:])
    assert await end(server, []) == ()


async def test_a_session_that_may_not_be_ended_is_named(server: Connect, shop: Connect) -> None:
    async with session(server) as superuser:
        with pytest.raises(StepFailed, match=f"may not end session {superuser.get_server_pid()}: ") as caught:
            await end(shop, [superuser.get_server_pid()])
        assert caught.value.facts == {"pid": superuser.get_server_pid()}
        assert await superuser.fetchval("SELECT 1") == 1


# ------------------------------------------------------------------ what was written since


async def migrated(shop: Connect, *, with_: str = "ALTER TABLE orders ADD score int") -> None:
    """A migration as alembic does it: the change and the version row in one transaction."""
    await execute(
        shop, "CREATE TABLE orders AS SELECT n FROM generate_series(1, 20) n", "CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)"
    )
    await execute(shop, "INSERT INTO alembic_version VALUES ('1')")
    await execute(shop, f"BEGIN; {with_}; UPDATE alembic_version SET version_num = '2'; COMMIT")


async def test_inserted_and_updated_rows_are_at_least_counted(shop: Connect, admin: Connect) -> None:
    await migrated(shop)
    assert await written_since(admin, "alembic_version", None, ["public.orders"]) == {
        "public.orders": "at least 0 inserted or updated rows (deletes not visible)"
    }
    await execute(
        shop,
        "INSERT INTO orders SELECT generate_series(21, 25)",
        "UPDATE orders SET score = 1 WHERE n <= 3",
        "DELETE FROM orders WHERE n > 15 AND n <= 20",
    )
    await execute(admin, "VACUUM FREEZE orders")
    assert await written_since(admin, "alembic_version", "public", ["public.orders"]) == {
        "public.orders": "at least 8 inserted or updated rows (deletes not visible)"
    }


async def test_the_rows_that_the_migration_itself_rewrote_are_not_counted(shop: Connect, admin: Connect) -> None:
    await migrated(shop, with_="ALTER TABLE orders ALTER n TYPE bigint; UPDATE orders SET n = n + 1")
    await execute(shop, "INSERT INTO orders VALUES (99)")
    assert await written_since(admin, "alembic_version", None, ["public.orders"]) == {
        "public.orders": "at least 1 inserted or updated row (deletes not visible)"
    }


async def test_parts_are_counted_with_their_table_and_odd_names_are_names(shop: Connect, admin: Connect) -> None:
    tables = f"CREATE TABLE {WEIRD} (n int) PARTITION BY RANGE (n); CREATE TABLE part PARTITION OF {WEIRD} DEFAULT"
    await migrated(shop, with_=f'CREATE SCHEMA "we""ird"; {tables}')
    await execute(shop, f"INSERT INTO {WEIRD} SELECT generate_series(1, 7)")
    assert await written_since(admin, "alembic_version", None, [WEIRD]) == {WEIRD: "at least 7 inserted or updated rows (deletes not visible)"}


async def why(admin: Connect, table: str = "public.orders", version: str = "alembic_version") -> str:
    found = (await written_since(admin, version, None, [table]))[table]
    assert found.startswith("not knowable here: "), found
    return found.removeprefix("not knowable here: ")


async def test_where_it_is_not_knowable_the_reason_is_said(shop: Connect, admin: Connect) -> None:
    await migrated(shop)
    assert await why(admin, "public.nowhere") == "there is no such table"
    await execute(shop, "CREATE VIEW seen AS SELECT * FROM orders")
    assert "no table" in await why(admin, "public.seen")
    assert "does not exist" in await why(admin, version="other_version")
    await execute(shop, "DROP VIEW seen", "ALTER TABLE orders ALTER n TYPE bigint")
    assert "perhaps rewritten" in await why(admin)
    await execute(shop, "INSERT INTO alembic_version VALUES ('3')")
    assert "several rows" in await why(admin)
    await execute(shop, "DELETE FROM alembic_version")
    assert "no row" in await why(admin)


async def test_a_version_row_that_a_stamp_or_a_restore_wrote_says_nothing(shop: Connect, admin: Connect) -> None:
    await migrated(shop)
    await execute(shop, "UPDATE alembic_version SET version_num = '9'")
    assert "by a restore or a stamp" in await why(admin)
    # as pg_restore with several jobs does it
    await execute(shop, "BEGIN; TRUNCATE alembic_version; INSERT INTO alembic_version VALUES ('2'); COMMIT", "UPDATE orders SET n = n")
    assert "by a restore or a stamp" in await why(admin)


async def test_a_table_that_somebody_keeps_locked_is_not_waited_for_for_long(shop: Connect, admin: Connect) -> None:
    await migrated(shop)
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK orders")
        assert "lock timeout" in await why(admin)
