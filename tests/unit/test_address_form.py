"""The form that holds a password: never stored, answered in the form itself or in private, and for nobody of another workspace."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from bot.model import AttemptState, State
from handlers import addresses
from tests.unit.slack_parts import attempt
from tests.unit.test_addresses import RECOVERING, WAITS
from tests.unit.test_app import Desk
from tests.unit.test_app import desk as desk  # noqa: PLC0414  pytest finds the fixture here

ADDRESS = "postgresql://master:s3cret@db.example/shop"


async def form(desk: Desk, user: str = "U0ANNA") -> dict[str, Any]:
    waiting = (attempt("recover", AttemptState.INTENDED, WAITS),)
    card = await desk.card(State.REHEARSING, plan=RECOVERING, digest=None, seats=(), steps=(), attempts=waiting)
    await desk.slack.click(card, "backout_address", user)
    return dict((await desk.slack.wait_for(lambda: desk.slack.views(user)))[-1])


def stored(desk: Desk) -> str:
    return str(list(desk.journal.stored.items())) + str(desk.journal.recorded)


@pytest.mark.parametrize("socket", [False, True])
async def test_it_is_handed_on_and_neither_stored_nor_logged(desk: Desk, socket: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await desk.listen(socket=socket)
    shown = await form(desk)
    assert "Slack itself can't hide what you type" in str(shown)
    seen: list[str] = []
    accept = desk.journal.accept

    async def accepted(key: str, kind: str, payload: Any) -> bool:
        seen.append(str(payload))
        return await accept(key, kind, payload)

    desk.journal.accept = accepted  # type: ignore[method-assign]  # emptied once it was worked off, so it is looked at when it comes
    ack = await desk.slack.submit(shown, {"address": ADDRESS}, "U0ANNA")
    assert (ack.ok, ack.body) == (True, "")
    assert desk.rollbacks.told[-1] == ("enter", "r7k2", ADDRESS, "U0ANNA")
    assert desk.slack.views("U0ANNA") == []
    assert seen == []
    assert "s3cret" not in stored(desk)
    assert "s3cret" not in "".join(one.getMessage() for one in caplog.records if one.name.startswith(("handlers", "bot", "slack")))


async def test_what_is_wrong_with_it_stands_in_the_form(desk: Desk) -> None:
    await desk.listen()
    desk.rollbacks.denies = None
    shown = await form(desk)
    desk.rollbacks.denies = "Only a holder may."
    await desk.slack.submit(shown, {"address": ADDRESS}, "U0ANNA")
    assert desk.slack.views("U0ANNA")[-1]["errors"] == {"address": "Only a holder may."}


async def test_who_may_not_gets_no_form(desk: Desk) -> None:
    await desk.listen()
    desk.rollbacks.denies = "Only a holder may."
    waiting = (attempt("recover", AttemptState.INTENDED, WAITS),)
    card = await desk.card(State.REHEARSING, plan=RECOVERING, digest=None, seats=(), steps=(), attempts=waiting)
    await desk.slack.click(card, "backout_address", "U0ANNA")
    assert await desk.answer() == "Only a holder may."
    assert desk.slack.views("U0ANNA") == []


async def test_a_look_that_takes_longer_than_slack_waits_is_answered_in_private(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_ACK", 0.05)
    await desk.listen()
    shown = await form(desk)
    desk.rollbacks.gate.clear()
    ack = await desk.slack.submit(shown, {"address": ADDRESS}, "U0ANNA")
    assert (ack.ok, ack.body) == (True, "")
    desk.rollbacks.denies = "It is production."
    desk.rollbacks.gate.set()
    await desk.slack.wait_for(lambda: desk.slack.ephemerals("U0ANNA"))
    assert desk.slack.ephemerals("U0ANNA")[-1]["text"] == "The address was not taken. It is production."
    assert len(desk.rollbacks.told) == 1


async def test_somebody_of_another_workspace_is_turned_away(desk: Desk) -> None:
    await desk.listen()
    shown = await form(desk)
    desk.slack.users["U0ANNA"].team = "T0THEIRS"
    await desk.slack.submit(shown, {"address": ADDRESS}, "U0ANNA")
    assert desk.slack.views("U0ANNA")[-1]["errors"] == {"address": "Only people of this workspace may do that. Nothing was done."}
    assert desk.rollbacks.told == []
    assert desk.journal.recorded == [("r7k2", "denied", {"by": "U0ANNA", "action": "address", "why": "not of this workspace"})]
