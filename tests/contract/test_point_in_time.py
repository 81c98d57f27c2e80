"""A server as it was at a moment, beside the live one, from real archives; the live server, its neighbours and its archive stay as they are."""

# ruff: noqa: ASYNC240  looks at small local files

from __future__ import annotations

import asyncio
import datetime as dt
import gzip
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
import zstandard

import bot
from bot.backups.dump import DumpBackup
from bot.embedded import binaries
from bot.guardian import postmaster
from bot.stores.directory import DirectoryStore
from bot.throwaway import Throwaways
from tests.contract.archived import ROWS, Live, Working, archiving, seen, story, told
from tests.contract.servers import execute, refused, session
from tests.contract.test_embedded import until

#: 15 where Debian's is installed; the wheel brings the others
MAJORS = [18, 16, *([15] if Path("/usr/lib/postgresql/15/bin/postgres").exists() else [])]

KILLED = """
import asyncio, sys
from pathlib import Path
from tests.contract.archived import Live, Working
from bot.place import Connect
import datetime as dt
class Telling(Working):
    async def progress(self, text):
        print(text, flush=True)
        if text.startswith(sys.argv[4]):
            await asyncio.sleep(600)
async def main():
    live = Live(int(sys.argv[1]), Path(sys.argv[2]), Connect.model_validate_json(sys.stdin.readline()), Path("/"))
    async with live.recovering(Path(sys.argv[3])).open(dt.datetime.fromisoformat(sys.argv[5]), Telling()):
        print("open", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture(scope="module", params=MAJORS)
def each(request: pytest.FixtureRequest) -> Iterator[Live]:
    with told(request.param) as live:
        yield live


@pytest.fixture(scope="module")
def live() -> Iterator[Live]:
    with told(16) as found:
        yield found


@pytest.fixture
def home() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="backout-pitr-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def copies() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="backout-archive-"))
    yield place
    shutil.rmtree(place)


# ------------------------------------------------------------------ what comes back


async def test_the_rows_and_the_revision_are_as_they_were_before_the_migration_and_nothing_else_is_touched(each: Live, home: Path) -> None:
    work, archive, bases = Working(), seen(each.wal), seen(each.base)

    async with each.recovering(home).open(each.moments["good"], work) as recovered:
        async with session(recovered.admin) as there:
            assert await there.fetchval("SELECT version_num FROM alembic_version") == "0003"
            assert await there.fetchval(ROWS) == each.rows["good"]
            assert await there.fetchval("SELECT pg_is_in_recovery()") is False
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await there.execute("DELETE FROM orders")
        assert recovered.version // 10000 == each.major
        assert recovered.timeline > await each.value("postgres", "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int")
        assert recovered.last is not None
        assert recovered.last <= each.moments["good"]
        assert (recovered.admin.host, recovered.base) == ("127.0.0.1", "first")

    assert await each.value("shop", "SELECT count(*) FROM orders") == 10
    assert await each.value("shop", "SELECT version_num FROM alembic_version") == "0004"
    assert await each.value("neighbour", "SELECT count(*) FROM t") == 2
    assert seen(each.wal) == archive, "no history of another timeline, nothing at all"
    assert seen(each.base) == bases
    assert list(home.iterdir()) == [], "gone"


async def test_a_moment_after_the_migration_has_what_it_did(each: Live, home: Path) -> None:
    async with each.recovering(home).open(each.moments["bad"], Working()) as recovered, session(recovered.admin) as there:
        assert await there.fetchval("SELECT version_num FROM alembic_version") == "0004"
        assert await there.fetchval("SELECT count(*) FROM orders") == 10


async def test_it_says_how_far_it_is(live: Live, home: Path) -> None:
    work = Working()

    async with live.recovering(home).open(live.moments["good"], work) as recovered:
        assert recovered.last is not None
        assert recovered.seconds > 0

    said = " | ".join(work.said)
    assert "base backup first: checking every file" in said
    assert "WAL: 0 of" in said
    assert work.said[-1].startswith(f"replay: it stands at {recovered.last.replace(tzinfo=None).isoformat(sep=' ')}")


async def test_what_was_recovered_becomes_an_ordinary_backup(live: Live, home: Path, copies: Path) -> None:
    """The usual dump, of another server: `restore` takes it like any other."""
    usual = DumpBackup(DirectoryStore(copies), live.on("shop"), DumpBackup.Settings(), embedded=binaries)
    work = Dumping(live.major)

    async with live.recovering(home).open(live.moments["good"], Working()) as recovered:
        file = await usual.of(recovered.admin).take("shop-r1-pitr", work)  # type: ignore[arg-type]  # has what a dump uses

    await execute(live.on("postgres"), "DROP DATABASE IF EXISTS again", "CREATE DATABASE again")
    assert await usual.usable(file)
    assert await usual.restore(file, live.on("again"), live.major * 10000, work) == ()  # type: ignore[arg-type]
    assert await live.value("again", ROWS) == live.rows["good"]


class Dumping(Working):
    application = "backout/r1/back_up/1"

    def __init__(self, major: int) -> None:
        super().__init__()
        self.plan = self.identity = self
        self.version = major * 10000


# ------------------------------------------------------------------ the same archive in other clothes


async def test_a_base_backup_in_tars_and_compressed_wal_do_as_well(live: Live, home: Path, copies: Path) -> None:
    (copies / "wal").mkdir()
    for number, path in enumerate(sorted(live.wal.iterdir())):
        if number % 2:
            (copies / "wal" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
        else:
            (copies / "wal" / f"{path.name}.zst").write_bytes(zstandard.compress(path.read_bytes()))
    await packed(live.base / "first", copies / "base" / "first")

    point = live.recovering(home, base=copies / "base", wal=copies / "wal")
    async with point.open(live.moments["good"], Working()) as recovered, session(recovered.admin) as there:
        assert await there.fetchval(ROWS) == live.rows["good"]


async def packed(base: Path, to: Path) -> None:
    """As `pg_basebackup --format=tar --gzip` leaves it."""
    import tarfile

    to.mkdir(parents=True)
    shutil.copy(base / "backup_manifest", to)
    with tarfile.open(to / "base.tar.gz", "w:gz", compresslevel=1) as tar:
        for path in sorted(base.rglob("*")):
            name = path.relative_to(base)
            if name.parts[0] != "pg_wal" and name.name != "backup_manifest":
                tar.add(path, str(name), recursive=False)


# ------------------------------------------------------------------ which moments


async def test_the_window_is_what_can_really_be_recovered(live: Live, home: Path) -> None:
    window = await live.recovering(home).window()

    assert live.moments["early"] < window.since < live.moments["good"] < live.moments["bad"] < window.until
    assert window.holes == ()


async def test_moments_outside_of_the_window_are_refused_with_the_window(live: Live, home: Path) -> None:
    point = live.recovering(home)
    window = await point.window()
    day = dt.timedelta(days=1)

    for moment, code in (
        (window.since - day, "pitr_outside_window"),
        (live.moments["early"], "pitr_outside_window"),
        (window.until, "pitr_outside_window"),
        (dt.datetime(2200, 1, 1, tzinfo=dt.UTC), "pitr_in_the_future"),
    ):
        refusal = await refused(code, point.open(moment, Working()).__aenter__())
        assert f"The archive covers {window.since:%Y-%m-%d %H:%M:%S}" in refusal.message
    assert list(home.iterdir()) == [], "refused before anything was begun"


async def test_a_segment_that_is_missing_is_a_hole_until_the_next_base_backup(home: Path, copies: Path) -> None:
    async with archiving(16) as live:
        await story(live)
        await execute(live.on("shop"), "CREATE TABLE filling AS SELECT i FROM generate_series(1, 1000) i")
        inside = await live.now("inside")
        await live.archived()
        await live.back_up("second")
        await execute(live.on("shop"), "INSERT INTO filling VALUES (0)")
        after = await live.now("after")
        await live.archived()
        whole = await live.recovering(home).window()
        segments = sorted(path for path in live.wal.iterdir() if len(path.name) == 24)
        needed = (live.base / "second" / "backup_label").read_text().split("file ")[1][:24]
        lost = next(path for path in reversed(segments) if path.name < needed)
        (copies / "kept").mkdir()
        shutil.move(lost, copies / "kept")
        point = live.recovering(home)

        window = await point.window()

        assert whole.holes == ()
        (hole,) = window.holes
        assert hole[0] <= inside < hole[1]
        refusal = await refused("pitr_hole", point.open(inside, Working()).__aenter__())
        assert "but not from" in refusal.message
        for moment, rows in ((live.moments["good"], 3000), (after, 10)):
            async with point.open(moment, Working()) as recovered, session(recovered.admin) as there:
                assert await there.fetchval("SELECT count(*) FROM orders") == rows


async def test_a_database_that_was_not_there_yet_is_refused(live: Live, home: Path) -> None:
    await execute(live.on("postgres"), "DROP DATABASE IF EXISTS younger", "CREATE DATABASE younger")

    await refused("database_missing", live.recovering(home, database="younger").open(live.moments["good"], Working()).__aenter__())

    assert list(home.iterdir()) == []


async def test_moments_before_and_after_a_failover_are_reached_from_the_base_backup_before_it(home: Path) -> None:
    async with archiving(16) as live:
        await story(live)
        await live.fail_over()
        await execute(live.on("shop"), "INSERT INTO orders VALUES (9999, 'after the failover')")
        after = await live.now("after")
        await live.archived()
        archive = seen(live.wal)
        point = live.recovering(home)

        assert "00000002.history" in archive
        assert (await point.window()).holes == ()
        for moment, rows in ((live.moments["good"], 3000), (live.moments["bad"], 10), (after, 11)):
            async with point.open(moment, Working()) as recovered, session(recovered.admin) as there:
                assert await there.fetchval("SELECT count(*) FROM orders") == rows
                assert recovered.timeline == 3
        assert seen(live.wal) == archive


# ------------------------------------------------------------------ bad archives


async def test_a_base_backup_with_one_changed_byte_is_refused(each: Live, home: Path, copies: Path) -> None:
    shutil.copytree(each.base / "first", copies / "first")
    broken = copies / "first" / "base" / "1" / "1259"
    data = bytearray(broken.read_bytes())
    data[5000] ^= 1
    broken.write_bytes(data)

    refusal = await refused("pitr_backup_damaged", each.recovering(home, base=copies).open(each.moments["good"], Working()).__aenter__())

    assert "1259" in refusal.message
    assert list(home.iterdir()) == []


async def test_a_base_backup_without_its_manifest_does_not_count_and_says_why(live: Live, home: Path, copies: Path) -> None:
    shutil.copytree(live.base / "first", copies / "first", ignore=shutil.ignore_patterns("backup_manifest"))

    refusal = await refused("pitr_nothing_archived", live.recovering(home, base=copies).window())

    assert "Base backup first: It has no backup_manifest" in refusal.message


async def test_a_manifest_that_was_cut_off_does_not_count(live: Live, home: Path, copies: Path) -> None:
    shutil.copytree(live.base / "first", copies / "first")
    manifest = copies / "first" / "backup_manifest"
    manifest.write_bytes(manifest.read_bytes().replace(b"1259", b"1258"))

    assert "torn or was changed" in (await refused("pitr_nothing_archived", live.recovering(home, base=copies).window())).message


async def test_a_link_in_a_base_backup_is_never_followed(live: Live, home: Path, copies: Path) -> None:
    shutil.copytree(live.base / "first", copies / "first")
    (copies / "first" / "global" / "leads_out").symlink_to("/etc")

    refusal = await refused("pitr_backup_damaged", live.recovering(home, base=copies).open(live.moments["good"], Working()).__aenter__())

    assert "leads_out" in refusal.message


async def test_another_servers_archive_is_refused(live: Live, home: Path, copies: Path) -> None:
    shutil.copytree(live.wal, copies / "wal")
    newest = max(path for path in (copies / "wal").iterdir() if len(path.name) == 24)
    with newest.open("r+b") as file:  # where the system identifier stands
        file.seek(24)
        file.write(b"another!")

    assert "another server's" in (await refused("pitr_impossible", live.recovering(home, wal=copies / "wal").window())).message


async def test_a_folder_that_is_not_there_is_refused_by_name(live: Live, home: Path, copies: Path) -> None:
    assert str(copies / "no") in (await refused("pitr_impossible", live.recovering(home, wal=copies / "no").window())).message
    assert str(copies / "no") in (await refused("pitr_impossible", live.recovering(home, base=copies / "no").window())).message


async def test_a_newest_segment_that_is_cut_off_ends_the_window_before_it(live: Live, home: Path, copies: Path) -> None:
    shutil.copytree(live.wal, copies / "wal")
    newest = max(path for path in (copies / "wal").iterdir() if len(path.name) == 24)
    packed_one = newest.with_name(f"{newest.name}.gz")
    packed_one.write_bytes(gzip.compress(newest.read_bytes(), 1)[:5000])
    newest.unlink()

    window = await live.recovering(home, wal=copies / "wal").window()

    assert window.until < (await live.recovering(home).window()).until


# ------------------------------------------------------------------ cut off


async def test_subscriptions_and_what_loads_by_itself_do_nothing_there(home: Path) -> None:
    """databases.md F11: a promoted copy whose apply worker starts takes production's replication."""
    async with archiving(16, shared_preload_libraries="vector", session_preload_libraries="vector") as live:
        await execute(live.on("postgres"), "CREATE DATABASE shop", "CREATE DATABASE publisher")
        await execute(live.on("publisher"), "CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION p FOR TABLE t")
        await execute(live.on("publisher"), "SELECT pg_create_logical_replication_slot('sub', 'pgoutput')")
        where = f"host={live.server.host} port={live.server.port} user={live.server.user} password={live.server.password} dbname=publisher"
        await execute(live.on("shop"), "CREATE TABLE t (id int PRIMARY KEY)")
        await execute(live.on("shop"), f"CREATE SUBSCRIPTION sub CONNECTION '{where}' PUBLICATION p WITH (create_slot = false, slot_name = 'sub')")
        await live.back_up("first")
        await execute(live.on("publisher"), "INSERT INTO t VALUES (1)")
        moment = await live.now("good")
        await live.archived()

        async with live.recovering(home).open(moment, Working()) as recovered, session(recovered.admin) as there:
            assert await there.fetchval("SELECT subenabled FROM pg_subscription") is True, "it is in the catalog, for the dump"
            kinds = {row[0] for row in await there.fetch("SELECT backend_type FROM pg_stat_activity")}
            assert not kinds & {"logical replication launcher", "logical replication worker", "walreceiver", "archiver", "autovacuum launcher"}
            for name, value in {
                "archive_mode": "off",
                "shared_preload_libraries": "",
                "session_preload_libraries": "",
                "primary_conninfo": "",
            }.items():
                assert await there.fetchval(f"SHOW {name}") == value
            holder = await live.value("publisher", "SELECT application_name FROM pg_stat_replication")
            assert holder == "sub", "the live server's own worker has the slot"
        await execute(live.on("publisher"), "INSERT INTO t VALUES (2)")
        async with asyncio.timeout(60):
            while await live.value("shop", "SELECT count(*) FROM t") != 2:  # noqa: ASYNC110  the apply worker makes it true
                await asyncio.sleep(0.05)


