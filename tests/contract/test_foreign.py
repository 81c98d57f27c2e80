"""Backups that others made: known by their content, used whatever their format and store, and refused with the reason when they can't be."""

# ruff: noqa: ASYNC240  small local files

from __future__ import annotations

import gzip
import io
import shutil
import subprocess  # noqa: TID251  others make their dumps as a shell would
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bot.backups.dump import DumpBackup
from bot.backups.foreign import recognised
from bot.backups.plain import Scan
from bot.embedded import binaries
from bot.errors import StepFailed
from bot.evidence import Found
from bot.keeping import Store
from bot.place import Connect
from bot.stores.directory import DirectoryStore
from tests.conftest import MakeDatabase
from tests.contract.buckets import Bucket, moto
from tests.contract.servers import execute, session
from tests.contract.test_backup import attempt_on

FORMATS = ["plain", "plain.gz", "custom", "custom.gz", "tar", "directory", "directory tar", "directory tar.gz"]


@pytest.fixture(scope="module")
def buckets() -> Iterator[Callable[[], Bucket]]:
    with moto() as make:
        yield make


@pytest.fixture
def bucket(buckets: Callable[[], Bucket]) -> Bucket:
    return buckets()


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return request.getfixturevalue("bucket").store()
    (tmp_path / "backups").mkdir()
    return DirectoryStore(tmp_path / "backups")


@pytest.fixture
def shop(make_database: MakeDatabase) -> Connect:
    return make_database("shop")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def backup_of(connect: Connect, store: Store, spool: Path) -> DumpBackup:
    return DumpBackup(store, connect, DumpBackup.Settings(), embedded=binaries, spool=spool)


async def filled(shop: Connect) -> None:
    await execute(
        shop,
        "CREATE TABLE alembic_version (version_num text)", "INSERT INTO alembic_version VALUES ('0007')",
        "CREATE TABLE orders AS SELECT n AS id, repeat('\\\\. ', n % 3) || n AS note FROM generate_series(1, 3000) n",
        "ALTER TABLE orders ADD PRIMARY KEY (id)",
        "CREATE TABLE nothing (n int)",
    )  # fmt: skip


def dumped(shop: Connect, kind: str, *more: str) -> bytes | dict[str, bytes]:
    """As others would: a file's bytes, or a folder's files."""
    place = Path("/dev/shm" if Path("/dev/shm").is_dir() else "/tmp") / f"others-{shop.database}"
    shutil.rmtree(place, ignore_errors=True)
    form = {"plain": "plain", "custom": "custom", "tar": "tar"}.get(kind.removesuffix(".gz"), "directory")
    argv = [str(binaries() / "pg_dump"), "--format", form, "--file", str(place), *more, shop.url()]
    try:
        subprocess.run(argv, check=True, capture_output=True)
        if form != "directory":
            data = place.read_bytes()
        elif kind == "directory":
            return {f"nightly/{path.name}": path.read_bytes() for path in place.iterdir()}
        else:
            with io.BytesIO() as out:
                with tarfile.open(fileobj=out, mode="w") as tar:
                    tar.add(place, "dump")
                data = out.getvalue()
    finally:
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    return gzip.compress(data) if kind.endswith(".gz") else data


def put(store: Store, files: bytes | dict[str, bytes], name: str = "theirs") -> str:
    """Into the store past Backout; its name there."""
    for each, data in ({name: files} if isinstance(files, bytes) else files).items():
        if isinstance(store, DirectoryStore):
            path = Path(store.where(each))
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        else:
            at = Bucket(store._settings.endpoint, store._settings.bucket)  # type: ignore[attr-defined]  # the S3 store's
            at.client.put_object(Bucket=at.name, Key=f"backout/shop/{each}", Body=data)
    return name if isinstance(files, bytes) else "nightly"


async def only(backup: DumpBackup) -> Found:
    (found,) = await backup.found(())
    return found


