"""Where a database is, who is in it, and how we know that it is the one that is meant."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from pydantic import Field

from bot.evidence import Noun


class Identity(Noun):
    """Which database this is. `started` is the postmaster's start, `timeline` changes on failover."""

    system: str
    timeline: int
    oid: int
    database: str
    version: int
    started: str
    in_recovery: bool = False

    def same_database(self, other: Identity) -> bool:
        """Restarts aside: the same bytes on the same timeline (databases.md F14)."""
        mine = (self.system, self.timeline, self.oid, self.database, self.in_recovery)
        return mine == (other.system, other.timeline, other.oid, other.database, other.in_recovery)


class Connect(Noun):
    """Where a database is and who enters. Never stored, never shown."""

    host: str
    port: int
    user: str
    password: str = Field(default="", repr=False)
    database: str
    sslmode: str | None = None

    def url(self, scheme: str = "postgresql") -> str:
        secret = f":{quote(self.password, safe='')}" if self.password else ""
        tail = f"?sslmode={self.sslmode}" if self.sslmode else ""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{quote(self.user, safe='')}{secret}@{host}:{self.port}/{quote(self.database, safe='')}{tail}"


#: by which rights whoever asks could reach past this database, also by becoming somebody else: 'SUPERUSER, CREATEROLE', empty for none
REACH = """
SELECT concat_ws(', ', CASE WHEN bool_or(r.rolsuper) THEN 'SUPERUSER' END, CASE WHEN bool_or(r.rolcreaterole) THEN 'CREATEROLE' END,
  CASE WHEN bool_or(r.rolreplication) THEN 'REPLICATION' END, string_agg(r.rolname, ', ' ORDER BY r.rolname)
    FILTER (WHERE r.rolname IN ('pg_execute_server_program', 'pg_read_server_files', 'pg_write_server_files')))
FROM pg_catalog.pg_roles r WHERE pg_catalog.pg_has_role(session_user, r.oid, 'MEMBER')"""


class Session(Noun):
    """A session on the target's server. `age` in seconds since its transaction began, None when the role may not see it."""

    pid: int
    user: str | None = None
    application: str = ""
    state: str | None = None
    age: float | None = None
    query: str = ""


class Answer(Noun):
    """Rows of a verification query; values are JSON (dates and numerics as text)."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False


class Elsewhere(Noun):
    """A database of which somebody says that it is ours as it was, in its server's own words."""

    version: int
    in_recovery: bool
    #: its system identifier, which a copy of the files keeps; empty where this role may not ask
    system: str
    #: a lock that is held in the database meant is seen there: it is that very database
    same: bool
    #: the session that asked was under TLS
    encrypted: bool = False
    #: ISO 8601, of the server's last transaction; None where it keeps no times of commits
    last: str | None = None


class Right(Noun):
    """One thing that Backout's role has to be able to do. `missing`: the SQL that would give it, or why not, in a sentence."""

    name: str
    works: bool
    missing: str = ""
