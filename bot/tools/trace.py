"""What the tool did, as its frames tell: facts for the journal, and one line for the card while it runs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from bot.place import Session
from bot.tools.frames import Frame
from bot.tools.locks import Locks

STATEMENTS = 100  # kept with their text; the rest is counted
OUTPUT = 4_000  # characters of output kept, the last ones
#: broken connection, terminated session, idle or transaction timeout: nobody can say whether the last commit happened
_LOST = re.compile(r"08...|57P0[1-5]|25P0[34]")


class Trace:
    """`clean` takes secrets out of a text. Times are of the event loop's clock, in seconds."""

    def __init__(self, clean: Callable[[str], str], clock: Callable[[], float]) -> None:
        self._clean, self._clock = clean, clock
        self.began = clock()
        self.ready: Frame | None = None
        self.end: Frame | None = None
        #: `go` was sent, or may have been: from here on nobody may say that nothing was executed
        self.begun = False
        self.lost = False
        self.objection: str | None = None
        self.alien = ""
        self.commits = self.total = self.connections = 0
        self.revisions: list[str] = []
        self._statements: list[dict[str, Any]] = []
        self._output = ""
        self._texts = hashlib.sha256()
        self._running: tuple[float, dict[str, Any]] | None = None
        self._last: tuple[dict[str, Any], float] = {"sql": ""}, 0.0  # the newest statement, and when it began on the helper's clock
        self._at = 0.0
        self._locks = Locks()
        self._blockers: dict[int, Session] = {}
        self._waits_for: tuple[Session, ...] = ()

    def take(self, frame: Frame) -> None:
        """One frame of the helper."""
        self._at = frame.get("at", self._at)
        match frame["k"]:
            case "ready":
                self.ready = frame
            case "refused" | "failed" | "done":
                self.end = frame
                self.lost = self.lost or bool(frame.get("lost")) or _is_lost(frame)
            case "error":
                self.lost = self.lost or (self.begun and (bool(frame["lost"]) or _is_lost(frame)))
                self._running = None
            case "connected":
                self.connections += 1
            case "commit":
                self.commits += 1
                self._ended_transaction(frame)
            case "rollback":
                self._ended_transaction(frame)
            case "through":
                self.revisions.append(frame["revision"])
            case "out":
                self._output = (self._output + frame["text"])[-4 * OUTPUT :]
            case "sql":
                self._began_statement(frame)
            case "ran":
                self._ended_statement(frame)

    def _began_statement(self, frame: Frame) -> None:
        self.total += 1
        known = {"sql": self._clean(frame["sql"]), "revision": frame["revision"]}
        statement = {**known, "ms": None, "rows": None, "lock": None, "table": None, "held": None}
        self._texts.update(frame["text"].encode())
        self._last = statement, frame["at"]
        self._running = self._clock(), statement
        if len(self._statements) < STATEMENTS:
            self._statements.append(statement)

    def _ended_statement(self, frame: Frame) -> None:
        if self._running is not None:
            self._running[1].update(ms=frame["ms"], rows=frame["rows"])
        self._running, self._waits_for = None, ()
        if "locks" in frame:
            self._locks.took(*self._last, frame)

    def _ended_transaction(self, frame: Frame) -> None:
        if "locks" in frame:
            self._locks.took(*self._last, frame)
        if "backend" in frame:
            self._locks.end(frame["backend"], frame["at"])

    @property
    def waiting(self) -> float:
        """Seconds for which the statement of now has been running."""
        return 0.0 if self._running is None else self._clock() - self._running[0]

    def blocked_by(self, sessions: Iterable[Session]) -> None:
        self._waits_for = tuple(sessions) if self._running is not None else ()
        self._blockers.update({session.pid: session for session in self._waits_for})

    def says(self) -> str:
        """One line for the card."""
        text = f"{self.total} statement{'' if self.total == 1 else 's'}"
        if self._running is not None:
            text += f", {one_line(self._running[1]['sql'], 80)}"
        if self._waits_for:
            text += f"; waits for {' and '.join(map(self._who, self._waits_for[:3]))}"
        return text

    def blockers(self) -> str:
        """Who was in the way, in words; empty when nobody was seen."""
        return " and ".join(map(self._who, list(self._blockers.values())[:3]))

    def _who(self, session: Session) -> str:
        parts = [session.user, session.application, session.state]
        known = ", ".join(part for part in parts if part)
        return f"session {session.pid}" + (f" ({self._clean(known)})" if known else "") + _quoted(self._clean(session.query))

    def output(self, limit: int = OUTPUT) -> str:
        """The end of what was printed."""
        text = self._clean(self._output).strip()
        return text if len(text) <= limit else "..." + text[-limit:]

    def facts(self) -> dict[str, Any]:
        """Small JSON: what the journal keeps."""
        ready = self.ready or {}
        self._locks.end(None, self._at)
        return {
            "statements": self._statements,
            "statements_total": self.total,
            "statements_sha256": self._texts.hexdigest(),
            "locks": self._locks.facts(),
            "transactions": self.commits,
            "revisions": self.revisions,
            "output": self.output(),
            "seconds": round(self._clock() - self.began - float((self.end or {}).get("measured", 0.0)), 3),
            "driver": ready.get("driver"),
            "one_transaction": bool(ready.get("one_transaction")),
            "connections": self.connections,
            "blockers": [
                {"pid": one.pid, "user": one.user, "application": one.application, "state": one.state, "query": one_line(self._clean(one.query), 200)}
                for one in self._blockers.values()
            ][:10],
        }  # fmt: skip


def one_line(text: str, limit: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _quoted(query: str) -> str:
    return f": {one_line(query, 80)}" if query else ""


def _is_lost(frame: Frame) -> bool:
    return bool(_LOST.fullmatch(frame.get("sqlstate") or ""))
