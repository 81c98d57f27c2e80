"""The escrow platform of examples/e-escrow-prisma-railway, from Slack: its configuration as it is, on real Postgres, at a stand-in for Railway."""

from __future__ import annotations

import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from aiohttp import web

from bot.place import Connect
from bot.tools.prisma_rows import Rows
from tests.conftest import MakeDatabase
from tests.harness import CHANNEL, Bot, free_port
from tests.railway.server import ENVIRONMENT, PROJECT, PROJECT_TOKEN, VOLUME, Fault, RailwayStandIn
from tests.scenario import parts
from tests.scenario.conftest import MakeBot
from tests.scenario.real import rehearsed

EXAMPLE = Path(__file__).parents[2] / "examples" / "e-escrow-prisma-railway"
FIRST, SECOND, THIRD = "20240101000000_initial_setup", "20240102000000_add_user_fields", "20240103000000_add_escrow_status"
BACK = f"{SECOND} sev high because releases fail"
PEOPLE = {"DEV_TOKEN": "fake-dev", "SENIOR_TOKEN": "fake-senior", "LEAD_TOKEN": "fake-lead"}
#: writes messages without end, unless it is in maintenance: then it is not even in the database
APPLICATION = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while os.environ.get("MAINTENANCE_MODE") == "true":
    time.sleep(0.05)
import psycopg
with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True, application_name="escrow-api") as session:
    while True:
        session.execute("INSERT INTO messages (escrow_id, body) VALUES (1, 'still there?')")
        time.sleep(0.05)
"""
FILL = """
INSERT INTO users (wallet_address, kyc_status) SELECT '0x' || md5(g::text), 'VERIFIED' FROM generate_series(1, 100) g;
INSERT INTO escrows (buyer_id, amount, status) SELECT 1 + g % 100, g * 1.5, (ARRAY['CREATED','ACTIVE','RELEASED']::"EscrowStatus"[])[1 + g % 3]
 FROM generate_series(1, 300) g;
