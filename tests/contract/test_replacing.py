"""The target's database is dropped, and a copy made afterwards gets its name: what belonged to it, who dies when, what is somebody else's."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import asyncpg
import pytest

from bot.databases.connecting import quoted
from bot.databases.replacing import Replacing
from bot.errors import Refusal, StepFailed
from bot.evidence import BackupFile
from tests.contract.places import Place, place
from tests.contract.servers import Line, database_of, execute, session
from tests.contract.test_swap import (  # noqa: F401  pytest finds the fixtures here
    BESIDE,
    NOTE,
    RUN,
    WORK,
    close,
    dressed,
    inside,
    is_out,
    of,
    oid,
    outside,
    rows,
    shop,
)


def replacing(at: Place) -> Replacing:
    return of(at).replacing


async def filled(at: Place, belongings: Any) -> BackupFile:
    """Another t, as a restore would leave it."""
    incoming = await replacing(at).make(belongings, BESIDE, NOTE)
    await execute(
        inside(at.superuser, BESIDE), "CREATE TABLE t (id int PRIMARY KEY)", f"ALTER TABLE t OWNER TO {quoted(at.app.user)}",
        "INSERT INTO t VALUES (100)",
    )  # fmt: skip
    return incoming


async def enters(at: Place, name: str) -> object:
    return await at.value("SELECT datallowconn FROM pg_database WHERE datname = $1", name)


async def test_what_belonged_to_the_database_is_given_to_the_one_that_is_made_after_it_was_dropped(shop: Place) -> None:  # noqa: F811
    before, was, name = await dressed(shop), await oid(shop, shop.app.database), shop.app.database
    assert [one.code for one in await replacing(shop).in_the_way()] == []
    assert await outside(shop, name) == before, "it was tried, and nothing is different"
    belongings = await replacing(shop).belongings()
    async with session(shop.app):
        await replacing(shop).drop(was, WORK)
    assert await replacing(shop).stands() is None
    incoming = await filled(shop, belongings)
    assert await is_out(inside(shop.app, BESIDE)), "nobody but Backout enters what is being filled"
    assert await replacing(shop).made(incoming, NOTE)
    notes = await replacing(shop).put(incoming, belongings, WORK)
    assert [one for one in notes if "same" not in one] == []
    assert await outside(shop, name) == before
    assert await replacing(shop).stands() == incoming.oid
    assert await rows(shop.app) == [100]


async def test_a_closed_door_goes_along_and_opens_on_the_new_database(shop: Place) -> None:  # noqa: F811
    before = await dressed(shop)
    notebook, was = await close(shop), await oid(shop, shop.app.database)
    belongings = await replacing(shop).belongings()
    await replacing(shop).drop(was, WORK)
    assert await shop.door.entrance(RUN) is not None, "what takes its place is entered by the same key"
    closed = await shop.door.close(RUN, notebook.facts, notebook.remember, ())
    assert "no database" in closed["says"]
    await replacing(shop).put(await filled(shop, belongings), belongings, WORK)
    await shop.door.prove(RUN)
    assert await is_out(shop.app)
    entrance = await shop.door.entrance(RUN)
    assert entrance is not None
    assert await rows(entrance) == [100]
    assert "open again" in (await shop.door.open(RUN, notebook.facts))["says"]
    assert await outside(shop, shop.app.database) == before
    assert await rows(shop.app) == [100]


async def test_a_door_without_a_database_leaves_no_role_behind(plain: Place) -> None:
    notebook, was = await close(plain), await oid(plain, plain.app.database)
    await replacing(plain).drop(was, WORK)
    assert "no door that could be opened" in (await plain.door.open(RUN, notebook.facts))["says"]
    assert not await plain.value("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'backout\\_01run%'")


async def test_the_fence_is_held_over_the_drop_and_says_so_when_the_database_went_meanwhile(plain: Place) -> None:
    was = await oid(plain, plain.app.database)
    belongings = await replacing(plain).belongings()
    await replacing(plain).drop(was, WORK)
    async with of(plain).fence("shop") as fence:
        assert (await fence.prove()).oid == 0
    with pytest.raises(Refusal, match="There is no database"):
        await of(plain).identity()
    await replacing(plain).put(await filled(plain, belongings), belongings, WORK)


async def test_only_the_database_with_that_oid_is_dropped(plain: Place) -> None:
    was = await oid(plain, plain.app.database)
    with pytest.raises(StepFailed, match="and not the one with OID 1"):
        await replacing(plain).drop(1, WORK)
    await plain.do(f"ALTER DATABASE {plain.name} RENAME TO elsewhere", f"CREATE DATABASE {plain.name} OWNER {quoted(plain.app.user)}")
    with pytest.raises(StepFailed, match=f"and not the one with OID {was}"):
        await replacing(plain).drop(was, WORK)
    await replacing(plain).reopen(was)
    assert await enters(plain, plain.app.database) is True
    assert await oid(plain, "elsewhere") == was


async def test_what_can_not_be_dropped_lets_everybody_in_again(plain: Place) -> None:
    was = await oid(plain, plain.app.database)
    async with session(plain.app) as writing:
        await writing.execute("BEGIN; INSERT INTO t VALUES (7); PREPARE TRANSACTION 'order 7'")
    assert [one.code for one in await replacing(plain).in_the_way()] == ["prepared_transactions"]
    with pytest.raises(StepFailed, match=r"order 7.*Nothing was dropped"):
        await replacing(plain).drop(was, WORK)
    assert await enters(plain, plain.app.database) is True
    assert await rows(plain.app) == [1]


async def test_who_died_between_closing_and_dropping_is_undone_by_reopening(plain: Place) -> None:
    was = await oid(plain, plain.app.database)
    await plain.do(f"ALTER DATABASE {plain.name} ALLOW_CONNECTIONS false")
    await replacing(plain).reopen(was)
    assert await rows(plain.app) == [1]


async def test_slots_and_subscriptions_are_in_the_way(plain: Place) -> None:
    was, boss = await oid(plain, plain.app.database), inside(plain.superuser, plain.app.database)
    await execute(boss, "SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
    await execute(boss, "CREATE SUBSCRIPTION \"feed\" CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
    found = await replacing(plain).in_the_way()
    assert [(one.code, one.warning) for one in found] == [("in_place_consumers", False)]
    assert "slot debezium, subscription feed" in found[0].message
    with pytest.raises(StepFailed, match="slot debezium"):
        await replacing(plain).drop(was, WORK)
    assert await enters(plain, plain.app.database) is True
    await execute(boss, "ALTER SUBSCRIPTION feed SET (slot_name = NONE)", "DROP SUBSCRIPTION feed", "SELECT pg_drop_replication_slot('debezium')")


async def test_missing_rights_are_said_as_sql_before(plain: Place) -> None:
    await plain.do(f"ALTER ROLE {plain.me} NOCREATEDB")
    first = (await replacing(plain).in_the_way())[0]
    assert (first.code, first.warning) == ("swap_rights", False)
    assert f"ALTER ROLE {plain.me} CREATEDB" in first.next
    await plain.do(f"ALTER ROLE {plain.me} CREATEDB", f"ALTER DATABASE {plain.name} SET log_statement = 'all'")
    [refusal] = await replacing(plain).in_the_way()
    assert refusal.code == "swap_rights"
    assert f'GRANT SET ON PARAMETER "log_statement" TO {plain.me};' in refusal.next


async def test_a_database_that_somebody_made_meanwhile_is_left_alone(plain: Place) -> None:
    belongings = await replacing(plain).belongings()
    await replacing(plain).drop(await oid(plain, plain.app.database), WORK)
    incoming = await filled(plain, belongings)
    await plain.do(f"CREATE DATABASE {plain.name} OWNER {quoted(plain.app.user)}")
    theirs = await oid(plain, plain.app.database)
    with pytest.raises(StepFailed, match="left alone"):
        await replacing(plain).put(incoming, belongings, WORK)
    assert await oid(plain, plain.app.database) == theirs
    assert await replacing(plain).made(incoming, NOTE)


async def test_what_is_not_ours_never_gets_the_name(plain: Place) -> None:
    belongings = await replacing(plain).belongings()
    await replacing(plain).drop(await oid(plain, plain.app.database), WORK)
    incoming = await filled(plain, belongings)
    await plain.do(f"COMMENT ON DATABASE {BESIDE} IS 'mine now'")
    with pytest.raises(StepFailed, match="does not say any more"):
        await replacing(plain).put(incoming, belongings, WORK)
    with pytest.raises(StepFailed, match="not this restore point"):
        await replacing(plain).make(belongings, BESIDE, NOTE)
    assert await replacing(plain).stands() is None


@pytest.mark.parametrize("database", ["x" * 56, 'a";DROP DATABASE "b', "postgresql://h/d?x=1", "it's", "$1 {} %s %I"])
async def test_hostile_names_are_only_names(eighteen: Any, database: str) -> None:
    async with place(eighteen, is_superuser=False, database=database, role='the "App"') as at:
        before = await dressed(at)
        belongings = await replacing(at).belongings()
        await replacing(at).drop(await oid(at, at.app.database), WORK)
        await replacing(at).put(await filled(at, belongings), belongings, WORK)
        assert await outside(at, at.app.database) == before
        assert await rows(at.app) == [100]


async def test_a_line_that_breaks_anywhere_leaves_the_old_one_none_or_the_copy_and_going_on_ends_it(plain: Place) -> None:
    before, seen = await dressed(plain), set()
    for after in range(8, 300, 41):
        was, belongings = await oid(plain, plain.app.database), await replacing(plain).belongings()
        async with Line(plain.superuser, after) as line:
            through = database_of(plain.app, plain.backout.model_copy(update={"host": "127.0.0.1", "port": line.port})).replacing
            with suppress(StepFailed, Refusal):
                await through.drop(was, WORK)
                await through.put(await through.make(belongings, BESIDE, NOTE), belongings, WORK)
        await of(plain).end_sessions(WORK)
        stands = await replacing(plain).stands()
        seen.add("old" if stands == was else "none" if stands is None else "new")
        if stands == was:
            await replacing(plain).reopen(was)
            await replacing(plain).drop(was, WORK)
        if stands in (was, None):
            await replacing(plain).put(await filled(plain, belongings), belongings, WORK)
        assert await outside(plain, plain.app.database) == before
        assert not await plain.value("SELECT count(*) FROM pg_database WHERE datname = $1", BESIDE)
        if not line.broke:
            break
    assert seen >= {"old", "none"}, seen
    assert after > 50


async def test_nobody_comes_in_between_the_last_look_and_the_drop(plain: Place) -> None:
    """A superuser's session can't be ended by Backout's role: then nothing is dropped."""
    was = await oid(plain, plain.app.database)
    async with session(inside(plain.superuser, plain.app.database)) as boss:
        assert [one.code for one in await replacing(plain).in_the_way()] == ["swap_sessions"]
        with pytest.raises(StepFailed, match=r"could not be ended.*Nothing was dropped"):
            await replacing(plain).drop(was, WORK)
        await boss.execute("SELECT 1")
    with suppress(asyncpg.PostgresError):
        await execute(plain.app, "SELECT 1")
    assert await rows(plain.app) == [1]
