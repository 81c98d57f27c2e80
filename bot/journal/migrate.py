"""The bot's own tables, brought to the newest revision at start, under a lock: replicas start together."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import pool

from bot.errors import JournalDown

_LOCK = 0x0B0C0A7  # any number that is ours alone in the journal's database


def migrate(url: str) -> None:
    """Bring the journal at `url` (postgresql://) to head. Blocking. Raises JournalDown."""
    engine = sa.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1), poolclass=pool.NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("select pg_advisory_lock(:key)"), {"key": _LOCK})
            connection.execute(sa.text("create schema if not exists backout"))
            connection.commit()
            config = Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    except sa.exc.OperationalError as error:
        raise JournalDown("the journal's database can't be reached; check BACKOUT_DATABASE_URL") from error
    finally:
        engine.dispose()
