"""ports.Chat for Slack: one writer per channel, which renders what the journal says when there is time."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from datetime import timedelta

from bot.asking import Rollbacks
from bot.errors import BackoutError, ChatError, JournalDown, Refusal
from bot.model import Request, State
from bot.ports import Clock, Journal
from handlers.api import Asker, RateLimited, Slack
from handlers.blocks import Message
from handlers.courier import Courier
from handlers.text import private

log = logging.getLogger(__name__)

_PATIENCE = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds between attempts while Slack or the journal is down
_COUNTING = timedelta(minutes=1)  # how often a card that waits for a decision counts its time anew


class SlackChat:
    """The outbox's reader. `changed` returns at once; a writer per channel does the rest, in order, with patience."""

    def __init__(self, slack: Slack, journal: Journal, clock: Clock) -> None:
        self._slack = slack
        self._journal = journal
        self._courier = Courier(slack, journal, clock)
        self._rollbacks: Rollbacks | None = None
        self._channels: dict[str, str] = {}
        self._dirty: dict[str, dict[str, None]] = {}
        self._writers: dict[str, asyncio.Task[None]] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._stuck: set[str] = set()
        self._returning: set[asyncio.Task[None]] = set()
        self._calm = asyncio.Condition()
        self._draining = False

    async def open(self, rollbacks: Rollbacks) -> None:
        """From now on things are sent; what was not sent before is caught up."""
        self._rollbacks = rollbacks
        for run in await self._journal.undelivered():
            await self.changed(run)
        for channel in self._dirty:
            self._wake(channel)

    async def changed(self, run: str) -> None:
        channel = self._channels.get(run)
        if channel is None:
            try:
                channel = (await self._journal.run(run)).request.channel
            except JournalDown:
                log.warning("run %s is rendered later, the journal can't be reached", run)
                self._come_back(run, _PATIENCE[0])
                return
            if channel is None:
                return
            self._channels[run] = channel
        self._dirty.setdefault(channel, {})[run] = None
        self._wake(channel)

    async def private(self, request: Request, text: str) -> None:
        await self.tell(Asker(request.by.id, request.channel, request.response_url), private(text))

    async def announce(self, channel: str, text: str) -> bool:
        try:
            await self._slack.post(channel, Message(private(text), ()))
        except ChatError as error:
            log.warning("%s could not be told: %s", channel, error)
            return False
        return True

    async def tell(self, asker: Asker, text: str) -> None:
        """A private answer whose text is safe already."""
        await self._slack.whisper(asker, text)

    def link(self, channel: str, ts: str) -> str:
        return self._courier.link(channel, ts)

    def written(self, run: str, by: str, text: str) -> None:
        """This note stands in the thread already: don't say it again."""
        self._courier.written.add((run, by, " ".join(text.split())))

    async def drain(self) -> None:
        """Return when everything that can be delivered was; while Slack is down that is nothing."""
        self._draining = True
        try:
            for run in list(self._later):
                self._later.pop(run).cancel()
                await self.changed(run)
            async with self._calm:
                await self._calm.wait_for(self._is_calm)
        finally:
            self._draining = False

    async def close(self) -> None:
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()
        writers = [*self._writers.values(), *self._returning]
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)

    def _is_calm(self) -> bool:
        busy = {channel for channel, writer in self._writers.items() if not writer.done()}
        return self._rollbacks is None or not busy - self._stuck

    def _wake(self, channel: str) -> None:
        if self._rollbacks is None or not self._dirty.get(channel):
            return
        writer = self._writers.get(channel)
        if writer is None or writer.done():
            writer = asyncio.create_task(self._write(channel, self._rollbacks), name=f"writer {channel}")
            self._writers[channel] = writer
            writer.add_done_callback(lambda ended: self._ended(channel, ended))

    def _ended(self, channel: str, writer: asyncio.Task[None]) -> None:
        # A bug in rendering one run must silence neither the other runs of the channel nor this run's next change.
        if not writer.cancelled():
            if error := writer.exception():
                log.error("a run can't be shown in %s", channel, exc_info=error)
            self._wake(channel)

    async def _write(self, channel: str, rollbacks: Rollbacks) -> None:
        dirty, failed = self._dirty[channel], 0
        try:
            while dirty:
                run = next(iter(dirty))
                del dirty[run]
                if await self._deliver(rollbacks, run, failed, channel):
                    failed = 0
                else:
                    dirty[run] = None
                    failed += 1
        finally:
            self._stuck.discard(channel)
            if self._writers.get(channel) is asyncio.current_task():
                del self._writers[channel]
            async with self._calm:
                self._calm.notify_all()

    async def _deliver(self, rollbacks: Rollbacks, run: str, failed: int, channel: str) -> bool:
        try:
            again = await self._courier.deliver(rollbacks, run, at_once=self._draining)
        except RateLimited as limit:
            await asyncio.sleep(limit.after)
            return False
        except (ChatError, JournalDown) as error:
            pause = _PATIENCE[min(failed, len(_PATIENCE) - 1)]
            log.warning("run %s is shown later, in %.0f s: %s", run, pause, error)
            await self._be_stuck(channel, pause)
            return False
        except Refusal as error:
            log.error("run %s can't be shown: %s", run, error)  # noqa: TRY400  a sentence, no traceback
            return True
        self._stuck.discard(channel)
        await self._schedule(run, again)
        return True

    async def _be_stuck(self, channel: str, pause: float) -> None:
        self._stuck.add(channel)
        async with self._calm:
            self._calm.notify_all()
        await asyncio.sleep(pause)

    async def _schedule(self, run: str, again: float | None) -> None:
        if again is not None:
            self._come_back(run, again)
            return
        with suppress(BackoutError):
            if (await self._journal.run(run)).state is State.NEEDS_DECISION:
                self._come_back(run, _COUNTING.total_seconds())

    def _come_back(self, run: str, after: float) -> None:
        old = self._later.pop(run, None)
        if old is not None:
            old.cancel()
        self._later[run] = asyncio.get_running_loop().call_later(after, self._return, run)

    def _return(self, run: str) -> None:
        self._later.pop(run, None)
        task = asyncio.create_task(self.changed(run), name=f"again {run}")
        self._returning.add(task)
        task.add_done_callback(self._returning.discard)