async def test_roles_of_the_live_server_do_not_get_in(live: Live, home: Path) -> None:
    async with live.recovering(home).open(live.moments["good"], Working()) as recovered:
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(live.on("shop").model_copy(update={"port": recovered.admin.port}).url())
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(recovered.admin.model_copy(update={"password": "another"}).url())


async def test_a_tablespace_is_recovered_into_a_folder_of_its_own(home: Path, copies: Path) -> None:
    async with archiving(16) as live:
        place = live.root / "space"
        place.mkdir()
        if os.geteuid() == 0:
            shutil.chown(place, "backout", "backout")
        await execute(live.on("postgres"), f"CREATE TABLESPACE space LOCATION '{place}'", "CREATE DATABASE shop TABLESPACE space")
        await execute(live.on("shop"), "CREATE TABLE t AS SELECT i FROM generate_series(1, 1000) i")
        await live.back_up("first", f"--tablespace-mapping={place}={copies}/space")
        await live.back_up("tars", "--format=tar")
        await live.now("early")
        await execute(live.on("shop"), "INSERT INTO t VALUES (0)")
        moment = await live.now("good")
        await execute(live.on("shop"), "DROP TABLE t")
        await live.archived()
        await execute(live.on("postgres"), "CHECKPOINT")
        before = seen(place)

        for base in ("first", "tars"):
            async with live.recovering(home, base=live.base / base).open(moment, Working()) as recovered, session(recovered.admin) as there:
                assert await there.fetchval("SELECT count(*) FROM t") == 1001
                location = await there.fetchval("SELECT pg_tablespace_location(oid) FROM pg_tablespace WHERE spcname = 'space'")
                assert str(place) not in location
                assert str(copies) not in location
        assert {name: digest for name, digest in seen(place).items() if "pg_internal" not in name} == {
            name: digest for name, digest in before.items() if "pg_internal" not in name
        }


