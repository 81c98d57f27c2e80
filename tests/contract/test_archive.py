"""Archives: what is copied, what is said about what can't be, and that a stored file is what was written or is not read."""

from __future__ import annotations

import asyncio
import io
import os
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import zstandard

from bot.backups.archives import StoredArchives
from bot.databases.archive import archive, prove_archive
from bot.databases.connecting import Connection, connected
from bot.databases.pieces import PINNED, beside, recognised
from bot.errors import StepFailed
from bot.evidence import BackupFile
from bot.keeping import ArchiveSource
from bot.place import Connect
from bot.stores.directory import DirectoryStore
from tests.conftest import MakeDatabase
from tests.contract.archiving import Shelf, lost, quiet
from tests.contract.servers import session

# ------------------------------------------------------------------ the file


@pytest.fixture
def archives(tmp_path: Path) -> StoredArchives:
    return StoredArchives(DirectoryStore(tmp_path))


async def written(archives: StoredArchives, members: dict[str, list[bytes]]) -> BackupFile:
    async with archives.create("a") as sink:
        for name, blocks in members.items():
            async with sink.member(name) as write:
                for block in blocks:
                    await write(block)
    return await archives.kept("a")


def content(file: BackupFile) -> bytes:
    return Path(file.path).read_bytes()


def overwrite(file: BackupFile, data: bytes) -> None:
    Path(file.path).write_bytes(data)


async def joined(source: ArchiveSource, name: str) -> bytes:
    return b"".join([block async for block in source.member(name)])


async def test_members_come_back_byte_for_byte_in_any_order_and_twice(archives: StoredArchives) -> None:
    noise = os.urandom(3 << 20)
    file = await written(archives, {"part-1": [noise[:100], noise[100:]], "empty": [], "part-2": [b"", b"x\n" * 10]})

    async with archives.open(file) as source:
        assert await joined(source, "part-2") == b"x\n" * 10
        assert await joined(source, "part-1") == noise
        assert await joined(source, "empty") == b""
        assert await joined(source, "part-1") == noise
        with pytest.raises(StepFailed, match="part-3"):
            await joined(source, "part-3")
    assert os.stat(file.path).st_mode & 0o777 == 0o600


async def test_a_person_can_read_an_archive_with_zstd_alone(archives: StoredArchives) -> None:
    file = await written(archives, {"part-1": [b"1\tone\n"], "part-2": [b"2\ttwo\n"]})

    reader = zstandard.ZstdDecompressor().stream_reader(content(file), read_across_frames=True)

    assert reader.read() == b"1\tone\n2\ttwo\n"


@pytest.mark.parametrize("place", [0, 30, 0.5, -3])
async def test_a_flipped_bit_anywhere_is_found_before_anything_is_read(archives: StoredArchives, place: float) -> None:
    file = await written(archives, {"part-1": [os.urandom(1000)]})
    data = bytearray(content(file))
    data[int(len(data) * place) if isinstance(place, float) else place] ^= 1
    overwrite(file, data)

    with pytest.raises(StepFailed, match="was changed"):
        async with archives.open(file):
            pytest.fail("it was opened")


@pytest.mark.parametrize("left", [0, 1, 0.5, -1])
async def test_a_truncated_archive_is_called_so(archives: StoredArchives, left: float) -> None:
    file = await written(archives, {"part-1": [os.urandom(1000)]})
    os.truncate(file.path, int(file.size * left) if isinstance(left, float) else left % file.size)

    with pytest.raises(StepFailed, match="truncated"):
        async with archives.open(file):
            pytest.fail("it was opened")


async def test_an_archive_that_is_gone_or_is_something_else_is_called_so(archives: StoredArchives, tmp_path: Path) -> None:
    file = await written(archives, {"part-1": [b"x"]})
    other = tmp_path / "other"
    other.write_bytes(b"a dump, say" * 100)
    store = DirectoryStore(tmp_path)
    foreign = BackupFile(name="other", path=str(other), sha256=await store.checksum("other") or "", size=other.stat().st_size)
    await archives.remove(file)

    with pytest.raises(StepFailed, match="is gone"):
        async with archives.open(file):
            pytest.fail("it was opened")
    with pytest.raises(StepFailed, match="no archive of Backout's"):
        async with archives.open(foreign):
            pytest.fail("it was opened")
    with pytest.raises(StepFailed, match="was not finished here"):
        await archives.kept("a")


