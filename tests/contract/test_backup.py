"""A dump and the directory it is kept in: whole, proven, private; and nothing but a partial file when it is interrupted."""

# ruff: noqa: ASYNC240  looks at small local files

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import hashlib
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest

from bot.backups import BACKUPS
from bot.backups.dump import DumpBackup
from bot.databases.postgres import PostgresDatabase
from bot.durable import application
from bot.embedded import binaries
from bot.errors import ConfigError, Refusal, StepFailed
from bot.model import Connect, Plan
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


async def test_a_cancelled_dump_leaves_no_program_and_only_a_partial_file(
    shop: Connect, server: Connect, store: DirectoryStore, tmp_path: Path
) -> None:
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
    assert list(partial.parent.iterdir()) == [partial]
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
def test_a_name_that_is_no_plain_file_name_is_refused(store: DirectoryStore, name: str) -> None:
    with pytest.raises(Refusal):
        store.partial(name)


async def test_what_is_kept_has_its_checksum_and_nothing_partial_stays(store: DirectoryStore) -> None:
    await store.ready()
    store.partial("a.dump").write_bytes(b"an earlier try")
    partial = store.partial("a.dump")
    assert partial.read_bytes() == b""
    partial.write_bytes(b"whole")
    path, sha256, size = await store.keep("a.dump")
    assert (path.read_bytes(), size, partial.exists()) == (b"whole", 5, False)
    assert sha256 == await store.checksum("a.dump") == hashlib.sha256(b"whole").hexdigest()
    with pytest.raises(StepFailed):
        await store.keep("a.dump")
    await store.remove("a.dump")
    assert await store.checksum("a.dump") is None
