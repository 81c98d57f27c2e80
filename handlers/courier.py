"""Brings the channel up to date with one run: card, thread, direct messages, files. What was sent is remembered in the journal."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import replace

from bot.asking import Rollbacks
from bot.model import Delivery, Event, State, View
from bot.ports import Clock, Journal
from handlers import card, thread
from handlers.api import CLOSED, Declined, Slack, Unsure
from handlers.blocks import Message, cut, section
from handlers.text import fenced, safe

log = logging.getLogger(__name__)

_PARTS = 4
SILENT = 3.0  # seconds of planning that the channel need not see
PACE = 2.0  # seconds between two updates of a card that only show progress
_UPLOADS = 3  # failed uploads before a file is posted as text
_CHUNK = 2800  # characters of a file that has to be posted as text
_GONE = frozenset({"message_not_found", "cant_update_message"})
_MALFORMED = frozenset({"invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "msg_too_long", "metadata_too_large"})


class Courier:
    """Not safe for two deliveries of one run at a time; the channel's writer sees to that."""

    def __init__(self, slack: Slack, journal: Journal, clock: Clock) -> None:
        self._slack = slack
        self._journal = journal
        self._clock = clock
        self._began = clock.now()
        #: runs whose deliveries in the journal are known to be all there are
        self._sure: set[str] = set()
        self._updated: dict[str, float] = {}
        self._failed_uploads: dict[tuple[str, str], int] = {}
        #: notes that were written in the thread itself, which need no echo
        self.written: set[tuple[str, str, str]] = set()

    async def deliver(self, rollbacks: Rollbacks, run: str, *, at_once: bool = False) -> float | None:
        """Send what is missing. Returns the seconds after which it wants to come again. Raises RateLimited, Unsure, Declined, JournalDown."""
        view = await rollbacks.view(run)
        channel = view.run.request.channel
        if channel is None:
            return None
        had = dict(await self._journal.deliveries(run))
        if "card" not in had and (pause := _not_yet(view)) is not None:
            if view.run.state is State.REFUSED:
                await self._journal.deliver(run, "seq", Delivery(channel=channel, ts="", content=str(view.run.seq)))
            return pause or None
        try:
            await self._reconcile(view, channel, had)
            ts, again = await self._card(view, channel, had, at_once)
            await self._thread(rollbacks, view, channel, ts, had)
        except Unsure:
            self._sure.discard(run)
            raise
        except Declined as error:
            await self._closed(view, error, had)
            return None
        self._sure.add(run)
        if _last(had) < view.run.seq:
            await self._journal.deliver(run, "seq", Delivery(channel=channel, ts=ts, content=str(view.run.seq)))
        return again

    # -------------------------------------------------------------- the card

    async def _card(self, view: View, channel: str, had: dict[str, Delivery], at_once: bool) -> tuple[str, float | None]:
        old = had.get("card")
        # Every post and update has a larger seq than the one before, also when only progress changed.
        seq = max(view.run.seq, _Content.read(old.content).shown + 1) if old else view.run.seq
        made = card.card(view, seq)
        content = _Content(view.run.seq, _hash(card.card(_still(view))), _hash(card.card(view)), seq)
        if old is None:
            return await self._post_card(view, channel, made, content), None
        was = _Content.read(old.content)
        if was.seq > content.seq or was.whole == content.whole:
            return old.ts, None
        early = self._updated.get(view.run.id, float("-inf")) + PACE - self._clock.monotonic()
        if was.shape == content.shape and early > 0 and not at_once:
            return old.ts, early
        try:
            await self._slack.update(channel, old.ts, made)
        except Declined as error:
            if error.code in _GONE:
                return await self._post_card(view, channel, made, content), None
            if error.code not in _MALFORMED:
                raise
            log.exception("Slack would not take the card, a plain one was sent")
            await self._slack.update(channel, old.ts, _plain(made))
        await self._remember_card(view, channel, old.ts, content)
        return old.ts, None

    async def _post_card(self, view: View, channel: str, made: Message, content: _Content) -> str:
        try:
            ts = await self._slack.post(channel, made)
        except Declined as error:
            if error.code not in _MALFORMED:
                raise
            log.exception("Slack would not take the card, a plain one was sent")
            ts = await self._slack.post(channel, _plain(made))
        await self._remember_card(view, channel, ts, content)
        return ts

    async def _remember_card(self, view: View, channel: str, ts: str, content: _Content) -> None:
        self._updated[view.run.id] = self._clock.monotonic()
        await self._journal.deliver(view.run.id, "card", Delivery(channel=channel, ts=ts, content=content.write()))

    # -------------------------------------------------------------- the thread

    async def _thread(self, rollbacks: Rollbacks, view: View, channel: str, ts: str, had: dict[str, Delivery]) -> None:
        last = _last(had)
        for event in view.events:
            if event.seq <= last:
                continue
            said = thread.message(view, event)
            if said is not None and not self._was_written(view, event):
                await self._say(rollbacks, view, event, said, channel, ts, had)
            if event.kind == thread.REPORT:
                break  # nothing follows the report

    def _was_written(self, view: View, event: Event) -> bool:
        return event.kind == "note" and (view.run.id, str(event.data.get("by")), _words(event.data.get("text"))) in self.written

    async def _say(self, rollbacks: Rollbacks, view: View, event: Event, said: Message, channel: str, ts: str, had: dict[str, Delivery]) -> None:
        run, key = view.run.id, f"event:{event.seq}"
        if key not in had:
            posted = await self._slack.post(channel, said, ts)
            await self._journal.deliver(run, key, Delivery(channel=channel, ts=posted))
        for user in said.people:
            await self._call(view, event, user, said.calls, channel, ts, had)
        files = said.files
        if event.kind == thread.REPORT:
            files = ((str(event.data.get("file") or f"post-mortem-{run}.md"), await rollbacks.report(run)),)
        for place, (name, content) in enumerate(files):
            await self._file(view, event, place, name, content, channel, ts, had)

    async def _call(self, view: View, event: Event, user: str, why: str, channel: str, ts: str, had: Mapping[str, Delivery]) -> None:
        key = f"dm:{event.seq}:{user}"
        if key in had:
            return
        try:
            sent = await self._slack.direct(user, f"{why}\n{self.link(channel, ts)}".strip())
        except Declined as error:
            log.info("%s was not told directly: %s", user, error)
            sent = ""
        await self._journal.deliver(view.run.id, key, Delivery(channel=channel, ts=sent))

    def link(self, channel: str, ts: str) -> str:
        """The card's address, for people outside the channel."""
        return f"{self._slack.home}archives/{channel}/p{ts.replace('.', '')}" if self._slack.home else f"It is in <#{channel}>."

    async def _file(self, view: View, event: Event, place: int, name: str, content: str, channel: str, ts: str, had: dict[str, Delivery]) -> None:
        key = _key(event, place)
        if key in had:
            return
        try:
            await self._slack.upload(channel, ts, name, content, _comment(content))
        except (Declined, Unsure) as error:
            self._failed_uploads[view.run.id, key] = self._failed_uploads.get((view.run.id, key), 0) + 1
            if isinstance(error, Unsure) and self._failed_uploads[view.run.id, key] < _UPLOADS:
                raise
            log.info("%s is posted as text: %s", name, error)
            await self._as_text(view, event, key, name, content, channel, ts, had)
        await self._journal.deliver(view.run.id, key, Delivery(channel=channel, ts=ts, content=name))

    async def _as_text(self, view: View, event: Event, file: str, name: str, content: str, channel: str, ts: str, had: dict[str, Delivery]) -> None:
        for part, chunk in enumerate(_chunks(content)):
            key = f"{file}:{part}"
            if key not in had:
                text = f"{name}\n" if part == 0 else ""
                payload = {"run": view.run.id, "seq": event.seq, "part": part, "key": key}
                body = Message(f"{text}{fenced(chunk, 10**6)}", metadata={"event_type": "backout_event", "event_payload": payload})
                posted = await self._slack.post(channel, body, ts)
                await self._journal.deliver(view.run.id, key, Delivery(channel=channel, ts=posted))

    # -------------------------------------------------------------- when nobody is sure, and when the channel is closed

    async def _reconcile(self, view: View, channel: str, had: dict[str, Delivery]) -> None:
        """Ask the channel what it has, before anything is posted a second time."""
        if view.run.id in self._sure or (not had and view.run.created >= self._began and view.run.id not in self._updated):
            # Stays unsure until all of it is delivered: the first post of a new run may have been lost on its way back.
            self._updated.setdefault(view.run.id, float("-inf"))
            return
        try:
            await self._find_card(view, channel, had)
            if "card" in had:
                await self._find_replies(view, channel, had)
        except Declined as error:
            if error.code in CLOSED:
                raise
            log.info("the channel can't be asked what it has: %s", error)

    async def _find_card(self, view: View, channel: str, had: dict[str, Delivery]) -> None:
        if "card" in had:
            return
        oldest = str(view.run.created.timestamp() - 60)
        client = self._slack.client
        answer = await self._slack.call(client.conversations_history, channel=channel, oldest=oldest, include_all_metadata=True, limit=200)
        for each in answer.get("messages", ()):
            payload = _payload(each, "backout_card")
            if payload.get("run") == view.run.id:
                had["card"] = Delivery(channel=channel, ts=str(each["ts"]), content=_Content(0, "", "", _seq(each)).write())
                await self._journal.deliver(view.run.id, "card", had["card"])
                return

    async def _find_replies(self, view: View, channel: str, had: dict[str, Delivery]) -> None:
        cursor = ""
        while True:
            answer = await self._slack.call(
                self._slack.client.conversations_replies,
                channel=channel,
                ts=had["card"].ts,
                include_all_metadata=True,
                limit=200,
                cursor=cursor or None,
            )
            for each in answer.get("messages", ()):
                await self._found(view, channel, each, had)
            cursor = str((answer.get("response_metadata") or {}).get("next_cursor") or "")
            if not cursor:
                return

    async def _found(self, view: View, channel: str, message: Mapping[str, object], had: dict[str, Delivery]) -> None:
        payload = _payload(message, "backout_event")
        names = {str(each.get("name")) for each in _dicts(message.get("files"))}
        keys = [_key(event, place) for event in view.events if names for place, name in enumerate(_files(view, event)) if name in names]
        if payload.get("run") == view.run.id:
            keys.append(
                str(payload.get("key") or f"file:{payload.get('seq')}:{payload['part']}") if "part" in payload else f"event:{payload.get('seq')}"
            )
        for key in keys:
            if key not in had:
                had[key] = Delivery(channel=channel, ts=str(message["ts"]))
                await self._journal.deliver(view.run.id, key, had[key])

    async def _closed(self, view: View, error: Declined, had: Mapping[str, Delivery]) -> None:
        """The channel won't have it: the run goes on, and who asked for it is told once."""
        run = view.run
        log.warning("the channel did not take run %s: %s", run.id, error)
        if error.code not in CLOSED or "closed" in had:
            return
        text = (
            f"I can't post in <#{run.request.channel}> ({error.code}). The rollback of {run.target} goes on without it: {run.id}. "
            "Invite me to the channel, then I catch up there."
        )
        try:
            ts = await self._slack.direct(run.request.by.id, text)
        except Declined as worse:
            log.warning("nor could its requester be told: %s", worse)
            ts = ""
        await self._journal.deliver(run.id, "closed", Delivery(channel=run.request.channel or "", ts=ts, content=error.code))


