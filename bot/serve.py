"""`backout serve`: opens everything, is the bot until it is asked to leave, closes in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sys

import handlers
from bot import config as configuration
from bot import engine
from bot.app import App, opened
from bot.clock import SystemClock
from bot.config import Config
from bot.errors import BackoutError, ConfigError, JournalDown
from bot.journal.postgres import PostgresJournal
from bot.ports import Chat, Directory
from bot.process import redact
from bot.schedule import Schedule
from bot.settings import Settings, environment
from bot.web import Server

log = logging.getLogger(__name__)

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_LEASE_TRIES = 20  # half seconds: the server needs a moment to see that a killed process is gone


async def serve(settings: Settings) -> int:
    """Exit code. Raises ConfigError for what is missing, JournalDown."""
    if not settings.slack_bot_token:
        raise ConfigError("SLACK_BOT_TOKEN is not set. Take it from the Slack app's page, OAuth & Permissions.")
    if not settings.slack_app_token and not settings.slack_signing_secret:
        raise ConfigError("Set SLACK_APP_TOKEN (Socket Mode) or SLACK_SIGNING_SECRET (HTTP); without one Slack can't reach the bot.")
    if not settings.port.isdigit():
        raise ConfigError("PORT must be a number.")
    config = configuration.load(settings.config, environment())
    _log_to_stderr(settings, config)
    tokens = handlers.Tokens(bot=settings.slack_bot_token, app=settings.slack_app_token, signing_secret=settings.slack_signing_secret)
    workspace = handlers.connect(tokens, settings.slack_api_url, settings.proxy)
    from handlers.chat import SlackChat  # noqa: PLC0415  the SDK, which only serve needs
    from handlers.people import SlackDirectory  # noqa: PLC0415

    chats: list[SlackChat] = []

    def channel(journal: PostgresJournal) -> tuple[Chat, Directory]:
        chats.append(SlackChat(workspace, journal, SystemClock()))
        return chats[0], SlackDirectory(config.roles, workspace, SystemClock())

    async with opened(settings, config, channel=channel) as app:
        await _take_lease(app)
        slack = handlers.build(
            tokens=tokens, slack=workspace, journal=app.journal, rollbacks=app.rollbacks, chat=chats[0],
            targets={name: target.channels for name, target in config.targets.items()}, clock=app.clock, command=config.command,
        )  # fmt: skip

        async def reasons() -> dict[str, str]:
            found = {}
            try:
                await app.journal.ping()
            except JournalDown as error:
                found["journal"] = str(error)
            if not app.launched:
                found["engine"] = "starting"
            if why := slack.reasons():
                found["slack"] = why
            return found

        server = Server(reasons=reasons, slack=slack.web_handler if not tokens.app else None)
        await server.start(settings.host, int(settings.port))
        await app.launch()
        schedule = Schedule(ring=app.rollbacks.ring, retain=app.rollbacks.retain, duties=app.duties.due)
        schedule.start()
        await chats[0].open(app.rollbacks)
        await slack.start()
        log.info("ready for %s", ", ".join(sorted(config.targets)))
        code = await _until_asked_to_leave(app)
        if code:
            engine.exit_now(code)  # the lease may be somebody else's: nothing more is ours to do
        schedule.stop()
        await slack.stop()
        await server.stop()
        await app.leave()
        await chats[0].close()
    engine.exit_now(0)
    return 0


async def _take_lease(app: App) -> None:
    for _ in range(_LEASE_TRIES):
        if await app.lease.take():
            return
        await asyncio.sleep(0.5)
    raise BackoutError(
        f"another process serves this journal as executor {app.lease.executor}. Stop it, or give this one another BACKOUT_EXECUTOR_ID."
    )


async def _until_asked_to_leave(app: App) -> int:
    """0 when asked to leave, 1 when the lease on the journal is lost."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, asked.set)
    lease = asyncio.create_task(app.lease.watch(), name="lease")
    leave = asyncio.create_task(asked.wait(), name="leave")
    done, _ = await asyncio.wait({lease, leave}, return_when=asyncio.FIRST_COMPLETED)
    for task in (lease, leave):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(lease, leave, return_exceptions=True)
    return 0 if leave in done else 1


class _Lines(logging.Formatter):
    """One JSON object a line, redacted."""

    def __init__(self, secrets: tuple[str, ...]) -> None:
        super().__init__()
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        said = {"at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"), "level": record.levelname.lower(), "logger": record.name}
        said["message"] = redact(record.getMessage(), self._secrets)
        if record.exc_info:
            said["error"] = redact(self.formatException(record.exc_info), self._secrets)
        return json.dumps(said, ensure_ascii=False)


def _log_to_stderr(settings: Settings, config: Config) -> None:
    if settings.log not in _LEVELS:
        raise ConfigError(f"BACKOUT_LOG must be one of {', '.join(_LEVELS)}.")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines((*config.secrets, *settings.secrets())))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("bot", "handlers"):
        logging.getLogger(name).setLevel(_LEVELS[settings.log])
