"""A live server that archives its WAL: a shop and a neighbour on it, a base backup, writes, and a bad migration at a known moment."""

# ruff: noqa: ASYNC240  makes small local folders

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot.backups.recovering import Recovering
from bot.backups.wal_folder import WalFolder
from bot.clock import SystemClock
from bot.databases.connecting import connected
from bot.embedded import ACCOUNT, EmbeddedPostgres, binaries
from bot.place import Connect
from bot.process import run
from bot.settings import inherited
from bot.throwaway import Throwaways
from tests.contract.servers import execute, session

SHOP = """
CREATE TABLE alembic_version (version_num text); INSERT INTO alembic_version VALUES ('0003');
CREATE TABLE orders (id int PRIMARY KEY, name text, score int); INSERT INTO orders SELECT i, 'order ' || i, i % 7 FROM generate_series(1, 1000) i;
"""
BAD = "ALTER TABLE orders DROP COLUMN score; DELETE FROM orders WHERE id > 10; UPDATE alembic_version SET version_num = '0004'"
ROWS = "SELECT md5(string_agg(o::text, ',' ORDER BY o::text)) FROM orders o"


@dataclass
class Working:
    """What a step hands over: only the run's name and the sentences are used."""

    run: str = "r1"
    said: list[str] = field(default_factory=list)

    async def progress(self, text: str) -> None:
        self.said.append(text)


@dataclass
class Live:
    """`base` holds base backups, `wal` what was archived; `moments` are instants of the story."""

    major: int
    root: Path
    server: Connect
    programs: Path
    postgres: EmbeddedPostgres | None = None
    moments: dict[str, dt.datetime] = field(default_factory=dict)
    rows: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        return self.root / "base"

    @property
    def wal(self) -> Path:
        return self.root / "wal"

    def on(self, database: str) -> Connect:
        return self.server.model_copy(update={"database": database})

    async def value(self, database: str, query: str) -> Any:
        async with session(self.on(database)) as asking:
            return await asking.fetchval(query)

    async def now(self, name: str) -> dt.datetime:
        """An instant with no transaction near it; what came before it is not after it."""
        self.moments[name] = await self.value("shop", "SELECT clock_timestamp() + '0.05 s'")
        await self.value("shop", "SELECT pg_sleep(0.1)")
        return self.moments[name]

    async def archived(self) -> None:
        """Everything until now lies in the archive, and a transaction after it."""
        await execute(self.on("postgres"), "SELECT pg_logical_emit_message(true, 'backout', 'later')")
        name = await self.value("postgres", "SELECT pg_walfile_name(pg_switch_wal())")
        async with asyncio.timeout(60):
            while await self.value("postgres", f"SELECT coalesce(last_archived_wal, '') < '{name}' FROM pg_stat_archiver"):  # noqa: ASYNC110  the archiver makes it true
                await asyncio.sleep(0.05)

    async def back_up(self, name: str, *more: str) -> None:
        argv = [str(self.programs / "pg_basebackup"), "-D", str(self.base / name), "-c", "fast", "-X", "stream", *more]
        argv += ["-h", self.server.host, "-p", str(self.server.port), "-U", self.server.user]
        done = await run(argv, env={**inherited(), "PGPASSWORD": self.server.password}, timeout=dt.timedelta(seconds=60))
        assert done.code == 0, done.output

    async def fail_over(self) -> None:
        """It goes on as a promoted standby would: on another timeline."""
        assert self.postgres is not None
        await self.postgres.stop()
        data = self.postgres.directory / "data"
        with (data / "postgresql.conf").open("a") as file:
            file.write(f"restore_command = 'cp {self.wal}/%f %p'\n")
        (data / "recovery.signal").touch()
        if os.geteuid() == 0:
            shutil.chown(data / "recovery.signal", ACCOUNT, ACCOUNT)
        self.server = await self.postgres.start()
        async with asyncio.timeout(60):
            while await self.value("postgres", "SELECT pg_is_in_recovery()"):  # noqa: ASYNC110  the server makes it true
                await asyncio.sleep(0.05)

    def recovering(self, home: Path, *, base: Path | None = None, wal: Path | None = None, database: str = "shop") -> Recovering:
        clusters = Throwaways(home)
        settings = WalFolder.Settings(base=base or self.base, wal=wal or self.wal)
        return Recovering(WalFolder(settings, self.root, clusters.programs), self.on(database), clusters, connected, SystemClock(), home)


@asynccontextmanager
async def archiving(major: int, **more: str) -> AsyncIterator[Live]:
    root = Path(tempfile.mkdtemp(prefix=f"backout-wal-{major}-"))
    root.chmod(0o711)
    for name in ("base", "wal"):
        (root / name).mkdir()
    (root / "wal").chmod(0o777)  # the server's user writes there
    programs = binaries(major) if major in {16, 18} else Path(f"/usr/lib/postgresql/{major}/bin")
    archive = {"archive_mode": "on", "wal_level": "logical", "archive_command": f"test ! -f {root}/wal/%f && cp %p {root}/wal/%f"}
    own = None if major in {16, 18} else programs
    postgres = EmbeddedPostgres(root, name="live", major=major, durable=False, programs=own, settings={**archive, **more})
    try:
        yield Live(major, root, await postgres.start(), programs, postgres)
    finally:
        await postgres.stop()
        shutil.rmtree(root)


@contextmanager
def told(major: int) -> Iterator[Live]:
    """With the whole story, for tests that only look at it."""
    with asyncio.Runner() as runner:
        archive = archiving(major)
        live = runner.run(archive.__aenter__())
        try:
            runner.run(story(live))
            yield live
        finally:
            runner.run(archive.__aexit__(None, None, None))


async def story(live: Live) -> None:
    """base backup, writes, `good`, the bad migration, `bad`, and more writes."""
    await execute(live.on("postgres"), "CREATE DATABASE shop", "CREATE DATABASE neighbour")
    await execute(live.on("shop"), SHOP)
    await execute(live.on("neighbour"), "CREATE TABLE t (id int)", "INSERT INTO t VALUES (1)")
    await live.now("early")
    await live.back_up("first")
    await execute(live.on("shop"), "INSERT INTO orders SELECT i, 'later ' || i, 1 FROM generate_series(1001, 3000) i")
    live.rows["good"] = await live.value("shop", ROWS)
    await live.now("good")
    await execute(live.on("shop"), BAD)
    await execute(live.on("neighbour"), "INSERT INTO t VALUES (2)")
    await live.now("bad")
    await live.archived()
    await live.archived()  # one segment more, with nothing of interest


def seen(folder: Path) -> dict[str, str]:
    """Every file below, with its sha256."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}