INSERT INTO messages (escrow_id, body) SELECT 1 + g % 300, 'm' || g FROM generate_series(1, 200) g;
"""


class Escrow:
    """The whole platform. `project` is a copy of the example, so that a story may change it."""

    def __init__(self, bot: Bot, railway: RailwayStandIn, project: Path) -> None:
        self.bot, self.railway, self.project = bot, railway, project
        self.migrations = project / "prisma" / "migrations"

    @property
    def target(self) -> dict[str, Any]:
        return dict(self.bot.config["targets"]["escrow"])

    def change(self, **keys: Any) -> None:
        self.bot.config["targets"]["escrow"].update(keys)

    def migrate(self, name: str, *, failing: str = "") -> None:
        """As `prisma migrate deploy` leaves it; `failing`: the log of a script that ended there."""
        script = (self.migrations / name / "migration.sql").read_text()
        with psycopg.connect(self.bot.target.url(), autocommit=True) as session:
            if failing:
                session.execute(
                    "INSERT INTO _prisma_migrations (id, checksum, migration_name, logs) VALUES (gen_random_uuid()::text, 'x', %s, %s)",
                    (name, failing),
                )
                return
            session.execute(script)  # type: ignore[arg-type]
            for statement in Rows("public").applied(name, script):
                session.execute(statement)  # type: ignore[arg-type]

    def add(self, name: str, up: str, down: str | None = None) -> None:
        (self.migrations / name).mkdir()
        (self.migrations / name / "migration.sql").write_text(up)
        if down is not None:
            (self.migrations / name / "down.sql").write_text(down)

    async def open(self, url: str = "") -> None:
        """The application runs and writes, and the bot is ready. `url`: how both enter, where that isn't the test's own way."""
        environ = {"DATABASE_URL": url or self.bot.target.url()}
        program = [sys.executable, "-c", APPLICATION]
        await self.railway.add("api", {**environ, "MAINTENANCE_MODE": "false"}, program=program)
        await self.railway.add("worker", environ, program=program)
        await self.railway.add("web")
        await self.writes()
        await self.bot.start()

    async def writes(self) -> None:
        newest = "SELECT count(*) FROM messages WHERE body = 'still there?' AND sent_at > now() - interval '1 second'"
        await self.bot.until(lambda: self.bot.query(newest)[0][0] > 2, what="writing")

    async def approved(self, text: str, user: str = "U0SENIOR") -> dict[str, Any]:
        card = await parts.ask(self.bot, text)
        await self.bot.slack.click(card, "approve", user)
        return card

    async def as_before(self) -> None:
        """What Railway has is what it had, and the application is at work."""
        await self.writes()
        variables = {name: one.variables.get("MAINTENANCE_MODE") for name, one in self.railway.services.items()}
        assert variables == {"api": "false", "worker": None, "web": None}
        assert {name: len(one.active) for name, one in self.railway.services.items()} == {"api": 1, "worker": 1, "web": 1}

    def checks(self) -> dict[str, dict[str, Any]]:
        """The last verification, by name."""
        rows = self.bot.journaled("select facts->'checks' from backout.attempts where step = 'verify' order by began desc limit 1")
        return {one["name"]: one for one in rows[0][0]}

    def rows(self) -> list[tuple[str, bool, bool]]:
        return self.bot.query("SELECT migration_name, finished_at IS NOT NULL, rolled_back_at IS NOT NULL FROM _prisma_migrations ORDER BY 1")


@pytest.fixture
async def escrow(make_bot: MakeBot, make_database: MakeDatabase, server: Connect, tmp_path: Path) -> AsyncIterator[Escrow]:
    project = tmp_path / "escrow"
    shutil.copytree(EXAMPLE, project)
    bot = await make_bot(start=False)
    bot.target = make_database("escrow")
    port = free_port()
    async with RailwayStandIn() as railway, healthy(port):
        bot.config = yaml.safe_load((EXAMPLE / "backout.yml").read_text())
        found = Escrow(bot, railway, project)
        target = bot.config["targets"]["escrow"]
        assert target["channels"] == [CHANNEL]
        target["tool"]["directory"] = str(project)
        target["backups"]["store"] = str(bot.root / "backups")
        target["watch"] = "1s"
        target["platform"] |= {"api": railway.api, "within": "20s"}
        target["backups"]["provider"]["api"] = railway.api
        bot.environ |= {
            **PEOPLE, "ESCROW_DATABASE_URL": bot.target.url(), "ESCROW_HEALTH_URL": f"http://127.0.0.1:{port}/health", "RAILWAY_TOKEN": PROJECT_TOKEN,
            "ESCROW_ADMIN_URL": server.model_copy(update={"database": bot.target.database}).url(), "RAILWAY_PROJECT_ID": PROJECT,
            "RAILWAY_ENVIRONMENT_ID": ENVIRONMENT, "RAILWAY_VOLUME_INSTANCE_ID": VOLUME,
        }  # fmt: skip
        for name in (FIRST, SECOND, THIRD):
            found.migrate(name)
        parts.execute(bot, FILL)
        try:
            yield found
        finally:
            if bot.process is not None:
                await bot.kill()
            with psycopg.connect(server.url(), autocommit=True) as session:
                for (name,) in bot.journaled("select file->>'name' from backout.backups where file->>'format' = 'clone'"):
                    session.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')  # type: ignore[arg-type]


class healthy:  # noqa: N801  a context manager, used as a verb
    """The runbook's health endpoint."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> None:
        app = web.Application()
        app.router.add_get("/health", self._say)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _say(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "healthy", "services": {"database": {"status": "connected"}}})


def files(bot: Bot) -> dict[str, str]:
    return {one.name: one.text for one in bot.slack.files()}


VALUES = {"no user, escrow or message lost", "all amounts"}
NEVER = {
    "indexes of the first migration", "foreign keys of the first migration", "users without a wallet", "escrows with a negative amount",
    "escrows whose buyer is gone",
}  # fmt: skip


# ------------------------------------------------------------------ a migration goes back


