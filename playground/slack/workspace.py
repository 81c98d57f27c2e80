"""What the local Slack knows: people, channels, messages, views, files; and the tests' way to read it and to wait for it."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from playground.slack.model import (
    Ack,
    ApiError,
    Call,
    Channel,
    Json,
    NotPossible,
    ResponseUrl,
    Trigger,
    UploadedFile,
    User,
    new_id,
    wall_clock,
)  # fmt: skip
from playground.slack.render import render, render_thread

T = TypeVar("T")

TRIGGER_SECONDS = 3.0
RESPONSE_URL_SECONDS = 1800.0


class Workspace:
    """State only: no network. Reading methods hand out copies; nothing that a test holds changes under it."""

    def __init__(self) -> None:
        self.team_id = "T0SHOP"
        self.app_id = "A0BACKOUT"
        self.bot_id = "B0BACKOUT"
        self.bot_user = "U0BACKOUT"
        self.users: dict[str, User] = {self.bot_user: User(self.bot_user, "backout", self.team_id)}
        self.channels: dict[str, Channel] = {}
        self.usergroups: dict[str, list[str]] = {}
        self.triggers: dict[str, Trigger] = {}
        self.response_urls: dict[str, ResponseUrl] = {}
        self.uploads: dict[str, UploadedFile] = {}
        #: every API call, oldest first
        self.calls: list[Call] = []
        #: every answer of the bot to something that was sent to it, oldest first
        self.acks: list[Ack] = []
        self._ephemerals: dict[str, list[Json]] = {}
        self._views: dict[str, list[Json]] = {}
        self._ticked: dict[tuple[str, str, str, str], list[Json]] = {}
        #: grows with everything that happens
        self.changes = 0
        self._changed = asyncio.Event()
        self._last_ts = 0
        self._forward = 0.0

    # -------------------------------------------------------------- who and where

    def add_user(self, id: str, name: str, team: str | None = None) -> User:  # noqa: A002  Slack's word
        """`team` another than ours: a person of another company, in a shared channel."""
        self.users[id] = User(id, name, team or self.team_id)
        return self.users[id]

    def add_channel(self, id: str, members: Iterable[str] = (), *, bot: bool = True, archived: bool = False) -> Channel:  # noqa: A002
        """The bot is a member unless `bot` is False."""
        self.channels[id] = Channel(id, id.lower(), set(members), bot, archived)
        return self.channels[id]

    def add_usergroup(self, id: str, users: Iterable[str]) -> None:  # noqa: A002
        self.usergroups[id] = list(users)

    def direct(self, user: str) -> Channel:
        """The bot's direct messages with a person, opened when needed. Raises ApiError(user_not_found)."""
        if user not in self.users:
            raise ApiError("user_not_found")
        for channel in self.channels.values():
            if channel.user == user:
                return channel
        channel = Channel(new_id("D"), self.users[user].name, {user}, user=user)
        self.channels[channel.id] = channel
        return channel

    # -------------------------------------------------------------- time

    def now(self) -> float:
        """Seconds on the clock of triggers, response_urls and limits; `forward` moves it."""
        return time.monotonic() + self._forward

    def forward(self, seconds: float) -> None:
        """Let time pass for triggers, response_urls and rate limits; signatures and ts keep the machine's time."""
        self._forward += seconds

    def next_ts(self) -> str:
        """Unique and growing."""
        micro = max(int(wall_clock().timestamp() * 1_000_000), self._last_ts + 1)
        self._last_ts = micro
        return f"{micro // 1_000_000}.{micro % 1_000_000:06d}"

    def new_trigger(self, user: str) -> str:
        trigger = Trigger(f"{new_id('1')}.{new_id('2')}.{new_id('a').lower()}", user, self.now() + TRIGGER_SECONDS)
        self.triggers[trigger.id] = trigger
        return trigger.id

    def use_trigger(self, id: Any) -> Trigger:  # noqa: A002
        """Three seconds, once. Raises invalid_trigger_id, expired_trigger_id, exchanged_trigger_id."""
        trigger = self.triggers.get(id) if isinstance(id, str) else None
        if trigger is None:
            raise ApiError("invalid_trigger_id")
        if trigger.used:
            raise ApiError("exchanged_trigger_id")
        if self.now() > trigger.until:
            raise ApiError("expired_trigger_id")
        trigger.used = True
        return trigger

    def new_response_url(self, user: str, channel: str, ts: str | None = None) -> str:
        """The key of a response_url; the server makes it an address."""
        key = new_id("R")
        self.response_urls[key] = ResponseUrl(user, channel, self.now() + RESPONSE_URL_SECONDS, ts)
        return key

    # -------------------------------------------------------------- messages and views

    def store_message(self, channel: Channel, message: Json) -> Json:
        """Give it a ts and keep it."""
        ts = self.next_ts()
        message = {"type": "message", "ts": ts, "team": self.team_id, **message}
        channel.messages[ts] = message
        self.changed()
        return message

    def by_bot(self) -> Json:
        return {"user": self.bot_user, "bot_id": self.bot_id, "app_id": self.app_id}

    def keep_ephemeral(self, user: str, channel: str, message: Json) -> str:
        ts = self.next_ts()
        self._ephemerals.setdefault(user, []).append(
            {"type": "message", "ts": ts, "channel": channel, **self.by_bot(), "is_ephemeral": True, **message}
        )
        self.changed()
        return ts

    def find_ephemeral(self, ts: str | None) -> Json | None:
        return next((message for kept in self._ephemerals.values() for message in kept if message["ts"] == ts), None)

    def drop_ephemeral(self, ts: str) -> None:
        for kept in self._ephemerals.values():
            kept[:] = [message for message in kept if message["ts"] != ts]
        self.changed()

    def open_view(self, user: str, view: Json) -> Json:
        """On top of the person's stack of views."""
        stack = self._views.setdefault(user, [])
        id_ = new_id("V")
        root = stack[0]["id"] if stack else id_
        kept = {
            "private_metadata": "", "callback_id": "", "external_id": "", "clear_on_close": False, "notify_on_close": False,
            "submit": None, "close": None, **view, "id": id_, "team_id": self.team_id, "app_id": self.app_id, "bot_id": self.bot_id,
            "app_installed_team_id": self.team_id, "root_view_id": root, "previous_view_id": stack[-1]["id"] if stack else None,
            "hash": new_id("h"), "state": {"values": {}},
        }  # fmt: skip
        stack.append(kept)
        self.changed()
        return kept

    def find_view(self, id: str) -> tuple[str, Json] | None:  # noqa: A002
        """Whose view it is, and the view; None once it was closed."""
        return next(((user, view) for user, stack in self._views.items() for view in stack if view["id"] == id), None)

    def open_views(self) -> Iterator[Json]:
        """Everybody's, as they are kept."""
        return (view for stack in self._views.values() for view in stack)

    def replace_view(self, kept: Json, view: Json) -> Json:
        kept.update({"submit": None, "close": None, **view, "hash": new_id("h")})
        kept.pop("errors", None)
        self.changed()
        return kept

    def close_view(self, user: str, id: str, *, all_of_them: bool = False) -> None:  # noqa: A002
        stack = self._views.get(user, [])
        stack[:] = [] if all_of_them else [view for view in stack if view["id"] != id]
        self.changed()

    # -------------------------------------------------------------- reading

    def messages(self, channel: str, thread_ts: str | None = None) -> list[Json]:
        """What stands in the channel, oldest first, without the replies; with `thread_ts`, that thread with its parent."""
        kept = self._channel(channel).messages.values()
        if thread_ts is None:
            chosen = [message for message in kept if message.get("thread_ts", message["ts"]) == message["ts"]]
        else:
            chosen = [message for message in kept if thread_ts in {message["ts"], message.get("thread_ts")}]
        return [{**copy.deepcopy(message), "channel": channel} for message in chosen]

    def thread(self, ts: str) -> list[Json]:
        """A message and its replies, in whichever channel it stands."""
        channel = next((channel.id for channel in self.channels.values() if ts in channel.messages), None)
        return [] if channel is None else self.messages(channel, ts)

    def ephemerals(self, user: str) -> list[Json]:
        """What only that person sees."""
        return copy.deepcopy(self._ephemerals.get(user, []))

    def dms(self, user: str) -> list[Json]:
        """The bot's direct messages with a person, oldest first."""
        return [message for channel in list(self.channels.values()) if channel.user == user for message in self.messages(channel.id)]

    def views(self, user: str) -> list[Json]:
        """The person's open views, the topmost last. `errors` holds what the bot said against the last submission."""
        return copy.deepcopy(self._views.get(user, []))

    def files(self) -> list[UploadedFile]:
        """Files that were shared in a channel, oldest first."""
        return [copy.copy(file) for file in self.uploads.values() if file.channel is not None]

    def _channel(self, id: str) -> Channel:  # noqa: A002
        if id not in self.channels:
            raise NotPossible(f"there is no channel {id}")
        return self.channels[id]

    def names(self) -> dict[str, str]:
        return {user.id: user.name for user in self.users.values()} | {channel.id: channel.name for channel in self.channels.values()}

    def render(self, message: Json) -> str:
        return render(message, self.names())

    def render_thread(self, ts: str) -> str:
        return render_thread(self.thread(ts), self.names())

    # -------------------------------------------------------------- waiting

    def changed(self) -> None:
        """Something happened: wake everybody who waits. State changes and this call are never apart by an await."""
        self.changes += 1
        event, self._changed = self._changed, asyncio.Event()
        event.set()

    async def until_changed(self, since: int) -> int:
        """Return `changes` once it is not `since` any more: at once when something happened meanwhile."""
        while self.changes == since:
            await self._changed.wait()
        return self.changes

    async def wait_for(self, predicate: Callable[[], T], timeout: float = 30.0) -> T:
        """Return the predicate's first true value; asked again after every change. Raises AssertionError that shows what is there."""
        try:
            async with asyncio.timeout(timeout):
                while not (value := predicate()):
                    await self._changed.wait()
                return value
        except TimeoutError:
            raise AssertionError(f"not within {timeout:g} s. {self.situation()}") from None

    def situation(self) -> str:
        """The last messages and calls, for a failure message."""
        kept = [(message["ts"], channel.id, message) for channel in self.channels.values() for message in channel.messages.values()]
        kept += [(message["ts"], f"only {user}", message) for user, mine in self._ephemerals.items() for message in mine]
        shown = [f"[{where}]\n{self.render(message)}" for _, where, message in sorted(kept, key=lambda entry: entry[0])[-6:]]
        calls = [f"{call.method} -> {call.error or 'ok'}" for call in self.calls[-12:]]
        acks = [f"{ack.kind} -> {ack.problem or ack.status}" for ack in self.acks[-5:]]
        views = [f"{user}: {json.dumps(view['title']['text'])}" for user, stack in self._views.items() for view in stack]
        parts = [("Last messages", shown), ("Open views", views), ("Last calls", calls), ("Last acks", acks)]
        return "\n".join(f"{title}:\n" + "\n".join(lines or ["(none)"]) for title, lines in parts)
