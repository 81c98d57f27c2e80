"""The journal's promises, on real Postgres."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator

import asyncpg
import pytest

from bot.clock import SystemClock
from bot.errors import Refusal, TransitionRefused
from bot.evidence import Archive, BackupFile, Rehearsal
from bot.journal.migrate import migrate
from bot.journal.postgres import PostgresJournal
from bot.model import ENDS, Alarm, Attempt, AttemptState, Delivery, Person, Plan, PlanStep, Request, Severity, State, Undone
from bot.place import Identity

REQUEST = Request(target="shop", rev="0004", reason="checkout is down", severity=Severity.HIGH, by=Person(id="U0DEV"), channel="C0INCIDENT")
PLAN = Plan(
    target="shop", from_="0005", to="0004", undone=(Undone(revision="0005", message="scores", date=None, sha256="00"),),
    steps=(PlanStep(name="downgrade"),), identity=Identity(system="1", timeline=1, oid=2, database="shop", version=180004, started="now"),
)  # fmt: skip


@pytest.fixture
async def url(make_journal_database) -> str:
    made = make_journal_database("journal").url()
    await asyncio.to_thread(migrate, made)
    return made


@pytest.fixture
async def journal(url: str) -> AsyncIterator[PostgresJournal]:
    opened = await PostgresJournal.open(url, SystemClock(), "test")
    yield opened
    await opened.close()


async def awaiting(journal: PostgresJournal, *seats: str, run: str = "r1") -> str:
    await journal.create(run, REQUEST)
    await journal.store_evidence(run, PLAN, seats or ("dba",))
    return PLAN.digest()


async def running(journal: PostgresJournal) -> None:
    await awaiting(journal)
    await journal.move("r1", State.RUNNING, "started")


async def test_the_tables_are_made_once_when_two_replicas_start_together(make_journal_database) -> None:
    made = make_journal_database("twice").url()
    await asyncio.gather(asyncio.to_thread(migrate, made), asyncio.to_thread(migrate, made))
    journal = await PostgresJournal.open(made, SystemClock(), "test")
    await journal.ping()
    await journal.close()


async def test_a_run_is_stored_with_its_request_and_comes_back_equal(journal: PostgresJournal) -> None:
    made = await journal.create("r1", REQUEST)
    assert made == await journal.run("r1")
    assert made.request == REQUEST
    assert made.state is State.PLANNING
    assert [event.kind for event in await journal.events("r1")] == ["requested"]


async def test_one_open_run_per_target_also_when_two_ask_at_once(journal: PostgresJournal) -> None:
    results = await asyncio.gather(*(journal.create(f"r{n}", REQUEST) for n in range(5)), return_exceptions=True)
    refused = [one for one in results if isinstance(one, Refusal)]
    assert len(refused) == 4
    assert {one.code for one in refused} == {"run_in_progress"}


async def test_a_target_is_free_again_after_the_end(journal: PostgresJournal) -> None:
    await awaiting(journal)
    await journal.move("r1", State.REJECTED, "rejected", by="U0DBA", reason="no")
    await journal.create("r2", REQUEST)
    assert [run.id for run in await journal.find(target="shop")] == ["r2", "r1"]


@pytest.mark.parametrize("end", sorted(ENDS))
async def test_nothing_follows_an_end(journal: PostgresJournal, end: State) -> None:
    path = {
        State.SUCCEEDED: [State.RUNNING],
        State.FAILED: [State.RUNNING],
    }.get(end, [])
    await awaiting(journal)
    for state in [*path, end]:
        await journal.move("r1", state, "moved")
    for state in State:
        with pytest.raises(TransitionRefused):
            await journal.move("r1", state, "moved")


async def test_a_refused_change_of_state_leaves_no_event(journal: PostgresJournal) -> None:
    await journal.create("r1", REQUEST)
    with pytest.raises(TransitionRefused):
        await journal.move("r1", State.SUCCEEDED, "ended")
    assert [event.kind for event in await journal.events("r1")] == ["requested"]


async def test_events_can_not_be_changed_or_removed(journal: PostgresJournal, url: str) -> None:
    await journal.create("r1", REQUEST)
    connection = await asyncpg.connect(url)
    for sql in ("update backout.events set kind = 'x'", "delete from backout.events", "truncate backout.events"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await connection.execute(sql)
    await connection.close()


async def test_a_seat_is_filled_once_by_twenty_presses_at_once(journal: PostgresJournal) -> None:
    digest = await awaiting(journal, "dba", "lead")
    results = await asyncio.gather(*(journal.seat("r1", digest, "dba", "U0DBA") for _ in range(20)))
    assert results.count(True) == 1
    assert [seat.by for seat in (await journal.run("r1")).seats] == ["U0DBA", None]


async def test_one_person_fills_one_seat_even_with_two_roles(journal: PostgresJournal) -> None:
    digest = await awaiting(journal, "dba", "lead")
    results = await asyncio.gather(journal.seat("r1", digest, "dba", "U0DBA"), journal.seat("r1", digest, "lead", "U0DBA"))
    assert sorted(results) == [False, True]


async def test_a_press_on_an_old_plan_fills_nothing(journal: PostgresJournal) -> None:
    await awaiting(journal)
    assert not await journal.seat("r1", "another digest", "dba", "U0DBA")


async def test_a_changed_plan_voids_the_approvals_and_says_so(journal: PostgresJournal) -> None:
    digest = await awaiting(journal)
    assert await journal.seat("r1", digest, "dba", "U0DBA")
    await journal.move("r1", State.RUNNING, "started")
    await journal.store_evidence("r1", PLAN.model_copy(update={"to": "0003"}), ["dba"], what=["the way leads to 0003"])
    run = await journal.run("r1")
    assert [seat.by for seat in run.seats] == [None]
    assert run.digest != digest
    assert "voided" in {event.kind for event in await journal.events("r1")}


async def test_a_withdrawn_approval_frees_the_seat_but_not_once_all_are_filled(journal: PostgresJournal) -> None:
    digest = await awaiting(journal, "dba", "lead")
    await journal.seat("r1", digest, "dba", "U0DBA")
    assert await journal.unseat("r1", "U0DBA")
    assert not await journal.unseat("r1", "U0DBA")
    await journal.seat("r1", digest, "dba", "U0DBA")
    await journal.seat("r1", digest, "lead", "U0LEAD")
    assert not await journal.unseat("r1", "U0DBA")


async def test_one_of_two_decisions_counts(journal: PostgresJournal) -> None:
    await running(journal)
    await journal.move("r1", State.NEEDS_DECISION, "decision_needed", step="downgrade", why="x", options=[])
    results = await asyncio.gather(journal.decide("r1", "retry", "U0DBA"), journal.decide("r1", "leave", "U0DBA"))
    assert sorted(results) == [False, True]


async def test_an_attempt_is_intended_once_and_ends_once(journal: PostgresJournal) -> None:
    await running(journal)
    attempt = await journal.intend("r1", "downgrade")
    with pytest.raises(asyncpg.UniqueViolationError):
        await journal.intend("r1", "downgrade")
    done = attempt.model_copy(update={"state": AttemptState.DONE, "ended": SystemClock().now(), "summary": "ok"})
    await journal.remember("r1", "downgrade", 1, {"backend": 4711})
    await journal.outcome("r1", done)
    with pytest.raises(TransitionRefused):
        await journal.outcome("r1", done)
    kept = (await journal.run("r1")).last_attempt("downgrade")
    assert isinstance(kept, Attempt)
    assert kept.facts == {"backend": 4711}
    assert kept.state is AttemptState.DONE


async def test_nothing_begins_for_a_run_that_is_not_running(journal: PostgresJournal) -> None:
    await awaiting(journal)
    with pytest.raises(TransitionRefused):
        await journal.intend("r1", "downgrade")


async def test_alarms_outlive_the_process_and_end_with_the_run(journal: PostgresJournal, url: str) -> None:
    await awaiting(journal)
    due = SystemClock().now() + dt.timedelta(hours=1)
    await journal.set_alarm(Alarm(run="r1", kind="seat", due=due))
    another = await PostgresJournal.open(url, SystemClock(), "after the restart")
    assert [alarm.due for alarm in await another.alarms()] == [due]
    await another.move("r1", State.EXPIRED, "expired")
    assert await another.alarms() == ()
    await another.close()


async def test_what_the_channel_has_not_seen_is_listed(journal: PostgresJournal) -> None:
    run = await journal.create("r1", REQUEST)
    assert await journal.undelivered() == ("r1",)
    await journal.deliver("r1", "seq", Delivery(channel="C0INCIDENT", ts="1.0", content=str(run.seq)))
    assert await journal.undelivered() == ()
    await journal.record("r1", "note", by="U0DEV", text="hello")
    assert await journal.undelivered() == ("r1",)


async def test_a_request_that_comes_twice_is_stored_once_and_forgotten_when_worked_off(journal: PostgresJournal, url: str) -> None:
    assert await journal.accept("trigger-1", "command", {"text": "0004", "response_url": "http://127.0.0.1/secret"})
    assert not await journal.accept("trigger-1", "command", {"text": "0004"})
    assert [(key, kind) for key, kind, _ in await journal.pending()] == [("trigger-1", "command")]
    await journal.done("trigger-1")
    assert await journal.pending() == ()
    assert not await journal.accept("trigger-1", "command", {"text": "0004"})
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("select payload from backout.inbox") is None
    await connection.close()


async def test_text_that_json_has_and_postgres_has_not_is_kept(journal: PostgresJournal) -> None:
    await journal.create("r1", REQUEST)
    await journal.record("r1", "note", by="U0DEV", text="nul \x00 and \u202e right to left")
    assert (await journal.events("r1"))[-1].data["text"] == "nul � and \u202e right to left"


async def test_an_unknown_run_is_refused_by_code(journal: PostgresJournal) -> None:
    with pytest.raises(Refusal) as refused:
        await journal.run("nobody")
    assert refused.value.code == "unknown_run"


async def test_a_plan_that_is_tried_first_has_neither_digest_nor_seats_until_its_evidence_is_stored(journal: PostgresJournal) -> None:
    await journal.create("r1", REQUEST)
    await journal.store_plan("r1", PLAN)
    run = await journal.run("r1")
    assert (run.state, run.digest, run.seats, run.round) == (State.REHEARSING, None, (), 1)
    attempt = await journal.intend("r1", "rehearse")
    assert attempt.round == 1
    tried = PLAN.model_copy(update={"rehearsal": Rehearsal(done=True, statements_sha256="ab")})
    await journal.store_evidence("r1", tried, ["dba"])
    run = await journal.run("r1")
    assert (run.state, run.digest, [seat.role for seat in run.seats]) == (State.AWAITING_APPROVAL, tried.digest(), ["dba"])
    assert tried.digest() != PLAN.digest()
    assert [event.kind for event in await journal.events("r1")] == ["requested", "planned", "step_started", "rehearsed"]


async def test_another_plan_begins_another_round_and_what_was_tried_before_is_history(journal: PostgresJournal) -> None:
    await running(journal)
    first = await journal.intend("r1", "check_preconditions")
    await journal.outcome("r1", first.model_copy(update={"state": AttemptState.DONE, "ended": first.began}))
    await journal.store_plan("r1", PLAN.model_copy(update={"to": "0003"}), what=["the way leads to 0003"])
    run = await journal.run("r1")
    assert (run.state, run.round, run.current) == (State.REHEARSING, 2, ())
    assert [attempt.round for attempt in run.attempts] == [1]
    assert run.last_attempt("check_preconditions") is None
    again = await journal.intend("r1", "check_preconditions")
    assert (again.attempt, again.round) == (2, 2)


async def test_archives_are_listed_newest_first_and_forgotten_by_name(journal: PostgresJournal) -> None:
    until = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    for run in ("r1", "r2"):
        file = BackupFile(name=f"shop-{run}.archive", path="/x", sha256="00", size=1, format="archive")
        await journal.keep_archive(Archive(run=run, target="shop", lower="0004", upper="0005", file=file), until)
    assert [(kept.run, at) for kept, at in await journal.archives("shop")] == [("r2", until), ("r1", until)]
    await journal.forget_archive("shop", "shop-r2.archive")
    assert [kept.run for kept, _ in await journal.archives("shop")] == ["r1"]
    assert await journal.archives("other") == ()


async def refused_rehearsal(journal: PostgresJournal, run: str, by: str, *, system: str = "1", since: int = 600) -> str:
    """Another target's request; the code with which its rehearsal is refused, or nothing."""
    await journal.create(run, REQUEST.model_copy(update={"target": run, "by": Person(id=by)}))
    plan = PLAN.model_copy(update={"identity": PLAN.identity.model_copy(update={"system": system})})
    plan = plan.model_copy(update={"rehearse": (PlanStep(name="recover", params={"provider": "azure"}),)}) if by == "U0WAITS" else plan
    try:
        await journal.store_plan(run, plan, unless_since=SystemClock().now() - dt.timedelta(seconds=since))
    except Refusal as refusal:
        await journal.refuse(run, refusal)
        return refusal.code
    return ""


