"""A logical dump: pg_dump's custom format, read back to its last byte before it counts."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import re
import shlex
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bot.backups import programs
from bot.backups.clients import Client, client_for, environment
from bot.backups.foreign import Foreign
from bot.backups.restoring import Said, lines
from bot.backups.spool import Spool
from bot.backups.strangers import Strangers
from bot.errors import ProgramFailed, StepFailed
from bot.evidence import BackupFile, Found
from bot.finishing import both
from bot.keeping import Store, Work, Writing
from bot.place import Connect, Session
from bot.process import Finished, redact, run, start
from bot.settings import inherited

_LOCK_WAIT = 5  # seconds for a lock of pg_dump's; its own waiting makes others wait
_AT_MOST = dt.timedelta(days=1)  # the step's own deadline is shorter
_COMPRESSION = "0"  # gzip's fastest made a dump of 870 MB take 9.0 s instead of 4.3 s, at a third of the size: somebody waits
_JOBS = max(2, min(4, os.cpu_count() or 1))
_ROW_SECURITY = re.compile(r'row-level security policy for table "(.+)"')
_EXTENSION = re.compile(r"\d+; \d+ \d+ EXTENSION - (\S+)")
_DENIED = re.compile(r"permission denied for (\w+ .+)")
#: of the sessions of a restore, whatever the database's own settings are
_RESTORING = {
    "default_transaction_read_only": "off", "statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0",
    "row_security": "off", "synchronous_commit": "off",
}  # fmt: skip
Waiters = Callable[[str], Awaitable[Sequence[Session]]]
#: how a dump is restored that has the extension of that name: what has to be done before and after, in the database
Restoring = Mapping[str, Callable[[Connect], AbstractAsyncContextManager[None]]]


class DumpBackup:
    """Implements ports.Backup. `connect` is Backout's own role on the target; `embedded` gives our own programs of a major version.

    `waiters(application)` tells who waits for a lock of that application's sessions; None: nobody is asked.
    """

    kind = "dump"

    class Settings(BaseModel):
        """What `backups` may say besides where and how long."""

        model_config = ConfigDict(frozen=True, extra="forbid")
        kind: Literal["dump"] = "dump"
        format: Literal["custom"] = "custom"

    def __init__(
        self,
        store: Store,
        connect: Connect,
        settings: Settings,
        *,
        embedded: Callable[[int], Path],
        waiters: Waiters | None = None,
        spool: Path | None = None,
        restoring: Restoring | None = None,
    ) -> None:
        self._store = store
        self._connect = connect
        self._settings = settings
        self._embedded = embedded
        self._waiters = waiters
        self._restoring: Restoring = restoring or {}
        self._spool, self._spools = Spool(store, spool), spool
        self._foreign = Foreign(store, self._spool, embedded)
        self._hashed: dict[str, str] = {}  # sha256 -> the store's version of the file that it was taken of

    async def ready(self, server_version: int) -> None:
        """`server_version` is server_version_num. Raises Refusal, also store_unusable."""
        await self._client(server_version // 10000)
        await self._store.ready()

    async def take(self, name: str, work: Work) -> BackupFile:
        """Raises Refusal, StepFailed. When it is cancelled, pg_dump is killed and nothing of it stays."""
        version = work.plan.identity.version
        client = await self._client(version // 10000)
        await self._store.ready()
        earlier = await self._store.stat(name)  # of an attempt that died: it is replaced once this one is whole
        async with self._store.write(name, earlier) as out:
            self._judge(await self._dump(client, out, work, version))
            await work.progress("dump: reading it back")
            objects = (await both(self._prove(client, out.file), out.settle()))[0] if out.file else 0
        if not out.file:
            objects = await self._prove_stored(client, name, out.sha256)
        await self._remember(name, out.sha256)
        path = self._store.where(name)
        return BackupFile(name=name, path=path, sha256=out.sha256, size=out.size, format=self._settings.format, objects=objects)

    async def usable(self, file: BackupFile) -> bool:
        return await self._store.checksum(file.name) == file.sha256

    async def restore(
        self, file: BackupFile, into: Connect, version: int, work: Work, *, owners: bool = True, schema: bool = False
    ) -> tuple[str, ...]:
        """`into` is an empty database of a server of that server_version_num; what was ignored, a sentence for each. `schema`: without rows.

        Without publications and subscriptions; with grants, row security, event triggers, and `owners`. Raises Refusal (no such client),
        StepFailed: the file is not the one that was made, or not all of its data could be restored.
        """
        if file.foreign:
            client = await client_for(version // 10000, into.sslmode, self._embedded)
            env = environment(into, work.application, {**_RESTORING, **_since_14(version)})
            return await self._restore_foreign(file, into, version, work, Strangers(self._foreign, self._store, client, env, into.password))
        more = (*_unowned(owners and not file.adopted), *(["--schema-only"] if schema else []))
        return _judged(await self._restore(file, into, version, work, *more), into)

    async def _restore_foreign(self, file: BackupFile, into: Connect, version: int, work: Work, strangers: Strangers) -> tuple[str, ...]:
        found = await strangers.prove(file, version)
        if special := [name for name in found.extensions if name in self._restoring]:
            raise StepFailed(
                f"{file.name} needs the extension {special[0]}, whose restore mode only a superuser may enter, and what others made is "
                "never restored by one. Restore it by hand into a database of its own, let Backout back that one up, or take single tables out of it."
            )
        if file.format.startswith("plain"):
            await strangers.plain(file, work)
            return ()
        async with self._foreign.opened(file) as (path, sha256, _):
            if sha256 != file.sha256:
                raise StepFailed(f"The backup {file.name} is not the file that was looked at. Look at it again.")
            tar = file.format.removesuffix(".gz") == "tar"
            return _judged(await _pg_restore(strangers.client, path, strangers.env, found.file.objects, work, into, tar=tar), into)

    async def _restore(self, file: BackupFile, into: Connect, version: int, work: Work, *more: str) -> Said:
        client = await client_for(version // 10000, into.sslmode, self._embedded)
        env = environment(into, work.application, {**_RESTORING, **_since_14(version)})
        async with self._spool.fetched(file.name) as (path, sha256):
            if (sha256 or await self._sha256(file)) != file.sha256:
                raise StepFailed(f"The backup {file.name} is gone, or is not the file that was made. Make another one.")
            for name in await _extensions(client.program("pg_restore"), path) if self._restoring else ():
                if name in self._restoring:
                    async with self._restoring[name](into):
                        return await _pg_restore(client, path, env, file.objects, work, into, *more, jobs=1)
            return await _pg_restore(client, path, env, file.objects, work, into, *more)

    async def take_schema(self, name: str, snapshot: str | None, work: Work) -> BackupFile:
        """Raises Refusal, StepFailed."""
        version = work.plan.identity.version
        client = await self._client(version // 10000)
        await self._store.ready()
        async with self._store.write(name, await self._store.stat(name)) as out:
            self._judge(await self._dump(client, out, work, version, "--schema-only", *(["--snapshot", snapshot] if snapshot else [])))
        return BackupFile(name=name, path=self._store.where(name), sha256=out.sha256, size=out.size, format="schema")

    async def restore_schema(
        self, file: BackupFile, into: Connect, version: int, section: str, work: Work, *, owners: bool = True
    ) -> tuple[str, ...]:
        """Raises StepFailed: tables could not be made, or pg_restore did not come to its end."""
        said = await self._restore(file, into, version, work, "--section", section, *_unowned(owners))
        if said.fatal and (section == "pre-data" or not said.counted):
            raise StepFailed(f"The schema can't be restored: {redact(said.fatal[0], (into.password,))}.", {"errors": said.fatal[:20]})
        return (*said.ignored, *said.fatal)

    def rows(self, file: BackupFile) -> AsyncIterator[bytes]:
        return self._foreign.rows(file)

    def of(self, connect: Connect) -> DumpBackup:
        """The same, of a server that nobody else is in."""
        return DumpBackup(self._store, connect, self._settings, embedded=self._embedded, spool=self._spools, restoring=self._restoring)

    async def found(self, known: Collection[str]) -> tuple[Found, ...]:
        return await self._foreign.found(known)

    async def inspect(self, name: str) -> Found:
        return await self._foreign.inspect(name)

    def where(self, name: str) -> str:
        return self._store.where(name)

    async def remove(self, file: BackupFile) -> None:
        await self._store.remove(file.name)

    async def _remember(self, name: str, sha256: str) -> None:
        if (there := await self._store.stat(name)) is not None:
            self._hashed[sha256] = there.version

    async def _sha256(self, file: BackupFile) -> str | None:
        """Of what lies there now; not read again when it is as it was when its checksum was taken."""
        there = await self._store.stat(file.name)
        if there is not None and self._hashed.get(file.sha256) == there.version:
            return file.sha256
        return await self._store.checksum(file.name)

    def how_to_restore(self, file: BackupFile) -> tuple[str, ...]:
        """Into a new database beside the old one."""
        # createdb and pg_restore take a name with = or :// for a connection string.
        plain = re.fullmatch(r"\w[\w-]{0,50}", self._connect.database)
        new = f"{self._connect.database}_restored" if plain else "restored"
        where = ["--host", self._connect.host, "--port", str(self._connect.port), "--username", self._connect.user]
        tls = f"PGSSLMODE={shlex.quote(self._connect.sslmode)} " if self._connect.sslmode else ""
        return (
            tls + shlex.join(["createdb", *where, "--template", "template0", new]),
            tls + shlex.join(["pg_restore", *where, "--exit-on-error", "--dbname", new, file.path]),
        )

    # ------------------------------------------------------------------ the programs

    async def _client(self, server: int) -> Client:
        return await client_for(server, self._connect.sslmode, self._embedded)

    async def _dump(self, client: Client, out: Writing, work: Work, version: int, *more: str) -> Finished:
        argv = [client.program("pg_dump"), "--format", self._settings.format, "--compress", _COMPRESSION]
        # --no-sync: the store syncs it, while it is proven
        argv += ["--no-sync", "--no-password", "--lock-wait-timeout", str(_LOCK_WAIT * 1000), *more]
        env = environment(self._connect, work.application, _since_14(version))
        secrets = (self._connect.password,)
        if out.file is not None:  # by itself, which is faster, and can be restored by several workers without a search
            dumping = asyncio.create_task(run([*argv, "--file", str(out.file)], env=env, timeout=_AT_MOST, secrets=secrets))
        else:
            dumping = asyncio.create_task(programs.piped(argv, env, out, secrets))
        try:
            await self._watch(dumping, out, work)
            return dumping.result()
        except ProgramFailed as error:
            raise StepFailed(f"The dump failed: {error}.", {"output": error.output}) from error
        finally:
            dumping.cancel()
            await asyncio.wait({dumping})

    async def _watch(self, dumping: asyncio.Task[Finished], out: Writing, work: Work) -> None:
        """Say how far it is; end it when it makes somebody wait for a lock (databases.md F3)."""
        shown, waiting = 0, dict[int, int]()
        while not dumping.done():
            await asyncio.wait({dumping}, timeout=1)
            if (megabytes := (_size(out.file) if out.file else out.size) // 1_000_000) != shown:
                shown = megabytes
                await work.progress(f"dump: {megabytes} MB")
            if self._waiters is None or dumping.done():
                continue
            found = await self._waiters(work.application)
            waiting = {one.pid: waiting.get(one.pid, 0) + 1 for one in found}
            if late := [one for one in found if waiting[one.pid] > _LOCK_WAIT]:
                raise _in_the_way(late)

    def _judge(self, finished: Finished) -> None:
        if finished.code == 0 and "error:" not in finished.output:
            return
        facts = {"code": finished.code, "output": finished.output[-2000:]}
        if found := _ROW_SECURITY.search(finished.output):
            raise StepFailed(
                f'Row security hides rows of table "{found[1]}" from {self._connect.user}, so a dump would not be whole. '
                "Write a role with BYPASSRLS as the target's `admin`.",
                facts,
            )
        if found := _DENIED.search(finished.output):
            raise StepFailed(f"{self._connect.user} may not read {found[1]}. Write a role that may read everything as the target's `admin`.", facts)
        if "LOCK TABLE" in finished.output and "timeout" in finished.output:
            raise StepFailed(f"The dump gave up: another session kept a table locked for {_LOCK_WAIT} s. Find out who, then try again.", facts)
        raise StepFailed(f"The dump failed: {programs.why(finished.output)}", facts)

    async def _prove(self, client: Client, partial: Path) -> int:
        """Read every byte; how many objects it has."""
        restore = client.program("pg_restore")
        finished = await run([restore, "--file", "/dev/null", str(partial)], env=inherited(), timeout=_AT_MOST)
        programs.judge(finished.code, finished.output)
        return await _listed(restore, partial)

    async def _prove_stored(self, client: Client, name: str, sha256: str) -> int:
        """The bytes that came to lie in the store, read again. What can't be read back is removed."""
        restore = client.program("pg_restore")
        try:
            same = await programs.proven(restore, self._store.read(name)) == sha256
            objects = await _listed(restore, self._store.read(name))
        except BaseException:
            await asyncio.shield(self._store.remove(name))
            raise
        if not same:
            await self._store.remove(name)
            raise StepFailed("The dump can't be read back: the store gives other bytes than it got.")
        return objects


