"""Slack, all of it and only it. Bolt is imported when `build` or `connect` is called, so that the command line stays fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bot.asking import Rollbacks
    from bot.ports import Clock, Journal
    from handlers.api import Slack
    from handlers.app import SlackApp
    from handlers.chat import SlackChat


@dataclass(frozen=True)
class Tokens:
    """`app` set: Socket Mode; else `signing_secret`: HTTP."""

    bot: str = field(repr=False)
    app: str | None = field(default=None, repr=False)
    signing_secret: str | None = field(default=None, repr=False)


def connect(tokens: Tokens, api_url: str, proxy: str | None = None) -> Slack:
    """The workspace, for SlackChat, SlackDirectory and build. Nothing is called yet."""
    from handlers import api  # noqa: PLC0415  an eighth of a second that `backout --help` need not pay

    return api.connect(tokens.bot, api_url, proxy)


def build(
    *,
    tokens: Tokens,
    slack: Slack,
    journal: Journal,
    rollbacks: Rollbacks,
    chat: SlackChat,
    targets: Mapping[str, Sequence[str]],
    clock: Clock,
    command: str = "/rollback",
) -> SlackApp:
    """The listening half. `targets` maps each target to its channels."""
    from handlers.app import SlackApp  # noqa: PLC0415  Bolt, a sixth of a second

    return SlackApp(
        slack=slack, chat=chat, journal=journal, rollbacks=rollbacks, targets=targets, command=command, clock=clock,
        app_token=tokens.app, signing_secret=None if tokens.app else tokens.signing_secret,
    )  # fmt: skip
