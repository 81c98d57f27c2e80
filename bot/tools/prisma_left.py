"""What a rollback leaves to do in a Prisma project's code, found by looking at what lies there. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bot.model import CodeSeen
from bot.tools.prisma_compare import Beside
from bot.tools.prisma_rows import Row, checksum, reversed_by
from bot.words import many

_DEPLOY = "the next `prisma migrate deploy`"


def left_to_do(undone: Iterable[str], rows: Sequence[Row], there: Mapping[str, str], folder: str) -> tuple[str, ...]:
    """`there`: migration.sql by the name of its directory. Sentences, in the order of the plan."""
    reverses = {name: row for row in rows if row.applied and (name := reversed_by(row.name))}
    said: list[str] = []
    for name in undone:
        reverse = reverses.get(name)
        if reverse is None:
            if name in there:
                said.append(f"{folder}/{name} is still in the code: {_DEPLOY} applies it again. Take the directory out")
            continue
        file = f"{folder}/{reverse.name}/migration.sql"
        if reverse.name not in there:
            said.append(f"{file} is not in the code yet: commit the file that the run put into its thread, under that very name")
        elif checksum(there[reverse.name]) != reverse.checksum:
            said.append(f"{file} is in the code, but is not what ran: commit the file of the run's thread, to the byte")
        if name not in there:
            said.append(f"{folder}/{name} is gone from the code: it was reversed by a migration of its own, so both directories belong there")
    return tuple(said)


def seen(left: tuple[str, ...], beside: Beside, schema: str) -> CodeSeen:
    said = f"{many(len(left), 'thing')} left to do in the code" if left else "the code has followed the database"
    match beside.same:
        case True:
            compared = f"{schema} says what the database is"
        case False:
            compared = f"{schema} differs from the database"
        case None:
            compared = f"{schema} was not compared with it: {beside.why}"
    return CodeSeen(says=f"{said}; {compared}", left=left, same=beside.same, difference=beside.difference, why=beside.why)