async def test_what_fails_while_it_is_written_leaves_nothing_and_the_one_before_stays(archives: StoredArchives, tmp_path: Path) -> None:
    file = await written(archives, {"part-1": [b"before"]})

    async def fail() -> None:
        async with archives.create("a") as sink, sink.member("part-1") as write:
            await write(b"after")
            raise StepFailed("on purpose")

    with pytest.raises(StepFailed, match="on purpose"):
        await fail()

    assert os.listdir(tmp_path) == ["a"]
    async with archives.open(file) as source:
        assert await joined(source, "part-1") == b"before"


async def written_twice(archives: StoredArchives) -> None:
    async with archives.create("a") as sink:
        for _ in range(2):
            async with sink.member("one"):
                pass


async def test_members_are_written_one_after_another_and_once(archives: StoredArchives) -> None:
    with pytest.raises(StepFailed, match="one after another"):
        async with archives.create("a") as sink, sink.member("one"), sink.member("two"):
            pytest.fail("two at a time")
    with pytest.raises(StepFailed, match="each once"):
        await written_twice(archives)


async def test_memory_stays_flat_when_what_is_stored_is_a_hundred_times_larger(archives: StoredArchives) -> None:
    async def peak(blocks: int) -> int:
        tracemalloc.start()
        try:
            async with archives.create("a") as sink, sink.member("part-1") as write:
                for _ in range(blocks):
                    await write(b"the same line again\n" * 20_000)
            async with archives.open(await archives.kept("a")) as source:
                async for _ in source.member("part-1"):
                    pass
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    small, large = await peak(10), await peak(1000)

    assert large < small + (4 << 20)


# ------------------------------------------------------------------ what is copied


@pytest.fixture
def shop(make_database: MakeDatabase, tmp_path: Path) -> Shelf:
    return Shelf(make_database("shop"), tmp_path / "store")


async def test_a_part_says_what_it_holds(shop: Shelf) -> None:
    await shop.run(
        "CREATE TABLE t (id serial PRIMARY KEY, a numeric(8,3), b text, c text, d text GENERATED ALWAYS AS (b) STORED)",
        "INSERT INTO t (a, b) VALUES (1.5, E'tab\\there'), (NULL, NULL)",
    )

    kept = await shop.keep([*lost("column", "public.t.c", "public.t.a", "public.t.d"), *lost("rows", "public.t"), *lost("policy", "public.t.own")])

    rows, columns = kept.parts
    assert (rows.what, rows.key, rows.columns) == ("rows", ("id",), ("id", "a", "b", "c"))
    assert (columns.what, columns.columns, columns.types) == ("column", ("id", "a", "c"), ("integer", "numeric(8,3)", "text"))
    assert (columns.rows, columns.table_facts["others"]) == (2, ["b"])
    async with shop.archives.open(kept.file) as source:
        assert await joined(source, rows.member) == b"1\t1.500\ttab\\there\t\\N\n2\t\\N\t\\N\t\\N\n"
    assert list(kept.left_out) == ["public.t.d"]
    assert "computes" in kept.left_out["public.t.d"]


async def test_settings_of_the_database_do_not_change_what_is_copied(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id int PRIMARY KEY, f float8, d timestamptz, i interval, b bytea)")
    await shop.run("INSERT INTO t VALUES (1, 0.30000000000000004, '2026-03-29 01:30:00+00', '1 day 2:03', '\\x00ff')")
    first = await shop.keep(lost("table", "public.t"))
    others = ("extra_float_digits = -3", "DateStyle = 'SQL, DMY'", "IntervalStyle = 'iso_8601'", "bytea_output = 'escape'", "TimeZone = 'Asia/Tokyo'")
    for setting in others:
        await shop.run(f"ALTER DATABASE {shop.connect.database} SET {setting}")

    again = await shop.keep(lost("table", "public.t"))

    assert again.parts[0].sha256 == first.parts[0].sha256


