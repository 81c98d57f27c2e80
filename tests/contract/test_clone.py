"""A clone as restore point: what is in it, who gets in, what is said when it can't be made (databases.md F9)."""

from __future__ import annotations

import asyncio
import json

import asyncpg
import pytest

from bot.databases import clone as clones
from bot.databases.connecting import quoted
from bot.errors import StepFailed
from bot.evidence import BackupFile
from bot.place import Connect
from tests.contract.places import Place
from tests.contract.servers import execute, session

NAME, NOTE = "backout_0a1b2c3d_restore", "Backout: restore point of shop, run r'1"


@pytest.fixture
def shop(plain: Place) -> Place:
    return plain


async def clone(at: Place, name: str = NAME, note: str = NOTE) -> BackupFile:
    return await clones.clone(at.backout, at.maintenance, at.app.database, name, note)


async def is_there(at: Place, name: str = NAME) -> bool:
    return bool(await at.value("SELECT count(*) FROM pg_database WHERE datname = $1", name))


def inside(at: Place, who: Connect, name: str = NAME) -> Connect:
    return who.model_copy(update={"database": name})


# ------------------------------------------------------------------ made


async def test_a_clone_holds_the_rows_and_is_known_by_its_oid_and_comment(either: Place) -> None:
    assert await clones.may_clone(either.backout, either.maintenance, either.app.database) is None
    file = await clone(either)
    assert (file.name, file.path, file.format, file.sha256, file.objects) == (NAME, f"database {NAME}", "clone", "", 1)
    assert file.size > 1_000_000
    said = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE oid = $1::int8::oid AND datname = $2"
    assert await either.value(said, file.oid, NAME) == NOTE
    async with session(inside(either, either.backout)) as reading:
        assert await reading.fetchval("SELECT array_agg(id) FROM t") == [1]


async def test_nobody_else_gets_into_a_clone_whatever_their_rights_on_the_database(either: Place) -> None:
    stranger = await either.another("stranger")
    await either.do(f"GRANT CONNECT ON DATABASE {either.name} TO stranger")
    await clone(either)
    for who in (stranger, either.app):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await execute(inside(either, who), "SELECT 1")


async def test_a_clone_does_not_change_by_accident(shop: Place) -> None:
    await clone(shop)
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        await execute(inside(shop, shop.backout), "DELETE FROM t")


async def test_from_the_first_moment_on_nobody_else_gets_in(shop: Place) -> None:
    stranger = inside(shop, await shop.another("stranger"))
    tries: list[str] = []
    made = asyncio.Event()

    async def trying() -> None:
        while not made.is_set():
            try:
                await execute(stranger, "SELECT 1")
            except (asyncpg.InvalidCatalogNameError, asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.InsufficientPrivilegeError) as error:
                tries.append(type(error).__name__)
            else:
                tries.append("in")

    clients = [asyncio.create_task(trying()) for _ in range(2)]
    await clone(shop)
    made.set()
    await asyncio.gather(*clients)
    assert tries
    assert "in" not in tries