async def test_a_migration_with_a_down_sql_goes_back_in_maintenance_and_every_query_of_the_runbook_is_answered(escrow: Escrow) -> None:
    bot = escrow.bot
    await escrow.open()
    statuses = bot.query("SELECT id, status::text FROM escrows ORDER BY id")
    await escrow.approved(BACK)
    found = rehearsed(bot)
    assert (found["done"], found["expected"], found["forward"]) == (True, "same", "works"), found
    await parts.ends(bot, "succeeded")

    checks = escrow.checks()
    assert {name: checks[name]["ok"] for name in VALUES | NEVER} == dict.fromkeys(VALUES | NEVER, True), checks
    assert checks["active escrows"]["before"] == "100"
    assert (checks["locked funds"]["ok"], checks["all indexes"]["ok"], checks["all foreign keys"]["ok"]) == (None, None, None)
    assert escrow.rows() == [(FIRST, True, False), (SECOND, True, False), (THIRD, True, True)]
    steps = bot.journaled("select step, state, summary from backout.attempts where step not in ('back_up', 'rehearse') order by began")
    assert {state for _, state, _ in steps} == {"done"}, steps
    told = {step: summary for step, _, summary in steps}
    assert "api in maintenance (MAINTENANCE_MODE=true); worker in maintenance" in told["stop_writers"]
    assert "nobody else is in the database" in told["stop_writers"]
    assert told["start_writers"] == "api runs; worker runs; web restarted"
    assert "healthy" in told["look_at_health"] or "HTTP 200" in told["look_at_health"]
    await escrow.as_before()

    report = await bot.reported()
    assert "## The code" in report
    assert f"prisma/migrations/{THIRD} is still in the code" in report.replace("\\", "")
    assert "was not compared with it: Prisma isn't installed where the tool runs" in report.replace("\\", "")
    assert "still in the code" in bot.thread()
    assert PROJECT_TOKEN not in bot.log.read_text() + report + bot.thread()

    card = await escrow.approved("reapply head sev high because it is mended")
    assert card
    await parts.ends(bot, "succeeded")
    assert bot.query("SELECT id, status::text FROM escrows ORDER BY id") == statuses, "what was destroyed came back"
    await escrow.as_before()


async def test_rolled_forward_the_reverse_migration_is_a_file_in_the_thread(escrow: Escrow) -> None:
    bot = escrow.bot
    escrow.bot.config["targets"]["escrow"]["tool"]["history"] = "forward"
    await escrow.open()
    await escrow.approved(BACK)
    await parts.ends(bot, "succeeded")
    [(name, text)] = [(name, text) for name, text in files(bot).items() if "_reverse_of_" in name]
    assert name == f"20240103000001_reverse_of_{THIRD}.sql"
    assert text.endswith((escrow.migrations / THIRD / "down.sql").read_text())
    assert f"prisma/migrations/20240103000001_reverse_of_{THIRD}/migration.sql" in bot.thread()
    assert "is not in the code yet: commit the file" in await bot.reported()


async def test_a_schema_that_differs_from_the_code_is_in_the_report_in_prismas_words(escrow: Escrow) -> None:
    bot = escrow.bot
    program = escrow.project / "node_modules" / ".bin" / "prisma"
    program.parent.mkdir(parents=True)
    program.write_text(
        '#!/bin/sh\n[ "$*" = "migrate diff --from-config-datasource --to-schema prisma/schema.prisma --exit-code" ] || exit 1\n'
        "printf '[*] Changed the `escrows` table\\n  [+] Added column `status`\\n'; exit 2\n"
    )
    program.chmod(0o755)
    await escrow.open()
    await escrow.approved(BACK)
    await parts.ends(bot, "succeeded")
    report = await bot.reported()
    assert "prisma/schema.prisma differs from the database" in report.replace("\\", "")
    assert "- `[+] Added column 'status'`" in report
    assert any(name.startswith("look-at-code-") and "Added column `status`" in text for name, text in files(bot).items())


# ------------------------------------------------------------------ a migration that failed half-way


async def test_a_migration_that_failed_half_way_is_marked_rolled_back_and_verified(escrow: Escrow) -> None:
    bot, broken = escrow.bot, "20240104000000_escrow_fees"
    escrow.add(broken, 'ALTER TABLE "escrows" ADD COLUMN "fee" INTEGER;\nSELECT 1 / 0;\n')
    escrow.migrate(broken, failing="ERROR: division by zero (SQLSTATE 22012)")
    await escrow.open()
    card = await escrow.approved("-1 sev critical because a deploy failed half-way", "U0LEAD")
    assert broken in str(card)
    assert "division by zero" in str(card) + bot.thread() + str(bot.journaled("select plan->'remarks' from backout.runs"))
    await parts.ends(bot, "succeeded")
    assert escrow.rows()[-1] == (broken, False, True)
    assert {name: escrow.checks()[name]["ok"] for name in VALUES | NEVER} == dict.fromkeys(VALUES | NEVER, True)
    assert bot.query("SELECT count(*) FROM information_schema.columns WHERE table_name = 'escrows' AND column_name = 'fee'") == [(0,)]
    await escrow.as_before()


# ------------------------------------------------------------------ corruption


