"""A rehearsal, from the command to the card that asks; and by hand: a dump, restored beside it, downgraded there, nothing compared."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.backout import asked, deployed, rehearsed, steps, until_asked
from benchmarks.frame import Bench, Pair, Sample
from benchmarks.ground import Ground, alembic, shell
from benchmarks.project import made

_TRIED: dict[str, Any] = {"rehearsal": {"server": "throwaway", "within": "1h"}, "verify": []}


def benches() -> list[Bench]:
    hand = "pg_dump > file, createdb, psql < file and alembic downgrade by hand"

    def one(name: str, says: str, limit: float | None, *, fills: bool) -> Bench:
        return Bench(name, says, hand, {"seconds": limit}, lambda ground, size: _opened(ground, size, fills=fills), size=2**30)

    return [
        one("rehearsal", "the rehearsal of a large shop", 0.8, fills=False),
        one("rehearsal-refilled", "the rehearsal of a large shop where going up again writes every row of two tables", None, fills=True),
    ]


@asynccontextmanager
async def _opened(ground: Ground, size: int, *, fills: bool) -> AsyncIterator[Pair]:
    source = await ground.shop(size)
    with made(ground.root, fills=fills) as project:
        yield _pair(ground, source, project)


def _pair(ground: Ground, source: str, project: Path) -> Pair:
    async def ours() -> Sample:
        async with ground.copy(source) as name, deployed(ground, name, project=project, **_TRIED) as bot:
            await asked(bot)
            return {"seconds": until_asked(bot), **steps(bot), **rehearsed(bot)}

    async def theirs() -> Sample:
        async with ground.copy(source) as name:
            own, dump, beside = ground.owner(name), ground.root / f"{name}.sql", f"{name}_beside"
            found = {"pg_dump": await shell('pg_dump > "$1"', own, str(dump))}
            found["createdb"] = await shell('createdb -O shop "$1"', ground.superuser(name), beside)
            there = ground.owner(beside)
            found["psql"] = await shell('psql -X -q -o /dev/null -v ON_ERROR_STOP=1 < "$1"', there, str(dump))
            found["alembic downgrade"] = await alembic(there, project, "downgrade", "0004")
            dump.unlink()
            return {"seconds": sum(found.values()), **found}

    return Pair(ours, theirs)