class _Content:
    """What of the card was sent: the journal's seq, a hash without progress and clock, a hash of it all, and the seq that it carried."""

    def __init__(self, seq: int, shape: str, whole: str, shown: int) -> None:
        self.seq, self.shape, self.whole, self.shown = seq, shape, whole, shown

    def write(self) -> str:
        return f"{self.seq}:{self.shape}:{self.whole}:{self.shown}"

    @classmethod
    def read(cls, text: str) -> _Content:
        """What is no such text counts as nothing sent (a card that was found again after a lost answer)."""
        parts = text.split(":")
        if len(parts) != _PARTS or not (parts[0].isdigit() and parts[3].isdigit()):
            return cls(0, "", "", 0)
        return cls(int(parts[0]), parts[1], parts[2], int(parts[3]))


def _not_yet(view: View) -> float | None:
    """A plan that is refused at once never gets a card: its asker is told in private. Planning shows only when it takes long. Seconds to wait."""
    if view.run.state is State.REFUSED and view.run.plan is None:
        return 0.0
    left = SILENT - (view.now - view.run.created).total_seconds()
    return left if view.run.state is State.PLANNING and left > 0 else None


def _still(view: View) -> View:
    """The view without what changes by itself."""
    steps = tuple(step.model_copy(update={"progress": ""}) for step in view.steps)
    return view.model_copy(update={"steps": steps, "now": view.run.created})