@pytest.mark.parametrize("kind", FORMATS)
async def test_what_others_made_is_recognised_inspected_and_restored(
    shop: Connect, make_database: MakeDatabase, store: Store, spool: Path, kind: str
) -> None:
    await filled(shop)
    name = put(store, dumped(shop, kind, "--no-owner"))
    backup = backup_of(shop, store, spool)
    listed = await only(backup)
    assert (listed.file.name, listed.file.format, listed.refused) == (name, kind, "")
    found = await backup.inspect(name)
    assert (found.postgres.split(".")[0], found.revision, found.refused) == ("18", "0007", "")
    assert {"public.orders", "public.nothing"} <= set(found.tables)
    assert found.file.size > 0
    assert found.database == ("" if kind.startswith("plain") else shop.database)
    other = make_database("other")
    ignored = await backup.restore(found.file, other, 180004, await attempt_on(other))
    assert all("must be able to SET ROLE" in line for line in ignored), "an archive's owners can't be set, and that is said"
    assert bool(ignored) is not kind.startswith("plain")
    async with session(other) as restored, session(shop) as original:
        told = "SELECT md5(string_agg(id || note, ',' ORDER BY id)) FROM orders"
        assert await restored.fetchval(told) == await original.fetchval(told)
    assert not spool.exists() or list(spool.iterdir()) == []


