"""The server's counters of written rows: a table that nobody wrote is not read again, and counters that can't be relied on are not."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

import asyncpg
import pytest

from bot.databases import counters
from bot.databases.connecting import connected
from bot.databases.difference import lost_since
from bot.databases.tables import READING
from bot.place import Connect
from tests.conftest import MakeDatabase
from tests.contract.servers import execute
from tests.contract.test_difference import ORDERS

ROWS = "INSERT INTO left_alone SELECT n FROM generate_series(1, 1000) n"
_READ = "SELECT coalesce(seq_tup_read, 0) FROM pg_stat_user_tables WHERE relname = 'left_alone'"


async def _nothing(_: str) -> None: ...


@pytest.fixture
def shop(make_database: MakeDatabase, server: Connect) -> Connect:
    """A database, entered as the superuser."""
    return server.model_copy(update={"database": make_database("counted").database})


@pytest.fixture
async def before(shop: Connect, server: Connect) -> AsyncIterator[Connect]:
    """Its clone, made of two tables; since then the counters run."""
    await execute(shop, ORDERS, "CREATE TABLE left_alone (id int PRIMARY KEY)", ROWS)
    clone = server.model_copy(update={"database": f"backout_{secrets.token_hex(4)}_before"})
    await execute(server, f'CREATE DATABASE "{clone.database}" TEMPLATE "{shop.database}"')
    await execute(shop, "SELECT pg_stat_reset()")
    yield clone
    await execute(server, f'DROP DATABASE IF EXISTS "{clone.database}" WITH (FORCE)')


async def names(shop: Connect) -> set[str]:
    """The tables that nobody wrote, as the counters have it."""
    async with connected(shop, READING) as session:
        found = await counters.unwritten(session)
        mine = await session.fetch("SELECT oid::int8, relname FROM pg_class WHERE relname IN ('orders', 'left_alone')")
    return {row[1] for row in mine if row[0] in found}


async def test_a_table_that_nobody_wrote_is_not_read_again(shop: Connect, before: Connect) -> None:
    await execute(shop, "DELETE FROM orders WHERE id <= 3")
    (loss,) = await lost_since(before, shop, _nothing, counted=True)
    assert (loss.kind, loss.name, loss.count) == ("rows", "public.orders", 3)
    for side in (before, shop):
        assert await asyncpg_value(side, _READ) == 0
    await lost_since(before, shop, _nothing)
    assert await asyncpg_value(before, _READ) == 1000, "without the counters it is"


@pytest.mark.parametrize(
    "write",
    ["UPDATE left_alone SET id = -id WHERE id = 1", "DELETE FROM left_alone", "INSERT INTO left_alone VALUES (0)",
     "BEGIN; DELETE FROM left_alone; ROLLBACK", "MERGE INTO left_alone l USING (SELECT 1 AS id) s ON l.id = s.id WHEN MATCHED THEN DELETE"],
)  # fmt: skip
async def test_a_written_table_is_known_as_such(shop: Connect, before: Connect, write: str) -> None:
    assert await names(shop) == {"orders", "left_alone"}
    await execute(shop, write)
    assert await names(shop) == {"orders"}


@pytest.mark.parametrize(
    "remake",
    ["TRUNCATE left_alone", "ALTER TABLE left_alone ALTER id TYPE bigint", "ALTER TABLE left_alone ALTER id TYPE int USING -id"],
)
async def test_what_makes_a_new_file_is_compared_although_no_counter_moved(shop: Connect, before: Connect, remake: str) -> None:
    await execute(shop, remake)
    assert await lost_since(before, shop, _nothing, counted=True) == await lost_since(before, shop, _nothing)


async def test_while_somebody_is_in_the_database_the_counters_say_nothing(shop: Connect, before: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own counts are not there before it leaves."""
    monkeypatch.setattr(counters, "_PATIENCE", 0.2)
    other = await asyncpg.connect(shop.url())
    try:
        assert await names(shop) == set()
    finally:
        await other.close()
    assert await names(shop) == {"orders", "left_alone"}


async def test_counters_that_are_off_for_somebody_say_nothing(shop: Connect, before: Connect) -> None:
    await execute(shop, f'ALTER DATABASE "{shop.database}" SET track_counts = off')
    await execute(shop, "DELETE FROM left_alone")
    assert await names(shop) == set()
    (loss,) = await lost_since(before, shop, _nothing, counted=True)
    assert (loss.name, loss.count) == ("public.left_alone", 1000)


async def asyncpg_value(connect: Connect, query: str) -> int:
    session = await asyncpg.connect(connect.url())
    try:
        return int(await session.fetchval(query))
    finally:
        await session.close()
