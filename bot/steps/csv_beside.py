"""A CSV that others made becomes a database beside: the live schema without rows, and the one table filled."""

from __future__ import annotations

from bot.durable import World
from bot.errors import StepFailed
from bot.evidence import BackupFile
from bot.place import Connect
from bot.ports import Database


def is_csv(file: BackupFile) -> bool:
    return file.format.startswith("csv")


async def fill(world: World, database: Database, into: Connect, version: int, schema: BackupFile) -> int:
    """`database` is empty, and entered by `into`; `schema` is a dump of the live one. How many rows.

    Keys are made when the rows are in, so a key that is there twice is found; a foreign key without its rows fails, which is as it must be.
    Raises StepFailed.
    """
    backup, source, (table,) = world.target.backup, world.plan.source, world.plan.tables_back
    if source is None:
        raise StepFailed("The plan names no CSV. Nothing was executed.")
    await backup.restore_schema(schema, into, version, "pre-data", world)
    await world.progress(f"loading {source.name}")
    rows = await database.load_csv(table, backup.rows(source))
    await backup.restore_schema(schema, into, version, "post-data", world)
    return rows
