"""The demo behind the page: a shop that can be broken anew within a second, and a bot that can be killed and started."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import psycopg

from playground.demo_guide import BLOCKED, INCIDENTS, WORKS, Guide
from playground.demo_stage import CHANNEL, ROLES, DemoFailed, Stage, StartPostgres, end_bot, folder, log_end, populated, shop_database, start_bot
from playground.shop import backout_yml, fill, serving
from playground.slack import SlackStandIn
from playground.slack.model import Json, NotPossible

_LOOK = 2.0  # seconds between two looks at the shop's health
_HEALTH = aiohttp.ClientTimeout(total=3.0)
_FILLED = "shop_filled"
_EXPORT = "nightly-export"
_PREPARED = "journal_prepared"
_UNKNOWN = (False, "not looked at yet")


class World:
    """Implements page.Scene. `admin` and `journal` are superusers' addresses on the two servers, `database` is the shop's own."""

    channel = CHANNEL
    command = "/rollback"

    def __init__(self, home: Path, *, admin: str, journal: str, database: str, shop: str) -> None:
        self.slack = populated()
        self.turn = 0
        self.roles = {**ROLES}
        self._home, self._admin, self._journal, self._database, self._shop = home, admin, journal, database, shop
        self._guide = Guide(self.slack, WORKS)
        self._incident = WORKS
        self._bot: asyncio.subprocess.Process | None = None
        self._killed = False
        self._health: tuple[bool, str] = _UNKNOWN
        self._empty = "template1"
        self._export: psycopg.AsyncConnection | None = None
        self._doing = asyncio.Lock()

    # -------------------------------------------------------------- what the page shows

    def controls(self) -> Json:
        running = self._running()
        problem = None if running or self._bot is None or self._killed else f"it ended by itself with exit code {self._bot.returncode}"
        return {
            "bot": {"running": running, "ready": running and self.slack.sockets > 0, "problem": problem},
            "shop": {"healthy": self._health[0], "says": self._health[1]},
            "incident": self._incident,
            "incidents": [{"id": name, "title": title} for name, title in INCIDENTS.items()],
            "blocker": "End the export" if self._export else None,
            "suggestion": self._guide.suggestion,
        }

    def _running(self) -> bool:
        return self._bot is not None and self._bot.returncode is None

    # -------------------------------------------------------------- what can be done

    async def start_bot(self) -> None:
        async with self._alone():
            if self._running():
                raise NotPossible("the bot runs already")
            await self._start()

    async def kill_bot(self) -> None:
        async with self._alone():
            if not self._running():
                raise NotPossible("the bot does not run")
            await self._kill()
        self._changed()

    async def end_blocker(self) -> None:
        if self._export is None:
            raise NotPossible("no export is open")
        await self._end_export()
        self._changed()

    async def reset(self, incident: str) -> None:
        if incident not in INCIDENTS:
            raise NotPossible(f"there is no incident {incident}")
        async with self._alone():
            await self._kill()
            await self._end_export()
            fresh = populated()
            await fresh.start()
            before, self.slack = self.slack, fresh
            self._guide, self._incident, self._killed = Guide(fresh, incident), incident, False
            self._health = _UNKNOWN
            self.turn += 1
            before.changed()
            await before.stop()
            try:
                await self._renew()
                await self._start()
            except (psycopg.Error, OSError) as error:
                raise NotPossible(f"the shop could not be made anew ({error}); press Reset again") from error

    # -------------------------------------------------------------- life

    async def begin(self) -> None:
        """Raises DemoFailed when the bot does not come up."""
        await self.slack.start()
        await self._renew()
        bot = await self._start()
        try:
            await self._connected(bot, self.slack)
        except DemoFailed as error:
            raise DemoFailed(f"{error}\n\nThe end of the bot's log:\n{log_end(self._home) or '(it is empty)'}") from error

    async def follow(self) -> None:
        """Guide people and look at the shop, until cancelled."""
        await asyncio.gather(self._guided(), self._looking(), self._prepare())

    async def end(self) -> None:
        if self._bot is not None:
            await end_bot(self._bot)
        await self._end_export()
        await self.slack.stop()

    async def _guided(self) -> None:
        while True:
            slack, seen = self.slack, self.slack.changes
            self._guide.catch_up(alive=slack.sockets > 0, killed=self._killed and not self._running())
            await slack.until_changed(seen)

    async def _prepare(self) -> None:
        """Let a bot make its tables in an empty database once, so that a reset only copies them."""
        async with await psycopg.AsyncConnection.connect(self._journal, autocommit=True) as session:
            await session.execute(f"CREATE DATABASE {_PREPARED}")
        async with populated() as slack:
            spare = await start_bot(self._home, slack, self._database, journal=self._journal_of(_PREPARED))
            try:
                await self._connected(spare, slack)
            except DemoFailed:
                return  # resets take a second longer, then
            finally:
                await end_bot(spare)
        self._empty = _PREPARED

    async def _looking(self) -> None:
        """Ask the shop whether it sells."""
        async with aiohttp.ClientSession(timeout=_HEALTH) as session:
            while True:
                found = await _healthy(session, f"{self._shop}/health")
                if found != self._health and not self._doing.locked():
                    self._health = found
                    self._changed()
                await asyncio.sleep(_LOOK)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        if self._doing.locked():
            raise NotPossible("that has to wait: something is being started or stopped")
        async with self._doing:
            yield

    async def _start(self) -> asyncio.subprocess.Process:
        bot = self._bot = await start_bot(self._home, self.slack, self._database, journal=self._journal_of(f"journal_{self.turn}"))
        self._watching = asyncio.create_task(self._watch(bot))
        self._changed()
        return bot

    async def _connected(self, bot: asyncio.subprocess.Process, slack: SlackStandIn) -> None:
        """Raises DemoFailed when the bot ends instead."""
        await Stage(slack, self._shop, bot).until(lambda: slack.sockets, "it was connected to Slack")

    async def _watch(self, bot: asyncio.subprocess.Process) -> None:
        await bot.wait()
        self._changed()

    async def _kill(self) -> None:
        if self._bot is not None and self._running():
            self._killed = True
            self._bot.send_signal(signal.SIGKILL)
            await self._bot.wait()

    async def _end_export(self) -> None:
        export, self._export = self._export, None
        if export is not None:
            with suppress(psycopg.Error):
                await export.close()

    def _journal_of(self, name: str) -> str:
        return urlsplit(self._journal)._replace(path=f"/{name}").geturl()

    async def _renew(self) -> None:
        """The shop as it stood on the evening of the incident, an empty database for the bot, and what stands in the way, if anything."""
        shutil.rmtree(self._home / "backups", ignore_errors=True)
        async with await psycopg.AsyncConnection.connect(self._admin, autocommit=True) as session:
            await session.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
            await session.execute(f"CREATE DATABASE shop OWNER shop TEMPLATE {_FILLED}")
        async with await psycopg.AsyncConnection.connect(self._journal, autocommit=True) as session:
            await session.execute(f"CREATE DATABASE journal_{self.turn} TEMPLATE {self._empty}")
        if self._incident == BLOCKED:
            self._export = await _exporting(self._database)

    def _changed(self) -> None:
        self.slack.changed()


async def _exporting(database: str) -> psycopg.AsyncConnection:
    """Somebody's forgotten session: it has read orders and does not end its transaction, so nobody can change that table."""
    session = await psycopg.AsyncConnection.connect(database, application_name=_EXPORT)
    await session.execute("SELECT count(*) FROM orders")
    return session


