"""Stored before it is acknowledged, worked off in order, nothing lost and nothing in silence."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from typing import Any

import pytest

from bot.clock import SystemClock
from bot.errors import Denied, JournalDown, Refusal
from handlers import inbox as module
from handlers.inbox import ANSWERABLE, Inbox, Item
from handlers.payload import ACTION, COMMAND, EVENT, SUBMISSION, identity, sender
from tests.unit.slack_parts import MemoryJournal


class Desk:
    """An inbox whose work is written down."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.did: list[str] = []
        self.items: list[Item] = []
        self.told: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.raises: list[Exception] = []
        self.inbox = self.fresh()

    def fresh(self) -> Inbox:
        return Inbox(self.journal, SystemClock(), self._work, self._tell)  # type: ignore[arg-type]  # the part of the port that it uses

    async def _work(self, item: Item) -> None:
        if gate := self.gates.get(item.body["user_id"]):
            await gate.wait()
        if self.raises:
            raise self.raises.pop(0)
        self.did.append(item.body["text"])
        self.items.append(item)

    async def _tell(self, item: Item, text: str) -> None:
        self.told.append(text)

    async def until(self, true: Any) -> None:
        async with asyncio.timeout(20):
            while not true():  # noqa: ASYNC110  the condition is the test's own
                await asyncio.sleep(0.005)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    yield made
    await made.inbox.stop()


def typed(text: str, user: str = "U0ANNA", trigger: str | None = None) -> dict[str, Any]:
    return {"user_id": user, "text": text, "trigger_id": trigger or f"t-{text}", "channel_id": "C1", "response_url": "http://x/"}


async def test_one_delivery_twice_is_worked_off_once(desk: Desk) -> None:
    await desk.inbox.start()
    assert await desk.inbox.store(COMMAND, typed("a", trigger="t1"))
    assert await desk.inbox.store(COMMAND, typed("a", trigger="t1"))
    assert await desk.inbox.store(COMMAND, typed("b"))
    await desk.until(lambda: "b" in desk.did)
    assert desk.did == ["a", "b"]


async def test_a_slow_person_holds_up_nobody_else(desk: Desk) -> None:
    await desk.inbox.start()
    desk.gates["U0SLOW"] = asyncio.Event()
    for text in ("s1", "s2"):
        await desk.inbox.store(COMMAND, typed(text, "U0SLOW"))
    await desk.inbox.store(COMMAND, typed("quick"))
    await desk.until(lambda: desk.did == ["quick"])
    desk.gates["U0SLOW"].set()
    await desk.until(lambda: desk.did == ["quick", "s1", "s2"])


async def test_what_was_stored_before_a_kill_is_done_after_it(desk: Desk) -> None:
    await desk.inbox.store(COMMAND, typed("a"))
    desk.inbox = desk.fresh()
    await desk.inbox.start()
    await desk.until(lambda: not desk.journal.open)
    assert [(item.body["text"], item.again, "_came" in item.body) for item in desk.items] == [("a", True, False)]


async def test_an_old_response_url_is_not_used_any_more(desk: Desk) -> None:
    await desk.inbox.store(COMMAND, typed("a"))
    old = (SystemClock().now() - ANSWERABLE - dt.timedelta(minutes=1)).isoformat()
    kept = await desk.journal.pending()

    async def pending() -> Any:
        return [(key, kind, {**body, "_came": old}) for key, kind, body in kept]

    desk.journal.pending = pending  # type: ignore[method-assign]  # the clock of the journal, half an hour ago
    desk.inbox = desk.fresh()
    await desk.inbox.start()
    await desk.until(lambda: bool(desk.items))
    assert "response_url" not in desk.items[0].body


async def test_without_a_journal_it_says_no_and_never_does_it(desk: Desk) -> None:
    await desk.inbox.start()
    desk.journal.down = True
    assert not await desk.inbox.store(COMMAND, typed("a"))
    desk.journal.down = False
    assert await desk.inbox.store(COMMAND, typed("b"))
    await desk.until(lambda: desk.did == ["b"])


async def test_a_journal_that_hangs_is_not_waited_for(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STORE_WITHIN", 0.01)
    desk.journal.slow.clear()
    assert not await desk.inbox.store(COMMAND, typed("a"))


async def test_stored_work_waits_for_a_journal_that_went_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_RETRY", 0.01)
    desk.raises = [JournalDown("gone"), JournalDown("still gone")]
    await desk.inbox.start()
    await desk.inbox.store(COMMAND, typed("a"))
    await desk.until(lambda: not desk.journal.open)
    assert desk.did == ["a"]
    assert desk.told == []


async def test_refusals_are_told_in_private(desk: Desk) -> None:
    desk.raises = [Denied("Not yours."), Refusal("run_in_progress", "There is a run.", "Look at it.")]
    await desk.inbox.start()
    await desk.inbox.store(COMMAND, typed("a"))
    await desk.inbox.store(COMMAND, typed("b"))
    await desk.until(lambda: len(desk.told) == 2)
    assert desk.told == ["Not yours.", "There is a run.\nLook at it. (code run_in_progress)"]


async def test_a_bug_of_ours_is_told_with_the_mark_that_the_log_has(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.raises = [ZeroDivisionError("secret detail")]
    await desk.inbox.start()
    await desk.inbox.store(COMMAND, typed("a"))
    await desk.inbox.store(COMMAND, typed("b"))
    await desk.until(lambda: desk.did == ["b"])
    mark = desk.told[0].rstrip(".").split()[-1]
    assert f"error {mark}" in caplog.text
    assert "secret" not in desk.told[0]


def test_each_kind_has_its_identity() -> None:
    assert identity(COMMAND, {"trigger_id": "1"}) == "command:1"
    assert identity(ACTION, {"trigger_id": "1"}) == "action:1"
    assert identity(SUBMISSION, {"view": {"id": "V1", "hash": "h"}}) == "submission:V1:h"
    assert identity(EVENT, {"event_id": "E1"}) == "event:E1"
    assert identity(EVENT, {"event": {"a": 1}}) == identity(EVENT, {"event": {"a": 1}}) != identity(EVENT, {"event": {"a": 2}})


def test_in_a_shared_channel_the_author_is_of_their_own_team() -> None:
    event = {"team_id": "T0OURS", "event": {"user": "U1", "user_team": "T0THEIRS", "team": "T0OURS", "channel": "C1"}}
    assert sender(EVENT, event).person.team == "T0THEIRS"
    action = {"team": {"id": "T0OURS"}, "user": {"id": "U1", "team_id": "T0THEIRS"}, "channel": {"id": "C1"}}
    assert sender(ACTION, action).person.team == "T0THEIRS"
