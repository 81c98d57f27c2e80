"""The real pgBackRest, and Debian's PostgreSQL: a server recovered from a stanza, the live one and the repository left as they are."""

# ruff: noqa: ASYNC240  looks at small local files

from __future__ import annotations

import asyncio
import datetime as dt
import os
import pwd
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bot import embedded
from bot.backups.pgbackrest import PgBackRest
from bot.backups.recovering import Recovering
from bot.clock import SystemClock
from bot.databases.connecting import connected
from bot.embedded import EmbeddedPostgres
from bot.process import run
from bot.settings import inherited
from bot.throwaway import Throwaways, installed
from tests.contract.archived import BAD, ROWS, SHOP, Live, Working, seen
from tests.contract.servers import execute, refused, session

BACKREST = shutil.which("pgbackrest")
DEBIANS = {major: path for major, path in asyncio.run(installed()).items() if path.is_relative_to("/usr/lib/postgresql")}

pytestmark = pytest.mark.skipif(not BACKREST or not DEBIANS, reason="apt-get install pgbackrest postgresql")


class Stanza:
    """A live server that archives into an encrypted, compressed repository."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.root = live.root
        self.config = live.root / "pgbackrest.conf"

    def recovering(self, home: Path, stanza: str = "main") -> Recovering:
        clusters = Throwaways(home)
        source = PgBackRest(PgBackRest.Settings(stanza=stanza, config=self.config), self.root, clusters.programs)
        return Recovering(source, self.live.on("shop"), clusters, connected, SystemClock(), home)

    async def run(self, *argv: str) -> None:
        """As the server's user, who owns the data directory."""
        user = pwd.getpwnam(embedded.ACCOUNT) if os.geteuid() == 0 else None
        password = {"PGPASSWORD": self.live.server.password}
        done = await run(
            ["pgbackrest", f"--config={self.config}", "--stanza=main", *argv], env={**inherited(), **password}, timeout=dt.timedelta(seconds=120),
            directory=Path("/"), user=user.pw_uid if user else None, group=user.pw_gid if user else None,
        )  # fmt: skip
        assert done.code == 0, done.output


@asynccontextmanager
async def archiving() -> AsyncIterator[Stanza]:
    major, programs = next(iter(DEBIANS.items()))
    root = Path(tempfile.mkdtemp(prefix="backout-pgbackrest-"))
    root.chmod(0o711)
    for name in ("repo", "log", "lock", "spool"):
        (root / name).mkdir()
        (root / name).chmod(0o777)
    config = root / "pgbackrest.conf"
    archive = {"archive_mode": "on", "archive_command": f"pgbackrest --config={config} --stanza=main archive-push %p"}
    postgres = EmbeddedPostgres(root, name="live", major=major, durable=False, programs=programs, settings=archive)
    config.write_text(
        f"""[global]
repo1-path={root}/repo
repo1-retention-full=2
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=only-for-this-test
log-path={root}/log
lock-path={root}/lock
spool-path={root}/spool
compress-type=zst
start-fast=y
"""
    )
    try:
        server = await postgres.start()
        await execute(server, f"ALTER SYSTEM SET unix_socket_directories = '{postgres.directory}'")
        await postgres.stop()
        await open_socket(postgres.directory)
        server = await postgres.start()
        with config.open("a") as file:
            file.write(
                f"[main]\npg1-path={postgres.directory}/data\npg1-port={server.port}\npg1-socket-path={postgres.directory}\npg1-user={server.user}\n"
            )
        stanza = Stanza(Live(major, root, server, programs))
        await stanza.run("stanza-create")
        yield stanza
    finally:
        await postgres.stop()
        shutil.rmtree(root)


async def open_socket(directory: Path) -> None:
    """The server's user makes its socket there."""
    if os.geteuid() == 0:
        shutil.chown(directory, embedded.ACCOUNT, embedded.ACCOUNT)
        directory.chmod(0o711)


async def story(stanza: Stanza) -> None:
    live = stanza.live
    await execute(live.on("postgres"), "CREATE DATABASE shop", "CREATE DATABASE neighbour")
    await execute(live.on("shop"), SHOP)
    await live.now("early")
    await stanza.run("--type=full", "backup")
    await execute(live.on("shop"), "INSERT INTO orders SELECT i, 'later ' || i, 1 FROM generate_series(1001, 2000) i")
    await stanza.run("--type=incr", "backup")
    await execute(live.on("shop"), "INSERT INTO orders SELECT i, 'later ' || i, 1 FROM generate_series(2001, 3000) i")
    live.rows["good"] = await live.value("shop", ROWS)
    await live.value("shop", "SELECT pg_sleep(1.1)")  # pgBackRest knows when a backup ended to the second
    await live.now("good")
    await execute(live.on("shop"), BAD)
    await live.now("bad")
    await live.value("shop", "SELECT pg_sleep(1.1)")  # and when a segment came, to the second too
    await live.archived()
    await live.archived()


@pytest.fixture(scope="module")
def stanza() -> Iterator[Stanza]:
    with asyncio.Runner() as runner:
        archive = archiving()
        found = runner.run(archive.__aenter__())
        try:
            runner.run(story(found))
            yield found
        finally:
            runner.run(archive.__aexit__(None, None, None))


@pytest.fixture
def home() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="backout-pitr-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


def repository(stanza: Stanza) -> Sequence[tuple[str, str]]:
    return sorted(seen(stanza.root / "repo").items())


async def test_the_rows_are_as_they_were_before_the_migration_and_the_repository_is_only_read(stanza: Stanza, home: Path) -> None:
    live, work, before = stanza.live, Working(), repository(stanza)

    async with stanza.recovering(home).open(live.moments["good"], work) as recovered:
        async with session(recovered.admin) as there:
            assert await there.fetchval("SELECT version_num FROM alembic_version") == "0003"
            assert await there.fetchval(ROWS) == live.rows["good"]
            assert await there.fetchval("SHOW archive_mode") == "off"
        assert recovered.base.endswith("I"), "the incremental one is the newest before the moment"

    assert await live.value("shop", "SELECT count(*) FROM orders") == 10
    assert repository(stanza) == before
    assert any("restored" in said for said in work.said)
    assert any(said.startswith("replay: it stands at") for said in work.said)
    assert list(home.iterdir()) == []


async def test_moments_outside_of_the_stanza_are_refused(stanza: Stanza, home: Path) -> None:
    point, early = stanza.recovering(home), stanza.live.moments["early"]
    window = await point.window()

    assert early < window.since <= stanza.live.moments["good"] < window.until
    await refused("pitr_outside_window", point.open(early, Working()).__aenter__())
    await refused("pitr_in_the_future", point.open(dt.datetime(2200, 1, 1, tzinfo=dt.UTC), Working()).__aenter__())


async def test_a_stanza_that_is_not_there_is_refused_in_pgbackrests_words(stanza: Stanza, home: Path) -> None:
    refusal = await refused("pitr_impossible", stanza.recovering(home, "another").window())

    assert "another" in refusal.message


async def test_without_the_program_it_says_what_to_install(stanza: Stanza, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))

    refusal = await refused("pitr_impossible", stanza.recovering(home).window())

    assert "pgbackrest" in refusal.next
