"""Every store keeps the same promises: whole or not there, never overwritten, streamed, and its trouble is told in sentences."""

# ruff: noqa: PT012, ASYNC240  when it fails matters, and so each block says what was done before; small local files

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from bot.backups.archives import StoredArchives
from bot.backups.dump import DumpBackup
from bot.backups.spool import Spool
from bot.embedded import binaries
from bot.errors import Refusal, StepFailed
from bot.keeping import Store
from bot.place import Connect
from bot.stores import s3
from bot.stores.directory import DirectoryStore
from tests.conftest import MakeDatabase
from tests.contract.buckets import Bucket, moto, refuse_after
from tests.contract.servers import execute, session
from tests.contract.test_backup import attempt_on
from tests.proxy import Proxy

PART = 16 << 20


@pytest.fixture(scope="module")
def buckets() -> Iterator[Callable[[], Bucket]]:
    with moto() as make:
        yield make


@pytest.fixture
def bucket(buckets: Callable[[], Bucket]) -> Bucket:
    return buckets()


@pytest.fixture(params=["directory", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return DirectoryStore(tmp_path / "backups") if request.param == "directory" else request.getfixturevalue("bucket").store()


async def put(store: Store, name: str, *blocks: bytes) -> str:
    async with store.write(name, await store.stat(name)) as out:
        for block in blocks:
            await out.write(block)
    assert out.size == sum(map(len, blocks))
    return out.sha256


async def got(store: Store, name: str, start: int = 0, length: int | None = None) -> bytes:
    return b"".join([block async for block in store.read(name, start, length)])


async def names(store: Store) -> list[str]:
    return sorted([one.name async for one in store.list()])


@pytest.mark.parametrize("size", [0, 5, PART, 2 * PART + 17])
async def test_what_is_written_comes_back_byte_for_byte_with_its_checksum(store: Store, size: int) -> None:
    await store.ready()
    data = os.urandom(size)
    sha256 = await put(store, "a.dump", data[: size // 3], b"", data[size // 3 :])
    assert sha256 == hashlib.sha256(data).hexdigest() == await store.checksum("a.dump")
    assert await got(store, "a.dump") == data
    assert await got(store, "a.dump", size // 2, 100) == data[size // 2 : size // 2 + 100]
    there = await store.stat("a.dump")
    assert there is not None
    assert (there.name, there.size) == ("a.dump", size)
    assert await names(store) == ["a.dump"]


@pytest.mark.parametrize("size", [5, 2 * PART])
async def test_while_it_is_written_and_when_that_fails_nothing_is_there(store: Store, size: int) -> None:
    await store.ready()

    async def fail() -> None:
        async with store.write("a.dump") as out:
            await out.write(b"x" * size)
            assert await names(store) == []
            raise StepFailed("on purpose")

    with pytest.raises(StepFailed, match="on purpose"):
        await fail()
    assert await names(store) == []
    assert await store.stat("a.dump") is None


async def test_a_cancelled_write_leaves_nothing(store: Store) -> None:
    await store.ready()
    begun = asyncio.Event()

    async def write() -> None:
        async with store.write("a.dump") as out:
            await out.write(b"x" * (2 * PART + 1))
            begun.set()
            await asyncio.Event().wait()

    writing = asyncio.create_task(write())
    async with asyncio.timeout(60):
        await begun.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await names(store) == []


@pytest.mark.parametrize("size", [5, PART + 1])
async def test_nothing_is_overwritten_but_what_was_named(store: Store, size: int) -> None:
    await store.ready()
    await put(store, "a.dump", b"first")
    before = await store.stat("a.dump")
    with pytest.raises(StepFailed, match="there already"):
        async with store.write("a.dump") as out:
            await out.write(b"x" * size)
    assert await got(store, "a.dump") == b"first"
    await put(store, "a.dump", b"y" * size)  # which names it
    with pytest.raises(StepFailed, match="there already"):
        async with store.write("a.dump", before) as out:
            await out.write(b"z" * size)
    assert await got(store, "a.dump") == b"y" * size


@pytest.mark.parametrize("size", [5, PART + 1])
async def test_of_two_who_write_the_same_name_one_is_told_so(store: Store, size: int) -> None:
    await store.ready()
    with pytest.raises(StepFailed, match=r"Nothing was overwritten|there already"):
        async with store.write("a.dump") as late:
            await late.write(b"l" * size)
            if isinstance(store, DirectoryStore):
                Path(store.where("a.dump")).write_bytes(b"early")
            else:
                await put(store, "a.dump", b"early")
    assert await got(store, "a.dump") == b"early"


@pytest.mark.parametrize("name", ["../shop.dump", "a/b", ".hidden", "", "a\nb", "a\0b", "shop.dump.partial", "x" * 300, "-rf"])
async def test_a_name_that_is_no_plain_file_name_is_not_written(store: Store, name: str) -> None:
    with pytest.raises(Refusal):
        async with store.write(name):
            pytest.fail("it was begun")
    with pytest.raises(Refusal):
        await store.remove(name)


@pytest.mark.parametrize("name", ["../shop.dump", "/etc/passwd", "a/../../b", "a/b/c", ".hidden", "", "a\nb"])
async def test_a_name_that_leads_out_of_the_store_is_not_read(store: Store, name: str) -> None:
    with pytest.raises(Refusal):
        await store.stat(name)
    with pytest.raises(Refusal):
        await got(store, name)


async def test_what_is_gone_is_said_and_may_be_removed_again(store: Store) -> None:
    await store.ready()
    await put(store, "a.dump", b"x")
    await store.remove("a.dump")
    await store.remove("a.dump")
    assert (await store.stat("a.dump"), await store.checksum("a.dump"), await names(store)) == (None, None, [])
    with pytest.raises(StepFailed, match=r"a\.dump"):
        await got(store, "a.dump")


async def test_memory_is_the_same_for_some_megabytes_and_for_many_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "_PART", part := 5 << 20)  # the smallest that S3 takes: several are under way at a time
    await store.ready()
    block = os.urandom(1 << 20)

    async def peak(megabytes: int) -> int:
        tracemalloc.start()
        try:
            async with store.write("a.dump", await store.stat("a.dump")) as out:
                for _ in range(megabytes):
                    await out.write(block)
            assert await store.checksum("a.dump") == out.sha256
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    await peak(5)
    assert await peak(100) < await peak(40) + part


# ------------------------------------------------------------------ a bucket


async def test_folders_of_others_are_listed_and_hidden_and_deep_ones_are_not(bucket: Bucket) -> None:
    store = bucket.store()
    for key in ("backout/shop/nightly/toc.dat", "backout/shop/.x", "backout/shop/a/b/c", "backout/other.dump", "backout/shop/a b.sql"):
        bucket.client.put_object(Bucket=bucket.name, Key=key, Body=b"x")
    assert await names(store) == ["a b.sql", "nightly/toc.dat"]


async def test_a_failed_upload_leaves_no_parts_that_are_paid_for(bucket: Bucket) -> None:
    store = bucket.store()
    with pytest.raises(StepFailed, match="on purpose"):
        async with store.write("a.dump") as out:
            await out.write(os.urandom(3 * PART))
            assert bucket.unfinished()
            raise StepFailed("on purpose")
    assert (bucket.unfinished(), bucket.keys()) == ([], [])


async def test_a_bucket_that_is_not_there_is_refused_beforehand(bucket: Bucket) -> None:
    with pytest.raises(Refusal, match=r"bucket .* is not there") as caught:
        await bucket.store(bucket="not-made").ready()
    assert caught.value.code == "store_unusable"


async def test_a_bucket_that_goes_half_way_is_said_and_nothing_is_left(bucket: Bucket) -> None:
    with pytest.raises(StepFailed, match="not there"):
        async with bucket.store().write("a.dump") as out:
            bucket.client.delete_bucket(Bucket=bucket.name)
            await out.write(os.urandom(3 * PART))


async def test_a_key_that_is_refused_is_said_without_being_shown(bucket: Bucket) -> None:
    store = bucket.store(access_key="AKIAEXAMPLE", secret_key="not-to-be-shown")
    refuse_after(bucket, 0)
    try:
        with pytest.raises(Refusal, match="refuses Backout's key") as caught:
            await store.ready()
    finally:
        refuse_after(bucket, float("inf"))
    assert "not-to-be-shown" not in f"{caught.value}{caught.value.next}{store!r}"
    assert "AKIAEXAMPLE" not in f"{caught.value}"


async def test_a_key_that_expires_half_way_is_said_and_nothing_is_listed(bucket: Bucket) -> None:
    store = bucket.store()
    try:
        with pytest.raises(StepFailed, match="refuses Backout's key"):
            async with store.write("a.dump") as out:
                await out.write(os.urandom(2 * PART))
                refuse_after(bucket, 0)
                await out.write(os.urandom(2 * PART))
    finally:
        refuse_after(bucket, float("inf"))
    assert bucket.keys() == []


@pytest.fixture
async def line(bucket: Bucket) -> AsyncIterator[Proxy]:
    port = int(bucket.endpoint.rpartition(":")[2])
    async with Proxy(Connect(host="127.0.0.1", port=port, user="", database="")) as proxy:
        yield proxy


async def test_a_connection_that_is_lost_half_way_is_said_and_nothing_is_listed(bucket: Bucket, line: Proxy) -> None:
    store = bucket.store(endpoint=f"http://127.0.0.1:{line.port}")
    with pytest.raises(StepFailed, match="can't be reached, or the connection was lost"):
        async with store.write("a.dump") as out:
            await out.write(os.urandom(PART))
            line.cut()
            await out.write(os.urandom(3 * PART))
    assert bucket.keys() == []
    line.mend()
    await put(store, "a.dump", data := os.urandom(2 * PART))
    with pytest.raises(StepFailed, match="can't be reached, or the connection was lost"):
        async for _ in store.read("a.dump"):
            line.cut()
    line.mend()
    assert await got(store, "a.dump") == data


async def test_a_file_that_changes_while_it_is_read_does_not_count(bucket: Bucket) -> None:
    store = bucket.store()
    await put(store, "a.dump", os.urandom(2 * PART))
    with pytest.raises(StepFailed, match="was changed while it was read"):
        async for _ in store.read("a.dump"):
            bucket.client.put_object(Bucket=bucket.name, Key="backout/shop/a.dump", Body=b"x" * 2 * PART)


async def test_an_endpoint_where_nobody_listens_is_refused(bucket: Bucket, line: Proxy) -> None:
    line.cut()
    with pytest.raises(Refusal, match="can't be reached"):
        await bucket.store(endpoint=f"http://127.0.0.1:{line.port}").ready()


# ------------------------------------------------------------------ dumps and archives in a bucket


async def test_a_dump_goes_to_a_bucket_and_comes_back_and_nothing_stays_on_this_machine(
    bucket: Bucket, make_database: MakeDatabase, server: Connect, tmp_path: Path
) -> None:
    other, shop = make_database("other"), make_database("shop")  # dropped in this order: what is restored is owned by the other role
    await execute(shop, "CREATE TABLE orders AS SELECT n, repeat(md5(n::text), 8) AS v FROM generate_series(1, 100000) n")
    backup = DumpBackup(bucket.store(), shop, DumpBackup.Settings(), embedded=binaries, spool=tmp_path / "spool")
    work = await attempt_on(shop)
    await backup.ready(180004)
    first = await backup.take("shop-r1.dump", work)
    file = await backup.take("shop-r1.dump", work)  # as after a crash
    assert (file.path, file.objects >= 2) == (f"s3://{bucket.name}/backout/shop/shop-r1.dump", True)
    assert file.size == first.size > PART
    assert bucket.keys() == ["backout/shop/shop-r1.dump"]
    assert await backup.usable(file)
    ignored = await backup.restore(file, server.model_copy(update={"database": other.database}), 180004, work)
    async with session(other.model_copy(update={"user": server.user, "password": server.password})) as restored:
        assert await restored.fetchval("SELECT count(*) FROM orders") == 100000
    assert ignored == ()
    assert list((tmp_path / "spool").iterdir()) == []
    whole = bucket.client.get_object(Bucket=bucket.name, Key="backout/shop/shop-r1.dump")["Body"].read()
    bucket.client.put_object(Bucket=bucket.name, Key="backout/shop/shop-r1.dump", Body=whole[:-1] + b"x")
    with pytest.raises(StepFailed, match="is not the file that was made"):
        await backup.restore(file, other, 180004, work)
    await backup.remove(file)
    with pytest.raises(StepFailed, match="is gone"):
        await backup.restore(file, other, 180004, work)


async def test_a_dump_that_fails_leaves_nothing_in_the_bucket(bucket: Bucket, make_database: MakeDatabase, server: Connect, tmp_path: Path) -> None:
    shop = make_database("shop")
    await execute(server.model_copy(update={"database": shop.database}), "CREATE TABLE hidden ()")
    backup = DumpBackup(bucket.store(), shop, DumpBackup.Settings(), embedded=binaries, spool=tmp_path / "spool")
    with pytest.raises(StepFailed, match="may not read table hidden"):
        await backup.take("shop-r1.dump", await attempt_on(shop))
    assert (bucket.keys(), bucket.unfinished()) == ([], [])


async def test_an_archive_goes_to_a_bucket_and_comes_back(bucket: Bucket, tmp_path: Path) -> None:
    archives = StoredArchives(bucket.store(), tmp_path / "spool")
    noise = os.urandom(PART + 5)
    async with archives.create("a.archive") as sink, sink.member("one") as write:
        await write(noise)
    file = await archives.kept("a.archive")
    async with archives.open(file) as source:
        assert b"".join([block async for block in source.member("one")]) == noise
    assert list((tmp_path / "spool").iterdir()) == []
    bucket.client.put_object(Bucket=bucket.name, Key="backout/shop/a.archive", Body=b"x" * file.size)
    with pytest.raises(StepFailed, match="was changed"):
        async with archives.open(file):
            pytest.fail("it was opened")
    await archives.remove(file)
    with pytest.raises(StepFailed, match="is gone"):
        async with archives.open(file):
            pytest.fail("it was opened")


async def test_what_a_dead_process_left_in_the_spool_is_removed_and_what_a_living_one_has_stays(bucket: Bucket, tmp_path: Path) -> None:
    spool = Spool(bucket.store(), tmp_path)
    (tmp_path / "backout-spool-dead").mkdir()
    (tmp_path / "backout-spool-dead" / "copy").write_bytes(b"personal data")
    async with spool.room(1) as mine, spool.room(1) as other:
        assert sorted(tmp_path.iterdir()) == sorted([mine, other])
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StepFailed, match="Make room"):
        async with spool.room(1 << 60):
            pytest.fail("there is no such room")