async def test_corrupt_rows_are_counted_before_and_come_back_by_table_in_maintenance(escrow: Escrow) -> None:
    bot = escrow.bot
    await escrow.open()
    card = await parts.ask(bot, BACK)  # its rehearsal makes the dump
    await bot.slack.click(card, "cancel", "U0DEV")
    await parts.ends(bot, "aborted")
    (name,) = bot.journaled("select name from backout.backups where file->>'format' = 'custom' order by made desc limit 1")[0]
    wallets = bot.query("SELECT id, wallet_address FROM users ORDER BY id")
    amounts = bot.query("SELECT id, amount FROM escrows ORDER BY id")
    parts.execute(bot, "UPDATE users SET wallet_address = NULL WHERE id <= 20; UPDATE escrows SET amount = -amount WHERE id <= 5")

    await escrow.approved(f"tables users,escrows from {name} sev critical because a script emptied wallets", "U0LEAD")
    await parts.ends(bot, "succeeded")

    checks = escrow.checks()
    assert (checks["users without a wallet"]["before"], checks["users without a wallet"]["after"]) == ("20", "0")
    assert checks["escrows with a negative amount"]["after"] == "no rows"
    assert {name: checks[name]["ok"] for name in NEVER} == dict.fromkeys(NEVER, True)
    assert (checks["all amounts"]["ok"], checks["all amounts"]["blocking"]) == (False, False), "they are others than before, and that is said"
    assert bot.query("SELECT id, wallet_address FROM users ORDER BY id") == wallets
    assert bot.query("SELECT id, amount FROM escrows ORDER BY id") == amounts
    await escrow.as_before()


# ------------------------------------------------------------------ bad input


async def test_a_way_back_that_drops_more_than_its_migration_made_is_shown_before_anybody_is_asked(escrow: Escrow) -> None:
    (escrow.migrations / THIRD / "down.sql").write_text(
        (escrow.migrations / THIRD / "down.sql").read_text() + 'ALTER TABLE "users" DROP COLUMN "wallet_address";\n'
    )
    escrow.change(verify=[])
    await escrow.open()
    card = await parts.ask(escrow.bot, BACK)
    found = rehearsed(escrow.bot)
    assert found["expected"] == "differs", found
    assert any("wallet_address" in one for one in found["findings"]), found["findings"]
    assert ("column", "public.users.wallet_address") in {(one["kind"], one["name"]) for one in found["loss"]}
    assert "wallet_address" in str(card)


async def test_drift_is_not_the_migrations_fault(escrow: Escrow) -> None:
    parts.execute(escrow.bot, "ALTER TABLE users ADD COLUMN added_by_hand text; CREATE INDEX by_hand ON escrows (amount)")
    await escrow.open()
    await parts.ask(escrow.bot, BACK)
    found = rehearsed(escrow.bot)
    assert (found["expected"], {one["name"] for one in found["loss"]} & {"public.users.added_by_hand"}) == ("same", set())


async def test_the_first_migration_has_no_way_down_and_that_is_refused_by_name(escrow: Escrow) -> None:
    await escrow.open()
    await escrow.bot.ask("base sev high because of this")
    assert f"{FIRST} can't be undone: there is no down.sql beside" in await escrow.bot.told("U0DEV", "no_way_down")


# ------------------------------------------------------------------ Railway


async def test_a_token_that_railway_does_not_take_is_refused_before_anything_is_touched(escrow: Escrow) -> None:
    bot = escrow.bot
    await escrow.open()
    before = len(escrow.railway.asked)
    await bot.kill()
    bot.environ["RAILWAY_TOKEN"] = "fake-revoked-token"
    await bot.start()
    await bot.ask(BACK)
    said = await bot.told("U0DEV", "railway_forbidden")
    assert "fake-revoked-token" not in said
    code, output = await bot.run("check")
    assert (code, "railway_forbidden" in output, "fake-revoked-token" in output) == (1, True, False)
    assert len(escrow.railway.asked) == before
    await escrow.as_before()


async def test_a_service_that_does_not_come_back_is_a_decision_with_the_commands_for_a_person(escrow: Escrow) -> None:
    bot, railway = escrow.bot, escrow.railway
    escrow.change(rehearsal={"server": "none"})
    await escrow.open()

    def fails_when_it_comes_back(service: Any, made: Any) -> None:
        service.fails = "CRASHED" if service.name == "api" and made.variables["MAINTENANCE_MODE"] == "false" else ""

    railway.on_deploy = fails_when_it_comes_back
    await escrow.approved(BACK)
    card = await bot.card_in("needs_decision")
    assert "The new deployment of api ended as CRASHED" in str(card) + bot.thread()
    (facts,) = bot.journaled("select facts from backout.attempts where step = 'start_writers'")[0]
    assert "railway redeploy --service api --yes" in facts["by_hand"]
    railway.on_deploy = lambda service, _: setattr(service, "fails", "")
    await bot.slack.click(card, "retry", "U0SENIOR")
    await parts.ends(bot, "succeeded")
    await escrow.as_before()