async def test_one_rehearsal_at_a_time_for_each_server_and_one_in_a_while_for_each_person(journal: PostgresJournal) -> None:
    assert await refused_rehearsal(journal, "r1", "U0DEV") == ""
    assert await refused_rehearsal(journal, "r2", "U0DBA") == "rehearsal_in_progress"
    assert await refused_rehearsal(journal, "r3", "U0DEV", system="2") == "rehearsed_too_soon"
    assert await refused_rehearsal(journal, "r4", "U0DBA", system="2") == "", "another person, another server"
    await journal.store_evidence("r1", PLAN, ["dba"])
    assert await refused_rehearsal(journal, "r5", "U0LEAD") == "", "the first one has ended"
    assert await refused_rehearsal(journal, "r6", "U0DEV", system="3", since=0) == "", "long enough ago"


async def test_who_waits_for_a_provider_is_in_nobodys_way(journal: PostgresJournal) -> None:
    assert await refused_rehearsal(journal, "r1", "U0WAITS") == ""
    assert await refused_rehearsal(journal, "r2", "U0DBA") == "", "it may wait for hours"


async def test_of_two_that_would_begin_at_once_one_does(journal: PostgresJournal) -> None:
    found = await asyncio.gather(*(refused_rehearsal(journal, f"r{n}", f"U{n}") for n in range(6)))
    assert sorted(found) == ["", *["rehearsal_in_progress"] * 5]
