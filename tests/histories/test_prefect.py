"""Prefect: concurrent indexes outside of every transaction, an asyncio env.py behind Prefect's own command, and extensions. Asyncpg."""

from __future__ import annotations

import asyncio
import shutil
import subprocess  # noqa: TID251  pg_config says where the server's extensions are
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.embedded import EmbeddedPostgres
from bot.place import Connect
from bot.throwaway import installed as servers
from tests.histories.conftest import MakeStory
from tests.histories.filling import fill
from tests.histories.installed import Installed, installed
from tests.histories.walk import Story

#: how a person who knows Prefect has alembic run its env.py: it wants a thread that anyio started, as Prefect's own command has one
_ENV = """\
import runpy

import anyio

anyio.run(anyio.to_thread.run_sync, runpy.run_path, {env!r})
"""
_INI = """\
[alembic]
script_location = %(here)s
version_locations = {versions}
path_separator = os
"""
_URL = "postgresql+asyncpg://{user}:{password}@{host}:{port}/{database}"


@pytest.fixture(scope="module")
def programs() -> Path:
    """Of a Postgres that has pg_trgm, which Prefect asks for and the embedded one lacks."""
    for _, folder in sorted(asyncio.run(servers()).items()):
        if (folder / "pg_config").exists() and (folder / "pg_dump").exists():
            shared = subprocess.run([str(folder / "pg_config"), "--sharedir"], check=True, capture_output=True, text=True).stdout.strip()
            if (Path(shared) / "extension" / "pg_trgm.control").exists():
                return folder
    pytest.skip("Prefect needs a Postgres with pg_trgm on this machine: apt-get install postgresql (Debian's has it).")


@pytest.fixture(scope="module")
def server(programs: Path) -> Iterator[Connect]:
    home = Path(tempfile.mkdtemp(prefix="backout-prefect-"))
    home.chmod(0o711)
    major = next(major for major, folder in asyncio.run(servers()).items() if folder == programs)
    postgres = EmbeddedPostgres(home, name="target", major=major, durable=False, programs=programs)
    try:
        yield asyncio.run(postgres.start())
    finally:
        asyncio.run(postgres.stop())
        shutil.rmtree(home)


@pytest.fixture(scope="module")
def prefect() -> Installed:
    return installed("prefect")


@pytest.fixture
async def story(prefect: Installed, make_story: MakeStory, tmp_path: Path) -> Story:
    """At the newest revision, brought there by `prefect server database upgrade`. Each table has rows."""
    migrations = prefect.folder("prefect/server/database/_migrations")
    (tmp_path / "alembic.ini").write_text(_INI.format(versions=migrations / "versions" / "postgresql"))
    (tmp_path / "env.py").write_text(_ENV.format(env=str(migrations / "env.py")))
    environ = {"PREFECT_HOME": str(tmp_path / "prefect"), "DO_NOT_TRACK": "1"}

    def by_hand(connect: Connect, direction: str, rev: str) -> tuple[int, str]:
        own = {**environ, "PREFECT_API_DATABASE_CONNECTION_URL": connect.url("postgresql+asyncpg")}
        return prefect.run("prefect", "server", "database", direction, "--yes", "--revision", rev, environ=own, directory=tmp_path)

    def made(connect: Connect) -> None:
        code, output = by_hand(connect, "upgrade", "head")
        assert code == 0, output
        there = fill(connect, 25)
        assert min(there.values()) > 5, there

    tool = {"directory": str(tmp_path), "python": str(prefect.python), "env": {"PREFECT_API_DATABASE_CONNECTION_URL": _URL, **environ}}
    return await make_story(tool=tool, made=made, by_hand=by_hand)


async def test_what_the_copy_showed_is_what_happens_for_concurrent_indexes_constraints_and_data(story: Story) -> None:
    # DROP INDEX CONCURRENTLY commits by itself: a person decides if Backout dies in it
    found = await story.goes_back("c8d5f2a71b3e")
    assert found["expected"] == "same", found["findings"]
    assert found["one_transaction"] is False
    assert "CONCURRENTLY" in found["statements"][0]["sql"]
    assert any("more than one transaction: it may end half done" in file.text for file in story.bot.slack.files())
    # `pass`, since its upgrade only mends an index of an older revision
    await story.refuses("9e9dadc36797", "empty_downgrade", "c8d5f2a71b3e")
    await story.past("9e9dadc36797")
    # three concurrent indexes at once
    await story.goes_back("7218aad17905")
    # a constraint, in one transaction
    found = await story.goes_back("09a9e091e578")
    assert found["one_transaction"] is True
    # two at once: values that a foreign key would refuse are emptied, and a column goes
    await story.past("3b86c5ea017a")
    found = await story.goes_back("1c9bb7f78263")
    assert [loss["name"] for loss in found["loss"] if loss["kind"] == "values"] == ["public.task_run.state_id"]


async def test_prefects_own_folder_is_refused_with_the_reason_that_alembic_itself_would_give(story: Story, prefect: Installed) -> None:
    story.bot.config["targets"]["shop"]["tool"]["directory"] = str(prefect.folder("prefect/server/database"))
    story.bot.write()
    refusal = await story.refused("c8d5f2a71b3e")
    assert refusal.code == "tool_failed"
    assert "AnyIO worker thread" in refusal.message
