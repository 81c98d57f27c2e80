"""A target's server, as it really behaves: identity, pooler, fence, challenge, sessions, catalogs, counts, read-only queries."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from bot import embedded
from bot.databases.catalog import counts
from bot.databases.connecting import CATALOG, connected, parse_url
from bot.databases.postgres import PostgresDatabase, pooled
from bot.embedded import EmbeddedPostgres, binaries
from bot.errors import ConfigError, FenceLost, OutcomeUnknown, Refusal, StepFailed
from bot.model import Connect
from bot.process import run
from bot.settings import inherited
from tests.conftest import MakeDatabase

Open: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def database_of(tool: Connect, admin: Connect, **more: object) -> PostgresDatabase:
    return PostgresDatabase(target="shop", tool=tool, admin=admin, **more)  # type: ignore[arg-type]


@pytest.fixture
def shop(make_database: MakeDatabase) -> Connect:
    return make_database("shop")


@pytest.fixture
def database(shop: Connect, server: Connect) -> PostgresDatabase:
    return database_of(shop, server)


@asynccontextmanager
async def session(connect: Connect, **settings: str) -> AsyncIterator[Open]:
    found = await asyncpg.connect(connect.url(), server_settings=settings)
    try:
        yield found
    finally:
        found.terminate()


async def execute(connect: Connect, *statements: str) -> None:
    async with session(connect) as open_:
        for statement in statements:
            await open_.execute(statement)
        await open_.close()


async def refused(code: str, asking: object) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await asking  # type: ignore[misc]
    assert caught.value.code == code, caught.value.message
    assert caught.value.next
    return caught.value


async def until_waiting(admin: Connect, application: str) -> None:
    async with session(admin) as looking, asyncio.timeout(60):
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'"
        while not await looking.fetchval(query, application):  # noqa: ASYNC110  another session makes it true
            await asyncio.sleep(0.02)


# ------------------------------------------------------------------ the URL


@pytest.mark.parametrize(
    ("url", "host", "port", "user", "password", "name", "sslmode"),
    [
        ("postgresql://app:secret@db.internal/shop", "db.internal", 5432, "app", "secret", "shop", None),
        ("postgres://a%40b:p%2Fw%23%25@db:6543/my%20shop?sslmode=verify-full", "db", 6543, "a@b", "p/w#%", "my shop", "verify-full"),
        ("postgresql://app@[::1]:5433/shop", "::1", 5433, "app", "", "shop", None),
    ],
)
def test_a_libpq_url_is_read(url: str, host: str, port: int, user: str, password: str, name: str, sslmode: str | None) -> None:
    expected = Connect(host=host, port=port, user=user, password=password, database=name, sslmode=sslmode)
    assert parse_url(url) == expected
    assert parse_url(expected.url()) == expected


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:hunter2@one:1,two:2/shop", "several servers"),
        ("postgresql://u:hunter2@one,two/shop", "several servers"),
        ("postgresql:///shop?host=/var/run/postgresql", "sockets are not supported"),
        ("postgresql://u:hunter2@%2Fvar%2Frun/shop", "sockets are not supported"),
        ("postgresql://u:hunter2@db/shop?host=other", "write the host"),
        ("postgresql+asyncpg://u:hunter2@db/shop", "without a driver"),
        ("postgresql://u:hunter2#x@db/shop", "%23"),
        ("postgresql://u:hunter2@db/", "a database"),
        ("postgresql://db/shop", "a user"),
        ("postgresql://u:hunter2@db:many/shop", "can't be read"),
        ("postgresql://u:hunter2@db/shop?options=-c%20x", "Leave it out"),
        ("postgresql://u:hunter2@db/shop?sslmode=maybe", "verify-full"),
    ],
)
def test_another_url_is_refused_with_what_to_write_and_without_its_secret(url: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


# ------------------------------------------------------------------ getting in


async def test_what_keeps_us_out_is_told_by_its_code(shop: Connect, server: Connect) -> None:
    async def ask(**change: object) -> str:
        return str(await database_of(shop.model_copy(update=change), server).ask("SELECT 1"))

    said = await refused("wrong_credentials", ask(password="guessed-it"))
    assert "guessed-it" not in said.message + said.next
    await refused("database_missing", ask(database="nowhere"))
    await refused("unreachable", ask(port=1))
    await refused("unreachable", ask(host="nowhere.invalid"))
    await refused("unreachable", ask(sslmode="require"))


async def test_a_full_server_is_told_by_its_code(shop: Connect, server: Connect) -> None:
    await execute(server, f'ALTER ROLE "{shop.user}" CONNECTION LIMIT 1')
    async with session(shop):
        await refused("too_many_connections", database_of(shop, server).ask("SELECT 1"))


async def test_a_session_that_is_ended_in_the_middle_is_an_unknown_outcome(shop: Connect, server: Connect) -> None:
    async def work() -> None:
        async with connected(shop) as mine, session(server) as other:
            await other.fetchval("SELECT pg_terminate_backend($1)", await mine.fetchval("SELECT pg_backend_pid()"))
            await mine.fetchval("SELECT 1")

    with pytest.raises(OutcomeUnknown):
        await work()


async def test_every_session_of_ours_says_who_it_is_and_gives_up_early(shop: Connect) -> None:
    names = ("application_name", "lock_timeout", "client_connection_check_interval", "idle_session_timeout", "default_transaction_read_only")
    async with connected(shop) as mine:
        values = [await mine.fetchval("SELECT current_setting($1)", name) for name in names]
    assert values == ["backout/control", "3s", "1s", "0", "on"]


async def test_the_maintenance_database_is_never_the_target_itself(shop: Connect, server: Connect) -> None:
    with pytest.raises(ConfigError, match=r"targets\.shop\.maintenance_database"):
        database_of(shop, server, maintenance_database=shop.database)


# ------------------------------------------------------------------ which one it is


async def test_identity_names_the_very_database(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    identity = await database.identity()
    async with session(shop) as looking:
        oid = await looking.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
        system = await looking.fetchval("SELECT system_identifier::text FROM pg_control_system()")
    assert (identity.system, identity.oid, identity.database, identity.in_recovery) == (system, oid, shop.database, False)
    assert (identity.timeline, identity.version // 10000) == (1, 18)
    assert dt.datetime.fromisoformat(identity.started).tzinfo is not None


async def test_a_server_that_can_be_rolled_back_passes_the_examination(database: PostgresDatabase) -> None:
    await database.examine()


async def test_the_journals_own_server_is_refused(shop: Connect, server: Connect, journal_server: Connect) -> None:
    own = (await database_of(shop, server).identity()).system
    others = (await database_of(journal_server, journal_server, maintenance_database="template1").identity()).system

    async def asked() -> str:
        return own

    await refused("journal_server", database_of(shop, server, journal_system=own).examine())
    await refused("journal_server", database_of(shop, server, journal_system=asked).examine())
    await database_of(shop, server, journal_system=others).examine()


def _open_directory() -> Path:
    home = Path(tempfile.mkdtemp(prefix="backout-copy-"))
    (home / "copy").mkdir()
    for place in (home, home / "copy"):
        place.chmod(0o711)
    return home


def _hand_over(place: Path, password: str) -> None:
    """A cluster that EmbeddedPostgres takes for its own."""
    (place / "password").write_text(password)
    if os.geteuid() == 0:
        for path in (place / "data", *(place / "data").rglob("*")):
            shutil.chown(path, embedded.ACCOUNT, embedded.ACCOUNT)


@asynccontextmanager
async def physical_copy(server: Connect, *, standby: bool) -> AsyncIterator[Connect]:
    home = _open_directory()
    try:
        place = home / "copy"
        argv = [
            str(binaries() / "pg_basebackup"),
            "-D",
            str(place / "data"),
            "-h",
            server.host,
            "-p",
            str(server.port),
            "-U",
            server.user,
            "-c",
            "fast",
        ]
        done = await run([*argv, "-R"] if standby else argv, env={**inherited(), "PGPASSWORD": server.password}, timeout=dt.timedelta(seconds=60))
        assert done.code == 0, done.output
        _hand_over(place, server.password)
        async with EmbeddedPostgres(home, name="copy", durable=False) as connect:
            yield connect
    finally:
        shutil.rmtree(home)


async def test_a_standby_is_refused(shop: Connect, server: Connect) -> None:
    async with physical_copy(server, standby=True) as copy:
        there = shop.model_copy(update={"port": copy.port})
        database = database_of(there, copy)
        identity = await database.identity()
        assert (identity.in_recovery, identity.timeline) == (True, 1)
        await refused("standby", database.examine())


async def test_a_challenge_is_seen_in_the_right_database_only_and_not_in_a_physical_copy(
    shop: Connect, server: Connect, make_database: MakeDatabase
) -> None:
    other = make_database("other")
    database = database_of(shop, server)
    async with physical_copy(server, standby=False) as copy:
        twin = shop.model_copy(update={"port": copy.port})
        assert (await database_of(twin, copy).identity()).same_database(await database.identity())
        query = (
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND classid::bigint = $1 AND objid::bigint = $2"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        async with database.challenge() as (first, second):
            seen = []
            for connect in (shop, other, twin):
                async with session(connect) as looking:
                    seen.append(await looking.fetchval(query, first, second))
            assert seen == [1, 0, 0]
        await refused("wrong_database", database_of(twin, server).examine())


# ------------------------------------------------------------------ poolers


class TransactionPooler:
    """A stand-in: after it has let a client in by a session of the server's, it hands out those sessions per transaction to whoever asks."""

    def __init__(self, server: Connect, *, last_in_first_out: bool) -> None:
        self._server = server
        self._free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.LifoQueue() if last_in_first_out else asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> int:
        self._listening = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(self._listening.sockets[0].getsockname()[1])

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._writers), return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._writers.append(to_client)
        try:
            await self._let_in(client, to_client)
            while (message := await self._message(client))[:1] != b"X":
                await self._transaction(message, client, to_client)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        to_client.close()

    async def _let_in(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        hello = await self._untyped(client)
        if len(hello) == 8:  # does it speak TLS?
            to_client.write(b"N")
            hello = await self._untyped(client)
        server, to_server = await asyncio.open_connection(self._server.host, self._server.port)
        self._writers.append(to_server)
        to_server.write(hello)
        while True:
            message = await self._message(server)
            to_client.write(message)
            if message[:1] == b"R" and int.from_bytes(message[5:9], "big") in {10, 11}:
                to_server.write(await self._message(client))
            if message[:1] == b"Z":
                return self._free.put_nowait((server, to_server))

    async def _transaction(self, message: bytes, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await self._free.get()
        while True:
            to_server.write(message)
            while message[:1] not in {b"Q", b"S"}:
                message = await self._message(client)
                to_server.write(message)
            while (answer := await self._message(server))[:1] != b"Z":
                to_client.write(answer)
            if answer[5:6] == b"I":
                self._free.put_nowait((server, to_server))
            to_client.write(answer)
            if answer[5:6] == b"I":
                return
            message = await self._message(client)

    async def _untyped(self, reader: asyncio.StreamReader) -> bytes:
        length = await reader.readexactly(4)
        return length + await reader.readexactly(int.from_bytes(length, "big") - 4)

    async def _message(self, reader: asyncio.StreamReader) -> bytes:
        return await reader.readexactly(1) + await self._untyped(reader)


@pytest.mark.parametrize("last_in_first_out", [True, False])
async def test_a_transaction_pooler_is_refused_with_its_way_out(shop: Connect, server: Connect, *, last_in_first_out: bool) -> None:
    async with TransactionPooler(server, last_in_first_out=last_in_first_out) as port:
        said = await refused("transaction_pooler", database_of(shop.model_copy(update={"port": port}), server).examine())
        assert "server's own address" in said.next


async def test_a_pooler_in_front_of_admin_alone_is_refused_too(shop: Connect, server: Connect) -> None:
    async with TransactionPooler(server, last_in_first_out=True) as port:
        await refused("transaction_pooler", database_of(shop, server.model_copy(update={"port": port})).examine())


def test_pids_and_settings_give_a_pooler_away() -> None:
    mine, other = (7, "pg_catalog"), (8, "pg_catalog")
    assert pooled(mine, mine, other) is None
    assert "two sessions (7 and 9)" in str(pooled(mine, (9, "pg_catalog"), other))
    assert "one session (7)" in str(pooled(mine, mine, mine))
    assert "did not stick" in str(pooled((7, "public"), (7, "public"), other))


# ------------------------------------------------------------------ the fence


async def test_the_fence_has_one_holder_and_names_it(database: PostgresDatabase) -> None:
    async with database.fence("shop"):
        said = await refused("fence_taken", database.fence("shop").__aenter__())
        assert "(backout/control)" in said.message
        async with database.fence("another target"):
            pass
    async with database.fence("shop") as fence:
        assert await fence.prove() == await database.identity()


async def test_the_fence_leaves_the_database_free_to_be_cloned(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    async with database.fence("shop") as fence:
        await execute(server, f'CREATE DATABASE "{shop.database}_clone" TEMPLATE "{shop.database}"', f'DROP DATABASE "{shop.database}_clone"')
        await fence.prove()


async def test_a_lost_fence_is_told(database: PostgresDatabase, server: Connect) -> None:
    async with database.fence("shop") as fence:
        await execute(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'backout/control'")
        with pytest.raises(FenceLost, match="session that holds the fence is lost"):
            await fence.prove()
    async with database.fence("shop"):
        pass


async def test_a_fence_whose_lock_is_gone_is_lost(database: PostgresDatabase) -> None:
    async with database.fence("shop") as fence:
        await fence._session.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(FenceLost, match="lock is gone"):
            await fence.prove()


async def test_a_fence_on_a_database_that_was_exchanged_is_lost(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    async with database.fence("shop") as fence:
        old, name = f'"{shop.database}_old"', f'"{shop.database}"'
        await execute(server, f"ALTER DATABASE {name} RENAME TO {old}")
        with pytest.raises(FenceLost, match="no database"):
            await fence.prove()
        await execute(server, f"CREATE DATABASE {name} TEMPLATE template0", f"DROP DATABASE {old}")
        with pytest.raises(FenceLost, match="oid was"):
            await fence.prove()


# ------------------------------------------------------------------ the version table


async def test_heads_are_the_rows_of_the_version_table(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE alembic_version (version_num varchar(32))")
    assert await database.heads("alembic_version", None) == ()
    await execute(shop, "INSERT INTO alembic_version VALUES ('0002'), ('0001')")
    assert await database.heads("alembic_version", None) == ("0001", "0002")


async def test_hostile_names_are_names(database: PostgresDatabase, shop: Connect) -> None:
    await execute(
        shop,
        'CREATE SCHEMA "s""; DROP TABLE kept; --"',
        "CREATE TABLE kept ()",
        """CREATE TABLE "s""; DROP TABLE kept; --"."weird"".table" AS SELECT 'r1' AS version_num""",
    )
    assert await database.heads('weird".table', 's"; DROP TABLE kept; --') == ("r1",)
    await refused("version_table_missing", database.heads("x; DROP TABLE kept", None))
    await refused("version_table_missing", database.heads("alembic_version", "no such schema"))
    await refused("version_table_missing", database.heads("kept", None))
    snapshot = await database.snapshot(count=True)
    assert snapshot.counts == {"public.kept": 0, '"s""; DROP TABLE kept; --"."weird"".table"': 1}
    assert 'column "s""; DROP TABLE kept; --"."weird"".table".version_num' in snapshot.objects


async def test_a_database_with_a_hostile_name_works_all_the_way(make_database: MakeDatabase, server: Connect) -> None:
    database = database_of(make_database("a=b\"; drop postgresql://x '"), server)
    await database.examine()
    async with database.fence("x") as fence:
        await fence.prove()
    assert (await database.ask("SELECT current_database()")).rows == ((database.tool.database,),)


async def test_the_tools_own_search_path_finds_the_version_table(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    await execute(shop, "CREATE SCHEMA mine", "CREATE TABLE mine.alembic_version AS SELECT '0007' AS version_num")
    await execute(server, f'ALTER ROLE "{shop.user}" SET search_path = mine')
    assert await database.heads("alembic_version", None) == ("0007",)


async def test_a_locked_version_table_is_unknown_and_not_missing(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE alembic_version (version_num text)")
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK TABLE alembic_version")
        with pytest.raises(OutcomeUnknown, match="gave up waiting"):
            await database.heads("alembic_version", None)


# ------------------------------------------------------------------ sessions


async def test_a_session_that_waits_is_seen_with_its_blocker_then_ended_and_gone(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    await execute(shop, "CREATE TABLE t (n int)")
    async with (
        session(shop, application_name="reader") as holder,
        session(shop, application_name="backout/r1/downgrade/1") as waiter,
        holder.transaction(),
    ):
        await holder.execute("LOCK TABLE t")
        waiting = asyncio.create_task(waiter.execute("DROP TABLE t"))
        await until_waiting(server, "backout/r1/downgrade/1")
        assert await database.sessions("backout/r1/downgrade") == ()
        (seen,) = await database.sessions("backout/r1/downgrade/1")
        assert (seen.query, seen.state) == ("DROP TABLE t", "active")
        (blocker,) = await database.blockers("backout/r1/downgrade/1")
        assert (blocker.pid, blocker.application) == (holder.get_server_pid(), "reader")
        assert await database.end_sessions("backout/r1/downgrade") == ()
        (ended,) = await database.end_sessions("backout/r1/downgrade/1")
        assert ended.pid == waiter.get_server_pid()
        assert await database.sessions("backout/r1/downgrade/1") == ()
        with pytest.raises(asyncpg.AdminShutdownError):
            await waiting
    async with session(shop) as looking:
        assert await looking.fetchval("SELECT to_regclass('t')") == "t"


async def test_a_session_that_the_role_may_not_end_is_told(shop: Connect, server: Connect) -> None:
    async with session(server, application_name="backout/r1/downgrade/1"):
        with pytest.raises(StepFailed, match="permission denied to terminate"):
            await database_of(shop, shop).end_sessions("backout/r1/downgrade/1")


# ------------------------------------------------------------------ catalogs and counts

EVERYTHING = """
CREATE TYPE mood AS ENUM ('sad', 'so; so', 'glad');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE SEQUENCE numbers INCREMENT 5;
CREATE TABLE parents (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text COLLATE "C" NOT NULL DEFAULT 'x',
  twice int GENERATED ALWAYS AS (7 * 2) STORED);
CREATE TABLE orders (id bigint, parent int REFERENCES parents, score numeric(8,3), feeling mood) PARTITION BY LIST (parent);
CREATE TABLE orders_1 PARTITION OF orders FOR VALUES IN (1);
CREATE TABLE orders_2 PARTITION OF orders FOR VALUES IN (2);
ALTER TABLE parents ADD CONSTRAINT named CHECK (name <> '') NOT VALID;
CREATE INDEX by_name ON parents (lower(name)) WHERE id > 5;
CREATE VIEW seen AS SELECT id FROM parents;
CREATE MATERIALIZED VIEW kept AS SELECT id FROM parents;
CREATE FUNCTION add(a int, b int) RETURNS int LANGUAGE sql AS 'SELECT a + b';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touched BEFORE UPDATE ON parents FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE parents ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON parents FOR SELECT TO PUBLIC USING (id > 0);
CREATE RULE silent AS ON DELETE TO parents DO INSTEAD NOTHING;
INSERT INTO parents (name) VALUES ('a'), ('b');
INSERT INTO orders VALUES (1, 1), (2, 1), (3, 2);
"""


async def test_a_snapshot_has_every_kind_of_object_by_its_full_name(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, EVERYTHING)
    found = (await database.snapshot(count=False)).objects
    expected = {
        "table public.parents": f"owner {shop.user}; row security on",
        "table public.orders_1": f"owner {shop.user}; row security off; public.orders; FOR VALUES IN (1)",
        "column public.orders.score": "numeric(8,3)",
        "column public.parents.id": "integer NOT NULL GENERATED ALWAYS AS IDENTITY",
        "column public.parents.name": """text COLLATE pg_catalog."C" NOT NULL DEFAULT 'x'::text""",
        "column public.parents.twice": "integer GENERATED ALWAYS AS ((7 * 2)) STORED",
        "column public.orders.feeling": "public.mood",
        "index public.by_name": "CREATE INDEX by_name ON public.parents USING btree (lower(name)) WHERE (id > 5) [valid]",
        "constraint public.parents.named": "CHECK ((name <> ''::text)) NOT VALID [not valid]",
        "constraint public.parents.parents_pkey": "PRIMARY KEY (id) [valid]",
        "type public.mood": f"owner {shop.user}; enum ('sad', 'so; so', 'glad')",
        "type public.pair": f"owner {shop.user}; composite (a integer, b text)",
        "policy public.parents.own": "PERMISSIVE FOR SELECT TO PUBLIC USING ((id > 0))",
    }
    assert {name: found.get(name) for name in expected} == expected
    kinds = {name.split(" ")[0] for name in found}
    assert {"schema", "sequence", "view", "materialized", "function", "trigger", "rule", "extension"} < kinds
    assert [name for name in found if "pg_" in name.split(" ", 1)[1] or "information_schema" in name] == []
    assert "function public.add(a integer, b integer)" in found
    assert not [name for name in found if name.startswith("type ") and "parents" in name]


async def test_the_fingerprint_changes_with_the_schema_and_not_with_the_rows(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, EVERYTHING)
    before = (await database.snapshot(count=False)).fingerprint()
    await execute(shop, "INSERT INTO parents (name) VALUES ('c')", "SELECT nextval('numbers')", "ANALYZE")
    assert (await database.snapshot(count=False)).fingerprint() == before
    for change in ("ALTER TYPE mood ADD VALUE 'new'", "ALTER TABLE parents DISABLE TRIGGER touched", "ALTER TABLE parents VALIDATE CONSTRAINT named"):
        await execute(shop, change)
        after = (await database.snapshot(count=False)).fingerprint()
        assert after != before, change
        before = after


async def test_an_index_that_is_not_valid_says_so(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE t AS SELECT 1 AS n UNION ALL SELECT 1")
    with pytest.raises(asyncpg.UniqueViolationError):
        await execute(shop, "CREATE UNIQUE INDEX CONCURRENTLY broken ON t (n)")
    assert (await database.snapshot(count=False)).objects["index public.broken"].endswith("[invalid]")


async def test_what_an_extension_brings_is_left_out(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    before = (await database.snapshot(count=False)).objects
    await execute(server.model_copy(update={"database": shop.database}), "CREATE EXTENSION vector")
    after = (await database.snapshot(count=False)).objects
    assert set(after) - set(before) == {"extension vector"}


async def test_counts_are_exact_and_a_partitioned_table_has_the_rows_of_its_parts(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, EVERYTHING)
    snapshot = await database.snapshot(count=True)
    assert snapshot.counts == {"public.parents": 2, "public.orders": 3, "public.orders_1": 2, "public.orders_2": 1}
    assert snapshot.uncounted == {}


async def test_an_owner_under_forced_row_security_gets_no_count_and_never_zero(shop: Connect, server: Connect) -> None:
    await execute(
        shop,
        "CREATE TABLE secret AS SELECT generate_series(1, 1000) AS n",
        "CREATE TABLE open AS SELECT 1 AS n",
        "ALTER TABLE secret ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE secret FORCE ROW LEVEL SECURITY",
    )
    snapshot = await database_of(shop, shop).snapshot(count=True)
    assert snapshot.counts == {"public.open": 1}
    assert "row-level security policy" in snapshot.uncounted["public.secret"]
    assert (await database_of(shop, server).snapshot(count=True)).counts["public.secret"] == 1000


async def test_a_table_that_is_locked_or_slow_is_named_and_the_others_are_counted(database: PostgresDatabase, shop: Connect) -> None:
    await execute(shop, "CREATE TABLE locked (n int)", "CREATE TABLE free (n int)", "CREATE TABLE big AS SELECT generate_series(1, 300000) AS n")
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK TABLE locked")
        snapshot = await database.snapshot(count=True)
        assert snapshot.uncounted == {"public.locked": "another session has it locked"}
        assert snapshot.counts == {"public.free": 0, "public.big": 300000}
    async with connected(shop, {**CATALOG, "statement_timeout": "5s"}) as mine:
        await mine.execute("SET statement_timeout = 1")
        with pytest.raises(asyncpg.QueryCanceledError):
            await mine.fetchval("SELECT count(*) FROM public.big")
        assert (await _counted_slowly(mine))["public.big"].startswith("counting did not end")


async def _counted_slowly(mine: Open) -> dict[str, str]:
    class Hurried:
        """Reads the catalogs in peace, and counts in a hurry."""

        async def fetch(self, sql: str) -> list[asyncpg.Record]:
            await mine.execute("SET statement_timeout = '10s'")
            return await mine.fetch(sql)

        async def fetchval(self, sql: str) -> object:
            await mine.execute("SET statement_timeout = 1")
            return await mine.fetchval(sql)

    return (await counts(Hurried()))[1]  # type: ignore[arg-type]


async def test_foreign_rows_are_never_read(database: PostgresDatabase, shop: Connect, server: Connect) -> None:
    await execute(
        server.model_copy(update={"database": shop.database}),
        "CREATE FOREIGN DATA WRAPPER nowhere",
        "CREATE SERVER far FOREIGN DATA WRAPPER nowhere",
        "CREATE TABLE p (n int) PARTITION BY LIST (n)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1)",
        "CREATE FOREIGN TABLE p2 PARTITION OF p FOR VALUES IN (2) SERVER far",
    )
    snapshot = await database.snapshot(count=True)
    assert snapshot.counts == {"public.p1": 0}
    assert snapshot.uncounted == {"public.p": "1 of its parts can't be counted, or are foreign"}
    assert "foreign table public.p2" in snapshot.objects


# ------------------------------------------------------------------ questions


async def test_an_answer_is_json_and_at_most_a_hundred_rows(database: PostgresDatabase) -> None:
    answer = await database.ask(
        "SELECT 1 AS n, 1.50::numeric AS price, true AS yes, NULL AS nothing, 'NaN'::float8 AS odd, '2026-11-20'::date AS day,"
        " '\\xdead'::bytea AS raw, ARRAY[1.5, 2]::numeric[] AS many, 'a'::text AS word"
    )
    assert answer.columns == ("n", "price", "yes", "nothing", "odd", "day", "raw", "many", "word")
    assert answer.rows == ((1, "1.50", True, None, "nan", "2026-11-20", "dead", ["1.5", "2"], "a"),)
    answer.model_dump_json()
    many = await database.ask("SELECT generate_series(1, 1000)")
    assert (len(many.rows), many.truncated) == (100, True)
    assert not (await database.ask("SELECT generate_series(1, 100)")).truncated


@pytest.mark.parametrize(
    "sql",
    [
        "DROP TABLE t",
        "INSERT INTO t VALUES (1) RETURNING n",
        "WITH gone AS (DELETE FROM t RETURNING n) SELECT * FROM gone",
        "COMMIT",
        "COMMIT; DROP TABLE t",
        "SELECT 1; DROP TABLE t",
        "ROLLBACK AND CHAIN",
        "SET default_transaction_read_only = off",
        "SELECT set_config('transaction_read_only', 'off', true)",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY t TO STDOUT",
        "DO $$ BEGIN DROP TABLE t; END $$",
        "EXPLAIN ANALYZE INSERT INTO t VALUES (1)",
        "SELECT nextval('s')",
        "SELECT no_such_column",
        "",
    ],
)
async def test_a_question_that_is_not_one_read_is_refused_with_the_servers_words(shop: Connect, server: Connect, sql: str) -> None:
    await execute(shop, "CREATE TABLE t (n int)", "CREATE SEQUENCE s")
    database = database_of(server.model_copy(update={"database": shop.database}), server)
    with pytest.raises(StepFailed) as caught:
        await database.ask(sql)
    assert len(caught.value.message) > 20
    async with session(shop) as looking:
        assert await looking.fetchrow("SELECT count(*), (SELECT last_value FROM s) FROM t") == (0, 1)


async def test_questions_are_asked_as_the_tools_user(database: PostgresDatabase, shop: Connect) -> None:
    assert (await database.ask("SELECT current_user::text")).rows == ((shop.user,),)