# ------------------------------------------------------------------ the end, whatever happens


async def test_an_error_in_the_middle_leaves_nothing(live: Live, home: Path) -> None:
    with pytest.raises(RuntimeError):
        async with live.recovering(home).open(live.moments["good"], Working()):
            raise RuntimeError
    assert list(home.iterdir()) == []


async def test_a_recovery_that_is_cancelled_leaves_nothing(live: Live, home: Path) -> None:
    work = Working()

    async def recover() -> None:
        async with live.recovering(home).open(live.moments["good"], work):
            await asyncio.sleep(600)

    task = asyncio.create_task(recover())
    await until(lambda: any(said.startswith("replay") for said in work.said))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert list(home.iterdir()) == []


@pytest.mark.parametrize("where", ["base backup first: checking", "WAL", "replay", "replay: it stands"])
async def test_a_process_that_is_killed_in_the_middle_leaves_no_server_and_its_files_are_cleared_away(live: Live, home: Path, where: str) -> None:
    argv = [sys.executable, "-c", KILLED, str(live.major), str(live.root), str(home), where, live.moments["good"].isoformat()]
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  a process that is killed
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, cwd=Path(bot.__file__).parents[1],
        env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json_of(live).encode() + b"\n")
    async with asyncio.timeout(120):
        while not (line := (await process.stdout.readline()).decode()).startswith(where):
            assert line, "it ended by itself"
    (left,) = home.iterdir()
    assert await Throwaways(home).clean("pitr-") == (), "somebody uses it"
    process.send_signal(signal.SIGKILL)
    await process.wait()

    await until(lambda: postmaster(left / "data") is None)
    await live.recovering(home).clean()

    assert list(home.iterdir()) == []


def json_of(live: Live) -> str:
    return live.server.model_dump_json()