async def test_what_can_not_be_archived_is_named_with_the_reason(shop: Shelf, server: Connect) -> None:
    admin = Shelf(server.model_copy(update={"database": shop.connect.database}), shop.path)
    await shop.run(
        "CREATE TABLE loose (v text, id int)",
        "CREATE TABLE only_key (id int PRIMARY KEY)",
        "CREATE VIEW seen AS SELECT * FROM loose",
        "CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.two (id int PRIMARY KEY); CREATE TABLE b.two (id int PRIMARY KEY)",
    )
    await admin.run("CREATE TABLE theirs (id int PRIMARY KEY); GRANT SELECT ON theirs TO PUBLIC", "REVOKE ALL ON theirs FROM PUBLIC")

    kept = await shop.keep(
        [
            *lost("column", "public.loose.v", "public.only_key.id", "public.loose.nowhere"),
            *lost("table", "public.seen", "public.nowhere", "two", "public.theirs", "public.loose"),
            *lost("values", "a.two", "b.two"),
        ]
    )

    assert sorted(part.table for part in kept.parts) == ["a.two", "b.two", "public.loose"]
    assert set(kept.left_out) == {
        "public.only_key.id", "public.loose.nowhere", "public.seen", "public.nowhere", "two", "public.theirs",
    }  # fmt: skip
    assert "permission denied" in kept.left_out["public.theirs"]
    assert "view" in kept.left_out["public.seen"]
    by_column = await shop.keep(lost("column", "public.loose.v"))
    assert "found again" in by_column.left_out["public.loose.v"]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("smallint", "-3"), ("bigint", "9007199254740993"), ("real", "0.1"), ("double precision", "'-Infinity'"), ("date", "'0044-03-15 BC'"),
        ("timestamp(3)", "'2026-01-17 10:00:00.125'"), ("timestamp with time zone", "'infinity'"), ("time", "'10:00:00.5'"),
        ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"), ("text", "repeat('ü', 40)"), ("varchar(50)", "'\\x = #'"), ("char(9)", "'a '"),
        ("boolean", "true"), ("numeric", "1e40"), ("jsonb", "'{\"a\": [1]}'"), ("int[]", "'{1,2}'"), ("text", "''"), ("integer", "NULL"),
        ("other.text", "row(1)"), ("numeric(8,3)", "-12.500"), ("numeric(5,-2)", "123456"), ("oid", "7"), ("boolean", "NULL"),
        ("time(2)", "'10:00:00.25'"),
    ],
)  # fmt: skip
async def test_a_value_is_recognised_the_same_whether_its_type_is_known_or_not(shop: Shelf, kind: str, value: str) -> None:
    await shop.run(
        "CREATE SCHEMA IF NOT EXISTS other", "CREATE TYPE other.text AS (a int)", f"CREATE TABLE v (c {kind})", f"INSERT INTO v VALUES ({value})"
    )
    async with connected(shop.connect, PINNED) as reading:
        written = await reading.fetchval(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'public.v'::regclass AND attnum = 1"
        )
        archived, now = [await copied(reading, f"SELECT {one('c', written)} FROM public.v") for one in (beside, recognised)]
    assert archived == now


async def copied(session: Connection, query: str) -> bytes:
    found = io.BytesIO()
    await session.copy_from_query(query, output=found)
    return found.getvalue()


async def test_a_name_as_a_script_says_it_is_found_when_only_one_thing_has_it(shop: Shelf) -> None:
    await shop.run('CREATE SCHEMA s; CREATE TABLE s."Mixed" (id int PRIMARY KEY, v int)')

    kept = await shop.keep([*lost("table", "Mixed")])
    column = await shop.keep(lost("column", '"Mixed".v'))

    assert [part.table for part in (*kept.parts, *column.parts)] == ['s."Mixed"', 's."Mixed"']


