"""The outbox against the local Slack: nothing lost, nothing twice, on bad days too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from bot.clock import SystemClock
from bot.model import AttemptState, Delivery, Person, Request, Severity, State
from handlers import chat as module
from handlers import courier
from handlers.api import Asker, connect
from handlers.chat import SlackChat
from handlers.people import SlackDirectory
from playground.slack import SlackStandIn
from tests.unit.slack_parts import CHANNEL, DIGEST, MemoryJournal, ToldRollbacks, attempt, view

ENDED = [
    ("requested", {}), ("planned", {"digest": DIGEST}), ("asked", {"roles": ["dba"], "people": ["U0DBA"], "until": "2026-11-20T04:00:00+00:00"}),
    ("approved", {"by": "U0DBA", "role": "dba"}), ("started", {}), ("ended", {"state": "succeeded", "summary": "Back at 0004."}),
    ("reported", {"file": "post-mortem-r7k2.md", "summary": "It took 12 s."}),
]  # fmt: skip


@dataclass
class Desk:
    slack: SlackStandIn
    journal: MemoryJournal = field(default_factory=MemoryJournal)

    def __post_init__(self) -> None:
        self.rollbacks = ToldRollbacks(self.journal)
        self.opened: list[SlackChat] = []

    async def open(self) -> SlackChat:
        """A bot that starts: as after a kill, it knows what the journal knows."""
        chat = SlackChat(connect(self.slack.bot_token, self.slack.api_url), self.journal, SystemClock())  # type: ignore[arg-type]  # as above
        self.opened.append(chat)
        await chat.open(self.rollbacks)  # type: ignore[arg-type]  # the part of the port that it uses
        return chat

    async def show(self, chat: SlackChat, state: State, events: Any = (), **changes: Any) -> None:
        self.journal.view = view(state, events=events, created=SystemClock().now(), **changes)
        await chat.changed("r7k2")
        async with asyncio.timeout(20):
            await chat.drain()

    def cards(self) -> list[dict[str, Any]]:
        return [each for each in self.slack.messages(CHANNEL) if "thread_ts" not in each or each["thread_ts"] == each["ts"]]

    def thread(self) -> list[str]:
        return [each["text"] for each in self.slack.thread(self.cards()[0]["ts"]) if each["ts"] != self.cards()[0]["ts"]]


@pytest.fixture
async def desk(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    monkeypatch.setattr(module, "_PATIENCE", (0.02,))
    async with SlackStandIn() as slack:
        for user in ("U0ANNA", "U0DBA", "U0EVE"):
            slack.add_user(user, user[2:].capitalize())
        slack.add_channel(CHANNEL, ["U0ANNA", "U0DBA"])
        made = Desk(slack)
        yield made
        for chat in made.opened:
            await chat.close()


async def test_one_card_is_edited_and_the_thread_holds_the_rest(desk: Desk) -> None:
    chat = await desk.open()
    await desk.show(chat, State.AWAITING_APPROVAL, ENDED[:3])
    await desk.show(chat, State.RUNNING, ENDED[:5])
    await desk.show(chat, State.SUCCEEDED, ENDED)
    assert [card["text"] for card in desk.cards()] == ["shop: 0006 -> 0004 · succeeded · r7k2"]
    assert [text.split(".")[0].split(":")[0] for text in desk.thread()][:5] == [
        "Planned", "<@U0DBA>", "<@U0DBA> approved as DBA on call", "*Started", "*Report",
    ]  # fmt: skip
    assert desk.journal.sent["seq"].content == "7"


async def test_the_report_is_the_last_message_and_has_its_file(desk: Desk) -> None:
    chat = await desk.open()
    await desk.show(chat, State.SUCCEEDED, [*ENDED, ("note", {"by": "U0ANNA", "text": "late"})])
    assert [file.name for file in desk.slack.files()] == ["post-mortem-r7k2.md"]
    last = desk.slack.thread(desk.cards()[0]["ts"])[-1]
    assert last["files"][0]["name"] == "post-mortem-r7k2.md"
    assert not any("late" in text for text in desk.thread())


async def test_without_files_the_report_is_text(desk: Desk) -> None:
    desk.slack.fail_next("files.getUploadURLExternal", 200, error="missing_scope", times=9)
    chat = await desk.open()
    await desk.show(chat, State.SUCCEEDED, ENDED)
    assert "# Post-mortem: shop 0006 -&gt; 0004: succeeded" in desk.thread()[-1]


async def test_whoever_is_asked_gets_the_cards_link(desk: Desk) -> None:
    chat = await desk.open()
    await desk.show(chat, State.AWAITING_APPROVAL, ENDED[:3])
    await desk.show(chat, State.AWAITING_APPROVAL, ENDED[:3])
    assert len(desk.slack.dms("U0DBA")) == 1
    assert f"in <#{CHANNEL}>" in desk.slack.dms("U0DBA")[0]["text"]


@pytest.mark.parametrize("store_first", [True, False])
async def test_a_post_whose_answer_was_lost_is_not_posted_twice(desk: Desk, store_first: bool) -> None:
    chat = await desk.open()
    desk.slack.fail_next("chat.postMessage", 503, store_first=store_first)
    desk.journal.view = view(State.AWAITING_APPROVAL, events=ENDED[:2], created=SystemClock().now())
    await chat.changed("r7k2")
    await desk.slack.wait_for(lambda: desk.cards() and desk.thread())
    desk.slack.fail_next("chat.postMessage", 0, store_first=store_first)
    desk.journal.view = view(State.RUNNING, events=ENDED[:5], created=SystemClock().now())
    await chat.changed("r7k2")
    await desk.slack.wait_for(lambda: any("Started" in text for text in desk.thread()))
    assert len(desk.cards()) == 1
    assert len(desk.thread()) == len(set(desk.thread())) == 4


async def test_a_bot_that_died_before_it_could_remember_posts_nothing_twice(desk: Desk) -> None:
    await desk.show(await desk.open(), State.RUNNING, ENDED[:5])
    for forgotten in ("event:5", "seq", "card"):
        del desk.journal.sent[forgotten]
        desk.journal.sent.pop("seq", None)
        await desk.show(await desk.open(), State.RUNNING, ENDED[:5])
    assert len(desk.cards()) == 1
    assert len(desk.thread()) == 4


async def test_slack_away_means_later_not_never(desk: Desk) -> None:
    chat = await desk.open()
    await desk.slack.go_down()
    desk.journal.view = view(State.SUCCEEDED, events=ENDED, created=SystemClock().now())
    await chat.changed("r7k2")
    async with asyncio.timeout(20):
        await chat.drain()
    await desk.slack.come_back()
    await desk.slack.wait_for(lambda: bool(desk.slack.files()))
    assert len(desk.cards()) == 1


async def test_a_bot_that_starts_catches_up(desk: Desk) -> None:
    desk.journal.view = view(State.SUCCEEDED, events=ENDED)
    chat = await desk.open()
    await chat.drain()
    assert desk.journal.sent["seq"].content == "7"


async def test_a_rate_limit_is_waited_for(desk: Desk) -> None:
    chat = await desk.open()
    desk.slack.fail_next("chat.postMessage", 429, retry_after=1)
    await desk.show(chat, State.RUNNING, ENDED[:5])
    assert len(desk.thread()) == 4


async def test_progress_is_shown_in_measure_and_a_new_state_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "PACE", 600.0)
    chat = await desk.open()
    await desk.show(chat, State.RUNNING, ENDED[:5])
    steps = desk.journal.view.steps if desk.journal.view else ()

    def at(percent: int) -> Any:
        return tuple(step.model_copy(update={"state": "intended", "progress": f"{percent} %"}) for step in steps)

    await desk.show(chat, State.RUNNING, ENDED[:5], steps=at(0))
    updates = len(calls(desk, "chat.update"))
    created = desk.journal.view.run.created if desk.journal.view else SystemClock().now()
    for percent in range(1, 20):
        desk.journal.view = view(State.RUNNING, events=ENDED[:5], steps=at(percent), created=created)
        await chat.changed("r7k2")
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)
    assert len(calls(desk, "chat.update")) == updates
    await desk.show(chat, State.SUCCEEDED, ENDED)
    assert "succeeded" in desk.cards()[0]["text"]


def calls(desk: Desk, method: str) -> list[Any]:
    return [call for call in desk.slack.calls if call.method == method]


async def test_a_closed_channel_costs_the_card_and_its_requester_hears_of_it_once(desk: Desk) -> None:
    chat = await desk.open()
    desk.slack.fail_next("chat.postMessage", 200, error="not_in_channel", times=1)
    await desk.show(chat, State.AWAITING_APPROVAL, ENDED[:1])
    assert len(desk.slack.dms("U0ANNA")) == 1
    assert "not_in_channel" in desk.slack.dms("U0ANNA")[0]["text"]
    await desk.show(chat, State.RUNNING, ENDED[:5])
    assert (len(desk.cards()), len(desk.slack.dms("U0ANNA"))) == (1, 1)


async def test_a_card_that_somebody_deleted_is_posted_anew(desk: Desk) -> None:
    chat = await desk.open()
    desk.journal.sent["card"] = Delivery(channel=CHANNEL, ts="1.000001", content="0::")
    await desk.show(chat, State.RUNNING, ENDED[:5])
    assert len(desk.cards()) == 1


async def test_what_was_written_in_the_thread_is_not_said_again(desk: Desk) -> None:
    chat = await desk.open()
    chat.written("r7k2", "U0ANNA", "traffic is back")
    notes = [("note", {"by": "U0ANNA", "text": "traffic is back"}), ("note", {"by": "U0DBA", "text": "by command"})]
    await desk.show(chat, State.RUNNING, [*ENDED[:5], *notes])
    assert [text for text in desk.thread() if text.startswith("Note")] == ["Note by <@U0DBA>: by command"]


@pytest.mark.parametrize("broken", [None, "response_url", "chat.postEphemeral"])
async def test_a_private_answer_finds_a_way(desk: Desk, broken: str | None) -> None:
    chat = await desk.open()
    if broken:
        desk.slack.fail_next(broken, 503)
    url = desk.slack.new_response_url("U0ANNA", CHANNEL) if broken != "chat.postEphemeral" else None
    request = Request(
        target="shop", rev="1", reason="x", severity=Severity.LOW, by=Person(id="U0ANNA"), channel=CHANNEL, response_url=url and at(desk, url)
    )
    await chat.private(request, "only for <you>")
    kept = desk.slack.dms("U0ANNA") if broken == "chat.postEphemeral" else desk.slack.ephemerals("U0ANNA")
    assert [each["text"] for each in kept] == ["only for &lt;you&gt;"]
    assert desk.slack.messages(CHANNEL) == []


def at(desk: Desk, url: str) -> str:
    return desk.slack.address(f"/hooks/{url}")


async def test_nobody_reachable_is_not_an_error(desk: Desk) -> None:
    chat = await desk.open()
    await desk.slack.go_down()
    await chat.tell(Asker("U0ANNA", CHANNEL, "http://127.0.0.1:9/"), "x")


async def test_a_group_that_cannot_be_asked_leaves_only_the_named(desk: Desk) -> None:
    desk.slack.add_usergroup("S0LEADS", ["U0EVE"])
    roles = {
        "lead": SimpleNamespace(users=("U0DBA",), usergroup="S0LEADS", title="Lead"),
        "dba": SimpleNamespace(users=("U0DBA",), usergroup=None, title="DBA"),
    }
    directory = SlackDirectory(roles, connect(desk.slack.bot_token, desk.slack.api_url), SystemClock())
    assert await directory.holders("lead") == {"U0DBA", "U0EVE"}
    desk.slack.add_usergroup("S0LEADS", [])
    assert await directory.holders("lead", fresh=False) == {"U0DBA", "U0EVE"}
    assert await directory.holders("lead") == {"U0DBA"}
    desk.slack.add_usergroup("S0LEADS", ["U0EVE"])
    desk.slack.fail_next("usergroups.users.list", 200, error="missing_scope")
    assert await directory.holders("lead") == {"U0DBA"}
    assert await directory.holders("nobody") == frozenset()


async def test_what_is_sent_never_holds_the_token(desk: Desk) -> None:
    await desk.show(await desk.open(), State.SUCCEEDED, ENDED)
    assert desk.slack.bot_token not in json.dumps(desk.slack.messages(CHANNEL))


def two_files() -> dict[str, Any]:
    """A step that puts two files into the thread, and its event."""
    files = [{"path": f"migrations/2026_reverse_of_{name}/migration.sql", "text": f"-- {name}\n"} for name in "ab"]
    return {"attempts": (attempt("downgrade", AttemptState.DONE, {"files": files}),)}


MOVED = [*ENDED[:5], ("step_done", {"step": "downgrade", "attempt": 1, "summary": "back"})]
NAMES = ["2026_reverse_of_a.sql", "2026_reverse_of_b.sql"]


async def test_every_file_of_an_event_is_in_the_thread_once_also_after_a_death(desk: Desk) -> None:
    await desk.show(await desk.open(), State.RUNNING, MOVED, **two_files())
    assert [one.name for one in desk.slack.files()] == NAMES
    assert {"file:6", "file:6/1"} <= set(desk.journal.sent)
    for forgotten in ("file:6/1", "file:6"):
        del desk.journal.sent[forgotten]
        desk.journal.sent.pop("seq", None)
        await desk.show(await desk.open(), State.RUNNING, MOVED, **two_files())
    assert [one.name for one in desk.slack.files()] == NAMES


async def test_where_files_can_not_be_uploaded_each_is_text_once(desk: Desk) -> None:
    desk.slack.fail_next("files.getUploadURLExternal", 200, error="missing_scope", times=9)
    await desk.show(await desk.open(), State.RUNNING, MOVED, **two_files())
    for forgotten in ("file:6/1:0", "file:6/1", "file:6:0", "file:6"):
        desk.journal.sent.pop(forgotten)
    desk.journal.sent.pop("seq", None)
    desk.slack.fail_next("files.getUploadURLExternal", 200, error="missing_scope", times=9)
    await desk.show(await desk.open(), State.RUNNING, MOVED, **two_files())
    told = [text for text in desk.thread() if "reverse_of" in text and text.startswith("2026")]
    assert [text.partition("\n")[0] for text in told] == NAMES
