"""What is known about a rollback before and after it ran: loss, rehearsal, snapshots, copies. Frozen, and everything in it is JSON."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import re
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Noun(BaseModel):
    """A frozen value that survives the journal."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def digest_of(value: Any) -> str:
    """sha256, hex, of canonical JSON: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def size(count: int) -> str:
    """Bytes for people: 512 B, 1.4 MB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def spelled(*names: str) -> str:
    """As the catalog spells a name: quoted where SQL would read it otherwise (keywords aside)."""
    return ".".join(name if re.fullmatch(r"[a-z_][a-z0-9_$]*", name) else '"' + name.replace('"', '""') + '"' for name in names)


class LossClass(StrEnum):
    """The plan's."""

    NONE = "none"
    MEDIUM = "medium"
    HIGH = "high"


LossKind = Literal[
    "table", "column", "rows", "values", "enum", "type", "policy", "row security", "unique", "foreign key", "index", "constraint", "unreadable"
]


class Loss(Noun):
    """One thing that the downgrade destroys.

    `rows` are rows that are gone, `values` values that are changed or don't fit any more, `enum` a label that is in use.
    Names are quoted as in SQL: 'public.orders', 'public.orders.score', 'public.mood.happy'. Found by reading scripts, a name is what the script says.
    """

    kind: LossKind
    name: str
    revision: str = ""
    #: False where a script can't be read
    certain: bool = True
    #: rows of a table or gone from it; values of a column that are not null, or that changed. None: not counted
    count: int | None = None
    #: of a column's values, those that differ from its default
    written: int | None = None
    #: rows that the table has
    of: int | None = None
    bytes: int | None = None
    #: the newest timestamp among the rows concerned, as text
    newest: str | None = None
    #: up to three primary keys, e.g. 'id=17'; never values
    keys: tuple[str, ...] = ()
    #: what else is to be said, e.g. why it could not be counted
    why: str = ""

    @property
    def table(self) -> str:
        """The table that it is, or is taken from; empty for what is of no table."""
        if self.kind in ("table", "rows"):
            return self.name
        return self.name.rpartition(".")[0] if self.kind in ("column", "values") else ""

    def thing(self) -> tuple[str, str]:
        """What people approve: the object and what happens to it, never how many."""
        return self.kind, self.name


class Hypertable(Noun):
    """TimescaleDB's, in words: how it is cut, compressed, kept; how many rows. `broken`: chunks that lack what it has, and why."""

    said: tuple[str, str, str]
    chunks: int
    rows: str
    broken: tuple[str, ...] = ()


class Snapshot(Noun):
    """The catalog at one instant: object name -> definition.

    E.g. 'column public.orders.score' -> 'integer', 'index public.ix' -> 'CREATE INDEX ... [valid]'.

    `counts` are exact rows by 'schema.table'; a table that is not in it was not counted and is named in `uncounted` with the reason.
    """

    objects: dict[str, str]
    counts: dict[str, int] = Field(default_factory=dict)
    uncounted: dict[str, str] = Field(default_factory=dict)
    hypertables: dict[str, Hypertable] = Field(default_factory=dict)

    def fingerprint(self) -> str:
        return digest_of(self.objects)


class BackupFile(Noun):
    """A copy of a target: a file in a store, or (format 'clone') a database beside it, whose `sha256` is empty and whose `oid` counts.

    `format` is custom, plain, tar, directory or directory tar; `foreign` is what Backout did not make: a program by somebody else (databases.md F15).
    `adopted` is what Backout made of that: its code is still theirs. The `sha256` of a directory is that of its files' names and checksums.
    """

    name: str
    path: str
    sha256: str
    size: int
    format: str = "custom"
    objects: int = 0
    oid: int | None = None
    foreign: bool = False
    adopted: bool = False

    @property
    def theirs(self) -> bool:
        """Code in it is somebody else's, and runs by the application's role only."""
        return self.foreign or self.adopted


class Stored(Noun):
    """What lies in a store. `name` has at most one folder in it; `version` is another one whenever the bytes were written anew."""

    name: str
    size: int
    made: dt.datetime
    version: str


class Found(Noun):
    """A backup that lies in a store and was recognised by its content. `file.sha256` is empty until all of it was read.

    `refused` says why it can't be used; `postgres` is the version of the server that it was made of, as text; `tables` are those with rows in it.
    """

    file: BackupFile
    made: dt.datetime
    postgres: str = ""
    database: str = ""
    revision: str = ""
    tables: tuple[str, ...] = ()
    #: what it needs where it is restored
    roles: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    refused: str = ""


class Duty(Noun):
    """How a scheduled backup or a drill went last. `told`: the channel knows, or need not."""

    kind: Literal["backup", "drill"]
    at: dt.datetime
    ok: bool
    says: str
    told: bool = True


class Listed(Noun):
    """A backup in the list, whoever made it. `proven`: when it was last restored whole; `keep_until` None: Backout never removes it.

    `file` is None for what could not be looked at; then `refused` says why.
    """

    name: str
    file: BackupFile | None = None
    made: dt.datetime | None = None
    revision: str = ""
    run: str = ""
    keep_until: dt.datetime | None = None
    proven: dt.datetime | None = None
    postgres: str = ""
    database: str = ""
    tables: int | None = None
    #: why it can't be used
    refused: str = ""


