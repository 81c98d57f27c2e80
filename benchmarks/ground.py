"""Where it is measured: one ordinary server for both sides, another one for the journal, the shop at any size, programs as a runbook has them."""

from __future__ import annotations

import datetime as dt
import secrets
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

import psycopg
from psycopg import sql

from bot.embedded import EmbeddedPostgres, binaries
from bot.place import Connect
from bot.process import run
from bot.settings import inherited
from playground import shop

_OWNER = "shop"
_EMPTY = 8_000_000  # bytes of a database without rows
_CUSTOMER = 940  # bytes for each customer, with what they ordered; measured, a little too small, so that 1GB is not less than that
_LONG = dt.timedelta(hours=1)

#: As in the shop's own fill.sql, for `c` customers, and its newest revision's columns with them. No randomness, no clock.
_FILL = """
INSERT INTO customers (email, name, created_at, score)
SELECT 'customer' || n || '@example.org', 'Customer ' || n, timestamptz '2025-01-01 00:00+00' + n * interval '1 second', n % 90
FROM generate_series(1, {c}) AS n;
INSERT INTO products (sku, title, price_cents) SELECT 'SKU-' || lpad(n::text, 8, '0'), 'Product ' || n, 199 + (n * 7919::bigint) % 9800
FROM generate_series(1, {c} / 40) AS n;
INSERT INTO orders (customer_id, status, total_cents, placed_at, risk_score, scored_at)
SELECT 1 + (n * 31::bigint) % ({c}), CASE WHEN n % 20 = 0 THEN 'open' ELSE 'shipped' END, 500 + (n * 104729::bigint) % 50000,
  timestamptz '2025-06-01 00:00+00' + n * interval '1 second', (n % 9973) / 100.0, timestamptz '2025-06-01 00:01+00' + n * interval '1 second'
FROM generate_series(1, 2 * {c}) AS n;
INSERT INTO order_items (order_id, product_id, quantity, price_cents)
SELECT 1 + n % (2 * {c}), 1 + (n * 17::bigint) % ({c} / 40), 1 + n % 3, 199 + (n * 7919::bigint) % 9800
FROM generate_series(1, 4 * {c}) AS n;
INSERT INTO reviews (product_id, customer_id, stars, body)
SELECT 1 + (n * 13::bigint) % ({c} / 40), 1 + (n * 37::bigint) % ({c}), 1 + n % 5, 'Review ' || n
FROM generate_series(1, {c} / 2) AS n
"""
TABLES = ("customers", "products", "orders", "order_items", "reviews")


