"""Slack's half as people meet it: typed, pressed, filled in and said, over HTTP and over the socket, in the local Slack."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bot.clock import SystemClock
from bot.model import Severity, State
from handlers import Tokens, build, connect
from handlers import app as app_module
from handlers.app import SlackApp
from handlers.chat import SlackChat
from playground.slack import SlackStandIn, sockets
from tests.unit.slack_parts import CHANNEL, DIGEST, MemoryJournal, ToldRollbacks, view

TARGETS = {"shop": (CHANNEL,), "ledger": ("C0BOTH",), "billing": ("C0BOTH",)}


class Desk:
    """A workspace with people, and a bot that listens."""

    def __init__(self, slack: SlackStandIn) -> None:
        self.slack = slack
        self.journal = MemoryJournal()
        self.rollbacks = ToldRollbacks(self.journal)
        self.apps: list[tuple[SlackApp, SlackChat]] = []
        self.runners: list[web.AppRunner] = []

    async def listen(self, *, socket: bool = False) -> SlackApp:
        tokens = Tokens(self.slack.bot_token, self.slack.app_token if socket else None, self.slack.signing_secret)
        slack = connect(tokens, self.slack.api_url)
        chat = SlackChat(slack, self.journal, SystemClock())  # type: ignore[arg-type]  # the part of the port that it uses
        app = build(tokens=tokens, slack=slack, journal=self.journal, rollbacks=self.rollbacks, chat=chat, targets=TARGETS, clock=SystemClock())  # type: ignore[arg-type]  # as above
        self.apps.append((app, chat))
        if not socket:
            await self._serve(app)
        await app.start()
        return app

    async def _serve(self, app: SlackApp) -> None:
        server = web.Application()
        server.router.add_post("/slack/events", app.web_handler)
        runner = web.AppRunner(server)
        self.runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.slack.listen_http(f"http://127.0.0.1:{runner.addresses[0][1]}/slack/events")

    async def card(self, state: State = State.AWAITING_APPROVAL, **changes: Any) -> dict[str, Any]:
        self.journal.view = view(state, events=[("requested", {})], created=SystemClock().now(), **changes)
        await self.apps[0][1].changed("r7k2")
        await self.apps[0][1].drain()
        return self.slack.messages(CHANNEL)[0]

    async def told(self) -> tuple[Any, ...]:
        await self.slack_quiet()
        return self.rollbacks.told[-1] if self.rollbacks.told else ()

    async def slack_quiet(self) -> None:
        """Everything that was stored is worked off."""
        async with asyncio.timeout(20):
            while self.journal.open:  # noqa: ASYNC110  the condition is the test's own
                await asyncio.sleep(0.005)

    async def answer(self, user: str = "U0ANNA") -> str:
        await self.slack_quiet()
        found = self.slack.ephemerals(user)
        return str(found[-1]["text"]) if found else ""

    async def close(self) -> None:
        for app, chat in self.apps:
            await app.stop()
            await chat.close()
        for runner in self.runners:
            await runner.cleanup()


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with SlackStandIn() as slack:
        for user in ("U0ANNA", "U0DBA"):
            slack.add_user(user, user[2:].capitalize())
        slack.add_user("U0EVE", "Eve", team="T0THEIRS")
        for channel in (CHANNEL, "C0BOTH", "C0NONE"):
            slack.add_channel(channel, ["U0ANNA", "U0DBA", "U0EVE"])
        made = Desk(slack)
        yield made
        await made.close()


@pytest.mark.parametrize("socket", [False, True])
async def test_a_command_is_acknowledged_empty_and_becomes_a_request(desk: Desk, socket: bool) -> None:
    app = await desk.listen(socket=socket)
    ack = await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "0004 sev high because a &lt; b")
    what, request = await desk.told()
    assert (ack.status, ack.body) == (200, "")
    assert (what, request.target, request.rev, request.reason, request.severity) == ("request", "shop", "0004", "a < b", Severity.HIGH)
    assert (request.by.id, request.by.team, request.channel) == ("U0ANNA", desk.slack.team_id, CHANNEL)
    assert desk.slack.views("U0ANNA") == []
    assert app.reasons() is None


async def test_an_unsigned_request_is_turned_away_and_in_socket_mode_every_one(desk: Desk) -> None:
    await desk.listen()
    async with aiohttp.ClientSession() as session, session.post(str(desk.slack.sender.url), data={"command": "/rollback"}) as answer:
        assert answer.status == 401
    app = await desk.listen(socket=True)
    await desk._serve(app)
    async with aiohttp.ClientSession() as session, session.post(str(desk.slack.sender.url), data={"command": "/rollback"}) as answer:
        assert answer.status == 404


async def test_what_is_missing_is_asked_for_and_what_was_given_is_kept(desk: Desk) -> None:
    await desk.listen()
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "-1 sev low")
    form = await desk.slack.wait_for(lambda: desk.slack.views("U0ANNA"))
    assert form[0]["callback_id"] == "backout_request"
    await desk.slack.submit(form[0], {"reason": "orders fail"}, "U0ANNA")
    what, request = await desk.told()
    assert (what, request.target, request.rev, request.reason, request.severity) == ("request", "shop", "-1", "orders fail", Severity.LOW)
    assert request.response_url


async def test_going_forward_again_is_a_request_of_its_own(desk: Desk) -> None:
    await desk.listen()
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "reapply 0005 sev low because the fix is out")
    what, request = await desk.told()
    assert (what, request.strategy, request.target, request.rev, request.reason) == ("request", "reapply", "shop", "0005", "the fix is out")


async def test_the_form_of_a_reapply_stays_one(desk: Desk) -> None:
    await desk.listen()
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "reapply 0005")
    form = (await desk.slack.wait_for(lambda: desk.slack.views("U0ANNA")))[0]
    assert (form["callback_id"], form["title"]["text"]) == ("backout_request", "Go forward again")
    assert [block["block_id"] for block in form["blocks"] if block["type"] == "input"] == ["target", "rev", "reason", "severity"]
    await desk.slack.submit(form, {"reason": "the fix is out", "severity": "low"}, "U0ANNA")
    what, request = await desk.told()
    assert (what, request.strategy, request.rev) == ("request", "reapply", "0005")


async def test_a_reapply_that_cannot_ask_says_what_to_type(desk: Desk) -> None:
    await desk.listen()
    desk.slack.fail_next("views.open", 200, error="expired_trigger_id")
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "reapply 0005")
    assert "/rollback reapply 0005 sev high because" in await desk.answer()


async def test_a_form_that_cannot_open_says_what_to_type(desk: Desk) -> None:
    await desk.listen()
    desk.slack.fail_next("views.open", 200, error="expired_trigger_id")
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "0004")
    assert "/rollback 0004 sev high because" in await desk.answer()


@pytest.mark.parametrize(
    ("channel", "text", "says"),
    [
        ("C0NONE", "0004 sev low because x", f"shop: <#{CHANNEL}>"),
        ("C0NONE", "", "No database is rolled back from this channel"),
        ("C0NONE", "shop 0004 sev low because x", "not_in_this_channel"),
        ("C0BOTH", "0004 sev low because x", "/rollback billing 0004 sev low because x"),
        (CHANNEL, "0004 oops", "because"),
        ("C0BOTH", "stamp 0005 sev low because x", "/rollback stamp billing 0005 sev low because x"),
        (CHANNEL, "help", "/rollback 0004 sev high"),
        (CHANNEL, "status", "There is no run in this channel yet"),
        (CHANNEL, "check", "Alembic is missing."),
        (CHANNEL, "backups", "2.0 MB"),
        (CHANNEL, "history", "never rolled back"),
        (CHANNEL, "plan -1", "This would undo 2 migrations"),
        (CHANNEL, "backups", "it comes back with `reapply shop 0006`"),
        ("C0BOTH", "reapply 0005 sev low because x", "/rollback reapply billing 0005 sev low because x"),
        (CHANNEL, "help", "/rollback reapply 0005"),
    ],
)
async def test_what_starts_no_run_is_answered_in_private(desk: Desk, channel: str, text: str, says: str) -> None:
    await desk.listen()
    await desk.slack.command(channel, "U0ANNA", "/rollback", text)
    assert says in await desk.answer()
    assert "request" not in [told[0] for told in desk.rollbacks.told]
    assert desk.slack.messages(channel) == []


async def test_several_databases_are_offered_in_the_form(desk: Desk) -> None:
    await desk.listen()
    await desk.slack.command("C0BOTH", "U0ANNA", "/rollback", "")
    form = (await desk.slack.wait_for(lambda: desk.slack.views("U0ANNA")))[0]
    assert [each["value"] for each in form["blocks"][0]["element"]["options"]] == ["billing", "ledger"]


@pytest.mark.parametrize(
    ("state", "action", "told"),
    [
        (State.AWAITING_APPROVAL, "approve", ("approve", "r7k2", DIGEST, "U0DBA")),
        (State.AWAITING_APPROVAL, "cancel", ("cancel", "r7k2", "U0DBA")),
        (State.NEEDS_DECISION, "retry", ("decide", "r7k2", "retry", "U0DBA")),
        (State.NEEDS_DECISION, "leave", ("decide", "r7k2", "leave", "U0DBA")),
        (State.NEEDS_DECISION, "escalate", ("decide", "r7k2", "escalate", "U0DBA")),
    ],
)
async def test_a_press_is_one_call(desk: Desk, state: State, action: str, told: tuple[str, ...]) -> None:
    await desk.listen()
    ack = await desk.slack.click(await desk.card(state), action, "U0DBA")
    await desk.slack.redeliver()
    assert (ack.status, ack.body) == (200, "")
    assert await desk.told() == told
    assert len(desk.rollbacks.told) == 1


async def test_rejecting_asks_why(desk: Desk) -> None:
    await desk.listen()
    await desk.slack.click(await desk.card(), "reject", "U0DBA")
    form = (await desk.slack.wait_for(lambda: desk.slack.views("U0DBA")))[0]
    await desk.slack.submit(form, {"reason": "fix is out"}, "U0DBA")
    assert await desk.told() == ("reject", "r7k2", DIGEST, "U0DBA", "fix is out")


async def test_ticking_a_box_keeps_the_others(desk: Desk) -> None:
    await desk.listen()
    card = await desk.card(ticked=("Support knows",))
    box = next(block for block in card["blocks"] if block["block_id"].startswith("tick_q0"))
    await desk.slack.check(card, "tick_q0", [box["elements"][0]["options"][0]["value"]], "U0ANNA")
    assert await desk.told() == ("tick", "r7k2", ["Is a fix forward faster?", "Support knows"], "U0ANNA")


async def test_who_may_not_is_told_alone(desk: Desk) -> None:
    await desk.listen()
    desk.rollbacks.denies = "Only a DBA on call may approve."
    await desk.slack.click(await desk.card(), "approve", "U0ANNA")
    assert await desk.answer() == "Only a DBA on call may approve."
    assert len(desk.slack.messages(CHANNEL)) == 1


async def test_a_stranger_of_another_workspace_may_nothing(desk: Desk) -> None:
    await desk.listen()
    await desk.slack.click(await desk.card(), "approve", "U0EVE")
    await desk.slack.say(CHANNEL, "U0EVE", "me too", thread_ts=desk.slack.messages(CHANNEL)[0]["ts"])
    await desk.slack.command(CHANNEL, "U0EVE", "/rollback", "0004 sev low because x")
    await desk.slack_quiet()
    assert len(desk.slack.ephemerals("U0EVE")) == 2
    assert "Only people of this workspace" in await desk.answer("U0EVE")
    assert desk.rollbacks.told == []
    assert desk.journal.recorded == [("r7k2", "denied", {"by": "U0EVE", "action": "approve", "why": "not of this workspace"})]


async def test_words_in_a_runs_thread_are_notes_and_words_elsewhere_are_not(desk: Desk) -> None:
    await desk.listen()
    card = await desk.card()
    elsewhere = await desk.slack.say(CHANNEL, "U0ANNA", "lunch?")
    await desk.slack.say(CHANNEL, "U0ANNA", "traffic &amp; errors are down", thread_ts=card["ts"])
    assert elsewhere.status == 200
    assert await desk.told() == ("note", "r7k2", "traffic & errors are down", "U0ANNA")
    assert len(desk.rollbacks.told) == 1


async def test_a_mention_in_a_thread_is_a_command_about_its_run(desk: Desk) -> None:
    await desk.listen()
    card = await desk.card()
    await desk.slack.say(CHANNEL, "U0ANNA", f"<@{desk.slack.bot_user}> abort", thread_ts=card["ts"])
    await desk.slack.say(CHANNEL, "U0ANNA", f"ask <@{desk.slack.bot_user}> about it", thread_ts=card["ts"])
    await desk.slack_quiet()
    assert [told[0] for told in desk.rollbacks.told] == ["cancel", "note"]


async def test_a_note_by_command_is_confirmed(desk: Desk) -> None:
    await desk.listen()
    await desk.card()
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "note r7k2 all well")
    assert await desk.told() == ("note", "r7k2", "all well", "U0ANNA")
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "note all well")
    assert await desk.told() == ("note", "r7k2", "all well", "U0ANNA")
    assert "Noted" in await desk.answer()


async def test_status_and_report_answer_in_private(desk: Desk) -> None:
    await desk.listen()
    await desk.card()
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "status")
    assert "waiting for approval" in await desk.answer()
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "report r7k2")
    assert "# Post-mortem" in await desk.answer()


@pytest.mark.parametrize("socket", [False, True])
async def test_without_a_journal_the_ack_says_so(desk: Desk, socket: bool) -> None:
    await desk.listen(socket=socket)
    card = await desk.card()
    desk.journal.down = True
    ack = await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "0004 sev low because x")
    assert "nothing was done" in ack.body
    assert (await desk.slack.click(card, "approve", "U0DBA")).status != 200
    desk.journal.down = False
    assert desk.rollbacks.told == []


async def test_a_request_that_is_worked_off_again_makes_no_second_run(desk: Desk) -> None:
    await desk.listen()
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "0004 sev high because orders fail since 02:40")
    _, request = await desk.told()
    desk.journal.view = view(State.ABORTED, request=request, created=SystemClock().now())
    for key, (kind, _) in desk.journal.stored.items():
        body = {"text": "0004 sev high because orders fail since 02:40", "user_id": "U0ANNA", "team_id": request.by.team, "channel_id": CHANNEL}
        desk.journal.stored[key] = (kind, body)
    await desk.listen()
    await desk.slack_quiet()
    assert len(desk.rollbacks.told) == 1


async def test_slack_away_at_the_start_is_a_reason_and_not_an_end(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "FIRST_TRY", 0.05)
    monkeypatch.setattr(app_module, "_PATIENCE", (0.02,))
    await desk.slack.go_down()
    app = await desk.listen()
    assert "can't be reached" in str(app.reasons())
    await desk.slack.come_back()
    desk.rollbacks.told.clear()
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "0004 sev low because x")
    assert (await desk.told())[0] == "request"
    assert app.reasons() is None


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_module, "_WATCH", 0.05)
    monkeypatch.setattr(app_module, "_PING", 0.2)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("reason", ["refresh_requested", None])
async def test_the_socket_comes_back(desk: Desk, reason: str | None) -> None:
    await desk.listen(socket=True)
    before = await desk.slack.wait_for(lambda: desk.slack.sockets)
    await desk.slack.drop_sockets(reason)
    await desk.slack.go_down()
    await desk.slack.come_back()
    await desk.slack.wait_for(lambda: desk.slack.sockets == before)
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "0004 sev low because x")
    assert (await desk.told())[0] == "request"


@pytest.mark.usefixtures("impatient")
async def test_a_dead_address_does_not_wedge_the_socket(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    await desk.listen(socket=True)

    def opened() -> int:
        return sum(call.method == "apps.connections.open" for call in desk.slack.calls)

    lifetime, before = sockets.TICKET_SECONDS, opened()
    monkeypatch.setattr(sockets, "TICKET_SECONDS", -1)
    await desk.slack.drop_sockets(None)
    await desk.slack.wait_for(lambda: opened() > before)
    monkeypatch.setattr(sockets, "TICKET_SECONDS", lifetime)
    await desk.slack.wait_for(lambda: desk.slack.sockets == 1)
    await desk.slack.command(CHANNEL, "U0ANNA", "/rollback", "0004 sev low because x")
    assert (await desk.told())[0] == "request"
