"""The escrow platform goes back to a backup of Railway's, from Slack: the whole server is another one afterwards, a physical copy of before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from bot.place import Connect
from tests.contract.servers import physical_copy
from tests.harness import Bot
from tests.proxy import Proxy
from tests.railway.server import PROJECT_TOKEN, VOLUME, Fault, RailwayStandIn
from tests.scenario import parts
from tests.scenario.test_escrow import NEVER, THIRD, Escrow
from tests.scenario.test_escrow import escrow as escrow  # noqa: PLC0414  pytest finds the fixture here

RESTORE = "restore b28 sev critical because a script emptied wallets"


class Server:
    """The database's service at Railway, with a backup of the moment before the bad script. `gate` holds the new one back."""

    def __init__(self, escrow: Escrow, proxy: Proxy, server: Connect, copy: Connect) -> None:
        self.escrow, self._proxy, self.server, self._copy = escrow, proxy, server, copy
        self.bot: Bot = escrow.bot
        self.railway: RailwayStandIn = escrow.railway
        self.gate = asyncio.Event()
        self.gate.set()

    async def open(self) -> None:
        railway = self.railway
        address = {"RAILWAY_TCP_PROXY_DOMAIN": "127.0.0.1", "RAILWAY_TCP_PROXY_PORT": str(self._proxy.port)}
        await railway.add("postgres", address)
        railway.volumes.add(VOLUME, "service-postgres", volume="volume-1")
        none = dict.fromkeys(("name", "expiresAt", "scheduleId", "creatorId"))
        sizes = {"usedMB": 41, "externalId": "x", "referencedMB": 80, "volumeInstanceSizeMB": 5000}
        railway.backups = [{"id": f"b{day}-backup", "createdAt": f"2026-11-{day}T03:00:00Z", **none, **sizes} for day in (28, 29)]
        railway.volumes.on_deploy = self._deployed
        await self.escrow.open(self.bot.environ["ESCROW_DATABASE_URL"])

    async def _deployed(self, _: str) -> None:
        """One server at a time is mounted there: the former one goes first."""
        self._proxy.cut()
        await self.gate.wait()
        self._proxy.mend(self._copy)
        self.bot.target = self.bot.target.model_copy(update={"host": self._copy.host, "port": self._copy.port})

    def corrupt(self) -> None:
        parts.execute(self.bot, "UPDATE users SET wallet_address = NULL WHERE id <= 20")

    async def approved(self) -> dict[str, Any]:
        card = await parts.ask(self.bot, RESTORE)
        await self.bot.slack.click(card, "approve", "U0LEAD")
        return card

    async def asked(self) -> None:
        """A bad script, an approval, and a restore that has begun over there; what it stages waits for `volumes.gate`."""
        await self.open()
        self.corrupt()
        self.railway.volumes.gate.clear()
        await self.approved()
        await self.bot.until(lambda: self.railway.volumes.restored, what="asked")

    async def as_in_the_backup(self) -> None:
        """Restored once, deployed once, and the application is at work on what came back."""
        assert self.railway.volumes.restored == ["b28-backup"]
        assert len(self.railway.volumes.committed) == 1
        assert self.bot.query("SELECT count(*) FROM users WHERE wallet_address IS NULL") == [(0,)]
        await self.escrow.writes()
        variables = {name: one.variables.get("MAINTENANCE_MODE") for name, one in self.railway.services.items() if name != "postgres"}
        assert variables == {"api": "false", "worker": None, "web": None}


@pytest.fixture
async def at_railway(escrow: Escrow, server: Connect) -> AsyncIterator[Server]:
    bot = escrow.bot
    async with Proxy(server) as proxy, physical_copy(server, standby=False) as copy:
        bot.environ |= {  # the test itself enters past the line, which is served by its own loop
            "ESCROW_DATABASE_URL": proxy.to(bot.target).url(),
            "ESCROW_ADMIN_URL": proxy.to(server).model_copy(update={"database": bot.target.database}).url(),
        }
        bot.config["targets"]["escrow"]["backups"]["provider"]["patience"] = "30s"
        yield Server(escrow, proxy, server, copy)
        if bot.process is not None:
            await bot.kill()


