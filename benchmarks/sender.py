"""Sends a file into a bucket and reads it back, hashed, and says what that took. A process of its own; told on standard input."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.archiver import peak
from bot.memory import one_arena
from bot.stores.s3 import S3Settings, S3Store

_BLOCK = 1 << 20


async def _sent(said: dict[str, Any]) -> dict[str, float]:
    """`said`: settings, file. Seconds, and bytes where the name says so."""
    store, file = S3Store(S3Settings(**said["settings"])), Path(said["file"])
    began = time.perf_counter()
    source = await asyncio.to_thread(file.open, "rb")
    with source:
        async with store.write("measured") as writing:
            while block := await asyncio.to_thread(source.read, _BLOCK):
                await writing.write(block)
    sent = time.perf_counter()
    again = hashlib.sha256()
    async for block in store.read("measured"):
        again.update(block)
    ended = time.perf_counter()
    if again.hexdigest() != writing.sha256:
        raise RuntimeError("the bucket gives other bytes than it got")
    await store.remove("measured")
    return {"seconds": ended - began, "sent": sent - began, "read": ended - sent, "peak bytes": peak()}


if __name__ == "__main__":
    one_arena()  # as `backout serve` does
    print(json.dumps(asyncio.run(_sent(json.loads(sys.stdin.readline())))))
