"""Archives tables of a database once, proves it, and says what that took. A process of its own; told on standard input."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from bot.backups.archives import StoredArchives
from bot.databases.archive import archive, prove_archive
from bot.evidence import Loss
from bot.memory import one_arena
from bot.place import Connect
from bot.stores.directory import DirectoryStore


async def _silence(_: str) -> None: ...


async def archived(said: dict[str, Any]) -> dict[str, float]:
    """`said`: connect, store, tables. Seconds, and bytes where the name says so."""
    connect, store = Connect(**said["connect"]), DirectoryStore(Path(said["store"]))
    await store.ready()
    archives = StoredArchives(store)
    began = time.perf_counter()
    async with archives.create("measured.archive") as sink:
        parts, left_out = await archive(connect, [Loss(kind="table", name=f"public.{table}") for table in said["tables"]], sink, _silence)
    file = await archives.kept("measured.archive")
    written = time.perf_counter()
    if left_out or len(parts) != len(said["tables"]):
        raise RuntimeError(f"not archived: {left_out}")
    async with archives.open(file) as source:
        await prove_archive(connect, parts, source, _silence)
    return {
        "seconds": written - began, "proof": time.perf_counter() - written, "peak bytes": peak(),
        "copied bytes": sum(part.bytes for part in parts), "stored bytes": file.size,
    }  # fmt: skip


def peak() -> int:
    """Of this program alone: what getrusage says includes the moment before it became this program."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


if __name__ == "__main__":
    one_arena()  # as `backout serve` does
    print(json.dumps(asyncio.run(archived(json.loads(sys.stdin.readline())))))
