"""Real Postgres for every test: one server that is rolled back, another one for the journal, a database of its own for each test."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import psycopg
import pytest
from psycopg import sql

from bot.embedded import EmbeddedPostgres
from bot.place import Connect
from bot.throwaway import installed

hypothesis.settings.register_profile("backout", deadline=None)  # machines are shared: no test asserts a time
hypothesis.settings.load_profile("backout")

MakeDatabase = Callable[[str], Connect]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgres", type=int, default=18, help="major version of the server that is rolled back; one that is installed here")


@contextmanager
def _running(name: str, major: int = 18) -> Iterator[Connect]:
    # A place of its own that the unprivileged user can enter (pytest's own are 0700), so that nothing is left in /var/lib.
    home = Path(tempfile.mkdtemp(prefix=f"backout-{name}-"))
    home.chmod(0o711)
    programs = asyncio.run(installed())[major] if major not in (16, 18) else None
    postgres = EmbeddedPostgres(home, name=name, major=major, durable=False, programs=programs)
    try:
        yield asyncio.run(postgres.start())
    finally:
        asyncio.run(postgres.stop())
        shutil.rmtree(home)


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """The server that is rolled back, one per test process, as its superuser."""
    with _running("target", request.config.getoption("--postgres")) as connect:
        yield connect


@pytest.fixture(scope="session")
def journal_server() -> Iterator[Connect]:
    """The journal's server: never the same as `server`."""
    with _running("journal") as connect:
        yield connect


@contextmanager
def _databases(server: Connect) -> Iterator[MakeDatabase]:
    """A database with an owner of its own, a login without superuser. Dropped afterwards, with whoever is still in it."""
    made: list[Connect] = []
    with psycopg.connect(server.url(), autocommit=True) as admin:

        def make(prefix: str = "app") -> Connect:
            name = f"{prefix}_{secrets.token_hex(4)}"
            own = server.model_copy(update={"user": f"{name}_owner", "password": secrets.token_hex(8), "database": name})
            role, database = sql.Identifier(own.user), sql.Identifier(own.database)
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, sql.Literal(own.password)))
            made.append(own)
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
            return own

        try:
            yield make
        finally:
            for own in made:
                admin.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(own.database)))
                admin.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(own.user)))
                admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(own.user)))


@pytest.fixture
def make_database(server: Connect) -> Iterator[MakeDatabase]:
    """`make_database("shop")` -> its owner's Connect, on the server that is rolled back. Not awaited."""
    with _databases(server) as make:
        yield make


@pytest.fixture
def make_journal_database(journal_server: Connect) -> Iterator[MakeDatabase]:
    """The same on the journal's server."""
    with _databases(journal_server) as make:
        yield make
