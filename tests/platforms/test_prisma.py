"""Real Prisma, from npm: its deploy, Backout's rollback, its status, its deploy again.

Only its native engine is stood in for, by prisma/schema-engine.mjs.
"""

from __future__ import annotations

import asyncio
import os
import subprocess  # noqa: TID251  a test runs Prisma as a shell would
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import pytest

from bot.databases.postgres import PostgresDatabase
from bot.errors import Refusal, StepFailed
from bot.model import History, Plan
from bot.place import Connect
from bot.rollback import route
from bot.runners.local import LocalRunner
from bot.settings import inherited
from bot.tools.prisma import PrismaSettings, PrismaTool
from bot.tools.prisma_rows import LOCK, checksum
from tests.conftest import MakeDatabase
from tests.contract.test_every_tool import made
from tests.contract.test_migration_tool import Doing

EQUIPMENT = Path(__file__).parent / "prisma"
FIRST, SECOND, THIRD = "20240101000000_initial_setup", "20240102000000_add_user_fields", "20240103000000_add_escrow_status"
SCRIPTS: Mapping[str, tuple[str, str]] = {
    FIRST: ('CREATE TABLE "User" ("id" SERIAL PRIMARY KEY, "email" TEXT NOT NULL);\n', 'DROP TABLE "User";\n'),
    SECOND: ('ALTER TABLE "User" ADD COLUMN "kyc" TEXT;\n', 'ALTER TABLE "User" DROP COLUMN "kyc";\n'),
    THIRD: (
        "CREATE TYPE \"Status\" AS ENUM ('CREATED', 'ACTIVE');\n"
        'CREATE TABLE "Escrow" ("id" SERIAL PRIMARY KEY, "status" "Status" NOT NULL DEFAULT \'CREATED\');\n',
        'DROP TABLE "Escrow";\nDROP TYPE "Status";\n',
    ),
}
SCHEMA = """
datasource db {
  provider = "postgresql"
}
model User {
  id    Int    @id @default(autoincrement())
  email String
  kyc   String?
}
model Escrow {
  id     Int    @id @default(autoincrement())
  status Status @default(CREATED)
}
enum Status {
  CREATED
  ACTIVE
}
"""
CONFIG = """
import { defineConfig } from 'prisma/config'
export default defineConfig({ schema: 'prisma/schema.prisma', migrations: { path: 'prisma/migrations' },
  datasource: { url: process.env.DATABASE_URL, shadowDatabaseUrl: process.env.SHADOW_DATABASE_URL } })
"""


