"""Where copies are tried: a server of its own that holds nothing else, so that what a downgrade does there stays there (databases.md F1).

A database is not a sandbox: roles, settings of the server, slots and other databases are shared by all who live on it.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Protocol

from bot.databases import counters, cutting, dressing, likeness, timescale
from bot.databases.clone import share_blocks
from bot.databases.connecting import Connection, connected, quoted
from bot.databases.likeness import Likeness
from bot.errors import ConfigError, ProgramFailed, Refusal
from bot.evidence import BackupFile
from bot.keeping import Work
from bot.place import Connect
from bot.ports import Database
from bot.running import MigrationTool

PREFIX = "scratch-"
_CONNECTIONS = 50
_COPIES = 2  # of the database that are there at once: before and after
#: Nothing of it is kept: no WAL for anybody, no waiting for disks, nobody else at work.
_SETTINGS = {
    "wal_level": "minimal", "max_wal_senders": "0", "max_wal_size": "2GB", "checkpoint_timeout": "1h", "autovacuum": "off", "jit": "off",
    "max_connections": str(_CONNECTIONS), "shared_buffers": "256MB", "maintenance_work_mem": "256MB", "max_logical_replication_workers": "0",
}  # fmt: skip
#: On two cores the two that restore take both: workers beside them made a restore of 1 GB take 12.4 s instead of 10.4.
_ALONE = {"max_parallel_maintenance_workers": "0", "max_parallel_workers_per_gather": "0"}
#: They work only in a server that loads them as it starts.
PRELOADED = {timescale.NAME, "pg_cron", "citus"}
#: so a throwaway server is started for a target that has them; there is none for the others
_LOADING: Mapping[str, Mapping[str, str]] = {timescale.NAME: timescale.SETTINGS}
_WRITING = {"default_transaction_read_only": "off", "statement_timeout": "0", "lock_timeout": "0"}

# Whether its role may make these, production's server alone can tell: providers have rules of their own.
_UNTRUSTED = """
SELECT DISTINCT name::text FROM pg_available_extension_versions WHERE name = ANY ($1::text[]) AND superuser AND NOT trusted"""

#: how the tool enters, how Backout does, and another database of that server
At = Callable[[Connect, Connect, str], tuple[Database, MigrationTool]]


class Clusters(Protocol):
    """Servers that live as long as one use."""

    async def majors(self) -> Sequence[int]:
        """The major versions that can be started here."""

    def start(self, name: str, major: int, *, superuser: str, settings: Mapping[str, str]) -> AbstractAsyncContextManager[Connect]:
        """Raises ConfigError, ProgramFailed, OSError."""

    async def clean(self, prefix: str) -> tuple[str, ...]:
        """Remove those by a name that begins so, and that nobody uses."""


class ThrowawayScratches:
    """Implements ports.Scratches: a server that Backout starts. `source` is Backout's own role, `tool` the tool's, both on the target's database.

    `home` is where the clusters lie; `at(tool, admin, maintenance)` builds a target's database and tool for a database there.
    """

    early = True

    def __init__(self, source: Connect, tool: Connect, clusters: Clusters, at: At, home: Path) -> None:
        self._source = source.model_copy(update={"database": tool.database})
        self._tool = tool
        self._clusters = clusters
        self._at = at
        self._home = home

    @asynccontextmanager
    async def open(self, work: Work, *, sampled: bool = False, early: bool = False) -> AsyncIterator[ServerScratch]:
        like = await likeness.read(self._source, self._tool.user)
        major = _major(like.version // 10000, await self._clusters.majors())
        if sampled and timescale.NAME in like.extensions:
            raise _impossible("A sample of rows can't be made of hypertables: their chunks only come with all of it.", "Raise rehearsal.max_size.")
        if not sampled:
            _refuse_too_small(self._home, int(like.facts["size"]), _COPIES + early)
        superuser = _unlike({row["name"] for row in like.roles})
        name = f"{PREFIX}{re.sub(r'[^A-Za-z0-9_-]', '', work.run)[:40]}-{secrets.token_hex(4)}"
        async with AsyncExitStack() as stack:
            starting = self._clusters.start(name, major, superuser=superuser, settings=_settings(like))
            try:
                admin = await stack.enter_async_context(starting)
            except (ProgramFailed, ConfigError, OSError) as error:
                if missing := _not_loaded(error, like):
                    raise _no_extension(missing) from error
                raise _impossible(f"The throwaway server did not start: {_said(error)}", "Mend that, or set rehearsal.server to a server.") from error
            scratch = ServerScratch(like, admin, self._tool, self._at)
            await scratch.prepare()
            yield scratch

    async def clean(self) -> None:
        await self._clusters.clean(PREFIX)


class ServerScratch:
    """Implements ports.Scratch on a server that is ours alone. `prepare` comes first. `prefix` begins the names of its databases there."""

    #: whether what is restored gets the owners that it has in production
    owners = True

    def __init__(self, like: Likeness, admin: Connect, tool: Connect, at: At, *, where: str = "a throwaway server", prefix: str = "") -> None:
        self._like = like
        self._admin = admin
        self._at = at
        self._tool = admin.model_copy(update={"user": tool.user, "password": secrets.token_urlsafe(24)})
        self._empty = f"backout_{secrets.token_hex(4)}_empty"
        self._where = where
        self._prefix = prefix
        self._said: dict[str, None] = {}
        self._bare: set[str] = set()  # databases without what belongs to the target's
        self.version = 0
        self.counted = False
        self.says = ""

    @property
    def partial(self) -> tuple[str, ...]:
        return tuple(self._said)

    async def prepare(self) -> None:
        """Raises Refusal(rehearsal_impossible) when an extension of the source is missing."""
        async with connected(self._admin, _WRITING) as session:
            await self._know(session)
            there = {row[0]: row[1] for row in await session.fetch("SELECT name::text, default_version FROM pg_available_extensions")}
            loaded = re.split(r"[\s,]+", await session.fetchval("SELECT current_setting('shared_preload_libraries')"))
            self._note(_less_than_proof(self._like, self.version))
            self._note(_extensions(self._like.extensions, there, loaded))
            self._note(await likeness.make_roles(session, self._like, self._tool.password))
            self._note(await likeness.make_empty(session, self._like, self._real(self._empty)))
        async with connected(self.superuser(self._empty), _WRITING) as session:
            self._note(await likeness.make_public(session, self._like.public))
            if timescale.NAME in self._like.extensions:  # no script may make it by itself: it wants a superuser
                await session.execute("CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public")

    async def _know(self, session: Connection) -> None:
        self.version = await session.fetchval("SELECT current_setting('server_version_num')::int")
        # a superuser could turn them off
        self.counted = self.owners and self.version >= counters.SINCE and not self._like.facts["tool_may_become_superuser"]
        self.says = f"{self._where}, PostgreSQL {self.version // 10000}"

    def _real(self, name: str) -> str:
        return f"{self._prefix}{name}"

    def _strategy(self) -> str:
        return " STRATEGY file_copy" if self.version >= 150000 else ""

    def _note(self, sentences: Sequence[str]) -> None:
        self._said.update(dict.fromkeys(sentences))

    async def create(self, name: str) -> None:
        """Raises StepFailed."""
        await self.clone(self._empty, name)

    async def clone(self, source: str, name: str) -> None:
        """Raises StepFailed: also when somebody is still in the source after 5 s."""
        async with connected(self._admin, _WRITING) as session:
            await share_blocks(session, self.version)
            sql = f"CREATE DATABASE {quoted(self._real(name))} TEMPLATE {quoted(self._real(source))}{self._strategy()}"
            await session.execute(sql, timeout=cutting.AT_MOST)
            self._note(await likeness.set_up(session, self._like, self._real(name)))
        if self.counted and source != self._empty:
            async with connected(self.superuser(source), _WRITING) as session:
                await counters.set_to_zero(session)

    async def drop(self, name: str) -> None:
        """With whoever is in it; one that is gone is no error."""
        force = " WITH (FORCE)" if self.version >= 130000 else ""
        async with connected(self._admin, _WRITING) as session:
            await session.execute(f"DROP DATABASE IF EXISTS {quoted(self._real(name))}{force}", timeout=cutting.AT_MOST)

    async def cut_off(self, name: str) -> tuple[str, ...]:
        if name in self._bare:  # it is in its place now
            async with connected(self._admin, _WRITING) as session:
                self._note(await likeness.set_up(session, self._like, self._real(name)))
        said = await cutting.cut_off(self.superuser(name))
        await cutting.analyze(self.superuser(name))
        return said

    async def incoming(self, name: str) -> Connect:
        """Raises StepFailed."""
        me = str(self._like.facts["me"])
        if self._like.facts["i_am_superuser"] or me not in {row["name"] for row in self._like.roles}:
            await self.create(name)
            return self.superuser(name)
        self._bare.add(name)
        password = self._tool.password if me == self._tool.user else secrets.token_urlsafe(24)
        async with connected(self._admin, _WRITING) as session:
            await session.execute(f"ALTER ROLE {quoted(me)} LOGIN CONNECTION LIMIT -1 PASSWORD {likeness.literal(password)}")
            self._note(await likeness.make_empty(session, self._like, self._real(name)))
            oid = await session.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", self._real(name))
            await session.execute(f"ALTER DATABASE {quoted(self._real(name))} OWNER TO {quoted(self._like.owner)}")
            async with session.transaction():
                await dressing.shut(session, oid, self._real(name), me, "CONNECT")
        async with connected(self.superuser(name), _WRITING) as session:
            for row in await session.fetch(_UNTRUSTED, list(self._like.facts["extensions_in_public"])):
                await session.execute(f"CREATE EXTENSION IF NOT EXISTS {quoted(row['name'])} CASCADE")
        return self._admin.model_copy(update={"database": self._real(name), "user": me, "password": password})

    async def known_as(self, name: str, note: str) -> BackupFile:
        """That database as a copy beside another: its comment says so, and its OID counts."""
        async with connected(self._admin, _WRITING) as session:
            await dressing.comment(session, self._real(name), note)
            oid = await session.fetchval("SELECT oid::int8 FROM pg_database WHERE datname = $1", self._real(name))
        return BackupFile(name=self._real(name), path=f"database {self._real(name)}", sha256="", size=0, format="clone", oid=oid)

    def superuser(self, name: str) -> Connect:
        return self._admin.model_copy(update={"database": self._real(name)})

    def at(self, name: str) -> tuple[Database, MigrationTool]:
        tool = self._tool.model_copy(update={"database": self._real(name)})
        return self._at(tool, self.superuser(name), self._real(self._empty))


def _major(wanted: int, there: Sequence[int]) -> int:
    """The target's own, else the next higher one."""
    if later := sorted(major for major in there if major >= wanted):
        return later[0]
    newest = f"the newest here is {max(there)}" if there else "there is none here"
    raise _impossible(
        f"Production is PostgreSQL {wanted}, and {newest}: an older one can't hold a copy.",
        f"Install PostgreSQL {wanted} on this machine (on Debian: postgresql-{wanted}), or set rehearsal.server to a server.",
    )