async def test_a_backup_of_railways_takes_the_place_of_the_whole_server_and_every_query_of_the_runbook_is_answered(at_railway: Server) -> None:
    bot = at_railway.bot
    await at_railway.open()
    at_railway.corrupt()
    card = await at_railway.approved()
    said = str(card)
    assert "The WHOLE server goes back to 2026-11-28 03:00:00 UTC" in said
    assert f"Databases on it now: {bot.target.database}" in said
    assert "Railway may remove the backups that are newer: b29-backup" in said
    assert "was not looked at" in said
    assert "rows in public.messages, the newest of " in said
    await parts.ends(bot, "succeeded")

    await at_railway.as_in_the_backup()
    checks = at_railway.escrow.checks()
    assert {name: checks[name]["ok"] for name in NEVER} == dict.fromkeys(NEVER, True), checks
    assert (checks["users without a wallet"]["before"], checks["users without a wallet"]["after"]) == ("20", "0")
    assert (checks["revision"]["ok"], checks["revision"]["after"]) == (None, THIRD)
    assert checks["no user, escrow or message lost"]["blocking"] is False
    told = dict(bot.journaled("select step, summary from backout.attempts"))
    assert "is staged to take the place of postgres's volume" in told["stage_backup"]
    assert "write that as backups.provider.volume" in told["deploy_backup"]
    report = (await bot.reported()).replace("\\", "")
    assert "is gone from the service, in every database on the server" in report
    assert "Delete the former volume `volume-1`" in report
    assert "restored at the provider" in str(bot.card())
    assert PROJECT_TOKEN not in bot.log.read_text() + report + bot.thread() + str(bot.journaled("select facts from backout.attempts"))


async def test_killed_after_railway_was_asked_for_the_backup_it_is_not_asked_again(at_railway: Server) -> None:
    bot, railway = at_railway.bot, at_railway.railway
    railway.faults.append(Fault("hang", "volumeInstanceBackupRestore", after=True))
    await at_railway.asked()
    await bot.kill()
    railway.volumes.gate.set()
    await bot.start()
    await parts.ends(bot, "succeeded")
    await at_railway.as_in_the_backup()


async def test_killed_after_the_deploy_it_waits_for_the_server_and_deploys_nothing_twice(at_railway: Server) -> None:
    bot, railway = at_railway.bot, at_railway.railway
    await at_railway.open()
    at_railway.corrupt()
    at_railway.gate.clear()
    railway.faults.append(Fault("hang", "environmentPatchCommitStaged", after=True))
    await at_railway.approved()
    await bot.until(lambda: railway.volumes.committed, what="deployed")
    await bot.kill()
    await bot.start()
    waits = "select 1 from backout.attempts where step = 'deploy_backup' and attempt = 2 and progress <> ''"
    await bot.until(lambda: bot.journaled(waits), what="waiting for the server")
    at_railway.gate.set()
    await parts.ends(bot, "succeeded")
    await at_railway.as_in_the_backup()


async def test_a_cancel_while_it_is_deployed_waits_for_the_server_and_the_application_is_back(at_railway: Server) -> None:
    bot = at_railway.bot
    await at_railway.open()
    at_railway.corrupt()
    at_railway.gate.clear()
    await at_railway.approved()
    await bot.until(lambda: at_railway.railway.volumes.committed, what="deployed")
    await bot.slack.click(await bot.card_in("running"), "cancel", "U0DEV")
    await bot.until(lambda: bot.events("cancel_requested"), what="cancelled")
    await bot.kill()
    await bot.start()
    at_railway.gate.set()
    await parts.ends(bot, "aborted")
    await at_railway.as_in_the_backup()


