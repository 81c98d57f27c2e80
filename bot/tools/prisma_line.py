"""Prisma's migrations as one line: what is applied, what failed half-way, what is to come; and what of it Prisma itself would not say. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bot.errors import Refusal
from bot.sqltext import BrokenScript, outside
from bot.tools.prisma_rows import Row, checksum, reversed_by
from bot.tools.sql_history import Migration, Way

_REMARKS = 10


@dataclass(frozen=True)
class Line:
    """Oldest first; `directories` are all that lie there, those of reverses, too."""

    migrations: tuple[Migration, ...]
    directories: frozenset[str]
    remarks: tuple[str, ...]


def drawn(files: Mapping[str, str], folder: str, rows: Sequence[Row]) -> Line:
    """`files` by path, `rows` in the order in which they began. Applied ones by name, then failed ones, then what is to come.

    Raises Refusal(broken_history) when there is no migration.
    """
    there = _directories(files, folder)
    if not there:
        raise Refusal("broken_history", f"There is no migration.sql in {folder}.", "Set tool.directory and tool.migrations to where they are.")
    applied = {row.name for row in rows if row.applied}
    failed = {row.name: row for row in rows if row.failed}
    reverted = {name for row in rows if row.applied and (name := reversed_by(row.name))}
    done = sorted(one for one in applied if one not in reverted and not reversed_by(one) and one not in failed)
    newest = done[-1] if done else ""
    coming = sorted(one for one in there if one not in done and one not in failed and not reversed_by(one))
    line = [_migration(one, there.get(one), folder) for one in done if one in there or one != newest]
    line += [_half_way(_migration(one, there.get(one), folder), failed[one]) for one in sorted(failed)]
    line += [_migration(one, there[one], folder) for one in coming]
    taken_back = {row.name for row in rows if row.rolled_back} | reverted
    return Line(tuple(line), frozenset(there), _remarks(rows, there, done, coming, taken_back))


def migrations(files: Mapping[str, str], folder: str) -> dict[str, str]:
    """migration.sql by the name of its directory, whatever it is."""
    return {name: scripts[0] for name, scripts in _directories(files, folder).items()}


def _directories(files: Mapping[str, str], folder: str) -> dict[str, tuple[str, str | None]]:
    """By name: migration.sql, and down.sql where there is one."""
    found: dict[str, tuple[str, str | None]] = {}
    for path, text in files.items():
        matched = re.fullmatch(re.escape(folder) + r"/([^/]+)/migration\.sql", path)
        if matched:
            found[matched[1]] = text, files.get(f"{folder}/{matched[1]}/down.sql")
    return found


def _migration(name: str, scripts: tuple[str, str | None] | None, folder: str) -> Migration:
    stamp, title = re.fullmatch(r"(\d{14})?_?(.*)", name, re.DOTALL).groups()  # type: ignore[union-attr]  # it matches any text
    date = f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[8:10]}:{stamp[10:12]}:{stamp[12:]}" if stamp else None
    path = f"{folder}/{name}"
    if scripts is None:
        return Migration(name, title.replace("_", " "), None, None, why=f"its directory {path} is gone from the code", date=date)
    up, down = Way(f"{path}/migration.sql", scripts[0]), scripts[1]
    if down is not None:
        return Migration(name, title.replace("_", " "), up, Way(f"{path}/down.sql", down), way="by down.sql", date=date)
    if _is_empty(up):
        return Migration(name, title.replace("_", " "), up, Way(path, ""), way="an empty migration", nothing_there=True, date=date)
    return Migration(name, title.replace("_", " "), up, None, why=f"there is no down.sql beside {up.path}", date=date)


def _is_empty(way: Way) -> bool:
    try:
        return not way.statements
    except BrokenScript:
        return False


def _half_way(one: Migration, row: Row) -> Migration:
    """A script that is one implicit transaction left nothing when it failed; else nobody can say what it left."""
    said = " ".join(row.logs.split())[:150] or "Prisma logged nothing, so its program was ended"
    try:
        whole = one.up is not None and not any(outside(statement) for statement in one.up.statements)
    except BrokenScript:
        whole = False
    if whole and one.up is not None:
        return Migration(
            one.revision, one.name, one.up, Way(one.up.path, ""), way="failed half-way: nothing of it is there, its row is marked rolled back",
            nothing_there=True, date=one.date,
        )  # fmt: skip
    return Migration(
        one.revision, one.name, one.up, None, date=one.date,
        why=f"it failed half-way ({said}) and commits in its middle, so that nobody can say what of it is there:"
        f" put the schema right by hand, then `prisma migrate resolve --rolled-back {one.revision}`",
    )  # fmt: skip


def _remarks(
    rows: Sequence[Row], there: Mapping[str, tuple[str, str | None]], done: Sequence[str], coming: Sequence[str], taken_back: set[str]
) -> tuple[str, ...]:
    """What Prisma's own commands pass over in silence, each with what to do."""
    said: list[str] = []
    for row in rows:
        if row.failed:
            logs = " ".join(row.logs.split())[:150]
            said.append(f"{row.name} failed half-way{f': {logs}' if logs else ''}; Prisma deploys nothing until it is rolled back or resolved")
        elif row.applied and row.name in there and checksum(there[row.name][0]) != row.checksum:
            said.append(f"{row.name} was edited after it was applied: look in version control what really ran before you trust its down.sql")
        elif row.applied and row.name not in there:
            said.append(f"{row.name} is applied, and its directory is gone from the code: deploy the code that has it")
    for one in coming:
        if one in taken_back:
            said.append(f"{one} was taken back and its directory is still there: the next `prisma migrate deploy` applies it again")
        elif done and one < done[-1]:
            said.append(f"{one} was never applied, though the later {done[-1]} was: the next `prisma migrate deploy` applies it")
    return tuple(dict.fromkeys(said))[:_REMARKS]