class Web:
    """A project with Prisma, and its database."""

    def __init__(self, directory: Path, own: Connect, server: Connect) -> None:
        self.directory, self.own, self.server = directory, own, server
        self.migrations = directory / "prisma" / "migrations"
        self.migrations.mkdir(parents=True)
        (directory / "node_modules").symlink_to(EQUIPMENT / "node_modules")
        (directory / "prisma" / "schema.prisma").write_text(SCHEMA)
        (directory / "prisma.config.ts").write_text(CONFIG)
        (self.migrations / "migration_lock.toml").write_text('provider = "postgresql"\n')
        for name, (up, down) in SCRIPTS.items():
            self.add(name, up, down)

    def add(self, name: str, up: str, down: str | None = None) -> None:
        (self.migrations / name).mkdir()
        (self.migrations / name / "migration.sql").write_text(up)
        if down is not None:
            (self.migrations / name / "down.sql").write_text(down)

    def prisma(self, *words: str) -> tuple[int, str]:
        """As a person would: exit code and output."""
        done = subprocess.run(
            ["node_modules/.bin/prisma", *words], cwd=self.directory, check=False, capture_output=True, text=True, timeout=300,
            env={
                "PATH": os.environ["PATH"], "HOME": str(self.directory), "DATABASE_URL": self.own.url(), "CHECKPOINT_DISABLE": "1",  # noqa: TID251
                "PRISMA_SCHEMA_ENGINE_BINARY": str(EQUIPMENT / "schema-engine.mjs"), "PRISMA_HIDE_UPDATE_MESSAGE": "1", "NO_COLOR": "1",
            },
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def deploy(self) -> str:
        """What was applied is looked up by the tests: a Prisma without its engine ends with 0 as well."""
        code, output = self.prisma("migrate", "deploy")
        assert code == 0, output
        return output

    def clean(self) -> None:
        code, output = self.prisma("migrate", "status")
        assert (code, "up to date" in output) == (0, True), output

    def tool(self, **settings: Any) -> PrismaTool:
        database = PostgresDatabase(target="web", tool=self.own, admin=self.server)
        given = PrismaSettings(directory=self.directory, **settings)
        return PrismaTool(given, LocalRunner(LocalRunner.Settings()), database, inherited=inherited())

    async def planned(self, to: str) -> Plan:
        history = await self.tool().read()
        from_, down_to, undone = route.route(to, history)
        return made(history, from_, down_to, undone=route.undone_of(undone))

    async def back(self, to: str, **settings: Any) -> dict[str, Any]:
        return dict(await self.tool(**settings).downgrade(to, Doing(await self.planned(to))))

    def sql(self, statement: str) -> list[Any]:
        with psycopg.connect(self.own.url(), autocommit=True) as session:
            done = session.execute(statement)  # type: ignore[arg-type]
            return done.fetchall() if done.description else []

    def rows(self) -> list[tuple[str, bool, bool]]:
        """(name, finished, rolled back), in the order in which they began."""
        return self.sql("SELECT migration_name, finished_at IS NOT NULL, rolled_back_at IS NOT NULL FROM _prisma_migrations ORDER BY started_at, 1")

    def tables(self) -> set[str]:
        return {row[0] for row in self.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '^_'")}


@pytest.fixture
def web(server: Connect, make_database: MakeDatabase, tmp_path: Path) -> Web:
    assert (EQUIPMENT / "node_modules" / ".bin" / "prisma").exists(), "make test-platforms installs it"
    return Web(tmp_path / "web", make_database("web"), server)


async def test_deployed_taken_back_clean_and_deployed_again(web: Web) -> None:
    web.deploy()
    assert web.rows() == [(FIRST, True, False), (SECOND, True, False), (THIRD, True, False)]
    web.clean()
    history = await web.tool().read()
    assert history.current == (THIRD,)
    assert not any("edited" in one for one in history.remarks), "its checksums are the files'"

    facts = await web.back(SECOND)
    assert (facts["revisions"], facts["transactions"]) == ([THIRD], 1)
    assert web.tables() == {"User"}
    code, output = web.prisma("migrate", "status")
    assert (code, THIRD in output) == (1, True), "its directory is still there: Prisma would apply it again, as the plan said"
    kept = {file.name: file.read_text() for file in (web.migrations / THIRD).iterdir()}
    for file in list((web.migrations / THIRD).iterdir()):
        file.unlink()
    (web.migrations / THIRD).rmdir()
    web.clean()
    assert "No pending migrations" in web.deploy()
    assert web.tables() == {"User"}

    web.add(THIRD, kept["migration.sql"], kept["down.sql"])
    web.deploy()
    assert web.tables() == {"User", "Escrow"}
    assert (await web.tool().read()).current == (THIRD,)
    web.clean()


async def test_forward_again_by_backout_is_what_a_deploy_does(web: Web) -> None:
    web.deploy()
    plan = await web.planned(FIRST)
    await web.tool().downgrade(FIRST, Doing(plan))
    history = await web.tool().read()
    assert any("taken back and its directory is still there" in one for one in history.remarks)
    from_, to, applied = route.forward("head", history)
    scripts = {one.revision: one.sha256 for one in applied}
    await web.tool().upgrade(to, Doing(plan, step="upgrade"), from_=(from_,), scripts=scripts)
    web.clean()
    assert web.deploy().count("No pending migrations") == 1
    [(sums, steps, logs)] = web.sql(
        f"SELECT checksum, applied_steps_count, logs FROM _prisma_migrations WHERE migration_name = '{THIRD}' AND rolled_back_at IS NULL"
    )
    assert (sums, steps, logs) == (checksum(SCRIPTS[THIRD][0]), 1, None)


async def test_a_database_that_backout_builds_from_nothing_is_prismas(web: Web) -> None:
    plan = made(History(revisions=(), heads=(), bases=(), current=()), "base", THIRD, undone=())
    await web.tool().upgrade(THIRD, Doing(plan), from_=(), scripts=None)
    web.clean()
    assert "No pending migrations" in web.deploy()


async def test_a_reverse_migration_is_what_the_team_commits(web: Web) -> None:
    web.deploy()
    facts = await web.back(SECOND, history="forward")
    [file] = facts["files"]
    assert file["path"].endswith(f"_reverse_of_{THIRD}/migration.sql")
    assert web.tables() == {"User"}
    assert (await web.tool().read()).current == (SECOND,)
    there = web.directory / file["path"]
    there.parent.mkdir()
    there.write_text(file["text"])
    web.clean()
    assert "No pending migrations" in web.deploy()
    assert (await web.tool().read()).current == (SECOND,)


async def test_a_migration_that_failed_half_way_is_found_said_and_marked(web: Web) -> None:
    web.deploy()
    broken = "20240104000000_broken"
    web.add(broken, 'CREATE TABLE "Half" ("id" INT);\nSELECT 1/0;\n', 'DROP TABLE "Half";\n')
    code, output = web.prisma("migrate", "deploy")
    assert code != 0, output
    assert (broken, False, False) in web.rows()
    history = await web.tool().read()
    assert history.current == (broken,)
    assert any(f"{broken} failed half-way" in one for one in history.remarks)
    await web.back(THIRD)
    assert (broken, False, True) in web.rows()
    assert "Half" not in web.tables()
    (web.migrations / broken / "migration.sql").write_text('CREATE TABLE "Half" ("id" INT);\n')
    web.deploy()
    assert "Half" in web.tables()
    web.clean()


async def test_an_edited_file_is_said_though_prisma_says_nothing(web: Web) -> None:
    web.deploy()
    file = web.migrations / SECOND / "migration.sql"
    file.write_text(file.read_text() + "-- edited\n")
    web.clean()
    assert any(f"{SECOND} was edited after it was applied" in one for one in (await web.tool().read()).remarks)


async def test_a_deploy_that_is_running_is_refused_by_name(web: Web) -> None:
    web.deploy()
    doing = Doing(await web.planned(SECOND))
    deploy = await asyncpg.connect(web.own.url(), server_settings={"application_name": "ci deploy"})
    try:
        await deploy.execute(f"SELECT pg_advisory_lock({LOCK})")
        with pytest.raises(StepFailed, match=rf"`prisma migrate` is running: session {deploy.get_server_pid()} \(ci deploy\).*Nothing was executed"):
            await web.tool().downgrade(SECOND, doing)
    finally:
        await deploy.close()
    assert web.tables() == {"User", "Escrow"}


async def test_while_backout_works_a_deploy_waits(web: Web) -> None:
    web.deploy()
    (web.migrations / THIRD / "down.sql").write_text("SELECT pg_advisory_lock(77);\n" + SCRIPTS[THIRD][1])
    web.add("20240105000000_later", 'CREATE TABLE "Later" ("id" INT);\n')
    doing = Doing(await web.planned(SECOND))
    holder = await asyncpg.connect(web.own.url())
    try:
        await holder.execute("SELECT pg_advisory_lock(77)")
        work = asyncio.create_task(web.tool(lock_timeout="2m").downgrade(SECOND, doing))
        while not await holder.fetchval("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"):
            assert not work.done(), work
            await asyncio.sleep(0.02)
        code, output = await asyncio.to_thread(web.prisma, "migrate", "deploy")
        assert code != 0, output
        assert "Later" not in web.tables()
    finally:
        await holder.close()
    await work
    assert web.tables() == {"User"}


async def test_prisma_writes_the_way_down_that_nobody_wrote(web: Web, journal_server: Connect) -> None:
    """In a shadow database of another server; the target's address is not among what it gets."""
    web.deploy()
    (web.migrations / THIRD / "down.sql").unlink()
    assert (await web.tool().read()).revisions[0].why.startswith("there is no down.sql beside")
    with psycopg.connect(journal_server.url(), autocommit=True) as session:
        session.execute("CREATE DATABASE shadow")
    shadow = journal_server.model_copy(update={"database": "shadow"}).url()
    env = {"DATABASE_URL": "{url}", "PRISMA_SCHEMA_ENGINE_BINARY": str(EQUIPMENT / "schema-engine.mjs"), "CHECKPOINT_DISABLE": "1"}
    tool = web.tool(shadow=shadow, env=env, read_timeout="5m")
    history = await tool.read()
    newest = history.revisions[0]
    assert (newest.downgrade, newest.why) == ("real", "")
    assert "can't know data" in newest.message
    assert 'DROP TABLE "public"."Escrow"' in newest.source
    from_, to, undone = route.route(SECOND, history)
    assert [one.script for one in route.undone_of(undone)] == [newest.source], "people are shown all of it"
    facts = await tool.downgrade(to, Doing(made(history, from_, to, undone=route.undone_of(undone))))
    assert facts["transactions"] == 1
    assert web.tables() == {"User"}
    assert web.sql("SELECT to_regtype('\"Status\"')") == [(None,)]


async def test_a_shadow_that_is_not_empty_or_on_the_targets_server_is_refused(web: Web, make_database: MakeDatabase) -> None:
    web.deploy()
    (web.migrations / THIRD / "down.sql").unlink()
    with pytest.raises(Refusal, match="on the target's own server") as refused:
        await web.tool(shadow=make_database("shadow").url()).read()
    assert refused.value.code == "shadow_unusable"
    with pytest.raises(Refusal, match="on the target's own server"):
        await web.tool(shadow=web.own.url()).read()
    assert web.tables() == {"User", "Escrow"}


async def test_the_schema_is_compared_with_the_database_by_prisma_itself(web: Web) -> None:
    """In a session that can only read: it finds the model that the rollback took away, until the schema follows."""
    web.deploy()
    env = {"DATABASE_URL": "{url}", "SHADOW_DATABASE_URL": "{url}", "PRISMA_SCHEMA_ENGINE_BINARY": str(EQUIPMENT / "schema-engine.mjs")}
    tool = web.tool(env=env, read_timeout="5m")
    plan = await web.planned(SECOND)
    assert (await tool.code(plan)).same is True
    await tool.downgrade(SECOND, Doing(plan))
    seen = await tool.code(plan)
    assert (seen.same, "Escrow" in seen.difference) == (False, True), seen
    assert seen.left == (
        f"prisma/migrations/{THIRD} is still in the code: the next `prisma migrate deploy` applies it again. Take the directory out",
    )
    schema = web.directory / "prisma" / "schema.prisma"
    schema.write_text(schema.read_text().partition("model Escrow")[0])
    assert (await tool.code(plan)).same is True
    assert web.tables() == {"User"}