class Publication(Noun):
    """`statements` make it again, owner and comment too."""

    name: str
    statements: tuple[str, ...]


class Bounds(Noun):
    """What a copy would cost the server (databases.md F3). Bytes and counts; None: this role can't know."""

    size: int
    relations: int
    #: locks that one transaction can take before it takes those of others
    lock_slots: int
    free_connections: int
    #: seconds that the oldest transaction has been open
    oldest_transaction: float = 0.0
    #: replication slots without a consumer, and bytes of WAL that the tightest one can still wait for
    idle_slots: tuple[str, ...] = ()
    safe_wal: int | None = None
    standbys: int = 0
    lag: int | None = None
    extensions: tuple[str, ...] = ()


class Sampled(Noun):
    """Rows that stand for a database: how many, of how many tables, and what is wrong with them, in sentences."""

    rows: int
    tables: int
    said: tuple[str, ...] = ()


class Ran(Noun):
    """A statement as it ran on the copy. `ms` None: it did not end. `lock` is the strongest on `table`; `held` ms from then to the commit."""

    sql: str
    ms: float | None = None
    rows: int | None = None
    revision: str | None = None
    lock: str | None = None
    table: str | None = None
    held: float | None = None


class Locked(Noun):
    """A table that the downgrade locks: the strongest mode, for how many ms on the copy, and how big it is in production."""

    table: str
    mode: str
    held: float | None = None
    bytes: int | None = None
    rows: int | None = None


class Rehearsal(Noun):
    """What the plan did to a copy of the database: the evidence."""

    #: False: it was not rehearsed, and `why` says why not
    done: bool
    why: str = ""
    #: where, in words: 'a throwaway server, PostgreSQL 18'
    server: str = ""
    #: what makes it less than a proof, in sentences
    partial: tuple[str, ...] = ()
    size: int | None = None
    #: so many rows stood for the database; None: all of it was there
    sampled: int | None = None
    #: by step: back_up, restore, downgrade, upgrade
    seconds: dict[str, float] = Field(default_factory=dict)
    statements: tuple[Ran, ...] = ()
    statements_total: int = 0
    #: over all statements in order, literals replaced
    statements_sha256: str = ""
    one_transaction: bool = False
    locks: tuple[Locked, ...] = ()
    loss: tuple[Loss, ...] = ()
    #: the schema's change against the change between two databases built from nothing
    expected: Literal["same", "differs", "unverifiable", "not asked"] = "not asked"
    findings: tuple[str, ...] = ()
    #: rows by table, of a copy whose original will not be there to be compared with
    rows: dict[str, int] = Field(default_factory=dict)
    #: an instant's: the revision it was found at
    stands: str = ""
    #: up again to where it was
    forward: Literal["works", "differs", "fails", "not tried"] = "not tried"
    forward_says: str = ""
    #: reapply: what putting the archive back came to, in sentences
    put_back: tuple[str, ...] = ()
    backup: BackupFile | None = None
    #: production's schema as it was when the copy was made: object -> sha256 of its definition, only of what is lost
    concerns: dict[str, str] = Field(default_factory=dict)

    def covered(self) -> dict[str, Any]:
        """What of it can be equal twice, and so belongs to the digest (databases.md F6): no times, no counts."""
        return {
            "done": self.done,
            "loss": sorted(loss.thing() for loss in self.loss),
            "statements": self.statements_sha256,
            "one_transaction": self.one_transaction,
            "expected": self.expected,
            "findings": self.findings,
            "forward": self.forward,
            **({"sampled": True} if self.sampled is not None else {}),
        }


class Part(Noun):
    """One table's rows in an archive. `columns` are archived, `key` is the primary key's; `what` is why."""

    table: str
    what: Literal["table", "column", "rows", "values"]
    key: tuple[str, ...]
    columns: tuple[str, ...]
    #: format_type of each column, so that a changed schema is seen
    types: tuple[str, ...]
    rows: int
    #: of the COPY text, uncompressed
    bytes: int
    sha256: str
    member: str
    #: what a re-made table has to get back: owner, grants, publications, replica identity, sequences. SQL-quoted names
    table_facts: dict[str, Any] = Field(default_factory=dict)


class Touched(Noun):
    """Of one table, the keys of rows that are gone, and of rows of which a value changed, as the SQL `expression` writes them on both sides.

    None: more than are kept one by one.
    """

    expression: str
    gone: tuple[str, ...] | None = ()
    changed: tuple[str, ...] | None = ()


class Archive(Noun):
    """What a downgrade destroyed, in a store: one file, a manifest and parts. `upper` is the revision at which it was there."""

    run: str
    target: str
    lower: str
    upper: str
    file: BackupFile
    parts: tuple[Part, ...] = ()
    #: losses that could not be archived, with the reason
    left_out: dict[str, str] = Field(default_factory=dict)


class Conflict(Noun):
    """A value of an archive that was not put back, and why. `key` as 'id=17'."""

    table: str
    key: str
    why: str


class PutBack(Noun):
    """What putting an archive back came to."""

    rows: int
    values: int
    unchanged: int = 0
    conflicts: tuple[Conflict, ...] = ()
    conflicts_total: int = 0
    #: user triggers that fired, sequences set, grants and publications given back: sentences
    notes: tuple[str, ...] = ()
