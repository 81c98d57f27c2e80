"""A server that somebody names as a recovered copy: what it says of itself, and how production gives itself away."""

from __future__ import annotations

import psycopg

from bot.databases.postgres import PostgresDatabase
from bot.place import Connect
from tests.conftest import MakeDatabase


def at(connect: Connect, admin: Connect | None = None) -> PostgresDatabase:
    return PostgresDatabase(target="shop", tool=connect, admin=admin or connect)


async def test_production_is_known_whoever_enters_it_and_by_whatever_name(make_database: MakeDatabase, server: Connect) -> None:
    shop = make_database("shop")
    by_another_name = server.model_copy(update={"database": shop.database, "host": "localhost"})
    async with at(shop).challenge() as lock:
        assert (await at(shop).looked_at(lock)).same
        assert (await at(by_another_name).looked_at(lock)).same


async def test_another_database_is_not_production_on_the_same_server_or_on_another(
    make_database: MakeDatabase, make_journal_database: MakeDatabase
) -> None:
    shop, beside, elsewhere = make_database("shop"), make_database("shop"), make_journal_database("shop")
    async with at(shop).challenge() as lock:
        near, far = await at(beside).looked_at(lock), await at(elsewhere).looked_at(lock)
    mine = await at(shop).identity()
    assert not near.same
    assert near.system == mine.system
    assert not far.same
    assert far.system not in ("", mine.system)
    assert (far.version, far.in_recovery) == (mine.version, False)


async def test_when_its_last_transaction_was_is_told_only_where_the_server_keeps_that(make_journal_database: MakeDatabase) -> None:
    elsewhere = make_journal_database("shop")
    seen = await at(elsewhere).looked_at((1, 2))
    with psycopg.connect(elsewhere.url(), autocommit=True) as session:
        kept = session.execute("SHOW track_commit_timestamp").fetchone()
    assert (seen.last is None) is (kept == ("off",))
