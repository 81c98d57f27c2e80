"""A server whose operator made room for the locks of many tables, in place of the one that the other tests use."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.embedded import EmbeddedPostgres
from bot.place import Connect
from tests.scenario.conftest import make_bot as make_bot  # noqa: PLC0414  pytest finds the fixture here
from tests.scenario.real import make_shop as make_shop  # noqa: PLC0414


@pytest.fixture(scope="session")
def server() -> Iterator[Connect]:
    home = Path(tempfile.mkdtemp(prefix="backout-large-"))
    home.chmod(0o711)
    postgres = EmbeddedPostgres(home, name="large", durable=False, settings={"max_locks_per_transaction": "2048", "max_wal_size": "4GB"})
    try:
        yield asyncio.run(postgres.start())
    finally:
        asyncio.run(postgres.stop())
        shutil.rmtree(home)
