"""What is pressed on a card, ticked, submitted, or written in a run's thread."""

from __future__ import annotations

import logging

from bot.asking import Rollbacks
from bot.errors import ChatError, UsageError
from bot.model import Person
from bot.ports import Journal
from handlers import card, modals, payload
from handlers.addresses import AddressForm
from handlers.api import Slack
from handlers.blocks import BOXES
from handlers.chat import SlackChat
from handlers.inbox import Item
from handlers.payload import Payload, Sender
from handlers.text import unescape

log = logging.getLogger(__name__)

_DECISIONS = frozenset({"retry", "restore", "leave", "escalate"})


class Buttons:
    """Whose button it is, is decided by Rollbacks, which raises Denied; here a press only becomes a call."""

    def __init__(self, slack: Slack, chat: SlackChat, journal: Journal, rollbacks: Rollbacks, form: AddressForm) -> None:
        self._form = form
        self._slack = slack
        self._chat = chat
        self._journal = journal
        self._rollbacks = rollbacks

    async def pressed(self, item: Item, sender: Sender) -> None:
        """Every action of a press; there is one, except in tests of Slack's patience."""
        for action in item.body.get("actions", ()):
            name = str(action.get("action_id", ""))
            if name.startswith("tick"):
                await self._tick(action, sender.person)
            else:
                run, _, digest = str(action.get("value") or "").rpartition(":")
                await self._press(name, run, digest, sender)

    async def _press(self, name: str, run: str, digest: str, sender: Sender) -> None:
        if name == "approve":
            await self._rollbacks.approve(run, digest, sender.person)
        elif name == "reject":
            await self._ask_why(run, digest, sender)
        elif name == "withdraw":
            await self._rollbacks.withdraw(run, sender.person)
        elif name == "cancel":
            await self._rollbacks.cancel(run, sender.person)
        elif name == "end_sessions":
            await self._rollbacks.end_sessions(run, sender.person)
        elif name == modals.ADDRESS:
            await self._form.open(run, sender)
        elif name in _DECISIONS:
            await self._rollbacks.decide(run, name, sender.person)
        else:
            log.info("a press on an unknown action was left alone")

    async def _ask_why(self, run: str, digest: str, sender: Sender) -> None:
        await self._rollbacks.may_reject(run, digest, sender.person)
        kept = {"channel": sender.channel, "response_url": sender.asker.response_url}
        try:
            await self._slack.open_view(sender.trigger, modals.reject(run, digest, kept))
        except ChatError as error:
            raise UsageError("The form for your reason could not be opened in time. Nothing was rejected: press Reject again.") from error

    async def rejected(self, item: Item, sender: Sender) -> None:
        """The form `backout_reject`."""
        kept = payload.private_metadata(item.body)
        reason = modals.values(item.body["view"]).get("reason", "")
        if not reason:
            raise UsageError("Rejecting needs a reason. Nothing was rejected: press Reject again.")
        await self._rollbacks.reject(str(kept.get("run", "")), str(kept.get("digest", "")), sender.person, reason)

    async def _tick(self, action: Payload, person: Person) -> None:
        """What is ticked in one block of boxes, together with what stands ticked in the others."""
        run = str(action.get("block_id", "")).partition(":")[2]
        view = await self._rollbacks.view(run)
        ticked = {str(each.get("value")) for each in action.get("selected_options") or ()}
        block = _block(str(action.get("action_id")), view.questions, view.checklist)
        now = [each for each in (*view.questions, *view.checklist) if (card.tick_value(each) in ticked if each in block else each in view.ticked)]
        await self._rollbacks.tick(run, now, person)

    async def said(self, item: Item, sender: Sender) -> None:
        """A message in a run's thread is a note of its incident."""
        event = item.body["event"]
        if sender.channel is None or sender.asker.thread is None:
            return
        run = await self._journal.run_of_thread(sender.channel, sender.asker.thread)
        text = " ".join(unescape(str(event.get("text") or "")).split())
        if run is None or not text:
            return
        self._chat.written(run, sender.person.id, text)
        await self._rollbacks.note(run, text, sender.person)


def _block(action_id: str, questions: tuple[str, ...], checklist: tuple[str, ...]) -> tuple[str, ...]:
    kind, place = action_id.removeprefix("tick_")[:1], action_id.removeprefix("tick_")[1:]
    items = questions if kind == "q" else checklist
    start = int(place) * BOXES if place.isdecimal() else 0
    return items[start : start + BOXES]


def is_note(event: Payload, bot: str) -> bool:
    """A person's own new words in a thread: no bot, no edit, no command to us."""
    if event.get("type") != "message" or event.get("bot_id") or event.get("subtype") not in {None, "file_share", "thread_broadcast"}:
        return False
    thread = event.get("thread_ts")
    return bool(event.get("user") and event["user"] != bot and thread and thread != event.get("ts")) and not _to_us(event, bot)


def _to_us(event: Payload, bot: str) -> bool:
    return bool(bot) and str(event.get("text") or "").lstrip().startswith((f"<@{bot}>", f"<@{bot}|"))


def is_mention(event: Payload, bot: str) -> bool:
    """A person began with our name: a command. Our name later in a sentence is talk about us."""
    return event.get("type") == "app_mention" and bool(event.get("user")) and not event.get("bot_id") and _to_us(event, bot)