async def test_restore_after_the_deploy_brings_the_dump_back_into_what_runs_then(at_railway: Server) -> None:
    bot, target = at_railway.bot, at_railway.bot.config["targets"]["escrow"]
    target["verify"].append({"name": "not in the backup", "sql": "select count(*) from users where wallet_address = 'late'", "expect": 1})
    await at_railway.open()
    parts.execute(bot, "INSERT INTO users (wallet_address, kyc_status) VALUES ('late', 'VERIFIED')")
    await at_railway.approved()
    card = await bot.card_in("needs_decision")
    assert "not in the backup" in str(card) + bot.thread()
    assert bot.query("SELECT count(*) FROM users WHERE wallet_address = 'late'") == [(0,)]
    await bot.slack.click(card, "restore", "U0LEAD")
    await bot.slack.click(await bot.card_in("awaiting_approval"), "approve", "U0LEAD")
    await parts.ends(bot, "failed")
    assert bot.query("SELECT count(*) FROM users WHERE wallet_address = 'late'") == [(1,)], "as it was when the writers had stopped"
    await at_railway.escrow.writes()


# ------------------------------------------------------------------ what is not deployed, and what is refused


async def test_a_change_that_somebody_stages_meanwhile_is_not_deployed_and_a_person_is_asked(at_railway: Server) -> None:
    bot, railway = at_railway.bot, at_railway.railway
    await at_railway.asked()
    railway.volumes.staged = {"services": {"service-api": {"variables": {"NEW": {"value": "hunter2"}}}}}
    railway.volumes.gate.set()
    card = await bot.card_in("needs_decision")
    assert "services.service-api.variables.NEW" in str(card) + bot.thread()
    assert "hunter2" not in str(card) + bot.thread() + bot.log.read_text()
    assert ("Restore", "restore") not in parts.buttons(card), "nothing was done to the database yet"
    assert railway.volumes.committed == []
    assert bot.query("SELECT count(*) FROM users WHERE wallet_address IS NULL") == [(20,)]

    del railway.volumes.staged["services"]["service-api"]
    await bot.slack.click(card, "retry", "U0LEAD")
    await parts.ends(bot, "succeeded")
    await at_railway.as_in_the_backup()


async def test_left_before_the_deploy_everything_is_as_it_was_and_what_is_still_staged_is_said(at_railway: Server) -> None:
    bot, railway = at_railway.bot, at_railway.railway
    await at_railway.asked()
    railway.volumes.staged = {"sharedVariables": {"NEW": {"value": "x"}}}
    railway.volumes.gate.set()
    await bot.slack.click(await bot.card_in("needs_decision"), "leave", "U0LEAD")
    await parts.ends(bot, "failed")
    assert railway.volumes.committed == []
    assert "The swap is still staged in the environment" in bot.thread()
    assert "Discard it" in await bot.reported()
    assert bot.query("SELECT count(*) FROM users WHERE wallet_address IS NULL") == [(20,)]
    assert bot.query("SELECT setconfig FROM pg_db_role_setting WHERE setconfig::text LIKE '%backout/%'") == [], "the mark is gone"
    await at_railway.escrow.writes()


async def test_a_copy_that_fails_leaves_the_database_alone_and_can_be_asked_for_again(at_railway: Server) -> None:
    bot, railway = at_railway.bot, at_railway.railway
    await at_railway.open()
    at_railway.corrupt()
    railway.volumes.fails = "the snapshot is damaged"
    await at_railway.approved()
    card = await bot.card_in("needs_decision")
    assert "the snapshot is damaged" in str(card) + bot.thread()
    railway.volumes.fails = ""
    await bot.slack.click(card, "retry", "U0LEAD")
    await parts.ends(bot, "succeeded")
    assert railway.volumes.restored == ["b28-backup", "b28-backup"]
    assert len(railway.volumes.committed) == 1