def _refuse_too_small(home: Path, size: int, copies: int) -> None:
    place = next(folder for folder in (home.absolute(), *home.absolute().parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if free < copies * size:
        raise _impossible(
            f"This machine has {free / 1024**2:,.0f} MB free under {home}, and {copies} copies of a database of {size / 1024**2:,.0f} MB must fit.",
            "Free some, set BACKOUT_HOME to a larger disk, or set rehearsal.server to a server.",
        )


def _settings(like: Likeness) -> dict[str, str]:
    """With room for one transaction that locks everything there is."""
    locks = int(like.facts["relations"]) * 5 // 4 // _CONNECTIONS
    loading = {key: value for name, settings in _LOADING.items() if name in like.extensions for key, value in settings.items()}
    alone = _ALONE if (os.cpu_count() or 1) <= 2 else {}
    return {**_SETTINGS, **alone, **loading, "max_locks_per_transaction": str(max(128, locks))}


def _less_than_proof(like: Likeness, version: int) -> list[str]:
    said = []
    if version // 10000 != like.version // 10000:
        said.append(f"on PostgreSQL {version // 10000}, production is {like.version // 10000}")
    if like.facts["tool_is_superuser"] or like.facts["tool_reaches_files"]:
        why = "is a superuser" if like.facts["tool_is_superuser"] else "may run programs of the server or use its files"
        said.append(f"not isolated: {like.tool} {why}, so a downgrade reaches its server's machine (COPY TO PROGRAM, files), or fails locked in")
    if like.facts["publications"]:
        said.append(f"publications are not on the copy ({', '.join(like.facts['publications'])}): a statement about them fails there")
    return said


def _extensions(wanted: Mapping[str, str], there: Mapping[str, str], loaded: Sequence[str]) -> list[str]:
    for name, version in wanted.items():
        if name not in there:
            raise _no_extension(name)
        if name in PRELOADED and name not in loaded:
            way_out = "set rehearsal.server to a server that has it"
            raise _impossible(f"extension {name} works only in a server that loads it as it starts, and the throwaway server does not", way_out)
        if name == timescale.NAME and there[name] != version:
            message = f"extension {name} is {there[name]} on the throwaway server, production has {version}, and a dump only comes back to its own"
            raise _impossible(message, f"Install {name} {version} on this machine, or set rehearsal.server to a server that has it.")
    return [f"extension {name} is {there[name]} there, production has {version}" for name, version in wanted.items() if there[name] != version]


def _no_extension(name: str) -> Refusal:
    return _impossible(f"extension {name} is not on the throwaway server", "set rehearsal.server to a server that has it")


def _not_loaded(error: Exception, like: Likeness) -> str | None:
    """The extension whose library that server should have loaded, and has not."""
    output = error.output if isinstance(error, ProgramFailed) else ""
    found = re.search(r'could not access file "(\w+)"', output)
    return found[1] if found and found[1] in like.extensions else None


def _unlike(names: set[str]) -> str:
    while (name := f"backout_{secrets.token_hex(4)}") in names:
        pass
    return name


def _impossible(message: str, way_out: str) -> Refusal:
    return Refusal("rehearsal_impossible", message, way_out)


def _said(error: Exception) -> str:
    """The line that says why: a server's log has it as FATAL, a full disk as an OSError."""
    output = error.output if isinstance(error, ProgramFailed) else ""
    telling = re.findall(r"(?:FATAL|PANIC|error): +(.*)", output)
    return (telling[-1] if telling else str(error)).strip().rstrip(".") + "."