async def _pg_restore(
    client: Client, path: Path, env: Mapping[str, str], objects: int, work: Work, into: Connect, *more: str, tar: bool = False, jobs: int = _JOBS
) -> Said:
    argv = [client.program("pg_restore"), "--no-publications", "--no-subscriptions", "--no-password", "--verbose", *more]
    argv += [] if tar or jobs == 1 else ["--jobs", str(jobs)]  # a tar is read by one alone
    return await _restored([*argv, "--dbname", _conninfo(into.database), str(path)], env, objects, work)


def _judged(said: Said, into: Connect) -> tuple[str, ...]:
    """What was ignored. Raises StepFailed when something of the data could not be restored."""
    if said.fatal:
        facts = {"errors": said.fatal[:20], "of": len(said.fatal)}
        raise StepFailed(f"This backup can't be restored: {redact(said.fatal[0], (into.password,))}.", facts)
    return tuple(said.ignored)


async def _extensions(restore: str, path: Path) -> list[str]:
    """Those that the dump makes; they stand before its tables."""
    found = []
    listing = programs.contents(restore, path)
    async for line in listing:
        if entry := _EXTENSION.match(line):
            found.append(entry[1])
        elif " TABLE " in line:
            break
    await listing.aclose()
    return found


def _unowned(owners: bool) -> tuple[str, ...]:
    return () if owners else ("--no-owner",)


