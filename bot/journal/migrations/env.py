"""Alembic's environment for the bot's own tables. The connection is handed in; there is no offline mode."""

from __future__ import annotations

from alembic import context

connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table="version", version_table_schema="backout")
with context.begin_transaction():
    context.run_migrations()
