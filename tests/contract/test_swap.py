"""Another database takes the target's place, in one transaction: what is in it, who gets in, whoever dies when (databases.md F10)."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import pytest

from bot.databases.connecting import quoted
from bot.databases.postgres import PostgresDatabase
from bot.databases.swapping import kept_name
from bot.errors import OutcomeUnknown, Refusal, StepFailed
from bot.evidence import BackupFile
from bot.place import Connect
from tests.contract.places import Place, place
from tests.contract.servers import Line, database_of, execute, session

RUN, WORK = "01-run", "backout/01-run/swap/1"
BESIDE, CLONE = "backout_0a1b2c3d_incoming", "backout_0a1b2c3d_restore"
NOTE, OLD = "Backout: restored for shop, run r'1", "Backout: shop as it was before run r'1"
AT = dt.datetime(2026, 1, 31, 3, 5, tzinfo=dt.UTC)

#: everything that lies outside a database, as text
OUTSIDE = """
SELECT pg_get_userbyid(d.datdba), d.datacl::text, d.datconnlimit, d.datallowconn, d.datistemplate, shobj_description(d.oid, 'pg_database'),
  pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, (SELECT spcname FROM pg_tablespace WHERE oid = d.dattablespace),
  (SELECT string_agg(setrole::text || ' ' || setconfig::text, '; ' ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid)
FROM pg_database d WHERE d.datname = $1"""


@pytest.fixture
def shop(of_any_kind: Place) -> Place:
    return of_any_kind


def of(at: Place) -> PostgresDatabase:
    return database_of(at.app, at.backout)


def kept(at: Place) -> str:
    return of(at).kept_name(AT)


def inside(who: Connect, name: str) -> Connect:
    return who.model_copy(update={"database": name})


async def beside(at: Place, *statements: str) -> BackupFile:
    """A database beside it that holds another t, as a restore would leave it."""
    file = await of(at).beside_for_restore(BESIDE, NOTE)
    await execute(
        inside(at.superuser, BESIDE), "CREATE TABLE t (id int PRIMARY KEY)", f"ALTER TABLE t OWNER TO {quoted(at.app.user)}",
        "INSERT INTO t VALUES (100)", *statements,
    )  # fmt: skip
    return file


async def swap(at: Place, incoming: BackupFile, name: str | None = None) -> BackupFile:
    return await of(at).swap(incoming, name or kept(at), OLD, RUN, WORK)


async def outside(at: Place, name: str) -> tuple[Any, ...]:
    async with session(at.superuser) as asking:
        return tuple(await asking.fetchrow(OUTSIDE, name) or ())


async def rows(who: Connect) -> list[int]:
    async with session(who) as reading:
        return [row[0] for row in await reading.fetch("SELECT id FROM public.t ORDER BY id")]


async def is_out(who: Connect) -> bool:
    try:
        await execute(who, "SELECT 1")
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidAuthorizationSpecificationError):
        return True
    return False


async def oid(at: Place, name: str) -> int:
    return int(await at.value("SELECT oid::int8 FROM pg_database WHERE datname = $1", name))


async def codes(at: Place, incoming: BackupFile, name: str | None = None) -> list[tuple[str, bool]]:
    return [(one.code, one.warning) for one in await of(at).may_swap(incoming, name)]


# ------------------------------------------------------------------ beside


async def test_a_database_for_a_restore_is_alike_and_closed_to_everybody_but_backout(shop: Place) -> None:
    stranger = await shop.another("stranger")
    assert await of(shop).may_make_beside() is None
    file = await of(shop).beside_for_restore(BESIDE, NOTE)
    assert (file.name, file.path, file.format, file.oid) == (BESIDE, f"database {BESIDE}", "clone", await oid(shop, BESIDE))
    live, made = await outside(shop, shop.app.database), await outside(shop, BESIDE)
    assert (made[0], made[5], made[6:10]) == (live[0], NOTE, live[6:10])
    assert [await is_out(inside(who, BESIDE)) for who in (shop.app, stranger)] == [True, True]
    await execute(inside(shop.backout, BESIDE), "CREATE SCHEMA restored", "CREATE TABLE restored.t (id int)")


async def test_what_is_others_is_entered_as_the_application_that_may_connect_only_meanwhile(shop: Place) -> None:
    file = (await of(shop).beside_for_restore(BESIDE, NOTE)).model_copy(update={"adopted": True})
    async with of(shop).inside(file) as there:
        assert (await there.ask("SELECT session_user::text, current_database()::text")).rows == ((shop.app.user, BESIDE),)
        await execute(there.admin, "CREATE SCHEMA restored", "CREATE TABLE public.t (id int)")
    assert await is_out(inside(shop.app, BESIDE))
    await shop.do(f"COMMENT ON DATABASE {BESIDE} IS 'somebody''s'")
    with pytest.raises(StepFailed, match="does not say any more"):
        async with of(shop).inside(file):
            pass
    assert await is_out(inside(shop.app, BESIDE))


async def test_where_backout_is_the_application_it_stays_in(plain: Place) -> None:
    lone = (await plain.another("lone")).model_copy(update={"database": "lones"})
    await plain.do("ALTER ROLE lone CREATEDB", "CREATE DATABASE lones OWNER lone")
    database = database_of(lone, lone)
    file = (await database.beside_for_restore(BESIDE, NOTE)).model_copy(update={"adopted": True})
    for _ in range(2):
        async with database.inside(file) as there:
            await there.identity()
    await plain.do(f"DROP DATABASE {BESIDE}", "DROP DATABASE lones")


async def test_nothing_of_others_is_entered_as_an_application_that_could_do_harm_elsewhere(plain: Place) -> None:
    file = (await of(plain).beside_for_restore(BESIDE, NOTE)).model_copy(update={"adopted": True})
    await plain.do(f"GRANT pg_write_server_files TO {quoted(plain.app.user)}")
    assert await of(plain).reach() == "pg_write_server_files"
    with pytest.raises(StepFailed, match="has pg_write_server_files"):
        async with of(plain).inside(file):
            pass
    assert await is_out(inside(plain.app, BESIDE))


async def test_a_dead_attempts_database_is_replaced_and_dropped_only_by_oid_and_comment(plain: Place) -> None:
    await plain.do(f"CREATE DATABASE {BESIDE} TEMPLATE template0 OWNER {plain.me}")  # it died before it could say whose it is
    first = await of(plain).beside_for_restore(BESIDE, NOTE)
    again = await of(plain).beside_for_restore(BESIDE, NOTE)
    assert first.oid != again.oid
    with pytest.raises(StepFailed, match="does not say any more"):
        await of(plain).drop_clone(again, "Backout: another")
    await of(plain).drop_clone(first, NOTE)
    assert await oid(plain, BESIDE) == again.oid
    await of(plain).drop_clone(again, NOTE)
    assert not await plain.value("SELECT count(*) FROM pg_database WHERE datname = $1", BESIDE)


async def test_what_is_not_ours_is_left_alone(plain: Place) -> None:
    await plain.do(f"CREATE DATABASE {BESIDE}", f"COMMENT ON DATABASE {BESIDE} IS 'somebody''s'")
    with pytest.raises(StepFailed, match="it is not this restore point"):
        await of(plain).beside_for_restore(BESIDE, NOTE)
    for name, note in (("shop; drop", NOTE), ("backout_0a1b2c3d_" + "x" * 60, NOTE), ("backout_0a1b2c3e_incoming", "no word of ours")):
        with pytest.raises(StepFailed):
            await of(plain).beside_for_restore(name, note)
    await plain.do(f"DROP DATABASE {BESIDE}")


async def test_a_missing_right_is_said_before_with_the_sql_that_gives_it(plain: Place) -> None:
    await plain.do(f"ALTER ROLE {plain.me} NOCREATEDB")
    assert f"ALTER ROLE {plain.me} CREATEDB" in str(await of(plain).may_make_beside())
    await plain.do(f"ALTER ROLE {plain.me} CREATEDB", f"REVOKE {quoted(plain.app.user)} FROM {plain.me}")
    assert f"GRANT {quoted(plain.app.user)} TO {plain.me}" in str(await of(plain).may_make_beside())


# ------------------------------------------------------------------ swapped


async def dressed(at: Place) -> tuple[Any, ...]:
    """The database gets everything that can lie outside of it; how that reads."""
    await at.another('a "quoted", role')
    await at.another("Mixed/Case=x")
    reads = "statement_timeout = '17s'"
    await at.do(
        f"GRANT {quoted('Mixed/Case=x')} TO {at.me} WITH ADMIN OPTION",
        f"REVOKE ALL ON DATABASE {at.name} FROM PUBLIC",
        f'GRANT CONNECT ON DATABASE {at.name} TO "a ""quoted"", role", {at.me}',
        f"GRANT CONNECT, CREATE ON DATABASE {at.name} TO {quoted('Mixed/Case=x')} WITH GRANT OPTION",
        f"ALTER DATABASE {at.name} CONNECTION LIMIT 73",
        f"COMMENT ON DATABASE {at.name} IS 'the shop''s, 100 %s \\ of it'",
        f"ALTER DATABASE {at.name} SET search_path = 'My schema', \"$user\", public",
        f"ALTER DATABASE {at.name} SET {reads}",
        f"ALTER DATABASE {at.name} SET DateStyle = 'German, DMY'",
        f"ALTER ROLE {quoted(at.app.user)} IN DATABASE {at.name} SET application_name = 'the \"shop\"''s \\ app'",
        f"ALTER ROLE {quoted(at.app.user)} IN DATABASE {at.name} SET search_path = ''",
    )
    return await outside(at, at.app.database)


async def test_owner_rights_settings_limit_and_comment_are_as_they_were_and_the_old_one_is_kept_closed(shop: Place) -> None:
    before, was = await dressed(shop), await oid(shop, shop.app.database)
    incoming = await beside(shop, f"ALTER DATABASE {BESIDE} SET work_mem = '1MB'")
    assert await codes(shop, incoming, kept(shop)) == []
    assert await of(shop).swapped(incoming, kept(shop)) is False

    old = await swap(shop, incoming)

    assert await of(shop).swapped(incoming, kept(shop)) is True
    assert await outside(shop, shop.app.database) == before
    assert (await oid(shop, shop.app.database), await oid(shop, kept(shop))) == (incoming.oid, was)
    assert await rows(shop.app) == [100]
    assert (old.name, old.path, old.format, old.oid, old.objects) == (kept(shop), f"database {kept(shop)}", "clone", was, 1)
    assert old.size > 1_000_000
    assert await is_out(inside(shop.app, old.name))
    assert await rows(inside(shop.backout, old.name)) == [1]
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await execute(inside(shop.backout, old.name), "DELETE FROM t")
    await of(shop).drop_clone(old, OLD)
    assert not await shop.value("SELECT count(*) FROM pg_database WHERE datname = $1", old.name)


async def test_a_clone_takes_the_place_and_the_old_one_can_come_back(shop: Place) -> None:
    before = await outside(shop, shop.app.database)
    incoming = await of(shop).clone(CLONE, NOTE)
    await execute(shop.app, "INSERT INTO t VALUES (2)")
    old = await swap(shop, incoming)
    assert await rows(shop.app) == [1]
    await execute(shop.app, "INSERT INTO t VALUES (3)")
    newer = await swap(shop, old, "kept for later")
    assert await rows(shop.app) == [1, 2]
    assert await rows(inside(shop.backout, newer.name)) == [1, 3]
    spelled = [(0, before[1] or shop_acl(shop))] if not (await is_superuser(shop)) else [(0, before[1])]
    now = await outside(shop, shop.app.database)
    assert (now[0], *now[2:]) == (before[0], *before[2:])
    assert sorted(str(now[1] or "")) == sorted(str(spelled[0][1] or ""))


def shop_acl(at: Place) -> str:
    owner = at.app.user.replace('"', '\\"\\"')
    return f'{{=Tc/"\\"{owner}\\"","\\"{owner}\\"=CTc/\\"{owner}\\""}}'


async def is_superuser(at: Place) -> bool:
    return bool(await at.value("SELECT rolsuper FROM pg_roles WHERE rolname = $1", at.backout.user))


@dataclass
class Notebook:
    facts: dict[str, Any] = field(default_factory=dict)

    async def remember(self, **facts: Any) -> None:
        self.facts = facts


async def close(at: Place) -> Notebook:
    notebook = Notebook()
    await at.door.close(RUN, {}, notebook.remember, ())
    return notebook


async def test_a_closed_door_goes_along_and_opening_gives_the_new_one_its_rights_to_the_letter(shop: Place) -> None:
    before = await dressed(shop)
    notebook = await close(shop)
    incoming = await beside(shop)
    assert await codes(shop, incoming, kept(shop)) == []
    old = await swap(shop, incoming)

    await shop.door.prove(RUN)
    entrance = await shop.door.entrance(RUN)
    assert entrance is not None
    async with session(entrance) as tool:
        assert await tool.fetchval("SELECT array_agg(id) FROM public.t") == [100]
        assert await tool.fetchval("SELECT current_user") == shop.app.user
    assert await is_out(shop.app)
    assert await is_out(inside(entrance, old.name))
    facts = await shop.door.open(RUN, notebook.facts)
    assert facts["says"] == f"the door of {shop.app.database} is open again, its rights are as they were"
    assert await outside(shop, shop.app.database) == before
    assert not await is_out(shop.app)
    assert await is_out(inside(shop.app, old.name))
    again = await shop.door.open(RUN, notebook.facts)
    assert again["says"] == f"the door of {shop.app.database} is open"


async def test_a_door_that_another_run_closed_is_not_taken_along(plain: Place) -> None:
    incoming = await beside(plain)
    notebook = await close(plain)
    with pytest.raises(StepFailed, match="closed by run 01-run"):
        await of(plain).swap(incoming, kept(plain), OLD, "02-run", WORK)
    assert await of(plain).swapped(incoming, kept(plain)) is False
    await plain.door.prove(RUN)
    await plain.door.open(RUN, notebook.facts)


async def test_whoever_dies_after_the_swap_still_opens_the_door_though_the_old_database_is_gone(plain: Place) -> None:
    notebook = await close(plain)
    old = await swap(plain, await beside(plain))
    await of(plain).drop_clone(old, OLD)
    await plain.door.open(RUN, notebook.facts)
    assert (await plain.door.open(RUN, notebook.facts))["opened"] is False
    assert await rows(plain.app) == [100]


# ------------------------------------------------------------------ refused before anything happened


async def test_what_is_not_ours_any_more_never_takes_the_place(plain: Place) -> None:
    incoming = await beside(plain)
    for other in (incoming.model_copy(update={"oid": 1}), incoming.model_copy(update={"oid": await oid(plain, plain.app.database)})):
        assert await codes(plain, other) == [("swap_not_ours", False)]
    await plain.do(f"COMMENT ON DATABASE {BESIDE} IS 'mine now'")
    assert await codes(plain, incoming) == [("swap_not_ours", False)]
    with pytest.raises(StepFailed, match="does not say any more that Backout made it"):
        await swap(plain, incoming)
    assert await of(plain).swapped(incoming, kept(plain)) is False


async def test_a_name_that_is_taken_or_too_long_is_refused(plain: Place) -> None:
    incoming = await beside(plain)
    for name in ("postgres", plain.app.database, BESIDE, "ü" * 32, ""):
        assert await codes(plain, incoming, name) == [("swap_name", False)]
    assert await rows(plain.app) == [1]


async def test_prepared_transactions_slots_and_subscriptions_are_named(plain: Place) -> None:
    incoming = await beside(plain)
    boss = inside(plain.superuser, plain.app.database)
    await execute(boss, "SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")  # it would wait for the transaction
    async with session(plain.app) as writing:
        await writing.execute("BEGIN; INSERT INTO t VALUES (7); PREPARE TRANSACTION 'order 7'")
    await execute(boss, "CREATE SUBSCRIPTION \"feed\" CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
    refusals = await of(plain).may_swap(incoming, kept(plain))
    assert [one.code for one in refusals] == ["prepared_transactions", "swap_consumers"]
    assert "order 7" in refusals[0].message
    assert "slot debezium, subscription feed" in refusals[1].message
    with pytest.raises(StepFailed, match="order 7"):
        await swap(plain, incoming)
    await execute(boss, "ROLLBACK PREPARED 'order 7'", "ALTER SUBSCRIPTION feed SET (slot_name = NONE)", "DROP SUBSCRIPTION feed")
    await execute(boss, "SELECT pg_drop_replication_slot('debezium')")
    assert await codes(plain, incoming, kept(plain)) == []


async def test_a_kept_database_is_not_dropped_while_a_slot_sits_on_it(plain: Place) -> None:
    old = await swap(plain, await beside(plain))
    boss = inside(plain.superuser, old.name)
    await execute(boss, "SET default_transaction_read_only = off", "SELECT pg_create_logical_replication_slot('debezium', 'pgoutput')")
    with pytest.raises(StepFailed, match="debezium"):
        await of(plain).drop_clone(old, OLD)
    await execute(boss, "SELECT pg_drop_replication_slot('debezium')")
    await of(plain).drop_clone(old, OLD)


async def test_missing_rights_are_said_as_sql(plain: Place) -> None:
    incoming = await beside(plain)
    await plain.do(f"ALTER ROLE {plain.me} NOCREATEDB", f"REVOKE pg_signal_backend FROM {plain.me}")
    await plain.another("stranger")
    [refusal] = await of(plain).may_swap(incoming)
    assert (refusal.code, refusal.warning) == ("swap_rights", False)
    assert f"ALTER ROLE {plain.me} CREATEDB; GRANT pg_signal_backend TO {plain.me};" in refusal.next
    await plain.do(*refusal.next.removeprefix("Somebody who may has to run: ").split("; "))
    await plain.do(f"ALTER DATABASE {plain.name} SET log_statement = 'all'")
    [refusal] = await of(plain).may_swap(incoming)
    assert refusal.code == "swap_rights"
    assert f'GRANT SET ON PARAMETER "log_statement" TO {plain.me};' in refusal.next
    await plain.do(f'GRANT SET ON PARAMETER "log_statement" TO {plain.me}')
    assert await codes(plain, incoming) == []
    await plain.do(f'REVOKE SET ON PARAMETER "log_statement" FROM {plain.me}')


async def test_a_superuser_who_could_not_be_ended_is_named_before(plain: Place) -> None:
    incoming = await beside(plain)
    async with session(inside(plain.superuser, plain.app.database)) as boss:
        [refusal] = await of(plain).may_swap(incoming)
        assert refusal.code == "swap_sessions"
        assert f"(session {boss.get_server_pid()})" in refusal.message
    assert await rows(plain.app) == [1]


async def test_what_will_be_different_is_told_and_not_in_the_way(plain: Place) -> None:
    await execute(
        inside(plain.superuser, plain.app.database),
        "CREATE FUNCTION noted() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER guard ON ddl_command_end EXECUTE FUNCTION noted()",
        "UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'plpgsql'",
    )
    await plain.do("CREATE DATABASE backout_0a1b2c3d_latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    await plain.do(
        f"COMMENT ON DATABASE backout_0a1b2c3d_latin IS '{NOTE.replace(chr(39), chr(39) * 2)}'",
        f"ALTER DATABASE backout_0a1b2c3d_latin OWNER TO {quoted(plain.app.user)}",
    )
    latin = BackupFile(name="x", path="", sha256="", size=0, format="clone", oid=await oid(plain, "backout_0a1b2c3d_latin"))
    found = await of(plain).may_swap(latin)
    assert {(one.code, one.warning) for one in found} == {("swap_differs", True)}
    told = " ".join(one.message for one in found)
    for word in ("encoding is LATIN1", "plpgsql 0.9 is there in version 1.0", "event trigger guard"):
        assert word in told


async def test_somebody_elses_lock_on_the_database_ends_the_try_with_their_name_and_nothing_is_changed(plain: Place) -> None:
    incoming = await beside(plain)
    before = await outside(plain, plain.app.database)
    async with session(plain.superuser, application_name="a slow admin") as holding:
        await holding.execute(f"BEGIN; COMMENT ON DATABASE {plain.name} IS 'being said'")
        with pytest.raises(StepFailed, match="a slow admin") as caught:
            await swap(plain, incoming)
        assert not isinstance(caught.value, OutcomeUnknown)
    assert await of(plain).swapped(incoming, kept(plain)) is False
    assert await outside(plain, plain.app.database) == before


# ------------------------------------------------------------------ hostile names


@pytest.mark.parametrize("name", ["x" * 63, "a\nb'; DROP DATABASE postgres; --", 'ü"' * 21, "%I %s {} $1"])
async def test_any_name_of_up_to_63_bytes_is_kept_to_the_letter(plain: Place, name: str) -> None:
    incoming = await beside(plain)
    old = await swap(plain, incoming, name)
    assert (await oid(plain, name), await of(plain).swapped(incoming, name)) == (old.oid, True)


def test_the_kept_name_has_its_date_fits_and_tells_long_names_apart() -> None:
    assert kept_name("shop", AT) == "shop_until_20260131_030500"
    one, other = kept_name("ü" * 31, AT), kept_name("ü" * 30 + "x", AT)
    assert one != other
    assert all(len(each.encode()) <= 63 and each.endswith("_until_20260131_030500") for each in (one, other))


async def test_a_database_with_a_name_of_63_bytes_is_swapped(eighteen: Connect) -> None:
    async with place(eighteen, is_superuser=False, database="ü" * 28) as found:
        incoming = await beside(found)
        await swap(found, incoming)
        assert await of(found).swapped(incoming, kept(found)) is True
        assert await rows(found.app) == [100]


# ------------------------------------------------------------------ in the middle of everything


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    async with asyncio.timeout(60):
        while not await condition():  # noqa: ASYNC110  the server makes it true
            await asyncio.sleep(0.01)


@dataclass
class Client:
    """Connects, works until it is thrown out, and connects again at once."""

    where: Connect
    came: int = 0
    pause: float = 0.0
    written: list[int] = field(default_factory=list)

    async def run(self, stop: asyncio.Event, number: int) -> None:
        while not stop.is_set():
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
                async with session(self.where) as open_:
                    self.came += 1
                    while not stop.is_set():
                        await self.work(open_, number)

    async def work(self, open_: asyncpg.Connection[asyncpg.Record], number: int) -> None:
        if not self.pause:
            await open_.execute("SELECT pg_sleep(0.05)")
            return
        await open_.execute("INSERT INTO t VALUES ($1)", number + len(self.written))
        self.written.append(number + len(self.written))
        await asyncio.sleep(self.pause)


@asynccontextmanager
async def busy(clients: list[Client]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    tasks = [asyncio.create_task(client.run(stop, 1000 * (place + 1))) for place, client in enumerate(clients)]
    try:

        async def all_came() -> bool:
            return all(client.came for client in clients)

        await until(all_came)
        yield
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def test_forty_clients_that_reconnect_at_once_are_all_back_in_the_new_database(shop: Place) -> None:
    incoming = await beside(shop)
    clients = [Client(shop.app) for _ in range(40)]
    async with busy(clients):
        for _ in range(3):
            before = [client.came for client in clients]
            incoming = await swap(shop, incoming, f"{kept(shop)}_{incoming.oid}")

            async def back() -> bool:
                return all(client.came > came for client, came in zip(clients, before, strict=True))  # noqa: B023  awaited before the next round

            await until(back)
            names = "SELECT count(*) FROM pg_database WHERE datname = $1"
            assert await shop.value(names, shop.app.database) == 1


async def test_every_acknowledged_write_of_a_swap_is_in_the_old_or_in_the_new_database(shop: Place) -> None:
    incoming = await beside(shop)
    writers = [Client(shop.app, pause=0.01) for _ in range(3)]
    async with busy(writers):

        async def some() -> bool:
            return all(len(writer.written) > 20 for writer in writers)

        await until(some)
        old = await swap(shop, incoming)
        at = [len(writer.written) for writer in writers]

        async def more() -> bool:
            return all(len(writer.written) > count + 20 for writer, count in zip(writers, at, strict=True))

        await until(more)
    there = {*await rows(inside(shop.backout, old.name)), *await rows(shop.app)}
    acknowledged = {number for writer in writers for number in writer.written}
    assert acknowledged - there == set()
    assert len(there - acknowledged) <= 2 + len(writers)  # the two that were there, and what was committed without its answer


# ------------------------------------------------------------------ dying


async def one_complete_database(at: Place, incoming: BackupFile, before: tuple[Any, ...], was: int) -> bool:
    """The service has exactly one database under its name, the old or the new one, with everything that belongs to it; which, `swapped` tells."""
    happened = await of(at).swapped(incoming, kept(at))
    assert happened is not None
    assert await oid(at, at.app.database) == (incoming.oid if happened else was)
    assert await outside(at, at.app.database) == before
    assert await rows(at.app) == ([100] if happened else [1])
    count = "SELECT count(*) FROM pg_database WHERE datname = ANY ($1)"
    assert await at.value(count, [kept(at), BESIDE]) == 1
    return happened


async def test_a_line_that_breaks_anywhere_leaves_one_complete_database_and_the_next_attempt_ends_it(plain: Place) -> None:
    before, seen = await dressed(plain), set()
    for after in range(10, 400, 41):
        incoming, was = await beside(plain), await oid(plain, plain.app.database)
        async with Line(plain.superuser, after) as line:
            through = database_of(plain.app, plain.backout.model_copy(update={"host": "127.0.0.1", "port": line.port}))
            with suppress(StepFailed, Refusal):
                await through.swap(incoming, kept(plain), OLD, RUN, WORK)
        await of(plain).end_sessions(WORK)
        happened = await one_complete_database(plain, incoming, before, was)
        seen.add(happened)
        if not happened:
            await swap(plain, incoming)
            assert await one_complete_database(plain, incoming, before, was)
        old = BackupFile(name=kept(plain), path="", sha256="", size=0, format="clone", oid=was)
        await of(plain).drop_clone(old, OLD)
        await execute(inside(plain.superuser, plain.app.database), "UPDATE t SET id = 1")
        if not line.broke:
            break
    assert seen == {True, False}
    assert after > 50


SWAPPING = """
import asyncio, json, sys
from bot.databases.postgres import PostgresDatabase
from bot.evidence import BackupFile
from bot.place import Connect
said = json.loads(sys.stdin.read())
at = PostgresDatabase(target="shop", tool=Connect(**said["tool"]), admin=Connect(**said["admin"]))
asyncio.run(at.swap(BackupFile(**said["incoming"]), *said["rest"]))
"""


@asynccontextmanager
async def in_a_process(at: Place, incoming: BackupFile) -> AsyncIterator[asyncio.subprocess.Process]:
    """Killed with SIGKILL at the end, if it has not ended by then."""
    said = {"tool": at.app.model_dump(), "admin": at.backout.model_dump(), "incoming": incoming.model_dump(), "rest": [kept(at), OLD, RUN, WORK]}
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  it is to be killed from outside
        sys.executable, "-c", SWAPPING, stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    process.stdin.write(json.dumps(said).encode())
    process.stdin.close()
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def doing(at: Place, statement: str) -> bool:
    """The swap waits for a lock in that statement."""
    found = "SELECT query LIKE $2 FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
    return bool(await at.value(found, WORK, statement))


@pytest.mark.parametrize("where", ["before the first rename", "between the renames", "while the settings go along"])
async def test_a_process_that_is_killed_while_it_swaps_has_changed_nothing(plain: Place, where: str) -> None:
    """Held by locks that its own trial does not need: a setting of somebody, not yet committed, is in the way of a rename only."""
    before, was, name = await dressed(plain), await oid(plain, plain.app.database), plain.app.database
    incoming = await beside(plain, f"ALTER DATABASE {BESIDE} SET work_mem = '1MB'")
    async with session(plain.superuser) as renaming, session(plain.superuser) as setting, in_a_process(plain, incoming):
        held = BESIDE if where == "between the renames" else name
        await renaming.execute(f"BEGIN; ALTER ROLE {quoted(plain.superuser.user)} IN DATABASE {quoted(held)} SET work_mem = '2MB'")
        await until(lambda: doing(plain, f"ALTER DATABASE {quoted(held)} RENAME TO%"))
        if where == "while the settings go along":
            await setting.execute(f"BEGIN; UPDATE pg_db_role_setting SET setconfig = setconfig WHERE setdatabase = {incoming.oid}")
            await renaming.execute("ROLLBACK")
            await until(lambda: doing(plain, "ALTER DATABASE%RESET ALL"))
    await of(plain).end_sessions(WORK)
    assert await one_complete_database(plain, incoming, before, was) is False
    await swap(plain, incoming)
    assert await one_complete_database(plain, incoming, before, was) is True


async def test_a_process_that_is_killed_while_it_commits_is_unknown_until_its_session_is_gone(plain: Place) -> None:
    """A standby that never answers holds the commit: nobody sees it, and it is done all the same."""
    before, was, incoming = await dressed(plain), await oid(plain, plain.app.database), await beside(plain)
    await plain.do(f"ALTER ROLE {plain.me} SET synchronous_commit = on", "ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
    try:
        await plain.do("SELECT pg_reload_conf()")
        async with in_a_process(plain, incoming):
            committing = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event = 'SyncRep'"
            await until(lambda: plain.value(committing, WORK))
        assert await of(plain).swapped(incoming, kept(plain)) is None
        await of(plain).end_sessions(WORK)
        assert await one_complete_database(plain, incoming, before, was) is True
    finally:
        await plain.do("ALTER SYSTEM RESET synchronous_standby_names")
        await plain.do("SELECT pg_reload_conf()")


async def test_what_somebody_else_renamed_is_unknown(plain: Place) -> None:
    incoming = await beside(plain)
    await plain.do(f"ALTER DATABASE {plain.name} RENAME TO moved_away")
    assert await of(plain).swapped(incoming, kept(plain)) is None
    await plain.do(f"ALTER DATABASE moved_away RENAME TO {plain.name}")
    await plain.do(f"DROP DATABASE {BESIDE}")
    assert await of(plain).swapped(incoming, kept(plain)) is None
