"""A PostgreSQL with TimescaleDB and pgvector, made of the distribution's packages once for a machine; a server of it for each module of tests."""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import subprocess  # noqa: TID251  tests run the script as a shell would
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from bot.databases.connecting import quoted
from bot.embedded import EmbeddedPostgres
from bot.place import Connect
from tests.contract.servers import session

SCRIPT = Path(__file__).parent / "extensions"
MAJOR = 15
#: enough workers for every database of a module
SETTINGS = {
    "shared_preload_libraries": "timescaledb", "timescaledb.telemetry_level": "off", "max_worker_processes": "32",
    "timescaledb.max_background_workers": "24",
}  # fmt: skip


@functools.cache
def made() -> tuple[Path | None, str]:
    """The folder of its programs, or why there is none."""
    done = subprocess.run([str(SCRIPT)], check=False, capture_output=True, text=True, timeout=1500)
    if done.returncode == 0:
        return Path(done.stdout.strip()), ""
    return None, done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"it ended with {done.returncode}"


def programs() -> Path:
    """Skips, with the reason, where it can't be had."""
    found, why = made()
    if found is None:
        pytest.skip(why if why.startswith("NOT RUN") else f"NOT RUN: {why}")
    return found


@contextmanager
def running(settings: Mapping[str, str] | None = None) -> Iterator[Connect]:
    """On the loopback, on a free port, never as root: its superuser. Throwaway servers that Backout starts meanwhile are of the same programs."""
    folder = programs()
    home = Path(tempfile.mkdtemp(prefix="backout-timescale-"))
    home.chmod(0o711)
    postgres = EmbeddedPostgres(home, name="target", major=MAJOR, durable=False, programs=folder, settings={**SETTINGS, **(settings or {})})
    path = os.environ["PATH"]  # noqa: TID251  as a shell would
    os.environ["PATH"] = f"{folder}:{path}"  # noqa: TID251  as above
    try:
        yield asyncio.run(postgres.start())
    finally:
        os.environ["PATH"] = path  # noqa: TID251  as above
        asyncio.run(postgres.stop())
        shutil.rmtree(home)


async def copied(server: Connect, source: str, name: str) -> None:
    """CREATE DATABASE ... TEMPLATE; the loader's worker in the template may be in the way, and is gone a moment later."""
    async with session(server) as open_:
        for _ in range(5):
            with suppress(asyncpg.ObjectInUseError):
                await open_.execute(f"CREATE DATABASE {quoted(name)} TEMPLATE {quoted(source)}")
                return
    raise AssertionError(f"{source} could not be copied")