async def test_a_server_that_does_not_come_back_in_time_is_a_persons_decision_and_nothing_is_deployed_twice(at_railway: Server) -> None:
    bot = at_railway.bot
    bot.config["targets"]["escrow"]["backups"]["provider"]["patience"] = "3s"
    await at_railway.open()
    at_railway.corrupt()
    at_railway.gate.clear()
    await at_railway.approved()
    card = await bot.card_in("needs_decision")
    assert "mount its former volume volume-1 at /var/lib/postgresql/data" in str(card) + bot.thread()
    assert ("Restore", "restore") in parts.buttons(card)
    at_railway.gate.set()
    await bot.slack.click(card, "retry", "U0LEAD")
    await parts.ends(bot, "succeeded")
    await at_railway.as_in_the_backup()


async def test_the_state_from_before_is_never_taken_for_the_backup_whatever_railway_says(at_railway: Server) -> None:
    bot = at_railway.bot
    bot.config["targets"]["escrow"]["backups"]["provider"]["patience"] = "3s"
    await at_railway.open()
    at_railway.corrupt()

    async def the_same_server(_: str) -> None: ...

    at_railway.railway.volumes.on_deploy = the_same_server
    await at_railway.approved()
    card = await bot.card_in("needs_decision")
    assert "what answers is still the state from before" in str(card) + bot.thread()


async def test_what_can_not_come_back_so_is_refused_before_anybody_is_asked(at_railway: Server) -> None:
    bot, railway = at_railway.bot, at_railway.railway
    await at_railway.open()

    async def refused(code: str, says: str) -> None:
        before = len(bot.journaled("select 1 from backout.runs"))
        await bot.ask(RESTORE)
        await bot.until(lambda: len(bot.journaled("select 1 from backout.runs where state = 'refused'")) == before + 1, what=f"refused for {code}")
        found = await parts.refused(bot)
        assert (found["code"], says in found["message"]) == (code, True), found

    railway.volumes.staged = {"services": {"service-api": {"variables": {"NEW": {"value": "x"}}}}}
    await refused("railway_staged", "services.service-api.variables.NEW")
    railway.volumes.staged = {}
    railway.services["postgres"].variables["RAILWAY_TCP_PROXY_PORT"] = "1"
    await refused("railway_volume", "is another server's")
    railway.backups[0]["expiresAt"] = "2026-11-28T04:00:00Z"
    railway.services["postgres"].variables["RAILWAY_TCP_PROXY_PORT"] = bot.environ["ESCROW_DATABASE_URL"].rpartition(":")[2].partition("/")[0]
    await refused("provider_backup_expired", "was kept until 2026-11-28 04:00:00 UTC")
    railway.backups[0]["expiresAt"] = None
    railway.backups.append({**railway.backups[0], "id": "b28-other"})
    await refused("ambiguous_backup", "b28-backup")
    railway.backups.clear()
    await refused("unknown_backup", "There is no backup b28")
    assert railway.volumes.restored == []
    assert {name: one.variables.get("MAINTENANCE_MODE") for name, one in railway.services.items() if name == "api"} == {"api": "false"}


@pytest.mark.parametrize("platform", ["at_provider_door", "at_provider_writers"])
async def test_a_platform_that_could_not_hold_its_promise_is_refused(at_railway: Server, platform: str) -> None:
    bot, target = at_railway.bot, at_railway.bot.config["targets"]["escrow"]
    target["platform"] = {"kind": "none"} if platform == "at_provider_writers" else [target["platform"], {"kind": "database"}]
    await at_railway.open()
    await bot.ask(RESTORE)
    assert (await parts.refused(bot))["code"] == platform
    assert at_railway.railway.volumes.restored == []


async def test_a_server_with_followers_is_refused(at_railway: Server) -> None:
    bot = at_railway.bot
    await at_railway.open()
    admin = bot.target.model_copy(update={"user": at_railway.server.user, "password": at_railway.server.password})
    with psycopg.connect(admin.url(), autocommit=True) as session:
        session.execute("SELECT pg_create_physical_replication_slot('a_standby')")
        try:
            await bot.ask(RESTORE)
            found = await parts.refused(bot)
        finally:
            session.execute("SELECT pg_drop_replication_slot('a_standby')")
    assert (found["code"], "slot a_standby" in found["message"]) == ("at_provider_followers", True)
