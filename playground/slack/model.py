"""The nouns of the local Slack. A message and a view are plain JSON, as Slack's answers have them."""

from __future__ import annotations

import datetime as dt
import itertools
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

_ids = itertools.count(1)


def new_id(letter: str) -> str:
    """Ids look like Slack's: a letter of their kind, then capitals and digits."""
    return f"{letter}0{next(_ids):08X}"


def short_id() -> str:
    """What Slack fills in for a missing block_id or action_id."""
    return secrets.token_urlsafe(4)[:5]


def wall_clock() -> dt.datetime:
    return dt.datetime.now(dt.UTC)  # noqa: TID251  the playground has no bot/clock.py; this is its one reader of the time


class ApiError(Exception):
    """Slack says no: `{"ok": false, "error": code}`; `reasons` become response_metadata.messages."""

    def __init__(self, code: str, reasons: Sequence[str] = (), **extra: Any) -> None:
        super().__init__(code)
        self.code = code
        self.reasons = tuple(reasons)
        self.extra = extra

    def answer(self) -> Json:
        body: Json = {"ok": False, "error": self.code, **self.extra}
        if self.reasons:
            body["errors"] = list(self.reasons)
            body["response_metadata"] = {"messages": [f"[ERROR] {reason}" for reason in self.reasons]}
        return body


class NotPossible(AssertionError):
    """A person in front of Slack could not do this: no such button, a required field left empty, not a member."""


@dataclass
class User:
    id: str
    name: str
    team: str


@dataclass
class Channel:
    """`bot` says whether the bot is a member; `user` is set for a direct message."""

    id: str
    name: str
    members: set[str]
    bot: bool = True
    archived: bool = False
    user: str | None = None
    messages: dict[str, Json] = field(default_factory=dict)


@dataclass(frozen=True)
class Ack:
    """How the bot answered. `status` 0: not at all; `problem` says why, in Slack's words. `seconds` from sending to the answer."""

    status: int
    body: str
    seconds: float
    kind: str = ""
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.problem is None and self.status == 200


@dataclass(frozen=True)
class Call:
    """One call of the Web API, or of a response_url (method `response_url`). `error` is None when Slack did it."""

    method: str
    args: Mapping[str, Any]
    error: str | None
    status: int
    at: float


@dataclass
class UploadedFile:
    """`data` is None until the bytes came; `channel` and `thread_ts` are set once it was shared."""

    id: str
    name: str
    length: int
    data: bytes | None = None
    title: str = ""
    channel: str | None = None
    thread_ts: str | None = None

    @property
    def text(self) -> str:
        return (self.data or b"").decode()


@dataclass
class Trigger:
    id: str
    user: str
    until: float
    used: bool = False


@dataclass
class ResponseUrl:
    """Five uses within thirty minutes. `ts` is the message that the action came from, if there was one."""

    user: str
    channel: str
    until: float
    ts: str | None = None
    left: int = 5


@dataclass
class Delivery:
    """One thing that was sent to the bot, kept so that it can be sent again. `payload` is what the bot reads."""

    kind: str
    payload: Json
    envelope: str
    attempt: int = 0
    reason: str = ""
    #: the request exactly as it was sent over HTTP
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
