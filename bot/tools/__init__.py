"""How a schema goes back: one file and one line for each migration tool."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from bot.ports import Database
from bot.running import MigrationTool, Runner
from bot.tools.alembic import AlembicTool
from bot.tools.prisma import PrismaTool
from bot.tools.sql import SqlTool


class ToolClass(Protocol):
    """A migration tool as it is registered. `Settings` is a pydantic model with `placed(base)`."""

    kind: str
    Settings: Any

    def __call__(
        self, settings: Any, runner: Runner, database: Database, *, inherited: Mapping[str, str], extra: Mapping[str, str]
    ) -> MigrationTool: ...


TOOLS: dict[str, ToolClass] = {"alembic": AlembicTool, "prisma": PrismaTool, "sql": SqlTool}
