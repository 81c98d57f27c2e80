"""Backout runs the SQL itself: down or up by scripts that were cut into statements, behind the gate, in one transaction where they allow it.

For tools whose own programs can't be led, watched or fenced. The version table is brought along in the transaction that holds a script's last
statements. Every statement goes by itself through the extended protocol: the server refuses two in one, so a wrong cut can't slip through.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bot.errors import StepFailed
from bot.keeping import Work
from bot.ports import Database
from bot.sqltext import Statement, masked, outside
from bot.tools.bounds import Bounds
from bot.tools.sql_locks import HeldLocks
from bot.tools.sql_session import ERRORS, LOST, NotThatSession, Session, entered, prove, take_tools_lock
from bot.tools.trace import Trace, one_line
from bot.tools.watched import LOCK_TIMEOUT, Op, Watched, cleaning, fence_of

_INVALID = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid ORDER BY 1 LIMIT 5"


@dataclass(frozen=True)
class Script:
    """One revision's way, one direction. `record` are the statements that make the version table say so; `path` is for people."""

    revision: str
    path: str
    statements: tuple[Statement, ...]
    record: tuple[str, ...]


@dataclass(frozen=True)
class Versions:
    """The version table as the tool's session finds it; `query` gives the revisions where the database stands, as text."""

    table: str
    schema: str
    query: str


@dataclass(frozen=True)
class Order:
    """What is to be done. `lock` is the tool's own advisory lock, and the program that takes it. `from_` empty: no script has run."""

    op: Op
    to: tuple[str, ...]
    from_: tuple[str, ...]
    scripts: tuple[Script, ...]
    versions: Versions
    lock: tuple[int, str] | None = None

    @property
    def one_transaction(self) -> bool:
        return not any(outside(statement) for script in self.scripts for statement in script.statements)