async def _listed(restore: str, source: programs.Source) -> int:
    return sum([programs.is_entry(line) async for line in programs.contents(restore, source)])


def _since_14(version: int) -> dict[str, str]:
    return {"client_connection_check_interval": "1s"} if version >= 140000 else {}


def _in_the_way(late: Sequence[Session]) -> StepFailed:
    who = ", ".join(f"session {one.pid} of {one.user}" for one in late[:3])
    return StepFailed(
        f"The dump was ended, because it made others wait for a lock for more than {_LOCK_WAIT} s: {who}. Try again when they are through.",
        {"waited": [one.model_dump(mode="json") for one in late]},
    )


def _conninfo(database: str) -> str:
    """pg_restore takes a name with = or :// for a connection string; so it gets one."""
    return "dbname='" + database.replace("\\", "\\\\").replace("'", "\\'") + "'"


async def _restored(argv: Sequence[str], env: Mapping[str, str], objects: int, work: Work) -> Said:
    said, rest, shown = Said(), b"", 0
    async with start(argv, env=env) as program:
        await program.close_stdin()
        async for data in program.output():
            rest, whole = lines(rest, data)
            for line in whole:
                said.hear(line)
            if objects and (percent := min(99, 100 * said.done // objects)) >= shown + 5:
                shown = percent
                await work.progress(f"restore: {percent} %")
        said.end(await program.wait(), rest.decode(errors="replace"))
    return said


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
