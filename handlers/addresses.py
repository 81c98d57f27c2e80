"""The form for the address of a server that a provider recovered. It holds a password, so it is the one submission that is never stored."""

from __future__ import annotations

import asyncio
from typing import Any

from bot.asking import Rollbacks
from bot.errors import BackoutError, ChatError, JournalDown, Refusal, UsageError
from bot.ports import Journal
from handlers import modals, payload
from handlers.api import Slack
from handlers.chat import SlackChat
from handlers.payload import SUBMISSION, Payload, Sender
from handlers.text import clean, private

_ACK = 2.0  # seconds; Slack waits for 3
_KNOWN = 100  # submissions that are recognised when Slack sends them again
_LONGEST = 500  # characters under an input
_NOT_JOURNALED = "Backout can't reach its journal now, so the address was not taken. Please try again in a minute."


class AddressForm:
    """Opened by a button, answered in the form itself; what takes longer than Slack waits, in private."""

    def __init__(self, slack: Slack, chat: SlackChat, journal: Journal, rollbacks: Rollbacks) -> None:
        self._slack, self._chat, self._journal, self._rollbacks = slack, chat, journal, rollbacks
        self._looking: dict[str, asyncio.Task[str]] = {}
        self._late: set[asyncio.Task[None]] = set()

    async def open(self, run: str, sender: Sender) -> None:
        await self._rollbacks.may_enter(run, sender.person)
        kept = {"channel": sender.channel, "response_url": sender.asker.response_url}
        try:
            await self._slack.open_view(sender.trigger, modals.address(run, kept))
        except ChatError as error:
            raise UsageError("The form for the address could not be opened in time. Press the button again.") from error

    async def answer(self, body: Payload, team: str) -> str:
        """What stands under the input; empty when the form may close."""
        key = payload.identity(SUBMISSION, body)
        task = self._looking.get(key)
        if task is None:
            task = self._looking[key] = asyncio.create_task(self._enter(body, team), name="address")
            for old in [known for known, one in self._looking.items() if one.done()][:-_KNOWN]:
                del self._looking[old]
        await asyncio.wait({task}, timeout=_ACK)
        if task.done():
            return task.result()
        late = asyncio.create_task(self._tell(task, payload.sender(SUBMISSION, body)), name="address, told late")
        self._late.add(late)
        late.add_done_callback(self._late.discard)
        return ""

    async def _enter(self, body: Payload, team: str) -> str:
        sender, kept = payload.sender(SUBMISSION, body), payload.private_metadata(body)
        run = str(kept.get("run") or "")
        try:
            if not team or sender.person.team != team:
                await self._journal.record(run, "denied", by=sender.person.id, action="address", why="not of this workspace")
                return "Only people of this workspace may do that. Nothing was done."
            await self._rollbacks.enter(run, modals.values(body["view"]).get(modals.ADDRESS_INPUT, ""), sender.person)
        except Refusal as refusal:
            return clean(f"{refusal.message} {refusal.next} (code {refusal.code})", _LONGEST)
        except JournalDown:
            return _NOT_JOURNALED
        except BackoutError as error:  # Denied among them
            return clean(error, _LONGEST)
        return ""

    async def _tell(self, task: asyncio.Task[str], sender: Sender) -> None:
        said = await task
        taken = "The address was taken: what is there is dumped and looked at now."
        await self._chat.tell(sender.asker, private(f"The address was not taken. {said}" if said else taken))

    async def stop(self) -> None:
        """What is looked at now is not taken; the card asks again."""
        tasks: list[asyncio.Task[Any]] = [*self._looking.values(), *self._late]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
