"""Copies of somebody else's files: to their last byte or not at all, never outside, never after their waiter is gone."""

from __future__ import annotations

import asyncio
import gzip
import io
import tarfile
import time
from pathlib import Path

import pytest
import zstandard

from bot.backups.unpacking import Going, Torn, copy_plain, in_thread, unpack


async def test_who_is_cancelled_waits_until_the_thread_writes_no_more() -> None:
    ended: list[bool] = []

    def work(going: Going) -> None:
        try:
            while True:
                going.on(1)
                time.sleep(0.01)
        finally:
            time.sleep(0.1)
            ended.append(True)

    said: list[int] = []

    async def say(done: int) -> None:
        said.append(done)

    task = asyncio.create_task(in_thread(work, say))
    async with asyncio.timeout(30):
        while not said:  # noqa: ASYNC110  the thread makes it true
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.02)
    task.cancel()  # an impatient one
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended == [True]


async def test_what_the_thread_raises_is_raised() -> None:
    def work(going: Going) -> None:
        raise Torn("it is torn")

    with pytest.raises(Torn, match="it is torn"):
        await in_thread(work)


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_compressed_file_that_ends_too_early_is_torn(tmp_path: Path, ending: str, pack: object) -> None:
    whole = pack(bytes(range(256)) * 1000)  # type: ignore[operator]
    (tmp_path / f"whole{ending}").write_bytes(whole)
    (tmp_path / f"cut{ending}").write_bytes(whole[:-6])

    assert copy_plain(tmp_path / f"whole{ending}", tmp_path / "out", Going()) == 256_000
    try:
        size = copy_plain(tmp_path / f"cut{ending}", tmp_path / "cut", Going())
    except Torn:
        size = 0
    assert size < 256_000, "who takes it compares the size too"


def tar_of(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.type, found.linkname, found.size = kind, link, 3 if kind == tarfile.REGTYPE else 0
    return found


@pytest.mark.parametrize(
    "bad",
    [
        member("../out"), member("/etc/out"), member("a/../../out"), member("link", tarfile.SYMTYPE, "/etc/passwd"),
        member("hard", tarfile.LNKTYPE, "PG_VERSION"), member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda each: each.name,
)  # fmt: skip
def test_a_tar_that_leads_out_of_its_place_is_refused(tmp_path: Path, bad: tarfile.TarInfo) -> None:
    (tmp_path / "to").mkdir()

    with pytest.raises(Torn):
        unpack(tar_of(tmp_path / "base.tar", member("PG_VERSION"), bad), tmp_path / "to", Going(), lambda _: False)

    assert sorted(path.name for path in tmp_path.rglob("*")) == ["PG_VERSION", "base.tar", "to"]


def test_a_tar_is_unpacked_without_what_is_skipped(tmp_path: Path) -> None:
    tar = tar_of(tmp_path / "base.tar", member("PG_VERSION"), member("base", tarfile.DIRTYPE), member("base/1"), member("pg_wal/0001"))
    (tmp_path / "to").mkdir()

    unpack(tar, tmp_path / "to", Going(), lambda path: path.parts[0] == "pg_wal")

    assert sorted(str(path.relative_to(tmp_path / "to")) for path in (tmp_path / "to").rglob("*")) == ["PG_VERSION", "base", "base/1"]
