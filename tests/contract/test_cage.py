"""Whoever is superuser of a server that is thrown away is locked into its data: what code in a copy does there reaches nobody's machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess  # noqa: TID251  a launcher is started as it is in earnest
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from bot import cage
from bot.embedded import binaries
from bot.place import Connect
from bot.throwaway import Throwaways
from tests.contract.servers import execute, session

#: what a superuser may do in a server that is not caged, each said as who ran it
_REACHING = {
    "a program": "COPY (SELECT 1) TO PROGRAM 'touch {place}/here'",
    "the shell's own": "COPY (SELECT 1) TO PROGRAM 'echo here > {place}/here'",
    "a file": "COPY (SELECT 1) TO '{place}/here'",
    "a large object": "DO $$ DECLARE made oid := lo_from_bytea(0, 'here'); BEGIN PERFORM lo_export(made, '{place}/here'); END $$",
    "a file that is read": "SELECT pg_read_file('{place}/secret')",
    "a folder": "SELECT pg_ls_dir('{place}')",
    "the environment of who started it": "SELECT pg_read_binary_file('/proc/{pid}/environ')",
    "a signal": "COPY (SELECT 1) TO PROGRAM 'kill -CONT {pid}'",
}


@pytest.fixture
def place() -> Iterator[Path]:
    """Where everybody may read and write."""
    made = Path("/tmp") / f"backout-caged-{secrets.token_hex(4)}"
    made.mkdir()
    made.chmod(0o777)
    (made / "secret").write_text("of production")
    (made / "secret").chmod(0o644)
    yield made
    for each in made.iterdir():
        each.unlink()
    made.rmdir()


@pytest.fixture(params=[18, 16])
async def boss(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Connect]:
    home = tmp_path_factory.mktemp("caged")
    async with Throwaways(home).start("scratch-caged", request.param, superuser="boss", settings={}) as connect:
        yield connect


@pytest.mark.parametrize("how", _REACHING)
async def test_its_superuser_can_not_get_out(boss: Connect, place: Path, how: str) -> None:
    if (wanted := cage.SCOPES_SINCE if how == "a signal" else 1) > (there := cage.version()):
        pytest.skip(f"this kernel has version {there} of Landlock, and {wanted} is what holds it back")
    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.ExternalRoutineError, asyncpg.UndefinedFileError)):
        await execute(boss, _REACHING[how].format(place=place, pid=os.getpid()))
    assert os.listdir(place) == ["secret"]


async def test_everything_that_a_rehearsal_needs_goes_on(boss: Connect) -> None:
    await execute(
        boss, "CREATE TABLE t AS SELECT g FROM generate_series(1, 200000) g", "CREATE INDEX ON t (g)", "SET parallel_setup_cost = 0",
        "SELECT count(*) FROM t a JOIN t b USING (g)", "CREATE DATABASE one", "CREATE DATABASE two TEMPLATE one", "DROP DATABASE one", "CHECKPOINT",
        "VACUUM FULL t", "SET timezone TO 'Europe/Berlin'", "SELECT pg_relation_filepath('t')", "ANALYZE", "REINDEX TABLE t",
    )  # fmt: skip
    async with session(boss) as asking:
        assert await asking.fetchval("SELECT count(*) FROM t") == 200_000


async def test_where_the_kernel_can_not_the_program_runs_and_it_is_said(tmp_path: Path) -> None:
    words = f"import bot.cage as c; c._CREATE = 100_000; c._main('', '', {str(tmp_path)!r}, '', {str(binaries())!r}, '/bin/echo', 'went on')"
    said = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", words], capture_output=True, text=True, check=True)
    assert "no cage:" in said.stdout
    assert "went on" in said.stdout
