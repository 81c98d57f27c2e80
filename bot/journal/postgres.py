"""The journal on Postgres: every method is one transaction; a change of state and its event are committed together or not at all."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg

from bot.errors import BackoutError, JournalDown, Refusal, TransitionRefused
from bot.journal import rows
from bot.model import (
    ENDS,
    OPEN,
    TRANSITIONS,
    Alarm,
    Attempt,
    AttemptState,
    BackupFile,
    Delivery,
    Event,
    Plan,
    Request,
    Run,
    State,
)  # fmt: skip
from bot.ports import Clock

Connection = Any  # asyncpg.Connection or its pool proxy

_SET_ALARM = "insert into backout.alarms (run, kind, due) values ($1, $2, $3) on conflict (run, kind) do update set due = excluded.due"


async def _prepare(connection: Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=_dump, decoder=json.loads, schema="pg_catalog")


def _dump(value: Any) -> str:
    # Postgres has no place for U+0000 in jsonb: text from programs may hold one.
    return json.dumps(value, default=str).replace("\\u0000", "\\ufffd")


class PostgresJournal:
    """ports.Journal. `executor` names this process in attempts."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock, executor: str) -> None:
        self._pool = pool
        self._clock = clock
        self._executor = executor

    @classmethod
    async def open(cls, url: str, clock: Clock, executor: str) -> PostgresJournal:
        """Raises JournalDown."""
        try:
            pool = await asyncpg.create_pool(
                url, min_size=1, max_size=8, init=_prepare, command_timeout=20,
                server_settings={"application_name": "backout/journal", "search_path": "pg_catalog"},
            )  # fmt: skip
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise JournalDown("the journal's database can't be reached; check BACKOUT_DATABASE_URL") from error
        return cls(pool, clock, executor)

    async def close(self) -> None:
        try:
            await self._pool.close()
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._pool.terminate()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[Connection]:
        try:
            async with self._pool.acquire(timeout=10) as connection, connection.transaction():
                yield connection
        except BackoutError:
            raise
        except (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError) as error:
            raise JournalDown("the journal's database can't be reached") from error

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

    async def store_plan(self, run: str, plan: Plan, seats: Sequence[str], **data: Any) -> None:
        async with self._transaction() as db:
            await self._change(db, run, State.AWAITING_APPROVAL)
            await db.execute(
                "update backout.runs set plan = $2, digest = $3, escalated = '{}' where id = $1",
                run,
                plan.model_dump(mode="json"),
                plan.digest(),
            )
            await db.execute("delete from backout.seats where run = $1", run)
            await db.executemany(
                "insert into backout.seats (run, place, role) values ($1, $2, $3)", [(run, place, role) for place, role in enumerate(seats)]
            )
            if data:
                await self._append(db, run, "voided", data)
            await self._append(
                db, run, "planned",
                {"digest": plan.digest(), "from": plan.from_, "to": plan.to, "undone": [u.revision for u in plan.undone],
                 "loss_class": plan.loss_class},
            )  # fmt: skip

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
            if await self._lock(db, run) is not State.RUNNING:
                raise TransitionRefused(f"{run} is not running; {step} must not begin")
            last = await db.fetchval("select coalesce(max(attempt), 0) from backout.attempts where run = $1 and step = $2", run, step)
            began = self._clock.now()
            await db.execute(
                "insert into backout.attempts (run, step, attempt, state, executor, began, place)"
                " select $1, $2, $3, $4, $5, $6, count(*) from backout.attempts where run = $1",
                run, step, last + 1, AttemptState.INTENDED, self._executor, began,
            )  # fmt: skip
            await self._append(db, run, "step_started", {"step": step, "attempt": last + 1})
            return Attempt(step=step, attempt=last + 1, state=AttemptState.INTENDED, executor=self._executor, began=began)

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

    async def set_alarm(self, alarm: Alarm) -> None:
        async with self._transaction() as db:
            await db.execute(_SET_ALARM, alarm.run, alarm.kind, alarm.due)

    async def clear_alarms(self, run: str, kind: str | None = None) -> None:
        async with self._transaction() as db:
            await db.execute("delete from backout.alarms where run = $1 and ($2::text is null or kind = $2)", run, kind)

    async def alarms(self) -> tuple[Alarm, ...]:
        async with self._transaction() as db:
            return tuple(Alarm(**dict(row)) for row in await db.fetch("select run, kind, due from backout.alarms order by due"))

    async def deliveries(self, run: str) -> Mapping[str, Delivery]:
        async with self._transaction() as db:
            found = await db.fetch("select key, channel, ts, content from backout.deliveries where run = $1", run)
            return {row["key"]: Delivery(channel=row["channel"], ts=row["ts"], content=row["content"]) for row in found}

    async def deliver(self, run: str, key: str, delivery: Delivery) -> None:
        async with self._transaction() as db:
            await db.execute(
                "insert into backout.deliveries (run, key, channel, ts, content) values ($1, $2, $3, $4, $5)"
                " on conflict (run, key) do update set channel = excluded.channel, ts = excluded.ts, content = excluded.content",
                run, key, delivery.channel, delivery.ts, delivery.content,
            )  # fmt: skip

    async def run_of_thread(self, channel: str, ts: str) -> str | None:
        async with self._transaction() as db:
            return cast(
                str | None,
                await db.fetchval("select run from backout.deliveries where key = 'card' and channel = $1 and ts = $2", channel, ts),
            )

    async def undelivered(self) -> tuple[str, ...]:
        async with self._transaction() as db:
            found = await db.fetch(
                "select r.id from backout.runs r left join backout.deliveries d on d.run = r.id and d.key = 'seq'"
                " where r.request->>'channel' is not null and coalesce(d.content::integer, 0) < r.seq order by r.created"
            )
            return tuple(row["id"] for row in found)

    async def keep_backup(self, target: str, run: str, revision: str, file: BackupFile, until: dt.datetime) -> None:
        async with self._transaction() as db:
            await db.execute(
                "insert into backout.backups (target, name, run, revision, file, made, keep_until) values ($1, $2, $3, $4, $5, $6, $7)"
                " on conflict (target, name) do update set file = excluded.file, made = excluded.made, keep_until = excluded.keep_until",
                target, file.name, run, revision, file.model_dump(mode="json"), self._clock.now(), until,
            )  # fmt: skip

    async def backups(self, target: str) -> tuple[Mapping[str, Any], ...]:
        async with self._transaction() as db:
            found = await db.fetch(
                "select name, run, revision, file, made, keep_until from backout.backups where target = $1 order by made desc", target
            )
            return tuple({**dict(row), "file": BackupFile(**row["file"])} for row in found)

    async def forget_backup(self, target: str, name: str) -> None:
        async with self._transaction() as db:
            await db.execute("delete from backout.backups where target = $1 and name = $2", target, name)

    async def accept(self, key: str, kind: str, payload: Mapping[str, Any]) -> bool:
        async with self._transaction() as db:
            came = await db.execute(
                "insert into backout.inbox (key, kind, payload, came) values ($1, $2, $3, $4) on conflict (key) do nothing",
                key, kind, dict(payload), self._clock.now(),
            )  # fmt: skip
            return bool(came == "INSERT 0 1")

    async def pending(self) -> tuple[tuple[str, str, Mapping[str, Any]], ...]:
        async with self._transaction() as db:
            found = await db.fetch("select key, kind, payload, came from backout.inbox where done is null order by came, key")
            return tuple((row["key"], row["kind"], {**row["payload"], "_came": row["came"].isoformat()}) for row in found)

    async def done(self, key: str) -> None:
        now = self._clock.now()
        async with self._transaction() as db:
            await db.execute("update backout.inbox set done = $2, payload = null where key = $1", key, now)
            await db.execute("delete from backout.inbox where done < $1", now - dt.timedelta(days=1))

    async def ping(self) -> None:
        async with self._transaction() as db:
            await db.execute("select 1")


def _in_progress(target: str, other: Mapping[str, Any] | None) -> Refusal:
    which = f"{other['id']} is {other['state'].replace('_', ' ')}" if other else "another run has just begun"
    run = other["id"] if other else ""
    return Refusal(
        "run_in_progress", f"{target} already has an open run: {which}. One database is rolled back by one run at a time.",
        f"Look at it with /rollback status {run}, or end it with /rollback abort {run}.".replace("  ", " "),
    )  # fmt: skip
