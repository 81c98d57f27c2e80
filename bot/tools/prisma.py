"""Prisma, which has no way back of its own: Backout runs the SQL, and leaves `_prisma_migrations` as Prisma's own commands accept it.

The way down of a migration is `down.sql` beside its `migration.sql`; else, where `tool.shadow` names a place to try it, what `prisma migrate diff`
writes. Prisma's programs never get production's address for a command that writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from bot.errors import Refusal
from bot.keeping import Work
from bot.model import CodeSeen, History, Plan
from bot.ports import Database
from bot.running import Runner
from bot.tools import prisma_rows
from bot.tools.bounds import Bounds
from bot.tools.files import read_files
from bot.tools.prisma_compare import Comparer, reading, without_shadow
from bot.tools.prisma_diff import Differ
from bot.tools.prisma_left import left_to_do, seen
from bot.tools.prisma_line import Line, drawn, migrations
from bot.tools.prisma_rows import LOCK, TABLE, Row, Rows
from bot.tools.sql_history import Migration, as_planned, before_anything, between, cut, told, unless_missing
from bot.tools.sql_moving import Mover, Order, Script, Versions
from bot.tools.sql_session import NotThatSession
from bot.tools.watched import Op
from bot.values import Url

_NOTHING: Mapping[str, str] = MappingProxyType({})


class PrismaSettings(Bounds):
    kind: Literal["prisma"] = "prisma"
    directory: Path = Field(description="The project's folder, such as ./web: the one that holds `migrations`.")
    migrations: str = Field("prisma/migrations", description="The folder of the migrations, from there.")
    version_schema: str = Field("public", description="The schema of _prisma_migrations: what ?schema= says in Prisma's URL.")
    history: Literal["back", "forward"] = Field(
        "back", description="back: what is undone counts as never applied. forward: a reverse migration is recorded as applied."
    )

    prisma: tuple[str, ...] = Field(("node_modules/.bin/prisma",), description="How Prisma is called there. It is asked for nothing but a diff.")
    schema_file: str = Field(
        "prisma/schema.prisma", alias="schema", description="Prisma's own schema, a file or a folder, from there: after a rollback it is compared."
    )
    shadow: Url | None = Field(
        None, repr=False, description="An empty database of another server, in which Prisma may try migrations to write a way down that nobody wrote."
    )
    env: dict[str, str] = Field(
        {"DATABASE_URL": "{url}", "SHADOW_DATABASE_URL": "{url}"},
        repr=False,
        description="Variables for Prisma; {url} is the shadow's, and for the comparison the target's, which can only be read.",
    )

    def placed(self, base: Path) -> PrismaSettings:
        """Relative paths begin at `base`."""
        return self.model_copy(update={"directory": (base / self.directory).absolute()})


class PrismaTool:
    """Implements running.MigrationTool. `extra` holds BACKOUT_REHEARSAL=1 on a copy."""

    kind = "prisma"
    Settings = PrismaSettings

    def __init__(
        self, settings: PrismaSettings, runner: Runner, database: Database, *, inherited: Mapping[str, str], extra: Mapping[str, str] = _NOTHING
    ) -> None:
        self.settings, self._runner, self._database = settings, runner, database
        self._env, self._copy = dict(inherited), bool(extra)
        self._rows = Rows(settings.version_schema)

    async def read(self, *, unmarked: bool = False) -> History:
        """Raises Refusal: tool_missing, tool_timeout, broken_history, version_table_missing."""
        with unless_missing(allowed=unmarked) as found:
            found.extend(await self._database.heads(TABLE, self._rows.schema, self._rows.stands))
        line = await self._line(await self._recorded(perhaps=unmarked))
        return History(
            revisions=told(line.migrations), heads=tuple(one.revision for one in line.migrations[-1:]),
            bases=tuple(one.revision for one in line.migrations[:1]), current=tuple(found),
            version_table=TABLE, version_table_schema=self._rows.schema, version_query=self._rows.stands, one_transaction=True,
            remarks=(*line.remarks, self._afterwards()), code_follows=True,
        )  # fmt: skip

    def _afterwards(self) -> str:
        if self.settings.history == "forward":
            return "Afterwards a reverse migration is recorded as applied: commit the file that the run names, under that very name"
        return "Afterwards take the directories of what is undone out of the code: the next `prisma migrate deploy` applies whatever lies there"

    async def prepare(self) -> None:
        """Nothing is started to move a database."""

    async def downgrade(self, to: str, work: Work) -> Mapping[str, Any]:
        """Exactly the plan's revisions, with the planned scripts. Facts as every tool's; with `history: forward` also `files`
        [{path, text}], which the team commits."""
        plan = work.plan
        planned = {undone.revision: undone.sha256 for undone in plan.undone}
        with before_anything():
            recorded = await self._recorded()
            line = await self._line(recorded)
            found = tuple(reversed(between(line.migrations, to, plan.from_)))
            as_planned(found, planned)
            reverses = self._reverses(found, line, recorded) if self.settings.history == "forward" else {}
            scripts = tuple(self._down(one, reverses) for one in found)
        facts = await self._move("downgrade", to, () if plan.from_ == "base" else (plan.from_,), scripts, work)
        if not reverses:
            return facts
        folder = self.settings.migrations
        return {**facts, "files": [{"path": f"{folder}/{name}/migration.sql", "text": text} for name, text in reverses.values()]}

    async def upgrade(self, to: str, work: Work, *, from_: tuple[str, ...], scripts: Mapping[str, str] | None) -> Mapping[str, Any]:
        """From the heads `from_` (none: an empty database) with exactly `scripts`; None: whatever lies there."""
        with before_anything():
            line = await self._line(await self._recorded(perhaps=True), complete=scripts is not None)
            found = between(line.migrations, from_[0] if from_ else "base", to)
            as_planned(found, scripts)
            pieces = tuple(
                Script(one.revision, one.up.path, cut(one.up, one.revision), self._rows.applied(one.revision, one.up.text)) for one in found if one.up
            )
        return await self._move("upgrade", to, from_, pieces, work)

    async def stamp(self, to: str, work: Work) -> Mapping[str, Any]:
        """As `prisma migrate resolve` for each: applied up to there, rolled back above it."""
        with before_anything():
            recorded = await self._recorded(perhaps=True)
            applied = between((await self._line(recorded, complete=False)).migrations, "base", to)
        names = {one.revision for one in applied}
        live = [row for row in recorded if not row.rolled_back]
        above = dict.fromkeys(row.name for row in live if row.failed or row.name not in names)
        marks = [self._rows.rolled_back(name) for name in above]
        marks += [text for one in applied for text in self._rows.applied(one.revision, one.up.text if one.up else "")]
        script = Script(to, TABLE, (), tuple(marks))
        return await self._move("stamp", to, () if work.plan.from_ == "base" else (work.plan.from_,), (script,), work)

    async def code(self, plan: Plan) -> CodeSeen:
        """What the next deploy would do wrong, and schema.prisma beside the database. Raises Refusal, when the code can't be read."""
        settings = self.settings
        texts = await self._texts()
        left = left_to_do((one.revision for one in plan.undone), await self._recorded(), migrations(texts, settings.migrations), settings.migrations)
        url = reading(self._runner.seen(self._database.tool, copy=False), settings.version_schema)
        env = {**self._env, **without_shadow(settings.env, url)}
        comparer = Comparer(self._runner, settings.directory, settings.prisma, env, self._database.tool)
        return seen(left, await comparer.compared(settings.schema_file, settings.read_timeout.total_seconds()), settings.schema_file)

    async def _move(self, op: Op, to: str, from_: tuple[str, ...], scripts: tuple[Script, ...], work: Work) -> Mapping[str, Any]:
        versions = Versions(TABLE, self._rows.schema, self._rows.stands)
        order = Order(op, () if to == "base" else (to,), from_, scripts, versions, lock=(LOCK, "`prisma migrate`"))
        return await Mover(order, self.settings, self._database, work).carry_out()

    def _down(self, one: Migration, reverses: Mapping[str, tuple[str, str]]) -> Script:
        """`reverses`: by revision, the name and text of its reverse migration."""
        back = (self._rows.rolled_back(one.revision),)
        record = self._rows.applied(*reverses[one.revision]) if one.revision in reverses else back
        return Script(one.revision, one.down.path if one.down else "", cut(one.down, one.revision), record)

    @staticmethod
    def _reverses(found: Sequence[Migration], line: Line, recorded: Sequence[Row]) -> dict[str, tuple[str, str]]:
        """Not of one that failed: its row is marked, and there is nothing to reverse."""
        known = {*line.directories, *(row.name for row in recorded)}
        made: dict[str, tuple[str, str]] = {}
        for place, one in enumerate((one for one in found if one.down and not one.nothing_there), 1):
            name = prisma_rows.reverse_name(one.revision, known, place)
            if name is None:
                raise NotThatSession(f"The name {one.revision} is too long for a reverse migration.", "Set tool.history to back.")
            text = f"-- Reverses {one.revision}. Written by Backout, which ran it.\n{one.down.text if one.down else ''}"
            made[one.revision] = name, text
        return made

    # -------------------------------------------------------------- what is there

    async def _recorded(self, *, perhaps: bool = False) -> tuple[Row, ...]:
        """`perhaps`: a database without the table is one where nothing ran. Raises Refusal(version_table_missing)."""
        try:
            return prisma_rows.parsed(await self._database.heads(TABLE, self._rows.schema, self._rows.all))
        except Refusal as refusal:
            if perhaps and refusal.code == "version_table_missing":
                return ()
            raise

    async def _line(self, recorded: Sequence[Row], *, complete: bool = True) -> Line:
        """`complete`: with the ways down that Prisma writes. Raises Refusal."""
        settings = self.settings
        line = drawn(await self._texts(), settings.migrations, recorded)
        if settings.shadow is None or not complete:
            return line
        env = {**self._env, **{name: text.replace("{url}", settings.shadow.url()) for name, text in settings.env.items()}}
        differ = Differ(self._runner, settings.directory, settings.prisma, settings.shadow, self._database, env, copy=self._copy)
        return replace(line, migrations=await differ.completed(line.migrations, settings.migrations, settings.read_timeout.total_seconds()))

    async def _texts(self) -> dict[str, str]:
        """Files of the migrations, by path from the project's folder. Raises Refusal."""
        settings = self.settings
        files = await read_files(
            self._runner, settings.directory, [settings.migrations], env=self._env, within=settings.read_timeout, copy=self._copy
        )
        return {path: data.decode("utf-8", "surrogateescape") for path, data in files.items()}
