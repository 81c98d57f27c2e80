"""The bot as its own process, as operators run it: `backout serve` with nothing but the contract's environment, against the local Slack."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import yaml

from bot.place import Connect
from playground.slack import SlackStandIn
from tests.contract import projects

Json = dict[str, Any]

CHANNEL = "C0INCIDENT"
ROLES = {
    "dba": {"title": "DBA on call", "users": ["U0DBA"]},
    "team-lead": {"title": "Team lead", "usergroup": "S0LEADS", "users": []},
    "senior-backend": {"title": "Senior backend", "users": ["U0SENIOR"]},
    "cto": {"title": "CTO", "users": ["U0CTO"]},
}
POLICY = {
    "critical": {"approve": {"dba": 1, "team-lead": 1}, "within": "15m", "self": False},
    "high": {"approve": {"dba": 1}, "within": "1h"},
    "medium": {"approve": {"dba": 1}, "within": "4h"},
    "low": {"approve": {"dba": 1}, "within": "24h", "advice": "fix forward"},
}
PEOPLE = {"U0DEV": "Dev", "U0DBA": "Dana", "U0LEAD": "Lee", "U0SENIOR": "Sam", "U0CTO": "Chris", "U0BYSTANDER": "Bo"}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass
class Bot:
    """One bot, its target, its journal and its Slack. `start` and `kill` as often as the story needs."""

    root: Path
    target: Connect
    journal: Connect
    slack: SlackStandIn
    config: Json
    http: bool = False
    environ: dict[str, str] = field(default_factory=dict)
    process: asyncio.subprocess.Process | None = None
    port: int = field(default_factory=free_port)

    @property
    def log(self) -> Path:
        return self.root / "serve.log"

    def env(self, **more: str) -> dict[str, str]:
        """The contract's environment, and nothing of ours."""
        tokens = {"SLACK_SIGNING_SECRET": self.slack.signing_secret} if self.http else {"SLACK_APP_TOKEN": self.slack.app_token}
        return {
            "PATH": os.environ["PATH"],  # noqa: TID251  a test starts the bot as a shell would
            "HOME": str(self.root),
            "SLACK_BOT_TOKEN": self.slack.bot_token,
            "SLACK_API_URL": self.slack.api_url,
            "BACKOUT_CONFIG": str(self.root / "backout.yml"),
            "BACKOUT_HOME": str(self.root / "home"),
            "BACKOUT_DATABASE_URL": self.journal.url(),
            "TARGET_URL": self.target.url(),
            "PORT": str(self.port),
            **{f"{user}_TOKEN": f"fake-token-of-{user}" for user in PEOPLE},
            **tokens,
            **self.environ,
            **more,
        }

    def write(self) -> None:
        (self.root / "backout.yml").write_text(yaml.safe_dump(self.config, sort_keys=False))

    async def start(self) -> None:
        """Return when /readyz says so."""
        self.write()
        if self.http:
            self.slack.listen_http(f"http://127.0.0.1:{self.port}/slack/events")
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(  # noqa: TID251  a test starts the bot as a shell would
                sys.executable, "-m", "bot", "serve", env=self.env(), stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        await self.until(self._ready, what="ready")

    async def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.returncode is None, f"serve ended with {self.process.returncode}:\n{self.log.read_text()[-3000:]}"
        try:
            async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/readyz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    async def until(self, condition: Callable[[], Any], *, what: str, within: float = 180.0) -> Any:
        """Wait for a condition; the failure shows the bot's log."""
        try:
            async with asyncio.timeout(within):
                while not (found := await _value(condition)):  # noqa: ASYNC110  a condition of another process
                    await asyncio.sleep(0.05)
                return found
        except TimeoutError:
            raise AssertionError(f"not {what} within {within:g} s\n{self.slack.situation()}\n{self.log.read_text()[-4000:]}") from None

    async def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and wait for the end. Returns the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()

    async def run(self, *argv: str, user: str | None = None) -> tuple[int, str]:
        """A command of the command line: exit code and output."""
        more = {"BACKOUT_TOKEN": f"fake-token-of-{user}"} if user else {}
        words = [*argv, "--as", user] if user else list(argv)
        self.write()
        process = await asyncio.create_subprocess_exec(  # noqa: TID251  a test runs commands as a shell would
            sys.executable, "-m", "bot", *words, env=self.env(**more), stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    # ------------------------------------------------------------------ the channel

    async def ask(self, text: str, user: str = "U0DEV", channel: str = CHANNEL) -> None:
        await self.slack.command(channel, user, "/rollback", text)

    def cards(self) -> list[Json]:
        return [m for m in self.slack.messages(CHANNEL) if (m.get("metadata") or {}).get("event_type") == "backout_card"]

    def card(self) -> Json | None:
        return self.cards()[-1] if self.cards() else None

    def state(self) -> str | None:
        card = self.card()
        return str(card["metadata"]["event_payload"]["state"]) if card else None

    async def card_in(self, state: str, within: float = 180.0) -> Json:
        await self.until(lambda: self.state() == state, what=f"a card in {state}", within=within)
        card = self.card()
        assert card is not None
        return card

    async def reported(self, within: float = 180.0) -> str:
        """The post-mortem, once it is there."""

        def found() -> str | None:
            mine = [f for f in self.slack.files() if f.name.startswith("post-mortem-")]
            return mine[-1].text if mine else None

        return str(await self.until(found, what="reported", within=within))

    def thread(self) -> str:
        """The thread's texts, as one."""
        card = self.card()
        return "\n".join(str(m.get("text", "")) for m in self.slack.thread(card["ts"])) if card else ""

    def private(self, user: str) -> str:
        """What only that person was told."""
        return "\n".join(str(m.get("text", "")) for m in [*self.slack.ephemerals(user), *self.slack.dms(user)])

    async def told(self, user: str, words: str) -> str:
        await self.until(lambda: words in self.private(user), what=f"told {user} {words!r}")
        return self.private(user)

    # ------------------------------------------------------------------ the database and the journal

    def stands(self) -> str | None:
        return projects.stands(self.target)[0]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.target.url(), autocommit=True) as session:
            return session.execute(sql).fetchall()  # type: ignore[arg-type]

    def journaled(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.journal.url(), autocommit=True) as session:
            return session.execute(sql).fetchall()  # type: ignore[arg-type]

    def events(self, kind: str) -> list[Json]:
        with psycopg.connect(self.journal.url(), autocommit=True) as session:
            return [row[0] for row in session.execute("select data from backout.events where kind = %s order by at", (kind,)).fetchall()]


async def _value(condition: Callable[[], Any]) -> Any:
    found = condition()
    return await found if asyncio.iscoroutine(found) else found


def project(root: Path, *, downgrades: Mapping[str, str] | None = None, env: str | None = None, **more: Any) -> projects.Project:
    """An Alembic project at 0005; `downgrades` replaces the body of a revision's downgrade()."""
    scripts = {
        revision: projects.Script(one.down, one.message, (downgrades or {}).get(revision, one.downgrade), one.depends_on)
        for revision, one in projects.SCRIPTS.items()
    }
    return projects.make(root, env or projects.by_environment("psycopg2"), scripts=scripts, **more)


def configuration(directory: Path, root: Path, **target: Any) -> Json:
    return {
        "people": {user: {"name": name, "token": f"${{{user}_TOKEN}}"} for user, name in PEOPLE.items()},
        "targets": {
            "shop": {
                "database": "${TARGET_URL}",
                "channels": [CHANNEL],
                "tool": {"kind": "alembic", "directory": str(directory), "python": sys.executable},
                "backups": {"store": str(root / "backups"), "keep": "24h"},
                "rehearsal": {"server": "none"},  # the stories of the rehearsal say otherwise
                "verify": [{"name": "no order lost", "sql": "select count(*) from orders", "expect": "same"}],
                **target,
            }
        },
        "roles": json.loads(json.dumps(ROLES)),
        "policy": json.loads(json.dumps(POLICY)),
        "escalation": {"ladder": ["dba", "senior-backend", "cto"], "after": {"failed_attempts": 2, "down": "2h"}},
    }


@asynccontextmanager
async def workspace() -> AsyncIterator[SlackStandIn]:
    async with SlackStandIn() as slack:
        for user, name in PEOPLE.items():
            slack.add_user(user, name)
        slack.add_user("U0STRANGER", "Stranger", team="T0OTHER")
        slack.add_channel(CHANNEL, [*PEOPLE, "U0STRANGER"])
        slack.add_usergroup("S0LEADS", ["U0LEAD"])
        yield slack
