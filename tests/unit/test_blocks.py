"""The card and the thread: golden JSON, buttons by state, hostile words, and Slack's limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.evidence import Locked, Loss, Rehearsal
from bot.model import AttemptState, Event, Option, SeatView, State, Undone
from bot.words import span
from handlers import modals, thread
from handlers.blocks import TOTAL, Message
from handlers.card import card
from handlers.text import clean, escape, fenced, private, safe, unescape
from playground.slack import validate
from tests.unit.cards import CARDS, DECIDING
from tests.unit.slack_parts import DIGEST, NOON, archive, attempt, plan, proven, rehearsal, view

GOLDEN = Path(__file__).parent.parent / "golden"


def accepted(message: Message) -> None:
    """The stand-in's judgement, which is Slack's as far as it is known."""
    validate.message_blocks(list(message.blocks))
    validate.message_text(message.text)
    validate.metadata(message.metadata)
    assert len(json.dumps(message.blocks, ensure_ascii=False)) <= TOTAL


def actions(message: Message) -> list[dict[str, Any]]:
    found = [block for block in message.blocks if block.get("block_id") == "backout:r7k2"]
    return found[0]["elements"] if found else []


def golden(name: str, message: Message) -> None:
    shown = json.dumps({"text": message.text, "metadata": message.metadata, "blocks": message.blocks}, indent=1, ensure_ascii=False)
    path = GOLDEN / f"{name}.json"
    assert path.exists(), f"there is no {path.name}; it should hold\n{shown}"
    assert shown + "\n" == path.read_text()


@pytest.mark.parametrize("name", sorted(CARDS))
def test_the_card_is_the_golden_one(name: str) -> None:
    made = card(CARDS[name]())
    accepted(made)
    golden(f"card-{name}", made)


def test_every_golden_card_is_one_that_is_made() -> None:
    assert {path.stem for path in GOLDEN.glob("card-*.json")} == {f"card-{name}" for name in CARDS}


@pytest.mark.parametrize(
    ("state", "labels"),
    [
        (State.PLANNING, ["Cancel"]),
        (State.REHEARSING, ["Cancel"]),
        (State.AWAITING_APPROVAL, ["Approve", "Reject", "Cancel"]),
        (State.RUNNING, ["Cancel"]),
        (State.NEEDS_DECISION, ["Retry", "Leave", "Escalate"]),
        *((state, []) for state in (State.SUCCEEDED, State.FAILED, State.ABORTED, State.REJECTED, State.EXPIRED, State.REFUSED)),
    ],
)
def test_a_state_has_its_buttons_and_no_others(state: State, labels: list[str]) -> None:
    buttons = actions(card(view(state, events=[DECIDING] if state is State.NEEDS_DECISION else ())))
    assert [each["text"]["text"] for each in buttons] == labels
    assert [each["action_id"] for each in buttons] == [label.lower() for label in labels]
    assert {each["value"] for each in buttons} <= {f"r7k2:{DIGEST}"}


def test_withdraw_appears_once_somebody_approved() -> None:
    seats = (SeatView(role="dba", title="DBA", by="U0DBA"), SeatView(role="team-lead", title="Lead"))
    assert [each["action_id"] for each in actions(card(view(seats=seats)))] == ["approve", "reject", "withdraw", "cancel"]


def test_restore_is_offered_only_when_the_newest_decision_offers_it() -> None:
    offered = ("decision_needed", {"step": "downgrade", "why": "x", "options": ["retry", "restore", "leave"]})
    assert "restore" in {each["action_id"] for each in actions(card(view(State.NEEDS_DECISION, events=[offered])))}
    assert "restore" not in {each["action_id"] for each in actions(card(view(State.NEEDS_DECISION, events=[offered, DECIDING])))}


def test_the_approve_dialog_says_that_the_last_seat_starts_the_run() -> None:
    two = (SeatView(role="dba", title="DBA"), SeatView(role="team-lead", title="Lead"))
    said = [actions(card(view(**change)))[0]["confirm"]["text"]["text"] for change in ({}, {"seats": two})]
    assert "starts at once" in said[0]
    assert "fills the last seat starts the run" in said[1]


def test_text_and_metadata_are_the_contracts() -> None:
    made = card(view())
    assert made.text == "shop: 0006 -> 0004 · awaiting_approval · r7k2"
    assert made.metadata["event_type"] == "backout_card"
    assert list(made.metadata["event_payload"]) == ["run", "target", "state", "from", "to", "severity", "digest", "seq"]


HOSTILE = "<!channel> <@U0CTO> & `x`\n*bold* \u202egnp.exe"


@pytest.mark.parametrize(
    "change",
    [{}, {"strategy": "reapply"}, {"rehearsal": Rehearsal(done=False, why="<!channel> <@U0CTO> \u202e")}],
    ids=["tried", "reapply", "untried"],
)
@pytest.mark.parametrize("state", [State.REHEARSING, State.AWAITING_APPROVAL, State.SUCCEEDED, State.REFUSED])
def test_hostile_words_neither_ping_nor_link(state: State, change: dict[str, Any]) -> None:
    request = view().run.request.model_copy(update={"reason": HOSTILE})
    lost = Loss(kind="table", name=HOSTILE, revision=HOSTILE, count=3, newest=HOSTILE, keys=(HOSTILE,), why=HOSTILE)
    tried = rehearsal(
        server=HOSTILE, partial=(HOSTILE, HOSTILE), findings=(HOSTILE, HOSTILE), expected="differs", forward="fails", forward_says=HOSTILE,
        loss=(lost, lost.model_copy(update={"kind": "policy"})), locks=(Locked(table=HOSTILE, mode=HOSTILE), Locked(table=HOSTILE, mode=HOSTILE)),
        put_back=(HOSTILE,), why=HOSTILE,
    )  # fmt: skip
    option = Option(name="restore", loses=HOSTILE, certain=HOSTILE, why=HOSTILE, recommended=True)
    undone = (Undone(revision=HOSTILE, message=HOSTILE, date=HOSTILE, sha256="a"),)
    bad = proven(tried, undone=undone, remarks=(HOSTILE,), options=(option,), archive=HOSTILE, loss=tried.loss).model_copy(update=change)
    events = [("note", {"by": "U0ANNA", "text": HOSTILE}), ("rejected", {"by": HOSTILE, "reason": HOSTILE}), ("step_failed", {"message": HOSTILE})]
    part = archive().parts[0].model_copy(update={"table": HOSTILE})
    gone = archive().model_copy(update={"parts": (part,), "left_out": {HOSTILE: HOSTILE}, "upper": HOSTILE})
    conflict = {"table": HOSTILE, "key": HOSTILE, "why": HOSTILE}
    facts = {
        "archive": {"archive": gone.model_dump(mode="json"), "until": HOSTILE},
        "reconcile": {"loss": [lost.model_dump(mode="json")], "more": [HOSTILE]},
        "put_back": {"put_back": [{"rows": 1, "values": 1, "conflicts": [conflict], "conflicts_total": 1, "notes": [HOSTILE]}]},
        "downgrade": {"changed": True},
    }  # fmt: skip
    events += [("planned", {}), ("rehearsed", {"digest": DIGEST}), ("voided", {"what": [HOSTILE]})]
    events += [("step_done", {"step": name, "attempt": 1, "summary": HOSTILE}) for name in facts]
    attempts = tuple(attempt(name, AttemptState.DONE, found) for name, found in facts.items())
    shown = view(state, events=events, plan=bad, request=request, attempts=attempts, refusal={"code": HOSTILE, "message": HOSTILE, "next": HOSTILE})
    messages = [card(shown), *filter(None, (thread.message(shown, event) for event in shown.events))]
    for message in messages:
        accepted(message)
        whole = json.dumps([message.text, message.blocks], ensure_ascii=False)
        assert "<!channel>" not in whole
        assert "<@U0CTO>" not in whole
        assert "\u202e" not in whole


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 400), st.text(max_size=400), st.integers(0, 30), st.booleans())
def test_no_plan_is_too_long_for_a_card(many: int, words: str, boxes: int, tested: bool) -> None:
    long = plan(
        undone=tuple(Undone(revision=f"r{place}{words[:50]}", message=words, date=words[:40], sha256="a") for place in range(many)),
        loss=tuple(Loss(kind="table", name=f"{words}{place}", revision="0005", certain=place % 2 == 0) for place in range(many)),
        remarks=tuple(words for _ in range(many)),
    )  # fmt: skip
    tried = rehearsal(
        loss=long.loss, partial=long.remarks, findings=long.remarks, expected="differs", put_back=long.remarks,
        locks=tuple(Locked(table=f"{words}{place}", mode="ShareLock") for place in range(many)),
    )  # fmt: skip
    long = long.model_copy(update={"rehearsal": tried}) if tested else long
    items = tuple(f"{place} {words}" for place in range(boxes))
    made = card(view(plan=long, questions=items, checklist=tuple(f"c{each}" for each in items), ticked=items[:2]))
    accepted(made)
    assert [each["action_id"] for each in actions(made)] == ["approve", "reject", "cancel"]


def test_a_plan_that_the_card_cuts_is_a_file_in_the_thread() -> None:
    undone = tuple(Undone(revision=f"{place:04}", message="m" * 60, date=None, sha256="a") for place in range(99))
    shown = view(events=[("planned", {"digest": DIGEST})], plan=plan(undone=undone))
    assert "more, see the thread file" in json.dumps(card(shown).blocks)
    said = thread.message(shown, shown.events[0])
    assert said is not None
    assert [name for name, _ in said.files] == ["plan-r7k2.md"]
    assert all(each.revision in said.files[0][1] for each in undone)


def test_a_decision_shows_its_evidence_and_both_restore_commands() -> None:
    facts = {
        "blockers": [{"pid": 71, "user": "app", "application": "web", "state": "idle in transaction", "age": 91.0, "query": "select 1"}],
        "output": "ERROR: lock timeout", "traceback": ["File env.py"],
    }  # fmt: skip
    shown = view(
        State.NEEDS_DECISION, events=[DECIDING], attempts=(attempt("downgrade", AttemptState.FAILED, facts),),
        restore_commands=("createdb shop_new", "pg_restore -d shop_new /b/x.dump"),
    )  # fmt: skip
    said = thread.message(shown, shown.events[0])
    assert said is not None
    accepted(said)
    whole = json.dumps(said.blocks, ensure_ascii=False)
    for piece in ("<@U0DBA>", "lock timeout", "pid 71", "1 min 31 s", "ERROR: lock timeout", "createdb shop_new", "pg_restore -d shop_new"):
        assert piece in whole


def test_verification_is_a_table_and_a_file() -> None:
    checks = [
        {"name": "no order lost", "ok": True, "blocking": True, "before": "12", "after": "12", "says": ""},
        {"name": "slow <b>", "ok": False, "blocking": False, "before": "1", "after": "2", "says": "differs"},
        {"name": "shown", "ok": None, "blocking": True, "before": "", "after": "7", "says": ""},
    ]
    done = ("step_done", {"step": "verify", "attempt": 1, "seconds": 2.5, "summary": "1 of 1 green"})
    shown = view(State.RUNNING, events=[done], attempts=(attempt("verify", AttemptState.DONE, {"checks": checks}),))
    said = thread.message(shown, shown.events[0])
    assert said is not None
    assert said.text.startswith("✓ verify · 2.5 s. 1 of 1 green")
    assert ("ok    no order lost" in said.text, "warn  slow &lt;b&gt;" in said.text, "info  shown" in said.text) == (True, True, True)
    assert said.files[0][0] == "verification-r7k2-1.txt"


@pytest.mark.parametrize("kind", ["requested", "denied", "ticked", "step_started", "refused", "something_new"])
def test_the_thread_leaves_out_what_the_card_or_the_journal_has(kind: str) -> None:
    assert thread.message(view(), Event(seq=1, at=NOON, kind=kind)) is None


def test_whoever_is_asked_is_mentioned_and_called() -> None:
    asked = ("asked", {"roles": ["dba"], "people": ["U0DBA", "U0EVE"], "until": NOON.isoformat()})
    shown = view(events=[asked])
    said = thread.message(shown, shown.events[0])
    assert said is not None
    assert said.people == ("U0DBA", "U0EVE")
    assert said.text.startswith("<@U0DBA>, <@U0EVE>: please approve or reject, as DBA on call. It waits until <!date^")


def test_both_forms_are_accepted_and_carry_what_was_given() -> None:
    form = modals.request("rollback", ["shop", "ledger"], {"target": "shop", "rev": "-1", "severity": "high"}, {"channel": "C1"})
    validate.modal(form)
    assert [block["block_id"] for block in form["blocks"] if block["type"] == "input"] == ["target", "rev", "reason", "severity"]
    assert [block["element"]["action_id"] for block in form["blocks"] if block["type"] == "input"] == ["target", "rev", "reason", "severity"]
    assert form["blocks"][0]["element"]["initial_option"]["value"] == "shop"
    assert form["blocks"][1]["element"]["initial_value"] == "-1"
    validate.modal(modals.reject("r7k2", DIGEST, {"channel": "C1"}))


@given(st.text())
def test_escaped_text_comes_back_as_it_was_typed(text: str) -> None:
    assert unescape(escape(text)) == text


@given(st.text(), st.integers(2, 50))
def test_clean_text_is_one_short_line(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert len(shown) <= limit
    assert "\n" not in shown


@given(st.text())
def test_nothing_gets_out_of_a_code_block(text: str) -> None:
    assert "`" not in fenced(text)[3:-3]


def test_small_words_read_well() -> None:
    assert [span(each) for each in (0, 0.44, 12.2, 185, 7440)] == ["0 s", "0.4 s", "12 s", "3 min 5 s", "2 h 4 min"]
    assert private("ask in <#C0OTHER>, <!here>") == "ask in <#C0OTHER>, &lt;!here&gt;"
    assert safe("שלום") == "\u2068שלום\u2069"
