"""The journal on Postgres: every method is one transaction; a change of state and its event are committed together or not at all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from bot.errors import Refusal, TransitionRefused
from bot.journal import rehearsals, rows
from bot.journal.pooled import Connection
from bot.journal.shelf import Shelf
from bot.model import ENDS, OPEN, TRANSITIONS, Alarm, Attempt, AttemptState, Event, Plan, Request, Run, State

_SET_ALARM = "insert into backout.alarms (run, kind, due) values ($1, $2, $3) on conflict (run, kind) do update set due = excluded.due"


class PostgresJournal(Shelf):
    """ports.Journal. `executor` names this process in attempts."""

    async def create(self, run: str, request: Request) -> Run:
        async with self._transaction() as db:
            made = await db.fetchval(
                "insert into backout.runs (id, target, state, request, created) values ($1, $2, $3, $4, $5)"
                " on conflict (target) where state in ('planning', 'rehearsing', 'awaiting_approval', 'running', 'needs_decision')"
                " do nothing returning id",
                run, request.target, State.PLANNING, request.model_dump(mode="json"), self._clock.now(),
            )  # fmt: skip
            if made is None:
                other = await db.fetchrow("select id, state from backout.runs where target = $1 and state = any($2)", request.target, list(OPEN))
                raise _in_progress(request.target, other)
            await self._append(
                db, run, "requested", {"by": request.by.id, "rev": request.rev, "reason": request.reason, "severity": request.severity}
            )
            return await rows.run(db, run)

    async def run(self, run: str) -> Run:
        async with self._transaction() as db:
            return await rows.run(db, run)

    async def find(
        self, *, target: str | None = None, channel: str | None = None, states: Sequence[State] | None = None, limit: int = 20
    ) -> tuple[Run, ...]:
        async with self._transaction() as db:
            found = await db.fetch(
                "select id from backout.runs where ($1::text is null or target = $1) and ($2::text is null or request->>'channel' = $2)"
                " and ($3::text[] is null or state = any($3)) order by created desc, id limit $4",
                target, channel, None if states is None else list(states), limit,
            )  # fmt: skip
            return tuple([await rows.run(db, row["id"]) for row in found])

    async def events(self, run: str, after: int = 0) -> tuple[Event, ...]:
        async with self._transaction() as db:
            found = await db.fetch("select seq, at, kind, data from backout.events where run = $1 and seq > $2 order by seq", run, after)
            return tuple(Event(**dict(row)) for row in found)

    async def record(self, run: str, kind: str, **data: Any) -> Event:
        async with self._transaction() as db:
            return await self._append(db, run, kind, data)

    async def move(self, run: str, to: State, kind: str, **data: Any) -> Event:
        async with self._transaction() as db:
            await self._change(db, run, to)
            return await self._append(db, run, kind, data)

    async def _append(self, db: Connection, run: str, kind: str, data: Mapping[str, Any]) -> Event:
        seq = await db.fetchval("update backout.runs set seq = seq + 1 where id = $1 returning seq", run)
        if seq is None:
            raise rows.unknown_run(run)
        at = self._clock.now()
        await db.execute("insert into backout.events (run, seq, at, kind, data) values ($1, $2, $3, $4, $5)", run, seq, at, kind, dict(data))
        return Event(seq=seq, at=at, kind=kind, data=dict(data))

    async def _change(self, db: Connection, run: str, to: State) -> None:
        now = await self._lock(db, run)
        if to not in TRANSITIONS[now]:
            raise TransitionRefused(f"{run} is {now} and can't become {to}")
        ended = self._clock.now() if to in ENDS else None
        await db.execute("update backout.runs set state = $2, ended = $3 where id = $1", run, to, ended)
        if ended is not None:
            await db.execute("delete from backout.alarms where run = $1", run)

    async def _lock(self, db: Connection, run: str) -> State:
        state = await db.fetchval("select state from backout.runs where id = $1 for update", run)
        if state is None:
            raise rows.unknown_run(run)
        return State(state)

    async def store_plan(self, run: str, plan: Plan, *, unless_since: dt.datetime | None = None, **data: Any) -> None:
        async with self._transaction() as db:
            if unless_since is not None:
                await rehearsals.refuse(db, run, plan.identity.system, unless_since)
            await self._store(db, run, State.REHEARSING, plan, (), data)
            await self._append(db, run, "planned", _planned(plan))

    async def store_evidence(self, run: str, plan: Plan, seats: Sequence[str], **data: Any) -> None:
        async with self._transaction() as db:
            before = await self._store(db, run, State.AWAITING_APPROVAL, plan, seats, data)
            kind = "rehearsed" if before is State.REHEARSING else "planned"
            await self._append(db, run, kind, {**_planned(plan), "digest": plan.digest()})

    async def _store(self, db: Connection, run: str, to: State, plan: Plan, seats: Sequence[str], voided: Mapping[str, Any]) -> State:
        before = await self._lock(db, run)
        await self._change(db, run, to)
        digest = plan.digest() if to is State.AWAITING_APPROVAL else None
        another = 1 if before is State.RUNNING else 0
        await db.execute(
            "update backout.runs set plan = $2, digest = $3, escalated = '{}', round = round + $4 where id = $1",
            run, plan.model_dump(mode="json"), digest, another,
        )  # fmt: skip
        await db.execute("delete from backout.seats where run = $1", run)
        await db.executemany(
            "insert into backout.seats (run, place, role) values ($1, $2, $3)", [(run, place, role) for place, role in enumerate(seats)]
        )
        if voided:
            await self._append(db, run, "voided", voided)
        return before

    async def seat(self, run: str, digest: str, role: str, by: str, **data: Any) -> bool:
        async with self._transaction() as db:
            if await self._lock(db, run) is not State.AWAITING_APPROVAL:
                return False
            if await db.fetchval("select digest from backout.runs where id = $1", run) != digest:
                return False
            if await db.fetchval("select true from backout.seats where run = $1 and by = $2", run, by):
                return False
            place = await db.fetchval("select min(place) from backout.seats where run = $1 and role = $2 and by is null", run, role)
            if place is None:
                return False
            await db.execute("update backout.seats set by = $3, at = $4 where run = $1 and place = $2", run, place, by, self._clock.now())
            await self._append(db, run, "approved", {"by": by, "role": role, "digest": digest, **data})
            return True

    async def unseat(self, run: str, by: str) -> bool:
        async with self._transaction() as db:
            if await self._lock(db, run) is not State.AWAITING_APPROVAL:
                return False
            # The last seat starts the run: from then on there is nothing to withdraw, even if the state has not followed yet.
            if not await db.fetchval("select true from backout.seats where run = $1 and by is null limit 1", run):
                return False
            role = await db.fetchval("update backout.seats set by = null, at = null where run = $1 and by = $2 returning role", run, by)
            if role is None:
                return False
            await self._append(db, run, "withdrawn", {"by": by, "role": role})
            return True

    async def decide(self, run: str, decision: str, by: str) -> bool:
        async with self._transaction() as db:
            if await self._lock(db, run) is not State.NEEDS_DECISION:
                return False
            await self._change(db, run, State.RUNNING)
            ending = State.FAILED if decision == "leave" else None
            await db.execute(
                "update backout.runs set decision = $2, ending = coalesce($3, ending) where id = $1",
                run,
                None if ending else decision,
                ending,
            )
            await self._append(db, run, "decided", {"by": by, "decision": decision})
            return True

    async def head_for(self, run: str, ending: State, kind: str, **data: Any) -> bool:
        async with self._transaction() as db:
            if await self._lock(db, run) is not State.RUNNING:
                return False
            if await db.fetchval("select ending from backout.runs where id = $1", run) is not None:
                return False
            await db.execute("update backout.runs set ending = $2 where id = $1", run, ending)
            await self._append(db, run, kind, data)
            return True

    async def turn(self, run: str, ending: State, kind: str, **data: Any) -> bool:
        async with self._transaction() as db:
            if await self._lock(db, run) is not State.AWAITING_APPROVAL:
                return False
            await self._change(db, run, State.RUNNING)
            await db.execute("update backout.runs set ending = $2 where id = $1", run, ending)
            await self._append(db, run, kind, data)
            return True

    async def clear_decision(self, run: str) -> None:
        async with self._transaction() as db:
            await db.execute("update backout.runs set decision = null where id = $1", run)

    async def refuse(self, run: str, refusal: Refusal) -> None:
        async with self._transaction() as db:
            await self._change(db, run, State.REFUSED)
            told = {"code": refusal.code, "message": refusal.message, "next": refusal.next}
            await db.execute("update backout.runs set refusal = $2 where id = $1", run, told)
            await self._append(db, run, "refused", told)

    async def ask(self, run: str, due: dt.datetime, **data: Any) -> None:
        async with self._transaction() as db:
            await self._lock(db, run)
            await db.execute(_SET_ALARM, run, "seat", due)
            await self._append(db, run, "asked", {**data, "until": due.isoformat()})

    async def escalate(self, run: str, role: str, *, due: dt.datetime | None = None, **data: Any) -> bool:
        async with self._transaction() as db:
            await self._lock(db, run)
            asked = await db.fetchval(
                "update backout.runs set escalated = array_append(escalated, $2::text) where id = $1 and not $2 = any(escalated) returning id",
                run, role,
            )  # fmt: skip
            if asked is None:
                return False
            if due is not None:
                await db.execute(_SET_ALARM, run, "seat", due)
            await self._append(db, run, "escalated", {"role": role, **data})
            return True

    async def intend(self, run: str, step: str) -> Attempt:
        async with self._transaction() as db:
            if await self._lock(db, run) not in (State.RUNNING, State.REHEARSING):
                raise TransitionRefused(f"{run} is not running; {step} must not begin")
            last = await db.fetchval("select coalesce(max(attempt), 0) from backout.attempts where run = $1 and step = $2", run, step)
            began = self._clock.now()
            await db.execute(
                "insert into backout.attempts (run, step, attempt, state, executor, began, place, round)"
                " select $1, $2, $3, $4, $5, $6, (select count(*) from backout.attempts where run = $1), round from backout.runs where id = $1",
                run, step, last + 1, AttemptState.INTENDED, self._executor, began,
            )  # fmt: skip
            await self._append(db, run, "step_started", {"step": step, "attempt": last + 1})
            round_ = await db.fetchval("select round from backout.runs where id = $1", run)
            return Attempt(step=step, attempt=last + 1, state=AttemptState.INTENDED, executor=self._executor, round=round_, began=began)

    async def outcome(self, run: str, attempt: Attempt) -> None:
        async with self._transaction() as db:
            changed = await db.execute(
                "update backout.attempts set state = $4, ended = $5, summary = $6, facts = facts || $7, progress = ''"
                " where run = $1 and step = $2 and attempt = $3 and state = $8",
                run, attempt.step, attempt.attempt, attempt.state, attempt.ended, attempt.summary, attempt.facts, AttemptState.INTENDED,
            )  # fmt: skip
            if changed != "UPDATE 1":
                raise TransitionRefused(f"{run}: attempt {attempt.attempt} of {attempt.step} already has an outcome")
            said = {"message": attempt.summary} if attempt.state is not AttemptState.DONE else {"summary": attempt.summary}
            await self._append(
                db, run, f"step_{attempt.state}", {"step": attempt.step, "attempt": attempt.attempt, "seconds": attempt.seconds, **said}
            )

    async def remember(self, run: str, step: str, attempt: int, facts: Mapping[str, Any]) -> None:
        async with self._transaction() as db:
            await db.execute(
                "update backout.attempts set facts = facts || $4 where run = $1 and step = $2 and attempt = $3",
                run,
                step,
                attempt,
                dict(facts),
            )

    async def progress(self, run: str, step: str, attempt: int, text: str) -> None:
        async with self._transaction() as db:
            await db.execute(
                "update backout.attempts set progress = $4 where run = $1 and step = $2 and attempt = $3 and state = $5",
                run, step, attempt, text[:500], AttemptState.INTENDED,
            )  # fmt: skip

    async def durations(self, target: str, steps: Sequence[str], undone: Sequence[str]) -> tuple[float, ...]:
        async with self._transaction() as db:
            found = await db.fetch(
                "select extract(epoch from sum(a.ended - a.began))::float8 as seconds from backout.runs r join backout.attempts a on a.run = r.id"
                " where r.target = $1 and r.state = 'succeeded' and a.state = 'done' and a.step = any($2)"
                " and (select array_agg(u->>'revision') from jsonb_array_elements(r.plan->'undone') u) = $3::text[]"
                " group by r.id, r.created order by r.created desc limit 20",
                target, list(steps), list(undone),
            )  # fmt: skip
            return tuple(row["seconds"] for row in found)

    async def moved_by_itself(self, target: str) -> bool:
        async with self._transaction() as db:
            return bool(
                await db.fetchval(
                    "select exists (select from backout.runs r join backout.attempts a on a.run = r.id"
                    " where r.target = $1 and a.step = 'watch' and a.facts ? 'moved_by_itself')",
                    target,
                )
            )

    async def set_alarm(self, alarm: Alarm) -> None:
        async with self._transaction() as db:
            await db.execute(_SET_ALARM, alarm.run, alarm.kind, alarm.due)

    async def clear_alarms(self, run: str, kind: str | None = None) -> None:
        async with self._transaction() as db:
            await db.execute("delete from backout.alarms where run = $1 and ($2::text is null or kind = $2)", run, kind)

    async def alarms(self) -> tuple[Alarm, ...]:
        async with self._transaction() as db:
            return tuple(Alarm(**dict(row)) for row in await db.fetch("select run, kind, due from backout.alarms order by due"))


def _planned(plan: Plan) -> dict[str, Any]:
    return {"from": plan.from_, "to": plan.to, "undone": [u.revision for u in plan.undone], "loss_class": plan.loss_class}


def _in_progress(target: str, other: Mapping[str, Any] | None) -> Refusal:
    which = f"{other['id']} is {other['state'].replace('_', ' ')}" if other else "another run has just begun"
    run = other["id"] if other else ""
    return Refusal(
        "run_in_progress", f"{target} already has an open run: {which}. One database is rolled back by one run at a time.",
        f"Look at it with /rollback status {run}, or end it with /rollback abort {run}.".replace("  ", " "),
    )  # fmt: skip