class Mover:
    """One attempt at an order, once."""

    def __init__(self, order: Order, bounds: Bounds, database: Database, work: Work) -> None:
        self._order, self._bounds, self._database, self._work = order, bounds, database, work
        self._loop = asyncio.get_running_loop()
        self._clean = cleaning(database.tool)
        self._trace = Trace(self._clean, self._loop.time)
        self._watched = Watched(order.op, bounds, database, work, self._trace)
        self._locks: HeldLocks | None = None
        self._measured = 0.0
        self._open = False
        self._at: tuple[Script, Statement | None] | None = None

    async def carry_out(self) -> Mapping[str, Any]:
        """Returns facts, as bot.tools.trace has them. Raises StepFailed and OutcomeUnknown with the same facts."""
        await self._watched.carry_out(self._talk, lambda: None, "the database")
        return self._trace.facts()

    async def _talk(self, challenge: tuple[int, int]) -> None:
        bounds = self._bounds.of_session(self._work.application)
        try:
            async with entered(self._database.tool, bounds, self._hear) as session:
                backend = await self._prepare(session, challenge, bounds)
                await self._decide(backend)
                try:
                    await self._run(session)
                except ERRORS as error:
                    raise await self._failed(session, error) from error
        except NotThatSession as why:
            raise self._watched.nothing(why.told, why.following) from why
        except ERRORS as error:  # before it began: connecting, proving
            if self._trace.begun:
                raise self._lost(error) from error
            raise self._watched.nothing(
                f"The database would not have it: {self._words(error)}.", "Mend what the message names, then retry."
            ) from error

    # -------------------------------------------------------------- the gate

    async def _prepare(self, session: Session, challenge: tuple[int, int], bounds: Mapping[str, str]) -> int:
        """Everything that must hold before the first statement. Raises NotThatSession."""
        order = self._order
        await prove(session, challenge, bounds, fence_of(self._work))
        if order.lock:
            await take_tools_lock(session, *order.lock)
        stands = await self._stands(session)
        if stands != order.from_:
            raise NotThatSession(
                f"The database stands at {', '.join(stands) or 'base'}, not at the planned revision: somebody moved it.", "Ask for a new plan."
            )
        if self._work.plan.one_transaction and not order.one_transaction:
            raise NotThatSession("The scripts can't run in one transaction any more, as they could when the plan was made.", "Ask for a new plan.")
        backend = session.get_server_pid()
        if self._work.rehearsing:
            self._locks = HeldLocks(session, backend)
            await self._locks.learn_names(await session.fetchval("SELECT to_regclass($1)::oid", self._table))
        self._trace.take({"k": "connected"})
        self._trace.take({"k": "ready", "backend": backend, "driver": "asyncpg", "one_transaction": order.one_transaction, "at": self._now()})
        return backend

    async def _stands(self, session: Session) -> tuple[str, ...]:
        """Of a database without a version table nothing has run."""
        if await session.fetchval("SELECT to_regclass($1)", self._table) is None:
            return ()
        return tuple(row[0] for row in await session.fetch(self._order.versions.query))

    @property
    def _table(self) -> str:
        versions = self._order.versions
        return ".".join('"' + name.replace('"', '""') + '"' for name in (versions.schema, versions.table))

    async def _decide(self, backend: int) -> None:
        """The last moment at which nothing has happened. Raises StepFailed."""
        await self._work.remember(backend=backend)
        if not await self._work.may_begin():
            raise self._watched.nothing("This attempt is not the current one any more, so it did not begin.", "Look at the newest attempt.")
        self._trace.begun = True

    # -------------------------------------------------------------- the work

    async def _run(self, session: Session) -> None:
        for script in self._order.scripts:
            self._at = script, None
            for statement in script.statements:
                self._at = script, statement
                await self._in_transaction(session, not outside(statement))
                await self._statement(session, script.revision, statement.text)
            self._at = script, None
            await self._in_transaction(session, True)
            await session.execute("RESET ROLE; RESET ALL")  # what a script set is its own: the next one begins as psql would
            for text in script.record:
                await self._statement(session, script.revision, text)
            self._trace.take({"k": "through", "revision": script.revision})
        self._at = None
        await self._in_transaction(session, True)
        stands = await self._stands(session)
        if stands != self._order.to:
            await self._rolled_back(session)
            raise StepFailed(
                f"The scripts leave the version table at {', '.join(stands) or 'base'}, not at {', '.join(self._order.to) or 'base'}."
                f" {self._watched.committed()} Look at what they write there.",
                self._trace.facts(),
            )
        await self._in_transaction(session, False)

    async def _in_transaction(self, session: Session, wanted: bool) -> None:
        if wanted and not self._open:
            await session.execute("BEGIN")
            self._open = True
        elif self._open and not wanted:
            looked, at = await self._look(), self._now()
            await session.execute("COMMIT")
            self._trace.take({"k": "commit", "at": at, **looked})
            self._open = False
            if self._locks:
                self._locks.forget()

    async def _statement(self, session: Session, revision: str, text: str) -> None:
        digest = hashlib.sha256(masked(text).encode()).hexdigest()
        self._trace.take({"k": "sql", "sql": text[:500], "text": digest, "revision": revision, "at": self._now()})
        began = self._now()
        prepared = await session.prepare(text)
        await prepared.fetch()
        ended = self._now()
        looked = await self._look() if self._open else {}
        self._trace.take({"k": "ran", "ms": round((ended - began) * 1000, 2), "rows": _rows(prepared.get_statusmsg() or ""), "at": ended, **looked})

    def _now(self) -> float:
        """A clock that stands still while locks are read."""
        return round(self._loop.time() - self._measured, 6)

    async def _look(self) -> dict[str, Any]:
        if self._locks is None:
            return {}
        began = self._loop.time()
        seen = await self._locks.look()
        self._measured += self._loop.time() - began
        return seen

    def _hear(self, text: str) -> None:
        self._trace.take({"k": "out", "text": text})

    # -------------------------------------------------------------- bad ends

    def _words(self, error: BaseException) -> str:
        return one_line(self._clean(str(error)), 500).rstrip(".") or type(error).__name__

    def _lost(self, error: BaseException) -> StepFailed:
        self._trace.lost = True
        return self._watched.unknown(f"The connection was lost in the middle of the {self._order.op}: {self._words(error)}.")

    async def _failed(self, session: Session, error: BaseException) -> StepFailed:
        state = getattr(error, "sqlstate", None)
        self._trace.take({"k": "error", "lost": isinstance(error, LOST), "sqlstate": state, "at": self._now()})
        if self._trace.lost:
            return self._lost(error)
        await self._rolled_back(session)
        script, statement = self._at or (None, None)
        where = f"{script.path}{f', line {statement.line}' if statement else ''}" if script else "at the end"
        op = f"The {self._order.op}{f' of {script.revision}' if script else ''}"
        told = [f"{op} failed: {self._words(error)} ({where})."]
        following = "Look at the error, then retry, restore, or leave it."
        if state == LOCK_TIMEOUT:
            told = [f"{op} {self._watched.waited()}, and gave up (lock timeout, {where})."]
            following = "End that session or wait for it, then retry."
        told += [self._watched.committed(), *(await self._invalid(session, statement))]
        known: dict[str, Any] = {"type": type(error).__name__, "message": self._words(error), "sqlstate": state, "where": where, "trace": []}
        return StepFailed(" ".join([*told, following]), self._trace.facts() | {"error": known | {"revision": script.revision if script else None}})

    async def _rolled_back(self, session: Session) -> None:
        """A session that can't even roll back is gone, and its transaction with it: carry_out sees to that."""
        if self._open and not session.is_closed():
            await session.execute("ROLLBACK")
            self._trace.take({"k": "rollback", "at": self._now(), "backend": session.get_server_pid()})
        self._open = False

    async def _invalid(self, session: Session, statement: Statement | None) -> Sequence[str]:
        """A statement that is CONCURRENTLY leaves an index behind that is not valid (databases.md F13)."""
        if statement is None or "concurrently" not in statement.words or session.is_closed():
            return ()
        names = [row[0] for row in await session.fetch(_INVALID)]
        return (f"Not valid now: index {', '.join(names)}; drop or REINDEX it before anything else.",) if names else ()


def _rows(tag: str) -> int | None:
    """'UPDATE 3' -> 3; None for what counts nothing."""
    last = tag.rsplit(" ", 1)[-1]
    return int(last) if last.isdigit() else None
