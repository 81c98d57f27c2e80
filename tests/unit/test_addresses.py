"""Where a provider recovered it: what the card asks, what the thread says, and that an address goes from hand to hand in memory alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from bot.errors import Refusal
from bot.model import AttemptState, PlanStep, Run, State
from bot.place import Connect, Elsewhere
from bot.rollback.addresses import FACT, Addresses, concealed, examined, parsed, wanted
from handlers.card import card
from handlers.thread import message
from tests.unit.slack_parts import attempt, plan, run, view

WAITS = {FACT: {"provider": "aws-rds", "until": "2026-11-21T15:00:00+00:00"}}
STEP = PlanStep(name="recover", params={"provider": "aws-rds"})
RECOVERING = plan(strategy="pitr", point="2026-11-20T20:48:28+00:00", rehearse=(STEP,), rehearsal=None)
SECRET = Connect(host="db.example", port=5433, user="master", password="p@ss/word", database="shop")


def waiting(**facts: object) -> Run:
    return run(State.REHEARSING, plan=RECOVERING, attempts=(attempt("recover", AttemptState.INTENDED, {**WAITS, **facts}),), seats=())


def test_a_run_waits_only_while_its_step_says_so() -> None:
    assert wanted(waiting()) == ("aws-rds", "2026-11-21T15:00:00+00:00")
    assert wanted(waiting(**{FACT: None})) is None
    assert wanted(waiting().model_copy(update={"state": State.ABORTED})) is None
    assert wanted(run(State.REHEARSING)) is None


def test_the_card_says_first_what_is_waited_for_and_has_the_button() -> None:
    shown = card(view(State.REHEARSING, plan=RECOVERING, digest=None, seats=(), steps=(), attempts=waiting().attempts)).blocks
    assert "Waiting for aws-rds:* recover `shop` to 2026-11-20 20:48:28 UTC, then enter the new address." in shown[1]["text"]["text"]
    assert shown[2]["block_id"] == "address:r7k2"
    assert [(one["text"]["text"], one["action_id"], one["value"]) for one in shown[2]["elements"]] == [
        ("Enter the address", "backout_address", "r7k2:")
    ]


@pytest.mark.parametrize(("guide", "inline"), [("aws rds restore <now>", True), ("x" * 2000, False)])
def test_the_thread_has_the_guide_as_a_file_and_a_short_one_at_once(guide: str, inline: bool) -> None:
    told = {"provider": "aws-rds", "point": "2026-11-20 20:48:28 UTC", "by": "U0ANNA", "until": "2026-11-21T15:00:00+00:00", "guide": guide}
    seen = view(State.REHEARSING, plan=RECOVERING, events=[("address_wanted", told)])
    said = message(seen, seen.events[0])
    assert said is not None
    assert said.files == (("recovery-r7k2.txt", f"{guide}\n"),)
    assert said.text.startswith("<@U0ANNA>: aws-rds has to recover `shop` to *2026-11-20 20:48:28 UTC*")
    assert ("aws rds restore &lt;now&gt;" in said.text) is inline


async def test_an_address_reaches_the_one_who_waits_once_and_nobody_else() -> None:
    between = Addresses()
    assert not between.give("r1", SECRET), "nobody waits"
    waits = asyncio.create_task(between.of("r1"))
    assert await between.expected("r1")
    assert between.give("r1", SECRET)
    assert not between.give("r1", SECRET), "it was given"
    assert await waits == SECRET
    assert not between.give("r1", SECRET), "nobody waits any more"


async def test_who_gives_up_waiting_gets_nothing_later() -> None:
    between = Addresses()
    waits = asyncio.create_task(between.of("r1"))
    assert await between.expected("r1")
    waits.cancel()
    await asyncio.wait({waits})
    assert not between.give("r1", SECRET)


@pytest.mark.parametrize(
    "text", ["", "shop", "http://a:b@c/d", "postgresql://u:s3cret@a,b/shop", "postgresql://s3cret@/x", "postgresql://u:s3cret@h/d?x=1"]
)
def test_what_is_no_address_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(Refusal) as refused:
        parsed(text)
    assert refused.value.code == "address_unreadable"
    assert "s3cret" not in f"{refused.value.message} {refused.value.next}"


def test_an_address_is_read_with_the_blanks_and_brackets_that_pasting_brings() -> None:
    assert parsed(" <postgres://master:p%40ss%2Fword@db.example:5433/shop>\n") == SECRET


@dataclass
class Stub:
    """A target's parts, as far as an address is looked at; `asked` is what the dump's program had to be able to do."""

    seen: Elsewhere
    asked: list[str | None] = field(default_factory=list)

    name = "shop"

    @property
    def database(self) -> Stub:
        return self

    @property
    def backup(self) -> Stub:
        return self

    @asynccontextmanager
    async def challenge(self) -> AsyncIterator[tuple[int, int]]:
        yield 1, 2

    def elsewhere(self, _: Connect) -> Stub:
        return self

    async def looked_at(self, lock: tuple[int, int]) -> Elsewhere:
        assert lock == (1, 2)
        return self.seen

    def of(self, connect: Connect) -> Stub:
        self.asked.append(connect.sslmode)
        return self

    async def ready(self, _: int) -> None: ...
    async def heads(self, *_: object) -> tuple[str, ...]:
        return ("0004",)


GOOD = Elsewhere(version=170002, in_recovery=False, system="7", same=False)


@pytest.mark.parametrize(
    ("seen", "code", "says"),
    [
        ({"same": True}, "address_of_production", "shop itself"),
        ({"in_recovery": True}, "address_unfit", "a standby"),
        ({"version": 180000}, "address_unfit", "is PostgreSQL 18, and production is 17"),
    ],
)
async def test_a_server_that_no_copy_can_be_taken_of_is_refused(seen: dict[str, object], code: str, says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        await examined(Stub(GOOD.model_copy(update=seen)), RECOVERING, SECRET)  # type: ignore[arg-type]  # the part of it that is used
    assert refused.value.code == code


@pytest.mark.parametrize(("written", "encrypted", "asked"), [(None, False, None), (None, True, "require"), ("verify-full", True, "verify-full")])
async def test_a_server_under_tls_asks_for_a_pg_dump_that_knows_it(written: str | None, encrypted: bool, asked: str | None) -> None:
    there = Stub(GOOD.model_copy(update={"encrypted": encrypted, "version": 150001}))
    await examined(there, RECOVERING, SECRET.model_copy(update={"sslmode": written}))  # type: ignore[arg-type]  # as above
    assert there.asked == [asked]


def test_words_of_others_are_shown_without_the_address_in_them() -> None:
    said = 'pg_dump: error: connection to server at "db.example" failed: password "p@ss/word" of master is wrong; masters are others'
    assert concealed(said, SECRET) == 'pg_dump: error: connection to server at "***" failed: password "***" of *** is wrong; masters are others'
    resolved = 'connection to server at "db.example" (10.0.12.7), port 5433 failed; at "db.example" (fd00::12:7), port 5433; PostgreSQL 17.2'
    assert concealed(resolved, SECRET) == 'connection to server at "***" ***, *** failed; at "***" ***, ***; PostgreSQL 17.2'