@dataclass
class Ground:
    """`server` and `journal` as their superusers. Everything on disk lies under `root`."""

    root: Path
    server: Connect
    journal: Connect
    _password: str = field(default_factory=lambda: secrets.token_hex(8))
    _made: dict[int, str] = field(default_factory=dict)

    async def shop(self, size: int | None) -> str:
        """The name of a database to copy from: the shop as it is, or with about `size` bytes. At its newest revision, 0005."""
        wanted = size or 0
        if wanted not in self._made:
            name = f"shop_{wanted}"
            self._create(name)
            if size is None:
                await shop.fill(self.owner(name).url())
            else:
                await shop.alembic(self.owner(name).url(), "upgrade", "0005")
                self._fill(name, max(100, (size - _EMPTY) // _CUSTOMER))
            self._made[wanted] = name
        return self._made[wanted]

    def size(self, name: str) -> int:
        """pg_database_size."""
        with psycopg.connect(self.server.url(), autocommit=True) as session:
            row = session.execute("SELECT pg_database_size(%s)", (name,)).fetchone()
        return int(row[0]) if row else 0

    def owner(self, name: str) -> Connect:
        """An ordinary role, which the application would use."""
        return self.server.model_copy(update={"user": _OWNER, "password": self._password, "database": name})

    def superuser(self, name: str) -> Connect:
        return self.server.model_copy(update={"database": name})

    @asynccontextmanager
    async def copy(self, source: str) -> AsyncIterator[str]:
        """A fresh copy, its pages on the disk. Dropped afterwards, with whoever is in it, and what was made of it meanwhile."""
        name = f"copy_{secrets.token_hex(4)}"
        before = self._databases()
        self.execute(f"CREATE DATABASE {name} TEMPLATE {source} OWNER {_OWNER} STRATEGY file_copy", "CHECKPOINT")
        try:
            yield name
        finally:
            for other in self._databases() - before:
                self.drop(other)

    def create(self, name: str) -> None:
        """An empty database."""
        self.execute(f"CREATE DATABASE {name} OWNER {_OWNER}", "CHECKPOINT")

    def version(self) -> int:
        """server_version_num"""
        with psycopg.connect(self.server.url(), autocommit=True) as session:
            return session.info.server_version

    def drop(self, name: str) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as session:
            session.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE false").format(sql.Identifier(name)))
            session.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def execute(self, *statements: str, on: Connect | None = None) -> None:
        """As the superuser. Statements are ours."""
        with psycopg.connect((on or self.server).url(), autocommit=True) as session:
            for statement in statements:
                session.execute(statement.encode())

    def _databases(self) -> set[str]:
        with psycopg.connect(self.server.url(), autocommit=True) as session:
            return {row[0] for row in session.execute("SELECT datname FROM pg_database")}

    def _create(self, name: str) -> None:
        with psycopg.connect(self.server.url(), autocommit=True) as session:
            if not session.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (_OWNER,)).fetchone():
                session.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(_OWNER), sql.Literal(self._password)))
            session.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(_OWNER)))

    def _fill(self, name: str, customers: int) -> None:
        with psycopg.connect(self.superuser(name).url(), autocommit=True) as session:
            session.execute("SET session_replication_role = replica")  # every key is there by construction; to look each one up takes minutes
            for statement in _FILL.format(c=customers).split(";"):
                session.execute(statement.encode())
            session.execute("ALTER TABLE orders ALTER risk_score DROP NOT NULL")  # as project.py has it
            session.execute("UPDATE alembic_version SET version_num = version_num")  # the rows were there before the migration
            session.execute("VACUUM ANALYZE")


def place(below: Path | None = None) -> Path:
    """A new folder that the servers' user can pass."""
    made = Path(tempfile.mkdtemp(prefix="backout-bench-", dir=below))
    made.chmod(0o711)
    return made


@asynccontextmanager
async def prepared() -> AsyncIterator[Ground]:
    """Both servers with ordinary settings: durable, defaults else."""
    root = place()
    target, journal = EmbeddedPostgres(root, name="target"), EmbeddedPostgres(root, name="journal")
    try:
        async with target as server, journal as beside:
            yield Ground(root, server, beside)
    finally:
        for each in (target, journal):
            await each.remove()
        rmtree(root, ignore_errors=True)


# ------------------------------------------------------------------ by hand


async def program(argv: Sequence[str], env: Mapping[str, str], *, directory: Path | None = None) -> float:
    """Seconds that it took. Raises RuntimeError with its words."""
    began = time.perf_counter()
    done = await run(argv, env={**inherited(), **env}, timeout=_LONG, directory=directory)
    seconds = time.perf_counter() - began
    if done.code:
        raise RuntimeError(f"{argv[0]} ended with {done.code}:\n{done.output[-2000:]}")
    return seconds


async def shell(command: str, connect: Connect, *arguments: str) -> float:
    """A line of a runbook, with the server's own client programs; `$1` and so on are `arguments`."""
    path = f"{binaries()}:{inherited()['PATH']}"
    return await program(["sh", "-euc", command, "sh", *arguments], {**_libpq(connect), "PATH": path})


async def alembic(connect: Connect, directory: Path, *words: str) -> float:
    """As a person types it in the project's directory."""
    return await program([sys.executable, "-m", "alembic", *words], {"DATABASE_URL": connect.url()}, directory=directory)


def _libpq(connect: Connect) -> dict[str, str]:
    said = {"PGHOST": connect.host, "PGPORT": str(connect.port), "PGUSER": connect.user, "PGPASSWORD": connect.password}
    return {**said, "PGDATABASE": connect.database}
