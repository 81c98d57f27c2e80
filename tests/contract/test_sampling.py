"""Some rows stand for all: what is taken, what comes along, and that the constraints of the schema hold for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from psycopg import sql

from bot.backups.dump import DumpBackup
from bot.databases import sampling
from bot.databases.sampling import fill_views
from bot.embedded import binaries
from bot.errors import StepFailed
from bot.evidence import Sampled
from bot.place import Connect, Session
from bot.stores.directory import DirectoryStore
from tests.conftest import MakeDatabase
from tests.contract.servers import execute, session


@pytest.fixture
def shop(make_database: MakeDatabase, monkeypatch: pytest.MonkeyPatch) -> Connect:
    monkeypatch.setattr(sampling, "_MOST", 20)
    return make_database("shop")


@pytest.fixture
def copy(shop: Connect, server: Connect) -> Iterator[Connect]:
    """An empty database that is gone before the roles whose tables are copied into it."""
    name = f"{shop.database}_copy"
    with psycopg.connect(server.url(), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield server.model_copy(update={"database": name})
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


async def _quiet(_: str) -> None: ...


async def _nobody() -> Sequence[Session]:
    return ()


class Working:
    """What the dump looks at."""

    run, step, attempt, application = "r1", "rehearse", 1, "backout/r1/rehearse/1"

    def __init__(self, version: int) -> None:
        self.plan: Any = SimpleNamespace(identity=SimpleNamespace(version=version))

    async def progress(self, text: str) -> None: ...


async def sampled(shop: Connect, copy: Connect, server: Connect, tmp_path: Any) -> tuple[Sampled, tuple[str, ...]]:
    """As the rehearsal does it: the schema, the rows, then the constraints. Second: what did not hold."""
    admin = server.model_copy(update={"database": shop.database})
    backup = DumpBackup(DirectoryStore(tmp_path), admin, DumpBackup.Settings(), embedded=binaries)
    version = await ask(shop, "SELECT current_setting('server_version_num')::int")
    work: Any = Working(version)
    async with sampling.sampling(admin, work.application, _nobody) as some:
        file = await backup.take_schema("s.dump", some.snapshot, work)
        before = await backup.restore_schema(file, copy, version, "pre-data", work)
        rows = await some.copy_into(copy, _quiet)
        after = await backup.restore_schema(file, copy, version, "post-data", work)
    return rows, (*before, *after, *await fill_views(copy))


async def ask(connect: Connect, query: str) -> Any:
    async with session(connect) as open_:
        return await open_.fetchval(query)


async def test_small_tables_are_whole_and_of_large_ones_the_newest_and_some_of_all_over(
    shop: Connect, copy: Connect, server: Connect, tmp_path: Any
) -> None:
    await execute(
        shop,
        "CREATE TABLE small AS SELECT n FROM generate_series(1, 20) n",
        "CREATE TABLE large (id int PRIMARY KEY, filler text)",
        "INSERT INTO large SELECT n, repeat('x', 100) FROM generate_series(1, 20000) n",
        "ANALYZE",
    )
    rows, left_out = await sampled(shop, copy, server, tmp_path)
    assert (rows.rows, rows.tables, rows.said, left_out) == (40, 2, (), ())
    assert await ask(copy, "SELECT count(*) FROM small") == 20
    assert await ask(copy, "SELECT count(*) FROM large WHERE id > 19989") >= 10
    assert await ask(copy, "SELECT count(*) FROM large") == 20


async def test_whatever_rows_refer_to_comes_along_so_that_every_constraint_holds(
    shop: Connect, copy: Connect, server: Connect, tmp_path: Any
) -> None:
    await execute(
        shop,
        'CREATE SCHEMA "we""ird"',
        'CREATE TABLE "we""ird"."pa.rent" ("a b" int, c text, PRIMARY KEY ("a b", c)) PARTITION BY RANGE ("a b")',
        'CREATE TABLE "we""ird".low PARTITION OF "we""ird"."pa.rent" FOR VALUES FROM (0) TO (500)',
        'CREATE TABLE "we""ird".high PARTITION OF "we""ird"."pa.rent" DEFAULT',
        "CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree)",
        'CREATE TABLE child (id int PRIMARY KEY, a int, c text, tree int REFERENCES tree, FOREIGN KEY (a, c) REFERENCES "we""ird"."pa.rent")',
        'INSERT INTO "we""ird"."pa.rent" SELECT n, \'c\' || n FROM generate_series(1, 1000) n',
        "INSERT INTO tree SELECT n, nullif(n - 1, 0) FROM generate_series(1, 300) n",
        "INSERT INTO child SELECT n, 1 + n * 7 % 1000, 'c' || 1 + n * 7 % 1000, 1 + n % 300 FROM generate_series(1, 5000) n",
        "ANALYZE",
    )
    rows, left_out = await sampled(shop, copy, server, tmp_path)
    assert left_out == ()
    assert rows.said == ()
    assert await ask(copy, "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND NOT convalidated") == 0
    assert await ask(copy, "SELECT count(*) FROM child") == 20
    assert await ask(copy, 'SELECT count(*) FROM child JOIN "we""ird"."pa.rent" p ON p."a b" = a') == 20
    assert await ask(copy, "SELECT count(*) = max(id) FROM tree"), "the whole way to the root"


async def test_sequences_stand_where_they_stood_and_generated_columns_and_views_are_there(
    shop: Connect, copy: Connect, server: Connect, tmp_path: Any
) -> None:
    await execute(
        shop,
        "CREATE TABLE t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)",
        "INSERT INTO t (n) SELECT n FROM generate_series(1, 500) n",
        "CREATE MATERIALIZED VIEW seen AS SELECT max(twice) AS most FROM t",
    )
    _, left_out = await sampled(shop, copy, server, tmp_path)
    assert left_out == ()
    await execute(copy, "INSERT INTO t (n) VALUES (1)")
    assert await ask(copy, "SELECT max(id) FROM t") == 501
    assert await ask(copy, "SELECT most FROM seen") == 1000


async def test_a_constraint_that_sampled_rows_violate_is_said_and_the_rest_is_there(
    shop: Connect, copy: Connect, server: Connect, tmp_path: Any
) -> None:
    await execute(
        shop, "CREATE TABLE p (id int PRIMARY KEY)", "CREATE TABLE c (id int PRIMARY KEY, p int)", "INSERT INTO c VALUES (1, 77)",
        "ALTER TABLE c ADD CONSTRAINT orphans FOREIGN KEY (p) REFERENCES p NOT VALID", "CREATE INDEX later ON c (p)",
    )  # fmt: skip
    await execute(server.model_copy(update={"database": shop.database}), "UPDATE pg_constraint SET convalidated = true WHERE conname = 'orphans'")
    _, left_out = await sampled(shop, copy, server, tmp_path)
    assert [one for one in left_out if "orphans" in one and "violates" in one] == list(left_out)
    assert len(left_out) == 1
    assert await ask(copy, "SELECT to_regclass('later') IS NOT NULL")


async def test_rows_that_can_not_be_read_are_said_and_stop_nothing(shop: Connect, copy: Connect, server: Connect, tmp_path: Any) -> None:
    await execute(shop, "CREATE TABLE held (n int)", "INSERT INTO held VALUES (1)", "CREATE TABLE other (n int)", "INSERT INTO other VALUES (1)")
    admin = server.model_copy(update={"database": shop.database})
    await execute(copy, "CREATE TABLE held (n int)", "CREATE TABLE other (n int)")
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK held")
        async with sampling.sampling(admin, "backout/r1/rehearse/1", _nobody) as some:
            rows = await some.copy_into(copy, _quiet)
    assert rows.rows == 1
    assert [one for one in rows.said if "public.held" in one and "lock timeout" in one] == list(rows.said)


async def test_who_waits_for_our_lock_ends_the_sampling(shop: Connect, copy: Connect, server: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    await execute(shop, *(f"CREATE TABLE t{n} (n int)" for n in range(3)))
    admin = server.model_copy(update={"database": shop.database})
    waiter = Session(pid=4711, user="app", application="", state="active", age=9.0, query="ALTER TABLE t0 ADD m int")

    async def waiting() -> Sequence[Session]:
        return (waiter,)

    monkeypatch.setattr(sampling, "_LOCK_WAIT", -1.0)
    async with sampling.sampling(admin, "backout/r1/rehearse/1", waiting) as some:
        with pytest.raises(StepFailed, match="session 4711 wait"):
            await some.copy_into(copy, _quiet)
