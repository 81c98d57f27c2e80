"""A backup that comes back, against the runbooks' `psql < backup.sql`; and a bucket, against the client of its own vendor."""

from __future__ import annotations

import json
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from boto3.s3.transfer import TransferConfig

from benchmarks.frame import Bench, Pair, Sample
from benchmarks.ground import Ground, shell
from bot.backups.dump import DumpBackup
from bot.embedded import binaries
from bot.keeping import Work
from bot.process import start
from bot.settings import inherited
from bot.stores.directory import DirectoryStore
from tests.contract.buckets import Bucket, moto

_SMALL = 10 * 2**20
_SENT = 2**28  # bytes: what a bucket in memory can hold beside the database


def benches() -> list[Bench]:
    plain, client = "psql < backup.sql", "boto3's upload_file and download_file"
    return [
        Bench("restore", "a backup of a large shop, restored beside it", plain, {"seconds": 0.7}, _opened, size=2**30),
        Bench("s3", f"{_SENT // 2**20} MB into a bucket and back, hashed", client, {"seconds": None}, _bucket),
        Bench("s3-memory", f"peak memory of {_SENT // 2**20} MB into a bucket and back", "the same of 10 MB", {"peak bytes": 1.1}, _memory),
    ]


class _Job:
    """keeping.Work, as far as a backup uses it."""

    application = "backout/measured"

    def __init__(self, version: int) -> None:
        self.plan = SimpleNamespace(identity=SimpleNamespace(version=version))

    async def progress(self, text: str) -> None: ...


@asynccontextmanager
async def _opened(ground: Ground, size: int) -> AsyncIterator[Pair]:
    source = await ground.shop(size)
    store, dump = DirectoryStore(ground.root / "backups"), ground.root / "shop.sql"
    await shell('pg_dump > "$1"', ground.owner(source), str(dump))
    version = ground.version()
    backup = DumpBackup(store, ground.superuser(source), DumpBackup.Settings(), embedded=binaries, spool=ground.root / "spool")
    work = cast("Work", _Job(version))
    file = await backup.take("measured.dump", work)

    @asynccontextmanager
    async def empty() -> AsyncIterator[str]:
        name = f"empty_{secrets.token_hex(4)}"
        ground.create(name)
        try:
            yield name
        finally:
            ground.drop(name)

    async def ours() -> Sample:
        async with empty() as name:
            began = time.perf_counter()
            if left_out := await backup.restore(file, ground.superuser(name), version, work):
                raise RuntimeError(f"left out: {left_out}")
            return {"seconds": time.perf_counter() - began}

    async def theirs() -> Sample:
        async with empty() as name:
            return {"seconds": await shell('psql -X -q -o /dev/null -v ON_ERROR_STOP=1 < "$1"', ground.owner(name), str(dump))}

    yield Pair(ours, theirs)
    dump.unlink()
    await backup.remove(file)


@asynccontextmanager
async def _bucket(ground: Ground, _: int) -> AsyncIterator[Pair]:
    with moto() as make:
        bucket, file, back = make(), _noise(ground.root, _SENT), ground.root / "back"

        async def ours() -> Sample:
            return {"seconds": (await _sent(bucket, file))["seconds"]}

        async def theirs() -> Sample:
            """As its documentation has it, with as many parts at once as we have."""
            client = bucket.client
            few = TransferConfig(multipart_chunksize=16 << 20, max_concurrency=2)
            began = time.perf_counter()
            client.upload_file(str(file), bucket.name, "measured", Config=few)
            client.download_file(bucket.name, "measured", str(back), Config=few)
            taken = time.perf_counter() - began
            client.delete_object(Bucket=bucket.name, Key="measured")
            back.unlink()
            return {"seconds": taken}

        yield Pair(ours, theirs)
        file.unlink()


@asynccontextmanager
async def _memory(ground: Ground, _: int) -> AsyncIterator[Pair]:
    with moto() as make:
        bucket, large, small = make(), _noise(ground.root, _SENT), _noise(ground.root, _SMALL)

        async def ours() -> Sample:
            return await _sent(bucket, large)

        async def theirs() -> Sample:
            return await _sent(bucket, small)

        yield Pair(ours, theirs)
        large.unlink()
        small.unlink()


async def _sent(bucket: Bucket, file: Path) -> Sample:
    """In a process of its own, so that its memory can be told."""
    output = b""
    said = {"settings": bucket.settings, "file": str(file)}
    async with start([sys.executable, "-m", "benchmarks.sender"], env=inherited()) as process:
        await process.send(json.dumps(said).encode() + b"\n")
        async for data in process.output():
            output += data
        if await process.wait():
            raise RuntimeError(output.decode(errors="replace")[-2000:])
    return {name: float(value) for name, value in json.loads(output).items()}


def _noise(folder: Path, size: int) -> Path:
    made = folder / f"noise-{size}"
    with made.open("wb") as file:
        for _ in range(size // 2**20):
            file.write(secrets.token_bytes(2**20))
    return made