async def _healthy(session: aiohttp.ClientSession, address: str) -> tuple[bool, str]:
    try:
        async with session.get(address) as answer:
            told = await answer.json()
    except (aiohttp.ClientError, TimeoutError):
        return False, "no answer within 3 s"
    return answer.status == 200, "checkout works" if answer.status == 200 else str(told.get("reason", answer.status))


@asynccontextmanager
async def world(start_postgres: StartPostgres) -> AsyncIterator[World]:
    """All of it, the bot ready and the checkout down; taken down again. Raises DemoFailed, RuntimeError when the shop can't be made."""
    async with folder() as home, start_postgres(home) as server, start_postgres(_room(home)) as journal:
        database = await shop_database(server.url())
        await fill(database)
        async with await psycopg.AsyncConnection.connect(server.url(), autocommit=True) as session:
            await session.execute(f"ALTER DATABASE shop RENAME TO {_FILLED}")
        async with serving(database) as shop:
            (home / "backout.yml").write_text(backout_yml(f"{shop}/health", store=home / "backups"))
            made = World(home, admin=server.url(), journal=journal.url(), database=database, shop=shop)
            try:
                await made.begin()
                yield made
            finally:
                await asyncio.shield(made.end())


def _room(home: Path) -> Path:
    """For the bot's own Postgres, which is never the one that it rolls back."""
    room = home / "bot"
    room.mkdir(mode=home.stat().st_mode & 0o777)
    return room
