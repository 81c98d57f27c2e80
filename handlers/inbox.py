"""What Slack sends: stored before it is acknowledged, worked off after. A kill -9 in between loses nothing."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from bot.errors import Denied, JournalDown, Refusal, UsageError
from bot.ports import Clock, Journal
from handlers import payload
from handlers.payload import Payload

log = logging.getLogger(__name__)

STORE_WITHIN = 1.0  # seconds
ANSWERABLE = dt.timedelta(minutes=30)  # how long a response_url lives
_AT_ONCE = 16  # people who are served at the same time
_LAST_WORK = 10.0  # seconds that running work gets when we stop
_RETRY = 2.0  # seconds until stored work is tried again while the journal is down


@dataclass(frozen=True)
class Item:
    """One stored payload. `again`: it was stored by a process that died before the work was done, or may have been."""

    key: str
    kind: str
    body: Payload
    again: bool = False


Work = Callable[[Item], Awaitable[None]]
Tell = Callable[[Item, str], Awaitable[None]]


class Inbox:
    """One lane per person and kind: in order for each, and nobody waits for somebody else."""

    def __init__(self, journal: Journal, clock: Clock, work: Work, tell: Tell) -> None:
        self._journal = journal
        self._clock = clock
        self._work = work
        self._tell = tell
        self._lanes: dict[str, deque[Item]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._seats = asyncio.Semaphore(_AT_ONCE)
        self._waiting: deque[Item] | None = deque()
        self._here: set[str] = set()

    async def store(self, kind: str, body: Payload) -> bool:
        """Store it within a second. False: it could not be stored, and will not be done."""
        key = payload.identity(kind, body)
        storing = asyncio.ensure_future(self._journal.accept(key, kind, body))
        try:
            async with asyncio.timeout(STORE_WITHIN):
                # Shielded: to cancel a query whose server does not answer takes as long as that server.
                new = await asyncio.shield(storing)
        except (TimeoutError, JournalDown) as error:
            log.warning("a %s could not be stored: %s", kind, error or "the journal was too slow")
            self._spawn(self._disown(kind, key, storing))
            return False
        if new:
            self._here.add(key)
            self._take(Item(key, kind, body))
        return True

    async def start(self) -> None:
        """Begin to work: first what an earlier process left, then what came meanwhile. Raises JournalDown."""
        left = await self._journal.pending()
        waiting, self._waiting = self._waiting or deque(), None
        for key, kind, body in left:
            if key not in self._here:
                self._take(Item(key, kind, self._fresh(kind, body), again=True))
        for item in waiting:
            self._take(item)

    async def stop(self) -> None:
        """Let what runs end, for a while; what does not is done at the next start."""
        self._waiting = deque()
        for lane in self._lanes.values():
            lane.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LAST_WORK)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _fresh(self, kind: str, body: Payload) -> Payload:
        came = body.get("_came")
        kept = {key: value for key, value in body.items() if key != "_came"}
        if isinstance(came, str) and self._clock.now() - dt.datetime.fromisoformat(came) > ANSWERABLE:
            kept.pop("response_url", None)
        return kept

    def _take(self, item: Item) -> None:
        if self._waiting is not None:
            self._waiting.append(item)
            return
        name = f"{_user(item)}:{item.kind}"
        lane = self._lanes.setdefault(name, deque())
        lane.append(item)
        if len(lane) == 1:
            self._spawn(self._serve(name, lane))

    async def _serve(self, name: str, lane: deque[Item]) -> None:
        while lane:
            async with self._seats:
                await self._do(lane[0])
            if lane:
                lane.popleft()
        if self._lanes.get(name) is lane:
            del self._lanes[name]

    async def _do(self, item: Item) -> None:
        worked = False
        while True:
            try:
                if not worked:
                    await self._try(item)
                worked = True
                await self._journal.done(item.key)
            except JournalDown as error:
                log.warning("a stored %s is done later: %s", item.kind, error)
                item = Item(item.key, item.kind, item.body, again=True)
                await asyncio.sleep(_RETRY)
            else:
                self._here.discard(item.key)
                return

    async def _try(self, item: Item) -> None:
        try:
            await self._work(item)
        except Refusal as refusal:
            await self._tell(item, f"{refusal.message}\n{refusal.next} (code {refusal.code})")
        except (Denied, UsageError) as error:
            await self._tell(item, str(error))
        except JournalDown:
            raise
        except Exception:  # told to the asker and the log, by one mark
            # A bug of ours in one person's request must neither stop the others nor pass in silence.
            mark = secrets.token_hex(4)
            log.exception("error %s while a %s was worked off", mark, item.kind)
            await self._tell(item, f"That went wrong on our side, and was not done or not finished. The log has it as {mark}.")

    async def _disown(self, kind: str, key: str, storing: asyncio.Future[bool]) -> None:
        """We said that it was not stored; should it have been after all, nobody does it later."""
        await asyncio.wait({storing})
        if storing.exception() is None and kind == payload.SUBMISSION:
            return  # the same form may be sent again, under the same key
        for pause in (0.0, 1.0, 5.0, 30.0):
            await asyncio.sleep(pause)
            with suppress(JournalDown):
                await self._journal.done(key)
                return

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _user(item: Item) -> str:
    try:
        return payload.sender(item.kind, item.body).person.id
    except (KeyError, TypeError):
        return "?"
