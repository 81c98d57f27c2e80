"""Everything that the demo needs, started and taken down again: a folder, a Postgres, the shop, the local Slack, the bot as its own process."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from playground.shop import backout_yml, fill, serving
from playground.slack import SlackStandIn

T = TypeVar("T")

CHANNEL = "C0INCIDENT"
PEOPLE = {"U0DEV": "Dev", "U0DBA": "Dana", "U0LEAD": "Lee", "U0SENIOR": "Sam", "U0CTO": "Chris"}
ROLES = {"U0DEV": "backend, on call", "U0DBA": "DBA on call", "U0LEAD": "team lead", "U0SENIOR": "senior backend", "U0CTO": "CTO"}
COMMAND = "0004 sev high because checkout is down since 0005"
PATIENCE = 60.0  # seconds for anything that is waited for; what is broken says so long before
_LEAVING = 15.0  # seconds that the bot gets to end by itself


class Address(Protocol):
    def url(self) -> str:
        """postgresql://..., the superuser's."""
        ...


#: makes a Postgres that lives in that folder while the context is open
StartPostgres = Callable[[Path], AbstractAsyncContextManager[Address]]


class DemoFailed(Exception):
    """What happened instead, for people."""


@dataclass(frozen=True)
class Stage:
    """What the script acts on. `shop` is the address of the shop's web application."""

    slack: SlackStandIn
    shop: str
    bot: asyncio.subprocess.Process

    async def until(self, condition: Callable[[], T | None], what: str) -> T:
        """The condition's first true value, asked after every change in Slack. Raises DemoFailed, at once when the bot has ended."""
        waiting = asyncio.ensure_future(self.slack.wait_for(condition, PATIENCE))
        ended = asyncio.ensure_future(self.bot.wait())
        try:
            await asyncio.wait({waiting, ended}, return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise DemoFailed(f"The bot ended with exit code {ended.result()} before {what}.")
            if error := waiting.exception():
                raise DemoFailed(f"Waited for {what}. {error}") if isinstance(error, AssertionError) else error
            return cast("T", waiting.result())
        finally:
            for task in (waiting, ended):
                task.cancel()
            await asyncio.gather(waiting, ended, return_exceptions=True)


@asynccontextmanager
async def folder() -> AsyncIterator[Path]:
    """A temporary folder, removed once no Postgres runs in it any more. Raises DemoFailed when one goes on."""
    made = _make()
    try:
        yield made
    finally:
        try:
            async with asyncio.timeout(2 * _LEAVING):
                while not _removed(made):  # noqa: ASYNC110  other processes have to end
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise DemoFailed(f"{made} could not be removed: something still runs in it. End that, then remove it.") from None


def _make() -> Path:
    made = Path(tempfile.mkdtemp(prefix="backout-demo-", dir=_anybodys()))
    if os.geteuid() == 0:
        made.chmod(0o711)  # Postgres does not run as root: another user has to get in
    return made


def _removed(place: Path) -> bool:
    """False while a server is still leaving: its data must not go before it."""
    if not any(_lives(Path(inside, name)) for inside, _, names in os.walk(place) for name in names if name == "postmaster.pid"):
        shutil.rmtree(place, ignore_errors=True)
    return not place.exists()


def _lives(kept: Path) -> bool:
    """Whether the Postgres that wrote this file is there; its pid is negative while it is being made."""
    try:
        os.kill(abs(int(kept.read_text().partition("\n")[0])), 0)
    except (OSError, ValueError):
        return False
    return True


def _anybodys() -> Path:
    """Where temporary folders are made; as root, a place that every user can enter."""
    usual = Path(tempfile.gettempdir()).resolve()
    closed = os.geteuid() == 0 and not all(each.stat().st_mode & 0o001 for each in (usual, *usual.parents))
    return Path("/tmp") if closed else usual  # noqa: S108  mkdtemp makes the folder in it


async def shop_database(admin: str) -> str:
    """An empty database `shop` with an owner of its own, no superuser; the owner's URL."""
    password = secrets.token_hex(16)
    async with await psycopg.AsyncConnection.connect(admin, autocommit=True) as session:
        await session.execute(sql.SQL("CREATE ROLE shop LOGIN PASSWORD {}").format(sql.Literal(password)))
        await session.execute("CREATE DATABASE shop OWNER shop")
    server = conninfo_to_dict(admin)
    return f"postgresql://shop:{password}@{server['host']}:{server['port']}/shop"


def populated() -> SlackStandIn:
    """The shop's workspace, not started yet."""
    slack = SlackStandIn()
    for user, name in PEOPLE.items():
        slack.add_user(user, name)
    slack.add_channel(CHANNEL, PEOPLE).name = "incident"
    slack.add_usergroup("S0LEADS", ["U0LEAD"])
    return slack


async def start_bot(home: Path, slack: SlackStandIn, database: str, *, journal: str | None = None) -> asyncio.subprocess.Process:
    """`backout serve` with the contract's environment and nothing else; it logs into `home`/serve.log. Without `journal` it brings its own."""
    env = {
        "PATH": os.environ.get("PATH", os.defpath),  # noqa: TID251  the playground has no bot/settings.py
        "HOME": str(home), "TMPDIR": str(home), "PORT": "0", "BACKOUT_HOME": str(home / "backout"),
        "BACKOUT_CONFIG": str(home / "backout.yml"), "SHOP_DATABASE_URL": database,
        "SLACK_API_URL": slack.api_url, "SLACK_BOT_TOKEN": slack.bot_token, "SLACK_APP_TOKEN": slack.app_token,
    } | ({"BACKOUT_DATABASE_URL": journal} if journal else {})  # fmt: skip
    with (home / "serve.log").open("ab") as output:
        return await asyncio.create_subprocess_exec(  # noqa: TID251  the playground imports nothing of bot/, so not bot/process.py either
            sys.executable, "-m", "bot", "serve", env=env, cwd=Path(__file__).parents[1], stdin=asyncio.subprocess.DEVNULL,
            stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def log_end(home: Path, lines: int = 25) -> str:
    """The last lines of the bot's log."""
    log = home / "serve.log"
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else ""


@asynccontextmanager
async def serving_bot(home: Path, slack: SlackStandIn, database: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A failure inside gets the end of the bot's log."""
    process = await start_bot(home, slack, database)
    try:
        yield process
    except (DemoFailed, AssertionError) as error:
        raise DemoFailed(f"{error}\n\nThe end of the bot's log:\n{log_end(home) or '(it is empty)'}") from error
    finally:
        await end_bot(process)


async def end_bot(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(_LEAVING):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def staged(start_postgres: StartPostgres) -> AsyncIterator[Stage]:
    """All of it, the bot ready and the checkout down. Raises DemoFailed, RuntimeError when the shop's own history can't be applied."""
    async with folder() as home, start_postgres(home) as postgres:
        database = await shop_database(postgres.url())
        await fill(database)
        async with serving(database) as shop, populated() as slack:
            (home / "backout.yml").write_text(backout_yml(f"{shop}/health", store=home / "backups"))
            async with serving_bot(home, slack, database) as bot:
                stage = Stage(slack, shop, bot)
                await stage.until(lambda: slack.sockets, "it was connected to Slack")
                yield stage
