"""Plain SQL migrations: `004_scores.sql` with `004_scores.rollback.sql` (or `.down.sql`) beside it, in the order of their numbers.

Backout runs them itself. Which have run is read from the version table, as the project's own runner writes it: a row each, or one row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, field_validator

from bot.errors import Refusal
from bot.keeping import Work
from bot.model import CodeSeen, History, Plan
from bot.ports import Database
from bot.running import Runner
from bot.tools.bounds import Bounds
from bot.tools.files import read_files
from bot.tools.sql_history import Migration, Way, as_planned, before_anything, between, cut, identifier, literal, told, unless_missing
from bot.tools.sql_moving import Mover, Order, Script, Versions
from bot.tools.watched import Op

_NOTHING: Mapping[str, str] = MappingProxyType({})
_SCHEMA = "SELECT n.nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass({})"


class SqlSettings(Bounds):
    kind: Literal["sql"] = "sql"
    directory: Path = Field(description="The folder that holds the scripts, such as ./db/migrations.")
    up: tuple[str, ...] = Field(("{version}_{name}.up.sql", "{version}_{name}.sql"), description="How the scripts are called; {version} is digits.")
    down: tuple[str, ...] = Field(
        ("{version}_{name}.rollback.sql", "{version}_{name}.down.sql"), description="How the way back of a script is called, beside it."
    )
    version_table: str = Field("schema_migrations", description="The table that says which scripts have run.")
    version_schema: str = Field("public", description="Its schema.")
    version_column: str = Field("version", description="Its column with the version.")
    stores: str = Field("{version}", description="What that column holds: {version}, {number} (without zeros in front), {name}, {file}.")
    rows: Literal["each", "one"] = Field("each", description="A row for each script that has run, or one row with the newest.")
    columns: dict[str, str] = Field({}, description="Further columns that a new row needs, with {version} {number} {name} {file} {sha256}.")

    @field_validator("up", "down")
    @classmethod
    def _has_its_parts(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in patterns:
            if pattern.count("{version}") != 1 or pattern.count("{name}") > 1:
                raise ValueError(f"{pattern!r} needs {{version}} once, and {{name}} once at most")
        return patterns

    def placed(self, base: Path) -> SqlSettings:
        """Relative paths begin at `base`."""
        return self.model_copy(update={"directory": (base / self.directory).absolute()})


class SqlTool:
    """Implements running.MigrationTool. `extra` holds BACKOUT_REHEARSAL=1 on a copy; the scripts are read, nothing else is started."""

    kind = "sql"
    Settings = SqlSettings

    def __init__(
        self, settings: SqlSettings, runner: Runner, database: Database, *, inherited: Mapping[str, str], extra: Mapping[str, str] = _NOTHING
    ) -> None:
        self.settings, self._runner, self._database = settings, runner, database
        self._env, self._copy = dict(inherited), bool(extra)

    async def read(self, *, unmarked: bool = False) -> History:
        """Raises Refusal: tool_missing, tool_timeout, broken_history, version_table_missing. A gap in the rows is no error where `unmarked`."""
        line = await self._line()
        settings = self.settings
        with unless_missing(allowed=unmarked) as found:
            found.extend(await self._database.heads(settings.version_table, settings.version_schema, self._query))
        if settings.rows == "each" and not unmarked:
            await self._no_gaps(line)
        return History(
            revisions=told(line), heads=tuple(one.revision for one in line[-1:]), bases=tuple(one.revision for one in line[:1]),
            current=tuple(found),
            version_table=settings.version_table, version_table_schema=settings.version_schema, version_query=self._query, one_transaction=True,
        )  # fmt: skip

    async def prepare(self) -> None:
        """Nothing is started to move a database."""

    async def downgrade(self, to: str, work: Work) -> Mapping[str, Any]:
        """Exactly the plan's revisions, with the planned scripts. Facts and errors: running.MigrationTool, bot.tools.trace."""
        plan = work.plan
        planned = {undone.revision: undone.sha256 for undone in plan.undone}
        return await self._move("downgrade", to, () if plan.from_ == "base" else (plan.from_,), planned, work)

    async def upgrade(self, to: str, work: Work, *, from_: tuple[str, ...], scripts: Mapping[str, str] | None) -> Mapping[str, Any]:
        return await self._move("upgrade", to, from_, scripts, work)

    async def stamp(self, to: str, work: Work) -> Mapping[str, Any]:
        """The rows of the version table, as if everything up to there had run."""
        with before_anything():
            line = await self._line()
            applied = between(line, "base", to)
        made = f"CREATE TABLE IF NOT EXISTS {self._place} ({self._column} text PRIMARY KEY)"
        script = Script(to, self.settings.version_table, (), (made, *self._only(applied)))
        from_ = () if work.plan.from_ == "base" else (work.plan.from_,)
        versions = Versions(self.settings.version_table, self.settings.version_schema, self._query)
        order = Order("stamp", () if to == "base" else (to,), from_, (script,), versions)
        return await Mover(order, self.settings, self._database, work).carry_out()

    def _only(self, applied: Sequence[Migration]) -> tuple[str, ...]:
        if self.settings.rows == "one":
            return self._with(applied[-1]) if applied else (f"DELETE FROM {self._place}",)  # noqa: S608  quoted
        listed = ", ".join(literal(one.revision) for one in applied)
        others = f" WHERE {self._column}::text NOT IN ({listed})" if applied else ""
        return (f"DELETE FROM {self._place}{others}", *(each for one in applied for each in self._with(one)))  # noqa: S608  quoted

    async def code(self, plan: Plan) -> CodeSeen:
        """Scripts are all there is."""
        return CodeSeen(says="nothing to say", why="plain SQL has no schema of its own")

    async def _move(self, op: Op, to: str, from_: tuple[str, ...], planned: Mapping[str, str] | None, work: Work) -> Mapping[str, Any]:
        with before_anything():
            line = await self._line()
            stands = from_[0] if from_ else "base"
            found = between(line, *((to, stands) if op == "downgrade" else (stands, to)))
            as_planned(found, planned)
            scripts = self._down(line, found) if op == "downgrade" else self._up(found)
        versions = Versions(self.settings.version_table, self.settings.version_schema, self._query)
        order = Order(op, () if to == "base" else (to,), from_, scripts, versions)
        return await Mover(order, self.settings, self._database, work).carry_out()

    # -------------------------------------------------------------- the files

    async def _line(self) -> tuple[Migration, ...]:
        """Oldest first. Raises Refusal."""
        settings = self.settings
        files = await read_files(self._runner, settings.directory, ["."], env=self._env, within=settings.read_timeout, copy=self._copy)
        texts = {name: data.decode("utf-8", "surrogateescape") for name, data in files.items() if "/" not in name}
        downs = {found: name for name in texts for found in [_matched(settings.down, name)] if found}
        ups: dict[tuple[str, str], str] = {}
        for name in sorted(texts):
            found = None if _matched(settings.down, name) else _matched(settings.up, name)
            if found:
                ups[found] = name
        if not ups:
            raise Refusal(
                "broken_history", f"There is no script called like {' or '.join(settings.up)} in {settings.directory}.",
                "Set tool.directory and tool.up to where and how the scripts are called.",
            )  # fmt: skip
        self._unambiguous(ups, downs)
        return tuple(self._migration(ups[key], key, texts, downs.get(key)) for key in sorted(ups, key=lambda one: int(one[0])))

    def _unambiguous(self, ups: Mapping[tuple[str, str], str], downs: Mapping[tuple[str, str], str]) -> None:
        numbers: dict[int, str] = {}
        for (version, _), name in ups.items():
            twin = numbers.setdefault(int(version), name)
            if twin != name:
                raise Refusal("broken_history", f"Version {version} is there more than once: {twin}, {name}.", "Renumber one of the scripts.")
        lonely = sorted(name for key, name in downs.items() if key not in ups)
        if lonely:
            raise Refusal("broken_history", f"{lonely[0]} takes back a script that is not there.", "Give it the name of its script, or remove it.")

    def _migration(self, name: str, key: tuple[str, str], texts: Mapping[str, str], down: str | None) -> Migration:
        version, title = key
        wanted = " or ".join(pattern.format(version=version, name=title) for pattern in self.settings.down)
        return Migration(
            revision=self._filled(self.settings.stores, version, title, name), name=title.replace("_", " ") or name,
            up=Way(name, texts[name]), down=Way(down, texts[down]) if down else None, why="" if down else f"there is no {wanted} beside {name}",
        )  # fmt: skip

    @staticmethod
    def _filled(template: str, version: str, name: str, file: str, sha256: str = "") -> str:
        known = {"version": version, "number": str(int(version)), "name": name, "file": file, "sha256": sha256}
        return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1], found[0]), template)

    # -------------------------------------------------------------- the version table

    @property
    def _place(self) -> str:
        return identifier(self.settings.version_schema, self.settings.version_table)

    @property
    def _column(self) -> str:
        return identifier(self.settings.version_column)

    @property
    def _ordered(self) -> str:
        return f"substring({self._column}::text from '[0-9]+')::numeric"

    @property
    def _query(self) -> str:
        """Where the database stands: the row with the highest number, or the one row."""
        newest = f" ORDER BY {self._ordered} DESC NULLS FIRST LIMIT 1" if self.settings.rows == "each" else ""
        return f"SELECT {self._column}::text FROM {self._place}{newest}"  # noqa: S608  identifiers are quoted

    async def _no_gaps(self, line: Sequence[Migration]) -> None:
        """Raises Refusal(broken_history): a script that never ran below one that did, or a row that no script has."""
        query = f"SELECT {self._column}::text FROM {self._place} ORDER BY {self._ordered}"  # noqa: S608  as above
        rows = await self._database.heads(self.settings.version_table, self.settings.version_schema, query)
        known = [one.revision for one in line]
        wanted = known[: known.index(rows[-1]) + 1] if rows and rows[-1] in known else None
        if wanted is None or list(rows) == wanted:
            return
        never = [one for one in wanted if one not in rows]
        strange = [one for one in rows if one not in wanted]
        said = [f"{', '.join(never[:5])} never ran, though {rows[-1]} did"] if never else []
        said += [f"{', '.join(strange[:5])} ran and no script has it"] if strange else []
        raise Refusal(
            "broken_history", f"{self.settings.version_table} and the scripts don't fit: {'; '.join(said) or 'a row is there twice'}.",
            "Deploy the scripts that ran, or mend the rows, then ask again.",
        )  # fmt: skip

    def _down(self, line: Sequence[Migration], found: Sequence[Migration]) -> tuple[Script, ...]:
        below = {one.revision: line[place - 1] if place else None for place, one in enumerate(line)}
        return tuple(self._script(one, one.down, self._without(one, below[one.revision])) for one in reversed(found))

    def _up(self, found: Sequence[Migration]) -> tuple[Script, ...]:
        made = f"CREATE TABLE IF NOT EXISTS {self._place} ({self._column} text PRIMARY KEY)"
        return tuple(self._script(one, one.up, (made, *self._with(one))) for one in found)

    @staticmethod
    def _script(one: Migration, way: Way | None, record: tuple[str, ...]) -> Script:
        return Script(one.revision, way.path if way else "", cut(way, one.revision), record)

    def _without(self, one: Migration, below: Migration | None) -> tuple[str, ...]:
        if self.settings.rows == "each":
            return (f"DELETE FROM {self._place} WHERE {self._column}::text = {literal(one.revision)}",)  # noqa: S608  quoted
        return self._with(below) if below else (f"DELETE FROM {self._place}",)  # noqa: S608  quoted

    def _with(self, one: Migration) -> tuple[str, ...]:
        up = one.up or Way("", "")
        version, name = _matched(self.settings.up, up.path) or ("0", "")
        values = {self.settings.version_column: one.revision} | {
            column: self._filled(template, version, name, up.path, one.sha256) for column, template in self.settings.columns.items()
        }
        names, listed = ", ".join(map(identifier, values)), ", ".join(map(literal, values.values()))
        if self.settings.rows == "one":
            return (f"DELETE FROM {self._place}", f"INSERT INTO {self._place} ({names}) VALUES ({listed})")  # noqa: S608  quoted
        there = f"SELECT FROM {self._place} WHERE {self._column}::text = {literal(one.revision)}"
        return (f"INSERT INTO {self._place} ({names}) SELECT {listed} WHERE NOT EXISTS ({there})",)


def _matched(patterns: Sequence[str], file: str) -> tuple[str, str] | None:
    """(version, name) of the first pattern that fits."""
    for pattern in patterns:
        parts = re.split(r"(\{version\}|\{name\})", pattern)
        groups = {"{version}": r"(?P<version>\d+)", "{name}": r"(?P<name>.+)"}
        found = re.fullmatch("".join(groups.get(part, re.escape(part)) for part in parts), file)
        if found:
            return found["version"], found.groupdict().get("name") or ""
    return None
