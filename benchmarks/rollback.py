"""A whole rollback without rehearsal: from the command to the end, less the time that people take; and by hand, as runbooks have it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.backout import approved, asked, deployed, from_approval, steps, until_asked
from benchmarks.frame import Bench, Pair, Sample
from benchmarks.ground import TABLES, Ground, alembic, shell
from benchmarks.project import INDEX, made
from playground import shop

_NONE: dict[str, Any] = {"rehearsal": {"server": "none"}}
_COUNTS = "; ".join(f"select count(*) from {table}" for table in TABLES)  # noqa: S608  our own names


def benches() -> list[Bench]:
    hand = "pg_dump, alembic history, downgrade, current, and counts by hand"
    return [
        Bench("rollback-sample", "a rollback of the sample shop, without rehearsal", hand, {"seconds": 1.3}, _sample),
        Bench("rollback-large", "a rollback of a large shop, without rehearsal", hand, {"seconds": 1.0}, _large, size=2**30),
        Bench("rollback-large-lossless", "the same, where the undone migration had added an index", hand, {"seconds": 1.0}, _lossless, size=2**30),
    ]


@asynccontextmanager
async def _sample(ground: Ground, _: int) -> AsyncIterator[Pair]:
    yield _pair(ground, await ground.shop(None), shop.DIRECTORY, platform={"kind": "none"})


@asynccontextmanager
async def _large(ground: Ground, size: int) -> AsyncIterator[Pair]:
    with made(ground.root) as project:
        yield _pair(ground, await ground.shop(size), project, platform={"kind": "database"}, verify=[])


@asynccontextmanager
async def _lossless(ground: Ground, size: int) -> AsyncIterator[Pair]:
    with made(ground.root, lossless=True) as project:
        yield _pair(ground, await ground.shop(size), project, migrated=INDEX, platform={"kind": "database"}, verify=[])


def _pair(ground: Ground, source: str, project: Path, *, migrated: str = "", **target: Any) -> Pair:
    @asynccontextmanager
    async def copied() -> AsyncIterator[str]:
        async with ground.copy(source) as name:
            if migrated:
                ground.execute(migrated, on=ground.owner(name))
                ground.execute("CHECKPOINT")
            yield name

    async def ours() -> Sample:
        async with copied() as name, deployed(ground, name, project=project, **_NONE, **target) as bot:
            await approved(bot, await asked(bot))
            before, after = until_asked(bot), from_approval(bot)
            return {"seconds": before + after, "until the card asks": before, "from the approval": after, **steps(bot)}

    async def theirs() -> Sample:
        async with copied() as name:
            own, dump = ground.owner(name), ground.root / f"{name}.sql"
            found = {"pg_dump": await shell('pg_dump > "$1"', own, str(dump))}
            found["alembic history"] = await alembic(own, project, "history")
            found["alembic downgrade"] = await alembic(own, project, "downgrade", "0004")
            found["alembic current"] = await alembic(own, project, "current")
            found["counts"] = await shell('psql -X -v ON_ERROR_STOP=1 -c "$1"', own, _COUNTS)
            dump.unlink()
            return {"seconds": sum(found.values()), **found}

    return Pair(ours, theirs)
