"""The archive of what a downgrade destroys (hashed, compressed, on the disk for good) against a plain COPY to a file; and the memory it takes."""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.frame import Bench, Pair, Sample
from benchmarks.ground import TABLES, Ground, shell
from bot.process import start
from bot.settings import inherited

_SMALL = 10 * 2**20
_COPY = 'psql -X -q -v ON_ERROR_STOP=1 -f "$1" > "$2"'


def benches() -> list[Bench]:
    small = f"the same of {_SMALL // 2**20} MB"
    return [
        Bench("archive", "the archive of all tables of a large shop", "COPY ... TO STDOUT > file by psql", {"seconds": 1.15}, _opened, size=2**30),
        Bench("archive-memory", "peak memory of archiving, and proving, a large shop", small, {"peak bytes": 1.1}, _memory, size=2**30),
    ]


@asynccontextmanager
async def _opened(ground: Ground, size: int) -> AsyncIterator[Pair]:
    source, script, copied = await ground.shop(size), ground.root / "copy.sql", ground.root / "copied"
    script.write_text("".join(f"COPY public.{table} TO STDOUT;\n" for table in TABLES))

    async def ours() -> Sample:
        return await _archived(ground, source)

    async def theirs() -> Sample:
        seconds = await shell(_COPY, ground.superuser(source), str(script), str(copied))
        copied.unlink()
        return {"seconds": seconds}

    yield Pair(ours, theirs)


@asynccontextmanager
async def _memory(ground: Ground, size: int) -> AsyncIterator[Pair]:
    large, small = await ground.shop(size), await ground.shop(_SMALL)

    async def ours() -> Sample:
        return await _archived(ground, large)

    async def theirs() -> Sample:
        return await _archived(ground, small)

    yield Pair(ours, theirs)


async def _archived(ground: Ground, database: str) -> Sample:
    """In a process of its own, so that its memory can be told."""
    store = ground.root / f"archives-{secrets.token_hex(4)}"
    said = {"connect": ground.superuser(database).model_dump(), "store": str(store), "tables": TABLES}
    output = b""
    async with start([sys.executable, "-m", "benchmarks.archiver"], env=inherited()) as process:
        await process.send(json.dumps(said).encode() + b"\n")
        async for data in process.output():
            output += data
        if await process.wait():
            raise RuntimeError(output.decode(errors="replace")[-2000:])
    for file in store.iterdir():
        file.unlink()
    store.rmdir()
    found: dict[str, Any] = json.loads(output)
    return {name: float(value) for name, value in found.items()}
