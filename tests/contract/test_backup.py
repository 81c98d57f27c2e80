"""A dump and the directory it is kept in: whole, proven, private; and nothing when it is interrupted."""

# ruff: noqa: ASYNC240  looks at small local files

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime as dt
import hashlib
import shlex
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.backups import BACKUPS
from bot.backups.dump import DumpBackup
from bot.backups.restoring import Said
from bot.databases.bounds import waiters
from bot.databases.postgres import PostgresDatabase
from bot.durable import application
from bot.embedded import binaries
from bot.errors import ConfigError, Refusal, StepFailed
from bot.model import Plan
from bot.place import Connect, Session
from bot.process import run
from bot.settings import inherited
from bot.stores import STORES
from bot.stores.directory import DirectoryStore
from tests.conftest import MakeDatabase
from tests.contract.servers import execute, session

HOUR = dt.timedelta(hours=1)


@dataclasses.dataclass
class OneAttempt:
    """ports.Work without a journal."""

    plan: Plan
    run: str = "r1"
    step: str = "back_up"
    attempt: int = 1
    said: list[str] = dataclasses.field(default_factory=list)

    @property
    def application(self) -> str:
        return application(self.run, self.step, self.attempt)

    async def may_begin(self) -> bool:
        return True

    async def remember(self, **facts: Any) -> None: ...

    async def progress(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def shop(make_database: MakeDatabase) -> Connect:
    return make_database("shop")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    return STORES["directory"](tmp_path / "backups")


def dump_of(connect: Connect, store: DirectoryStore) -> DumpBackup:
    return BACKUPS["dump"](store, connect, DumpBackup.Settings(), embedded=binaries)


async def attempt_on(connect: Connect) -> OneAttempt:
    identity = await PostgresDatabase(target="shop", tool=connect, admin=connect).identity()
    return OneAttempt(Plan(target="shop", from_="2", to="1", undone=(), steps=(), identity=identity))


async def refusal(asking: Any) -> str:
    with pytest.raises(Refusal) as caught:
        await asking
    assert caught.value.next
    return caught.value.code


# ------------------------------------------------------------------ the dump


async def test_a_dump_is_restored_by_the_commands_it_gives(shop: Connect, server: Connect, store: DirectoryStore) -> None:
    await execute(shop, "CREATE TABLE orders AS SELECT n, n * 1.5 AS price FROM generate_series(1, 1000) n")
    admin = server.model_copy(update={"database": shop.database})
    backup = dump_of(admin, store)
    await backup.ready(180004)
    file = await backup.take("shop-r1.dump", await attempt_on(admin))
    assert (file.format, file.size) == ("custom", Path(file.path).stat().st_size)
    assert file.objects >= 2
    assert await backup.usable(file)
    env = {**inherited(), "PATH": str(binaries()), "PGPASSWORD": server.password}
    for command in backup.how_to_restore(file):
        assert server.password not in command
        program, *arguments = shlex.split(command)
        done = await run([str(binaries() / program), *arguments], env=env, timeout=HOUR)
        assert done.code == 0, done.output
    async with session(server.model_copy(update={"database": f"{shop.database}_restored"})) as restored:
        assert [tuple(row) for row in await restored.fetch("SELECT count(*), sum(price) FROM orders")] == [(1000, 750750)]
    await execute(server, f'DROP DATABASE "{shop.database}_restored" WITH (FORCE)')


async def test_it_is_private_and_says_how_far_it_is(shop: Connect, store: DirectoryStore) -> None:
    await execute(shop, "CREATE TABLE big AS SELECT n, gen_random_uuid() AS a, gen_random_uuid() AS b FROM generate_series(1, 200000) n")
    work = await attempt_on(shop)
    file = await dump_of(shop, store).take("shop-r1.dump", work)
    assert stat.S_IMODE(Path(file.path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(file.path).parent.stat().st_mode) == 0o700
    assert any(text.startswith("dump: ") and text.endswith(" MB") for text in work.said), work.said


async def test_a_cancelled_dump_leaves_no_program_and_no_file(shop: Connect, server: Connect, store: DirectoryStore, tmp_path: Path) -> None:
    partial = tmp_path / "backups" / "shop-r1.dump.partial"
    await execute(shop, "CREATE TABLE orders (n int)")
    backup, work, database = dump_of(shop, store), await attempt_on(shop), PostgresDatabase(target="shop", tool=shop, admin=server)
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK TABLE orders")
        taking = asyncio.create_task(backup.take("shop-r1.dump", work))
        async with asyncio.timeout(60):
            while not await database.blockers(work.application):  # noqa: ASYNC110  the server makes it true
                await asyncio.sleep(0.05)
        assert not [line for line in command_lines() if shop.password in line]
        assert [line for line in command_lines() if str(partial) in line]
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert not [line for line in command_lines() if str(partial) in line]
        await database.end_sessions(work.application)
    assert list(partial.parent.iterdir()) == []
    file = await backup.take("shop-r1.dump", work)
    assert list(partial.parent.iterdir()) == [Path(file.path)]


def command_lines() -> list[str]:
    lines = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return lines


async def test_a_table_that_stays_locked_fails_the_dump_and_makes_nobody_wait_for_long(shop: Connect, store: DirectoryStore) -> None:
    await execute(shop, "CREATE TABLE orders (n int)")
    async with session(shop) as holder, holder.transaction():
        await holder.execute("LOCK TABLE orders")
        with pytest.raises(StepFailed, match="kept a table locked for 5 s"):
            await dump_of(shop, store).take("shop-r1.dump", await attempt_on(shop))


async def test_rows_that_row_security_hides_fail_the_dump_by_table_and_way_out(shop: Connect, server: Connect, store: DirectoryStore) -> None:
    await execute(
        shop,
        'CREATE TABLE "my secret" AS SELECT 1 AS n',
        'ALTER TABLE "my secret" ENABLE ROW LEVEL SECURITY',
        'ALTER TABLE "my secret" FORCE ROW LEVEL SECURITY',
    )
    with pytest.raises(StepFailed, match=r'"my secret".*BYPASSRLS as the target.s `admin`'):
        await dump_of(shop, store).take("shop-r1.dump", await attempt_on(shop))
    assert await store.checksum("shop-r1.dump") is None
    admin = server.model_copy(update={"database": shop.database})
    await dump_of(admin, store).take("shop-r1.dump", await attempt_on(admin))


async def test_a_table_that_the_role_may_not_read_is_named(shop: Connect, server: Connect, store: DirectoryStore) -> None:
    await execute(server.model_copy(update={"database": shop.database}), "CREATE TABLE hidden ()")
    with pytest.raises(StepFailed, match="may not read table hidden"):
        await dump_of(shop, store).take("shop-r1.dump", await attempt_on(shop))


async def test_a_wrong_password_fails_without_being_shown(shop: Connect, store: DirectoryStore) -> None:
    wrong = shop.model_copy(update={"password": "guessed-it"})
    with pytest.raises(StepFailed) as caught:
        await dump_of(wrong, store).take("shop-r1.dump", await attempt_on(shop))
    assert "guessed-it" not in f"{caught.value} {caught.value.facts}"


async def test_a_hostile_database_name_is_dumped_and_not_obeyed(make_database: MakeDatabase, store: DirectoryStore) -> None:
    hostile = make_database("dbname=postgres host='x'; \"y\"")
    await execute(hostile, "CREATE TABLE inside (n int)")
    backup = dump_of(hostile, store)
    file = await backup.take("odd.dump", await attempt_on(hostile))
    listed = await run([str(binaries() / "pg_restore"), "--list", file.path], env=inherited(), timeout=HOUR)
    assert "TABLE public inside" in listed.output
    assert [shlex.split(command)[-1 if command.startswith("createdb") else -2] for command in backup.how_to_restore(file)] == ["restored", "restored"]


async def test_a_torn_dump_does_not_count(shop: Connect, store: DirectoryStore) -> None:
    await execute(shop, "CREATE TABLE orders AS SELECT n, gen_random_uuid() FROM generate_series(1, 5000) n")
    backup = dump_of(shop, store)
    file = await backup.take("shop-r1.dump", await attempt_on(shop))
    whole = Path(file.path).read_bytes()
    Path(file.path).write_bytes(whole[: len(whole) // 2])
    assert not await backup.usable(file)
    with pytest.raises(StepFailed, match="can't be read back"):
        await backup._prove(await backup._client(18), Path(file.path))
    await backup.remove(file)
    assert not Path(file.path).exists()
    assert not await backup.usable(file)
    await backup.remove(file)


async def test_clients_that_will_not_do_are_refused_beforehand(shop: Connect, store: DirectoryStore) -> None:
    assert await refusal(dump_of(shop, store).ready(190000)) == "client_older_than_server"
    backup = dump_of(shop.model_copy(update={"sslmode": "verify-full"}), store)
    assert await refusal(backup.ready(160014)) == "tls_unsupported"

    def nowhere(major: int) -> Path:
        raise ConfigError(f"no {major} here")

    alone = DumpBackup(store, shop, DumpBackup.Settings(), embedded=nowhere)
    assert await refusal(alone.ready(160014)) == "tool_missing"


# ------------------------------------------------------------------ a dump in somebody's way


async def test_a_dump_that_makes_somebody_wait_ends_and_the_waiter_goes_on(shop: Connect, server: Connect, store: DirectoryStore) -> None:
    await execute(shop, "CREATE TABLE orders (n int)")
    admin, work = server.model_copy(update={"database": shop.database}), await attempt_on(shop)
    asked = []

    async def waiting(application: str) -> tuple[Session, ...]:
        asked.append(application)
        return await waiters(server, application)

    backup = DumpBackup(store, admin, DumpBackup.Settings(), embedded=binaries, waiters=waiting)
    async with session(admin) as holder, session(shop) as patient:
        # What pg_dump reads after it has locked the tables: it goes no further, and keeps their locks.
        await holder.execute("BEGIN; LOCK pg_largeobject_metadata")
        taking = asyncio.create_task(backup.take("shop-r1.dump", work))
        await seen(server, "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock')", work.application)
        altering = asyncio.create_task(patient.execute("ALTER TABLE orders ADD m int"))
        with pytest.raises(StepFailed, match=rf"made others wait .* session {patient.get_server_pid()} of {shop.user}") as caught:
            await taking
        assert caught.value.facts["waited"][0]["query"] == "ALTER TABLE orders ADD m int"
        async with asyncio.timeout(60):
            await altering
    assert set(asked) == {work.application}
    assert await store.checksum("shop-r1.dump") is None


async def seen(server: Connect, sql: str, *values: Any) -> None:
    async with session(server) as look, asyncio.timeout(60):
        while not await look.fetchval(sql, *values):  # noqa: ASYNC110  the server makes it true
            await asyncio.sleep(0.05)


# ------------------------------------------------------------------ restored


@asynccontextmanager
async def empty_database(server: Connect, name: str = "dbname='restored' \\ \"it\"") -> AsyncIterator[Connect]:
    quoted = '"' + name.replace('"', '""') + '"'
    await execute(server, f"CREATE DATABASE {quoted} TEMPLATE template0")
    try:
        yield server.model_copy(update={"database": name})
    finally:
        await execute(server, f"DROP DATABASE {quoted} WITH (FORCE)")


async def test_a_dump_is_restored_with_owners_grants_policies_and_triggers_and_without_ways_out(
    shop: Connect, server: Connect, store: DirectoryStore
) -> None:
    admin = server.model_copy(update={"database": shop.database})
    await execute(
        shop,
        "CREATE TABLE orders AS SELECT n, n * 1.5 AS price FROM generate_series(1, 1000) n",
        "GRANT SELECT ON orders TO PUBLIC",
        "ALTER TABLE orders ENABLE ROW LEVEL SECURITY",
        "ALTER TABLE orders FORCE ROW LEVEL SECURITY",
        "CREATE POLICY mine ON orders USING (n = 1)",
        "SELECT lo_from_bytea(4711, 'large')",
    )
    await execute(
        admin,
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER watchful ON sql_drop EXECUTE FUNCTION f()",
        "CREATE PUBLICATION pub FOR TABLE orders",
        "CREATE SUBSCRIPTION feed CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p WITH (connect = false)",
    )
    backup, work = dump_of(admin, store), await attempt_on(admin)
    file = await backup.take("shop-r1.dump", work)
    async with empty_database(server) as there:
        await execute(there, "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$")
        assert await backup.restore(file, there, 180004, work) == ()
        async with session(there, row_security="off") as restored:
            assert await restored.fetchval("SELECT count(*) FROM orders") == 1000
            assert await restored.fetchval("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'orders'") == shop.user
            assert await restored.fetchval("SELECT has_table_privilege('public', 'orders', 'SELECT')")
            assert await restored.fetchval("SELECT relforcerowsecurity FROM pg_class WHERE relname = 'orders'")
            assert await restored.fetchval("SELECT evtname::text FROM pg_event_trigger") == "watchful"
            assert await restored.fetchval("SELECT lo_get(4711)") == b"large"
            assert await restored.fetchval("SELECT count(*) FROM pg_publication") == 0
            feeds = "SELECT count(*) FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())"
            assert await restored.fetchval(feeds) == 0
    assert any(text.startswith("restore: ") and text.endswith(" %") for text in work.said), work.said
    await execute(admin, "ALTER SUBSCRIPTION feed SET (slot_name = NONE)", "DROP SUBSCRIPTION feed")


async def test_no_secret_is_in_a_command_line_while_it_restores(shop: Connect, server: Connect, store: DirectoryStore) -> None:
    await execute(shop, "CREATE TABLE orders (n int)")
    backup, work = dump_of(shop, store), await attempt_on(shop)
    file = await backup.take("shop-r1.dump", work)
    async with empty_database(server) as there, session(there) as holder:
        await holder.execute("BEGIN; LOCK pg_proc")  # it goes no further than its first look
        restoring = asyncio.create_task(backup.restore(file, there, 180004, work))
        async with asyncio.timeout(60):
            while not any("pg_restore" in line for line in command_lines()):  # noqa: ASYNC110  the program makes it true
                await asyncio.sleep(0.02)
        assert not [line for line in command_lines() if server.password in line]
        restoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restoring
        assert not [line for line in command_lines() if str(file.path) in line]


async def test_data_that_breaks_its_own_constraint_can_not_be_restored_and_the_constraint_is_named(
    shop: Connect, server: Connect, store: DirectoryStore
) -> None:
    admin = server.model_copy(update={"database": shop.database})
    await execute(
        shop,
        "CREATE TABLE customers (id int PRIMARY KEY)",
        "CREATE TABLE orders (id int PRIMARY KEY, customer int CONSTRAINT orders_customer REFERENCES customers)",
    )
    await execute(admin, "SET session_replication_role = replica", "INSERT INTO orders VALUES (1, 4242)")
    backup, work = dump_of(admin, store), await attempt_on(admin)
    file = await backup.take("shop-r1.dump", work)
    async with empty_database(server) as there:
        with pytest.raises(StepFailed, match=r"This backup can't be restored: FK CONSTRAINT orders orders_customer: .*violates") as caught:
            await backup.restore(file, there, 180004, work)
        assert "4242" not in f"{caught.value} {caught.value.facts}"


async def test_what_is_no_data_is_ignored_and_said(shop: Connect, server: Connect, journal_server: Connect, store: DirectoryStore) -> None:
    admin = server.model_copy(update={"database": shop.database})
    await execute(
        admin,
        f'SET ROLE "{shop.user}"',
        "CREATE TABLE orders AS SELECT 1 AS n",
        "RESET ROLE",
        "CREATE FUNCTION f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
        "CREATE EVENT TRIGGER watchful ON sql_drop EXECUTE FUNCTION f()",
    )
    backup, work = dump_of(admin, store), await attempt_on(admin)
    file = await backup.take("shop-r1.dump", work)
    async with empty_database(journal_server) as there:  # where that owner is unknown
        said = await backup.restore(file, there, 180004, work)
        assert said == (f'TABLE orders: role "{shop.user}" does not exist',)
        async with session(there) as restored:
            assert await restored.fetchval("SELECT n FROM orders") == 1
    async with empty_database(server) as there:
        await execute(server, f"""DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO %I', $n${there.database}$n$, '{shop.user}'); END $$""")
        said = await backup.restore(file, shop.model_copy(update={"database": there.database}), 180004, work)
        assert 'EVENT TRIGGER watchful: permission denied to create event trigger "watchful"' in said


async def test_a_table_that_can_not_be_filled_is_no_restore(shop: Connect, server: Connect, store: DirectoryStore) -> None:
    await execute(shop, "CREATE TABLE orders AS SELECT 'a-private-value' AS v")
    backup, work = dump_of(shop, store), await attempt_on(shop)
    file = await backup.take("shop-r1.dump", work)
    async with empty_database(server) as there:
        await execute(there, "CREATE TABLE orders (v int)")
        with pytest.raises(StepFailed, match=r"can't be restored: TABLE orders: relation .* already exists") as caught:
            await backup.restore(file, there, 180004, work)
        assert any("TABLE DATA orders: COPY failed" in line for line in caught.value.facts["errors"])
        assert "private" not in f"{caught.value} {caught.value.facts}"


async def test_a_torn_or_changed_dump_is_not_restored(shop: Connect, server: Connect, store: DirectoryStore) -> None:
    await execute(shop, "CREATE TABLE orders AS SELECT n, gen_random_uuid() FROM generate_series(1, 50000) n")
    backup, work = dump_of(shop, store), await attempt_on(shop)
    file = await backup.take("shop-r1.dump", work)
    whole = Path(file.path).read_bytes()
    async with empty_database(server) as there:
        for content in (whole[: len(whole) // 2], whole[:-1] + b"x"):
            Path(file.path).write_bytes(content)
            with pytest.raises(StepFailed, match="is not the file that was made"):
                await backup.restore(file, there, 180004, work)
        async with session(there) as untouched:
            assert await untouched.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
        # torn before its checksum was taken: nobody but pg_restore can see it
        Path(file.path).write_bytes(torn := whole[: len(whole) // 2])
        lying = file.model_copy(update={"sha256": hashlib.sha256(torn).hexdigest()})
        with pytest.raises(StepFailed, match="can't be restored"):
            await backup.restore(lying, there, 180004, work)
    Path(file.path).unlink()
    with pytest.raises(StepFailed, match="is gone"):
        await backup.restore(file, server, 180004, work)


def test_a_restore_that_did_not_come_to_its_end_is_no_success() -> None:
    said = Said()
    for line in ("pg_restore: from TOC entry 5; 0 0 COMMENT EXTENSION x ", 'pg_restore: error: could not execute query: ERROR:  no such "x"'):
        said.hear(line)
    killed = copy.deepcopy(said)
    said.end(1, "pg_restore: warning: errors ignored on restore: 1")
    assert (said.ignored, said.fatal) == (['COMMENT EXTENSION x: no such "x"'], [])
    killed.end(-9, "")
    assert killed.fatal
    silent = Said()
    silent.end(-9, "")
    assert silent.fatal == ["pg_restore ended with -9: it said nothing"]


def test_an_error_of_another_workers_entry_is_not_taken_for_a_small_one() -> None:
    said = Said()
    said.hear("pg_restore: from TOC entry 5; 0 0 COMMENT EXTENSION x ")
    said.hear('pg_restore: error: COPY failed for table "orders": ERROR:  invalid input syntax for type integer: "a-private-value"')
    (fatal,) = said.fatal
    assert "invalid input syntax for type integer" in fatal
    assert "private" not in fatal


# ------------------------------------------------------------------ the store


async def test_a_store_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert await refusal(DirectoryStore(tmp_path / "file" / "backups").ready()) == "store_unusable"


async def test_a_store_that_everybody_may_write_to_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert await refusal(DirectoryStore(tmp_path).ready()) == "store_unusable"
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o777
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../shop.dump", "a/b", ".hidden", "", "a\nb", "a\0b", "shop.dump.partial", "x" * 300, "-rf"])
async def test_a_name_that_is_no_plain_file_name_is_refused(store: DirectoryStore, name: str) -> None:
    with pytest.raises(Refusal):
        async with store.write(name):
            pytest.fail("it was begun")
