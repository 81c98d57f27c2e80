"""Settings and configuration -> targets (targets.py), journal, engine, chat, Rollbacks."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import asyncpg

from bot import engine
from bot.clock import SystemClock
from bot.config import Config, Role
from bot.embedded import EmbeddedPostgres
from bot.errors import Denied, JournalDown
from bot.handing import Handing, place
from bot.journal.migrate import migrate
from bot.journal.postgres import PostgresJournal
from bot.model import Person, Request
from bot.ports import Chat, Directory
from bot.rollback.approve import Authority
from bot.rollback.duties import Duties
from bot.rollback.flow import Rollbacks
from bot.settings import Settings
from bot.targets import target
from bot.web import Looker

log = logging.getLogger(__name__)


class Silence:
    """ports.Chat where there is no channel: the journal is the outbox, and a `serve` that comes later catches up."""

    async def changed(self, run: str) -> None: ...
    async def private(self, request: Request, text: str) -> None: ...
    async def announce(self, channel: str, text: str) -> bool:
        return False

    async def drain(self) -> None: ...


class NamedUsers:
    """ports.Directory without Slack: only the users that are named hold a role."""

    def __init__(self, roles: Mapping[str, Role]) -> None:
        self._roles = roles

    async def holders(self, role: str, *, fresh: bool = True) -> frozenset[str]:
        return frozenset(self._roles[role].users) if role in self._roles else frozenset()


class App:
    """Everything that is open. `launch` makes this process one that carries runs."""

    def __init__(
        self, config: Config, journal: PostgresJournal, url: str, executor: str, chat: Chat, directory: Directory, system: str, home: Path
    ) -> None:
        self.config, self.journal, self.chat = config, journal, chat
        self.clock = SystemClock()
        self._url = url
        self.lease = engine.Lease(url, executor)
        self._signals = engine.Signals(url)
        self.launched = False
        self._guard: asyncio.Task[None] | None = None
        self.rollbacks = Rollbacks(
            {name: target(config, name, system, home) for name in config.targets},
            journal, self._signals, chat, _authority(config, journal, directory, self.clock), self.clock, Looker(),
            command=config.command,
        )  # fmt: skip

        self._handing = Handing(place(home), self._taken)
        self.duties = Duties(self.rollbacks.targets, journal, chat, self.clock, config.command)

    async def launch(self) -> None:
        """The lease must be held. Runs of this executor that were under way go on at once."""
        await engine.launch(self._url, self.lease, self.rollbacks.advance)
        self.launched = True
        await self._handing.open()
        await self.rollbacks.resume()

    async def _taken(self, run: str, address: str, user: str, token: str) -> None:
        await self.rollbacks.enter(run, address, prove(self.config, user, token))

    async def carries(self) -> bool:
        """Become the one that carries runs, unless somebody alive does already."""
        if not await self.lease.take():
            return False
        if await self.lease.anybody():
            await self.lease.release()
            return False
        await self.launch()
        self._guard = asyncio.create_task(self._keep_lease(), name="lease")
        return True

    async def _keep_lease(self) -> None:
        await self.lease.watch()
        engine.exit_now(1)  # somebody else may carry our runs now: nothing more is ours to do

    async def leave(self) -> None:
        """Finish the step that runs (30 s at most), show what happened, and close. Nothing may follow: DBOS takes the loop's executor."""
        await self._handing.close()
        await self.rollbacks.leave()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await self.chat.drain()
        if self._guard is not None:
            self._guard.cancel()  # the lease is given back next, which is no loss of it


def prove(config: Config, user: str, token: str | None) -> Person:
    """The command line's proof of who sits there. Raises Denied."""
    person = config.people.get(user)
    if person is None:
        raise Denied(f"{user} is not under people in backout.yml, so nobody can act as {user} from the command line.")
    if not token or not hmac.compare_digest(person.token.encode(), token.encode()):
        raise Denied(f"BACKOUT_TOKEN is not the token of {user}. Set it to the one that people.{user}.token names.")
    return Person(id=user, team="cli")


@contextlib.asynccontextmanager
async def opened(
    settings: Settings,
    config: Config,
    *,
    channel: Callable[[PostgresJournal], tuple[Chat, Directory]] | None = None,
) -> AsyncIterator[App]:
    """Open the journal (the embedded one, if no other is named) and build everything on it. Raises JournalDown, ConfigError."""
    async with contextlib.AsyncExitStack() as stack:
        url = settings.database_url
        if url is None:
            url = (await stack.enter_async_context(EmbeddedPostgres(settings.home))).url()
        await asyncio.to_thread(migrate, url)
        executor = settings.executor_id or _executor(settings.home)
        journal = await PostgresJournal.open(url, SystemClock(), executor)
        stack.push_async_callback(journal.close)
        chat, directory = channel(journal) if channel else (Silence(), NamedUsers(config.roles))
        app = App(config, journal, url, executor, chat, directory, await _system(url), settings.home)
        stack.push_async_callback(app.lease.release)
        yield app


async def _system(url: str) -> str:
    """The system identifier of the journal's server: no target may live there."""
    try:
        connection = await asyncpg.connect(url, timeout=10)
        try:
            return str(await connection.fetchval("select system_identifier from pg_control_system()"))
        finally:
            await connection.close()
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise JournalDown("the journal's database can't be reached; check BACKOUT_DATABASE_URL") from error


def _executor(home: Path) -> str:
    """Made once, kept in BACKOUT_HOME."""
    path = home / "executor-id"
    with contextlib.suppress(FileNotFoundError):
        if kept := path.read_text().strip():
            return kept
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = f"{socket.gethostname()[:30]}-{secrets.token_hex(4)}"
    try:
        with path.open("x") as file:
            file.write(made + "\n")
    except FileExistsError:
        return _executor(home)
    return made


def _authority(config: Config, journal: PostgresJournal, directory: Directory, clock: SystemClock) -> Authority:
    return Authority(
        journal, directory, clock, rules=config.policy.rules(), loss=config.policy.for_loss(), unrehearsed=config.policy.unrehearsed,
        titles={name: role.title or name for name, role in config.roles.items()}, ladder=config.escalation.ladder,
        failed_attempts=config.escalation.after.failed_attempts, down=config.escalation.after.down,
        rehearsers=config.policy.rehearse.roles, rehearse_every=config.policy.rehearse.every,
    )  # fmt: skip
