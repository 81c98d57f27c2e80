"""A restore point and the way back to it: a clone that takes the database's place by a rename; and by hand, `psql < dump.sql`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.frame import Bench, Pair, Sample
from benchmarks.ground import Ground, shell
from bot.databases.clone import clone, how_to_go_back


def benches() -> list[Bench]:
    return [Bench("clone", "clone and rename of a large shop, as restore point and back", "psql < dump.sql", {"seconds": 0.1}, _opened, size=2**30)]


@asynccontextmanager
async def _opened(ground: Ground, size: int) -> AsyncIterator[Pair]:
    source = await ground.shop(size)
    dump = ground.root / "shop.sql"
    await shell('pg_dump > "$1"', ground.owner(source), str(dump))

    async def ours() -> Sample:
        async with ground.copy(source) as name:
            began = time.perf_counter()
            file = await clone(ground.superuser(name), ground.server, name, f"backout_{secrets.token_hex(4)}_restore", "measured")
            cloned = time.perf_counter() - began
            back = 0.0
            for command in how_to_go_back(ground.server, name, file):
                back += 0.0 if command.startswith("#") else await shell(f"{command} > /dev/null", ground.server)
            return {"seconds": cloned + back, "clone": cloned, "back by rename": back}

    async def theirs() -> Sample:
        async with ground.copy(source) as name:
            ground.drop(name)
            ground.create(name)
            return {"seconds": await shell('psql -X -q -o /dev/null -v ON_ERROR_STOP=1 < "$1"', ground.owner(name), str(dump))}

    yield Pair(ours, theirs)
    dump.unlink()
