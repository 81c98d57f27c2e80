"""A database with hypertables through a dump, a throwaway server, a clone and a closed door; and what TimescaleDB does meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.backups.dump import DumpBackup
from bot.databases import timescale
from bot.databases.connecting import quoted
from bot.databases.postgres import PostgresDatabase
from bot.databases.scratch import ThrowawayScratches, _extensions
from bot.embedded import binaries
from bot.errors import Refusal, StepFailed
from bot.evidence import BackupFile
from bot.place import Connect
from bot.stores.directory import DirectoryStore
from bot.throwaway import Throwaways
from tests.contract.places import Place, place
from tests.contract.servers import execute, session
from tests.contract.test_backup import OneAttempt, attempt_on
from tests.platforms.test_timescale import METRICS, ROWS, on, workers
from tests.platforms.timescale import running

SHA = "SELECT md5(string_agg(m::text, ' ' ORDER BY m.device, m.time)) FROM metrics m"
RESTORING = "SELECT coalesce(bool_or(c LIKE 'timescaledb.restoring%'), false) FROM pg_db_role_setting s, unnest(s.setconfig) AS c"


@pytest.fixture(scope="module")
def server() -> Iterator[Connect]:
    with running() as connect:
        yield connect


@pytest.fixture
async def shop(server: Connect) -> AsyncIterator[Place]:
    """The application's database with a hypertable; Backout's own role is a superuser of its own."""
    async with place(server, is_superuser=True) as found:
        await execute(on(server, found.app.database), "CREATE EXTENSION timescaledb")
        await execute(found.app, *METRICS, ROWS)
        yield found


@pytest.fixture
def home() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="backout-timescale-"))
    made.chmod(0o711)
    yield made
    shutil.rmtree(made)


def admin(shop: Place) -> Connect:
    return shop.backout.model_copy(update={"database": shop.app.database})


def backup(shop: Place, home: Path) -> DumpBackup:
    restoring = {timescale.NAME: timescale.restoring}
    return DumpBackup(DirectoryStore(home / "backups"), admin(shop), DumpBackup.Settings(), embedded=binaries, restoring=restoring)


def database(shop: Place) -> PostgresDatabase:
    return PostgresDatabase(target="shop", tool=shop.app, admin=admin(shop))


async def dumped(shop: Place, home: Path) -> tuple[DumpBackup, BackupFile, OneAttempt]:
    taking, work = backup(shop, home), await attempt_on(admin(shop))
    return taking, await taking.take("shop-r1.dump", work), work


async def value(connect: Connect, sql: str) -> Any:
    async with session(connect) as open_:
        return await open_.fetchval(sql)


# ------------------------------------------------------------------ dump and restore


async def test_a_dump_comes_back_beside_the_database_as_hypertables_and_the_restore_mode_is_left(shop: Place, home: Path) -> None:
    taking, file, work = await dumped(shop, home)
    made = await database(shop).beside_for_restore("backout_0a1b2c3d_incoming", "Backout: a test's")
    beside = database(shop).beside(made.name)

    ignored = await taking.restore(file, beside.admin, 150000, work)

    assert ignored == ()
    assert await value(beside.admin, SHA) == await value(admin(shop), SHA)
    mine, theirs = await database(shop).snapshot(count=True), await beside.snapshot(count=True)
    assert theirs.hypertables == mine.hypertables
    assert theirs.objects == mine.objects
    assert not await value(admin(shop), RESTORING)
    assert await workers(admin(shop), made.name) == 0, "no policy works on a copy that is only looked at"
    await execute(beside.admin, "INSERT INTO metrics VALUES (now(), 1, 1)")
    assert await value(beside.admin, "SELECT count(*) FROM ONLY metrics") == 0, "what is written goes into a chunk"


async def test_a_restore_that_fails_half_way_leaves_the_restore_mode(shop: Place, home: Path) -> None:
    taking, file, work = await dumped(shop, home)
    made = await database(shop).beside_for_restore("backout_0a1b2c3d_incoming", "Backout: a test's")
    beside = database(shop).beside(made.name)
    await execute(beside.admin, "CREATE TABLE metrics (other int)")

    with pytest.raises(StepFailed, match="can't be restored"):
        await taking.restore(file, beside.admin, 150000, work)

    assert not await value(admin(shop), RESTORING)


async def test_a_role_that_is_no_superuser_is_told_so_before_anything_is_restored(shop: Place, home: Path) -> None:
    taking, file, work = await dumped(shop, home)
    made = await database(shop).beside_for_restore("backout_0a1b2c3d_incoming", "Backout: a test's")
    await shop.do(f"ALTER ROLE {shop.me} NOSUPERUSER CREATEDB", f"GRANT {quoted(shop.app.user)} TO {shop.me}")

    with pytest.raises(StepFailed, match="lets only a superuser restore"):
        await taking.restore(file, database(shop).beside(made.name).admin, 150000, work)

    await shop.do(f"ALTER ROLE {shop.me} SUPERUSER")
    assert not await value(admin(shop), RESTORING)


async def test_what_others_made_with_hypertables_is_refused_with_its_way_out(shop: Place, home: Path) -> None:
    taking, file, work = await dumped(shop, home)
    await execute(on(shop.superuser, "postgres"), f"CREATE DATABASE elsewhere OWNER {quoted(shop.app.user)}")
    try:
        found = await taking.inspect("shop-r1.dump")
        with pytest.raises(StepFailed, match="only a superuser may enter"):
            await taking.restore(found.file, shop.app.model_copy(update={"database": "elsewhere"}), 150000, work)
    finally:
        await execute(on(shop.superuser, "postgres"), "DROP DATABASE elsewhere WITH (FORCE)")
    assert file.objects > 0


async def test_check_says_that_hypertables_want_a_superuser(shop: Place) -> None:
    name = "restore hypertables and stop TimescaleDB's workers"
    assert [one.missing for one in await database(shop).rights() if one.name == name] == [""]

    await shop.do(f"ALTER ROLE {shop.me} NOSUPERUSER")

    assert [one.missing for one in await database(shop).rights() if one.name == name] == [f"ALTER ROLE {shop.me} SUPERUSER;"]
    await shop.do(f"ALTER ROLE {shop.me} SUPERUSER")


# ------------------------------------------------------------------ the throwaway server


def scratches(shop: Place, home: Path) -> ThrowawayScratches:
    def at(tool: Connect, admin: Connect, maintenance: str) -> Any:
        return tool, admin

    return ThrowawayScratches(admin(shop), shop.app, Throwaways(home), at, home)


async def test_a_throwaway_server_loads_it_and_holds_copy_and_clone(shop: Place, home: Path) -> None:
    taking, file, work = await dumped(shop, home)

    async with scratches(shop, home).open(work) as scratch:
        await scratch.create("copy")
        assert await taking.restore(file, scratch.superuser("copy"), scratch.version, work) == ()
        cut = await scratch.cut_off("copy")
        await scratch.clone("copy", "before")
        assert await value(scratch.superuser("before"), SHA) == await value(admin(shop), SHA)
        assert scratch.says == "a throwaway server, PostgreSQL 15"
        assert not any("timescaledb" in said for said in scratch.partial), scratch.partial
        assert cut is not None
        await scratch.drop("before")


def test_another_version_than_productions_is_no_place_for_a_copy() -> None:
    with pytest.raises(Refusal, match=r"2\.19\.3 on the throwaway server, production has 2\.1\.0") as caught:
        _extensions({"timescaledb": "2.1.0"}, {"timescaledb": "2.19.3"}, ["timescaledb"])

    assert caught.value.code == "rehearsal_impossible"
    assert "2.1.0" in caught.value.next


async def test_a_sample_of_rows_is_not_made_of_hypertables(shop: Place, home: Path) -> None:
    with pytest.raises(Refusal, match="hypertables"):
        async with scratches(shop, home).open(await attempt_on(admin(shop)), sampled=True):
            pass


async def test_a_throwaway_server_without_it_says_what_is_missing(shop: Place, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")  # the distribution's own server has no TimescaleDB

    with pytest.raises(Refusal, match="extension timescaledb is not on the throwaway server"):
        async with scratches(shop, home).open(await attempt_on(admin(shop))):
            pass


# ------------------------------------------------------------------ clone, door, swap


async def at_work(shop: Place) -> None:
    """Its scheduler is in the database."""
    await timescale.wake(on(shop.superuser, shop.app.database))
    async with asyncio.timeout(120):
        while not await workers(shop.superuser, shop.app.database):  # noqa: ASYNC110  a condition of another process
            await asyncio.sleep(0.05)


async def test_a_database_with_workers_in_it_is_cloned_and_they_are_back_afterwards(shop: Place) -> None:
    await at_work(shop)

    file = await database(shop).clone("backout_0a1b2c3d_restore", "Backout: a test's")

    assert await value(database(shop).beside(file.name).admin, SHA) == await value(admin(shop), SHA)
    await at_work(shop)


async def test_the_door_is_closed_to_its_workers_also_after_a_clone_and_they_come_back_when_it_opens(shop: Place) -> None:
    await at_work(shop)
    kept: dict[str, Any] = {}

    async def remember(**facts: Any) -> None:
        kept.update(facts)

    await shop.door.close("r1", {}, remember, ())
    assert await workers(shop.superuser, shop.app.database) == 0
    await database(shop).clone("backout_0a1b2c3d_restore", "Backout: a test's")
    await shop.door.prove("r1")
    assert await workers(shop.superuser, shop.app.database) == 0
    await shop.door.open("r1", kept)
    async with asyncio.timeout(120):
        while not await workers(shop.superuser, shop.app.database):  # noqa: ASYNC110  a condition of another process
            await asyncio.sleep(0.05)


async def test_a_restored_database_takes_the_place_with_workers_in_the_old_one(shop: Place, home: Path) -> None:
    taking, file, work = await dumped(shop, home)
    live, before = database(shop), await value(admin(shop), SHA)
    made = await live.beside_for_restore("backout_0a1b2c3d_incoming", "Backout: a test's")
    await taking.restore(file, live.beside(made.name).admin, 150000, work)
    await execute(shop.app, "DELETE FROM metrics WHERE device = 1")
    await at_work(shop)

    await live.swap(made, f"{shop.app.database}_old", "Backout: a test's", "r1", "backout/r1/swap/1")

    assert await value(admin(shop), SHA) == before
    assert (await live.snapshot(count=True)).hypertables["public.metrics"].broken == ()
    await at_work(shop)
    await execute(shop.app, "INSERT INTO metrics VALUES (now(), 1, 1)")
