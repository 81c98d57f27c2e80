"""The escrow platform goes back to a backup of Railway's, from Slack: the whole server is another one afterwards, a physical copy of before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.place import Connect
from tests.contract.servers import physical_copy
from tests.harness import Bot
from tests.proxy import Proxy
from tests.railway.server import VOLUME, Fault, RailwayStandIn
from tests.scenario import parts
from tests.scenario.test_escrow import NEVER, THIRD, Escrow
from tests.scenario.test_escrow import escrow as escrow  # noqa: PLC0414  pytest finds the fixture here

RESTORE = "restore b28 sev critical because a script emptied wallets"


class Server:
    """The database's service at Railway, with a backup of the moment before the bad script. `gate` holds the new one back."""

    def __init__(self, escrow: Escrow, proxy: Proxy, copy: Connect) -> None:
        self.escrow, self._proxy, self._copy = escrow, proxy, copy
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
        yield Server(escrow, proxy, copy)
        if bot.process is not None:
            await bot.kill()


async def test_a_backup_of_railways_takes_the_place_of_the_whole_server_and_every_query_of_the_runbook_is_answered(at_railway: Server) -> None:
    bot = at_railway.bot
    await at_railway.open()
    at_railway.corrupt()
    card = await at_railway.approved()
    said = str(card)
    assert "The WHOLE server goes back to 2026-11-28 03:00:00 UTC" in said
    assert f"{bot.target.database}, " in said, "which databases there are"
    assert "Railway may remove the backups that are newer: b29-backup" in said
    assert "was not looked at" in said
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
    assert "restored at the provider" in str(bot.card())


async def test_killed_after_railway_was_asked_for_the_backup_it_is_not_asked_again(at_railway: Server) -> None:
    bot, railway = at_railway.bot, at_railway.railway
    await at_railway.open()
    at_railway.corrupt()
    railway.volumes.gate.clear()
    railway.faults.append(Fault("hang", "volumeInstanceBackupRestore", after=True))
    await at_railway.approved()
    await bot.until(lambda: railway.volumes.restored, what="asked")
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