async def test_half_an_answer_in_the_middle_of_the_stop_is_a_decision_and_who_leaves_starts_what_was_stopped(escrow: Escrow) -> None:
    bot, railway = escrow.bot, escrow.railway
    escrow.change(rehearsal={"server": "none"})
    await escrow.open()
    card = await parts.ask(bot, BACK)

    def from_the_second_on(service: Any, _: Any) -> None:
        """api is in maintenance by then, and worker isn't yet."""
        railway.faults.append(Fault("half", "deploymentRedeploy", times=1000))
        railway.on_deploy = lambda *_: None

    railway.on_deploy = from_the_second_on
    await bot.slack.click(card, "approve", "U0SENIOR")
    card = await bot.card_in("needs_decision")
    assert "is not GraphQL's" in str(card) + bot.thread()
    assert escrow.rows()[-1] == (THIRD, True, False), "nothing was executed"
    railway.faults.clear()
    await bot.slack.click(card, "leave", "U0SENIOR")
    await parts.ends(bot, "failed")
    await escrow.as_before()


@pytest.mark.parametrize("field", ["variableUpsert", "deploymentRedeploy", "variableDelete"])
async def test_a_bot_that_is_killed_between_stop_and_start_goes_on_and_everything_is_as_before(escrow: Escrow, field: str) -> None:
    """Railway does what it was asked for, the answer never comes, and the bot dies while it waits. The last is only asked for at the start."""
    bot, railway = escrow.bot, escrow.railway
    escrow.change(rehearsal={"server": "none"})
    await escrow.open()
    card = await parts.ask(bot, BACK)
    railway.faults.append(Fault("hang", field, after=True))
    await bot.slack.click(card, "approve", "U0SENIOR")
    await bot.until(lambda: not railway.faults, what=f"at {field}")
    await bot.kill()
    await bot.start()
    await parts.ends(bot, "succeeded")
    assert escrow.rows()[-1] == (THIRD, True, True)
    await escrow.as_before()


async def test_the_providers_backups_are_listed_with_their_retention_and_what_they_are_not_for_is_said(escrow: Escrow) -> None:
    bot, railway = escrow.bot, escrow.railway
    daily = {"id": "s1", "kind": "DAILY", "cron": "0 3 * * *", "name": "daily", "retentionSeconds": 6 * 86400}
    railway.schedules = [{**daily, "createdAt": "2026-01-01T00:00:00Z"}]
    size = {"usedMB": 41, "referencedMB": 80, "volumeInstanceSizeMB": 5000}
    railway.backups = [
        {"id": f"b{day}-backup", "name": None, "createdAt": f"2026-11-{day}T03:00:00Z", "expiresAt": f"2026-12-0{day - 24}T03:00:00Z",
         "scheduleId": "s1", "externalId": "x", "creatorId": None, **size}
        for day in (28, 29)
    ]  # fmt: skip
    await escrow.open()
    await bot.ask("backups")
    said = await bot.told("U0DEV", "b29-backup")
    assert "Railway's own of 2026-11-29 03:00:00 UTC (daily, kept for 6 days), kept until 2026-12-05 03:00:00 UTC" in said
    assert said.index("b29-backup") < said.index("b28-backup")
    await bot.ask("restore b29 in place sev critical because the data is wrong")
    assert "the place of the WHOLE server" in await bot.told("U0DEV", "provider_restores")
    await bot.ask("pitr 2026-11-28T20:48:28Z sev critical because of a wrong delete")
    await bot.until(lambda: "Waiting for railway" in str(bot.card()), what="waiting for Railway")
    await bot.until(lambda: [file for file in bot.slack.files() if file.name.startswith("recovery-")], what="told what to do")
    said = next(file.text for file in bot.slack.files() if file.name.startswith("recovery-"))
    assert "2026-11-28 21:48:28 +01:00 (Europe/Berlin)" in said
    assert "Restore to this moment, 2026-11-28T20:48:28Z" in said