@pytest.mark.parametrize("kind", FORMATS)
async def test_what_is_torn_is_refused_and_says_so(shop: Connect, store: Store, spool: Path, kind: str) -> None:
    await filled(shop)
    files = dumped(shop, kind)
    if isinstance(files, bytes):
        files = files[: len(files) * 2 // 3]
    else:
        largest = max((one for one in files if not one.endswith("toc.dat")), key=lambda one: len(files[one]))
        files[largest] = files[largest][: len(files[largest]) // 2]
    name = put(store, files, "theirs.dump")
    found = await backup_of(shop, store, spool).inspect(name)
    assert found.refused
    assert found.file.sha256 == ""


HOSTILE = {
    "shell": (b"\\! touch /tmp/pwned\n", "command for psql"),
    "behind a statement": (b"select 1 \\! touch /tmp/pwned\n", "backslash commands are restricted"),
    "elsewhere": (b"\\connect postgres\n", "into another database"),
    "unlocked": (b"\\unrestrict guess\n", "command for psql"),
    "a role": (b"CREATE ROLE intruder SUPERUSER;\n", "permission denied"),
    "a program": (b"COPY orders FROM PROGRAM 'touch /tmp/pwned';\n", "permission denied"),
    "a file": (b"COPY orders FROM '/etc/passwd';\n", "permission denied"),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_file_does_nothing_and_leaves_nothing(
    shop: Connect, make_database: MakeDatabase, tmp_path: Path, spool: Path, what: str
) -> None:
    await filled(shop)
    line, why = HOSTILE[what]
    plain = dumped(shop, "plain", "--no-owner")
    assert isinstance(plain, bytes)
    store = DirectoryStore(tmp_path)
    put(store, plain.replace(b"ALTER TABLE", line + b"ALTER TABLE", 1), "theirs.sql")
    backup, other = backup_of(shop, store, spool), make_database("other")
    found = await backup.inspect("theirs.sql")
    with pytest.raises(StepFailed, match=why):
        await backup.restore(found.file, other, 180004, await attempt_on(other))
    async with session(other) as untouched:
        assert await untouched.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        assert not await untouched.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'intruder')")
    assert not Path("/tmp/pwned").exists()


@pytest.mark.parametrize("kind", ["plain", "custom"])
async def test_a_role_that_could_do_harm_elsewhere_restores_nothing_of_others(
    shop: Connect, server: Connect, make_database: MakeDatabase, tmp_path: Path, spool: Path, kind: str
) -> None:
    await filled(shop)
    store = DirectoryStore(tmp_path)
    put(store, dumped(shop, kind))
    backup, other = backup_of(shop, store, spool), make_database("other")
    found = await backup.inspect("theirs")
    with pytest.raises(StepFailed, match="This one has SUPERUSER"):
        await backup.restore(found.file, server.model_copy(update={"database": other.database}), 180004, await attempt_on(other))
    await execute(server, f'GRANT pg_execute_server_program TO "{other.user}"')
    with pytest.raises(StepFailed, match="This one has pg_execute_server_program"):
        await backup.restore(found.file, other, 180004, await attempt_on(other))


async def test_what_it_needs_is_said_before_anything_is_touched(shop: Connect, make_database: MakeDatabase, tmp_path: Path, spool: Path) -> None:
    await filled(shop)
    plain = dumped(shop, "plain")
    assert isinstance(plain, bytes)
    store, other = DirectoryStore(tmp_path), make_database("other")
    backup, work = backup_of(shop, store, spool), await attempt_on(other)
    for change, why in (
        ((b"Dumped from database version 18", b"Dumped from database version 19"), "newer than this server"),
        ((b"SET row_security", b"CREATE EXTENSION IF NOT EXISTS no_such WITH SCHEMA public;\nSET row_security"), "needs extensions .* no_such"),
        ((f"OWNER TO {shop.user}".encode(), b"OWNER TO nobody_here"), "needs roles .* nobody_here"),
    ):
        assert change[0] in plain
        put(store, plain.replace(*change), "theirs.sql")
        found = await backup.inspect("theirs.sql")
        with pytest.raises(StepFailed, match=why):
            await backup.restore(found.file, other, 180004, work)
    put(store, plain, "theirs.sql")
    with pytest.raises(StepFailed, match="is not the file that was looked at"):
        await backup.restore(found.file, other, 180004, work)


@pytest.mark.parametrize("packed", [False, True])
async def test_a_bomb_is_not_unpacked(shop: Connect, tmp_path: Path, spool: Path, packed: bool) -> None:
    store = DirectoryStore(tmp_path)
    head = b"--\n-- PostgreSQL database dump\n--\n\n" if not packed else b"PGDMP\x01\x10\x00\x04\x08\x01"
    with gzip.open(tmp_path / "bomb.sql.gz", "wb", 9) as out:
        out.write(head)
        for _ in range(100):
            out.write(b" " * (1 << 20))
    found = await backup_of(shop, store, spool).inspect("bomb.sql.gz")
    assert "200 times its size" in found.refused


@pytest.mark.parametrize("member", ["../../pwned", "dump/restore.sh", "/etc/cron.d/x"])
async def test_a_tar_that_writes_elsewhere_is_refused(shop: Connect, tmp_path: Path, spool: Path, member: str) -> None:
    store = DirectoryStore(tmp_path / "backups")
    (tmp_path / "backups").mkdir()
    with tarfile.open(tmp_path / "backups" / "theirs.tar", "w") as tar:
        info = tarfile.TarInfo(member)
        info.size = 3
        tar.addfile(info, io.BytesIO(b"bad"))
    found = await backup_of(shop, store, spool).inspect("theirs.tar")
    assert "no directory dump has" in found.refused
    assert not (tmp_path / "pwned").exists()


async def test_other_files_are_not_taken_for_backups(shop: Connect, tmp_path: Path, spool: Path) -> None:
    await filled(shop)
    store = DirectoryStore(tmp_path)
    for name, data in {"notes.txt": b"-- hello", "empty": b"", "known.dump": b"PGDMP", "broken.dump": b"not one", "x.sql.partial": b"-"}.items():
        (tmp_path / name).write_bytes(data)
    found = await backup_of(shop, store, spool).found({"known.dump"})
    assert [(one.file.name, one.refused) for one in found] == [("broken.dump", "It is no dump of Postgres.")]
    with pytest.raises(StepFailed, match="is no backup"):
        await backup_of(shop, store, spool).inspect("notes.txt")


def test_a_dump_is_recognised_by_its_first_bytes_whatever_it_is_called() -> None:
    assert recognised(b"--\n-- PostgreSQL database dump\n--\n") == "plain"
    assert recognised(gzip.compress(b"--\n-- PostgreSQL database dump\n--\n" * 100)) == "plain.gz"
    assert recognised(b"PGDMP\x01\x10\x00\x04\x08\x01rest") == "custom"
    assert recognised(gzip.compress(b"a picture")) == recognised(b"") == recognised(b"\x1f\x8bxx") == ""


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_a_plain_dump_is_read_the_same_in_blocks_of_any_size(size: int) -> None:
    text = (
        b"--\n-- PostgreSQL database dump\n--\n\n\\restrict k1\n\n-- Dumped from database version 18.4\n\nCREATE TABLE public.t (\n    v text\n);\n"
        b"COPY public.t (v) FROM stdin;\n\\\\! no command\n\\N\n\\.\n\nCOPY public.alembic_version (version_num) FROM stdin;\n0042\n\\.\n\n"
        b"COPY public.empty (v) FROM stdin;\n\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict k1\n"
    )
    scan = Scan()
    given = b"".join(scan.feed(text[at : at + size]) for at in range(0, len(text), size)) + scan.end()
    assert given.rstrip() == text.replace(b"\\restrict k1\n", b"").replace(b"\\unrestrict k1\n", b"").rstrip()
    assert (scan.postgres, scan.revision, scan.tables) == ("18.4", "0042", ["public.t"])
