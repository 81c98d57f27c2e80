"""Which locks a migration took and for how long, from the helper's frames. Times are the helper's, in seconds, and stand still while it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MODES = (
    "AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", "ShareLock", "ShareRowExclusiveLock", "ExclusiveLock",
    "AccessExclusiveLock",
)  # fmt: skip
_RANK = {mode: rank for rank, mode in enumerate(MODES)}
#: weaker ones stand in nobody's way but that of another migration
_TOLD_FROM = _RANK["ShareUpdateExclusiveLock"]
Statement = dict[str, Any]


@dataclass
class _Held:
    mode: str
    since: float
    #: whose strongest new lock is on this table, and when they began
    statements: list[tuple[Statement, float]] = field(default_factory=list)


class Locks:
    """Kept by backend, since a migration may open a second connection."""

    def __init__(self) -> None:
        self._held: dict[int, dict[str, _Held]] = {}
        self._looked: dict[int, float] = {}
        self._longest: dict[str, tuple[int, float]] = {}

    def took(self, statement: Statement, began: float, frame: Mapping[str, Any]) -> None:
        """A `ran` or `commit` frame: the strongest new lock is its statement's, unless locks went unread before it."""
        backend, new, late = frame["backend"], dict(frame["locks"]), frame["late"]
        held = self._held.setdefault(backend, {})
        since = self._looked.get(backend, began) if late else began
        for table, mode in new.items():
            statements = held[table].statements if table in held else []
            held[table] = _Held(mode, since, statements)
        if new and not late:
            table = min(new, key=lambda one: (-_RANK[new[one]], _place(one, statement["sql"]), one))
            statement.update(lock=new[table], table=table)
            held[table].statements.append((statement, began))
        for table in frame["released"]:
            self._release(held.pop(table, None), table, frame["at"])
        self._looked[backend] = frame["at"]

    def end(self, backend: int | None, at: float) -> None:
        """A transaction's end, or everything's (None)."""
        for one in [backend] if backend is not None else list(self._held):
            for table, held in self._held.pop(one, {}).items():
                self._release(held, table, at)
            self._looked[one] = at

    def _release(self, held: _Held | None, table: str, at: float) -> None:
        if held is None:
            return
        self._longest[table] = max(self._longest.get(table, (-1, 0.0)), (_RANK[held.mode], at - held.since))
        for statement, began in held.statements:
            statement["held"] = _ms(at - began)

    def facts(self) -> list[dict[str, Any]]:
        """What others would wait for, the strongest and longest first: [{table, mode, held in ms}]."""
        told = [(rank, held, table) for table, (rank, held) in self._longest.items() if rank >= _TOLD_FROM]
        told.sort(key=lambda one: (-one[0], -one[1], one[2]))
        return [{"table": table, "mode": MODES[rank], "held": _ms(held)} for rank, held, table in told]


def _ms(seconds: float) -> float:
    return round(max(0.0, seconds) * 1000, 2)


def _place(table: str, sql: str) -> int:
    """Where the statement names the table: of two locks of the same mode, the one on what it is about."""
    found = sql.find(table.rsplit(".", 1)[-1].strip('"'))
    return found if found >= 0 else len(sql)