def _hash(message: Message) -> str:
    body = {"text": message.text, "blocks": message.blocks, "metadata": message.metadata}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def _plain(message: Message) -> Message:
    """The least that still shows what is the case and what can be pressed."""
    buttons = tuple(block for block in message.blocks if str(block.get("block_id", "")).startswith("backout:"))
    return replace(message, blocks=(section(cut(message.text)), *buttons))


def _files(view: View, event: Event) -> list[str]:
    """The names of the files that this event puts into the thread."""
    if event.kind == thread.REPORT:
        return [str(event.data.get("file"))]
    said = thread.message(view, event)
    return [name for name, _ in said.files] if said else []


def _key(event: Event, place: int) -> str:
    """What is remembered of the event's file at that place."""
    return f"file:{event.seq}/{place}" if place else f"file:{event.seq}"


def _comment(content: str) -> str:
    """A document's own title, which holds words of others; a file without one needs no more than its name, which Slack shows."""
    first = content.partition("\n")[0]
    return safe(first.removeprefix("# "), 500) if first.startswith("# ") else ""


def _chunks(content: str) -> list[str]:
    return [content[start : start + _CHUNK] for start in range(0, len(content), _CHUNK)]


def _last(had: Mapping[str, Delivery]) -> int:
    return int(had["seq"].content) if "seq" in had else 0


def _words(text: object) -> str:
    return " ".join(str(text or "").split())


def _payload(message: Mapping[str, object], kind: str) -> Mapping[str, object]:
    metadata = message.get("metadata")
    if not isinstance(metadata, Mapping) or metadata.get("event_type") != kind:
        return {}
    payload = metadata.get("event_payload")
    return payload if isinstance(payload, Mapping) else {}


def _seq(message: Mapping[str, object]) -> int:
    shown = _payload(message, "backout_card").get("seq")
    return shown if isinstance(shown, int) else 0


def _dicts(value: object) -> list[Mapping[str, object]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []
