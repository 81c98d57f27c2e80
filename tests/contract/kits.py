"""The same history in the form of every migration tool, and a database that stands at its newest revision."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from bot.ports import Database
from bot.runners.local import LocalRunner
from bot.running import MigrationTool
from bot.settings import inherited
from bot.tools import TOOLS
from bot.tools.prisma_rows import Rows
from tests.contract import projects


@dataclass(frozen=True)
class Change:
    """One migration: its statements, forward and back. `outside` are run back after those of `down`, each by itself."""

    name: str
    up: tuple[str, ...]
    down: tuple[str, ...]
    outside: tuple[str, ...] = ()


#: by number; what projects.SCRIPTS does, in SQL, so that projects.stands() tells where a database is
HISTORY: Mapping[int, Change] = {
    1: Change("create orders", ("CREATE TABLE orders (id int PRIMARY KEY, name text)",), ("DROP TABLE orders",)),
    2: Change("add note", ("ALTER TABLE orders ADD COLUMN note text",), ("ALTER TABLE orders DROP COLUMN note",)),
    3: Change("index", ("CREATE INDEX ix_name ON orders (name)",), ("DROP INDEX ix_name",)),
    4: Change("customers", ("CREATE TABLE customers (id int PRIMARY KEY)",), ("DROP TABLE customers",)),
    5: Change("add scoring fields", ("ALTER TABLE orders ADD COLUMN score int",), ("ALTER TABLE orders DROP COLUMN score",)),
}


def back(*statements: str, outside: tuple[str, ...] = (), number: int = 5) -> Mapping[int, Change]:
    """The history with another way back of one migration."""
    return {**HISTORY, number: replace(HISTORY[number], down=statements, outside=outside)}


class Kit(Protocol):
    """How one tool's projects are made."""

    kind: str
    #: what Backout itself runs the SQL of is told with the server's notices
    hears_notices: bool

    def revision(self, number: int) -> str: ...
    def write(self, directory: Path, history: Mapping[int, Change]) -> None: ...
    def file(self, directory: Path, number: int) -> Path:
        """The script whose change must be noticed."""

    def seeds(self, number: int) -> tuple[str, ...]:
        """The version table as the tool leaves it at that revision."""

    def versions(self) -> str: ...
    def settings(self, directory: Path) -> dict[str, Any]: ...


class AlembicKit:
    kind = "alembic"
    hears_notices = False

    def revision(self, number: int) -> str:
        return f"{number:04}"

    def write(self, directory: Path, history: Mapping[int, Change]) -> None:
        scripts = {
            self.revision(number): projects.Script(
                self.revision(number - 1) if number > 1 else None, one.name, self._body(one.down, one.outside), upgrade=self._body(one.up)
            )
            for number, one in history.items()
        }
        projects.make(directory, projects.by_environment(), scripts=scripts)

    def _body(self, statements: tuple[str, ...], outside: tuple[str, ...] = ()) -> str:
        inner = [f"op.get_bind().exec_driver_sql({one!r})" for one in statements]
        alone = textwrap.indent("\n".join(f"op.execute({one!r})" for one in outside), "    ")
        return "\n".join([*inner, *([f"with op.get_context().autocommit_block():\n{alone}"] if outside else [])]) or "pass"

    def file(self, directory: Path, number: int) -> Path:
        return next((directory / "migrations" / "versions").glob(f"{self.revision(number)}_*.py"))

    def seeds(self, number: int) -> tuple[str, ...]:
        rows = (f"INSERT INTO alembic_version VALUES ('{self.revision(number)}')",) if number else ()
        return ("CREATE TABLE alembic_version (version_num varchar(32) PRIMARY KEY)", *rows)

    def versions(self) -> str:
        return "alembic_version"

    def settings(self, directory: Path) -> dict[str, Any]:
        import sys

        return {"directory": directory, "python": sys.executable}


class SqlKit:
    kind = "sql"
    hears_notices = True

    def revision(self, number: int) -> str:
        return f"{number:03}"

    def write(self, directory: Path, history: Mapping[int, Change]) -> None:
        directory.mkdir(parents=True)
        for number, one in history.items():
            stem = f"{self.revision(number)}_{one.name.replace(' ', '_')}"
            (directory / f"{stem}.sql").write_text(script(one.up))
            (directory / f"{stem}.rollback.sql").write_text(script((*one.down, *one.outside)))

    def file(self, directory: Path, number: int) -> Path:
        return next(directory.glob(f"{self.revision(number)}_*.rollback.sql"))

    def seeds(self, number: int) -> tuple[str, ...]:
        rows = (f"INSERT INTO schema_migrations (version) VALUES ('{self.revision(one)}')" for one in range(1, number + 1))
        return ("CREATE TABLE schema_migrations (version text PRIMARY KEY, at timestamptz DEFAULT now())", *rows)

    def versions(self) -> str:
        return "schema_migrations"

    def settings(self, directory: Path) -> dict[str, Any]:
        return {"directory": directory}


class PrismaKit:
    kind = "prisma"
    hears_notices = True

    def revision(self, number: int) -> str:
        return f"2026110{number}000000_{HISTORY[number].name.replace(' ', '_')}"

    def write(self, directory: Path, history: Mapping[int, Change]) -> None:
        for number, one in history.items():
            folder = directory / "prisma" / "migrations" / self.revision(number)
            folder.mkdir(parents=True)
            (folder / "migration.sql").write_text(script(one.up))
            (folder / "down.sql").write_text(script((*one.down, *one.outside)))

    def file(self, directory: Path, number: int) -> Path:
        return directory / "prisma" / "migrations" / self.revision(number) / "down.sql"

    def seeds(self, number: int) -> tuple[str, ...]:
        rows = Rows("public")
        return tuple(text for one in range(1, number + 1) for text in rows.applied(self.revision(one), script(HISTORY[one].up)))

    def versions(self) -> str:
        return "_prisma_migrations"

    def settings(self, directory: Path) -> dict[str, Any]:
        return {"directory": directory}


def script(statements: tuple[str, ...]) -> str:
    return "-- made for a test; nothing here is special\n" + "".join(f"{one};\n" for one in statements)


KITS: dict[str, Kit] = {"alembic": AlembicKit(), "prisma": PrismaKit(), "sql": SqlKit()}


def tool(kit: Kit, place: Path, database: Database, extra: Mapping[str, str], **settings: Any) -> MigrationTool:
    """As bot.targets makes it."""
    made = TOOLS[kit.kind]
    given = made.Settings(**{**kit.settings(place), **settings})
    return made(given, LocalRunner(LocalRunner.Settings()), database, inherited=inherited(), extra=extra)