async def test_big_databases_are_copied_as_files(shop: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Big is 1 GB; here less is big. pg_stat_statements would be needed to see the statement, the WAL that it wrote is seen without."""
    written = "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"
    start = await shop.value(written)
    await clone(shop)
    logged = await shop.value(written) - start
    monkeypatch.setattr(clones, "_BIG", 1)
    start = await shop.value(written)
    await clone(shop, "backout_0a1b2c3e_restore")
    assert await shop.value(written) - start < logged / 4


# ------------------------------------------------------------------ can't be made


async def test_who_is_in_the_database_is_named_and_nothing_is_left(shop: Place) -> None:
    async with session(shop.app, application_name="nightly export") as reading:
        with pytest.raises(StepFailed, match=f"session {reading.get_server_pid()} .*nightly export"):
            await clone(shop)
    assert not await is_there(shop)


async def test_a_prepared_transaction_is_named(shop: Place) -> None:
    async with session(shop.app) as writing:
        await writing.execute("BEGIN; INSERT INTO t VALUES (7); PREPARE TRANSACTION 'order 7'")
        await writing.close()
    with pytest.raises(StepFailed, match="prepared transactions order 7"):
        await clone(shop)
    assert not await is_there(shop)


@pytest.mark.parametrize(
    ("takes", "says"),
    [
        ("ALTER ROLE {me} NOCREATEDB", "CREATEDB would allow it"),
        ("REVOKE {app} FROM {me} CASCADE", "GRANT {app} TO {me} would allow it"),
        ("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = '{plain}'", "REFRESH COLLATION VERSION"),
        ("CREATE SUBSCRIPTION away CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)", ""),
    ],
    ids=["no createdb", "not owner", "collation", "disabled subscription"],
)
async def test_what_forbids_a_clone_is_said_with_its_way_out(shop: Place, takes: str, says: str) -> None:
    words = {"me": shop.me, "app": quoted(shop.app.user), "plain": shop.app.database}
    boss = shop.superuser.model_copy(update={"database": shop.app.database})
    await execute(boss, takes.format(**words))
    try:
        why = await clones.may_clone(shop.backout, shop.maintenance, shop.app.database)
        assert says.format(**words) in (why or "")
        if says:
            assert why is not None
            with pytest.raises(StepFailed):
                await clone(shop)
            assert not await is_there(shop)
    finally:
        if "SUBSCRIPTION" in takes:
            await execute(boss, "ALTER SUBSCRIPTION away SET (slot_name = NONE)", "DROP SUBSCRIPTION away")


async def test_an_enabled_subscription_forbids_a_clone(shop: Place) -> None:
    boss = shop.superuser.model_copy(update={"database": shop.app.database})
    await execute(boss, "CREATE SUBSCRIPTION live CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)")
    await execute(boss, "ALTER SUBSCRIPTION live ENABLE")
    try:
        assert "The subscription live writes into" in str(await clones.may_clone(shop.backout, shop.maintenance, shop.app.database))
        assert (await clones.outside(shop.maintenance, shop.app.database))["subscriptions"] == ["live"]
    finally:
        await execute(boss, "ALTER SUBSCRIPTION live DISABLE", "ALTER SUBSCRIPTION live SET (slot_name = NONE)", "DROP SUBSCRIPTION live")


async def test_a_table_that_backout_may_not_read_is_named_before(shop: Place) -> None:
    boss = shop.superuser.model_copy(update={"database": shop.app.database})
    await execute(boss, "CREATE SCHEMA hidden", 'CREATE TABLE hidden."Se""cret" (id int)')
    assert 'may not read hidden."Se""cret"' in str(await clones.may_clone(shop.backout, shop.maintenance, shop.app.database))


async def test_a_database_that_is_gone_is_said_to_be(shop: Place) -> None:
    assert await clones.may_clone(shop.backout, shop.maintenance, "gone") == "There is no database gone any more."
    with pytest.raises(StepFailed, match="no database gone"):
        await clones.clone(shop.backout, shop.maintenance, "gone", NAME, NOTE)
    with pytest.raises(StepFailed, match="no database gone"):
        await clones.outside(shop.maintenance, "gone")


@pytest.mark.parametrize("name", ["shop", 'backout_0a1b2c3d_x"; DROP DATABASE postgres; --', f"backout_0a1b2c3d_{'x' * 60}", "backout_0a1b2c3d_"])
async def test_only_a_name_of_our_own_kind_that_postgres_does_not_cut_is_taken(shop: Place, name: str) -> None:
    with pytest.raises(StepFailed, match="is no name for a clone"):
        await clone(shop, name)


# ------------------------------------------------------------------ dead attempts


async def test_a_clone_that_a_dead_attempt_finished_is_made_anew(shop: Place) -> None:
    first = await clone(shop)
    await execute(shop.app, "INSERT INTO t VALUES (2)")
    second = await clone(shop)
    assert first.oid != second.oid
    async with session(inside(shop, shop.backout)) as reading:
        assert await reading.fetchval("SELECT count(*) FROM t") == 2


async def test_a_clone_that_a_dead_attempt_left_without_its_comment_is_made_anew(shop: Place) -> None:
    await execute(shop.maintenance, f"CREATE DATABASE {NAME} TEMPLATE {shop.name} ALLOW_CONNECTIONS false")
    assert (await clone(shop)).oid == await shop.value("SELECT oid::int8 FROM pg_database WHERE datname = $1", NAME)


@pytest.mark.parametrize("of", ["another run", "another owner"])
async def test_what_is_not_ours_is_left_alone(shop: Place, of: str) -> None:
    other = await shop.another("other", "CREATEDB")
    if of == "another run":
        await clone(shop, note="Backout: restore point of shop, run 2")
    else:
        await execute(other.model_copy(update={"database": "postgres"}), f"CREATE DATABASE {NAME}")
    oid = await shop.value("SELECT oid::int8 FROM pg_database WHERE datname = $1", NAME)
    with pytest.raises(StepFailed, match="not this restore point"):
        await clone(shop)
    for file in (BackupFile(name=NAME, path="", sha256="", size=0, format="clone"), BackupFile(name=NAME, path="", sha256="", size=0, oid=oid)):
        with pytest.raises(StepFailed, match="restore point"):
            await clones.drop_clone(shop.maintenance, file, NOTE)
    assert oid == await shop.value("SELECT oid::int8 FROM pg_database WHERE datname = $1", NAME)


async def test_an_attempt_that_is_still_copying_though_its_process_died_is_ended_first(shop: Place) -> None:
    """A reader keeps the first attempt waiting inside the server."""
    async with session(shop.app) as reading:
        former = asyncio.create_task(clone(shop))
        async with asyncio.timeout(60):
            copying = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CREATE DATABASE%' AND state = 'active'"
            while not await shop.value(copying):  # noqa: ASYNC110  the other session makes it true
                await asyncio.sleep(0.02)
        await reading.close()
        file = await clone(shop)
        with pytest.raises(StepFailed):
            await former
    assert await shop.value("SELECT oid::int8 FROM pg_database WHERE datname = $1", NAME) == file.oid


# ------------------------------------------------------------------ dropped


async def test_a_clone_is_dropped_by_oid_and_comment_whatever_its_name_is_by_then_and_twice(either: Place) -> None:
    file = await clone(either)
    await execute(either.maintenance, f'ALTER DATABASE {NAME} RENAME TO "of another ""name"')
    async with session(inside(either, either.backout, 'of another "name')):
        await clones.drop_clone(either.maintenance, file, NOTE)
    assert not await either.value("SELECT count(*) FROM pg_database WHERE oid = $1::int8::oid", file.oid)
    await clones.drop_clone(either.maintenance, file, NOTE)


async def test_another_database_of_that_name_is_not_dropped(shop: Place) -> None:
    file = await clone(shop)
    await execute(shop.maintenance, f"DROP DATABASE {NAME}", f"CREATE DATABASE {NAME}", f"COMMENT ON DATABASE {NAME} IS 'mine'")
    await clones.drop_clone(shop.maintenance, file, NOTE)
    assert await is_there(shop)


async def test_a_half_that_nobody_could_tell_of_is_dropped_by_its_name(shop: Place) -> None:
    untold = BackupFile(name=NAME, path="", sha256="", size=0, format="clone")
    await clones.drop_clone(shop.maintenance, untold, NOTE)
    await execute(shop.maintenance, f"CREATE DATABASE {NAME} TEMPLATE {shop.name} ALLOW_CONNECTIONS false")
    await clones.drop_clone(shop.maintenance, untold, NOTE)
    assert not await is_there(shop)


async def test_the_target_itself_is_never_dropped_by_a_wrong_oid(shop: Place) -> None:
    oid = await shop.value("SELECT oid::int8 FROM pg_database WHERE datname = $1", shop.app.database)
    with pytest.raises(StepFailed, match="does not say any more"):
        await clones.drop_clone(shop.maintenance, BackupFile(name=NAME, path="", sha256="", size=0, format="clone", oid=oid), NOTE)
    with pytest.raises(StepFailed, match="not this restore point"):
        await clones.drop_clone(shop.maintenance, BackupFile(name=shop.app.database, path="", sha256="", size=0, format="clone"), NOTE)
    assert await is_there(shop, shop.app.database)


# ------------------------------------------------------------------ what is not in it


async def test_what_is_not_in_a_clone_is_told(either: Place) -> None:
    boss = either.superuser.model_copy(update={"database": either.app.database})
    await either.do(
        f"COMMENT ON DATABASE {either.name} IS 'the shop''s'",
        f"ALTER DATABASE {either.name} CONNECTION LIMIT 90",
        f"ALTER DATABASE {either.name} SET search_path = 'a=b', public",
        f"ALTER ROLE {quoted(either.app.user)} IN DATABASE {either.name} SET work_mem = '7MB'",
        f"REVOKE TEMP ON DATABASE {either.name} FROM PUBLIC",
    )
    await execute(boss, "SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')")
    try:
        told = await clones.outside(either.maintenance, either.app.database)
        assert json.loads(json.dumps(told)) == told
        assert (told["owner"], told["comment"], told["connection_limit"]) == (either.app.user, "the shop's", 90)
        assert (told["allow_connections"], told["is_template"], told["tablespace"], told["slots"]) == (True, False, "pg_default", ["cdc"])
        assert told["settings"] == [[None, {"search_path": '"a=b", public'}], [either.app.user, {"work_mem": "7MB"}]]
        assert told["acl"]["text"] == await either.acl()
    finally:
        await execute(boss, "SELECT pg_drop_replication_slot('cdc')")


async def test_renaming_it_into_the_databases_place_takes_one_transaction(shop: Place) -> None:
    """Going back: what the clone was given as a restore point goes, what the database had comes."""
    told = await clones.outside(shop.maintenance, shop.app.database)
    await clone(shop)
    await execute(shop.app, "DELETE FROM t")
    async with session(shop.maintenance) as back, back.transaction():
        await back.execute(f"ALTER DATABASE {shop.name} RENAME TO bad")
        await back.execute(f"ALTER DATABASE {NAME} RENAME TO {shop.name}")
        await back.execute(f"ALTER DATABASE {shop.name} RESET ALL")
        await back.execute(f"ALTER DATABASE {shop.name} OWNER TO {quoted(told['owner'])}")
        await back.execute(f"GRANT CONNECT, TEMP ON DATABASE {shop.name} TO PUBLIC")
    async with session(shop.app) as again:
        assert await again.fetchval("SELECT count(*) FROM t") == 1
        await again.execute("INSERT INTO t VALUES (3)")
