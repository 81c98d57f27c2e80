"""What pg_restore says, judged: its exit code counts errors, and does not tell a missing comment from missing rows (databases.md F18)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_AT_MOST = 500  # errors kept; each is one line
_ENTRY = re.compile(r"^pg_restore: (?:from|in) TOC entry \d+; \d+ \d+ (.+)$")
_ERROR = re.compile(r"^pg_restore: error: (?:could not execute query: )?(.*)$")
_COUNTED = re.compile(r"^pg_restore: warning: errors ignored on restore: \d+$")
_DONE = re.compile(r"^pg_restore: (?:finished item|processing item|creating|processing data for) ")
#: rows are missing, or what holds them, or a promise about them
_HOLDS_DATA = (  # as prefixes: TABLE stands for TABLE DATA and TABLE ATTACH too
    "TABLE", "FK CONSTRAINT", "CHECK CONSTRAINT", "CONSTRAINT", "SEQUENCE", "BLOB", "LARGE OBJECT", "SCHEMA", "TYPE", "DOMAIN",
    "INDEX ATTACH",
)  # fmt: skip
#: said of data whatever entry it was: the lines of several workers may be mixed
_IS_DATA = re.compile(r"COPY failed|violates|is violated by|could not create unique index|contains null values|out of shared memory|No space left")
#: whose it is, not what is in it
_IS_OWNER = re.compile(r'^role ".*" does not exist$|^must be (?:member of role|able to SET ROLE) ')
_QUOTED_VALUE = re.compile(r': "(?:[^"]|"")*"$')


@dataclass
class Said:
    """What pg_restore said, line by line. `ignored` and `fatal` are sentences without values of rows."""

    ignored: list[str] = field(default_factory=list)
    fatal: list[str] = field(default_factory=list)
    errors: int = 0
    counted: bool = False
    done: int = 0
    last: str = ""
    _entry: str = ""

    def hear(self, line: str) -> None:
        self.last = line or self.last
        if found := _ENTRY.match(line):
            self._entry = found[1]
        elif found := _ERROR.match(line):
            self._error(found[1])
        elif _COUNTED.match(line):
            self.counted = True
        elif _DONE.match(line):
            self.done += 1

    def end(self, code: int, rest: str) -> None:
        """It ended. At its end it counts errors (its workers' more than once); without that line, it did not come to its end."""
        self.hear(rest)
        if code != 0 and not (self.errors and self.counted):
            self.fatal.append(f"pg_restore ended with {code}: {self.last or 'it said nothing'}")

    def _error(self, text: str) -> None:
        self.errors += 1
        text = _QUOTED_VALUE.sub("", text.removeprefix("ERROR:").strip()).replace("ERROR:  ", "")
        holds = self._entry.startswith(_HOLDS_DATA) and not self._known() and not _IS_OWNER.search(text)
        kept = self.fatal if holds or not self._entry or _IS_DATA.search(text) else self.ignored
        if len(kept) < _AT_MOST:
            kept.append(f"{_thing(self._entry)}: {text}" if self._entry else text)

    def _known(self) -> bool:
        """The schema that every database has already."""
        return bool(re.match(r"SCHEMA (?:- )?public ", self._entry))


def _thing(entry: str) -> str:
    """'FK CONSTRAINT public orders orders_fk app' without the owner at its end."""
    return entry.rsplit(" ", 1)[0].replace(" - ", " ")


def lines(rest: bytes, data: bytes) -> tuple[bytes, Iterator[str]]:
    """Whole lines of a stream, and what is left over."""
    *whole, rest = (rest + data).split(b"\n")
    return rest[-100_000:], (line.decode(errors="replace") for line in whole)