async def test_rows_of_a_foreign_partition_are_never_copied(shop: Shelf, server: Connect) -> None:
    admin = Shelf(server.model_copy(update={"database": shop.connect.database}), shop.path)
    await admin.run("CREATE FOREIGN DATA WRAPPER nothing", "CREATE SERVER far FOREIGN DATA WRAPPER nothing")
    await admin.run(
        "CREATE TABLE t (id int) PARTITION BY RANGE (id)",
        "CREATE FOREIGN TABLE away PARTITION OF t FOR VALUES FROM (1) TO (9) SERVER far",
        "CREATE TABLE here PARTITION OF t FOR VALUES FROM (10) TO (19)",
        "INSERT INTO t VALUES (10)",
    )

    kept = await admin.keep(lost("table", "public.t", "public.away"))

    assert [(part.table, part.rows) for part in kept.parts] == [("public.here", 1)]
    assert "foreign table" in kept.left_out["public.t"]
    assert "foreign table" in kept.left_out["public.away"]


async def test_all_parts_are_of_one_instant(shop: Shelf) -> None:
    await shop.run("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)", "INSERT INTO a VALUES (1); INSERT INTO b VALUES (1)")

    async def write_more(text: str) -> None:
        await shop.run("INSERT INTO a SELECT max(id) + 1 FROM a; INSERT INTO b SELECT max(id) + 1 FROM b")

    async with shop.archives.create("x") as sink:
        parts, _ = await archive(shop.connect, lost("table", "public.a", "public.b"), sink, write_more)

    assert [part.rows for part in parts] == [1, 1]


async def test_nothing_is_written_to_the_database_that_is_archived(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id serial PRIMARY KEY, doc oid)", "INSERT INTO t (doc) VALUES (lo_from_bytea(0, 'x'))")
    async with session(shop.connect) as open_:
        before = await open_.fetchval("SELECT pg_current_xact_id()::text::int8")
        await shop.keep(lost("table", "public.t"))
        assert await open_.fetchval("SELECT pg_current_xact_id()::text::int8") == before + 1


# ------------------------------------------------------------------ proof


async def test_rows_that_lie_in_another_order_are_the_same_rows(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 500) i")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("CREATE TABLE u AS SELECT * FROM t ORDER BY v", "DROP TABLE t", "ALTER TABLE u RENAME TO t", "ALTER TABLE t ADD PRIMARY KEY (id)")

    async with shop.archives.open(kept.file) as source:
        await prove_archive(shop.connect, kept.parts, source, quiet)


@pytest.mark.parametrize("change", ["UPDATE t SET v = 'w' WHERE id = 7", "DELETE FROM t WHERE id = 7", "INSERT INTO t VALUES (0)", "DROP TABLE t"])
async def test_an_archive_that_is_not_what_the_database_holds_is_refused(shop: Shelf, change: str) -> None:
    await shop.run("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t SELECT i, 'v' || i FROM generate_series(1, 500) i")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run(change)

    async with shop.archives.open(kept.file) as source:
        with pytest.raises(StepFailed, match=r"public\.t"):
            await prove_archive(shop.connect, kept.parts, source, quiet)


class _Other:
    """A source that gives something else than was archived."""

    async def member(self, name: str) -> AsyncIterator[bytes]:
        yield b"1\n"


async def test_a_member_that_is_not_what_was_archived_is_neither_proven_nor_put_back(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (2)")
    kept = await shop.keep(lost("table", "public.t"))
    await shop.run("DELETE FROM t")

    with pytest.raises(StepFailed, match="not what was written"):
        await prove_archive(shop.connect, kept.parts, _Other(), quiet)
    other = await Shelf(shop.connect, shop.path / "b").keep(lost("table", "public.t"), name="other")
    wrong = kept.model_copy(update={"parts": tuple(part.model_copy(update={"sha256": "0" * 64}) for part in kept.parts)})
    with pytest.raises(StepFailed, match="not what was archived"):
        await shop.put(wrong)

    assert other.parts[0].rows == 0
    assert await shop.rows("SELECT * FROM t") == []


async def test_an_archive_that_is_stopped_in_the_middle_leaves_nothing(shop: Shelf) -> None:
    await shop.run("CREATE TABLE t AS SELECT i, repeat('x', 1000) FROM generate_series(1, 20000) i")
    begun = asyncio.Event()

    async def note(text: str) -> None:
        begun.set()

    async def work() -> None:
        async with shop.archives.create("x") as sink:
            await archive(shop.connect, lost("table", "public.t"), sink, note)
            await asyncio.sleep(3600)

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert os.listdir(shop.path) == []
