"""How a schema goes back: one file and one line for each migration tool."""

from bot.tools.alembic import AlembicTool

TOOLS = {"alembic": AlembicTool}
