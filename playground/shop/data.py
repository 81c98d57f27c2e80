"""The shop's life so far: tens of thousands of rows, the same every time, then the migration that breaks it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import psycopg

#: the shop's Alembic project
DIRECTORY = Path(__file__).resolve().parent


async def fill(url: str) -> None:
    """Make the shop in an empty database, as it stands on the evening of the incident: at 0005, checkout down. A few seconds.

    `url`: postgresql://..., the owner's. Raises RuntimeError with Alembic's words when a migration fails.
    """
    await alembic(url, "upgrade", "0004")
    async with await psycopg.AsyncConnection.connect(libpq(url)) as connection:
        await connection.execute((DIRECTORY / "fill.sql").read_bytes())
    await alembic(url, "upgrade", "0005")


async def alembic(url: str, command: str, revision: str) -> None:
    """`alembic COMMAND REVISION` as a deploy, or a person at a shell, would run it. Raises RuntimeError."""
    env = {**os.environ, "DATABASE_URL": url}  # noqa: TID251  the playground has no bot/settings.py
    argv = (sys.executable, "-m", "alembic", "-c", str(DIRECTORY / "alembic.ini"), command, revision)
    process = await asyncio.create_subprocess_exec(  # noqa: TID251  the playground imports nothing of bot/, so not bot/process.py either
        *argv, env=env, cwd=DIRECTORY, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"alembic {command} {revision} failed:\n{output.decode(errors='replace')[-4000:]}")


def libpq(url: str) -> str:
    """A URL that psycopg understands, of one that names SQLAlchemy's driver."""
    scheme, _, rest = url.partition("://")
    return f"{scheme.partition('+')[0]}://{rest}"
