"""A plain .sql dump is a program (databases.md F15): it is read line by line before psql sees it, and psql gets it with its own commands locked.

Nothing here trusts this reading alone: psql's \\restrict and a role that may do no harm elsewhere stand behind it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from bot.errors import StepFailed

_LONGEST = 64 << 20  # bytes of a line outside of rows
_END = b"\n\\.\n"
_COPY = re.compile(rb"COPY (\S.*?)(?: \((.*)\))? FROM stdin(?: .*)?;")
_RESTRICT = re.compile(rb"\\restrict ([A-Za-z0-9]{1,128})")
_FACTS = re.compile(
    rb"-- Dumped from database version (?P<postgres>\d[\w.]*)|CREATE EXTENSION (?:IF NOT EXISTS )?(?P<extension>[^ ;]+)"
    rb"|(?:ALTER .* OWNER TO|GRANT .* TO) (?P<role>[^ ;]+)(?: WITH GRANT OPTION)?;|CREATE (?:UNLOGGED |FOREIGN )?TABLE (?P<table>\S.*?) \("
    rb"|INSERT INTO (?:\S+\.)?alembic_version (?:\(.*\) )?VALUES \('(?P<revision>[^']{1,100})'\);"
)
TRAILER = b"-- PostgreSQL database dump complete"
_NOBODY = {"PUBLIC", "CURRENT_USER", "SESSION_USER", "CURRENT_ROLE"}


class Scan:
    """Reads a plain dump as it streams by. Memory stays small however long the rows are. Raises StepFailed for what no backup has in it."""

    def __init__(self) -> None:
        self.postgres = ""
        self.revision = ""
        self.tables: list[str] = []
        self.roles: set[str] = set()
        self.extensions: set[str] = set()
        self._rest = b""
        self._line = 0
        self._rows = False
        self._versions = False
        self._key: bytes | None = None
        self._complete = False

    def feed(self, block: bytes) -> bytes:
        """What psql may have of it: all but the dump's own \\restrict pair."""
        data, at, out = self._rest + block, 0, list[bytes]()
        while True:
            end = data.find(_END, at) if self._rows else data.find(b"\n", at)
            if end < 0:
                break
            if self._rows:
                if self._versions:
                    self.revision = data[at:end].strip().decode(errors="replace")[:100]
                self._line += data.count(b"\n", at, end) + 1
                self._rows, self._versions = False, False
                out.append(data[at : end + len(_END)])
                at = end + len(_END)
                continue
            self._line += 1
            line = data[at:end]
            if self._keeps(line):
                out.append(line if self._rows else line + b"\n")
            at = end if self._rows else end + 1  # the end of rows begins with a line's end
        kept = len(_END) - 1 if self._rows and not self._versions else len(data)
        until = max(at, len(data) - kept)
        out.append(data[at:until])
        self._line += data.count(b"\n", at, until)
        self._rest = data[until:]
        if len(self._rest) > _LONGEST:
            raise StepFailed(f"Line {self._line + 1} has more than {_LONGEST >> 20} MB.")
        return b"".join(out)

    def end(self) -> bytes:
        """Raises StepFailed when it is torn."""
        last = b"" if self._rows else self.feed(b"\n")
        if self._rows:
            raise StepFailed(f"It is torn: it ends in the middle of a table's rows, at line {self._line}.")
        if not self._complete:
            raise StepFailed(f"It is torn: after {self._line} lines it ends without the line '{TRAILER[3:].decode()}'.")
        return last

    def _keeps(self, line: bytes) -> bool:
        """Outside of rows: is this line for psql?"""
        if line.startswith(b"\\"):
            return self._command(line)
        if found := _COPY.fullmatch(line):
            self._rows = True
            self._versions = found[2] == b"version_num"
        elif line == b"-- PostgreSQL database cluster dump":
            raise StepFailed("It is of a whole server (pg_dumpall), with its roles. Make one of the database alone, with pg_dump.")
        elif line == TRAILER:
            self._complete = True
            return True
        elif line.strip() and not line.startswith(b"--"):
            self._complete = False
        if found := _FACTS.match(line):
            self._learn(found)
        return True

    def _command(self, line: bytes) -> bool:
        found = _RESTRICT.fullmatch(line)
        if found and self._key is None and not self._complete:
            self._key = found[1]
            return False
        if self._key is not None and self._complete and line == b"\\unrestrict " + self._key:
            return False
        word = line.split(None, 1)[0][:20].decode(errors="replace")
        if word in ("\\connect", "\\c"):
            raise StepFailed(f"Line {self._line} leads into another database ({word}). Make the dump without --create.")
        raise StepFailed(f"Line {self._line} is a command for psql ({word}), which can run programs. A backup has none.")

    def _learn(self, found: re.Match[bytes]) -> None:
        said = {key: value.decode(errors="replace") for key, value in found.groupdict().items() if value}
        self.postgres = self.postgres or said.get("postgres", "")
        self.revision = said.get("revision", self.revision)
        if "table" in said and len(self.tables) < 100_000:
            self.tables.append(said["table"])
        if "extension" in said:
            self.extensions.add(said["extension"].strip('"'))
        if said.get("role", "PUBLIC") not in _NOBODY:
            self.roles.add(said["role"].strip('"'))


async def scanned(blocks: AsyncIterator[bytes]) -> Scan:
    """Raises StepFailed, with the reason why it may not be used."""
    scan = Scan()
    async for block in blocks:
        await asyncio.to_thread(scan.feed, block)
    scan.end()
    return scan


def restriction(key: str) -> bytes:
    """Locks psql's own commands until somebody names the key."""
    return f"\\restrict {key}\n".encode()
