"""Every statement on a connection of SQLAlchemy's: allowed, told, timed; and the ends of its transactions."""

from __future__ import annotations

from typing import Any

from .connections import place, proven
from .frames import NOW, READS, emit, refuse
from .history import state_of
from .locks import after_statement, before_commit, clock, forget, measures
from .normal import normal_sha256


def before_sql(connection: Any, cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
    proven(connection)
    if NOW.redirected and not NOW.passed and not READS.match(statement):
        refuse("redirected_write", was=place(NOW.address), sql=statement[:200])
    if NOW.working:
        emit("sql", sql=statement[:500], text=normal_sha256(statement), revision=NOW.revision, at=clock())
    NOW.started[id(cursor)] = clock()


def after_sql(connection: Any, cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool) -> None:
    ended = clock()
    began = NOW.started.pop(id(cursor), ended)
    if NOW.working:
        rows = getattr(cursor, "rowcount", -1)
        locks = after_statement(proven(connection), statement, normal_sha256(statement)) if measures() else {}
        emit("ran", ms=round((ended - began) * 1000, 2), rows=rows if isinstance(rows, int) and rows >= 0 else None, at=ended, **locks)


def on_error(context: Any) -> None:
    emit("error", sqlstate=state_of(context.original_exception), lost=bool(context.is_disconnect), sql=(context.statement or "")[:500], at=clock())


def on_commit(connection: Any) -> None:
    """It is about to commit."""
    if measures():
        dbapi = proven(connection)
        locks = before_commit(dbapi)
        forget(dbapi)
        emit("commit", at=clock(), **locks)
    elif NOW.working:
        emit("commit", at=clock())


def on_rollback(connection: Any) -> None:
    if measures() and not connection.invalidated:
        dbapi = proven(connection)
        emit("rollback", at=clock(), backend=NOW.proven[id(dbapi)][1])
        forget(dbapi)
