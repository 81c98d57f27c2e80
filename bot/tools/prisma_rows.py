"""`_prisma_migrations`: what Prisma's own commands read and write there, and what of it says where the database stands.

Columns, checksums and what makes a row applied, failed or rolled back: seen with Prisma 7.10 and 6.19 (tests/platforms/test_prisma.py).
A migration that was reversed by a later one, `STAMP_reverse_of_NAME`, counts as not applied, and neither does the reverse itself.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bot.tools.sql_history import identifier, literal

TABLE = "_prisma_migrations"
LOCK = 72707369  #: the advisory lock that `prisma migrate` holds while it works
_REVERSE = re.compile(r"[0-9]{14}_reverse_of_(.+)", re.DOTALL)
_IS_REVERSE, _NAME_AT = "'^[0-9]{14}_reverse_of_'", 27  # in SQL: where the name of the reversed one begins, from 1
_LONGEST = 255  # letters of migration_name

_COLUMNS = """ (id varchar(36) PRIMARY KEY NOT NULL, checksum varchar(64) NOT NULL, finished_at timestamptz, migration_name varchar(255) NOT NULL,
 logs text, rolled_back_at timestamptz, started_at timestamptz NOT NULL DEFAULT now(), applied_steps_count integer NOT NULL DEFAULT 0)"""


@dataclass(frozen=True)
class Row:
    """One attempt at applying a migration."""

    name: str
    checksum: str
    finished: bool
    rolled_back: bool
    logs: str

    @property
    def applied(self) -> bool:
        return self.finished and not self.rolled_back

    @property
    def failed(self) -> bool:
        return not self.finished and not self.rolled_back


def reversed_by(name: str) -> str | None:
    """The migration that one of this name reverses."""
    found = _REVERSE.fullmatch(name)
    return found[1] if found else None


def reverse_name(name: str, known: Iterable[str], place: int) -> str | None:
    """A directory that sorts after all that are known; None when it would be too long for the table. `place` counts from 1 within a run."""
    stamps = [one[:14] for one in known if re.match(r"[0-9]{14}", one)]
    made = f"{int(max(stamps, default='20000101000000')) + place:014}_reverse_of_{name}"
    return made if len(made) <= _LONGEST else None


def checksum(script: str) -> str:
    """Of the file's bytes."""
    return hashlib.sha256(script.encode("utf-8", "surrogateescape")).hexdigest()


class Rows:
    """The table of one project, and the statements about it."""

    def __init__(self, schema: str) -> None:
        self.schema = schema
        self._place = identifier(schema, TABLE)

    @property
    def all(self) -> str:
        """One JSON text for each row, in the order in which they began."""
        return (
            "SELECT json_build_object('name', migration_name, 'checksum', checksum, 'finished', finished_at IS NOT NULL,"  # noqa: S608  quoted
            f" 'rolled_back', rolled_back_at IS NOT NULL, 'logs', left(coalesce(logs, ''), 300))::text FROM {self._place} ORDER BY started_at, id"
        )

    @property
    def stands(self) -> str:
        """The newest failed migration, else the newest applied one that was not reversed; by name, as Prisma orders them."""
        reversal = f"NOT r.failed AND r.name ~ {_IS_REVERSE} AND substr(r.name, {_NAME_AT}) = l.name"
        return (
            'WITH l AS (SELECT migration_name::text COLLATE "C" AS name, finished_at IS NULL AS failed'  # noqa: S608  quoted
            f" FROM {self._place} WHERE rolled_back_at IS NULL),"
            f" done AS (SELECT name FROM l WHERE NOT failed AND name !~ {_IS_REVERSE} AND NOT EXISTS (SELECT FROM l AS r WHERE {reversal}))"
            " SELECT name FROM (SELECT coalesce((SELECT max(name) FROM l WHERE failed), (SELECT max(name) FROM done)) AS name) AS newest"
            " WHERE name IS NOT NULL"
        )

    def rolled_back(self, name: str) -> str:
        """As `prisma migrate resolve --rolled-back`, for every row of that name: the next deploy takes it as never applied."""
        return f"UPDATE {self._place} SET rolled_back_at = now() WHERE migration_name = {literal(name)} AND rolled_back_at IS NULL"  # noqa: S608

    def applied(self, name: str, script: str) -> tuple[str, ...]:
        """As `prisma migrate deploy` leaves it; the table is made where it is not there, and a reverse of it counts no more."""
        there = f"SELECT FROM {self._place} WHERE migration_name = {literal(name)} AND rolled_back_at IS NULL"
        return (
            f"CREATE TABLE IF NOT EXISTS {self._place}{_COLUMNS}",
            f"UPDATE {self._place} SET rolled_back_at = now() WHERE rolled_back_at IS NULL AND migration_name ~ {_IS_REVERSE}"  # noqa: S608  quoted
            f" AND substr(migration_name, {_NAME_AT}) = {literal(name)}",
            f"INSERT INTO {self._place} (id, checksum, finished_at, migration_name, logs, rolled_back_at, started_at, applied_steps_count)"
            f" SELECT {literal(str(uuid.uuid4()))}, {literal(checksum(script))}, now(), {literal(name)}, NULL, NULL, now(), 1"
            f" WHERE NOT EXISTS ({there})",
        )


def parsed(rows: Sequence[str]) -> tuple[Row, ...]:
    return tuple(Row(**json.loads(one)) for one in rows)
